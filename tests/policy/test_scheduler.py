"""The scheduler, case by case: who runs next, where, and who is sent away."""

import gc
import random
import subprocess
import sys
from collections.abc import Callable

import pytest

from hermes.policy.scheduler import Scheduler
from hermes.policy.ticket import (
    Admit,
    BackendFacts,
    Bounds,
    Decision,
    Expire,
    ModelBounds,
    Occupancy,
    Phase,
    Reject,
    Rules,
    Ticket,
)
from tests.policy.box import PATIENT, ticket


def scheduler(bounds: Bounds | None = None, unlisted: ModelBounds | None = None, **slots: int | None) -> Scheduler:
    """One with the named backends up; without any, `x` with one slot."""
    made = Scheduler(bounds or Bounds(), unlisted or ModelBounds(), PATIENT)
    for name, count in (slots or {"x": 1}).items():
        made.observe(BackendFacts(name, True, count), 0.0)
    return made


def offer(to: Scheduler, *tickets: Ticket, now: float = 0.0) -> list[Decision]:
    return [decision for each in tickets for decision in to.offer(each, now)]


def started(decisions: list[Decision]) -> list[Ticket]:
    assert all(isinstance(decision, Admit) for decision in decisions), decisions
    return [decision.ticket for decision in decisions]


def refused(decisions: list[Decision]) -> list[str]:
    return [decision.reason for decision in decisions if isinstance(decision, Reject)]


# --- caps (I1) --------------------------------------------------------------------------------------------------------


def test_a_model_runs_no_more_than_its_cap() -> None:
    core = scheduler(x=8)
    core.configure("m", ModelBounds(max_concurrency=2))
    tickets = [ticket() for _ in range(4)]
    assert started(offer(core, *tickets)) == tickets[:2]
    assert core.occupancy("m") == Occupancy(running=2, waiting=2)
    assert started(core.finish(tickets[0], 1.0)) == [tickets[2]]


def test_the_process_runs_no_more_than_its_cap() -> None:
    core = scheduler(Bounds(max_concurrent=2), x=8)
    tickets = [ticket(model) for model in "abc"]
    assert started(offer(core, *tickets)) == tickets[:2]
    assert started(core.finish(tickets[1], 1.0)) == [tickets[2]]


def test_a_tenant_runs_no_more_than_its_cap_and_holds_nobody_up() -> None:
    core = scheduler(x=3)
    mine = [ticket(caps=(("k", 2),)) for _ in range(4)]
    assert started(offer(core, *mine)) == mine[:2]
    yours = ticket(tenant="other")
    assert started(offer(core, yours)) == [yours]
    assert started(core.finish(mine[0], 1.0)) == [mine[2]]
    assert core.finish(yours, 2.0) == []
    assert started(core.cancel(mine[1], 3.0)) == [mine[3]]


def test_a_tenant_below_its_cap_again_goes_on_with_whatever_model_it_waits_for() -> None:
    core = scheduler(x=1)
    first, second = ticket("a", caps=(("k", 1),)), ticket("b", caps=(("k", 1),))
    offer(core, first, second)
    assert started(core.finish(first, 1.0)) == [second]


def test_a_key_at_its_cap_does_not_hold_up_its_owners_other_keys() -> None:
    core = scheduler(x=3)
    capped = [ticket(caps=(("k", 1),)) for _ in range(3)]
    other, free = ticket(caps=(("other", 1),)), ticket()
    assert started(offer(core, *capped, other)) == [capped[0], other]
    assert started(offer(core, ticket(caps=(("other", 1),)), free)) == [free]
    assert started(core.finish(free, 1.0)) == []
    assert started(core.finish(capped[0], 2.0)) == [capped[1]]


def test_names_of_one_resident_model_share_its_slots() -> None:
    core = scheduler(x=2)
    first, second, third = (ticket(name, resident="gemma3:12b") for name in ("gemma", "draft", "gemma3:12b"))
    assert started(offer(core, first, second, third)) == [first, second]
    assert started(core.finish(second, 1.0)) == [third]


def test_different_residents_have_slots_of_their_own() -> None:
    core = scheduler(x=1)
    tickets = [ticket("a"), ticket("b")]
    assert started(offer(core, *tickets)) == tickets


