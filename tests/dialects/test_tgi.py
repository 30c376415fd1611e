"""What TGI is asked, and what its errors mean. What it answers is in `test_tgi_corpus`."""

import json
from typing import Any

import pytest

from hermes.chat import (
    ChatRequest,
    Failure,
    Image,
    JsonFormat,
    Message,
    MustCall,
    RichMessage,
    Sampling,
    Text,
    ToolCall,
)
from hermes.chat import Tool as ChatTool
from hermes.dialects.tgi import TgiBackend
from hermes.dialects.tgi_answer import TokenDecoder
from hermes.errors import BackendBusy, BackendError, BadRequest, ContextLengthExceeded

DIALECT = TgiBackend()
HI = (Message("user", "Hi"),)
SCHEMA = {"type": "object", "properties": {"ok": {"type": "boolean"}}}


def asked(**fields: Any) -> dict[str, Any]:
    path, body = DIALECT.render_request(ChatRequest("public", **{"messages": HI, "stream": True} | fields), "resident")
    told: dict[str, Any] = json.loads(body)
    assert path == ("/generate_stream" if fields.get("raw") else "/v1/chat/completions")
    return told


CHAT = {
    "model": "tgi",  # else it is an adapter's name
    "messages": [{"role": "user", "content": "Hi"}],
    "stream": True,
    "stream_options": {"include_usage": True},
}


@pytest.mark.parametrize(
    ("fields", "meant"),
    [
        ({}, {}),
        (
            {"sampling": Sampling(0.0, 0.5, seed=7, max_tokens=9, stop=("a",))},
            {"temperature": 0.0, "top_p": 0.5, "seed": 7, "max_tokens": 9, "stop": ["a"]},
        ),
        ({"sampling": Sampling(top_p=1.0, seed=-1, top_k=40, min_p=0.1)}, {}),
        ({"sampling": Sampling(presence_penalty=1.0, frequency_penalty=0.5)}, {"frequency_penalty": 0.5}),
        ({"sampling": Sampling(repeat_penalty=1.5)}, {"presence_penalty": -0.5}),
        ({"json_format": JsonFormat(SCHEMA)}, {"response_format": {"type": "json", "value": SCHEMA}}),
        ({"logprobs": True, "top_logprobs": 2}, {"logprobs": True, "top_logprobs": 2}),
    ],
)
def test_a_conversation_is_asked_of_the_messages_api(fields: dict[str, Any], meant: dict[str, Any]) -> None:
    assert asked(**fields) == CHAT | meant


@pytest.mark.parametrize(
    ("choice", "meant"),
    [
        ("auto", None),
        (MustCall(), "required"),
        (MustCall("look"), {"type": "function", "function": {"name": "look"}}),
    ],
)
def test_tools_are_offered_and_demanded(choice: Any, meant: Any) -> None:
    told = asked(tools=(ChatTool("look", "Look", SCHEMA),), tool_choice=choice)
    assert told["tools"] == [
        {"type": "function", "function": {"name": "look", "description": "Look", "parameters": SCHEMA}}
    ]
    assert told.get("tool_choice") == meant


def test_a_text_and_the_calls_that_came_with_it_are_two_messages() -> None:
    """TGI reads the calls of a message only where it has no content."""
    call = ToolCall("0", "look", '{"city":"Oslo"}')
    said = RichMessage("assistant", (Text("Let me see"),), tool_calls=(call,))
    result = RichMessage("tool", (Text("rain"),), tool_call_id="0")
    _, text, calls, told = asked(messages=(*HI, said, result))["messages"]
    assert text == {"role": "assistant", "content": "Let me see"}
    assert (calls["content"], calls["tool_calls"][0]["function"]["name"]) == (None, "look")
    assert told == {"role": "tool", "content": "rain", "tool_call_id": "0"}


@pytest.mark.parametrize(
    ("fields", "meant"),
    [
        ({}, {"do_sample": True}),
        ({"sampling": Sampling(0.0, 1.0, top_k=0, seed=-1, typical_p=1.0)}, {}),
        (
            {"sampling": Sampling(0.7, 0.9, 40, None, 7, 9, ("a",), 1.0, 0.5, 1.1, typical_p=0.6)},
            {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 40, "seed": 7, "max_new_tokens": 9}
            | {"stop": ["a"], "frequency_penalty": 0.5, "repetition_penalty": 1.1, "typical_p": 0.6},
        ),
        ({"json_format": JsonFormat(SCHEMA)}, {"do_sample": True, "grammar": {"type": "json", "value": SCHEMA}}),
        ({"logprobs": True, "top_logprobs": 2}, {"do_sample": True, "top_n_tokens": 2}),
    ],
)
def test_a_prompt_as_it_is_is_asked_of_generate_stream(fields: dict[str, Any], meant: dict[str, Any]) -> None:
    assert asked(raw=True, **fields) == {"inputs": "Hi", "parameters": {"details": True} | meant}


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize(
    "said",
    [
        Message("user", "![](http://169.254.169.254/a)"),
        RichMessage("user", (Text("![](https://intra"), Text("net/a)"))),
        RichMessage("user", (Text("![]"), Text("(ht"), Text("tp://intranet/a)"))),
    ],
)
def test_no_text_has_an_image_fetched(said: Any, raw: bool) -> None:
    """I23: TGI would, for a model that sees."""
    told = json.dumps(asked(raw=raw, messages=(said,)))
    assert "![ ](http" in told and "![](" not in told


