"""Each limit by itself, and all of a request's together, against what was really used: never exceeded, never stingy.

The machine keeps the whole history that the limits forget: when each request came, what it took, whether it was given
back. What it may have at most is read off that.
"""

from datetime import UTC, datetime
from math import inf
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec import Struct

from hermes.policy.limiter import Hold, Limiter, Modes, Refusal
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
    Settle,
    Window,
)
from hermes.principal import UNBOUNDED, Allowance, Principal, Quota

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp()
DAY_S = 86400.0
FAINT = 1e-6


def at(now: float) -> Moment:
    return Moment(now, NOON + now)


class Taken(Struct, eq=False):
    """A request that was let in: when, what for, what it took in the end. `used` None: it was given back."""

    key: str
    model: str
    came: Moment
    cost: int
    hold: Hold
    open: bool = True
    used: int | None = 0
    ended: float = inf


KEYS = {
    "a": Principal("a", "a", False, allowance=Allowance(rpm=3, tpm=60, concurrency=3, daily_tokens=200)),
    "b": Principal("b", "b", False, allowance=Allowance(monthly_tokens=300), per_model=(("x*", Allowance(2, 70, 1)),)),
    "free": Principal("free", "free", False),
}
MODELS = {"x1": Allowance(rpm=5, tpm=100), "x2": Allowance(daily_tokens=150), "y": UNBOUNDED}
REJECT = Modes(concurrency="reject")


class Machine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.limiter = Limiter(REJECT)
        self.now = 1000.0
        self.all: list[Taken] = []

    @property
    def open(self) -> list[Taken]:
        return [each for each in self.all if each.open]

    # --- what happens -----------------------------------------------------------------------------------------------

    @rule(
        key=st.sampled_from(sorted(KEYS)),
        model=st.sampled_from(sorted(MODELS)),
        prompt=st.integers(0, 40),
        most=st.integers(0, 20),
    )
    def ask(self, key: str, model: str, prompt: int, most: int) -> None:
        moment = at(self.now)
        party = self.limiter.party(KEYS[key], model, MODELS[model], moment)
        before = self.told()
        hold = self.limiter.reserve(party, prompt, most, moment)
        if isinstance(hold, Refusal):
            assert self.told() == before, "a refusal has consumed something"
            assert not self.has_room(key, model, prompt + most), f"refused by {hold} while there was room"
            return
        self.all.append(Taken(key, model, moment, hold.prompt + hold.output, hold))

    @precondition(lambda self: self.open)
    @rule(which=st.integers(0, 100), part=st.floats(0, 1))
    def end(self, which: int, part: float) -> None:
        """It took no more than was reserved."""
        taken = self.open[which % len(self.open)]
        taken.open, taken.used, taken.ended = False, int(taken.cost * part), self.now
        taken.hold.settle((taken.used, 0), at(self.now))

    @precondition(lambda self: self.open)
    @rule(which=st.integers(0, 100))
    def fail(self, which: int) -> None:
        taken = self.open[which % len(self.open)]
        taken.open, taken.used, taken.ended = False, None, self.now
        taken.hold.settle(None, at(self.now))

    @rule(seconds=st.sampled_from((0.001, 0.5, 3.0, 20.0, 59.999, 60.0, 61.0, 12 * 3600.0, DAY_S)))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    # --- what must hold ---------------------------------------------------------------------------------------------

    def accounts(self) -> list[tuple[str, str, Allowance]]:
        """Of whom (`*`: of all), and what he may."""
        own = [(name, "*", each.allowance) for name, each in KEYS.items()]
        single = [("b", model, Allowance(2, 70, 1)) for model in ("x1", "x2")]
        return own + single + [("*", model, each) for model, each in MODELS.items()]

    def of(self, key: str, model: str) -> list[Taken]:
        return [each for each in self.all if key in ("*", each.key) and model in ("*", each.model)]

    @invariant()
    def no_limit_is_exceeded_at_any_instant(self) -> None:
        for key, model, most in self.accounts():
            kept = [each for each in self.of(key, model) if each.used is not None]
            if most.rpm is not None:
                for first in kept:
                    window = [each for each in kept if 0 <= each.came.now - first.came.now < SPAN_S]
                    assert len(window) <= most.rpm
            if most.tpm is not None:
                for number, first in enumerate(kept):
                    total = 0
                    for each in kept[number:]:
                        total += worth(each)
                        within_s = each.came.now - first.came.now
                        assert total <= most.tpm * (1 + within_s / SPAN_S) + FAINT
            if most.concurrency is not None:
                assert sum(each.open for each in kept) <= most.concurrency
            for budget, length in ((most.daily_tokens, 10), (most.monthly_tokens, 7)):
                if budget is not None:
                    period = day(self.now)[:length]
                    spent = sum(worth(each) for each in kept if day(each.came.now)[:length] == period)
                    assert spent <= budget

    def has_room(self, key: str, model: str, cost: int) -> bool:
        """Whether every limit had room beyond its stated bound, for a request that could ever fit."""
        for whose, which, most in self.accounts():
            if whose not in ("*", key) or which not in ("*", model):
                continue
            kept = [each for each in self.of(whose, which) if each.used is not None]
            if most.rpm is not None and sum(self.now - each.came.now < SPAN_S for each in kept) >= most.rpm:
                return False
            if most.concurrency is not None and sum(each.open for each in kept) >= most.concurrency:
                return False
            if most.tpm is not None:
                lost = sum(each.used != each.cost for each in self.of(whose, which)) * most.tpm / GRAINS
                if level(kept, most.tpm, self.now) + cost + lost > most.tpm:
                    return False
            for budget, length in ((most.daily_tokens, 10), (most.monthly_tokens, 7)):
                if budget is not None:
                    period = day(self.now)[:length]
                    spent = sum(worth(each) for each in kept if day(each.came.now)[:length] == period)
                    if spent + cost > budget:
                        return False
        return True

    def told(self) -> object:
        """All that the limits know, as who asks sees it."""
        moment = at(self.now)
        parties = [self.limiter.party(KEYS[key], model, MODELS[model], moment) for key in KEYS for model in MODELS]
        rules = [rule.limit for party in parties for rule in party.rules]
        return [[limit.wait_s(cost, 0, moment) for cost in (1, 7, 20, 30, 60)] for limit in rules]


