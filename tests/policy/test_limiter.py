"""All of a request's limits together, against what was really used: never exceeded, never stingy, all or none.

The machine keeps the whole history that the limits forget: when each request came, what it took, whether it was given
back. What it may have at most is read off that.
"""

from datetime import UTC, datetime
from math import inf
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec import Struct

from hermes.policy.limiter import Hold, Lengths, Limiter, Modes, Refusal
from hermes.policy.limits import GRAINS, SPAN_S, Moment
from hermes.principal import UNBOUNDED, Allowance, Principal
from tests.policy.test_limits import DAY_S, FAINT, NOON, at


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
        taken.hold.settle(taken.used, at(self.now))

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
        return [[limit.wait_s(cost, cost, moment) for cost in (1, 7, 20, 30, 60)] for limit in rules]


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
    assert party.lengths is not None
    for length in range(1, 11):
        party.lengths.add(length)
    for most, expected in ((None, 10), (4, 4)):
        hold = limiter.reserve(party, 1, most, at(0.0))
        assert isinstance(hold, Hold) and hold.output == expected


def test_answers_of_long_ago_are_no_guess_for_the_next() -> None:
    lengths = Lengths()
    for length in (900,) * 50 + (7,) * 50:
        lengths.add(length)
    assert lengths.most == 7
    for _ in range(10):
        lengths.add(900)
    assert lengths.most == 900, "one in five is more than one in ten"


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
    reserve(limiter, spender, prompt=10).settle(10, at(0.0))
    for number in range(5000):
        reserve(limiter, keyed(f"k{number}", rpm=1), now=number * 1.0).settle(1, at(number * 1.0))
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