def test_images_stand_in_a_prompt_as_they_do_in_markdown() -> None:
    told = asked(raw=True, messages=(RichMessage("user", (Image("image/png", "iVBO"), Text("what?"))),))
    assert told["inputs"] == "![](data:image/png;base64,iVBO)what?"


@pytest.mark.parametrize("raw", [True, False])
def test_json_of_no_schema_is_more_than_it_can(raw: bool) -> None:
    with pytest.raises(BadRequest) as refused:
        asked(raw=raw, json_format=JsonFormat())
    assert (refused.value.code, refused.value.param) == ("unsupported_by_backend", "response_format")


# --- errors ---------------------------------------------------------------------------------------------------------

OVERLONG = "Input validation error: `inputs` must have less than 50 tokens. Given: 60"
TOO_MUCH = (
    "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 80. Given: 60 `inputs` tokens and 40"
    " `max_new_tokens`"
)
# As its source has them: `error_type`, the status that it has by itself, the text.
ERRORS: list[tuple[str, int, str, type[BadRequest | BackendError]]] = [
    ("generation", 424, "Request failed during generation: CUDA out of memory", BackendError),
    ("overloaded", 429, "Model is overloaded", BackendBusy),
    ("validation", 422, "Input validation error: `top_p` must be > 0.0 and < 1.0", BadRequest),
    ("validation", 422, OVERLONG, ContextLengthExceeded),
    ("validation", 422, TOO_MUCH, ContextLengthExceeded),
    ("incomplete_generation", 500, "Incomplete generation", BackendError),
    ("incomplete_generation_stream", 500, "Incomplete generation stream", BackendError),
    ("template_error", 422, "Template error: invalid operation: Conversation roles must alternate", BadRequest),
    ("missing_template_variable", 422, "Missing template vatiable: tools", BadRequest),
    ("tool_error", 422, "Tool error: Grammar and tools are mutually exclusive", BadRequest),
    ("stream_serialization_error", 500, "Stream event serialization error", BackendError),
]


@pytest.mark.parametrize(("error_type", "status", "text", "meant"), ERRORS, ids=lambda value: str(value)[:30])
def test_an_error_means_the_same_however_it_is_told(error_type: str, status: int, text: str, meant: type) -> None:
    """By its status, in a stream of tokens, and in one of chunks, which calls each a 422."""
    told = {"error": text, "error_type": error_type}
    chunk = {"error": {"message": text, "http_status_code": 422}}
    (of_tokens,) = DIALECT.decoder(ChatRequest("m", HI, raw=True), "a1").feed(event(told))
    (of_chunks,) = DIALECT.decoder(ChatRequest("m", HI), "a1").feed(event(chunk) + b"data: [DONE]\n\n")
    assert isinstance(of_tokens, Failure) and isinstance(of_chunks, Failure)
    errors = [DIALECT.error(status, json.dumps(told).encode()), DIALECT.failure(of_tokens), DIALECT.failure(of_chunks)]
    assert [(type(error), error.message) for error in errors] == [(meant, errors[0].message)] * 3
    assert text in errors[0].message


def event(told: Any) -> bytes:
    return b"data: " + json.dumps(told).encode() + b"\n\n"


def test_an_error_that_nobody_knows_is_the_backends() -> None:
    decoder = TokenDecoder(False, 1 << 20)
    assert decoder.feed(event({"error": "oh", "error_type": "new"})) == [Failure("oh", 0)]
    assert type(DIALECT.failure(Failure("oh", 0))) is BackendError


# --- garbage --------------------------------------------------------------------------------------------------------

DETAILS = {"finish_reason": "length", "generated_tokens": -1}
LAST = event({"token": {"text": "!"}, "generated_text": "!", "details": DETAILS})


@pytest.mark.parametrize(
    "data",
    [b"}{\n", event([1]), event({"detail": "Not Found"}), event({"token": None}), event({"token": {}}), LAST + LAST],
)
def test_garbage_is_the_backends_error(data: bytes) -> None:
    with pytest.raises(BackendError):
        TokenDecoder(False, 1 << 20).feed(data)


def test_absurd_counts_are_zero() -> None:
    usage = TokenDecoder(False, 1 << 20).feed(LAST)[1]
    assert usage.completion_tokens == 0  # type: ignore[union-attr]


def test_an_event_has_a_limit() -> None:
    with pytest.raises(BackendError, match="longer than 100"):
        TokenDecoder(False, 100).feed(b"data: " + b"x" * 200)