def worth(each: Taken) -> int:
    """What a request counts that was not given back."""
    return each.cost if each.open else each.used or 0


def level(kept: list[Taken], most: int, now: float) -> float:
    """A bucket into which each has poured when it came what is known by now that it took."""
    found, then = 0.0, 0.0
    for each in kept:
        found = max(0.0, found - (each.came.now - then) * most / SPAN_S) + worth(each)
        then = each.came.now
    return max(0.0, found - (now - then) * most / SPAN_S)


def day(now: float) -> str:
    return datetime.fromtimestamp(NOON + now, UTC).date().isoformat()


Machine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_the_limits_hold_for_any_sequence_of_requests_and_refuse_nobody_while_there_is_room = Machine.TestCase


# --- one by one -------------------------------------------------------------------------------------------------------


def waits(limit: Limit, prompt: int, now: float, output: int = 0) -> float:
    return limit.wait_s(prompt, output, at(now))


def test_the_wait_that_is_told_is_exact() -> None:
    window, flow = Window(2), Flow(60)
    for now in (0.0, 7.0):
        window.take(0, 0, at(now))
        flow.take(25, 0, at(now))
    assert waits(window, 0, 10.0) == 50.0
    assert waits(window, 0, 59.9) > 0 == waits(window, 0, 60.0)
    wait_s = waits(flow, 25, 10.0)
    assert wait_s == pytest.approx(5.0)  # 75 - 60, less the 10 that have leaked
    assert waits(flow, 25, 10.0 + wait_s - 0.01) > 0 == waits(flow, 25, 10.0 + wait_s)


def test_of_very_many_requests_few_marks_are_kept_and_none_ages_too_early_or_much_too_late() -> None:
    """I4"""
    window = Window(MANY + 1)
    for number in range(MANY + 1):
        window.take(0, 0, at(number * 0.01))
    assert len(window._marks) <= MANY * 0.01 / GRAIN_S + 2
    last = MANY * 0.01
    wait_s = waits(window, 0, last)
    assert SPAN_S <= last + wait_s <= SPAN_S + GRAIN_S
    assert waits(window, 0, last + wait_s) == 0.0
    assert window.quota(at(last + SPAN_S)).remaining == MANY + 1


