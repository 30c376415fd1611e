import asyncio

import pytest

from hermes.simulator.clock import Clock, nanoseconds
from tests.simulator.harness import run


@pytest.mark.parametrize(
    ("wall_ns", "text"),
    [
        (1_795_229_577_892_797_242, b"2026-11-21T02:52:57.892797242Z"),
        (1_795_229_577_893_493_000, b"2026-11-21T02:52:57.893493Z"),
        (1_795_229_577_000_000_000, b"2026-11-21T02:52:57Z"),
        (10_000_000_000_000_000_000, b"2286-11-20T17:46:40Z"),
    ],
)
def test_dates_have_no_trailing_zeros_as_in_go(wall_ns: int, text: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> bytes:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr("time.time_ns", lambda: wall_ns)
        return Clock(loop).rfc3339()

    assert run(main) == text


def test_a_clock_goes_on_with_the_loop_s_not_the_wall_s() -> None:
    """I35: a step of the wall clock changes nothing."""

    async def main() -> None:
        clock = Clock(asyncio.get_running_loop())
        before = clock.rfc3339()
        await clock.until(clock.now() + 3600)
        hour = int(clock.rfc3339()[11:13]) - int(before[11:13])
        assert hour % 24 == 1

    run(main)


def test_durations_are_whole_nanoseconds() -> None:
    assert nanoseconds(0.1) == 100_000_000