@pytest.mark.parametrize(
    ("told", "configured", "slots"), [(3, 2, 3), (3, None, 3), (None, 2, 2), (None, None, 1), (0, 2, 2)]
)
def test_slots_are_what_the_backend_says_else_what_the_operator_says_else_one(
    told: int | None, configured: int | None, slots: int
) -> None:
    core = scheduler(x=told)
    core.configure("m", ModelBounds(max_concurrency=configured))
    assert core.slots("m", "x") == slots
    assert core.slots("never heard of", "x") == (told or 1)


def test_what_the_operator_says_of_one_name_counts_for_all_names_of_the_resident() -> None:
    core = scheduler(x=None)
    core.configure("fast", ModelBounds(max_concurrency=3))
    plain = [ticket("plain", resident="r") for _ in range(3)]
    fast = ticket("fast", resident="r")
    assert started(offer(core, *plain)) == plain[:1]
    # The first ticket for `fast` tells that there are three slots, and does not jump the queue for them.
    assert started(offer(core, fast)) == plain[1:]
    assert core.slots("plain", "x") == core.slots("fast", "x") == 3
    assert started(core.finish(plain[0], 1.0)) == [fast]


@pytest.mark.parametrize(
    ("cap", "queue_limit", "fate"), [(2, 0, Phase.DONE), (2, 5, Phase.WAITING), (3, 0, Phase.RUNNING)]
)
def test_a_ticket_that_brings_slots_to_others_has_a_fate_of_its_own(cap: int, queue_limit: int, fate: str) -> None:
    core = scheduler(x=None)
    core.configure("fast", ModelBounds(cap, queue_limit))
    plain, fast = [ticket("plain", resident="r") for _ in range(2)], ticket("fast", resident="r")
    offer(core, *plain)
    decisions = offer(core, fast)
    assert decisions[0] == Admit(plain[1], "x")
    assert fast.phase is fate
    assert len(decisions) == (1 if fate is Phase.WAITING else 2)


def test_the_slots_of_a_resident_are_not_all_for_the_name_with_the_higher_cap() -> None:
    """Nobody starves: a steady load on `fast` must not keep the slots from `plain`."""
    core = scheduler(x=None)
    core.configure("fast", ModelBounds(max_concurrency=2))
    fast = [ticket("fast", 0.1 * number, resident="r") for number in range(20)]
    plain = ticket("plain", 0.25, resident="r")
    offer(core, *fast[:3], plain, *fast[3:])
    assert started(core.finish(fast[0], 1.0)) == [fast[2]]
    assert started(core.finish(fast[1], 1.0)) == [plain]


def test_a_lower_cap_ends_nothing_and_starts_nothing_until_the_runs_are_below_it() -> None:
    core = scheduler(x=8)
    tickets = [ticket() for _ in range(6)]
    core.configure("m", ModelBounds(max_concurrency=4))
    offer(core, *tickets)
    assert core.resize("m", ModelBounds(max_concurrency=2), 1.0) == []
    assert core.occupancy("m") == Occupancy(running=4, waiting=2)
    assert core.finish(tickets[0], 2.0) == core.finish(tickets[1], 2.0) == []
    assert started(core.finish(tickets[2], 3.0)) == [tickets[4]]


def test_a_higher_cap_starts_what_waits_at_once() -> None:
    core = scheduler(x=8)
    core.configure("m", ModelBounds(max_concurrency=1))
    tickets = [ticket() for _ in range(4)]
    offer(core, *tickets)
    assert started(core.resize("m", ModelBounds(max_concurrency=3), 1.0)) == tickets[1:3]


def test_fewer_slots_end_nothing_and_start_nothing_until_the_runs_are_below_them() -> None:
    core = scheduler(x=3)
    tickets = [ticket() for _ in range(4)]
    offer(core, *tickets)
    assert core.observe(BackendFacts("x", True, 1), 1.0) == []
    assert core.finish(tickets[0], 1.0) == core.finish(tickets[1], 1.0) == []
    assert started(core.finish(tickets[2], 1.0)) == [tickets[3]]


