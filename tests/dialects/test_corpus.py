"""Answers that real servers gave, and what we make of them: `tests/corpus`, recorded by `tests/corpus/record.py`."""

import json
from typing import Any

import pytest

from hermes.chat import Answer, ChatRequest, StreamEvent, TextDelta, collect
from hermes.dialects import Decoder
from hermes.errors import BackendError
from tests.corpus.questions import SERVERS, asked
from tests.corpus.record import ANSWER_ID, HERE, event, told
from tests.corpus.record import recorded as answer

ASKED = {(server, name): request for server in SERVERS for name, request in asked(server).items()}
# By server: how its stream is cut into events, and with what its last piece of content has been said.
ENDS = {"llamacpp": (b"\n\n", b'"finish_reason":"'), "ollama": (b"\n", b'"done":true')}

Recorded = tuple[str, str]


def golden(recorded: Recorded) -> Any:
    return json.loads((HERE / recorded[0] / f"{recorded[1]}.json").read_text())


def decoder(recorded: Recorded) -> Decoder:
    request = ASKED[recorded]
    assert isinstance(request, ChatRequest)
    return SERVERS[recorded[0]].decoder(request, ANSWER_ID)


def test_each_server_was_asked_everything_and_nothing_else_is_kept() -> None:
    kept = {
        (path.parent.name, path.name.removesuffix(path.suffix)) for path in HERE.glob("*/*.*") if "__" not in str(path)
    }
    assert kept == set(ASKED)


each_recorded = pytest.mark.parametrize("recorded", sorted(ASKED), ids="/".join)
STREAMS = [recorded for recorded in sorted(ASKED) if recorded[1].endswith(".stream") and answer(*recorded)[0] == 200]
each_stream = pytest.mark.parametrize("recorded", STREAMS, ids="/".join)


@each_recorded
def test_what_was_recorded_is_read_as_it_was_when_somebody_looked_at_it(recorded: Recorded) -> None:
    status, body = answer(*recorded)
    assert told(recorded[0], ASKED[recorded], status, body) == golden(recorded)


@each_stream
def test_a_recorded_stream_means_the_same_at_any_cut(recorded: Recorded) -> None:
    _, body = answer(*recorded)
    expected = decoder(recorded).feed(body)
    assert [*map(event, expected)] == golden(recorded)
    for at in range(len(body)):
        reading = decoder(recorded)
        assert reading.feed(body[:at]) + reading.feed(body[at:]) + reading.finish() == expected
    reading = decoder(recorded)
    events = [each for at in range(len(body)) for each in reading.feed(body[at : at + 1])]
    assert events + reading.finish() == expected


@each_stream
def test_a_recorded_stream_taken_the_short_way_is_the_same(recorded: Recorded) -> None:
    _, body = answer(*recorded)
    end, _ = ENDS[recorded[0]]
    reading, events, short = decoder(recorded), list[StreamEvent](), 0
    for piece in body.split(end)[:-1]:
        text = reading.text(piece + end)
        short += bool(text)
        events += [TextDelta(text)] if text else reading.feed(piece + end)
    assert [*map(event, events + reading.finish())] == golden(recorded)
    assert short or "text" not in recorded[1]


@each_stream
def test_a_recorded_stream_that_breaks_off_is_no_answer(recorded: Recorded) -> None:
    """I15. Up to where it says why it ended: what comes after is only counts."""
    _, body = answer(*recorded)
    end, said_why = ENDS[recorded[0]]
    for at in range(body.index(said_why)):
        if body[:at].endswith(end) or not at % 50:
            reading = decoder(recorded)
            try:
                assert collect(reading.feed(body[:at]) + reading.finish()) is None
            except BackendError:
                continue


@each_stream
def test_a_whole_answer_says_what_its_stream_adds_up_to(recorded: Recorded) -> None:
    server, name = recorded
    as_whole = server, name.replace("stream", "whole")
    request = ASKED[as_whole]
    assert isinstance(request, ChatRequest)
    whole = SERVERS[server].whole(answer(*as_whole)[1], request, ANSWER_ID)
    reading = decoder(recorded)
    streamed = collect(reading.feed(answer(*recorded)[1]) + reading.finish())
    assert isinstance(whole, Answer) and isinstance(streamed, Answer)
    assert (whole.text, whole.reasoning, whole.reason) == (streamed.text, streamed.reasoning, streamed.reason)
    assert [call.arguments for call in whole.tool_calls] == [call.arguments for call in streamed.tool_calls]
    assert [item["token"] for item in whole.logprobs] == [item["token"] for item in streamed.logprobs]
    assert whole.usage.completion_tokens == streamed.usage.completion_tokens > 0
