"""Times in logarithmic buckets: how wrong a percentile may be, and what is added for those who were not sent."""

from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes.load.histogram import Histogram

TIMES = st.lists(st.floats(1e-6, 1e5), min_size=1, max_size=200)


def filled(times: list[float]) -> Histogram:
    histogram = Histogram()
    for time_s in times:
        histogram.add(time_s)
    return histogram


@given(TIMES, st.sampled_from((50, 90, 95, 99, 99.9, 100)))
def test_a_percentile_is_right_to_four_in_a_thousand(times: list[float], percent: float) -> None:
    true = sorted(times)[ceil(len(times) * percent / 100) - 1]
    assert filled(times).percentile(percent) == pytest.approx(true, rel=0.004)


@given(TIMES)
def test_count_mean_least_and_most_are_exact(times: list[float]) -> None:
    histogram = filled(times)
    assert (histogram.count, histogram.least_s, histogram.most_s) == (len(times), min(times), max(times))
    assert histogram.mean_s == pytest.approx(sum(times) / len(times))


@given(TIMES, TIMES)
def test_two_merged_are_one_of_both(some: list[float], others: list[float]) -> None:
    merged, both = filled(some), filled(some + others)
    merged.merge(filled(others))
    assert list(merged) == list(both)
    assert merged.count == both.count and merged.total_s == pytest.approx(both.total_s)


def test_nothing_is_known_of_no_times() -> None:
    assert (Histogram().percentile(50), Histogram().mean_s, list(Histogram())) == (0.0, 0.0, [])


def test_no_time_at_all_is_a_time() -> None:
    assert filled([0.0, 0.0, 1.0]).percentile(50) == pytest.approx(0, abs=1e-8)


def test_a_stall_counts_for_those_who_would_have_asked_meanwhile() -> None:
    """HdrHistogram's own example: 100 s at 100 answers of 1 ms a second, then one of 100 s."""
    measured = filled([0.001] * 10_000)
    measured.add(100.0)
    corrected = measured.corrected(0.01)
    assert corrected.count == pytest.approx(20_000, abs=2)
    assert measured.percentile(99) == pytest.approx(0.001, rel=0.01)
    for percent, true_s in ((50, 0.001), (75, 50.0), (90, 80.0), (99, 98.0)):
        assert corrected.percentile(percent) == pytest.approx(true_s, rel=0.01)


def test_who_never_waited_for_longer_than_the_interval_is_not_corrected() -> None:
    assert list(filled([0.01, 0.02, 0.039]).corrected(0.02)) == list(filled([0.01, 0.02, 0.039]))
    assert filled([1.0]).corrected(0.0).count == 1
