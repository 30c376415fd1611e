"""What is learned of how long things take: quantiles of the last samples, and how far predictions were off."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes.policy.estimates import Average, Calibration, Reading, Samples

VALUES = st.lists(st.floats(0.01, 1000.0), max_size=60)


def filled(values: list[float], first: float = 5.0, size: int = 300) -> Samples:
    samples = Samples(first, size)
    for value in values:
        samples.add(value)
    return samples


@given(VALUES, st.floats(0.0, 0.99))
def test_what_is_left_from_the_start_is_a_sample_that_so_many_do_not_exceed(values: list[float], part: float) -> None:
    samples = filled(values, size=40)
    kept = sorted(values[-40:])
    if not kept:
        assert samples.left(0.0, part) == 5.0
        return
    found = samples.left(0.0, part)
    assert found in kept
    assert sum(value <= found for value in kept) >= part * len(kept)
    assert sum(value < found for value in kept) <= part * len(kept)


@given(VALUES)
def test_the_mean_is_that_of_the_last_samples_with_the_first_estimate_among_them(values: list[float]) -> None:
    kept = values[-40:]
    samples = filled(values, size=40)
    assert samples.count == len(kept)
    assert samples.mean == pytest.approx((5.0 + sum(kept)) / (1 + len(kept)))


def test_only_the_last_samples_count() -> None:
    assert filled([100.0] * 50 + [1.0] * 10, size=10).left(0.0, 0.9) == 1.0


def test_of_what_has_gone_on_for_a_while_only_longer_ones_tell_what_is_left() -> None:
    samples = filled([1.0, 2.0, 4.0, 8.0])
    assert samples.left(3.0, 0.0) == 1.0
    assert samples.left(3.0, 0.5) == 5.0
    assert samples.left(4.0, 0.5) == 4.0


def test_what_goes_on_longer_than_any_before_goes_on_for_as_long_again_at_least_for_a_mean() -> None:
    samples = filled([2.0, 2.0], first=5.0)
    assert samples.left(2.0, 0.6) == samples.mean == 3.0
    assert samples.left(100.0, 0.6) == 100.0


def test_an_average_is_its_first_estimate_then_its_first_sample_then_moves_by_three_tenths() -> None:
    average = Average(10.0)
    average.first(4.0)
    assert average.value == 4.0
    average.add(20.0)
    assert average.value == 20.0
    average.add(30.0)
    assert average.value == pytest.approx(23.0)
    average.first(1.0)
    assert average.value == pytest.approx(23.0)


@pytest.mark.parametrize("factor", [0.4, 1.0, 2.5])
def test_calibration_finds_how_much_longer_waits_are_than_thought(factor: float) -> None:
    dice = random.Random(1)
    calibration = Calibration()
    inside = off = 0
    for number in range(6000):
        thought = dice.uniform(1.0, 60.0)
        actual = thought * factor * dice.lognormvariate(0.0, 0.3)
        likely, high = calibration.apply(thought)
        if number >= 1000:
            inside += actual <= high
            off += actual <= likely
        calibration.learn(thought, actual)
    assert 0.85 <= inside / 5000 <= 0.95
    assert 0.45 <= off / 5000 <= 0.55


def test_the_high_estimate_is_never_below_the_likely_one() -> None:
    calibration = Calibration()
    for _ in range(500):
        calibration.learn(1.0, 1.0)
        calibration.learn(1.0, 3.0)
        likely, high = calibration.apply(10.0)
        assert high >= likely


def test_what_was_thought_to_take_no_time_teaches_nothing() -> None:
    calibration = Calibration()
    before = calibration.apply(10.0)
    calibration.learn(0.0, 50.0)
    assert calibration.apply(10.0) == before


def test_predictions_are_stretched_and_shrunk_by_four_at_most() -> None:
    for actual, most in ((1e6, 4.0), (1e-6, 0.25)):
        calibration = Calibration()
        for _ in range(2000):
            calibration.learn(1.0, actual)
        assert calibration.apply(1.0)[0] == pytest.approx(most, rel=0.1)


@pytest.mark.parametrize("waits_s", [0.0, 60.0])
@pytest.mark.parametrize("cost", [0.01, 0.2])
def test_what_reading_takes_is_told_apart_from_writing_and_from_waiting(cost: float, waits_s: float) -> None:
    dice, reading = random.Random(1), Reading(0.5)
    for runs in range(300):
        assert runs > 8 or reading.cost == 0.5
        read, written = dice.randrange(20, 8000), dice.randrange(1, 500)
        reading.add(written, read, (written + cost * read) / 40 + dice.uniform(0.5, 1.5) * waits_s)
    assert reading.cost == pytest.approx(cost, rel=0.1 if not waits_s else 2.0)


def test_where_all_prompts_are_alike_the_first_guess_stands() -> None:
    reading = Reading(0.02)
    for runs in range(50):
        reading.add(100 + runs, 1000, 5.0 + runs / 40)
    assert reading.cost == 0.02