# --- slots come back, once (I2) ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [Scheduler.finish, Scheduler.cancel])
def test_ending_a_run_twice_gives_one_slot_back(end: Callable[[Scheduler, Ticket, float], list[Decision]]) -> None:
    core = scheduler()
    tickets = [ticket() for _ in range(3)]
    offer(core, *tickets)
    assert started(end(core, tickets[0], 1.0)) == [tickets[1]]
    assert end(core, tickets[0], 1.0) == core.finish(tickets[0], 1.0) == core.cancel(tickets[0], 1.0) == []
    assert (core.running, core.waiting) == (1, 1)


def test_a_ticket_that_leaves_the_queue_frees_its_place() -> None:
    core = scheduler(unlisted=ModelBounds(queue_limit=1))
    running, leaver, late = ticket(), ticket(size_bytes=7), ticket()
    offer(core, running, leaver)
    assert core.waiting_bytes == 7
    assert core.cancel(leaver, 1.0) == []
    assert (core.waiting, core.waiting_bytes, leaver.phase) == (0, 0, Phase.DONE)
    assert offer(core, late) == []
    assert started(core.finish(running, 2.0)) == [late]


def test_what_waits_has_no_run_to_finish() -> None:
    core = scheduler()
    tickets = [ticket() for _ in range(2)]
    offer(core, *tickets)
    assert core.finish(tickets[1], 1.0) == []
    assert (core.running, core.waiting) == (1, 1)


def test_a_ticket_is_offered_once() -> None:
    core = scheduler()
    once = ticket()
    offer(core, once)
    with pytest.raises(AssertionError, match="offered once"):
        offer(core, once)


# --- bounds (I4, I6) --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bounds", "queue_limit", "fits"),
    [
        (Bounds(), 3, 3),
        (Bounds(), 0, 0),
        (Bounds(queue_tickets=2), 9, 2),
        (Bounds(queue_bytes=25), 9, 2),
        (Bounds(queue_bytes=30), 9, 3),
        (Bounds(tenant_tickets=2), 9, 2),
        (Bounds(tenant_bytes=39), 9, 3),
        (Bounds(tenant_bytes=40), 9, 4),
    ],
)
def test_what_waits_is_bounded(bounds: Bounds, queue_limit: int, fits: int) -> None:
    """I4: by count and bytes, per model, per tenant and in all. A refusal takes nothing (I6)."""
    core = scheduler(bounds, ModelBounds(queue_limit=queue_limit))
    running = ticket(size_bytes=10)
    offer(core, running)
    decisions = offer(core, *[ticket(size_bytes=10) for _ in range(fits + 2)])
    assert refused(decisions) == ["queue_full", "queue_full"]
    assert (core.waiting, core.waiting_bytes) == (fits, 10 * fits)
    core.finish(running, 1.0)
    assert core.waiting == max(0, fits - 1)


@pytest.mark.parametrize("bounds", [Bounds(tenant_tickets=2), Bounds(tenant_bytes=20)])
def test_a_tenant_at_its_bound_leaves_room_for_others(bounds: Bounds) -> None:
    core = scheduler(bounds)
    offer(core, *[ticket(size_bytes=10) for _ in range(3)])
    assert refused(offer(core, ticket(size_bytes=10))) == ["queue_full"]
    assert offer(core, ticket(size_bytes=10, tenant="other")) == []


def test_what_can_start_at_once_needs_no_room_in_the_queue() -> None:
    core = scheduler(Bounds(queue_tickets=0, queue_bytes=0), ModelBounds(queue_limit=0))
    assert len(started(offer(core, ticket(size_bytes=10**9)))) == 1


def test_a_refusal_costs_the_same_however_long_the_queue_is() -> None:
    """I4: O(1), counted in calls."""

    def calls_to_refuse(queue_limit: int) -> int:
        core = scheduler(unlisted=ModelBounds(queue_limit=queue_limit))
        offer(core, *[ticket() for _ in range(queue_limit + 1)])
        unlucky, calls = ticket(), 0

        def count(*_: object) -> None:
            nonlocal calls
            calls += 1

        gc.collect()
        gc.disable()  # what other tests left to be finalized is not counted
        sys.setprofile(count)
        try:
            decisions = core.offer(unlucky, 0.0)
        finally:
            sys.setprofile(None)
            gc.enable()
        assert refused(decisions) == ["queue_full"]
        return calls

    assert calls_to_refuse(5) == calls_to_refuse(2000)


