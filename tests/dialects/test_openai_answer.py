"""Chat completions as OpenAI documents them: whole, in chunks, and as errors."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes.chat import (
    Answer,
    ChatRequest,
    Failure,
    ReasoningDelta,
    Stop,
    StreamEvent,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    Usage,
)
from hermes.dialects import Encoder, Meta
from hermes.dialects.openai import OpenAI
from hermes.errors import (
    BackendError,
    BadRequest,
    ContextLengthExceeded,
    Forbidden,
    GatewayError,
    ModelNotFound,
    QueueFull,
    QueueTimeout,
    Unauthenticated,
)
from tests.dialects.cases import ANSWERS, Told

DIALECT = OpenAI()
ASKED = ChatRequest("m", ())
META = Meta("r1", 'mo"del', 1700000000)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


def encoder(include_usage: bool = False) -> Encoder:
    return DIALECT.encoder(ChatRequest("m", (), stream=True, include_usage=include_usage), META)


def payloads(stream: bytes) -> list[Any]:
    """What a strict reader sees: each event one `data` line, closed by one empty line."""
    assert stream.endswith(b"\n\n")
    events = stream[:-2].split(b"\n\n")
    assert all(event.startswith(b"data: ") and b"\n" not in event and b"\r" not in event for event in events)
    return [event[6:] if event == b"data: [DONE]" else json.loads(event[6:]) for event in events]


@pytest.mark.parametrize("told", ANSWERS.values(), ids=ANSWERS)
@pytest.mark.parametrize("one_by_one", [True, False])
def test_events_become_chunks(told: Told, one_by_one: bool) -> None:
    opened = encoder()
    batches = [[event] for event in told.events] if one_by_one else [told.events]
    *chunks, done = payloads(b"".join([opened.encode(batch) for batch in batches]))
    assert done == b"[DONE]"
    for chunk in chunks:
        head = {key: chunk[key] for key in ("id", "object", "created", "model")}
        assert head == {
            "id": "chatcmpl-r1",
            "object": "chat.completion.chunk",
            "created": 1700000000,
            "model": 'mo"del',
        }
        assert "usage" not in chunk
    choices = [chunk["choices"][0] for chunk in chunks]
    assert all(choice["index"] == 0 for choice in choices)
    opening = ({"role": "assistant", "content": ""}, None)
    assert [(choice["delta"], choice["finish_reason"]) for choice in choices] == [opening, *told.openai]


def test_a_stream_with_usage_is_this_one_byte_for_byte() -> None:
    events: list[StreamEvent] = [TextDelta('Hi "you"'), Usage(22, 3), Stop("stop")]
    same = '{"id":"chatcmpl-r1","object":"chat.completion.chunk","created":1700000000,"model":"mo\\"del","choices":['
    head, going_on = f'data: {same}{{"index":0,"delta":', '"finish_reason":null}],"usage":null}'
    assert encoder(include_usage=True).encode(events).decode() == (
        f'{head}{{"role":"assistant","content":""}},{going_on}\n\n'
        f'{head}{{"content":"Hi \\"you\\""}},{going_on}\n\n'
        f'{head}{{}},"finish_reason":"stop"}}],"usage":null}}\n\n'
        f'data: {same}],"usage":{{"prompt_tokens":22,"completion_tokens":3,"total_tokens":25}}}}\n\n'
        "data: [DONE]\n\n"
    )


@given(st.lists(st.tuples(st.booleans(), TEXTS)), st.booleans())
def test_any_text_comes_back_from_the_chunks_as_it_went_in(pieces: list[tuple[bool, str]], usage: bool) -> None:
    deltas = [TextDelta(text) if said else ReasoningDelta(text) for said, text in pieces]
    chunks = payloads(encoder(usage).encode([*deltas, Usage(), Stop("stop")]))[:-1]
    seen = [choice["delta"] for chunk in chunks for choice in chunk["choices"]][1:-1]
    expected = [{"content": text} if said else {"reasoning_content": text, "reasoning": text} for said, text in pieces]
    assert seen == expected


def test_logprobs_ride_on_their_chunk() -> None:
    item = {"token": "a", "logprob": -1.0, "bytes": [97], "top_logprobs": []}
    chunk = payloads(encoder().encode([TextDelta("a", (item,))]))[1]
    assert chunk["choices"][0]["delta"] == {"content": "a"}
    assert chunk["choices"][0]["logprobs"] == {"content": [item], "refusal": None}


def test_later_pieces_of_a_call_carry_only_index_and_arguments() -> None:
    events: list[StreamEvent] = [ToolCallDelta(0, '{"a"', "c", "f"), ToolCallDelta(0, ":1}")]
    later = payloads(encoder().encode(events))[2]
    assert later["choices"][0]["delta"] == {"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]}


def test_nothing_yet_is_no_bytes() -> None:
    opened = encoder()
    assert opened.encode([]) == b""
    assert opened.encode([Usage(1, 1)]).count(b"data:") == 1


@pytest.mark.parametrize("said", [[], [TextDelta("half an ans")]])
def test_a_stream_that_fails_never_looks_done(said: list[StreamEvent]) -> None:
    """I5: the error is the last event, and there is no [DONE]."""
    opened = encoder(include_usage=True)
    stream = opened.encode(said) + opened.fail(BackendError("the backend went away"))
    assert b"[DONE]" not in stream
    assert payloads(stream)[-1] == {
        "error": {"message": "the backend went away", "type": "server_error", "param": None, "code": "backend_error"}
    }


def test_what_is_told_of_the_wait_is_a_comment_to_whoever_reads_events() -> None:
    """WHATWG HTML 9.2.6: a line that begins with a colon is ignored, a blank line without data before it is nothing."""
    assert DIALECT.queued(3, 4200, META) == b": queued position=3 eta_ms=4200\n\n"
    assert DIALECT.encoder(ChatRequest("m", ()), META).aside("queue-ms=3") == b": queue-ms=3\n\n"


def test_a_failure_among_the_events_is_an_error_too() -> None:
    assert payloads(encoder().encode([Failure("out of memory")]))[-1]["error"]["message"] == "out of memory"


# --- whole --------------------------------------------------------------------------------------------------------


def test_a_whole_answer_has_the_documented_shape() -> None:
    answer = Answer("Hello", "", (), Usage(22, 17, 0.1, 0.2, 0.3), "stop")
    assert json.loads(DIALECT.render_answer(answer, ASKED, META)) == {
        "id": "chatcmpl-r1",
        "object": "chat.completion",
        "created": 1700000000,
        "model": 'mo"del',
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 22, "completion_tokens": 17, "total_tokens": 39},
    }


@pytest.mark.parametrize(
    ("text", "calls", "content"),
    [("", (), ""), ("Hm", (ToolCall("c", "f", "{}"),), "Hm"), ("", (ToolCall("c", "f", "{}"),), None)],
)
def test_content_is_null_only_where_there_are_calls_and_no_text(
    text: str, calls: tuple[ToolCall, ...], content: str | None
) -> None:
    choice = json.loads(DIALECT.render_answer(Answer(text, "", calls, Usage(), "stop"), ASKED, META))["choices"][0]
    assert choice["message"]["content"] == content
    assert choice["finish_reason"] == ("tool_calls" if calls else "stop")
    if calls:
        function = {"name": "f", "arguments": "{}"}
        assert choice["message"]["tool_calls"] == [{"id": "c", "type": "function", "function": function}]


def test_reasoning_and_logprobs_are_told_by_the_names_clients_read() -> None:
    item = {"token": "a", "logprob": -1.0, "bytes": [97], "top_logprobs": []}
    answer = Answer("a", "why", (), Usage(), "length", (item,))
    choice = json.loads(DIALECT.render_answer(answer, ASKED, META))["choices"][0]
    assert choice["message"]["reasoning"] == choice["message"]["reasoning_content"] == "why"
    assert choice["logprobs"] == {"content": [item], "refusal": None}
    assert choice["finish_reason"] == "length"


# --- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "kind", "param", "code"),
    [
        (BadRequest("no", param="n"), "invalid_request_error", "n", "invalid_value"),
        (Unauthenticated("no"), "invalid_request_error", None, "invalid_api_key"),
        (Forbidden("no", code="model_not_allowed"), "permission_error", None, "model_not_allowed"),
        (ModelNotFound("no", param="model"), "invalid_request_error", "model", "model_not_found"),
        (QueueFull("no"), "rate_limit_error", None, "queue_full"),
        (GatewayError("no"), "server_error", None, "internal_error"),
        (BackendError("no"), "server_error", None, "backend_error"),
        (QueueTimeout("no"), "server_error", None, "queue_timeout"),
    ],
)
def test_an_error_has_all_four_keys(error: GatewayError, kind: str, param: str | None, code: str) -> None:
    assert json.loads(DIALECT.render_error(error, "r1")) == {
        "error": {"message": "no", "type": kind, "param": param, "code": code}
    }


@pytest.mark.parametrize("words", ["request (620 tokens) exceeds it", "over the maximum context length of 8"])
def test_an_overlong_prompt_is_told_in_the_words_that_clients_match(words: str) -> None:
    error = json.loads(DIALECT.render_error(ContextLengthExceeded(words), "r1"))["error"]
    assert error["code"] == "context_length_exceeded"
    assert error["message"].count("maximum context length") == 1 and words in error["message"]


def test_tokens_that_had_been_read_before_are_told_where_there_are_any() -> None:
    usage = Usage(22, 3, cached_tokens=20)
    whole = json.loads(DIALECT.render_answer(Answer("Hi", "", (), usage, "stop"), ASKED, META))
    (*_, last) = payloads(encoder(True).encode([TextDelta("Hi"), usage, Stop("stop")]))[:-1]
    assert whole["usage"] == last["usage"]
    assert whole["usage"]["prompt_tokens_details"] == {"cached_tokens": 20}
    assert whole["usage"]["prompt_tokens"] == 22
