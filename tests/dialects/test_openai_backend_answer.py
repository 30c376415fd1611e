"""Answers of OpenAI-compatible servers, whole and streamed, however the bytes are cut; and what is none (I15).

The shapes are those of the servers that are named; what a real llama-server sends is in `test_corpus`.
"""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from hermes.chat import (
    Answer,
    ChatRequest,
    Embeddings,
    EmbedRequest,
    Failure,
    ReasoningDelta,
    Stop,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    Usage,
    collect,
)
from hermes.dialects import Decoder, Meta
from hermes.dialects.anthropic import Anthropic
from hermes.dialects.openai_backend import OpenAIBackend
from hermes.dialects.openai_backend_answer import AnswerDecoder
from hermes.dialects.responses import Responses
from hermes.errors import BackendError, BadRequest

DIALECT = OpenAIBackend()
STREAMED = ChatRequest("m", (), stream=True)
WHOLE = ChatRequest("m", ())


def decoder() -> Decoder:
    return DIALECT.decoder(STREAMED, "answer7")


def decode(*chunks: bytes) -> list[StreamEvent]:
    reading = decoder()
    return [event for chunk in chunks for event in reading.feed(chunk)] + reading.finish()


def chunk(
    delta: dict[str, Any], finish: str | None = None, lone: dict[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    """`lone`: what else its one choice says."""
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish} | (lone or {})
    return head | {"choices": [choice]} | more


def piece(index: int | None, arguments: Any, **more: Any) -> dict[str, Any]:
    """A piece of a call. `id` and `name` come with the first."""
    function = {"arguments": arguments} | ({"name": more.pop("name")} if "name" in more else {})
    return {"tool_calls": [({} if index is None else {"index": index}) | more | {"function": function}]}


def event(told: Any) -> bytes:
    data = told if isinstance(told, str) else json.dumps(told, ensure_ascii=False)
    return f"data: {data}\n\n".encode()


COUNTS = {"choices": [], "usage": {"prompt_tokens": 22, "completion_tokens": 3, "total_tokens": 25}}
DONE = event("[DONE]")
OPEN = chunk({"role": "assistant", "content": ""})
LOGPROB = {"token": "é", "logprob": -0.25, "bytes": [195, 169], "top_logprobs": []}
ONE_LOGPROB = {"choices": [{"index": 0, "delta": {"content": "é"}, "logprobs": {"content": [LOGPROB]}}]}


class Told(Struct):
    chunks: list[dict[str, Any]]
    events: list[StreamEvent]
    done: bool = True


ANSWERS = {
    "vLLM: the reason comes with the last text": Told(
        [OPEN, chunk({"content": "Hello,"}), chunk({"content": " é\u2028\n"}, "stop", {"stop_reason": None}), COUNTS],
        [TextDelta("Hello,"), TextDelta(" é\u2028\n"), Usage(22, 3), Stop("stop")],
    ),
    "llama.cpp: the reason comes alone, times with the counts": Told(
        [
            chunk({"role": "assistant", "content": None}),
            chunk({"content": "Hel"}),
            chunk({}, "length"),
            COUNTS | {"timings": {"prompt_n": 22, "prompt_ms": 500.0, "predicted_n": 3, "predicted_ms": 1500.0}},
        ],
        [TextDelta("Hel"), Usage(22, 3, 0.0, 0.5, 1.5), Stop("length")],
    ),
    "transformers: no [DONE], counts with the reason": Told(
        [chunk({"role": "assistant"}), chunk({"content": "Hel"}), chunk({}, "stop", usage=COUNTS["usage"])],
        [TextDelta("Hel"), Usage(22, 3), Stop("stop")],
        done=False,
    ),
    "no counts at all": Told([chunk({"content": "Hel"}, "stop")], [TextDelta("Hel"), Usage(), Stop("stop")]),
    "counts all along": Told(
        [chunk({"content": "Hel"}, usage={"prompt_tokens": 22, "completion_tokens": 1}), chunk({}, "stop"), COUNTS],
        [TextDelta("Hel"), Usage(22, 3), Stop("stop")],
    ),
    "thoughts, by either name": Told(
        [
            chunk({"reasoning_content": "let"}),
            chunk({"reasoning": " me", "content": None}),
            chunk({"reasoning": "!", "reasoning_content": "!"}),
            chunk({"content": "Yes"}, "stop"),
        ],
        [ReasoningDelta("let"), ReasoningDelta(" me"), ReasoningDelta("!"), TextDelta("Yes"), Usage(), Stop("stop")],
    ),
    "a call in pieces": Told(
        [
            chunk(piece(0, "", id="c1", type="function", name="look")),
            chunk(piece(0, '{"city":')),
            chunk(piece(0, '"Oslo"}')),
            chunk({}, "tool_calls"),
        ],
        [
            ToolCallDelta(0, "", "c1", "look"),
            ToolCallDelta(0, '{"city":'),
            ToolCallDelta(0, '"Oslo"}'),
            Usage(),
            Stop("tool_calls"),
        ],
    ),
    "vLLM: which text ended it": Told(
        [chunk({"content": "Hel"}), chunk({"content": ""}, "stop", lone={"stop_reason": "END"}), COUNTS],
        [TextDelta("Hel"), Usage(22, 3), Stop("stop", "END")],
    ),
    "SGLang: the same in its word": Told(
        [chunk({"content": "Hel"}, "stop", lone={"matched_stop": "END"}), COUNTS],
        [TextDelta("Hel"), Usage(22, 3), Stop("stop", "END")],
    ),
    "a token ended it, which is no text": Told(
        [chunk({"content": "Hel"}, "stop", lone={"stop_reason": 151645, "matched_stop": 2}), COUNTS],
        [TextDelta("Hel"), Usage(22, 3), Stop("stop")],
    ),
    "vLLM: a call that was demanded ends with stop": Told(
        [chunk(piece(0, "{}", id="c1", name="now")), chunk({"tool_calls": [], "content": ""}, "stop")],
        [ToolCallDelta(0, "{}", "c1", "now"), Usage(), Stop("stop")],
    ),
    "llama-cpp-python: id and name in every piece": Told(
        [
            chunk(piece(0, '{"a"', id="c1", name="look")),
            chunk(piece(0, ":1}", id="c1", name="look")),
            chunk({}, "tool_calls"),
        ],
        [ToolCallDelta(0, '{"a"', "c1", "look"), ToolCallDelta(0, ":1}"), Usage(), Stop("tool_calls")],
    ),
    "TGI: the same, without an id": Told(
        [
            chunk(piece(0, '{"a"', id="", name="look")),
            chunk(piece(0, ":1}", id="", name="look")),
            chunk({}, "tool_calls"),
        ],
        [
            ToolCallDelta(0, '{"a"', "call_answer7_0", "look"),
            ToolCallDelta(0, ":1}"),
            Usage(),
            Stop("tool_calls"),
        ],
    ),
    "two calls, their pieces in turn": Told(
        [
            chunk(piece(0, "{", id="c1", name="look")),
            chunk(piece(1, "{", id="c2", name="now")),
            chunk(piece(0, "}")),
            chunk(piece(1, "}")),
            chunk({}, "tool_calls"),
        ],
        [
            ToolCallDelta(0, "{", "c1", "look"),
            ToolCallDelta(1, "{", "c2", "now"),
            ToolCallDelta(0, "}"),
            ToolCallDelta(1, "}"),
            Usage(),
            Stop("tool_calls"),
        ],
    ),
    "calls that all have one index": Told(
        [chunk(piece(0, "{}", id="c1", name="look")), chunk(piece(0, "{}", id="c2", name="now")), chunk({}, "stop")],
        [ToolCallDelta(0, "{}", "c1", "look"), ToolCallDelta(1, "{}", "c2", "now"), Usage(), Stop("stop")],
    ),
    "calls without any index, arguments as an object or not at all": Told(
        [
            chunk(piece(None, {"n": 1}, id="c1", name="look")),
            chunk(piece(None, None, name="now")),
            chunk(piece(None, '{"n":', name="look")),
            chunk(piece(None, "2}")),
            chunk({}, "function_call"),
        ],
        [
            ToolCallDelta(0, '{"n":1}', "c1", "look"),
            ToolCallDelta(1, "", "call_answer7_1", "now"),
            ToolCallDelta(1, "{}"),
            ToolCallDelta(2, '{"n":', "call_answer7_2", "look"),
            ToolCallDelta(2, "2}"),
            Usage(),
            Stop("tool_calls"),
        ],
    ),
    "calls that are all begun before any has arguments, and some that get none": Told(
        [
            chunk(piece(0, "", id="c1", name="look")),
            chunk(piece(1, "", id="c2", name="now")),
            chunk(piece(2, "", id="c3", name="look")),
            chunk(piece(2, "{}")),
            chunk(piece(0, "{}")),
            chunk({}, "tool_calls"),
        ],
        [
            ToolCallDelta(0, "", "c1", "look"),
            ToolCallDelta(0, "{}"),
            ToolCallDelta(1, "", "c2", "now"),
            ToolCallDelta(1, "{}"),
            ToolCallDelta(2, "", "c3", "look"),
            ToolCallDelta(2, "{}"),
            Usage(),
            Stop("tool_calls"),
        ],
    ),
    "probabilities": Told([ONE_LOGPROB, chunk({}, "stop")], [TextDelta("é", (LOGPROB,)), Usage(), Stop("stop")]),
    "a refusal is a text; other choices and unknown fields are nothing": Told(
        [
            {"choices": [], "prompt_filter_results": []},
            {"choices": [{"index": 1, "delta": {"content": "other"}, "finish_reason": "length"}]},
            chunk({"refusal": "No."}, "content_filter", service_tier="x", obfuscation="y"),
        ],
        [TextDelta("No."), Usage(), Stop("content_filter")],
    ),
}


def wire(told: Told) -> bytes:
    return b"".join(map(event, told.chunks)) + (DONE if told.done else b"")


# How else the same events may be written.
SPELLINGS = {
    "without a space": lambda data: data.replace(b"data: ", b"data:"),
    "CRLF": lambda data: data.replace(b"\n", b"\r\n"),
    "comments and other fields": lambda data: data.replace(b"data:", b": ping\n\n:\nid: 7\nretry: 9\nevent: x\ndata:"),
    "on several lines": lambda data: data.replace(b'data: {"', b'data: {\ndata: "'),
    "without the last line's end": lambda data: data.rstrip(b"\n"),
    "blank lines": lambda data: b"\n\n" + data.replace(b"\n\n", b"\n\n\n"),
}


@pytest.mark.parametrize("told", ANSWERS.values(), ids=ANSWERS)
def test_chunks_become_events_at_any_cut(told: Told) -> None:
    data = wire(told)
    assert decode(data) == told.events
    assert decode(*[data[at : at + 1] for at in range(len(data))]) == told.events
    for at in range(len(data)):
        assert decode(data[:at], data[at:]) == told.events


@pytest.mark.parametrize("spell", SPELLINGS.values(), ids=SPELLINGS)
@pytest.mark.parametrize("told", ANSWERS.values(), ids=ANSWERS)
def test_events_may_be_written_in_many_ways(told: Told, spell: Any) -> None:
    data = spell(wire(told))
    assert decode(data) == told.events
    assert decode(*[data[at : at + 1] for at in range(len(data))]) == told.events


@given(st.sampled_from(sorted(ANSWERS)), st.lists(st.integers(0, 1500), max_size=10), st.booleans())
def test_text_taken_the_short_way_is_the_same_text(name: str, cuts: list[int], by_event: bool) -> None:
    """`text` gives what `feed` would, or gives nothing and changes nothing."""
    data = wire(ANSWERS[name])
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [part + b"\n\n" for part in data.split(b"\n\n")[:-1]]
    reading, events = decoder(), list[StreamEvent]()
    for part in pieces if by_event else [data[a:b] for a, b in pairwise(edges)]:
        text = reading.text(part)
        events += [TextDelta(text)] if text else reading.feed(part)
    assert events + reading.finish() == ANSWERS[name].events


def test_an_event_of_text_is_taken_the_short_way_and_nothing_else_is() -> None:
    reading, text = decoder(), event(chunk({"content": "Hi"}))
    assert reading.text(text) == "Hi"
    for other in (
        text[:-1],
        text + text,
        event(chunk({"content": "Hi"}, "stop")),
        event(chunk({"content": "Hi", "reasoning": "Hm"})),
        event(chunk({"content": "Hi"} | piece(0, "", name="f"))),
        event(COUNTS),
        event({"error": "no"}),
        DONE,
        b": ping\n\n",
        b"\n\n",
    ):
        assert reading.text(other) == ""
    reading.feed(text[:5])
    assert reading.text(text) == ""
    reading = decoder()
    reading.feed(LAST)
    assert reading.text(text) == ""


@pytest.mark.parametrize("told", ANSWERS.values(), ids=ANSWERS)
def test_a_whole_answer_is_what_its_stream_adds_up_to(told: Told) -> None:
    answer = collect(told.events)
    assert isinstance(answer, Answer)
    message = {
        "role": "assistant",
        "content": answer.text or None,
        "reasoning_content": answer.reasoning,
        "tool_calls": [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in answer.tool_calls
        ],
    }
    usage = answer.usage
    logprobs = {"content": list(answer.logprobs), "refusal": None} if answer.logprobs else None
    whole = {
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": message,
                "finish_reason": answer.reason,
                "stop_reason": answer.stop_text,
                "logprobs": logprobs,
            }
        ],
        "usage": {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens},
        "timings": {"prompt_ms": usage.prefill_s * 1e3, "predicted_ms": usage.decode_s * 1e3},
    }
    for body in (json.dumps(whole), json.dumps(whole, indent=2), "\r\n" + json.dumps(whole)):
        assert DIALECT.whole(body.encode(), WHOLE, "answer7") == answer
    assert DIALECT.whole(wire(told), WHOLE, "answer7") == answer  # it streams, though nobody asked it to


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_through(text: str) -> None:
    answer = collect(decode(event(chunk({"content": text})) + event(chunk({}, "stop")) + DONE))
    assert isinstance(answer, Answer) and answer.text == text


