"""Fairness: tenants and classes are served by their weights, in tokens, whatever the others send (I7)."""

from itertools import groupby
from math import inf
from operator import attrgetter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes.policy.fairness import Shares
from hermes.policy.ticket import BackendFacts, Class
from tests.policy.box import PATIENT, Job, Play, Run, chats, facts, scheduler, tenant, ticket, urgency

SLOTS = 4
began = attrgetter("started_at")


def play(work: list[Job]) -> Play:
    played = Play(scheduler(BackendFacts("x", True, SLOTS)), work).to_the_end()
    assert (len(played.runs), played.lost) == (len(work), [])
    return played


def vtc_bound(work: list[Job]) -> float:
    """Twice the larger of one maximal input and the slots times one maximal output (I7)."""
    return 2 * max(max(job.ticket.prompt_tokens for job in work), SLOTS * max(job.output_tokens for job in work))


def jain(served: list[float]) -> float:
    return sum(served) ** 2 / (len(served) * sum(each * each for each in served))


def widest_gap(played: Play, until: float, weights: dict[str, float] | None = None) -> float:
    """The widest gap between two tenants, in tokens over their weights, at any start of a run until then."""
    widest, running = 0.0, list[Run]()
    ended = dict.fromkeys((run.job.ticket.tenant for run in played.runs), 0.0)  # added up once
    for moment, starting in groupby(sorted(played.runs, key=began), key=began):
        if moment > until:
            break
        served, left = ended.copy(), list[Run]()
        for run in (*running, *starting):
            is_over = moment - run.started_at >= run.job.service_s
            for sums in (served, ended) if is_over else (served,):
                sums[run.job.ticket.tenant] += run.tokens(moment)
            if not is_over:
                left.append(run)
        running = left
        each = [tokens / (weights[name] if weights else 1.0) for name, tokens in served.items()]
        widest = max(widest, max(each) - min(each))
    return widest


# --- tenants ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_eleven_tenants_are_served_alike(seed: int) -> None:
    make = chats(seed)
    work = [job for name in "abcdefghijk" for job in make(200, tenant=name)]
    played = play(work)
    until = played.backlog_until(tenant)
    assert jain(list(played.tokens(tenant, until=until).values())) >= 0.98
    assert widest_gap(played, until) <= vtc_bound(work)


def test_a_tenant_with_long_requests_gets_no_more_than_one_with_short_ones() -> None:
    make = chats(4)
    work = [*make(200, tenant="long"), *make(1500, tenant="short", small=True)]
    played = play(work)
    assert widest_gap(played, played.backlog_until(tenant)) <= vtc_bound(work)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_tenants_of_weights_1_2_4_are_served_1_2_4(seed: int) -> None:
    make = chats(seed)
    weights = {"one": 1.0, "two": 2.0, "four": 4.0}
    work = [job for name, weight in weights.items() for job in make(1500, tenant=name, weight=weight)]
    played = play(work)
    served = played.tokens(tenant, until=played.backlog_until(tenant))
    each = [served[name] / weight for name, weight in weights.items()]
    assert max(each) / min(each) <= 1.03


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_small_requests_wait_no_longer_for_a_flood_than_half_more_and_one_job(seed: int) -> None:
    def p95_wait_s(work: list[Job]) -> float:
        waits = sorted(run.started_at for run in play(work).runs if run.job.ticket.tenant != "flood")
        return waits[int(0.95 * len(waits))]

    def small() -> list[Job]:
        make = chats(seed)
        return [job for number in range(10) for job in make(2, small=True, tenant=f"t{number}")]

    flood = chats(seed + 100)(1000, tenant="flood")
    longest_s = max(job.service_s for job in flood)
    assert p95_wait_s([*flood, *small()]) <= 1.5 * p95_wait_s(small()) + longest_s


def test_who_comes_late_begins_at_the_present_and_has_saved_nothing() -> None:
    make = chats(5)
    work = [*make(800, tenant="early"), *make(200, tenant="late", arrived_at=300.0)]
    played = play(work)
    until = played.backlog_until(tenant)
    served = [played.tokens(tenant, 300.0, until)[name] for name in ("early", "late")]
    assert abs(served[0] - served[1]) <= vtc_bound(work)
    assert min(served) > vtc_bound(work)  # else this would say nothing


