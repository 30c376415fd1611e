"""What came of the requests, counted: in which window, for which rate, in how many slots."""

from typing import Any

import pytest

from hermes.load.figures import figures
from hermes.load.histogram import Histogram
from hermes.load.plan import Asked
from hermes.load.reading import Reading
from hermes.load.run import Strain
from hermes.load.tally import ANSWERED, Result, Tally

BEGAN = 1000.0


def over(
    tally: Tally,
    due_s: float,
    lasted_s: float,
    outcome: str = ANSWERED,
    late_s: float = 0.0,
    tenant: int = 0,
    first_s: float = 0.0,
) -> None:
    """A request that was due so long after the beginning, and took so long from then."""
    reading = Reading(tally.gaps(BEGAN + due_s))
    reading.tokens_out = 10
    reading.first_at = BEGAN + due_s + first_s if first_s else 0.0
    tally.begin(BEGAN + due_s)
    asked = Asked(0, due_s, "gemma", 1, 1, tenant)
    tally.end(Result(asked, BEGAN + due_s, BEGAN + due_s + late_s, BEGAN + due_s + lasted_s, outcome, reading))


def counted(tally: Tally, is_closed: bool = False, **strain: Any) -> Any:
    return figures(tally, Strain(Histogram(), **strain), {}, 2, is_closed)


def test_a_rate_is_of_what_was_complete_within_the_window() -> None:
    tally = Tally(BEGAN, warmup_s=2.0, duration_s=10.0, slo={"e2e": 3.0}, names=[""])
    over(tally, 1.0, 2.0)  # due in the warm-up
    over(tally, 3.0, 2.0)
    over(tally, 4.0, 5.0)  # not as good as asked for
    over(tally, 11.5, 1.0)  # complete after the end
    opened, closed = counted(tally), counted(tally, is_closed=True)
    assert (opened.all.asked, opened.all.answered, opened.all.good, opened.window_s) == (3, 3, 2, 10.0)
    assert (opened.all.answers_per_s, opened.all.tokens_out_per_s) == (0.2, 2.0)
    assert (opened.all.good_per_s, closed.all.good_per_s) == (0.2, 0.1)
    assert opened.all.good_share == pytest.approx(2 / 3)


def test_without_an_end_the_window_ends_with_the_last_answer() -> None:
    tally = Tally(BEGAN, 0.0, None, {}, [""])
    over(tally, 0.0, 1.0)
    over(tally, 1.0, 3.0)
    assert (tally.window_s, counted(tally).all.answers_per_s) == (4.0, 0.5)


def test_an_answer_of_which_a_limit_was_not_measured_is_neither_good_nor_bad() -> None:
    tally = Tally(BEGAN, 0.0, 10.0, {"ttft": 1.0, "e2e": 3.0}, [""])
    over(tally, 1.0, 2.0, first_s=0.5)
    over(tally, 1.0, 2.0, first_s=1.5)
    over(tally, 1.0, 2.0)
    over(tally, 1.0, 4.0)  # too late, whenever its first token came
    found = counted(tally)
    assert (found.all.answered, found.all.good, found.all.unmeasured) == (4, 1, 1)
    assert found.all.good_share == pytest.approx(1 / 3)
    assert "1 answers are not in the goodput" in found.warnings[0]


def test_a_long_run_has_wider_slots_and_loses_nothing() -> None:
    tally = Tally(BEGAN, 0.0, None, {}, [""])
    for second in range(0, 2000, 5):
        over(tally, second, 0.5, late_s=0.1)
        tally.came(3, BEGAN + second + 0.2)
    found = counted(tally)
    assert len(found.moments) <= 240 and found.moment_s == 16.0
    assert (sum(each.due for each in found.moments), sum(each.pieces for each in found.moments)) == (400, 1200)
    assert found.moments[1].at_s == 16.0 and found.moments[1].e2e_p50 == pytest.approx(0.5, rel=0.01)


def test_more_kinds_of_errors_than_can_be_told_are_one() -> None:
    """I4: what a server says bounds no memory of ours."""
    tally = Tally(BEGAN, 0.0, None, {}, [""])
    for number in range(100):
        over(tally, 0.0, 1.0, f"400 kind{number}")
    errors = counted(tally).all.errors
    assert len(errors) == 41 and errors["other"] == 60


def test_it_is_said_where_the_generator_itself_was_the_limit() -> None:
    tally = Tally(BEGAN, 0.0, None, {}, [""])
    over(tally, 0.0, 1.0)
    assert counted(tally).warnings == []
    assert "97 % of its core" in counted(tally, cpu_most=0.97).warnings[0]
    strain = Strain(Histogram())
    strain.lag.add(0.08)
    assert "80 ms late" in figures(tally, strain, {}, None, False).warnings[0]
    over(tally, 0.0, 1.0, late_s=0.5)
    assert "2 connections were too few" in counted(tally).warnings[0]


def test_who_is_under_way_is_told_of_seconds_in_which_nobody_came_or_went() -> None:
    tally = Tally(BEGAN, 0.0, 1.0, {}, [""])
    over(tally, 0.1, 0.2)
    tally.begin(BEGAN + 0.5)
    over(tally, 0.6, 3.0)
    tally.came(1, BEGAN + 4.2)
    assert [each.in_flight for each in counted(tally).moments] == [2, 2, 2, 2, 1]
