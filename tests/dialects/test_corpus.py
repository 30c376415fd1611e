"""Answers that real servers gave, and what we make of them: `tests/corpus`, recorded by `tests/corpus/record.py`."""

import json
from pathlib import Path

import pytest

from hermes.chat import Answer, StreamEvent, TextDelta, collect
from hermes.dialects.openai_backend import LLAMACPP, OpenAIBackend
from tests.corpus.record import HERE, REQUEST, event, told

RECORDED = sorted(HERE.glob("*.txt"))
DIALECT = OpenAIBackend(LLAMACPP)


def recorded(path: Path) -> tuple[int, bytes]:
    status, _, body = path.read_bytes().partition(b"\n")
    return int(status), body


STREAMS = [path for path in RECORDED if ".stream" in path.name and recorded(path)[0] == 200]


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.name)
def test_what_was_recorded_is_read_as_it_was_when_somebody_looked_at_it(path: Path) -> None:
    status, body = recorded(path)
    assert told(status, body, ".stream" in path.name) == json.loads(path.with_suffix(".json").read_text())


@pytest.mark.parametrize("path", STREAMS, ids=lambda path: path.name)
def test_a_recorded_stream_means_the_same_at_any_cut(path: Path) -> None:
    _, body = recorded(path)
    expected = json.loads(path.with_suffix(".json").read_text())
    for at in range(len(body)):
        decoder = DIALECT.decoder(REQUEST, "a1")
        assert [*map(event, decoder.feed(body[:at]) + decoder.feed(body[at:]) + decoder.finish())] == expected
    decoder = DIALECT.decoder(REQUEST, "a1")
    events = [each for at in range(len(body)) for each in decoder.feed(body[at : at + 1])]
    assert [*map(event, events + decoder.finish())] == expected


@pytest.mark.parametrize("path", STREAMS, ids=lambda path: path.name)
def test_a_recorded_stream_taken_the_short_way_is_the_same(path: Path) -> None:
    _, body = recorded(path)
    decoder, events, short = DIALECT.decoder(REQUEST, "a1"), list[StreamEvent](), 0
    for piece in body.split(b"\n\n")[:-1]:
        text = decoder.text(piece + b"\n\n")
        short += bool(text)
        events += [TextDelta(text)] if text else decoder.feed(piece + b"\n\n")
    assert [*map(event, events + decoder.finish())] == json.loads(path.with_suffix(".json").read_text())
    assert short or "text" not in path.name


@pytest.mark.parametrize("path", STREAMS, ids=lambda path: path.name)
def test_a_recorded_stream_that_breaks_off_is_no_answer(path: Path) -> None:
    """I15. Up to where it says why it ended: what comes after is only counts."""
    _, body = recorded(path)
    said_why = body.index(b'"finish_reason":"')
    for piece in body[:said_why].split(b"\n\n"):
        end = body.index(piece) + len(piece)
        decoder = DIALECT.decoder(REQUEST, "a1")
        try:
            assert collect(decoder.feed(body[:end]) + decoder.finish()) is None
        except Exception as error:
            assert type(error).__name__ == "BackendError"


@pytest.mark.parametrize("path", STREAMS, ids=lambda path: path.name)
def test_a_whole_answer_says_what_its_stream_adds_up_to(path: Path) -> None:
    whole = DIALECT.whole(recorded(path.with_name(path.name.replace("stream", "whole")))[1], REQUEST, "a1")
    decoder = DIALECT.decoder(REQUEST, "a1")
    streamed = collect(decoder.feed(recorded(path)[1]) + decoder.finish())
    assert isinstance(whole, Answer) and isinstance(streamed, Answer)
    assert (whole.text, whole.reasoning, whole.reason) == (streamed.text, streamed.reasoning, streamed.reason)
    assert [call.arguments for call in whole.tool_calls] == [call.arguments for call in streamed.tool_calls]
    assert whole.usage.completion_tokens == streamed.usage.completion_tokens > 0
