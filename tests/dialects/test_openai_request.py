"""What a chat completions request asks for, and the 400 that names the field it got wrong."""

import json
from typing import Any

import pytest

from hermes.chat import ChatRequest, JsonFormat, LoadOptions, MustCall, Sampling, Tool
from hermes.dialects import ClientDialect
from hermes.dialects.openai import OpenAI
from hermes.errors import BadRequest
from tests.dialects.cases import CONVERSATIONS, PIXEL, Said

F = {"type": "function", "function": {"name": "f"}}

DIALECT: ClientDialect = OpenAI()
LEAST: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


def parse(**fields: Any) -> ChatRequest:
    return DIALECT.parse_request(json.dumps(LEAST | fields).encode())


def refusal(**fields: Any) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        parse(**fields)
    return caught.value


@pytest.mark.parametrize("said", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_messages_are_understood(said: Said) -> None:
    assert parse(messages=said.openai).messages == said.chat


FIELDS: list[tuple[dict[str, Any], ChatRequest | dict[str, Any]]] = [
    ({"stream": True}, {"stream": True}),
    ({"stream_options": {"include_usage": True, "include_obfuscation": False}}, {"include_usage": True}),
    ({"stream_options": {}}, {"include_usage": False}),
    ({"priority": -(2**31)}, {"priority": -(2**31)}),
    ({"priority": None, "service_tier": None}, {"priority": 0, "service_tier": ""}),
    ({"options": {"num_ctx": 8192, "mirostat": 1}}, {"load_options": LoadOptions(8192)}),
    ({"keep_alive": "5m"}, {"load_options": LoadOptions(keep_alive_s=300.0)}),
    ({"options": {}, "keep_alive": None}, {"load_options": None}),
    ({"service_tier": "flex"}, {"service_tier": "flex"}),
    ({"max_tokens": 5}, {"sampling": Sampling(max_tokens=5)}),
    ({"max_tokens": 5, "max_completion_tokens": 7}, {"sampling": Sampling(max_tokens=7)}),
    (
        {"temperature": 1, "top_p": 0, "seed": -1, "presence_penalty": -2, "frequency_penalty": 0.5},
        {"sampling": Sampling(1.0, 0.0, seed=-1, presence_penalty=-2.0, frequency_penalty=0.5)},
    ),
    ({"temperature": 0}, {"sampling": Sampling(temperature=0.0)}),
    ({"stop": "END"}, {"sampling": Sampling(stop=("END",))}),
    ({"stop": ["a", "", "b"]}, {"sampling": Sampling(stop=("a", "b"))}),
    ({"stop": ""}, {"sampling": Sampling()}),
    ({"response_format": {"type": "text"}}, {"json_format": None}),
    ({"response_format": {"type": "json_object"}}, {"json_format": JsonFormat()}),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}},
        {"json_format": JsonFormat({"type": "object"})},
    ),
    ({"reasoning_effort": "none"}, {"thinking": "off"}),
    ({"reasoning_effort": "minimal"}, {"thinking": "low"}),
    ({"reasoning_effort": "low"}, {"thinking": "low"}),
    ({"reasoning_effort": "medium"}, {"thinking": "medium"}),
    ({"reasoning_effort": "high"}, {"thinking": "high"}),
    ({"reasoning_effort": "xhigh"}, {"thinking": "max"}),
    ({"reasoning_effort": "max"}, {"thinking": "max"}),
    ({"logprobs": True, "top_logprobs": 20}, {"logprobs": True, "top_logprobs": 20}),
    ({"logprobs": False, "top_logprobs": 0}, {"logprobs": False}),
    ({"n": 1, "modalities": ["text"]}, {}),
    ({"tool_choice": "none"}, {"tool_choice": "none"}),
    ({"tool_choice": "auto"}, {"tool_choice": "auto"}),
    ({"tool_choice": "required", "tools": [F]}, {"tool_choice": MustCall(), "tools": (Tool("f"),)}),
    (
        {"tool_choice": {"type": "function", "function": {"name": "f"}}, "tools": [F]},
        {"tool_choice": MustCall("f"), "tools": (Tool("f"),)},
    ),
    (
        {
            "tools": [
                {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": True}},
                {"type": "function", "function": {"name": "g", "description": "G", "parameters": None}},
            ]
        },
        {"tools": (Tool("f", "", {"type": "object"}), Tool("g", "G"))},
    ),
    ({"user": "u", "new_field": {"deep": [1]}}, {"extra": {"user": "u", "new_field": {"deep": [1]}}}),
    ({"new_field": None}, {}),
    (
        {"top_k": 40, "min_p": 0.1, "repetition_penalty": 1.1},
        {"sampling": Sampling(top_k=40, min_p=0.1, repeat_penalty=1.1)},
    ),
    ({"top_k": -1, "repeat_penalty": 1.2}, {"sampling": Sampling(top_k=0, repeat_penalty=1.2)}),
    (
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"thinking": "off", "extra": {"chat_template_kwargs": {"enable_thinking": False}}},
    ),
    (
        {"chat_template_kwargs": {"enable_thinking": False, "tone": 1}, "reasoning_effort": "low"},
        {"thinking": "low", "extra": {"chat_template_kwargs": {"enable_thinking": False, "tone": 1}}},
    ),
]