def test_a_call_without_arguments_is_over_before_the_next_begins() -> None:
    """Where calls are told one after the other, nothing can be said of one that another follows."""
    events = decode(wire(ANSWERS["calls without any index, arguments as an object or not at all"]))
    for dialect in (Responses(), Anthropic()):
        assert dialect.encoder(STREAMED, Meta("r", "m", 0)).encode(events)


def test_what_is_held_of_calls_is_no_more_than_an_event_may_be() -> None:
    reading = AnswerDecoder("answer7", 1000)
    reading.feed(event(chunk(piece(0, "", id="c1", name="now"))) + event(chunk(piece(1, "", id="c2", name="look"))))
    with pytest.raises(BackendError):
        for _ in range(100):
            reading.feed(event(chunk(piece(1, "x" * 20))))


# --- the end --------------------------------------------------------------------------------------------------------

HALF = event(chunk({"content": "Hel"}))
LAST = event(chunk({}, "stop"))


@pytest.mark.parametrize("data", [b"", b"\n\n", HALF, HALF[:-1], HALF[:-20], HALF + event(COUNTS), HALF + LAST[:-20]])
def test_bytes_that_end_early_never_stop(data: bytes) -> None:
    """I15: a truncation is no success. An event cut in its middle is garbage."""
    try:
        events = decode(data)
    except BackendError:
        return
    assert not any(isinstance(each, Stop) for each in events)
    assert DIALECT.whole(data, WHOLE, "a") is None


