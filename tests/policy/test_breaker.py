"""The breaker: who fails gets no requests for a while, then one, then slowly all; who is busy gets fewer."""

from math import inf

from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from hermes.policy.breaker import BUSY, CLOSED, HALF_OPEN, MAX_BUSY_S, MOST_PAUSES, OPEN, RECOVERING, STUCK, Breaker

LONGEST_S = max(MOST_PAUSES, MAX_BUSY_S) * 1.25
SLOTS = 4


def opened(name: str = "b0 gemma", now: float = 0.0) -> Breaker:
    breaker = Breaker(name)
    while not breaker.failed(now, "it failed", now):
        pass
    return breaker


def woken(breaker: Breaker) -> float:
    """Its pause is over: when."""
    now = breaker.until
    assert breaker.wake(now)
    return now


class Event(Struct, frozen=True):
    """`began`: how long before the run had begun."""

    kind: str
    after_s: float = 0.0
    began_s: float = 0.0
    others: int = 0
    retry_after_s: float | None = None

    def befall(self, breaker: Breaker, now: float) -> object:
        began_at = now - self.began_s
        match self.kind:
            case "succeeded":
                return breaker.succeeded(began_at, SLOTS, now)
            case "failed":
                return breaker.failed(began_at, "it failed", now)
            case "failed again":
                return breaker.failed(began_at, "it failed", now, again=True)
            case "busy":
                return breaker.busy(began_at, self.others, self.retry_after_s, now)
            case "stuck":
                return breaker.stick("no token", now)
            case "generates":
                return breaker.generates(now)
        return breaker.wake(now)


SECONDS = st.floats(0, 100, allow_nan=False)
KINDS = ("succeeded", "failed", "failed", "failed again", "busy", "stuck", "generates", "wake", "wake")
EVENTS = st.lists(
    st.builds(Event, st.sampled_from(KINDS), SECONDS, SECONDS, st.integers(0, 9), st.none() | st.floats(0, 1e6)),
    max_size=60,
)


def looks(breaker: Breaker) -> tuple[str, float, float, float]:
    return breaker.state, breaker.limit, breaker.until, breaker.probe_at


@given(EVENTS)
def test_whatever_happens_no_pause_is_endless_and_each_state_is_what_it_says(events: list[Event]) -> None:
    breaker, now = Breaker("b0 gemma"), 0.0
    for event in events:
        now += event.after_s
        before = looks(breaker)
        changed = event.befall(breaker, now)
        assert (
            changed
            or event.kind == "stuck"
            or (before[0], int_or_inf(before[1]), before[2])
            == (
                breaker.state,
                int_or_inf(breaker.limit),
                breaker.until,
            )
        ), "who gives requests hears of each change"
        match breaker.state:
            case "closed":
                assert (breaker.limit, breaker.until) == (inf, -inf)
            case "open" | "busy":
                assert breaker.limit == 0 and breaker.until <= now + LONGEST_S
            case "stuck":
                assert (breaker.limit, breaker.until) == (0, inf) and breaker.probe_at <= now + LONGEST_S
            case "half_open":
                assert (breaker.limit, breaker.until) == (1, -inf)
            case "recovering":
                assert 1 <= breaker.limit < inf and breaker.until == -inf
        assert (breaker.probe_at < inf) == (breaker.state is STUCK)


def int_or_inf(limit: float) -> float:
    return limit if limit == inf else int(limit)


@given(EVENTS)
def test_whatever_has_happened_successes_bring_every_slot_back(events: list[Event]) -> None:
    breaker, now = Breaker("b0 gemma"), 0.0
    for event in events:
        now += event.after_s
        event.befall(breaker, now)
    breaker.generates(now)
    now = max(now, breaker.until)
    breaker.wake(now)
    for _ in range(SLOTS**2):
        breaker.succeeded(now, SLOTS, now)
    assert (breaker.state, breaker.limit) == (CLOSED, inf)


@given(EVENTS)
def test_the_same_happenings_lead_to_the_same_pauses(events: list[Event]) -> None:
    one, other, now = Breaker("b0 gemma"), Breaker("b0 gemma"), 0.0
    for event in events:
        now += event.after_s
        event.befall(one, now)
        event.befall(other, now)
    assert looks(one) == looks(other)


def test_five_failures_in_a_row_open_it_and_four_do_not() -> None:
    breaker = Breaker("b0 gemma")
    assert [breaker.failed(0, "no", now) for now in range(5)] == [False] * 4 + [True]
    assert (breaker.state, breaker.why) == (OPEN, "no")