@pytest.mark.parametrize("late", [{"tenant": "late"}, {"urgency": Class.NORMAL}])
def test_who_comes_late_waits_for_no_more_than_those_beside_it_though_others_are_far_ahead_elsewhere(
    late: dict[str, object],
) -> None:
    """One name of a model is served by a backend of its own, which one tenant has for itself."""
    core = scheduler(facts("x", "m"), facts("y", "m"))
    known = {"resident": "m", "prompt_tokens": 1000, "deadline": inf}
    beside = {"tenant": "early", "urgency": Class.BATCH, **known}
    alone = {"tenant": "alone", **known, "urgency": Class.BATCH if "tenant" in late else Class.INTERACTIVE}
    for _ in range(160):
        core.offer(ticket("mx", on="x", **alone), 0.0)
    for _ in range(9):
        core.offer(ticket("my", on="y", **beside), 0.0)
    x, y = (core._residency.sites[name].stays["m"].running for name in "xy")
    for second in range(150):
        core.finish(next(iter(x)), float(second))
    core.offer(waits := ticket("my", 150.0, on="y", **(beside | late)), 150.0)
    for second in range(151, 154):
        core.finish(next(iter(y)), float(second))
    assert waits.started_at > 0.0


def test_a_refund_goes_to_whom_was_charged_too_much() -> None:
    """Of two tenants with equal requests, one's answers are cut: it gets twice as many of them."""
    core = scheduler(BackendFacts("x", True, 1))
    work = [
        Job(ticket(tenant=name, prompt_tokens=0, deadline=inf), tokens, 1.0)
        for name, tokens in [("cut", 100), ("full", 200)] * 90
    ]
    played = Play(core, work).to_the_end()
    first = [run.job.ticket.tenant for run in played.runs if run.started_at < 120]
    assert first.count("cut") == pytest.approx(2 * first.count("full"), abs=4)


def test_who_leaves_a_long_run_before_its_end_is_charged_for_as_long_as_it_ran() -> None:
    core = scheduler(BackendFacts("x", True, 1))
    first, long = ticket(), ticket()
    for each in (first, long, ticket()):
        core.offer(each, 0.0)
    core.finish(first, 5.0)
    thought = long.charged_tokens
    core.cancel(long, 505.0)
    assert long.charged_tokens == pytest.approx(100 * thought)


# --- classes ----------------------------------------------------------------------------------------------------------

WEIGHTS = {each: rules.weight for each, rules in zip(Class, PATIENT.classes, strict=True)}


def lag_bound(work: list[Job]) -> float:
    """One maximal request to each slot on either side: what is charged too early, and what too late."""
    return 2 * SLOTS * max(job.ticket.prompt_tokens + job.output_tokens for job in work)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_class_with_a_backlog_gets_its_share_of_tokens_over_any_stretch(seed: int) -> None:
    """At least `weight / sum of weights` of all, less two maximal requests for each slot, between any two starts."""
    make = chats(seed)
    counts = {Class.INTERACTIVE: 800, Class.NORMAL: 260, Class.BATCH: 120}
    work = [job for each, count in counts.items() for job in make(count, urgency=each, tenant=each.name)]
    played = play(work)
    until = played.backlog_until(urgency)
    moments = sorted({run.started_at for run in played.runs if run.started_at <= until})[::10]
    served = [played.tokens(urgency, until=moment) for moment in moments]
    total = sum(WEIGHTS.values())
    for each in Class:
        # What it is short of its share, as it grows; a stretch's lag is the highest less the lowest before.
        lags = [
            WEIGHTS[each] / total * sum(each_served.values()) - each_served.get(each, 0.0) for each_served in served
        ]
        lowest, worst = lags[0], 0.0
        for lag in lags:
            lowest = min(lowest, lag)
            worst = max(worst, lag - lowest)
        assert worst <= lag_bound(work)
    assert served[-1][Class.BATCH] > 2 * lag_bound(work) / total


