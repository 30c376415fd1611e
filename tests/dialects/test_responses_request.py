"""What a request to OpenAI's responses asks for, and the 400 that names the field it got wrong."""

import json
from typing import Any

import pytest

from hermes.chat import (
    ChatRequest,
    Image,
    JsonFormat,
    LoadOptions,
    Message,
    MustCall,
    RichMessage,
    Sampling,
    Text,
    Tool,
    ToolCall,
)
from hermes.dialects import ClientDialect
from hermes.dialects.responses import Responses
from hermes.errors import BadRequest
from tests.dialects.cases import PIXEL

DIALECT: ClientDialect = Responses()
LEAST: dict[str, Any] = {"model": "m", "input": "Hi"}
ASKED = ChatRequest("m", (Message("user", "Hi"),))
F = {"type": "function", "name": "f"}
FREE_TEXT = {
    "type": "object",
    "properties": {"input": {"type": "string", "description": "The whole text."}},
    "required": ["input"],
}


def parse(**fields: Any) -> ChatRequest:
    return DIALECT.parse_request(json.dumps(LEAST | fields).encode())


def refusal(**fields: Any) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        parse(**fields)
    return caught.value


def said(role: str, *texts: str, kind: str = "input_text") -> dict[str, Any]:
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text} for text in texts]}


def called(id: str, name: str = "f", arguments: str = "{}", **more: Any) -> dict[str, Any]:
    return {"type": "function_call", "id": f"fc_{id}", "call_id": id, "name": name, "arguments": arguments, **more}


def output(id: str, said: Any = "done") -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": id, "output": said}


def thought(text: str) -> dict[str, Any]:
    summary = [{"type": "summary_text", "text": text}]
    return {"type": "reasoning", "id": "rs_1", "summary": summary, "content": None, "encrypted_content": None}


USER = Message("user", "Hi")
CONVERSATIONS: dict[str, tuple[list[dict[str, Any]], list[Message | RichMessage]]] = {
    "messages with and without a type": (
        [
            {"type": None, "role": "user", "content": "Hi"},
            said("assistant", "Ho", kind="output_text"),
            said("user", "Hm"),
        ],
        [USER, Message("assistant", "Ho"), Message("user", "Hm")],
    ),
    "what the model is told first is one message": (
        [said("developer", "Be brief", "Be kind"), {"role": "system", "content": "Be quick"}, said("user", "Hi")],
        [Message("system", "Be brief\n\nBe kind\n\nBe quick"), USER],
    ),
    "later it stays where it is": (
        [said("user", "Hi"), said("developer", "Be brief"), said("developer", "Be kind")],
        [USER, Message("system", "Be brief"), Message("system", "Be kind")],
    ),
    "texts and images stay one message": (
        [
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "What is"},
                    {"type": "input_image", "image_url": f"data:image/png;base64,{PIXEL}", "detail": "auto"},
                    {"type": "input_text", "text": "this?"},
                ],
            }
        ],
        [RichMessage("user", (Text("What is"), Image("image/png", PIXEL), Text("this?")))],
    ),
    "what the assistant thought, said and called is one message": (
        [
            said("user", "Hi"),
            thought("I must look"),
            said("assistant", "Let me see", kind="output_text"),
            called("c1", "look", '{"at":"sky"}'),
            called("c2"),
            output("c2", [{"type": "input_text", "text": "noon"}]),
            output("c1", "blue"),
            said("assistant", "Blue", kind="output_text"),
        ],
        [
            USER,
            RichMessage(
                "assistant",
                (Text("Let me see"),),
                "I must look",
                (ToolCall("c1", "look", '{"at":"sky"}'), ToolCall("c2", "f", "{}")),
            ),
            RichMessage("tool", (Text("noon"),), tool_call_id="c2", tool_name="f"),
            RichMessage("tool", (Text("blue"),), tool_call_id="c1", tool_name="look"),
            Message("assistant", "Blue"),
        ],
    ),
    "thoughts and text after calls are another turn": (
        [said("user", "Hi"), called("c1"), thought("Hm"), called("c2"), said("assistant", "So", kind="output_text")],
        [
            USER,
            RichMessage("assistant", (), "", (ToolCall("c1", "f", "{}"),)),
            RichMessage("assistant", (), "Hm", (ToolCall("c2", "f", "{}"),)),
            Message("assistant", "So"),
        ],
    ),
    "thoughts may stand in the content, and come in pieces": (
        [
            said("user", "Hi"),
            {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "why"}], "summary": [{"text": "x"}]},
            thought("so"),
            thought(""),
        ],
        [USER, RichMessage("assistant", (), "why\n\nso")],
    ),
    "a custom tool's text is an argument to everybody else": (
        [
            said("user", "Hi"),
            {"type": "custom_tool_call", "call_id": "c1", "name": "apply_patch", "input": '*** "Begin"'},
            {"type": "custom_tool_call_output", "call_id": "c1", "output": "ok"},
        ],
        [
            USER,
            RichMessage("assistant", tool_calls=(ToolCall("c1", "apply_patch", '{"input":"*** \\"Begin\\""}'),)),
            RichMessage("tool", (Text("ok"),), tool_call_id="c1", tool_name="apply_patch"),
        ],
    ),
    "a tool in a namespace goes by both names": (
        [said("user", "Hi"), called("c1", "look", namespace="mcp__w"), output("c1")],
        [
            USER,
            RichMessage("assistant", tool_calls=(ToolCall("c1", "mcp__w__look", "{}"),)),
            RichMessage("tool", (Text("done"),), tool_call_id="c1", tool_name="mcp__w__look"),
        ],
    ),
    "an output whose call is not there has the name it says": (
        [said("user", "Hi"), output("c9") | {"name": "old"}],
        [USER, RichMessage("tool", (Text("done"),), tool_call_id="c9", tool_name="old")],
    ),
    "what only OpenAI's servers make is left out": (
        [
            {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search"}},
            {"type": "compaction", "encrypted_content": "?"},
            said("user", "Hi"),
            {"type": "tool_search_call", "arguments": {"a": 1}},
        ],
        [USER],
    ),
    "a refusal is what was said": (
        [said("user", "Hi"), {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}],
        [USER, Message("assistant", "No.")],
    ),
}