def test_a_refusal_tells_when_to_come_again() -> None:
    """The queue's length times a run's usual length, over the slots; at least 1 s."""
    core = scheduler(unlisted=ModelBounds(queue_limit=9), x=2)
    now = 0.0
    for _ in range(100):
        [run] = started(offer(core, ticket(), now=now))
        core.finish(run, now := now + 4.0)
    offer(core, *[ticket() for _ in range(11)], now=now)
    [decision] = offer(core, ticket(), now=now)
    assert isinstance(decision, Reject)
    assert decision.retry_after_s == pytest.approx(4.0 * 10 / 2, rel=0.01)


@pytest.mark.parametrize(("run_s", "told_s"), [(0.001, 1.0), (5000.0, 5000.0)])
def test_the_time_to_come_again_is_honest_and_at_least_a_second(run_s: float, told_s: float) -> None:
    core = scheduler(unlisted=ModelBounds(queue_limit=0, service_s=run_s))
    now = 0.0
    for _ in range(10):
        [run] = started(offer(core, ticket(deadline=1e9), now=now))
        core.finish(run, now := now + run_s)
    offer(core, ticket(deadline=1e9), now=now)
    [decision] = offer(core, ticket(deadline=1e9), now=now)
    assert isinstance(decision, Reject)
    assert decision.retry_after_s == pytest.approx(told_s)


# --- order ------------------------------------------------------------------------------------------------------------


def test_first_come_first_served_within_a_model() -> None:
    core = scheduler()
    tickets = [ticket() for _ in range(5)]
    offer(core, *tickets)
    order = [tickets[0]]
    while decisions := core.finish(order[-1], 1.0):
        order += started(decisions)
    assert order == tickets


def test_models_do_not_hold_each_other_up() -> None:
    core = scheduler(x=1)
    offer(core, *[ticket("busy") for _ in range(50)])
    assert len(started(offer(core, ticket("idle")))) == 1


def test_under_the_process_cap_the_earliest_arrival_goes_first() -> None:
    """No model starves: whoever came first is next, whatever comes for other models meanwhile."""
    core = scheduler(Bounds(max_concurrent=1), x=1)
    flood = [ticket("flood", float(number)) for number in range(20)]
    rare = ticket("rare", 3.5)
    offer(core, *flood[:10], rare, *flood[10:])
    order = [flood[0]]
    while decisions := core.finish(order[-1], 20.0):
        order += started(decisions)
    assert [each.arrived_at for each in order] == sorted(each.arrived_at for each in (*flood, rare))


# --- who can run where ------------------------------------------------------------------------------------------------


def test_the_least_busy_backend_is_taken() -> None:
    core = scheduler(x=3, y=3)
    tickets = [ticket(on="xy") for _ in range(6)]
    offer(core, *tickets)
    assert [each.backend for each in tickets] == ["x", "y"] * 3


def test_a_ticket_that_can_run_elsewhere_does_not_wait_behind_one_that_cannot() -> None:
    """No slot is idle while a ticket waits that could take it, whoever waits in front for another."""
    core = scheduler(x=1, y=1)
    blocked, free = ticket(on="x"), ticket(on="xy")
    offer(core, ticket(on="x"), blocked)
    assert started(offer(core, free)) == [free]
    assert free.backend == "y"


def test_a_ticket_keeps_its_turn_when_another_of_its_tenant_starts_elsewhere() -> None:
    core = scheduler(x=1, y=1)
    first, blocked, free = ticket(on="x"), ticket(on="x"), ticket(on="xy")
    offer(core, first, blocked, free)
    assert started(core.finish(first, 1.0)) == [blocked]


def test_what_waits_starts_on_a_backend_that_comes_though_the_last_to_come_could_not_run_there() -> None:
    core = scheduler(x=1)
    running, either = ticket(on="x"), ticket(on="xz")
    offer(core, running, either, ticket(on="x"))
    assert started(core.observe(BackendFacts("z", True, 1), 1.0)) == [either]


