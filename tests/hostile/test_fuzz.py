"""Must show 5 of issue 5, the second half: fuzzers on the parsers of heads, bodies, keys and settings find nothing.

HERMES_FUZZ_SECONDS: for how long, each. `make fuzz` has minutes, and a fuzzer that sees where it gets.
"""

import os
from time import monotonic

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.hostile.fuzz import TARGETS

SECONDS = float(os.environ.get("HERMES_FUZZ_SECONDS", "1"))


@pytest.mark.parametrize("name", TARGETS)
def test_a_parser_reads_whatever_comes_or_refuses_it(name: str) -> None:
    target = TARGETS[name]
    pieces = st.lists(st.sampled_from(target.words) | st.binary(max_size=4), max_size=40)

    @settings(max_examples=100, database=None)
    @given(pieces.map(b"".join) | st.builds(mutated, st.sampled_from(target.seeds), st.data()))
    def fuzz(data: bytes) -> None:
        target.check(data)

    for seed in target.seeds:
        target.check(seed)
    until = monotonic() + SECONDS
    while monotonic() < until:
        fuzz()


def mutated(seed: bytes, data: st.DataObject) -> bytes:
    """A seed with a piece of it taken out or another put in."""
    begin, end = sorted(data.draw(st.integers(0, len(seed))) for _ in range(2))
    return seed[:begin] + data.draw(st.binary(max_size=6)) + seed[min(end, begin + 8) :]