@pytest.mark.parametrize(("items", "meant"), CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_items_are_understood(items: list[dict[str, Any]], meant: list[Message | RichMessage]) -> None:
    assert parse(input=items).messages == tuple(meant)


@pytest.mark.parametrize(
    ("items", "joined"),
    [("Hi", "Be quick"), ([said("developer", "Be kind"), said("user", "Hi")], "Be quick\n\nBe kind")],
)
def test_instructions_come_first(items: Any, joined: str) -> None:
    assert parse(instructions="Be quick", input=items).messages == (Message("system", joined), USER)


def test_an_instruction_may_be_all_there_is_to_read() -> None:
    assert parse(input=[said("developer", "Say hello")]).messages == (Message("system", "Say hello"),)


NAMESPACE = {"type": "namespace", "name": "mcp__w", "description": "W", "tools": [F, {"type": "custom", "name": "g"}]}
GRAMMAR = {"type": "grammar", "syntax": "lark", "definition": "start: x"}
FIELDS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"stream": True}, {"stream": True}),
    ({"temperature": 0, "top_p": 1, "max_output_tokens": 5}, {"sampling": Sampling(0.0, 1.0, max_tokens=5)}),
    ({"text": {"format": {"type": "text"}, "verbosity": "low"}}, {}),
    ({"text": {"verbosity": "low"}}, {}),
    ({"text": {"format": {"type": "json_object"}}}, {"json_format": JsonFormat()}),
    (
        {"text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}}},
        {"json_format": JsonFormat({"type": "object"})},
    ),
    ({"reasoning": {"effort": "xhigh", "summary": "auto"}}, {"thinking": "max"}),
    ({"reasoning": {"effort": "none"}}, {"thinking": "off"}),
    ({"reasoning": {"summary": "auto"}}, {}),
    ({"include": ["reasoning.encrypted_content"]}, {}),
    ({"include": ["message.output_text.logprobs"]}, {"logprobs": True}),
    ({"top_logprobs": 3}, {"logprobs": True, "top_logprobs": 3}),
    ({"top_logprobs": 0}, {}),
    ({"store": False, "background": False}, {}),
    (
        {"parallel_tool_calls": True, "prompt_cache_key": "k", "metadata": None},
        {"extra": {"parallel_tool_calls": True, "prompt_cache_key": "k"}},
    ),
    ({"chat_template_kwargs": {"tone": "dry"}}, {"extra": {"chat_template_kwargs": {"tone": "dry"}}}),
    ({"priority": 3, "service_tier": "flex"}, {"priority": 3, "service_tier": "flex"}),
    ({"options": {"num_ctx": 9}, "keep_alive": 5}, {"load_options": LoadOptions(9, keep_alive_s=5.0)}),
    (
        {"tools": [F | {"description": "F", "parameters": {"type": "object"}, "strict": True}]},
        {"tools": (Tool("f", "F", {"type": "object"}),)},
    ),
    ({"tools": [{"type": "custom", "name": "g"}]}, {"tools": (Tool("g", "", FREE_TEXT, freeform=True),)}),
    (
        {"tools": [{"type": "custom", "name": "g", "description": "G", "format": GRAMMAR}]},
        {"tools": (Tool("g", "G\n\nThe input follows this grammar (lark):\nstart: x", FREE_TEXT, freeform=True),)},
    ),
    (
        {"tools": [NAMESPACE]},
        {"tools": (Tool("mcp__w__f", "", None, "mcp__w"), Tool("mcp__w__g", "", FREE_TEXT, "mcp__w", freeform=True))},
    ),
    ({"tools": [{"type": "web_search", "external_web_access": False}, {"type": "tool_search"}]}, {}),
    ({"tool_choice": "none", "tools": [F]}, {"tool_choice": "none", "tools": (Tool("f"),)}),
    ({"tool_choice": "required", "tools": [F]}, {"tool_choice": MustCall(), "tools": (Tool("f"),)}),
    (
        {"tool_choice": {"type": "function", "name": "f"}, "tools": [F]},
        {"tool_choice": MustCall("f"), "tools": (Tool("f"),)},
    ),
]