@given(st.lists(st.booleans(), max_size=300))
def test_one_that_fails_every_other_time_at_most_stays_closed(more: list[bool]) -> None:
    breaker = Breaker("b0 gemma")
    for now, fails in enumerate(more):
        breaker.succeeded(now, SLOTS, now)
        assert not (fails and breaker.failed(now, "no", now))


def test_one_request_that_fails_again_and_again_opens_nothing() -> None:
    breaker = Breaker("b0 gemma")
    breaker.failed(0, "no", 0)
    assert not any(breaker.failed(0, "no", now, again=True) for now in range(100))


def test_a_trial_that_fails_doubles_the_pause_up_to_a_minute_and_somewhat() -> None:
    breaker, pauses, now = opened(), [], 0.0
    for _ in range(12):
        pauses.append(breaker.until - now)
        now = woken(breaker)
        assert (breaker.state, breaker.limit) == (HALF_OPEN, 1)
        assert breaker.failed(now, "no", now)
    for number, pause_s in enumerate(pauses):
        told = min(2.0**number, 60.0)
        assert told <= pause_s <= told * 1.25


def test_after_a_minute_without_a_pause_the_next_is_short_again() -> None:
    breaker = opened()
    now = woken(breaker)
    breaker.failed(now, "no", now)
    now = woken(breaker)
    breaker.succeeded(now, 1, now)
    now += 100
    while not breaker.failed(now, "no", now):
        pass
    assert breaker.until - now <= 1.25


def test_backends_that_fail_together_are_not_tried_together() -> None:
    assert len({round(opened(f"b{number} gemma").until, 3) for number in range(20)}) == 20


def test_what_began_before_it_opened_is_no_trial() -> None:
    breaker = opened()
    now = woken(breaker)
    assert not breaker.succeeded(now - 0.1, SLOTS, now + 1)
    assert not breaker.failed(now - 0.1, "no", now + 1)
    assert breaker.state is HALF_OPEN


def test_slots_come_back_one_with_each_success() -> None:
    breaker = opened()
    now = woken(breaker)
    limits = []
    while breaker.state is not CLOSED:
        limits.append(breaker.limit)
        assert breaker.succeeded(now, SLOTS, now)
    assert limits == [1, 2, 3] and breaker.limit == inf


def test_who_is_busy_keeps_as_many_as_it_runs_and_gets_more_a_round_at_a_time() -> None:
    breaker = Breaker("b0 gemma")
    assert breaker.busy(0, others=3, retry_after_s=None, now=0)
    assert (breaker.state, breaker.limit) == (RECOVERING, 3)
    assert [breaker.succeeded(1, 9, 1) for _ in range(4)] == [False, False, False, True]
    assert int(breaker.limit) == 4


def test_who_is_busy_with_nothing_of_ours_rests_and_longer_each_time() -> None:
    breaker, pauses, now = Breaker("b0 gemma"), [], 0.0
    for _ in range(4):
        assert breaker.busy(now, others=0, retry_after_s=None, now=now)
        assert breaker.state is BUSY
        pauses.append(breaker.until - now)
        now = woken(breaker)
    assert pauses[0] <= 0.125 and pauses == sorted(pauses) and pauses[-1] >= 0.8


@given(st.floats(0.2, 1e9), st.integers(0, 5))
def test_who_says_for_how_long_it_is_busy_is_given_that_long(retry_after_s: float, others: int) -> None:
    breaker = Breaker("b0 gemma")
    assert breaker.busy(0, others, retry_after_s, now=10)
    assert breaker.state is BUSY
    assert min(retry_after_s, MAX_BUSY_S) <= breaker.until - 10 <= LONGEST_S


def test_who_is_stuck_stays_so_until_a_probe_generates_and_then_begins_with_one_slot() -> None:
    breaker = Breaker("b0 gemma")
    assert breaker.stick("no token", 0)
    assert not breaker.wake(1e9) and not breaker.succeeded(1e9, SLOTS, 1e9)
    first = breaker.probe_at
    assert not breaker.stick("no token", first), "it has been, and hears of it again after each probe"
    assert breaker.probe_at - first >= 2
    assert breaker.generates(first + 5)
    assert (breaker.state, breaker.limit) == (RECOVERING, 1)


def test_of_an_old_failure_nothing_is_remembered() -> None:
    breaker = Breaker("b0 gemma")
    breaker.failed(0, "no", 0)
    assert not breaker.is_forgotten(1)
    for now in range(1, 6):
        breaker.succeeded(now, SLOTS, now)
    assert breaker.is_forgotten(6)
    assert not opened().is_forgotten(1)
