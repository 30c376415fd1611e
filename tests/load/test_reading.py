"""What an answer says, in each API, however its bytes are cut."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes.load.histogram import Histogram
from hermes.load.reading import Reading, kind_of_refusal


def sse(*events: dict[str, Any], end: str = "data: [DONE]\n\n") -> bytes:
    return ("".join(f"data: {json.dumps(event)}\n\n" for event in events) + end).encode()


def ndjson(*lines: dict[str, Any]) -> bytes:
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def chunk(delta: dict[str, Any], reason: str | None = None, **more: Any) -> dict[str, Any]:
    return {
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": delta, "finish_reason": reason}],
        **more,
    }


USAGE = {"prompt_tokens": 7, "completion_tokens": 3}
# Three pieces each, 7 tokens in and 3 out.
STREAMS = {
    "openai": sse(
        chunk({"role": "assistant", "content": ""}),
        chunk({"reasoning_content": "Hm"}),
        chunk({"content": "ö"}),
        chunk({"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "{}"}}]}),
        chunk({}, "stop"),
        {"choices": [], "usage": USAGE},
    ),
    "completions": sse(
        *({"choices": [{"index": 0, "text": text, "finish_reason": None}]} for text in "abc"),
        {"choices": [{"index": 0, "text": "", "finish_reason": "length"}], "usage": USAGE},
    ),
    "ollama": ndjson(
        {"message": {"role": "assistant", "content": "", "thinking": "Hm"}, "done": False},
        {"message": {"content": "a"}, "done": False},
        {"message": {"content": "b"}, "done": False},
        {"message": {"content": ""}, "done": True, "prompt_eval_count": 7, "eval_count": 3},
    ),
    "generate": ndjson(
        *({"response": text, "done": False} for text in "abc"),
        {"response": "", "done": True, "prompt_eval_count": 7, "eval_count": 3},
    ),
    "prompt": ndjson(
        {"queued": {"position": 1, "eta_ms": 20}},
        {"reasoning": "Hm"},
        {"delta": "a"},
        {"delta": "b"},
        {"done": True, "model": "gemma", "reason": "stop", "usage": USAGE, "timings": {"queue_ms": 1500.0}},
    ),
}


def read(data: bytes, size: int) -> Reading:
    reading = Reading(Histogram())
    for number, place in enumerate(range(0, len(data), size)):
        reading.take(data[place : place + size], 1.0 + number)
    return reading


@pytest.mark.parametrize("tokens", [-5, 10**15, 10**400], ids=["negative", "absurd", "endless"])
def test_a_number_of_tokens_that_no_answer_has_is_not_believed(tokens: int) -> None:
    usage = {"prompt_tokens": tokens, "completion_tokens": tokens}
    for last in ({"choices": [], "usage": usage}, {"done": True, "prompt_eval_count": tokens, "eval_count": tokens}):
        reading = Reading(Histogram())
        with suppress(ValueError):  # of more digits than a number has
            reading.take(ndjson(last), 1.0)
        assert (reading.tokens_in, reading.tokens_out) == (0, 0)


def test_a_wait_that_nobody_waits_is_not_believed() -> None:
    reading = Reading(Histogram())
    reading.told_wait(b"9" * 400)
    reading.take(b": queue-ms=" + b"9" * 400 + b"\n", 1.0)
    for wait_ms in (-1.0, 1e300):
        reading.take(ndjson({"done": True, "timings": {"queue_ms": wait_ms}}), 1.0)
    assert reading.wait_s is None


@pytest.mark.parametrize("api", STREAMS)
@given(size=st.integers(1, 2000))
def test_a_stream_is_read_the_same_however_it_is_cut(api: str, size: int) -> None:
    reading = read(STREAMS[api], size)
    assert (reading.pieces, reading.tokens_in, reading.tokens_out) == (3, 7, 3)
    assert reading.complete and not reading.error


@pytest.mark.parametrize("api", STREAMS)
def test_a_stream_that_is_cut_short_is_not_complete(api: str) -> None:
    lines = STREAMS[api].splitlines(keepends=True)
    ending = {"openai": 6, "completions": 4}.get(api, 1)  # the reason is told before usage and [DONE]
    assert not read(b"".join(lines[:-ending]), 10_000).complete


def test_the_first_piece_and_the_gaps_are_timed_by_their_arrival() -> None:
    gaps = Histogram()
    reading = Reading(gaps)
    for at, text in ((5.0, ""), (7.0, "a"), (7.5, "b"), (8.5, "c")):
        reading.take(sse(chunk({"content": text}), end=""), at)
    assert (reading.first_at, reading.last_at, reading.pieces) == (7.0, 8.5, 3)
    assert (gaps.count, gaps.total_s) == (2, 1.5)


@pytest.mark.parametrize(
    "whole",
    [
        {"choices": [{"message": {"content": "abc"}, "finish_reason": "stop"}], "usage": USAGE},
        {"choices": [{"text": "abc", "finish_reason": "stop"}], "usage": USAGE},
        {"message": {"content": "abc"}, "done": True, "prompt_eval_count": 7, "eval_count": 3},
        {"response": "abc", "done": True, "prompt_eval_count": 7, "eval_count": 3},
        {"result": "", "model": "gemma", "reason": "stop", "usage": USAGE, "timings": {"queue_ms": 3}},
    ],
)
def test_a_whole_answer_has_no_first_token(whole: dict[str, Any]) -> None:
    reading = Reading(Histogram())
    reading.take_whole(json.dumps(whole).encode(), 1.0)
    assert (reading.complete, reading.tokens_in, reading.tokens_out, reading.first_at) == (True, 7, 3, 0.0)


def test_what_was_told_of_the_wait_is_found_wherever_it_stands() -> None:
    assert read(STREAMS["prompt"], 100).wait_s == 1.5
    assert read(b": queue-ms=21300 queue-position=3 eta-ms=9\n\n" + STREAMS["openai"], 100).wait_s == 21.3
    assert read(STREAMS["openai"], 100).wait_s is None
    reading = Reading(Histogram())
    reading.told_wait(b"250")
    assert reading.wait_s == 0.25


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (b'data: {"error": {"message": "m", "type": "server_error", "code": "backend_error"}}\n\n', "backend_error"),
        (b'{"error": "model runner has stopped"}\n', "error"),
        (b'data: {"error": {"message": "m", "type": "overloaded"}}\n\n', "overloaded"),
    ],
)
def test_an_error_inside_of_a_stream_has_its_name(line: bytes, kind: str) -> None:
    assert read(line, 7).error == kind


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"error": {"message": "m", "type": "rate_limit_error", "code": "queue_full"}}', "429 queue_full"),
        (b'{"error": "busy", "code": "queue_full"}', "429 queue_full"),
        (b'{"error": {"code": 429, "message": "m", "type": "busy"}}', "429 busy"),  # as llama.cpp says it
        (b'{"error": "busy"}', "429"),
        (b"<html>", "429"),
        (b"[" * 100_000, "429"),
        (b'{"error": {"code": "\\u001b[2J"}}', "429"),
        (b'["no"]', "429"),
    ],
)
def test_a_refusal_is_named_by_status_and_code(body: bytes, kind: str) -> None:
    assert kind_of_refusal(429, body) == kind