def test_requests_that_were_given_back_take_no_memory() -> None:
    """I4"""
    window = Window(10)
    window.take(0, 0, at(0.0))
    for number in range(10_000):
        window.take(0, 0, at(number * 0.001))(None, at(number * 0.001))
    assert len(window._marks) < 100
    assert window.quota(at(10.0)) == Quota(10, 9, 50.0)


def test_the_memory_of_a_flow_is_bounded() -> None:
    """I4"""
    flow = Flow(100_000)
    for number in range(50_000):
        flow.take(2, 0, at(number * 1e-6))
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
    open_: list[tuple[Settle, list[float]]] = []
    settled = 0
    for what, *much in steps:
        if what == "wait":
            now += much[0]
        elif what == "take":
            if not waits(flow, much[0], now):
                poured.append([now, much[0]])
                open_.append((flow.take(much[0], 0, at(now)), poured[-1]))
        elif open_:
            settle, mark = open_.pop(much[0] % len(open_))
            mark[1] = int(mark[1] * much[1])
            settle(int(mark[1]), at(now))
            settled += 1
        exact, then = 0.0, 0.0
        for when, tokens in poured:
            exact, then = max(0.0, exact - (when - then)) + tokens, when
        exact = max(0.0, exact - (now - then))
        flow.wait_s(0, 0, at(now))
        assert exact - FAINT <= flow._level <= exact + settled * 60 / GRAINS + FAINT
        assert flow._lows == sorted(flow._lows, key=lambda low: low[1])


def test_what_is_given_back_to_a_flow_after_it_has_leaked_is_not_given_back_again() -> None:
    flow = Flow(60)
    settle = flow.take(60, 0, at(0.0))
    assert waits(flow, 60, 60.0) == 0.0
    flow.take(60, 0, at(60.0))
    settle(None, at(60.0))
    assert waits(flow, 1, 60.0) == pytest.approx(1.0)


def test_what_a_request_takes_beyond_its_reservation_is_charged_when_it_is_over() -> None:
    flow, budget = Flow(60), Budget(100, "day", lambda period: 0)
    for limit in (flow, budget):
        limit.take(10, 10, at(0.0))(150, at(0.0))
    assert waits(flow, 1, 0.0) == pytest.approx(91.0)
    assert budget.used == 150 and waits(budget, 1, 0.0) == 12 * 3600


@pytest.mark.parametrize("limit", [Flow(60), Budget(60, "day", lambda period: 0)])
def test_a_guess_alone_refuses_nobody_for_good_but_a_prompt_that_never_fits_does(limit: Limit) -> None:
    assert waits(limit, 61, 0.0) == inf
    assert waits(limit, 50, 0.0, output=500) == 0.0
    limit.take(50, 500, at(0.0))
    assert 0 < waits(limit, 1, 0.0) < inf


def test_as_many_as_may_at_once() -> None:
    limit = AtOnce(2)
    first, _ = limit.take(0, 0, at(0.0)), limit.take(0, 0, at(0.0))
    assert waits(limit, 0, 0.0) > 0
    first(5, at(0.0))
    assert waits(limit, 0, 0.0) == 0.0


def test_a_month_ends_with_the_month_and_a_clock_that_is_set_back_leads_into_none_that_is_over() -> None:
    """I35"""
    budget = Budget(100, "month", lambda period: 0)
    new_year = datetime(2027, 1, 1, tzinfo=UTC).timestamp()
    budget.take(100, 0, Moment(0.0, new_year - 3600))
    assert budget.wait_s(1, 0, Moment(0.0, new_year - 3600)) == 3600
    assert budget.period == "2026-12"
    assert budget.wait_s(1, 0, Moment(0.0, new_year)) == 0.0
    budget.take(100, 0, Moment(0.0, new_year))
    assert budget.wait_s(1, 0, Moment(0.0, new_year - 3600)) > 0
    assert budget.period == "2027-01"


def test_what_is_settled_after_its_day_is_over_does_not_count_in_the_next() -> None:
    budget = Budget(100, "day", lambda period: 0)
    settle = budget.take(50, 0, at(0.0))
    budget.take(20, 0, at(DAY_S))
    settle(None, at(DAY_S))
    assert budget.used == 20