def test_a_whole_answer_without_a_reason_is_none() -> None:
    body = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Hel"}, "finish_reason": None}]}
    assert DIALECT.whole(json.dumps(body).encode(), WHOLE, "a") is None
    assert DIALECT.whole(b'{"choices":[]}', WHOLE, "a") is None


def test_done_without_a_reason_is_an_error() -> None:
    with pytest.raises(BackendError, match="not complete"):
        decode(HALF + DONE)


@pytest.mark.parametrize("more", [DONE, HALF, b"data: x\n\n", event({"error": "late"}), b"<html>\n"])
def test_what_follows_the_end_is_an_error(more: bytes) -> None:
    """I15: more than one final usage must not count."""
    with pytest.raises(BackendError):
        decode(HALF + LAST + DONE + more)


@pytest.mark.parametrize("reason", ["eos", "stop_sequence", "abort", "something new"])
def test_every_other_reason_is_a_stop(reason: str) -> None:
    assert decode(event(chunk({}, reason)))[-1] == Stop("stop")


# --- failures and garbage -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "failure"),
    [
        ({"error": {"code": 500, "message": "boom", "type": "server_error"}}, Failure("boom", 500)),
        ({"error": {"message": "too long", "type": "x", "param": None, "code": 400}}, Failure("too long", 400)),
        ({"error": {"message": "no", "http_status_code": 422}}, Failure("no", 422)),
        ({"error": {"message": "no", "code": "rate_limit_exceeded"}}, Failure("no")),
        ({"error": "Model is overloaded", "error_type": "overloaded"}, Failure("Model is overloaded")),
        ({"object": "error", "message": "too long", "code": 400}, Failure("too long", 400)),
        ({"error": "<html>secret"}, Failure("the backend answered with a web page")),
        ({"error": 17}, Failure("the backend failed and did not say why")),
        (chunk({"content": ""}) | {"error": {"message": "boom", "code": 7}}, Failure("boom")),
    ],
    ids=str,
)
@pytest.mark.parametrize("after", [b"", DONE, b"data: <html>\n\n"])
def test_an_error_is_the_failure_and_the_last_event(told: Any, failure: Failure, after: bytes) -> None:
    data = HALF + event(told) + after
    expected = [TextDelta("Hel"), failure]
    assert decode(data) == expected == decode(*[data[at : at + 1] for at in range(len(data))])
    assert DIALECT.whole(json.dumps(told).encode(), WHOLE, "a") == failure
    assert decode(json.dumps(told).encode()) == [failure]  # no stream at all, though one was asked for


