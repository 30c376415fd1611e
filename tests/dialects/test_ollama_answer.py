"""Ollama's answers, whole and streamed, however the bytes are cut; and what is none (I15)."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes.chat import ChatRequest, Failure, Stop, StreamEvent, TextDelta, ToolCallDelta, Usage, collect
from hermes.dialects import Decoder
from hermes.dialects.ollama import Ollama
from hermes.errors import BackendError
from tests.dialects.cases import ANSWERS, COUNTS, USAGE, Told, call, line

DIALECT = Ollama()
STREAMED = ChatRequest("m", (), stream=True)


def decoder() -> Decoder:
    return DIALECT.decoder(STREAMED, "answer7")


def decode(*chunks: bytes) -> list[StreamEvent]:
    reading = decoder()
    return [event for chunk in chunks for event in reading.feed(chunk)] + reading.finish()


def wire(lines: list[dict[str, Any]]) -> bytes:
    """As Go's encoder writes it: compact, `<>&` escaped, every line ended."""
    text = "".join(json.dumps(one, ensure_ascii=False, separators=(",", ":")) + "\n" for one in lines)
    return text.replace("<", "\\u003c").encode()


def generated(one: dict[str, Any]) -> dict[str, Any]:
    """The same line as `/api/generate` says it."""
    message = dict(one["message"])
    rest = {key: value for key, value in one.items() if key != "message"}
    return {**rest, "response": message.pop("content"), **{k: v for k, v in message.items() if k != "role"}}