@pytest.mark.parametrize(("asked", "meant"), FIELDS, ids=lambda value: str(value)[:60])
def test_fields_are_understood(asked: dict[str, Any], meant: dict[str, Any]) -> None:
    parsed = parse(**asked)
    for name in ChatRequest.__struct_fields__:
        assert getattr(parsed, name) == meant.get(name, getattr(parse(), name)), name


def test_null_means_absent_for_every_field_but_the_two_that_must_be() -> None:
    nothing = dict.fromkeys({name for asked, _ in FIELDS for name in asked} | {"functions", "function_call"})
    for unknown in ("user", "new_field"):
        del nothing[unknown]
    assert parse(**nothing) == parse()


@pytest.mark.parametrize(
    ("asked", "param", "code"),
    [
        ({"messages": None}, "messages", "missing_required_parameter"),
        ({"messages": []}, "messages", "missing_required_parameter"),
        ({"messages": "Hi"}, "messages", "invalid_type"),
        ({"messages": ["Hi"]}, "messages[0]", "invalid_type"),
        ({"messages": [{"content": "Hi"}]}, "messages[0].role", "missing_required_parameter"),
        ({"messages": [{"role": "robot", "content": "Hi"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": "function", "content": "Hi"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": 5, "content": "Hi"}]}, "messages[0].role", "invalid_type"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
        ({"messages": [{"role": "system", "content": None}]}, "messages[0].content", "missing_required_parameter"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "invalid_type"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id", "missing_required_parameter"),
        (
            {"messages": [{"role": "assistant", "function_call": {"name": "f"}}]},
            "messages[0].function_call",
            "unsupported_parameter",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "a", "type": "custom", "custom": {}}]}]},
            "messages[0].tool_calls[0].function",
            "unsupported_parameter",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}]},
            "messages[0].tool_calls[0].function.arguments",
            "invalid_type",
        ),
        ({"model": None}, "model", "missing_required_parameter"),
        ({"model": ""}, "model", "missing_required_parameter"),
        ({"model": 5}, "model", "invalid_type"),
        ({"stream": "yes"}, "stream", "invalid_type"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage", "invalid_type"),
        ({"temperature": 2.1}, "temperature", "invalid_value"),
        ({"temperature": -0.1}, "temperature", "invalid_value"),
        ({"temperature": "hot"}, "temperature", "invalid_type"),
        ({"temperature": True}, "temperature", "invalid_type"),
        ({"top_p": 1.5}, "top_p", "invalid_value"),
        ({"presence_penalty": 3}, "presence_penalty", "invalid_value"),
        ({"frequency_penalty": -3}, "frequency_penalty", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": 1.5}, "max_tokens", "invalid_type"),
        ({"max_completion_tokens": 2**31}, "max_completion_tokens", "invalid_value"),
        ({"seed": 2**63}, "seed", "invalid_value"),
        ({"stop": [1]}, "stop[0]", "invalid_type"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs", "invalid_value"),
        ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
        ({"n": 2}, "n", "unsupported_value"),
        ({"n": 0}, "n", "unsupported_value"),
        ({"modalities": ["text", "audio"]}, "modalities", "unsupported_parameter"),
        ({"functions": []}, "functions", "unsupported_parameter"),
        ({"function_call": "none"}, "function_call", "unsupported_parameter"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        (
            {"tool_choice": {"type": "function", "function": {"name": "g"}}, "tools": [F]},
            "tool_choice",
            "invalid_value",
        ),
        ({"tool_choice": {"type": "allowed_tools"}, "tools": [F]}, "tool_choice", "unsupported_parameter"),
        ({"tool_choice": "any"}, "tool_choice", "invalid_value"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0].type", "unsupported_parameter"),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "missing_required_parameter"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name", "missing_required_parameter"),
        ({"response_format": {"type": "yaml"}}, "response_format.type", "invalid_value"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}},
            "response_format.json_schema.schema",
            "missing_required_parameter",
        ),
        ({"reasoning_effort": "ultra"}, "reasoning_effort", "invalid_value"),
        ({"Model": "other"}, "Model", "ambiguous_key"),
        ({"\u017ftream": True}, "\u017ftream", "ambiguous_key"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_is_wrong_is_named(asked: dict[str, Any], param: str, code: str) -> None:
    error = refusal(**asked)
    assert (error.status, error.param, error.code) == (400, param, code)
    assert param.split(".")[-1].split("[")[0] in error.message


@pytest.mark.parametrize("field", ["model", "messages"])
def test_a_missing_field_is_named(field: str) -> None:
    body = {name: value for name, value in LEAST.items() if name != field}
    with pytest.raises(BadRequest) as caught:
        DIALECT.parse_request(json.dumps(body).encode())
    assert (caught.value.param, caught.value.code) == (field, "missing_required_parameter")


PART_AT = "messages[0].content[0]"


@pytest.mark.parametrize(
    ("part", "param", "code"),
    [
        ({"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}, ".type", "unsupported_parameter"),
        ({"type": "file", "file": {"file_id": "f"}}, ".type", "unsupported_parameter"),
        ({"type": "text"}, ".text", "missing_required_parameter"),
        ({"type": "image_url", "image_url": None}, ".image_url", "missing_required_parameter"),
        ({"type": "image_url", "image_url": {}}, ".image_url.url", "missing_required_parameter"),
        ({"text": "Hi"}, ".type", "missing_required_parameter"),
        *[
            ({"type": "image_url", "image_url": {"url": url}}, ".image_url.url", code)
            for url, code in [
                ("https://example.org/a.png", "invalid_image_url"),
                ("HTTP://example.org/a.png", "invalid_image_url"),
                ("file:///etc/passwd", "invalid_image_url"),
                ("data:text/html;base64,AAAA", "invalid_image_url"),
                ("data:image/png,AAAA", "invalid_image_url"),
                ("data:image/png;base64,", "invalid_base64"),
                ("data:image/png;base64,AAA", "invalid_base64"),
                ("data:image/png;base64,AA=A", "invalid_base64"),
                ("data:image/png;base64,AA A", "invalid_base64"),
                ("data:image/png;base64,AAAA\n", "invalid_base64"),
                ("data:image/png;base64," + PIXEL + "\u0661", "invalid_base64"),
            ]
        ],
    ],
    ids=lambda value: str(value)[:70],
)
def test_a_part_that_cannot_be_served_is_named(part: dict[str, Any], param: str, code: str) -> None:
    error = refusal(messages=[{"role": "user", "content": [part]}])
    assert (error.param, error.code) == (PART_AT + param, code)


def test_an_image_is_never_fetched_and_the_refusal_says_what_to_send() -> None:
    part = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
    assert "data:" in refusal(messages=[{"role": "user", "content": [part]}]).message


def test_the_model_may_be_named_outside_the_body() -> None:
    body = json.dumps({"messages": LEAST["messages"]}).encode()
    assert DIALECT.parse_request(body, "named").model == "named"
    assert DIALECT.parse_request(json.dumps(LEAST).encode(), "m").model == "m"
    with pytest.raises(BadRequest) as caught:
        DIALECT.parse_request(json.dumps(LEAST).encode(), "other")
    assert caught.value.param == "model"


def test_sampling_is_what_was_asked_and_the_promised_defaults_are_told_apart() -> None:
    """A model's own configured values stand between the two."""
    assert parse().sampling == Sampling()
    assert DIALECT.sampling_defaults == Sampling(temperature=1.0, top_p=1.0)
