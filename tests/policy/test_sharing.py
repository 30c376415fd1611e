"""What is short and shared: the process's cap, a model under several names, a user's keys, and a second try."""

import pytest

from hermes.policy.scheduler import Scheduler
from hermes.policy.ticket import Admit, BackendFacts, Bounds, Class, Decision, ModelBounds, Reject, Rules, Ticket
from tests.policy.box import facts, scheduler, ticket, told

ONE = Bounds(max_concurrent=1)


def starts(core: Scheduler, tickets: list[Ticket]) -> list[Ticket]:
    """The order in which they start, of which each ends before the next does."""
    order: list[Ticket] = []
    decisions: list[Decision] = [decision for each in tickets for decision in core.offer(each, 0.0)]
    while started := [each.ticket for each in decisions if isinstance(each, Admit)]:
        order += started
        decisions = core.finish(order[-1], 1.0)
    assert len(order) == len(tickets)
    return order


# --- the process's cap ------------------------------------------------------------------------------------------------


def test_under_the_process_cap_a_class_is_not_held_up_by_a_flood_of_a_lower_one_for_another_model() -> None:
    core = scheduler(BackendFacts("x", True, 4), bounds=ONE)
    flood = [ticket("b", urgency=Class.BATCH) for _ in range(20)]
    editor = ticket("a", urgency=Class.INTERACTIVE, tenant="editor")
    assert starts(core, [*flood, editor]).index(editor) <= 2


def test_under_the_process_cap_a_tenant_is_not_held_up_by_a_flood_of_another_for_another_model() -> None:
    core = scheduler(BackendFacts("x", True, 4), bounds=ONE)
    flood = [ticket("b", tenant="flood") for _ in range(20)]
    other = ticket("a", 0.5, tenant="other")
    assert starts(core, [*flood, other]).index(other) <= 2


# --- several names ----------------------------------------------------------------------------------------------------


def test_a_flood_under_one_name_of_a_model_holds_nobody_up_who_asks_by_another() -> None:
    core = scheduler(BackendFacts("x", True, 1))
    flood = [ticket("m1", resident="m", tenant="flood", urgency=Class.BATCH) for _ in range(20)]
    other = ticket("m2", 0.5, resident="m", tenant="other", urgency=Class.BATCH)
    assert starts(core, [*flood, other]).index(other) <= 2


# --- keys -------------------------------------------------------------------------------------------------------------


def test_a_ticket_that_waits_for_a_key_at_its_cap_does_not_hold_up_the_users_other_key() -> None:
    core = scheduler(facts(loaded="m"))
    running, capped = ticket(caps=(("k", 1),)), ticket(arrived_at=1.0, caps=(("k", 1),), deadline=9.0)
    free = ticket(arrived_at=2.0, priority=1)
    for each in (running, capped, free):
        core.offer(each, each.arrived_at)
    assert [each.ticket for each in core.observe(facts(loaded="m", slots=4, seen_at=3.0), 3.0)] == [free]


def test_a_users_other_key_goes_on_before_its_tickets_that_wait_for_a_key_at_its_cap() -> None:
    core = scheduler(facts(loaded="m", slots=2))
    running, capped, other = ticket(caps=(("k", 1),)), ticket(caps=(("k", 1),)), ticket(tenant="u")
    for each in (running, capped):
        core.offer(each, 0.0)
    core.expire(0.5)  # it is looked at, and may not
    core.offer(other, 0.6)
    core.offer(free := ticket(arrived_at=1.0, priority=-1), 1.0)
    assert [decision.ticket for decision in core.finish(other, 2.0)] == [free]


def test_a_wait_for_ones_own_runs_teaches_nothing_of_how_long_others_wait() -> None:
    core = scheduler(facts(loaded="m", slots=9))
    running, capped = ticket(caps=(("k", 1),)), ticket(caps=(("k", 1),))
    core.offer(running, 0.0)
    core.offer(capped, 0.0)
    before = core._stations["m"].calibrations["hit"].apply(10.0)
    assert told(core.finish(running, 100.0)) == ["Admit m x"]
    assert core._stations["m"].calibrations["hit"].apply(10.0) == before


def test_of_several_models_that_a_user_below_its_cap_again_waits_for_the_first_it_asked_for_goes_first() -> None:
    core = scheduler(facts(loaded="ab", slots=2))
    running, late, early = (
        ticket("a", caps=(("k", 1),)),
        ticket("a", 2.0, caps=(("k", 1),)),
        ticket("b", 1.0, caps=(("k", 1),)),
    )
    for each in (running, late, early):
        core.offer(each, 2.0)
    assert told(core.finish(running, 3.0)) == ["Admit b x"]