def whole(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """The same answer in one object, as `"stream": false` gives it."""
    message: dict[str, Any] = {"role": "assistant", "content": ""}
    logprobs: list[Any] = []
    for one in lines:
        for key in ("content", "thinking"):
            if one["message"].get(key):
                message[key] = message.get(key, "") + one["message"][key]
        if "tool_calls" in one["message"]:
            message["tool_calls"] = message.get("tool_calls", []) + one["message"]["tool_calls"]
        logprobs += one.get("logprobs", [])
    return lines[-1] | {"message": message} | ({"logprobs": logprobs} if logprobs else {})


@pytest.mark.parametrize("told", ANSWERS.values(), ids=ANSWERS)
def test_lines_become_events_at_any_cut(told: Told) -> None:
    data = wire(told.ollama)
    assert decode(data) == told.events
    assert decode(*[data[at : at + 1] for at in range(len(data))]) == told.events
    for at in range(len(data)):
        assert decode(data[:at], data[at:]) == told.events


@given(st.sampled_from(sorted(ANSWERS)), st.lists(st.integers(0, 600), max_size=10))
def test_lines_become_events_at_any_cuts(name: str, cuts: list[int]) -> None:
    data = wire(ANSWERS[name].ollama)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    assert decode(*[data[a:b] for a, b in pairwise(edges)]) == ANSWERS[name].events


@given(st.sampled_from(sorted(ANSWERS)), st.lists(st.integers(0, 600), max_size=10), st.booleans())
def test_text_taken_the_short_way_is_the_same_text(name: str, cuts: list[int], by_line: bool) -> None:
    """`text` gives what `feed` would, or gives nothing and changes nothing."""
    data = wire(ANSWERS[name].ollama)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = data.splitlines(keepends=True) if by_line else [data[a:b] for a, b in pairwise(edges)]
    reading, events = decoder(), list[StreamEvent]()
    for piece in pieces:
        text = reading.text(piece)
        events += [TextDelta(text)] if text else reading.feed(piece)
    assert events + reading.finish() == ANSWERS[name].events


def test_a_line_of_text_is_taken_the_short_way_and_nothing_else_is() -> None:
    reading = decoder()
    text, last = line({"content": "Hi"}), line({}, done=True)
    assert reading.text(wire([text])) == "Hi"
    for other in (
        wire([text])[:-1],
        wire([text, text]),
        wire([last]),
        wire([line({"thinking": "Hm"})]),
        b"\n",
        b"{}\n",
    ):
        assert reading.text(other) == ""
    reading.feed(wire([text])[:5])
    assert reading.text(wire([text])) == ""


@pytest.mark.parametrize("told", ANSWERS.values(), ids=ANSWERS)
def test_generate_says_the_same_in_its_own_fields(told: Told) -> None:
    assert decode(wire([generated(one) for one in told.ollama])) == told.events


@pytest.mark.parametrize("told", ANSWERS.values(), ids=ANSWERS)
def test_a_whole_answer_is_what_its_stream_adds_up_to(told: Told) -> None:
    one = whole(told.ollama)
    expected = collect(told.events)
    assert collect(decode(json.dumps(one).encode())) == expected
    assert collect(decode(json.dumps(generated(one)).encode())) == expected


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_through(text: str) -> None:
    answer = collect(decode(wire([line({"content": text}), line({}, done=True, **COUNTS)])))
    assert answer is not None and not isinstance(answer, Failure) and answer.text == text


# --- the end ------------------------------------------------------------------------------------------------------

HALF = wire([line({"content": "Hel"})])
DONE = wire([line({}, done=True, done_reason="stop", **COUNTS)])


@pytest.mark.parametrize("data", [b"", HALF, HALF[:-20], json.dumps(line({"content": "Hel"})).encode()])
def test_bytes_that_end_early_never_stop(data: bytes) -> None:
    """I15: a truncation is no success. A line cut in its middle is garbage."""
    try:
        events = decode(data)
    except BackendError:
        return
    assert not any(isinstance(event, Stop) for event in events)
    assert collect(events) is None


@pytest.mark.parametrize("reason", ["stop", "load", "unload", "", None, "something new"])
def test_every_other_reason_is_a_stop(reason: str | None) -> None:
    assert decode(wire([line({}, done=True, done_reason=reason)]))[-1] == Stop("stop")


def test_empty_lines_are_nothing() -> None:
    assert decode(b"\n \r\n" + HALF + b"\n\n" + DONE + b" \n\n \n ") == [TextDelta("Hel"), USAGE, Stop("stop")]


@pytest.mark.parametrize("more", [DONE, HALF, b"x", b'{"error":"late"}\n', b"<html>"])
def test_what_follows_the_end_is_an_error(more: bytes) -> None:
    """I15: more than one final usage must not count."""
    with pytest.raises(BackendError):
        decode(DONE + more)
    reading = decoder()
    assert reading.feed(DONE)[-1] == Stop("stop")
    with pytest.raises(BackendError):
        reading.feed(more)
        reading.finish()


# --- failures and garbage -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("an error was encountered", "an error was encountered"),
        ({"code": 500, "message": "boom"}, "boom"),
        ("", "the backend failed and did not say why"),
        (17, "the backend failed and did not say why"),
    ],
)
@pytest.mark.parametrize("after", [b"", b"<html>\n", DONE])
def test_an_error_line_is_the_failure_and_the_last_event(error: Any, message: str, after: bytes) -> None:
    data = HALF + json.dumps({"error": error}).encode() + b"\n" + after
    expected = [TextDelta("Hel"), Failure(message)]
    assert decode(data) == expected == decode(*[data[at : at + 1] for at in range(len(data))])


@pytest.mark.parametrize(
    "garbage",
    [
        b"<html><body>502 Bad Gateway</body></html>",
        b"404 page not found",
        b"[]",
        b"null",
        b'"text"',
        b"17",
        b"{}",
        b'{"status":"success"}',
        b'{"detail":"Not Found"}',
        b'{"message":"text","done":false}',
        b'{"message":{"content":5},"done":false}',
        b'{"response":["a"],"done":false}',
        b'{"message":{"content":"a"},"done":"true"}',
        b'{"message":{"content":""},"done":true,"eval_count":"3"}',
        b'{"message":{"content":"","tool_calls":[{"function":{}}]},"done":false}',
        b'{"message":{"content":"\xff"},"done":false}',
        b'{"message":{"content":"a"},"done":false}{"message":{"content":"b"},"done":false}',
        b'data: {"message":{"content":"a"},"done":false}',
        b'{"message":' * 5000,
        b'{"error":' + b"[" * 100_000,
        b"\x00\x01\x02",
    ],
    ids=lambda garbage: garbage[:40].decode("latin-1"),
)
def test_garbage_is_the_backends_error_and_is_not_quoted(garbage: bytes) -> None:
    """I15."""
    with pytest.raises(BackendError) as caught:
        decode(HALF + garbage + b"\n")
    assert caught.value.status == 502 and caught.value.retryable
    assert "html" not in caught.value.message and len(caught.value.message) < 200
    with pytest.raises(BackendError):
        decode(garbage)


