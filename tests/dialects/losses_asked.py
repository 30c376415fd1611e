"""What clients can ask for, in the words of each dialect that has some; what is refused, and what nobody reads."""

import json
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from hermes.chat import (
    ChatRequest,
    JsonFormat,
    LoadOptions,
    MustCall,
    Sampling,
    Tool,
)
from hermes.dialects import ClientDialect
from hermes.dialects.anthropic import Anthropic
from hermes.dialects.ollama_client import OllamaClient, OllamaGenerate
from hermes.dialects.openai import OpenAI
from hermes.dialects.openai_completions import Completions
from hermes.dialects.prompt import Prompt
from hermes.dialects.responses import Responses
from hermes.errors import BadRequest

Fields = Mapping[str, Any]

CLIENTS: dict[str, tuple[ClientDialect, dict[str, Any]]] = {
    "OpenAI": (OpenAI(), {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}),
    "completions": (Completions(), {"model": "m", "prompt": "Hi"}),
    "responses": (Responses(), {"model": "m", "input": "Hi"}),
    "Anthropic": (Anthropic(), {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}),
    "Ollama": (OllamaClient(), {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}),
    "Ollama, a prompt": (OllamaGenerate(), {"model": "m", "prompt": "Hi"}),
    "prompt": (Prompt(), {"model": "m", "prompt": "Hi"}),
}


class Asked(Struct, frozen=True):
    """Something, and how it is written in each dialect that has words for it."""

    what: str
    meant: Fields
    written: Mapping[str, Fields]


_F = {"type": "function", "function": {"name": "f"}}
_AF = {"name": "f", "input_schema": {}}
_S = {"type": "object"}


def _options(**said: Any) -> dict[str, Fields]:
    """As Ollama and the prompt dialect have it."""
    return {name: {"options": said} for name in ("Ollama", "Ollama, a prompt", "prompt")}


def _alike(*names: str, **said: Any) -> dict[str, Fields]:
    return dict.fromkeys(names, said)