def test_among_tickets_of_a_model_with_different_backends_the_earliest_that_can_run_goes_first() -> None:
    core = scheduler(x=1, y=1)
    on_x, on_y = ticket(on="x"), ticket(on="y")
    later, late, last = ticket(arrived_at=1.0, on="y"), ticket(arrived_at=2.0, on="xy"), ticket(arrived_at=3.0, on="x")
    offer(core, on_x, on_y, late, later, last)
    assert started(core.finish(on_x, 5.0)) == [late]
    assert started(core.finish(on_y, 5.0)) == [later]


def test_without_a_live_backend_a_ticket_is_refused_at_once() -> None:
    core = scheduler(x=1)
    core.observe(BackendFacts("x", False), 1.0)
    assert refused(offer(core, ticket(on="x"), ticket(on="xx"), ticket(on=""))) == ["no_backend"] * 3


def test_when_a_backend_goes_what_nobody_else_can_serve_is_refused_and_the_rest_waits_on() -> None:
    core = scheduler(x=1, y=1)
    only_x, either = ticket(on="x"), ticket(on="xy")
    offer(core, ticket(on="xy"), ticket(on="xy"), only_x, either)
    [decision] = core.observe(BackendFacts("x", False), 1.0)
    assert (decision.ticket, refused([decision])) == (only_x, ["no_backend"])
    assert (core.waiting, either.phase) == (1, Phase.WAITING)


def test_when_a_backend_goes_its_runs_keep_their_slots_until_they_end() -> None:
    core = scheduler(x=1)
    running = ticket()
    offer(core, running)
    core.observe(BackendFacts("x", False), 1.0)
    assert core.running == 1
    core.observe(BackendFacts("x", True, 1), 2.0)
    waiting = ticket()
    assert offer(core, waiting) == []
    assert started(core.finish(running, 3.0)) == [waiting]


def test_when_a_backend_comes_what_waits_starts_there() -> None:
    core = scheduler(x=1)
    tickets = [ticket(on="xy") for _ in range(4)]
    offer(core, *tickets)
    assert started(core.observe(BackendFacts("y", True, 2), 1.0)) == tickets[1:3]
    assert [each.backend for each in tickets[1:3]] == ["y", "y"]


# --- deadlines --------------------------------------------------------------------------------------------------------


def test_what_has_waited_to_its_deadline_expires_and_nothing_else_does() -> None:
    core = scheduler()
    offer(core, ticket())
    soon, later = ticket(deadline=5.0), ticket(deadline=6.0)
    offer(core, later, soon)
    assert core.next_deadline() == 5.0
    assert core.expire(4.9) == []
    assert core.expire(5.0) == [Expire(soon)]
    assert (soon.phase, core.next_deadline(), core.waiting) == (Phase.DONE, 6.0, 1)


def test_what_has_expired_never_starts() -> None:
    core = scheduler()
    running, late = ticket(), ticket(deadline=5.0)
    offer(core, running, late)
    core.expire(5.0)
    assert core.finish(running, 6.0) == []
    assert (core.running, core.waiting, core.waiting_bytes) == (0, 0, 0)


def test_a_slot_that_comes_too_late_goes_to_the_next() -> None:
    """The timer may fire late; a ticket past its deadline must not take a slot that it cannot use."""
    core = scheduler()
    running, late, next_one = ticket(), ticket(deadline=5.0), ticket()
    offer(core, running, late, next_one)
    assert core.finish(running, 5.0) == [Expire(late), Admit(next_one, "x")]


def test_a_ticket_that_comes_past_its_deadline_expires_at_once() -> None:
    core = scheduler()
    late = ticket(deadline=5.0)
    assert core.offer(late, 5.0) == [Expire(late)]
    assert (core.running, core.waiting, late.phase) == (0, 0, Phase.DONE)


def test_what_runs_has_no_deadline_here() -> None:
    core = scheduler()
    offer(core, ticket(deadline=5.0))
    assert core.next_deadline() is None
    assert core.expire(9.0) == []


