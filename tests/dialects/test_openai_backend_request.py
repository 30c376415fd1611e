"""What OpenAI-compatible servers are asked: OpenAI's own fields, and more only where it is known to be taken."""

import json
from typing import Any

import pytest

from hermes.chat import (
    ChatRequest,
    EmbedRequest,
    JsonFormat,
    Message,
    MustCall,
    RichMessage,
    Sampling,
    Text,
    Tool,
    ToolCall,
)
from hermes.dialects import BackendDialect
from hermes.dialects.openai import OpenAI
from hermes.dialects.openai_backend import LLAMACPP, OPENAI, VLLM, OpenAIBackend, Words, _Asked
from tests.dialects.cases import CONVERSATIONS, Said

DIALECT: BackendDialect = OpenAIBackend()
HI = (Message("user", "Hi"),)
CHAT = {"model": "resident", "messages": [{"role": "user", "content": "Hi"}]}


def asked(dialect: BackendDialect = DIALECT, /, **fields: Any) -> dict[str, Any]:
    path, body = dialect.render_request(ChatRequest("public", **{"messages": HI} | fields), "resident")
    assert path == "/v1/chat/completions"
    told: dict[str, Any] = json.loads(body)
    return told


def test_the_least_request_is_this_one() -> None:
    assert asked() == CHAT


def test_a_stream_is_always_asked_for_its_counts() -> None:
    assert asked(stream=True, include_usage=False) == CHAT | {"stream": True, "stream_options": {"include_usage": True}}


SCHEMA = {"type": "array", "minItems": 1}
LOOK = {"name": "f", "description": "F", "parameters": {"type": "object", "required": ["a"]}}
BARE = {"name": "g", "description": "", "parameters": {"type": "object", "properties": {}}}


@pytest.mark.parametrize(
    ("fields", "meant"),
    [
        (
            {"sampling": Sampling(0.0, 0.5, None, None, 7, 9, ("a", "b"), 1.0, -1.0, None)},
            {
                "temperature": 0.0,
                "top_p": 0.5,
                "seed": 7,
                "max_tokens": 9,
                "stop": ["a", "b"],
                "presence_penalty": 1.0,
                "frequency_penalty": -1.0,
            },
        ),
        ({"json_format": JsonFormat()}, {"response_format": {"type": "json_object"}}),
        (
            {"json_format": JsonFormat(SCHEMA)},
            {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}},
        ),
        ({"logprobs": True, "top_logprobs": 5}, {"logprobs": True, "top_logprobs": 5}),
        ({"logprobs": True}, {"logprobs": True}),
        (
            {"tools": (Tool("f", "F", {"type": "object", "required": ["a"]}), Tool("g"))},
            {"tools": [{"type": "function", "function": LOOK}, {"type": "function", "function": BARE}]},
        ),
        ({"tools": (Tool("f"),), "tool_choice": "none"}, {}),
        ({"completion": True}, {}),
        ({"priority": 5, "service_tier": "flex"}, {}),
    ],
    ids=lambda value: str(value)[:50],
)
def test_fields_are_passed_on_to_every_kind(fields: dict[str, Any], meant: dict[str, Any]) -> None:
    for words in (OPENAI, VLLM, LLAMACPP):
        assert asked(OpenAIBackend(words), **fields) == CHAT | meant


def test_a_call_is_demanded_in_the_words_of_each() -> None:
    tools = (Tool("f"), Tool("g"))
    named = {"type": "function", "function": {"name": "g"}}
    for words in (OPENAI, VLLM, LLAMACPP):
        told = asked(OpenAIBackend(words), tools=tools, tool_choice=MustCall())
        assert (told["tool_choice"], len(told["tools"])) == ("required", 2)
    for words in (OPENAI, VLLM):
        told = asked(OpenAIBackend(words), tools=tools, tool_choice=MustCall("g"))
        assert (told["tool_choice"], len(told["tools"])) == (named, 2)
    told = asked(OpenAIBackend(LLAMACPP), tools=tools, tool_choice=MustCall("g"))
    assert (told["tool_choice"], told["tools"]) == ("required", [{"type": "function", "function": BARE}])


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (OPENAI, {}),
        (VLLM, {"top_k": 40, "min_p": 0.0, "repetition_penalty": 1.1}),
        (LLAMACPP, {"top_k": 40, "min_p": 0.0, "repeat_penalty": 1.1}),
    ],
)
def test_what_is_beyond_openais_api_is_said_by_the_names_of_those_that_take_it(words: Any, meant: Any) -> None:
    sampling = Sampling(top_k=40, min_p=0.0, repeat_penalty=1.1)
    assert asked(OpenAIBackend(words), sampling=sampling) == CHAT | meant