@pytest.mark.parametrize(("asked", "meant"), FIELDS, ids=lambda value: str(value)[:60])
def test_fields_are_understood(asked: dict[str, Any], meant: dict[str, Any]) -> None:
    assert parse() == ASKED
    parsed = parse(**asked)
    for name in ChatRequest.__struct_fields__:
        assert getattr(parsed, name) == meant.get(name, getattr(ASKED, name)), name


def test_null_means_absent() -> None:
    names = {name for asked, _ in FIELDS for name in asked}
    kept = ("previous_response_id", "conversation", "prompt", "instructions")
    assert parse(**dict.fromkeys([*names, *kept])) == ASKED


@pytest.mark.parametrize(
    ("asked", "param", "code"),
    [
        ({"model": None}, "model", "missing_required_parameter"),
        ({"input": None}, "input", "missing_required_parameter"),
        ({"input": ""}, "input", "missing_required_parameter"),
        ({"input": []}, "input", "missing_required_parameter"),
        ({"input": None, "instructions": "x"}, "input", "missing_required_parameter"),
        ({"input": [{"type": "compaction"}]}, "input", "missing_required_parameter"),
        ({"input": 5}, "input", "invalid_type"),
        ({"input": ["Hi"]}, "input[0]", "invalid_type"),
        ({"input": [{"content": "Hi"}]}, "input[0].role", "missing_required_parameter"),
        ({"input": [{"role": "robot", "content": "Hi"}]}, "input[0].role", "invalid_value"),
        ({"input": [{"role": "user"}]}, "input[0].content", "missing_required_parameter"),
        ({"input": [{"role": "user", "content": 5}]}, "input[0].content", "invalid_type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]},
            "input[0].content[0].type",
            "unsupported_parameter",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
            "input[0].content[0].image_url",
            "missing_required_parameter",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "https://x/y.png"}]}]},
            "input[0].content[0].image_url",
            "invalid_image_url",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_text"}]}]},
            "input[0].content[0].text",
            "missing_required_parameter",
        ),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type", "unsupported_parameter"),
        ({"input": [{"type": 5}]}, "input[0].type", "invalid_type"),
        ({"input": [{"type": "function_call", "name": "f"}]}, "input[0].call_id", "missing_required_parameter"),
        ({"input": [{"type": "function_call_output"}]}, "input[0].output", "missing_required_parameter"),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "unsupported_parameter"),
        ({"conversation": "conv_1"}, "conversation", "unsupported_parameter"),
        ({"conversation": {"id": "conv_1"}}, "conversation", "unsupported_parameter"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt", "unsupported_parameter"),
        ({"background": True}, "background", "unsupported_parameter"),
        ({"store": True}, "store", "unsupported_parameter"),
        ({"tools": [{"type": "file_search", "vector_store_ids": []}]}, "tools[0].type", "unsupported_parameter"),
        ({"tools": [F, {"type": "mcp", "server_label": "x"}]}, "tools[1].type", "unsupported_parameter"),
        ({"tools": [{"type": "function"}]}, "tools[0].name", "missing_required_parameter"),
        (
            {"tools": [{"type": "namespace", "name": "n", "tools": [{"type": "function"}]}]},
            "tools[0].tools[0].name",
            "missing_required_parameter",
        ),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"tool_choice": "sometimes"}, "tool_choice", "unsupported_parameter"),
        ({"tool_choice": {"type": "function", "name": "g"}, "tools": [F]}, "tool_choice", "invalid_value"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice", "unsupported_parameter"),
        ({"reasoning": {"effort": "wild"}}, "reasoning.effort", "invalid_value"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type", "invalid_value"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema", "missing_required_parameter"),
        ({"max_output_tokens": 0}, "max_output_tokens", "invalid_value"),
        ({"temperature": 2.5}, "temperature", "invalid_value"),
        ({"stream": 1}, "stream", "invalid_type"),
        ({"chat_template_kwargs": 5}, "chat_template_kwargs", "invalid_type"),
        ({"Input": "x"}, "Input", "ambiguous_key"),
    ],
)
def test_a_refusal_names_the_field(asked: dict[str, Any], param: str, code: str) -> None:
    refused = refusal(**asked)
    assert (refused.param, refused.code) == (param, code)


def test_a_key_that_comes_twice_is_refused() -> None:
    with pytest.raises(BadRequest, match="twice"):
        DIALECT.parse_request(b'{"model":"m","input":[{"role":"user","content":"a","content":"b"}]}')


def test_who_refers_to_what_is_not_kept_is_told_what_to_do() -> None:
    assert "whole conversation" in refusal(previous_response_id="resp_1").message
    assert "store: false" in refusal(input=[{"type": "item_reference", "id": "x"}]).message