@pytest.mark.parametrize("end", [Scheduler.cancel, Scheduler.expire])
def test_nothing_is_kept_of_tickets_that_have_left(end: Callable[..., object]) -> None:
    """Of tenants there may be any number, and all that is kept of them is bounded."""
    core = scheduler(x=1)
    running, waiting = ticket(), ticket(deadline=9000.0)
    offer(core, running, waiting)
    for number in range(5000):
        now = float(number)
        passer_by = ticket(arrived_at=now, deadline=now + 0.5, tenant=f"t{number}")
        offer(core, passer_by, now=now)
        if end is Scheduler.expire:
            core.expire(now + 0.5)
        else:
            core.cancel(passer_by, now)
    station = core._stations["m"]
    [line] = station.lines.values()
    assert core.waiting == len(core._queue._by_tenant) == len(core._queue._by_model) == 1
    assert len(station.tenants[1]._counters) < 600
    assert len(line.backlogs[1]._turns) < 100
    assert len(line.backlogs[1]._capped) == 0
    assert core.next_deadline() == 9000.0


def test_nothing_is_kept_of_tenants_that_have_been_served() -> None:
    core = scheduler(x=1)
    for number in range(5000):
        [run] = started(offer(core, ticket(tenant=f"t{number}", deadline=1e9), now=float(number)))
        core.settle(run, 10, 20)
        core.finish(run, number + 0.5)
    assert len(core._stations["m"].tenants[1]._counters) < 600


# --- again ------------------------------------------------------------------------------------------------------------


def test_a_request_that_comes_again_goes_to_the_head_of_its_queue() -> None:
    core = scheduler()
    failed, waiting = ticket(), ticket()
    offer(core, failed, waiting, ticket())
    assert started(core.finish(failed, 1.0)) == [waiting]
    second = failed.again()
    assert core.offer(second, 1.0, again=True) == []
    assert started(core.finish(waiting, 2.0)) == [second]


def test_a_request_that_comes_again_avoids_the_backend_that_failed() -> None:
    core = scheduler(x=4, y=4)
    failed = ticket(on="xy")
    offer(core, failed, *[ticket(on="y") for _ in range(3)])
    assert failed.backend == "x"
    core.finish(failed, 1.0)
    second = failed.again()
    assert core.offer(second, 1.0, again=True) == [Admit(second, "y")]


def test_a_request_that_comes_again_takes_the_backend_that_failed_if_there_is_no_other_room() -> None:
    core = scheduler(x=1, y=1)
    failed = ticket(on="xy")
    offer(core, failed, ticket(on="y"))
    core.finish(failed, 1.0)
    second = failed.again()
    assert core.offer(second, 1.0, again=True) == [Admit(second, "x")]


def test_a_request_that_comes_again_owes_nothing_for_the_attempt_that_failed() -> None:
    core = scheduler()
    failed = ticket()
    offer(core, ticket(), failed, ticket(tenant="other"))
    core.cancel(next(iter(core._stations["m"].stays["x"].running)), 1.0)
    assert failed.charged_tokens > 0
    core.settle(failed, 10, 20)
    core.cancel(failed, 2.0)
    second = failed.again()
    assert (second.charged_tokens, second.settled) == (0.0, False)


def test_a_request_that_comes_again_teaches_nothing_of_how_long_waits_are() -> None:
    """It arrived long before it began to wait."""
    core = scheduler()
    failed, waiting = ticket(), ticket()
    offer(core, failed, waiting)
    core.cancel(failed, 100.0)
    second = failed.again()
    assert core.offer(second, 100.0, again=True) == []
    before = core._stations["m"].calibrations["hit"].apply(10.0)
    assert started(core.finish(waiting, 100.1)) == [second]
    assert core._stations["m"].calibrations["hit"].apply(10.0) == before


def test_a_request_that_comes_again_counts_once_among_those_that_its_model_has_served_in_time() -> None:
    core = Scheduler(Bounds(), ModelBounds(), Rules(floor=0.5))
    core.observe(BackendFacts("x", True, 1), 0.0)
    first, failed, third = ticket(), ticket(), ticket()
    offer(core, first, failed, third)
    core.finish(first, 1.0)
    assert started(core.cancel(failed, 2.0)) == [third]
    assert core.offer(second := failed.again(), 2.0, again=True) == []
    assert started(core.finish(third, 3.0)) == [second]
    station = core._stations["m"]
    assert station.in_time == 2.0  # the first found nobody who waited, and is not counted