_ALL_OLLAMAS = ("Ollama", "Ollama, a prompt")
WISHES: list[Asked] = [
    Asked(
        "`temperature`, `top_p`",
        {"sampling": Sampling(temperature=0.5, top_p=0.5)},
        _alike("OpenAI", "completions", "responses", "Anthropic", temperature=0.5, top_p=0.5)
        | _options(temperature=0.5, top_p=0.5),
    ),
    Asked(
        "`top_k`",
        {"sampling": Sampling(top_k=5)},
        _alike("OpenAI", "completions", "Anthropic", top_k=5) | _options(top_k=5),
    ),
    Asked(
        "`seed`, penalties of presence and frequency",
        {"sampling": Sampling(seed=1, presence_penalty=1.0, frequency_penalty=1.0)},
        _alike("OpenAI", "completions", seed=1, presence_penalty=1, frequency_penalty=1)
        | _options(seed=1, presence_penalty=1, frequency_penalty=1),
    ),
    Asked(
        "`min_p`, `repeat_penalty`",
        {"sampling": Sampling(min_p=0.1, repeat_penalty=1.1)},
        _alike("OpenAI", "completions", min_p=0.1, repeat_penalty=1.1) | _options(min_p=0.1, repeat_penalty=1.1),
    ),
    Asked(
        "`repeat_last_n`, `typical_p`",
        {"sampling": Sampling(repeat_last_n=9, typical_p=0.5)},
        _alike("OpenAI", "completions", repeat_last_n=9, typical_p=0.5) | _options(repeat_last_n=9, typical_p=0.5),
    ),
    Asked(
        "at most so many tokens",
        {"sampling": Sampling(max_tokens=9)},
        _alike("OpenAI", "completions", "Anthropic", max_tokens=9)
        | {"responses": {"max_output_tokens": 9}}
        | _options(num_predict=9),
    ),
    Asked(
        "texts that end it",
        {"sampling": Sampling(stop=("END",))},
        _alike("OpenAI", "completions", stop="END")
        | {"Anthropic": {"stop_sequences": ["END"]}}
        | _options(stop=["END"]),
    ),
    Asked(
        "tools",
        {"tools": (Tool("f", "", _S),)},
        {
            "OpenAI": {"tools": [{"type": "function", "function": {"name": "f", "parameters": _S}}]},
            "responses": {"tools": [{"type": "function", "name": "f", "parameters": _S}]},
            "Anthropic": {"tools": [{"name": "f", "input_schema": _S}]},
            "Ollama": {"tools": [{"type": "function", "function": {"name": "f", "parameters": _S}}]},
        },
    ),
    Asked(
        "a call of any tool",
        {"tools": (Tool("f", "", {}),), "tool_choice": MustCall()},
        {
            "OpenAI": {
                "tool_choice": "required",
                "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
            },
            "responses": {"tool_choice": "required", "tools": [{"type": "function", "name": "f", "parameters": {}}]},
            "Anthropic": {"tool_choice": {"type": "any"}, "tools": [_AF]},
        },
    ),
    Asked(
        "JSON",
        {"json_format": JsonFormat()},
        {
            "OpenAI": {"response_format": {"type": "json_object"}},
            "responses": {"text": {"format": {"type": "json_object"}}},
            "prompt": {"options": {"format": "json"}},
        }
        | _alike(*_ALL_OLLAMAS, format="json"),
    ),
    Asked(
        "JSON of a schema",
        {"json_format": JsonFormat(_S)},
        {
            "OpenAI": {"response_format": {"type": "json_schema", "json_schema": {"schema": _S}}},
            "responses": {"text": {"format": {"type": "json_schema", "schema": _S}}},
            "Anthropic": {"output_config": {"format": {"type": "json_schema", "schema": _S}}},
            "prompt": {"options": {"format": _S}},
        }
        | _alike(*_ALL_OLLAMAS, format=_S),
    ),
    Asked(
        "no thinking",
        {"thinking": "off"},
        {
            "OpenAI": {"reasoning_effort": "none"},
            "completions": {},
            "responses": {"reasoning": {"effort": "none"}},
            "Anthropic": {"thinking": {"type": "disabled"}},
            "prompt": {"options": {"think": False}},
        }
        | _alike(*_ALL_OLLAMAS, think=False),
    ),
    Asked(
        "much thinking",
        {"thinking": "high"},
        {
            "OpenAI": {"reasoning_effort": "high"},
            "responses": {"reasoning": {"effort": "high"}},
            "Anthropic": {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}},
            "prompt": {"options": {"think": "high"}},
        }
        | _alike(*_ALL_OLLAMAS, think="high"),
    ),
    Asked(
        "probabilities",
        {"logprobs": True, "top_logprobs": 2},
        _alike("OpenAI", *_ALL_OLLAMAS, logprobs=True, top_logprobs=2)
        | {"completions": {"logprobs": 2}, "responses": {"top_logprobs": 2}},
    ),
    Asked(
        "the prompt as it is",
        {"raw": True},
        _alike("Ollama, a prompt", raw=True) | {"completions": {}},
    ),
    Asked(
        "[load-time options](api.md#load-time-options)",
        {"load_options": LoadOptions(num_ctx=9)},
        _options(num_ctx=9) | _alike("OpenAI", "completions", "responses", options={"num_ctx": 9}),
    ),
    Asked(
        "`priority`",
        {"priority": 1},
        _alike(*CLIENTS, priority=1),
    ),
]


def parsed(name: str, said: Fields) -> ChatRequest:
    dialect, least = CLIENTS[name]
    return dialect.parse_request(json.dumps(least | dict(said)).encode())


def wish_cell(asked: Asked, name: str) -> str:
    said = asked.written.get(name)
    if said is None:
        return "-"
    wish = parsed(name, said)
    assert all(getattr(wish, field) == value for field, value in asked.meant.items()), (asked.what, name)
    return "by itself" if wish == parsed(name, {}) else "yes"


# What changes what is meant, and cannot be had: dialect, what it says, the code of the 400.
REFUSALS: list[tuple[str, Fields, str]] = [
    ("completions", {"best_of": 2}, "unsupported_value"),
    ("responses", {"previous_response_id": "r"}, "unsupported_parameter"),
    ("OpenAI", {"n": 2}, "unsupported_value"),
    ("OpenAI", {"modalities": ["text", "audio"]}, "unsupported_parameter"),
    ("OpenAI", {"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "unsupported_parameter"),
    ("OpenAI", {"functions": []}, "unsupported_parameter"),
    ("Anthropic", {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "unsupported_parameter"),
    ("Ollama, a prompt", {"template": "{{ .Prompt }}"}, "unsupported_parameter"),
    ("Ollama, a prompt", {"context": [1, 2]}, "unsupported_parameter"),
    ("prompt", {"tools": []}, "unknown_parameter"),
]
# What is read by nobody.
IGNORED: list[tuple[str, Fields]] = [
    ("Anthropic", {"metadata": {"user_id": "u"}, "service_tier": "auto", "context_management": {}}),
    ("Ollama", {"options": {"num_keep": 4}, "truncate": True, "shift": True}),
]


def refused(name: str, said: Fields) -> str:
    try:
        parsed(name, said)
    except BadRequest as error:
        return error.code
    return ""
