"""What an Anthropic request asks for, and the 400 that names the field it got wrong."""

import json
from typing import Any

import pytest

from hermes.chat import ChatRequest, Image, JsonFormat, Message, MustCall, RichMessage, Sampling, Text, Tool, ToolCall
from hermes.dialects import ClientDialect
from hermes.dialects.anthropic import Anthropic
from hermes.errors import BadRequest
from tests.dialects.cases import PIXEL

DIALECT: ClientDialect = Anthropic()
LEAST: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
HI = Message("user", "Hi")
PNG = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}


def parse(**fields: Any) -> ChatRequest:
    return DIALECT.parse_request(json.dumps(LEAST | fields).encode())


def refusal(**fields: Any) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        parse(**fields)
    return caught.value


def text(said: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": said, **more}


# --- conversations ----------------------------------------------------------------------------------------------------

CONVERSATIONS: dict[str, tuple[list[dict[str, Any]], tuple[Message | RichMessage, ...]]] = {
    "a plain text": ([{"role": "user", "content": "Hi"}], (HI,)),
    "one block of text is a plain text too": (
        [{"role": "user", "content": [text("Hi", cache_control={"type": "ephemeral"}, citations=[])]}],
        (HI,),
    ),
    "a system message in the middle stays there": (
        [
            {"role": "user", "content": "Hi"},
            {"role": "system", "content": "Be brief"},
            {"role": "assistant", "content": "Yes?"},
            {"role": "system", "content": [text("Be kind"), text("Be quick")]},
        ],
        (HI, Message("system", "Be brief"), Message("assistant", "Yes?"), Message("system", "Be kind\n\nBe quick")),
    ),
    "parts and images stay one message": (
        [{"role": "user", "content": [text("What is"), PNG, text("this?")]}],
        (RichMessage("user", (Text("What is"), Image("image/png", PIXEL), Text("this?"))),),
    ),
    "an image alone": (
        [{"role": "user", "content": [PNG]}],
        (RichMessage("user", (Image("image/png", PIXEL),)),),
    ),
    "thoughts and calls, and their results before the rest": (
        [
            {"role": "user", "content": "Weather?"},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "I must look", "signature": "hermes"},
                    text("Let me see"),
                    {"type": "tool_use", "id": "c1", "name": "look", "input": {"city": "Oslo"}, "caller": {}},
                    {"type": "tool_use", "id": "c2", "name": "now", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    text("Both, please"),
                    {"type": "tool_result", "tool_use_id": "c2", "content": "noon", "is_error": False},
                    {"type": "tool_result", "tool_use_id": "c1", "content": [text("cold"), PNG]},
                    {"type": "tool_result", "tool_use_id": "c0"},
                ],
            },
        ],
        (
            Message("user", "Weather?"),
            RichMessage(
                "assistant",
                (Text("Let me see"),),
                "I must look",
                (ToolCall("c1", "look", '{"city":"Oslo"}'), ToolCall("c2", "now", "{}")),
            ),
            RichMessage("tool", (Text("noon"),), tool_call_id="c2", tool_name="now"),
            RichMessage("tool", (Text("cold"), Image("image/png", PIXEL)), tool_call_id="c1", tool_name="look"),
            RichMessage("tool", (), tool_call_id="c0"),
            Message("user", "Both, please"),
        ),
    ),
    "thoughts alone, hidden ones and none": (
        [
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Hm", "signature": ""},
                    {"type": "redacted_thinking", "data": "x"},
                    {"type": "thinking", "thinking": "", "signature": ""},
                    {"type": "thinking", "thinking": "so", "signature": ""},
                ],
            },
            {"role": "assistant", "content": [{"type": "redacted_thinking", "data": "x"}]},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "", "signature": "omitted"}]},
            {"role": "assistant", "content": [text("Yes")]},
        ],
        (RichMessage("assistant", (), "Hm\n\nso"), Message("assistant", "Yes")),
    ),
    "documents and search results are their texts": (
        [
            {
                "role": "user",
                "content": [
                    {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "A"}},
                    {"type": "document", "source": {"type": "content", "content": "B"}, "title": "t"},
                    {"type": "document", "source": {"type": "content", "content": [text("C")]}},
                    {"type": "search_result", "source": "s", "title": "t", "content": [text("D"), text("E")]},
                ],
            }
        ],
        (RichMessage("user", (Text("A"), Text("B"), Text("C"), Text("D"), Text("E"))),),
    ),
    "what only Anthropic's servers make, and what nobody knows yet, is left out": (
        [
            {"role": "user", "content": [{"type": "novelty", "text": 5}, text("Hi")]},
            {
                "role": "assistant",
                "content": [
                    {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
                    {"type": "web_search_tool_result", "tool_use_id": "s", "content": {"error_code": "x"}},
                    text("Yes"),
                ],
            },
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "c",
                        "content": [{"type": "tool_reference", "tool_name": "f"}],
                    }
                ],
            },
        ],
        (HI, Message("assistant", "Yes"), RichMessage("tool", (), tool_call_id="c")),
    ),
}