# --- what is told -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bounds", "cap"), [(Bounds(), 1), (ONE, None)])
def test_a_cap_below_the_slots_is_counted_in_what_is_told(bounds: Bounds, cap: int | None) -> None:
    known = ModelBounds(max_concurrency=cap, service_s=20.0)
    core = scheduler(facts(loaded="m", slots=16), bounds=bounds, m=known)
    waiting = ticket()
    core.offer(ticket(), 0.0)
    core.offer(waiting, 0.0)
    assert waiting.told is not None
    assert waiting.told.eta_s == 20.0


def test_how_far_predictions_were_off_for_one_model_says_nothing_of_another() -> None:
    core = scheduler(facts(loaded="ab"))
    for number in range(40):
        running, waiting = ticket("a", number * 100.0), ticket("a", number * 100.0)
        core.offer(running, number * 100.0)
        core.offer(waiting, number * 100.0)
        core.cancel(running, number * 100.0 + 90.0)
        core.cancel(waiting, number * 100.0 + 91.0)
    other = ticket("b", 5000.0)
    core.offer(ticket("b", 5000.0), 5000.0)
    core.offer(other, 5000.0)
    assert other.told is not None
    assert other.told.eta_s == 5.0


# --- a second try -----------------------------------------------------------------------------------------------------


def test_who_has_started_in_time_and_comes_again_may_wait_until_its_deadline() -> None:
    core = scheduler(facts(loaded="m"), rules=Rules())
    failed, next_one = (ticket(urgency=Class.INTERACTIVE, deadline=120.0) for _ in range(2))
    core.offer(failed, 0.0)
    core.cancel(failed, 31.0)
    core.offer(next_one, 31.0, again=True)
    second = failed.again()
    assert core.offer(second, 31.0, again=True) == []
    assert second.start_by == 120.0
    assert told(core.finish(next_one, 60.0)) == ["Admit m x"]


def test_who_comes_again_needs_no_room_in_the_queue() -> None:
    core = scheduler(facts(loaded="m"), m=ModelBounds(queue_limit=1))
    failed = ticket()
    for each in (failed, ticket()):
        core.offer(each, 0.0)
    core.cancel(failed, 1.0)
    core.offer(ticket(), 1.0)
    assert core.offer(failed.again(), 1.0, again=True) == []
    [refused] = core.offer(ticket(), 1.0)
    assert isinstance(refused, Reject) and refused.reason == "queue_full"


def test_who_comes_again_is_told_that_it_is_next_and_nothing_of_its_first_load() -> None:
    core = scheduler(facts())
    failed = ticket()
    core.offer(failed, 0.0)
    core.loaded("x", "m", 7.0)
    assert (failed.found, failed.load_s) == ("load", 7.0)
    core.offer(ticket(priority=-5), 8.0)
    core.offer(ticket(priority=-5), 8.0)
    core.cancel(failed, 9.0)
    second = failed.again()
    core.offer(second, 9.0, again=True)
    assert core.outlook(second, 9.0).position == 1
    assert (second.found, second.load_s) == ("hit", 0.0)


# --- whole answers ----------------------------------------------------------------------------------------------------


def ran(core: Scheduler, seconds: float, count: int = 6, **more: object) -> float:
    """So many runs, one after the other. Returns when the last has ended."""
    now = 0.0
    for _ in range(count):
        run = ticket(arrived_at=now, **more)
        core.offer(run, now)
        now += seconds
        core.finish(run, now)
    return now


def test_how_long_streams_run_refuses_no_whole_answer() -> None:
    core = scheduler(facts(loaded="m", slots=4), rules=Rules())
    now = ran(core, 300.0)
    core.offer(ticket(arrived_at=now), now)
    assert told(core.offer(ticket(arrived_at=now, whole=True, deadline=now + 120.0), now)) == ["Admit m x"]


def test_a_whole_answer_that_is_likely_to_take_too_long_is_refused_but_one_is_tried_now_and_then() -> None:
    core = scheduler(facts(loaded="m", slots=4), rules=Rules())
    now = ran(core, 300.0, whole=True)
    core.offer(ticket(arrived_at=now), now)
    fates = []
    for later in (0.0, 1.0, 59.0, 61.0, 62.0):
        asked = ticket(arrived_at=now + later, whole=True, deadline=now + later + 120.0)
        fates += told(core.offer(asked, now + later))
        core.cancel(asked, now + later + 0.5)
    too_long = "Reject m deadline_unreachable"
    assert fates == ["Admit m x", too_long, too_long, "Admit m x", too_long]
