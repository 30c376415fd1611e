"""What the scheduler makes of backends that are given fewer requests of a model for now, or none."""

from math import inf

import pytest
from msgspec.structs import replace

from hermes.policy.scheduler import Scheduler
from hermes.policy.ticket import BackendFacts, Reject
from tests.policy.box import facts, scheduler, ticket, told

ONE = facts("x", "m", slots=4, memory=None)
OTHER = facts("y", "m", slots=1, memory=None)


def box(*backends: BackendFacts) -> Scheduler:
    return scheduler(*backends)


def test_no_more_run_at_once_than_the_limit_however_many_slots_there_are() -> None:
    core = box(replace(ONE, limits={"m": 2}))
    tickets = [ticket() for _ in range(4)]
    assert [told(core.offer(each, 0.0)) for each in tickets] == [["Admit m x"], ["Admit m x"], [], []]
    assert told(core.observe(replace(ONE, limits={"m": 3}), 1.0)) == ["Admit m x"]
    assert told(core.observe(ONE, 1.0)) == ["Admit m x"]


def test_what_rests_gets_nothing_and_those_that_can_wait_for_it() -> None:
    core = box(replace(ONE, resting={"m": 5.0}))
    assert told(core.offer(ticket(), 0.0)) == []
    assert told(core.observe(ONE, 5.0)) == ["Admit m x"]


def test_who_waits_for_the_end_of_a_rest_is_told_how_long() -> None:
    core, waiting = box(replace(ONE, resting={"m": 5.0})), ticket()
    core.offer(waiting, 0.0)
    assert waiting.told is not None and waiting.told.eta_s == 5.0
    assert core.outlook(waiting, 4.0).eta_s == 1.0


def test_a_limit_of_every_model_holds_for_those_that_have_none_of_their_own() -> None:
    core = box(replace(facts("x", "ma", slots=4), limits={"*": 1, "a": 2}))
    assert [told(core.offer(ticket("m"), 0.0)) for _ in range(2)] == [["Admit m x"], []]
    assert [told(core.offer(ticket("a"), 0.0)) for _ in range(3)] == [["Admit a x"], ["Admit a x"], []]


def test_those_that_cannot_wait_for_the_end_of_a_rest_hear_so_at_once_and_until_when() -> None:
    core = box(replace(ONE, resting={"m": 5.0}))
    [refused] = core.offer(ticket(deadline=4.0), 0.0)
    assert isinstance(refused, Reject)
    assert (refused.reason, refused.retry_after_s) == ("no_backend", 5.0)


@pytest.mark.parametrize(("until", "sent_away"), [(3.0, 0), (5.0, 1), (inf, 2)])
def test_what_waits_is_sent_away_when_its_model_rests_for_too_long(until: float, sent_away: int) -> None:
    core = box(replace(ONE, slots=1))
    core.offer(ticket(), 0.0)
    for deadline in (4.0, 6.0):
        core.offer(ticket(deadline=deadline), 0.0)
    decisions = core.observe(replace(ONE, slots=1, resting={"m": until}), 1.0)
    assert told(decisions) == ["Reject m no_backend"] * sent_away
    assert all(1 <= each.retry_after_s < inf for each in decisions if isinstance(each, Reject))
    assert (core.running, core.waiting) == (1, 2 - sent_away)


def test_what_waits_is_sent_away_when_the_last_backend_where_its_model_does_not_rest_is_gone() -> None:
    core = box(replace(ONE, resting={"m": inf}), OTHER)
    assert [told(core.offer(ticket(on="xy"), 0.0)) for _ in range(2)] == [["Admit m y"], []]
    assert told(core.observe(replace(OTHER, up=False), 1.0)) == ["Reject m no_backend"]


def test_what_runs_where_it_rests_runs_on_and_the_rest_goes_elsewhere() -> None:
    core = box(ONE, OTHER)
    assert told(core.offer(ticket(on="xy"), 0.0)) == ["Admit m x"]
    core.observe(replace(ONE, resting={"m": inf}), 1.0)
    assert told(core.offer(ticket(on="xy"), 1.0)) == ["Admit m y"]
    assert told(core.offer(ticket(on="xy"), 1.0)) == [], "it waits for the other's slot"
    assert core.running == 2


def test_it_is_loaded_elsewhere_where_it_was_loaded_on_the_one_that_rests_only() -> None:
    core = box(replace(ONE, resting={"m": inf}), facts("y"))
    assert told(core.offer(ticket(on="xy"), 0.0)) == ["Load m y"]


def test_nothing_is_loaded_where_it_rests() -> None:
    core = box(facts("x"), facts("y", up=False))
    core.observe(replace(facts("x"), resting={"m": 9.0}), 0.0)
    assert told(core.offer(ticket(on="xy"), 0.0)) == []
    assert (core.next_deadline() or inf) >= 9.0, "nothing is to be done before"
    assert told(core.observe(facts("x", seen_at=9.0), 9.0)) == ["Load m x"]


def test_what_was_to_go_for_it_stays_where_it_begins_to_rest_meanwhile() -> None:
    core, run = box(facts("x", "a", memory=5)), ticket("a")
    core.offer(run, 0.0)
    for _ in range(9):
        core.offer(ticket(), 0.0)
    core.expire(1.0)
    assert [change.model for change in core.changes()] == ["m"]
    core.observe(replace(facts("x", "a", memory=5, seen_at=2.0), resting={"m": 99.0}), 2.0)
    assert not list(core.changes())
    assert told(core.finish(run, 3.0)) == []


def test_another_model_there_is_none_the_worse_for_it() -> None:
    core = box(replace(facts("x", "ma"), resting={"m": inf}))
    assert told(core.offer(ticket("a"), 0.0)) == ["Admit a x"]


def test_a_failure_takes_its_slot_as_long_as_a_run_does_where_there_is_another() -> None:
    core = box(ONE, OTHER)
    failed = ticket(on="xy")
    core.offer(failed, 0.0)
    core.cancel(failed, 0.1, failed=True)
    assert told(core.offer(ticket(on="xy"), 0.1)) == ["Admit m y"]
    assert core.next_deadline() == pytest.approx(1.1)
    core.expire(1.1)
    assert told(core.offer(ticket(on="xy"), 1.1)) == ["Admit m x"]


def test_a_failure_costs_no_slot_where_there_is_no_other() -> None:
    core = box(replace(ONE, slots=1))
    failed = ticket()
    core.offer(failed, 0.0)
    core.cancel(failed, 0.1, failed=True)
    assert told(core.offer(ticket(), 0.1)) == ["Admit m x"]


def test_who_waits_for_the_one_that_does_not_rest_is_sent_away_when_that_goes() -> None:
    core = box(replace(ONE, slots=1, resting={"m": inf}), OTHER)
    running, waiting = ticket(on="xy"), ticket(on="xy")
    assert told([*core.offer(running, 0.0), *core.offer(waiting, 0.0)]) == ["Admit m y"]
    assert told(core.observe(replace(OTHER, up=False), 1.0)) == ["Reject m no_backend"]