@pytest.mark.parametrize(
    ("thinking", "template", "effort"),
    [
        (None, {}, {}),
        ("off", {"enable_thinking": False}, {"reasoning_effort": "none"}),
        ("on", {"enable_thinking": True}, {}),
        ("low", {"enable_thinking": True}, {"reasoning_effort": "low"}),
        ("max", {"enable_thinking": True}, {"reasoning_effort": "high"}),
    ],
)
def test_thinking_is_asked_of_the_template_where_there_is_one(
    thinking: Any, template: dict[str, Any], effort: dict[str, str]
) -> None:
    assert asked(thinking=thinking) == CHAT | effort
    said = {} if thinking == "off" else effort
    for words in (VLLM, LLAMACPP):
        told = asked(OpenAIBackend(words), thinking=thinking)
        assert told == CHAT | said | ({"chat_template_kwargs": template} if template else {})


def test_what_a_client_wrote_is_passed_on_where_it_is_known_to_be_taken() -> None:
    everywhere = {"logit_bias": {"5": -100}, "parallel_tool_calls": False}
    vllms = {"structured_outputs": {"choice": ["a", "b"]}, "stop_token_ids": [7]}
    llamacpps = {"grammar": 'root ::= "a"', "mirostat": 2}
    # How long an answer gets, whose slot it takes: not by names that nobody looks at here.
    never = {"n_predict": 10**6, "id_slot": 0, "store": True, "best_of": 9, "lora": [], "session_id": "x"}
    never |= {"mm_processor_kwargs": {"max_pixels": 10**12}, "chat_template": "{{ x }}", "cache_salt": "x"}
    told = everywhere | vllms | llamacpps | never
    assert asked(OpenAIBackend(OPENAI), extra=told) == CHAT | everywhere
    assert asked(OpenAIBackend(VLLM), extra=told) == CHAT | everywhere | vllms
    assert asked(OpenAIBackend(LLAMACPP), extra=told) == CHAT | everywhere | llamacpps
    assert asked(extra=never) == CHAT


def test_what_is_passed_on_never_takes_the_place_of_what_is_said_here() -> None:
    for words in (OPENAI, VLLM, LLAMACPP):
        assert not words.takes & set(_Asked.__struct_fields__)


def test_a_template_is_told_what_the_client_tells_it_and_how_to_think() -> None:
    extra = {"chat_template_kwargs": {"enable_thinking": False, "tone": "dry"}}
    for words in (VLLM, LLAMACPP):
        told = asked(OpenAIBackend(words), extra=extra, thinking="on")
        assert told == CHAT | {"chat_template_kwargs": {"enable_thinking": True, "tone": "dry"}}
    assert asked(extra=extra, thinking="on") == CHAT


@pytest.mark.parametrize("name", ["chat_template", "tokenize", "messages", "tools", "return_dict", "truncation"])
def test_a_client_cannot_set_another_template_or_what_else_is_not_the_templates_own(name: str) -> None:
    """Older vLLMs take the template from here, whatever the operator says, and answer 500 to others."""
    for words in (VLLM, LLAMACPP):
        assert asked(OpenAIBackend(words), extra={"chat_template_kwargs": {name: "{{ x }}"}}) == CHAT


def test_thinking_that_may_be_left_out_is_where_it_might_be_refused() -> None:
    optional = {"thinking": "high", "thinking_optional": True}
    assert asked(**optional) == CHAT
    assert asked(OpenAIBackend(VLLM), **optional)["reasoning_effort"] == "high"


