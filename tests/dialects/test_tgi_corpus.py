"""Answers as TGI gives them by its source, and what we make of them: `tests/corpus/specified/tgi`."""

import json
from typing import Any

import pytest

from hermes.chat import Failure, StreamEvent, TextDelta, collect
from hermes.dialects import Decoder
from hermes.errors import BackendError
from tests.corpus.record import event
from tests.corpus.specify import DIALECT, HERE, REQUESTS, meant, says
from tests.fakes.gateway import scenario


def written(name: str) -> tuple[int, bytes]:
    status, _, body = (HERE / f"{name}.txt").read_bytes().partition(b"\n")
    return int(status), body


def golden(name: str) -> Any:
    return json.loads((HERE / f"{name}.json").read_text())


def decoder(name: str) -> Decoder:
    return DIALECT.decoder(REQUESTS[name], "a1")


STREAMS = [name for name in REQUESTS if written(name)[0] == 200]
each_stream = pytest.mark.parametrize("name", STREAMS)


@scenario
async def test_the_imitation_says_what_is_written_down_and_nothing_else_is() -> None:
    assert {name: told.partition(b"\n")[2] for name, told in (await says()).items()} == {
        name: written(name)[1] for name in REQUESTS
    }
    assert {path.stem for path in HERE.iterdir()} == set(REQUESTS)


@pytest.mark.parametrize("name", REQUESTS)
def test_what_is_written_down_is_read_as_it_was_when_somebody_looked_at_it(name: str) -> None:
    assert meant(name, *written(name)) == golden(name)


@each_stream
def test_a_stream_means_the_same_at_any_cut(name: str) -> None:
    _, body = written(name)
    expected = decoder(name).feed(body)
    assert [*map(event, expected)] == golden(name)
    for at in range(len(body)):
        reading = decoder(name)
        assert reading.feed(body[:at]) + reading.feed(body[at:]) + reading.finish() == expected
    reading = decoder(name)
    events = [each for at in range(len(body)) for each in reading.feed(body[at : at + 1])]
    assert events + reading.finish() == expected


@each_stream
def test_a_stream_without_spaces_after_its_colons_is_the_same(name: str) -> None:
    """As TGI was before it had a newer framework; and with its signs of life."""
    body = b":\n\n" + written(name)[1].replace(b"\ndata: ", b"\ndata:").replace(b"data: ", b"data:", 1)
    reading = decoder(name)
    assert [*map(event, reading.feed(body) + reading.finish())] == golden(name)


@each_stream
def test_a_stream_taken_the_short_way_is_the_same(name: str) -> None:
    reading, events, short = decoder(name), list[StreamEvent](), 0
    for piece in written(name)[1].split(b"\n\n")[:-1]:
        text = reading.text(piece + b"\n\n")
        short += bool(text)
        events += [TextDelta(text)] if text else reading.feed(piece + b"\n\n")
    assert [*map(event, events + reading.finish())] == golden(name)
    assert short or name != "text"


@each_stream
def test_a_stream_that_breaks_off_is_no_answer(name: str) -> None:
    """I15. Up to where it is told that it has ended: by a reason, or by counts, or by its details."""
    _, body = written(name)
    marks = (b'"finish_reason":"', b'"choices":[],', b'"error":')
    said = min(body.index(mark) for mark in marks if mark in body)
    for at in range(said):
        reading = decoder(name)
        try:
            assert collect(reading.feed(body[:at]) + reading.finish()) is None
        except BackendError:
            continue


@pytest.mark.parametrize("name", [name for name in STREAMS if "over" not in name and "memory" not in name])
def test_a_stream_that_went_well_adds_up_to_an_answer_with_its_counts(name: str) -> None:
    reading = decoder(name)
    answer = collect(reading.feed(written(name)[1]) + reading.finish())
    assert answer is not None and not isinstance(answer, Failure)
    assert answer.usage.prompt_tokens == 3 and answer.usage.completion_tokens > 0
    assert answer.reason == ("length" if "cut" in name or "logprobs" in name else "stop")