@pytest.mark.parametrize(
    "garbage",
    [
        b"<html><body>502 Bad Gateway</body></html>",
        b"404 page not found",
        b"data: <html>",
        b"data: []",
        b"data: null",
        b'data: "text"',
        b"data: 17",
        b"data: {}",
        b'data: {"detail":"Not Found"}',
        b'data: {"choices":{}}',
        b'data: {"choices":[{"delta":"text"}]}',
        b'data: {"choices":[{"delta":{"content":5}}]}',
        b'data: {"choices":[{"delta":{"content":"a"},"finish_reason":7}]}',
        b'data: {"choices":[],"usage":{"prompt_tokens":"3"}}',
        b'data: {"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"x"}}]}}]}',
        b'data: {"choices":[{"delta":{"content":"\xff"}}]}',
        b'data: {"choices":[]}{"choices":[]}',
        b'{"message":{"content":"a"},"done":false}',
        b'data: {"choices":' * 5000,
        b'data: {"error":' + b"[" * 100_000,
        b"\x00\x01\x02",
    ],
    ids=lambda garbage: garbage[:40].decode("latin-1"),
)
def test_garbage_is_the_backends_error_and_is_not_quoted(garbage: bytes) -> None:
    """I15."""
    for data in (HALF + garbage + b"\n\n", garbage):
        with pytest.raises(BackendError) as caught:
            decode(data)
        assert caught.value.status == 502 and caught.value.retryable
        assert "html" not in caught.value.message and len(caught.value.message) < 200