@given(st.binary(max_size=80))
def test_no_bytes_break_the_decoder(data: bytes) -> None:
    try:
        events = decode(data)
    except BackendError:
        return
    assert not any(isinstance(event, Stop) for event in events)


@pytest.mark.parametrize("count", [-1, -(2**70), 2**24 + 1, 2**70])
def test_absurd_counts_are_zero(count: int) -> None:
    """I15."""
    data = wire([line({}, done=True, prompt_eval_count=count, eval_count=count)])
    assert decode(data)[0] == Usage(0, 0)


@pytest.mark.parametrize("spent", [-1, 2**63])
def test_absurd_durations_are_unknown(spent: int) -> None:
    data = wire([line({}, done=True, load_duration=spent, prompt_eval_duration=spent, eval_duration=spent)])
    assert decode(data)[0] == Usage()


def test_counts_up_to_the_limit_are_believed() -> None:
    assert decode(wire([line({}, done=True, prompt_eval_count=2**24, eval_count=0)]))[0] == Usage(2**24, 0)


def test_a_line_has_a_limit_which_is_larger_for_whole_answers() -> None:
    """I13. `/api/generate` lists the whole context in its last line, so its streams get the larger limit too."""
    dialect = Ollama(max_line_bytes=1000, max_answer_bytes=3000)
    long, longest = wire([line({"content": "x" * 2000})]), wire([line({"content": "x" * 4000})])
    for request, data in [
        (STREAMED, long),
        (ChatRequest("m", ()), longest),
        (ChatRequest("m", (), stream=True, completion=True), longest),
    ]:
        with pytest.raises(BackendError, match="longer than"):
            dialect.decoder(request, "a").feed(data)
    assert dialect.decoder(ChatRequest("m", ()), "a").feed(long)
    assert dialect.decoder(ChatRequest("m", (), stream=True, completion=True), "a").feed(long)


# --- details ------------------------------------------------------------------------------------------------------


def test_ids_made_up_for_calls_differ_between_answers() -> None:
    data = wire([line({"tool_calls": [call("f", {}), call("f", {})]})])
    ids = [
        event.id
        for answer_id in ("a", "b")
        for event in DIALECT.decoder(STREAMED, answer_id).feed(data)
        if isinstance(event, ToolCallDelta)
    ]
    assert len(set(ids)) == 4 and ids[0] == "call_a_0"


def test_arguments_that_came_as_text_stay_as_they_are() -> None:
    events = decode(wire([line({"tool_calls": [call("f", '{"a": 1')]})]))
    assert events == [ToolCallDelta(0, '{"a": 1', "call_answer7_0", "f")]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"content": ""}, [TextDelta("", ({"token": "a", "logprob": -1.0, "bytes": [97], "top_logprobs": []},))]),
        ({"content": "", "thinking": "a"}, []),
    ],
)
def test_logprobs_come_with_text_or_alone_but_not_for_thoughts(
    message: dict[str, Any], expected: list[StreamEvent]
) -> None:
    events = decode(wire([line(message, logprobs=[{"token": "a", "logprob": -1.0, "bytes": [97]}])]))
    assert [event for event in events if isinstance(event, TextDelta)] == expected


def test_alternatives_get_their_bytes_too() -> None:
    told = [{"token": "a", "logprob": -1, "top_logprobs": [{"token": "b", "logprob": -2}]}]
    (event,) = decode(wire([line({"content": "a"}, logprobs=told)]))
    assert isinstance(event, TextDelta)
    assert event.logprobs[0]["top_logprobs"] == [{"token": "b", "logprob": -2.0, "bytes": [98]}]