# --- messages -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_messages_mean_the_same_to_who_reads_them(said: Said) -> None:
    body = json.dumps(asked(OpenAIBackend(LLAMACPP), messages=said.chat)).encode()
    read = OpenAI().parse_request(body).messages
    assert [*map(normal, read)] == [*map(normal, said.chat)]


def normal(message: Message | RichMessage) -> Any:
    """Without what the API cannot say: where a text has no parts, which function a result is of, absent arguments."""
    if isinstance(message, Message):
        return message.role, (Text(message.content),) if message.content else (), "", ()
    parts = message.parts if message.parts != (Text(""),) else ()
    calls = tuple((call.id, call.name, json.loads(call.arguments or "{}")) for call in message.tool_calls)
    return message.role, parts, message.reasoning, calls or message.tool_call_id or ()


def test_earlier_thoughts_go_only_where_they_are_wanted_and_by_the_right_name() -> None:
    thought = (RichMessage("assistant", (Text("Hm"),), reasoning="why?"),)
    said = {"role": "assistant", "content": "Hm"}
    assert asked(messages=thought)["messages"] == [said]
    assert asked(OpenAIBackend(VLLM), messages=thought)["messages"] == [said | {"reasoning": "why?"}]
    assert asked(OpenAIBackend(LLAMACPP), messages=thought)["messages"] == [said | {"reasoning_content": "why?"}]


def test_calls_without_ids_get_some_and_so_do_their_results() -> None:
    """Ollama's clients know results by the names of functions, or by their order alone."""
    calls = tuple(ToolCall("", name, "{}") for name in ("look", "now", "look"))
    answers = [RichMessage("tool", (Text(name),), tool_name=name) for name in ("now", "look", "", "more")]
    told = asked(messages=(*HI, RichMessage("assistant", tool_calls=calls), *answers))["messages"]
    first, second, third = [call["id"] for call in told[1]["tool_calls"]]
    assert len({first, second, third}) == 3
    assert [result["tool_call_id"] for result in told[2:]] == [second, first, third, "call"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", "{}"),
        (" ", "{}"),
        ('{"a": {"b":[1,2.5,null]}}', '{"a":{"b":[1,2.5,null]}}'),
        ("[1]", '{"value":[1]}'),
        ("null", '{"value":null}'),
        ('{"a":', '{"value":"{\\"a\\":"}'),
        ("[" * 5000, '{"value":"' + "[" * 5000 + '"}'),
        ('{"a":' * 70 + "1" + "}" * 70, json.dumps({"value": '{"a":' * 70 + "1" + "}" * 70}).replace(": ", ":", 1)),
    ],
    ids=lambda value: str(value)[:30],
)
def test_arguments_are_an_object_whatever_the_model_wrote(text: str, value: str) -> None:
    told = asked(messages=(RichMessage("assistant", tool_calls=(ToolCall("c", "f", text),)),))
    assert told["messages"][0]["content"] is None
    assert told["messages"][0]["tool_calls"][0]["function"]["arguments"] == value


# --- embeddings -----------------------------------------------------------------------------------------------------


def asked_to_embed(words: Words = OPENAI, **fields: Any) -> dict[str, Any]:
    path, body = OpenAIBackend(words).render_embed(EmbedRequest("public", ("a", "b"), **fields), "resident")
    assert path == "/v1/embeddings"
    told: dict[str, Any] = json.loads(body)
    return told


@pytest.mark.parametrize("words", [OPENAI, VLLM, LLAMACPP])
def test_vectors_are_asked_for_as_numbers_however_the_client_wants_them(words: Words) -> None:
    least = {"model": "resident", "input": ["a", "b"]}
    assert asked_to_embed(words, base64=True) == least
    assert asked_to_embed(words, dimensions=64) == least | {"dimensions": 64}


def test_a_text_is_cut_where_the_server_can() -> None:
    assert asked_to_embed(VLLM, truncate=True)["truncate_prompt_tokens"] == -1
    for words in (OPENAI, LLAMACPP):
        assert "truncate_prompt_tokens" not in asked_to_embed(words, truncate=True)
