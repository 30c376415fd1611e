"""Lines of JSON and server-sent events: how the pieces of a stream are framed."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes.dialects import sse
from hermes.dialects.ndjson import Lines
from hermes.errors import BackendError


def cut(data: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted(at), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


@given(st.binary(max_size=60).map(lambda data: data.replace(b"\x00", b"\n")), st.data())
def test_lines_are_the_same_however_the_bytes_are_cut(data: bytes, draw: st.DataObject) -> None:
    at = draw.draw(st.lists(st.integers(0, len(data)), max_size=8))
    lines = Lines()
    found = [line for chunk in cut(data, at) for line in lines.feed(chunk)]
    assert [*found, lines.finish()] == data.split(b"\n")


@given(st.lists(st.integers(0, 12), min_size=1, max_size=5), st.data())
def test_exactly_the_lines_over_the_limit_are_refused(sizes: list[int], draw: st.DataObject) -> None:
    """I13: a single event is bounded, in whatever pieces it comes."""
    data = b"".join(b"x" * size + b"\n" for size in sizes)
    lines = Lines(max_line_bytes=8)

    def feed_all() -> None:
        for chunk in cut(data, draw.draw(st.lists(st.integers(0, len(data)), max_size=8))):
            lines.feed(chunk)

    if max(sizes) <= 8:
        feed_all()
    else:
        with pytest.raises(BackendError, match="longer than 8 bytes"):
            feed_all()


def test_an_endless_line_is_refused_before_it_ends() -> None:
    lines = Lines(max_line_bytes=100)
    with pytest.raises(BackendError):
        for _ in range(11):
            lines.feed(b"0123456789")


def test_an_event_is_one_data_field_and_an_empty_line() -> None:
    assert sse.event(b'{"a":1}') == b'data: {"a":1}\n\n'
    assert sse.event(b"[DONE]") == sse.DONE