@pytest.mark.parametrize(("asked", "meant"), CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_messages_are_understood(asked: list[dict[str, Any]], meant: tuple[Message | RichMessage, ...]) -> None:
    assert parse(messages=asked).messages == meant


BILLING = "x-anthropic-billing-header: cc_version=2.1.0.f00; cc_entrypoint=cli; cch=ea6aa;"


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("Be brief", "Be brief"),
        ([text("Be brief"), text("Be kind", cache_control={"type": "ephemeral"})], "Be brief\n\nBe kind"),
        ([text(""), text("Be brief")], "Be brief"),
        (f"{BILLING}\nBe brief", "Be brief"),
        ([text(BILLING), text("Be brief")], "Be brief"),
        (f"Be brief\n{BILLING}", "Be brief\n"),
        ("Never say x-anthropic-billing-header: it", "Never say x-anthropic-billing-header: it"),
    ],
)
def test_the_system_text_comes_first_without_what_changes_with_every_request(asked: Any, meant: str) -> None:
    assert parse(system=asked).messages == (Message("system", meant), HI)


def test_nor_is_it_left_in_a_system_message() -> None:
    said = [
        {"role": "system", "content": [text(BILLING)]},
        {"role": "system", "content": [text(f"{BILLING}\nBe brief")]},
    ]
    assert parse(messages=[{"role": "user", "content": "Hi"}, *said]).messages == (HI, Message("system", "Be brief"))


@pytest.mark.parametrize("asked", [None, "", [], [text("")], BILLING, [text(BILLING)]])
def test_no_system_text_is_no_message(asked: Any) -> None:
    assert parse(system=asked).messages == (HI,)


# --- fields -----------------------------------------------------------------------------------------------------------

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
FORMAT = {"type": "json_schema", "schema": SCHEMA}