def test_a_budget_is_claimed_ahead_in_blocks_and_not_more_often_than_needed() -> None:
    budget = Budget(64_000, "day", lambda period: 0)
    claims = []
    while budget.used < budget.most:
        budget.take(10, 0, at(0.0))
        if (claim := budget.claim()) is not None:
            claims.append(claim)
        assert budget.used <= budget.claimed <= min(budget.most, budget.used + budget.most // BLOCKS)
    assert budget.claim() is None and len(claims) <= 2 * BLOCKS + 1


def test_what_was_used_before_counts() -> None:
    budget = Budget(100, "day", {"2026-11-22": 90}.__getitem__)
    assert waits(budget, 11, 0.0) > 0 == waits(budget, 10, 0.0)


# --- all together -----------------------------------------------------------------------------------------------------


def reserve(limiter: Limiter, principal: Principal, model: str = "m", now: float = 0.0, prompt: int = 1) -> Any:
    return limiter.reserve(limiter.party(principal, model, UNBOUNDED, at(now)), prompt, 0, at(now))


def keyed(name: str, **most: int) -> Principal:
    return Principal(name, name, False, allowance=Allowance(**most))


def test_the_longest_wait_is_told() -> None:
    limiter, mine = Limiter(Modes()), keyed("k", rpm=1, daily_tokens=5)
    reserve(limiter, mine, prompt=5)
    assert reserve(limiter, mine, now=1.0) == Refusal("daily_tokens", "key", 5, 12 * 3600 - 1.0)


def test_nine_of_ten_answers_so_far_are_reserved_for_and_never_more_than_may_be_written() -> None:
    limiter, mine = Limiter(Modes()), keyed("k", tpm=10**6)
    party = limiter.party(mine, "m", UNBOUNDED, at(0.0))
    for length in range(1, 11):
        hold = limiter.reserve(party, 1, None, at(0.0))
        assert isinstance(hold, Hold)
        hold.learn(length)
    for most, expected in ((None, 10), (4, 4)):
        hold = limiter.reserve(party, 1, most, at(0.0))
        assert isinstance(hold, Hold) and hold.output == expected


def test_a_key_that_is_changed_keeps_what_it_has_used() -> None:
    limiter = Limiter(Modes())
    for _ in range(3):
        reserve(limiter, keyed("k", rpm=3))
    assert isinstance(reserve(limiter, keyed("k", rpm=3)), Refusal)
    assert isinstance(reserve(limiter, keyed("k", rpm=4)), Hold)
    assert isinstance(reserve(limiter, keyed("k", rpm=2)), Refusal)
    assert isinstance(reserve(limiter, keyed("k")), Hold)


def test_modes_that_are_changed_hold_for_the_next_request() -> None:
    limiter, mine = Limiter(Modes()), keyed("k", rpm=1)
    reserve(limiter, mine)
    limiter.change(Modes(rpm="shadow"))
    assert isinstance(reserve(limiter, mine), Hold)
    limiter.change(Modes())
    assert isinstance(reserve(limiter, mine), Refusal)


def test_who_is_as_new_is_forgotten_and_nobody_else() -> None:
    """I4"""
    limiter = Limiter(Modes())
    running = reserve(limiter, keyed("runs", rpm=1))
    spender = keyed("spends", daily_tokens=10)
    reserve(limiter, spender, prompt=10).settle((10, 0), at(0.0))
    for number in range(5000):
        reserve(limiter, keyed(f"k{number}", rpm=1), now=number * 1.0).settle((1, 0), at(number * 1.0))
    assert len(limiter._accounts) < 2500 and len(limiter._parties) < 2500
    assert "key runs" in limiter._accounts and "key spends" not in limiter._accounts
    assert isinstance(reserve(limiter, spender, now=5000.0), Refusal)
    running.settle(None, at(5000.0))


def test_patterns_fit_as_they_say_and_the_first_that_fits_counts() -> None:
    own = (("a.?", Allowance(rpm=1)), ("a*", Allowance(rpm=2)), ("*", Allowance(rpm=3)))
    mine = Principal("k", "k", False, per_model=own)
    limiter = Limiter(Modes())
    for model, most in (("a.b", 1), ("axb", 2), ("a.bc", 2), ("b", 3)):
        granted = [reserve(limiter, mine, model) for _ in range(5)]
        assert sum(isinstance(each, Hold) for each in granted) == most
