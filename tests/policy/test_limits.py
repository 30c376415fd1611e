"""Each limit by itself: exact, bounded in memory, and as if each request had taken what it took when it came."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from math import inf
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hermes.policy.limits import (
    BLOCKS,
    GRAIN_S,
    GRAINS,
    MANY,
    SPAN_S,
    AtOnce,
    Budget,
    Flow,
    Limit,
    Moment,
    Window,
)
from hermes.principal import Quota

Settled = Callable[[int | None, Moment], None]

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp()
DAY_S = 86400.0
FAINT = 1e-6


def at(now: float) -> Moment:
    return Moment(now, NOON + now)


def waits(limit: Limit, prompt: int, now: float, output: int = 0) -> float:
    return limit.wait_s(prompt + output, prompt, at(now))


def take(limit: Limit, prompt: int, now: float, output: int = 0) -> Settled:
    """Charged; what is returned settles it."""
    mark = limit.take(prompt + output, prompt, at(now))
    assert mark is not None
    return partial(limit.settle, mark)


def test_the_wait_that_is_told_is_exact() -> None:
    window, flow = Window(2), Flow(60)
    for now in (0.0, 7.0):
        take(window, 0, now)
        take(flow, 25, now)
    assert waits(window, 0, 10.0) == 50.0
    assert waits(window, 0, 59.9) > 0 == waits(window, 0, 60.0)
    wait_s = waits(flow, 25, 10.0)
    assert wait_s == pytest.approx(5.0)  # 75 - 60, less the 10 that have leaked
    assert waits(flow, 25, 10.0 + wait_s - 0.01) > 0 == waits(flow, 25, 10.0 + wait_s)


def test_of_very_many_requests_few_marks_are_kept_and_none_ages_too_early_or_much_too_late() -> None:
    """I4"""
    window = Window(MANY + 1)
    for number in range(MANY + 1):
        take(window, 0, number * 0.01)
    assert len(window._marks) <= MANY * 0.01 / GRAIN_S + 2
    last = MANY * 0.01
    wait_s = waits(window, 0, last)
    assert SPAN_S <= last + wait_s <= SPAN_S + GRAIN_S
    assert waits(window, 0, last + wait_s) == 0.0
    assert waits(window, 0, last + SPAN_S) == 0.0
    assert window.quota(at(last + SPAN_S)).remaining == MANY + 1


def test_requests_that_were_given_back_take_no_memory() -> None:
    """I4"""
    window = Window(10)
    take(window, 0, 0.0)
    for number in range(10_000):
        take(window, 0, number * 0.001)(None, at(number * 0.001))
    assert len(window._marks) < 100
    assert window.quota(at(10.0)) == Quota(10, 9, 50.0)


def test_what_was_given_back_at_once_leaves_no_mark() -> None:
    """I4, I6: however many another limit refuses, nobody has to look past them."""
    window = Window(1000)
    for number in range(500):
        take(window, 0, number * 0.001)
    for _ in range(900):
        take(window, 0, 1.0)(None, at(1.0))
        assert len(window._marks) == 500
    assert window.quota(at(1.0)) == Quota(1000, 500, pytest.approx(59.499))


def test_what_was_given_back_later_is_swept_away() -> None:
    """I4"""
    window = Window(MANY)
    given = [take(window, 0, number * 0.001) for number in range(1000)]
    for settle in given[:-1]:
        settle(None, at(1.0))
    assert len(window._marks) < 100
    assert window.quota(at(1.0)) == Quota(MANY, MANY - 1, pytest.approx(59.999))
    given[-1](None, at(1.0))
    assert not window._marks and window.quota(at(1.0)) == Quota(MANY, MANY, 0.0)


def test_what_comes_right_after_one_was_given_back_ages_as_any_other() -> None:
    window = Window(MANY + 1)
    take(window, 0, 0.0)(None, at(0.0))
    take(window, 0, 0.001)
    assert window.quota(at(0.001)).remaining == MANY
    assert waits(window, 0, SPAN_S + GRAIN_S) == 0.0
    assert window.quota(at(SPAN_S + GRAIN_S)).remaining == MANY + 1


@pytest.mark.parametrize("most", [1, 60_000_000, 1_000_000_000])
def test_no_more_is_left_than_all(most: int) -> None:
    assert Flow(most).quota(at(5.0)) == Quota(most, most, 0.0)


def test_the_memory_of_a_flow_is_bounded() -> None:
    """I4"""
    flow = Flow(100_000)
    for number in range(50_000):
        take(flow, 2, number * 1e-6)
    assert len(flow._lows) <= GRAINS + 1


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.integers(1, 40)),
        st.tuples(st.just("settle"), st.integers(0, 9), st.sampled_from((0.0, 0.5, 1.0))),
        st.tuples(st.just("wait"), st.sampled_from((0.5, 3.0, 7.0, 20.0))),
    ),
    max_size=60,
)


@given(STEPS)
@example([("take", 20), ("take", 20), ("wait", 27), ("take", 40), ("settle", 1, 0.0), ("settle", 0, 0.0)])
@example([("take", 15), ("wait", 10), ("take", 30), ("wait", 20), ("take", 20), ("settle", 1, 0.0), ("settle", 0, 0.0)])
def test_a_flow_is_as_if_each_request_had_taken_what_it_took_when_it_came(steps: list[tuple[Any, ...]]) -> None:
    """Never more generous than that, and stingier by no more than is said."""
    flow, now = Flow(60), 0.0
    poured: list[list[float]] = []  # of [when, what is known to have been taken]
    open_: list[tuple[Settled, list[float]]] = []
    settled = 0
    for what, *much in steps:
        if what == "wait":
            now += much[0]
        elif what == "take":
            if not waits(flow, much[0], now):
                poured.append([now, much[0]])
                open_.append((take(flow, much[0], now), poured[-1]))
        elif open_:
            settle, mark = open_.pop(much[0] % len(open_))
            mark[1] = int(mark[1] * much[1])
            settle(int(mark[1]), at(now))
            settled += 1
        exact, then = 0.0, 0.0
        for when, tokens in poured:
            exact, then = max(0.0, exact - (when - then)) + tokens, when
        exact = max(0.0, exact - (now - then))
        level = flow._level_s(now)  # a token takes a second
        assert exact - FAINT <= level <= exact + settled * 60 / GRAINS + FAINT
        assert flow._lows == sorted(flow._lows, key=lambda low: low[1])


def test_what_is_given_back_to_a_flow_after_it_has_leaked_is_not_given_back_again() -> None:
    flow = Flow(60)
    settle = take(flow, 60, 0.0)
    assert waits(flow, 60, 60.0) == 0.0
    take(flow, 60, 60.0)
    settle(None, at(60.0))
    assert waits(flow, 1, 60.0) == pytest.approx(1.0)


def test_what_a_request_takes_beyond_its_reservation_is_charged_when_it_is_over() -> None:
    flow, budget = Flow(60), Budget(100, "day", lambda period: 0)
    for limit in (flow, budget):
        take(limit, 10, 0.0, output=10)(150, at(0.0))
    assert waits(flow, 1, 0.0) == pytest.approx(91.0)
    assert budget.used == 150 and waits(budget, 1, 0.0) == 12 * 3600


@pytest.mark.parametrize("limit", [Flow(60), Budget(60, "day", lambda period: 0)])
def test_a_guess_alone_refuses_nobody_for_good_but_a_prompt_that_never_fits_does(limit: Limit) -> None:
    assert waits(limit, 61, 0.0) == inf
    assert waits(limit, 50, 0.0, output=500) == 0.0
    take(limit, 50, 0.0, output=500)
    assert 0 < waits(limit, 1, 0.0) < inf


def test_as_many_as_may_at_once() -> None:
    limit = AtOnce(2)
    first, _ = take(limit, 0, 0.0), take(limit, 0, 0.0)
    assert waits(limit, 0, 0.0) > 0
    first(5, at(0.0))
    assert waits(limit, 0, 0.0) == 0.0


def test_a_month_ends_with_the_month_and_a_clock_that_is_set_back_leads_into_none_that_is_over() -> None:
    """I35"""
    budget = Budget(100, "month", lambda period: 0)
    new_year = datetime(2027, 1, 1, tzinfo=UTC).timestamp()
    assert budget.wait_s(100, 100, Moment(0.0, new_year - 3600)) == 0.0
    budget.take(100, 100, Moment(0.0, new_year - 3600))
    assert budget.wait_s(1, 1, Moment(0.0, new_year - 3600)) == 3600
    assert budget.period == "2026-12"
    assert budget.wait_s(1, 1, Moment(0.0, new_year)) == 0.0
    budget.take(100, 100, Moment(0.0, new_year))
    assert budget.wait_s(1, 1, Moment(0.0, new_year - 3600)) > 0
    assert budget.period == "2027-01"


def test_what_is_settled_after_its_day_is_over_does_not_count_in_the_next() -> None:
    budget = Budget(100, "day", lambda period: 0)
    settle = take(budget, 50, 0.0)
    take(budget, 20, DAY_S)
    settle(None, at(DAY_S))
    assert budget.used == 20


def test_a_budget_is_claimed_ahead_in_blocks_and_not_more_often_than_needed() -> None:
    budget = Budget(64_000, "day", lambda period: 0)
    claims = []
    while budget.used < budget.most:
        take(budget, 10, 0.0)
        if budget.used > budget.claims_above:
            claims.append(budget.claim())
        assert budget.used <= budget.claimed <= min(budget.most, budget.used + budget.most // BLOCKS)
    assert budget.used <= budget.claims_above and len(claims) <= 2 * BLOCKS + 1


def test_what_was_used_before_counts() -> None:
    budget = Budget(100, "day", {"2026-11-22": 90}.__getitem__)
    assert waits(budget, 11, 0.0) > 0 == waits(budget, 10, 0.0)
