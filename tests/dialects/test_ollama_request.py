"""What Ollama is asked: the fields it knows, and none that would make it load the model anew."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes.chat import ChatRequest, JsonFormat, Message, RichMessage, Sampling, Thinking, Tool, ToolCall
from hermes.dialects import BackendDialect
from hermes.dialects.ollama import Ollama
from hermes.dialects.openai import OpenAI
from hermes.dialects.prompt import Prompt
from tests.dialects.cases import CONVERSATIONS, PIXEL, Said

DIALECT: BackendDialect = Ollama()
HI = (Message("user", "Hi"),)
CHAT = {"model": "resident", "messages": [{"role": "user", "content": "Hi"}], "stream": False, "truncate": False}


def asked(dialect: BackendDialect = DIALECT, /, **fields: Any) -> tuple[str, dict[str, Any]]:
    path, body = dialect.render_request(ChatRequest("public", **{"messages": HI} | fields), "resident")
    return path, json.loads(body)


def test_the_least_request_is_this_one() -> None:
    """`truncate: false` always: an overlong prompt fails instead of losing its beginning."""
    assert asked() == ("/api/chat", CHAT)


@pytest.mark.parametrize("said", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_messages_are_passed_on(said: Said) -> None:
    assert asked(messages=said.chat)[1]["messages"] == said.ollama


@pytest.mark.parametrize(
    ("fields", "meant"),
    [
        ({"stream": True}, {"stream": True}),
        (
            {"sampling": Sampling(1.0, 0.5, 40, 0.0, 7, 9, ("a", "b"), 1.0, -1.0, 1.1)},
            {
                "options": {
                    "temperature": 1.0,
                    "top_p": 0.5,
                    "top_k": 40,
                    "min_p": 0.0,
                    "seed": 7,
                    "num_predict": 9,
                    "stop": ["a", "b"],
                    "presence_penalty": 1.0,
                    "frequency_penalty": -1.0,
                    "repeat_penalty": 1.1,
                }
            },
        ),
        ({"json_format": JsonFormat()}, {"format": {"type": "object"}}),
        ({"json_format": JsonFormat({"type": "array", "minItems": 1})}, {"format": {"type": "array", "minItems": 1}}),
        ({"thinking": None}, {}),
        ({"thinking": "off"}, {"think": False}),
        ({"thinking": "on"}, {"think": True}),
        ({"thinking": "low"}, {"think": "low"}),
        ({"thinking": "max"}, {"think": "max"}),
        ({"logprobs": True, "top_logprobs": 5}, {"logprobs": True, "top_logprobs": 5}),
        (
            {"tools": (Tool("f", "F", {"type": "object", "required": ["a"]}), Tool("g"))},
            {
                "tools": [
                    {
                        "type": "function",
                        "function": {
                            "name": "f",
                            "description": "F",
                            "parameters": {"type": "object", "required": ["a"]},
                        },
                    },
                    {
                        "type": "function",
                        "function": {
                            "name": "g",
                            "description": "",
                            "parameters": {"type": "object", "properties": {}},
                        },
                    },
                ]
            },
        ),
        ({"tools": (Tool("f"),), "tool_choice": "none"}, {}),
    ],
    ids=lambda value: str(value)[:50],
)
def test_fields_are_passed_on(fields: dict[str, Any], meant: dict[str, Any]) -> None:
    assert asked(**fields) == ("/api/chat", CHAT | meant)


@pytest.mark.parametrize(
    ("thinks", "thinking", "think"),
    [
        (True, "on", True),
        (True, "high", "high"),
        (True, "off", False),
        (False, "on", None),
        (False, "high", None),
        (False, "off", False),
        (None, "on", None),
        (None, "off", False),
    ],
)
def test_thinking_that_may_be_left_out_is_asked_only_of_who_can(
    thinks: bool | None, thinking: Thinking, think: bool | str | None
) -> None:
    """Ollama refuses a request that wants a model to think which cannot; not to think it lets be said to any."""
    knowing = Ollama(thinks=lambda model: thinks)
    assert asked(knowing, thinking=thinking, thinking_optional=True)[1].get("think") == think
    assert asked(knowing, thinking=thinking)[1]["think"] is not None


def test_the_configurations_pins_are_sent_and_win() -> None:
    pinned = Ollama(options={"num_ctx": 8192, "temperature": 0.1}, keep_alive="1h")
    _, body = asked(pinned, sampling=Sampling(temperature=0.9, seed=1))
    assert body["options"] == {"num_ctx": 8192, "temperature": 0.1, "seed": 1}
    assert body["keep_alive"] == "1h"


@given(st.binary(max_size=40) | st.text(max_size=10).map(lambda text: json.dumps({text: 1}).encode()))
def test_no_clients_words_become_load_options(raw: bytes) -> None:
    """Whatever a client sends in the two dialects, only sampling reaches `options`."""
    body = {"model": "m", "messages": [{"role": "user", "content": raw.decode("utf-8", "replace")}], "num_ctx": 5}
    request = OpenAI().parse_request(json.dumps(body | {"options": {"num_ctx": 5}, "keep_alive": 0}).encode())
    sent = json.loads(DIALECT.render_request(request, "m")[1])
    assert sent.keys() == {"model", "messages", "stream", "truncate"}


# --- arguments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", {}),
        (" ", {}),
        ("{}", {}),
        ('{"a":{"b":[1,2.5,null]}}', {"a": {"b": [1, 2.5, None]}}),
        ("[1]", {"value": [1]}),
        ('"Oslo"', {"value": "Oslo"}),
        ("null", {"value": None}),
        ('{"a":', {"value": '{"a":'}),
        ("Oslo", {"value": "Oslo"}),
        ("[" * 5000, {"value": "[" * 5000}),
        ('{"a":' * 70 + "1" + "}" * 70, {"value": '{"a":' * 70 + "1" + "}" * 70}),
    ],
    ids=lambda value: str(value)[:30],
)
def test_arguments_are_an_object_whatever_the_model_wrote(text: str, value: dict[str, Any]) -> None:
    calls = (ToolCall("c", "f", text),)
    _, body = asked(messages=(RichMessage("assistant", tool_calls=calls),))
    assert body["messages"][0]["tool_calls"][0]["function"]["arguments"] == value


# --- bare prompts -------------------------------------------------------------------------------------------------

GENERATE = {"model": "resident", "prompt": "Hi", "stream": False, "truncate": False}
SYSTEM = (Message("system", "Be brief"), *HI)


def test_a_bare_prompt_is_generated_where_no_thoughts_can_come() -> None:
    unthinking = Ollama(thinks={"resident": False}.get)
    assert asked(unthinking, completion=True) == ("/api/generate", GENERATE)
    assert asked(completion=True, thinking="off") == ("/api/generate", GENERATE | {"think": False})
    assert asked(unthinking, completion=True, messages=SYSTEM)[1] == GENERATE | {"system": "Be brief"}


@pytest.mark.parametrize("thinks", [None, True])
@pytest.mark.parametrize("thinking", [None, "on", "high"])
def test_a_bare_prompt_is_a_chat_where_thoughts_may_come(thinks: bool | None, thinking: Thinking | None) -> None:
    """`/api/generate` leaves the thoughts of models with a native template in the result."""
    path, body = asked(Ollama(thinks=lambda model: thinks), completion=True, messages=SYSTEM, thinking=thinking)
    assert path == "/api/chat"
    assert [message["content"] for message in body["messages"]] == ["Be brief", "Hi"]


@pytest.mark.parametrize(
    "fields",
    [
        {"completion": False},
        {"completion": True, "tools": (Tool("f"),)},
        {"completion": True, "messages": (*HI, *HI)},
        {"completion": True, "messages": (Message("assistant", "Hi"),)},
    ],
    ids=str,
)
def test_what_is_no_bare_prompt_is_a_chat(fields: dict[str, Any]) -> None:
    assert asked(thinking="off", **fields)[0] == "/api/chat"


def test_a_bare_prompt_keeps_its_options_and_images() -> None:
    request = Prompt().parse_request(b'{"prompt":"Hi","options":{"think":false,"format":"json","num_predict":5}}', "m")
    path, body = DIALECT.render_request(request, "m")
    assert path == "/api/generate"
    assert json.loads(body) == {
        "model": "m",
        "prompt": "Hi",
        "stream": False,
        "truncate": False,
        "think": False,
        "format": {"type": "object"},
        "options": {"num_predict": 5},
    }
    with_image = CONVERSATIONS["an image alone"].chat
    assert asked(completion=True, thinking="off", messages=with_image)[1]["images"] == [PIXEL]
