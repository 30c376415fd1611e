"""Who left the queue and comes again stands where he stood; how long he may wait is his own."""

from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from hermes.policy import places
from hermes.policy.places import KEPT_S, Place, Places
from hermes.policy.scheduler import Scheduler
from hermes.policy.ticket import Admit, BackendFacts, Bounds, ClassRules, Expire, ModelBounds, Rules, Ticket
from hermes.principal import Class
from tests.policy.box import ticket

PATIENT_S = 30.0


def scheduler(bounds: Bounds | None = None, patient_s: float = PATIENT_S) -> Scheduler:
    classes = ClassRules(16.0, patient_s), ClassRules(4.0, patient_s), ClassRules(1.0)
    made = Scheduler(bounds or Bounds(), ModelBounds(), Rules(classes, give_up=inf, waste=1.0))
    made.observe(BackendFacts("x", True, 1), 0.0)
    return made


def retry(left: Ticket, now: float, **more: Any) -> Ticket:
    """What its client sends next, with the place that it has left."""
    return ticket(arrived_at=now, tenant=left.tenant, place=left.place, deadline=1e6 + now, **more)


def queue_up(core: Scheduler, *tickets: Ticket) -> None:
    """One runs; these wait, one second after the other."""
    core.offer(ticket(tenant="holder"), 0.0)
    for each in tickets:
        assert core.offer(each, each.arrived_at) == []


def order(core: Scheduler, now: float, count: int) -> list[Ticket]:
    """Who starts, one after the other, a tenth of a second each."""
    found = []
    running = next(iter(core._stations["m"].stays["x"].running))
    for _ in range(count):
        now += 0.1
        (admitted,) = [each for each in core.finish(running, now) if isinstance(each, Admit)]
        running = admitted.ticket
        found.append(running)
    return found


def arriving(tenants: str, **more: Any) -> list[Ticket]:
    return [ticket(arrived_at=float(number), tenant=name, **more) for number, name in enumerate(tenants, 1)]


def test_who_comes_again_stands_before_those_of_his_own_who_came_after_him() -> None:
    core = scheduler()
    first, second, third = arriving("aaa")
    queue_up(core, first, second, third)
    core.cancel(second, 4.0)
    again = retry(second, 5.0)
    assert core.offer(again, 5.0) == []
    assert again.told is not None and again.told.position == 2
    assert order(core, 6.0, 3) == [first, again, third]


def test_who_comes_again_without_a_place_goes_to_the_end() -> None:
    core = scheduler()
    first, second, third = arriving("aaa")
    queue_up(core, first, second, third)
    core.cancel(second, 4.0)
    again = replace(retry(second, 5.0), place=None)
    core.offer(again, 5.0)
    assert order(core, 6.0, 3) == [first, third, again]


def test_who_comes_again_stands_where_he_stood_among_other_users_too() -> None:
    """While all can start in time, who must start first goes first: he as if he had never left."""
    core = scheduler()
    waiting = arriving("abcd")
    queue_up(core, *waiting)
    core.cancel(waiting[1], 5.0)
    again = retry(waiting[1], 5.5)
    core.offer(again, 5.5)
    assert order(core, 6.0, 4) == [waiting[0], again, waiting[2], waiting[3]]


@pytest.mark.parametrize("kept", [True, False])
def test_a_tenant_that_was_served_least_is_still_that_when_he_comes_again(kept: bool) -> None:
    """His tag is kept: without it he would begin at the present, with all that was served meanwhile forgiven them."""
    core = scheduler()
    rich, poor = core._stations["m"].tenants[Class.BATCH], "poor"
    greedy = [ticket(tenant="rich", arrived_at=1.0, urgency=Class.BATCH, prompt_tokens=1000) for _ in range(6)]
    waits = ticket(tenant=poor, arrived_at=2.0, urgency=Class.BATCH, prompt_tokens=1000)
    queue_up(core, *greedy[:5], waits)
    tag = rich.counter(poor)
    core.cancel(waits, 3.0)
    order(core, 3.0, 3)  # the present moves on
    again = retry(waits, 4.0, urgency=Class.BATCH, prompt_tokens=1000)
    if not kept:
        again.place = None
    core.offer(again, 4.0)
    assert (rich.counter(poor) == tag) is kept
    assert rich.counter(poor) < rich.counter("rich") or not kept