@given(st.binary(max_size=80) | st.binary(max_size=80).map(lambda data: b"data: " + data))
def test_no_bytes_break_the_decoder(data: bytes) -> None:
    try:
        events = decode(data)
    except BackendError:
        return
    assert not any(isinstance(each, Stop) for each in events)


@pytest.mark.parametrize("count", [-1, -(2**70), 2**24 + 1, 2**70])
def test_absurd_counts_are_zero(count: int) -> None:
    """I15."""
    told = {"choices": [], "usage": {"prompt_tokens": count, "completion_tokens": count}}
    ms = float(count) if count != 2**24 + 1 else 2.0**41
    timings = {"timings": {"prompt_ms": ms, "predicted_ms": ms}}
    assert decode(LAST + event(told | timings) + DONE)[0] == Usage()


def test_an_event_has_a_limit_which_is_larger_for_whole_answers() -> None:
    """I13."""
    dialect = OpenAIBackend(max_event_bytes=1000, max_answer_bytes=3000)
    for data in (
        event(chunk({"content": "x" * 2000})),
        b"data: " + b"x" * 2000,
        b"data: xxxxxxxxxx\n" * 200,
        b"data: x\n" * 2000,
        b"data:\n" * 2000,
    ):
        with pytest.raises(BackendError, match="longer than"):
            dialect.decoder(STREAMED, "a").feed(data)
    assert dialect.whole(event(chunk({"content": "x" * 2000}, "stop")), WHOLE, "a")
    with pytest.raises(BackendError, match="longer than"):
        dialect.whole(event(chunk({"content": "x" * 4000}, "stop")), WHOLE, "a")