FIELDS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"stream": True}, {"stream": True}),
    ({"stream": False}, {}),
    ({"max_tokens": 5}, {"sampling": Sampling(max_tokens=5)}),
    (
        {"temperature": 1, "top_p": 0, "top_k": 40, "stop_sequences": ["a", "", "b"]},
        {"sampling": Sampling(1.0, 0.0, 40, stop=("a", "b"))},
    ),
    ({"top_k": 0}, {}),
    ({"thinking": {"type": "disabled"}}, {"thinking": "off"}),
    ({"thinking": {"type": "enabled", "budget_tokens": 2048}}, {"thinking": "on"}),
    ({"thinking": {"type": "adaptive", "display": "omitted"}}, {"thinking": None}),
    ({"thinking": {"type": "between_tools"}}, {"thinking": None}),
    ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}, {"thinking": "low"}),
    ({"thinking": {"type": "enabled"}, "output_config": {"effort": "medium"}}, {"thinking": "medium"}),
    ({"thinking": {"type": "enabled"}, "output_config": {"effort": "high"}}, {"thinking": "high"}),
    ({"thinking": {"type": "enabled"}, "output_config": {"effort": "xhigh"}}, {"thinking": "max"}),
    ({"thinking": {"type": "enabled"}, "output_config": {"effort": "max"}}, {"thinking": "max"}),
    ({"thinking": {"type": "disabled"}, "output_config": {"effort": "max"}}, {"thinking": "off"}),
    ({"output_config": {"effort": "max"}}, {"thinking": "off"}),
    ({"priority": -(2**31)}, {"priority": -(2**31)}),
    ({"output_config": {"format": FORMAT}}, {"json_format": JsonFormat(SCHEMA)}),
    ({"output_format": FORMAT}, {"json_format": JsonFormat(SCHEMA)}),
    ({"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}, {}),
    ({"tool_choice": {"type": "none"}}, {"tool_choice": "none"}),
    ({"tool_choice": {"type": "any"}, "tools": [{"name": "f"}]}, {"tool_choice": MustCall(), "tools": (Tool("f"),)}),
    (
        {"tool_choice": {"type": "tool", "name": "f"}, "tools": [{"name": "f"}]},
        {"tool_choice": MustCall("f"), "tools": (Tool("f"),)},
    ),
    (
        {
            "tools": [
                {"name": "f", "input_schema": SCHEMA, "defer_loading": True, "strict": True},
                {"name": "g", "description": "G", "type": "custom", "cache_control": {"type": "ephemeral"}},
            ]
        },
        {"tools": (Tool("f", "", SCHEMA), Tool("g", "G"))},
    ),
    (
        {
            "metadata": {"user_id": "u"},
            "service_tier": "auto",
            "context_management": {"edits": []},
            "cache_control": {"type": "ephemeral"},
            "new_field": [{}],
        },
        {},
    ),
]


@pytest.mark.parametrize(("asked", "meant"), FIELDS, ids=lambda value: str(value)[:60])
def test_fields_are_understood(asked: dict[str, Any], meant: dict[str, Any]) -> None:
    parsed = parse(**asked)
    for name in ChatRequest.__struct_fields__:
        assert getattr(parsed, name) == meant.get(name, getattr(parse(), name)), name


def test_null_means_absent() -> None:
    nothing = dict.fromkeys({name for asked, _ in FIELDS for name in asked} - {"new_field"})
    assert parse(**nothing, system=None) == parse()


def test_thinking_is_a_wish_that_no_request_fails_for() -> None:
    """Clients ask for it, or say that they want none, whatever the model."""
    assert parse().thinking_optional and parse(thinking={"type": "enabled"}).thinking_optional
    assert parse().thinking == "off"


PLAIN: list[dict[str, Any]] = [
    {},
    {"system": "Be brief"},
    {"system": BILLING, "max_tokens": 9, "stream": True, "top_k": 3},
    {"messages": [{"role": "system", "content": "a"}, {"role": "assistant", "content": "b"}]},
]


@pytest.mark.parametrize("fields", PLAIN)
def test_a_plain_request_means_the_same_however_closely_it_is_read(fields: dict[str, Any]) -> None:
    assert parse(**fields) == parse(**fields, tools=[])


@pytest.mark.parametrize(
    ("asked", "param", "code"),
    [
        ({"messages": None}, "messages", "missing_required_parameter"),
        ({"messages": []}, "messages", "missing_required_parameter"),
        ({"messages": "Hi"}, "messages", "invalid_type"),
        ({"messages": ["Hi"]}, "messages[0]", "invalid_type"),
        ({"messages": [{"content": "Hi"}]}, "messages[0].role", "missing_required_parameter"),
        ({"messages": [{"role": "tool", "content": "Hi"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
        ({"messages": [{"role": "assistant", "content": None}]}, "messages[0].content", "missing_required_parameter"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "invalid_type"),
        ({"messages": [{"role": "user", "content": [{"type": "novelty"}]}]}, "messages", "missing_required_parameter"),
        ({"system": 5}, "system", "invalid_type"),
        ({"system": [{"type": "text"}]}, "system[0].text", "missing_required_parameter"),
        ({"model": None}, "model", "missing_required_parameter"),
        ({"model": 5}, "model", "invalid_type"),
        ({"stream": "yes"}, "stream", "invalid_type"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": "9"}, "max_tokens", "invalid_type"),
        ({"temperature": 2.1}, "temperature", "invalid_value"),
        ({"top_p": 1.5}, "top_p", "invalid_value"),
        ({"top_k": -1}, "top_k", "invalid_value"),
        ({"stop_sequences": "END"}, "stop_sequences", "invalid_type"),
        ({"stop_sequences": [1]}, "stop_sequences[0]", "invalid_type"),
        ({"thinking": True}, "thinking", "invalid_type"),
        ({"thinking": {}}, "thinking.type", "missing_required_parameter"),
        ({"output_config": {"effort": "ultra"}}, "output_config.effort", "invalid_value"),
        ({"output_config": {"format": {"type": "yaml"}}}, "output_config.format.type", "invalid_value"),
        (
            {"output_config": {"format": {"type": "json_schema"}}},
            "output_config.format.schema",
            "missing_required_parameter",
        ),
        ({"output_format": {"type": "yaml"}}, "output_format.type", "invalid_value"),
        ({"tool_choice": "auto"}, "tool_choice", "invalid_type"),
        ({"tool_choice": {"type": "any"}}, "tool_choice.type", "invalid_value"),
        ({"tool_choice": {"type": "tool", "name": "f"}}, "tool_choice.name", "invalid_value"),
        ({"tool_choice": {"type": "tool"}, "tools": [{"name": "f"}]}, "tool_choice.name", "invalid_value"),
        ({"tool_choice": {"type": "required"}}, "tool_choice.type", "invalid_value"),
        ({"tools": [{"input_schema": {}}]}, "tools[0].name", "missing_required_parameter"),
        (
            {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
            "tools[0].type",
            "unsupported_parameter",
        ),
        ({"tools": [{"name": "f", "input_schema": []}]}, "tools[0].input_schema", "invalid_type"),
        ({"Model": "other"}, "Model", "ambiguous_key"),
        ({"\u017fystem": "s"}, "\u017fystem", "ambiguous_key"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_is_wrong_is_named(asked: dict[str, Any], param: str, code: str) -> None:
    error = refusal(**asked)
    assert (error.status, error.param, error.code) == (400, param, code)
    assert param.split(".")[-1].split("[")[0] in error.message


AT = "messages[0].content[0]"


def sourced(**source: Any) -> dict[str, Any]:
    return {"type": "image", "source": source}


@pytest.mark.parametrize(
    ("block", "param", "code"),
    [
        ({"text": "Hi"}, ".type", "missing_required_parameter"),
        ({"type": 5}, ".type", "missing_required_parameter"),
        ({"type": "text"}, ".text", "missing_required_parameter"),
        ({"type": "tool_use", "id": "c", "name": "f", "input": {}}, ".type", "invalid_value"),
        ({"type": "tool_result"}, ".tool_use_id", "missing_required_parameter"),
        ({"type": "tool_result", "tool_use_id": "c", "content": 5}, ".content", "invalid_type"),
        (
            {"type": "tool_result", "tool_use_id": "c", "content": [{}]},
            ".content[0].type",
            "missing_required_parameter",
        ),
        ({"type": "image"}, ".source", "missing_required_parameter"),
        (sourced(type="url", url="https://example.org/a.png"), ".source.type", "invalid_image_url"),
        (sourced(type="file", file_id="f"), ".source.type", "invalid_image_url"),
        (sourced(type="base64", data=PIXEL), ".source.media_type", "invalid_value"),
        (sourced(type="base64", media_type="text/html", data=PIXEL), ".source.media_type", "invalid_value"),
        (sourced(type="base64", media_type="image/png"), ".source.data", "invalid_base64"),
        (sourced(type="base64", media_type="image/png", data=""), ".source.data", "invalid_base64"),
        (sourced(type="base64", media_type="image/png", data="AA=A"), ".source.data", "invalid_base64"),
        (sourced(type="base64", media_type="image/png", data="AAAA\n"), ".source.data", "invalid_base64"),
        (
            {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "AAAA"}},
            ".source.type",
            "unsupported_parameter",
        ),
        ({"type": "search_result", "content": "x"}, ".content", "invalid_type"),
    ],
    ids=lambda value: str(value)[:70],
)
def test_a_block_that_cannot_be_served_is_named(block: dict[str, Any], param: str, code: str) -> None:
    error = refusal(messages=[{"role": "user", "content": [block]}])
    assert (error.param, error.code) == (AT + param, code)


@pytest.mark.parametrize(
    ("block", "param"),
    [
        ({"type": "thinking"}, ".thinking"),
        ({"type": "tool_use", "name": "f"}, ".id"),
        ({"type": "tool_use", "id": "c", "name": "f", "input": "{}"}, ".input"),
        ({"type": "tool_result", "tool_use_id": "c"}, ".type"),
    ],
)
def test_what_an_assistant_cannot_have_said_is_named(block: dict[str, Any], param: str) -> None:
    assert refusal(messages=[{"role": "assistant", "content": [block]}]).param == AT + param


def test_the_model_may_be_named_outside_the_body() -> None:
    body = json.dumps({"messages": LEAST["messages"]}).encode()
    assert DIALECT.parse_request(body, "named").model == "named"


def test_nothing_is_promised_for_what_is_not_said_of_sampling() -> None:
    assert parse().sampling == DIALECT.sampling_defaults == Sampling()
