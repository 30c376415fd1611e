"""An answer without its stop text, where the server leaves that in it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes.chat import Answer, Stop, StreamEvent, TextDelta, ToolCallDelta, Usage, collect
from hermes.dialects.stops import Trimmed

texts = st.text("ab\n", max_size=12)


class Pieces:
    """A decoder of events that stand there as JSON, one for each byte that is fed."""

    def __init__(self, *events: StreamEvent) -> None:
        self.events = list(events)

    def feed(self, chunk: bytes) -> list[StreamEvent]:
        taken, self.events = self.events[: len(chunk)], self.events[len(chunk) :]
        return taken

    def text(self, chunk: bytes) -> str:
        raise AssertionError("a stop text may begin anywhere")

    def finish(self) -> list[StreamEvent]:
        return self.feed(b"." * len(self.events))


def trimmed(stops: tuple[str, ...], *events: StreamEvent) -> list[StreamEvent]:
    """One by one."""
    reading = Trimmed(Pieces(*events), stops)
    return [event for _ in events for event in reading.feed(b".")] + reading.finish()


@given(st.lists(texts, max_size=6), st.lists(st.text("ab\n", min_size=1, max_size=4), min_size=1, max_size=3))
def test_the_text_ends_before_the_stop_text_that_is_first_complete_however_it_is_cut(
    pieces: list[str], stops: list[str]
) -> None:
    told = trimmed(tuple(stops), *map(TextDelta, pieces), Usage(1, 2), Stop("length"))
    whole = "".join(pieces)
    ends = [(at + len(stop), at) for stop in stops if (at := whole.find(stop)) >= 0]
    answer = collect(told)
    assert isinstance(answer, Answer)
    assert answer.text == whole[: min(ends)[1] if ends else None]
    assert answer.reason == ("stop" if ends else "length") and answer.usage == Usage(1, 2)
    assert whole.startswith(answer.stop_text, len(answer.text)) and bool(answer.stop_text) == bool(ends)


@given(st.lists(texts, max_size=6), st.text("ab\n", min_size=1, max_size=4))
def test_no_more_is_held_than_may_begin_a_stop_text(pieces: list[str], stop: str) -> None:
    reading = Trimmed(Pieces(*map(TextDelta, pieces)), (stop,))
    told = said = ""
    for piece in pieces:
        said += piece
        told += "".join(event.text for event in reading.feed(b".") if isinstance(event, TextDelta))
        if stop in said:
            break
        held = said.removeprefix(told)
        assert held == "" or stop.startswith(held)


def test_what_is_held_comes_before_a_call() -> None:
    call = ToolCallDelta(0, "{}", "c1", "look")
    assert trimmed(("\n\n",), TextDelta("a\n"), call, Stop("stop")) == [
        TextDelta("a"),
        TextDelta("\n"),
        call,
        Stop("stop"),
    ]


@pytest.mark.parametrize("stop", ["b", "zz"])
def test_probabilities_go_with_the_beginning_of_their_token(stop: str) -> None:
    tokens = tuple({"token": name, "logprob": -1.0} for name in ("a", "bz"))
    told = trimmed((stop,), TextDelta("a", tokens[:1]), TextDelta("bz", tokens[1:]), Stop("stop"))
    said = [item for event in told if isinstance(event, TextDelta) for item in event.logprobs]
    assert json.dumps(said) == json.dumps(tokens[: 1 if stop == "b" else 2])
