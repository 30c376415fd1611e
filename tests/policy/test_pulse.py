"""When a silence is suspicious: so many times what is usual, and never a short one."""

from math import inf

import pytest

from hermes.policy.pulse import ENOUGH_RUNS, LEAST_TOKENS, TIMES, Pulse

LEAST_S = 30.0


@pytest.fixture
def pulse() -> Pulse:
    return Pulse(LEAST_S)


def test_before_anything_is_known_a_long_prompt_may_take_longer_than_a_short_one(pulse: Pulse) -> None:
    assert (pulse.before_s(1), pulse.before_s(LEAST_TOKENS)) == (LEAST_S, LEAST_S)
    assert pulse.before_s(100 * LEAST_TOKENS) == pytest.approx(100 * LEAST_S)


def test_within_an_answer_many_times_the_usual_silence_is_too_long(pulse: Pulse) -> None:
    assert pulse.within_s() == LEAST_S
    for _ in range(200):
        pulse.spoke(5.0)
    assert pulse.within_s() == TIMES * 5.0


def test_one_odd_silence_in_many_is_not_usual(pulse: Pulse) -> None:
    for number in range(200):
        pulse.spoke(1000.0 if number == 7 else 5.0)
    assert pulse.within_s() == TIMES * 5.0


def test_what_reading_took_before_tells_what_a_prompt_may_take(pulse: Pulse) -> None:
    for tokens in (10, 100, 1000, 10_000):
        pulse.began(0.02 * max(tokens, LEAST_TOKENS), tokens)
    assert pulse.before_s(10) == pytest.approx(TIMES * 0.02 * LEAST_TOKENS)
    assert pulse.before_s(10_000) == pytest.approx(TIMES * 0.02 * 10_000)


def test_what_is_whole_is_not_waited_for_in_vain_before_some_have_come(pulse: Pulse) -> None:
    for _ in range(ENOUGH_RUNS):
        assert pulse.at_all_s() == inf
        pulse.ended(20.0)
    assert pulse.at_all_s() == TIMES * 20.0