def test_a_request_that_comes_again_keeps_its_arrival_and_its_deadline() -> None:
    failed = ticket(arrived_at=1.0, deadline=7.0)
    offer(scheduler(), failed)
    second = failed.again()
    assert (second.arrived_at, second.deadline, second.phase, second.backend) == (1.0, 7.0, Phase.NEW, "")
    assert (second.started_at, second.avoid) == (0.0, "x")


# --- the end ----------------------------------------------------------------------------------------------------------


def test_closing_sends_away_what_waits_and_what_comes_and_lets_runs_end() -> None:
    """I33."""
    core = scheduler(x=1)
    running = ticket("a")
    offer(core, running, ticket("a"), ticket("b"), ticket("b"))
    assert refused(core.close()) == ["draining", "draining"]
    assert refused(offer(core, ticket("c"))) == ["draining"]
    assert core.observe(BackendFacts("y", True, 5), 1.0) == []
    assert (core.running, core.waiting) == (2, 0)
    assert core.finish(running, 2.0) == []
    assert core.close() == []


def test_nothing_is_loaded_after_closing_for_who_could_not_wait() -> None:
    core = Scheduler(Bounds(), ModelBounds(), PATIENT)
    core.configure("m", ModelBounds(load_s=130.0))
    core.observe(BackendFacts("x", True, 1, {"v": 5}, {"m": 5}, 5), 0.0)
    core.offer(ticket("m", deadline=100.0), 0.0)
    assert refused(core.expire(0.0)) == ["deadline_unreachable"]
    core.close()
    assert core.next_deadline() is None
    assert core.expire(60.0) == []


# --- determinism ------------------------------------------------------------------------------------------------------


def history(seed: int) -> list[str]:
    """What a scheduler decides on a drawn trace of events, as text."""
    dice = random.Random(seed)
    core = scheduler(Bounds(max_concurrent=4), ModelBounds(queue_limit=8), x=2, y=1)
    tickets: list[Ticket] = []
    told: list[str] = []
    for step in range(400):
        now = step / 10
        match dice.randrange(5):
            case 0 | 1:
                made = ticket(dice.choice("abc"), now, on=dice.choice(("x", "xy")), deadline=now + dice.random() * 9)
                tickets.append(made)
                decisions = core.offer(made, now)
            case 2:
                decisions = core.expire(now)
            case 3:
                decisions = core.cancel(dice.choice(tickets), now) if tickets else []
            case _:
                decisions = core.observe(BackendFacts(dice.choice("xy"), dice.random() < 0.8, dice.randint(1, 3)), now)
        told += [f"{step} {type(each).__name__} {tickets.index(each.ticket)}" for each in decisions]
    return told


def test_the_same_events_give_the_same_decisions() -> None:
    """Also in another process, where every string hashes otherwise."""
    code = f"from {__name__} import history; print(*history(7), sep='\\n', end='')"
    command = [sys.executable, "-c", code]
    environ = {"PYTHONPATH": ":".join(filter(None, sys.path)), "PYTHONHASHSEED": "1"}
    there = subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout
    assert there.splitlines() == history(7) == history(7)
    assert len(history(7)) > 100


def test_a_run_gives_its_slot_back_where_it_took_it_though_the_model_is_known_by_another_name_now() -> None:
    """I1, I2: backends may list a model under another full name from one look to the next."""
    core = Scheduler(Bounds(max_concurrent=1), ModelBounds(), PATIENT)
    core.observe(BackendFacts("x", True, 1), 0.0)
    early = ticket("m", resident="gemma3:latest")
    late = ticket("m", resident="gemma3")
    core.offer(early, 0.0)
    core.offer(late, 0.0)
    assert [type(decision) for decision in core.finish(early, 1.0)] == [Admit]
    assert (late.phase, core.running) == (Phase.RUNNING, 1)
    core.finish(late, 2.0)
    assert core.running == 0
