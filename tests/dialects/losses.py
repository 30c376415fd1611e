"""What each dialect cannot say, and what becomes of it then: found out by trying, and told in docs/translation.md.

`python -m tests.dialects.losses` prints the tables; `test_losses` holds the document to them. A cell is "yes" where
what was said makes a difference of its own, "left out" where it makes none, else the words for what is said instead.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from hermes.chat import (
    Answer,
    ChatRequest,
    Image,
    JsonFormat,
    LoadOptions,
    Message,
    MustCall,
    ReasoningDelta,
    RichMessage,
    Sampling,
    Stop,
    StreamEvent,
    Text,
    TextDelta,
    Tool,
    ToolCall,
    ToolCallDelta,
    Usage,
    collect,
)
from hermes.dialects import BackendDialect, ClientDialect, Meta
from hermes.dialects.anthropic import Anthropic
from hermes.dialects.ollama import Ollama
from hermes.dialects.ollama_client import OllamaClient, OllamaGenerate
from hermes.dialects.openai import OpenAI
from hermes.dialects.openai_backend import LLAMACPP, OPENAI, VLLM, OpenAIBackend
from hermes.dialects.prompt import Prompt
from hermes.errors import BackendError, BadRequest
from tests.dialects.cases import PIXEL

Fields = Mapping[str, Any]

# --- what clients ask for -------------------------------------------------------------------------------------------

CLIENTS: dict[str, tuple[ClientDialect, dict[str, Any]]] = {
    "OpenAI": (OpenAI(), {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}),
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
        _alike("OpenAI", "Anthropic", temperature=0.5, top_p=0.5) | _options(temperature=0.5, top_p=0.5),
    ),
    Asked(
        "`top_k`",
        {"sampling": Sampling(top_k=5)},
        _alike("OpenAI", "Anthropic", top_k=5) | _options(top_k=5),
    ),
    Asked(
        "`seed`, penalties of presence and frequency",
        {"sampling": Sampling(seed=1, presence_penalty=1.0, frequency_penalty=1.0)},
        _alike("OpenAI", seed=1, presence_penalty=1, frequency_penalty=1)
        | _options(seed=1, presence_penalty=1, frequency_penalty=1),
    ),
    Asked(
        "`min_p`, `repeat_penalty`",
        {"sampling": Sampling(min_p=0.1, repeat_penalty=1.1)},
        _alike("OpenAI", min_p=0.1, repeat_penalty=1.1) | _options(min_p=0.1, repeat_penalty=1.1),
    ),
    Asked(
        "`repeat_last_n`, `typical_p`",
        {"sampling": Sampling(repeat_last_n=9, typical_p=0.5)},
        _alike("OpenAI", repeat_last_n=9, typical_p=0.5) | _options(repeat_last_n=9, typical_p=0.5),
    ),
    Asked(
        "at most so many tokens",
        {"sampling": Sampling(max_tokens=9)},
        _alike("OpenAI", "Anthropic", max_tokens=9) | _options(num_predict=9),
    ),
    Asked(
        "texts that end it",
        {"sampling": Sampling(stop=("END",))},
        {"OpenAI": {"stop": "END"}, "Anthropic": {"stop_sequences": ["END"]}} | _options(stop=["END"]),
    ),
    Asked(
        "tools",
        {"tools": (Tool("f", "", _S),)},
        {
            "OpenAI": {"tools": [{"type": "function", "function": {"name": "f", "parameters": _S}}]},
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
            "Anthropic": {"tool_choice": {"type": "any"}, "tools": [_AF]},
        },
    ),
    Asked(
        "JSON",
        {"json_format": JsonFormat()},
        {"OpenAI": {"response_format": {"type": "json_object"}}, "prompt": {"options": {"format": "json"}}}
        | _alike(*_ALL_OLLAMAS, format="json"),
    ),
    Asked(
        "JSON of a schema",
        {"json_format": JsonFormat(_S)},
        {
            "OpenAI": {"response_format": {"type": "json_schema", "json_schema": {"schema": _S}}},
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
            "Anthropic": {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}},
            "prompt": {"options": {"think": "high"}},
        }
        | _alike(*_ALL_OLLAMAS, think="high"),
    ),
    Asked(
        "probabilities",
        {"logprobs": True, "top_logprobs": 2},
        _alike("OpenAI", *_ALL_OLLAMAS, logprobs=True, top_logprobs=2),
    ),
    Asked(
        "the prompt as it is",
        {"raw": True},
        _alike("Ollama, a prompt", raw=True),
    ),
    Asked(
        "[load-time options](api.md#load-time-options)",
        {"load_options": LoadOptions(num_ctx=9)},
        _options(num_ctx=9) | {"OpenAI": {"options": {"num_ctx": 9}}},
    ),
    Asked(
        "`priority`",
        {"priority": 1},
        _alike("OpenAI", "Anthropic", "Ollama", "Ollama, a prompt", "prompt", priority=1),
    ),
]


def parsed(name: str, said: Fields) -> ChatRequest:
    dialect, least = CLIENTS[name]
    return dialect.parse_request(json.dumps(least | dict(said)).encode())


def _wish(asked: Asked, name: str) -> str:
    said = asked.written.get(name)
    if said is None:
        return "-"
    wish = parsed(name, said)
    assert all(getattr(wish, field) == value for field, value in asked.meant.items()), (asked.what, name)
    return "unless asked" if wish == parsed(name, {}) else "yes"


# What changes what is meant, and cannot be had: dialect, what it says, the code of the 400.
REFUSALS: list[tuple[str, Fields, str]] = [
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
    ("OpenAI", {"logit_bias": {"50256": -100}}),
    ("OpenAI", {"parallel_tool_calls": False}),
    ("OpenAI", {"user": "u", "metadata": {}, "store": True}),
    ("Anthropic", {"metadata": {"user_id": "u"}, "service_tier": "auto", "context_management": {}}),
    ("Ollama", {"options": {"num_keep": 4}, "truncate": True, "shift": True}),
]


def refused(name: str, said: Fields) -> str:
    try:
        parsed(name, said)
    except BadRequest as error:
        return error.code
    return ""


# --- what backends are asked ----------------------------------------------------------------------------------------

BACKENDS: dict[str, BackendDialect] = {
    "Ollama": Ollama(),
    "vLLM": OpenAIBackend(VLLM),
    "llama.cpp": OpenAIBackend(LLAMACPP),
    "openai": OpenAIBackend(OPENAI),
}


class Told(Struct, frozen=True):
    """Something asked of a backend; `instead`: what it may be told in its place; `needs`: else it is refused."""

    what: str
    asked: Fields
    instead: Mapping[str, Fields] = {}
    needs: str = ""


def _said(*messages: RichMessage | Message) -> Fields:
    return {"messages": messages}


_T = Tool("f", "F", _S)
_PNG = Image("image/png", PIXEL)
TOLD: list[Told] = [
    Told(
        "`temperature`, `top_p`, `seed`, `max_tokens`, `stop`",
        {"sampling": Sampling(0.5, 0.5, None, None, 1, 9, ("a",))},
    ),
    Told("penalties of presence and frequency", {"sampling": Sampling(presence_penalty=1.0, frequency_penalty=1.0)}),
    Told("`top_k`, `min_p`, `repeat_penalty`", {"sampling": Sampling(top_k=5, min_p=0.1, repeat_penalty=1.1)}),
    Told("`repeat_last_n`, `typical_p`", {"sampling": Sampling(repeat_last_n=9, typical_p=0.5)}),
    Told(
        "a text between two images, in its place",
        _said(RichMessage("user", (_PNG, Text("a"), _PNG))),
        {"the text first": _said(RichMessage("user", (Text("a"), _PNG, _PNG)))},
    ),
    Told(
        "two texts apart in one message",
        _said(RichMessage("user", (Text("a"), Text("b")))),
        {"one, on two lines": _said(Message("user", "a\nb"))},
    ),
    Told(
        "the type of an image",
        _said(RichMessage("user", (Image("image/x", PIXEL),))),
        {"seen in its bytes": _said(RichMessage("user", (_PNG,)))},
    ),
    Told(
        "what the assistant thought earlier",
        _said(RichMessage("assistant", (Text("a"),), "why")),
        {"left out": _said(Message("assistant", "a"))},
    ),
    Told(
        "arguments of an earlier call that are no object",
        _said(RichMessage("assistant", (), "", (ToolCall("c", "f", "[1]"),))),
        {'`{"value": ...}`': _said(RichMessage("assistant", (), "", (ToolCall("c", "f", '{"value":[1]}'),)))},
    ),
    Told(
        "a result's tool, without its call",
        _said(RichMessage("tool", (Text("a"),), tool_call_id="c", tool_name="f")),
        {"left out": _said(RichMessage("tool", (Text("a"),), tool_call_id="c"))},
    ),
    Told("tools", {"tools": (_T,)}),
    Told(
        "a tool without parameters",
        {"tools": (Tool("f", "F"),)},
        {"an object of none": {"tools": (Tool("f", "F", {"type": "object", "properties": {}}),)}},
    ),
    Told("tools that are not to be called", {"tools": (_T,), "tool_choice": "none"}),
    Told("a call of any tool", {"tools": (_T,), "tool_choice": MustCall()}, needs="forces_tools"),
    Told(
        "a call of one of the tools",
        {"tools": (_T, Tool("g", "G", _S)), "tool_choice": MustCall("f")},
        {"a call, of no other tool": {"tools": (_T,), "tool_choice": MustCall()}},
        needs="forces_tools",
    ),
    Told("JSON of a schema", {"json_format": JsonFormat(_S | {"required": ["a"]})}),
    Told("JSON", {"json_format": JsonFormat()}, {"JSON of any object": {"json_format": JsonFormat(_S)}}),
    Told("no thinking", {"thinking": "off"}),
    Told("thinking", {"thinking": "on"}),
    Told("little or much thinking", {"thinking": "low"}),
    Told("as much thinking as can be", {"thinking": "max"}, {"much": {"thinking": "high"}}),
    Told("probabilities", {"logprobs": True, "top_logprobs": 2}),
    Told("a prompt as it is", {"completion": True, "raw": True}, needs="takes_raw"),
    Told("a prompt and what follows it", {"completion": True, "suffix": "a"}, needs="takes_raw"),
]


def _backend_cell(told: Told, backend: BackendDialect) -> str:
    if told.needs and not getattr(backend, told.needs):
        return "refused"

    def asked(fields: Fields) -> tuple[str, bytes]:
        return backend.render_request(replace(ChatRequest("m", (Message("user", "Hi"),)), **fields), "m")

    return _cell(asked(told.asked), asked({}), ((words, asked(fields)) for words, fields in told.instead.items()))


def _cell(said: Any, nothing: Any, instead: Iterable[tuple[str, Any]]) -> str:
    if said == nothing:
        return "left out"
    return next((words for words, other in instead if other == said), "yes")


# --- what clients are told ------------------------------------------------------------------------------------------

TELLERS: dict[str, ClientDialect] = {name: dialect for name, (dialect, _) in CLIENTS.items() if "," not in name}
_META = Meta("r1", "m", 0)


class Happened(Struct, frozen=True):
    """What came of a request, before it `Stop`s; `instead`, what may be told in its place."""

    what: str
    events: tuple[StreamEvent, ...]
    instead: Mapping[str, tuple[StreamEvent, ...]] = {}
    stop: Stop = Stop("stop")


_CALL = ToolCallDelta(0, '{"a":1}', "c", "f")
HAPPENED: list[Happened] = [
    Happened("text", (TextDelta("a"),)),
    Happened("thoughts", (ReasoningDelta("a"),)),
    Happened("calls", (_CALL,)),
    Happened(
        "arguments that are no object",
        (ToolCallDelta(0, "[1]", "c", "f"),),
        {'`{"value": ...}`': (ToolCallDelta(0, '{"value":[1]}', "c", "f"),)},
    ),
    Happened(
        "probabilities",
        (TextDelta("a", ({"token": "a", "logprob": -1.0, "bytes": [97], "top_logprobs": []},)),),
        {"left out": (TextDelta("a"),)},
    ),
    Happened("tokens counted", (Usage(5, 7),)),
    Happened(
        "those of the prompt that were read before", (Usage(5, 7, cached_tokens=4),), {"left out": (Usage(5, 7),)}
    ),
    Happened("how long it took to load, to read and to write", (Usage(0, 0, 1.0, 2.0, 3.0),)),
    Happened("it was cut short", (), stop=Stop("length")),
    Happened("it was filtered", (), stop=Stop("content_filter")),
    Happened("which text ended it", (), stop=Stop("stop", "END")),
]


def _client_cell(happened: Happened, dialect: ClientDialect) -> str:
    def told(events: tuple[StreamEvent, ...], stop: Stop) -> Any:
        answer = collect([*events, stop])
        assert isinstance(answer, Answer)
        return dialect.render_answer(answer, _META)

    try:
        said = told(happened.events, happened.stop)
    except BackendError:
        return "an error"
    others = ((words, told(events, happened.stop)) for words, events in happened.instead.items())
    return _cell(said, told((), Stop("stop")), others)


# --- the tables -----------------------------------------------------------------------------------------------------


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _json(said: Fields) -> str:
    return f"`{json.dumps(said)[1:-1]}`"


def tables() -> dict[str, str]:
    """By the headings that they stand under."""
    wishes = [(wish.what, *(_wish(wish, name) for name in CLIENTS)) for wish in WISHES]
    asked = [(told.what, *(_backend_cell(told, each) for each in BACKENDS.values())) for told in TOLD]
    happened = [(each.what, *(_client_cell(each, teller) for teller in TELLERS.values())) for each in HAPPENED]
    refusals = [(name, _json(said), f"`{refused(name, said)}`") for name, said, _ in REFUSALS]
    return {
        "What can be asked for": _table(("", *CLIENTS), wishes),
        "What is refused": _table(("", "body", "code"), refusals),
        "What is left out": _table(("", "body"), [(name, _json(said)) for name, said in IGNORED]),
        "What backends are asked": _table(("", *BACKENDS), asked),
        "What clients are told": _table(("", *TELLERS), happened),
    }


if __name__ == "__main__":
    for heading, table in tables().items():
        print(f"## {heading}\n\n{table}\n")