# --- embeddings -----------------------------------------------------------------------------------------------------

TEXTS = EmbedRequest("m", ("a", "b"))


def vectors(*told: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"object": "list", "model": "m", "data": told} | more).encode()


def vector(index: int, *numbers: float) -> dict[str, Any]:
    return {"object": "embedding", "index": index, "embedding": numbers}


def test_vectors_are_in_the_order_of_their_texts() -> None:
    usage = {"prompt_tokens": 5, "total_tokens": 5, "completion_tokens": 0, "prompt_tokens_details": None}
    made = Embeddings([[0.5, -1.0], [0.0, 2.0]], Usage(5))
    assert DIALECT.embeddings(vectors(vector(0, 0.5, -1), vector(1, 0, 2), usage=usage), TEXTS) == made
    assert DIALECT.embeddings(vectors(vector(1, 0, 2), vector(0, 0.5, -1), usage=usage), TEXTS) == made


def test_vectors_whose_tokens_nobody_counted_are_vectors() -> None:
    assert DIALECT.embeddings(vectors(vector(0, 1), vector(1, 2)), TEXTS) == Embeddings([[1.0], [2.0]], Usage())


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b'{"error":"secret"}',
        vectors(vector(0, 1)),
        vectors(vector(0, 1), vector(1, 1), vector(2, 1)),
        vectors(vector(0, 1), vector(1)),
        vectors(vector(0, 1), {"index": 1, "embedding": "AACAPw=="}),
        vectors(vector(0, 1), {"index": 1, "embedding": [[1.0]]}),
    ],
)
def test_what_is_no_vector_for_each_text_is_the_backends_error(body: bytes) -> None:
    """I15."""
    with pytest.raises(BackendError) as raised:
        DIALECT.embeddings(body, TEXTS)
    assert "secret" not in raised.value.message


def test_vectors_of_other_dimensions_than_were_asked_for_are_none() -> None:
    """llama.cpp passes over `dimensions`."""
    two = EmbedRequest("m", ("a",), 2)
    assert DIALECT.embeddings(vectors(vector(0, 1, 0)), two).vectors == [[1.0, 0.0]]
    with pytest.raises(BadRequest) as raised:
        DIALECT.embeddings(vectors(vector(0, 1, 0, 0)), two)
    assert (raised.value.code, raised.value.param) == ("unsupported_by_backend", "dimensions")


@pytest.mark.parametrize(("cached", "counted"), [(0, 0), (21, 21), (99, 22), (-1, 0), (1 << 60, 0)])
def test_tokens_that_had_been_read_before_are_never_more_than_there_were(cached: int, counted: int) -> None:
    usage = {"prompt_tokens": 22, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": cached}}
    assert decode(LAST + event({"choices": [], "usage": usage}) + DONE)[0] == Usage(22, 3, cached_tokens=counted)