def test_how_long_he_may_wait_is_his_own() -> None:
    """His first try had one second left when its client gave up: the second has all of its time."""
    core = scheduler()
    (first,) = arriving("a")
    queue_up(core, first)
    core.cancel(first, PATIENT_S)
    again = retry(first, PATIENT_S + 0.5)
    assert core.offer(again, PATIENT_S + 0.5) == []
    assert again.start_by == PATIENT_S + 0.5 + PATIENT_S and again.turn_by == first.start_by < again.start_by
    assert core.expire(again.start_by - 0.1) == []
    assert core.expire(again.start_by) == [Expire(again)]


def test_a_run_that_was_left_has_a_place_too() -> None:
    core = scheduler()
    running = ticket(tenant="a")
    core.offer(running, 0.0)
    first, second = arriving("ab")
    for each in (first, second):
        core.offer(each, each.arrived_at)
    core.cancel(running, 3.0)  # the first runs now
    again = retry(running, 3.5)
    core.offer(again, 3.5)
    assert order(core, 4.0, 2) == [again, second]


@pytest.mark.parametrize("other", [{"resident": "n", "model": "n"}, {"urgency": Class.BATCH}])
def test_a_place_in_another_line_is_none(other: dict[str, Any]) -> None:
    core = scheduler()
    first, second = arriving("aa")
    queue_up(core, first, second)
    core.offer(ticket(model="n", resident="n"), 0.0)
    core.cancel(first, 3.0)
    again = retry(first, 3.5, **other)
    core.offer(again, 3.5)
    assert again.place is None and again.turn_by == inf


def test_under_the_process_cap_his_share_of_all_models_is_kept_too() -> None:
    core = scheduler(Bounds(max_concurrent=1))
    waiting = arriving("ab")
    queue_up(core, *waiting)
    core.cancel(waiting[0], 3.0)
    place = waiting[0].place
    assert place is not None and place.shared_tag == core._ledger._tenants[Class.NORMAL].tag("a") < inf
    core.offer(retry(waiting[0], 3.5), 3.5)
    assert len(order(core, 4.0, 2)) == 2


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), min_size=1, max_size=12),
    st.sampled_from((Class.NORMAL, Class.BATCH)),
)
def test_leaving_and_coming_again_changes_nobodys_turn(crowd: list[tuple[str, bool]], urgency: Class) -> None:
    """Whoever leaves and comes again at once, the order is as if nobody had: where users take turns, as in batch, and
    where who must start first goes first, as long as all have the time.
    """
    starts = []
    for comes_again in (False, True):
        core = scheduler(patient_s=1000.0)
        waiting = arriving("".join(name for name, _ in crowd), urgency=urgency)
        queue_up(core, *waiting)
        now = {each: number for number, each in enumerate(waiting)}
        for each, (_, leaves) in zip(waiting, crowd, strict=True):
            if comes_again and leaves:
                core.cancel(each, 13.0)
                again = retry(each, 13.0, urgency=urgency)
                assert core.offer(again, 13.0) == []
                now[again] = now[each]
        starts.append([now[each] for each in order(core, 14.0, len(crowd))])
        assert not any(backlog._returned for line in core._queue.lines for backlog in line.backlogs)
    assert starts[0] == starts[1]


# --- what is remembered -----------------------------------------------------------------------------------------------


def place(turn_by: float = 1.0) -> Place:
    return Place("m", Class.NORMAL, turn_by, 1, 0.0, 0.0)


def test_a_place_is_kept_for_a_while_and_taken_once() -> None:
    left = Places()
    left.leave("ann", b"asked", place(), now=10.0)
    assert left.take("bob", b"asked", 10.0) is None  # I21
    assert left.take("ann", b"other", 10.0) is None
    assert left.take("ann", b"asked", 10.0 + KEPT_S - 0.1) == place()
    assert left.take("ann", b"asked", 11.0) is None
    left.leave("ann", b"asked", place(), now=10.0)
    assert left.take("ann", b"asked", 10.0 + KEPT_S) is None


def test_of_two_that_asked_the_same_the_better_place_is_kept() -> None:
    left = Places()
    left.leave("ann", b"asked", place(3.0), now=10.0)
    left.leave("ann", b"asked", place(5.0), now=11.0)
    assert left.take("ann", b"asked", 12.0) == place(3.0)


def test_no_more_places_are_remembered_than_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """I4"""
    monkeypatch.setattr(places, "REMEMBERED", 3)
    left = Places()
    for number in range(5):
        left.leave("ann", b"%d" % number, place(), now=10.0)
    assert len(left) == 3
    assert [left.take("ann", b"%d" % number, 10.0) is not None for number in range(5)] == [
        False,
        False,
        True,
        True,
        True,
    ]