def test_a_class_that_comes_late_does_not_catch_up_on_what_others_had_alone() -> None:
    make = chats(6)
    early = make(300, urgency=Class.NORMAL, tenant="early")
    late = make(300, urgency=Class.BATCH, tenant="late", arrived_at=300.0)
    played = play(early + late)
    starts = [run.job.ticket.urgency for run in played.runs if run.started_at > 300.0][:60]
    assert starts.count(Class.NORMAL) > 30


def test_a_class_is_charged_what_it_was_given_not_what_was_thought() -> None:
    """Of weights 4 and 1, with answers half as long: eight requests to one."""
    core = scheduler(BackendFacts("x", True, 1))
    work = [
        Job(ticket(urgency=each, tenant=each.name, deadline=inf), tokens, 1.0)
        for each, tokens in [(Class.NORMAL, 100), (Class.BATCH, 200)] * 300
    ]
    played = Play(core, work).to_the_end()
    first = [run.job.ticket.urgency for run in played.runs if run.started_at < 270]
    assert first.count(Class.NORMAL) == pytest.approx(8 * first.count(Class.BATCH), rel=0.1)


def test_batch_is_never_starved_by_a_steady_stream_of_interactive_requests() -> None:
    make = chats(7)
    steady = [
        job for second in range(400) for job in make(2, urgency=Class.INTERACTIVE, tenant="u", arrived_at=float(second))
    ]
    played = play([*steady, *make(40, tenant="nightly")])
    nightly = [run for run in played.runs if run.job.ticket.urgency is Class.BATCH]
    in_time = [run for run in nightly if run.started_at < 400]
    assert len(in_time) >= 8  # 1/17 of about 200 starts


# --- shares -----------------------------------------------------------------------------------------------------------


def test_who_enters_begins_at_the_present_and_who_is_ahead_stays_ahead() -> None:
    shares: Shares[str] = Shares()
    shares.enter("a")
    shares.serve("a", 100.0)
    shares.advance(70.0)
    shares.enter("b")
    assert (shares.counter("a"), shares.counter("b")) == (100.0, 70.0)
    shares.leave("a")
    shares.enter("a")
    assert shares.counter("a") == 100.0


def test_the_present_never_goes_back() -> None:
    shares: Shares[str] = Shares()
    shares.advance(70.0)
    shares.advance(50.0)
    assert shares.present == 70.0


def test_who_waits_in_two_places_is_lifted_once() -> None:
    shares: Shares[str] = Shares()
    shares.enter("a")
    shares.advance(50.0)
    shares.enter("a")
    shares.leave("a")
    assert shares.counter("a") == 0.0
    shares.leave("a")
    shares.enter("a")
    assert shares.counter("a") == 50.0


def test_what_was_served_while_nobody_waited_counts_against_nobody() -> None:
    shares: Shares[str] = Shares()
    for _ in range(50):
        shares.serve("a", 100.0)
    shares.enter("a")
    shares.enter("b")
    assert shares.counter("a") == shares.counter("b")


def test_a_correction_moves_the_counter_by_what_was_off() -> None:
    shares: Shares[str] = Shares()
    shares.enter("a")
    shares.serve("a", 100.0)
    shares.correct("a", -60.0)
    assert shares.counter("a") == 40.0
    shares.correct("never seen", 5.0)


EVENTS = st.lists(
    st.tuples(st.sampled_from(("enter", "leave", "serve", "correct")), st.integers(0, 999), st.integers(1, 50))
)


@given(EVENTS)
def test_of_any_number_of_parties_little_is_kept_and_who_wants_something_is_never_forgotten(
    events: list[tuple[str, int, int]],
) -> None:
    shares: Shares[int] = Shares()
    wanting: dict[int, int] = {}
    for what, party, amount in events:
        if what == "enter":
            shares.enter(party)
            wanting[party] = wanting.get(party, 0) + 1
        elif what == "leave" and wanting.get(party):
            shares.leave(party)
            wanting[party] -= 1
        elif what == "serve":
            before = shares.present
            shares.serve(party, float(amount))
            assert shares.present >= before
        elif what == "correct":
            shares.correct(party, float(amount) - 25)
        for each, places in wanting.items():
            assert not places or shares.counter(each) is not None
