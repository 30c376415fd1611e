"""Residency: what is loaded, what has to go for it, and what happens when that fails or others meddle."""

from math import inf, nextafter

import pytest
from msgspec.structs import replace

from hermes.policy.residency import BEGUN_WITHIN_S
from hermes.policy.scheduler import Scheduler
from hermes.policy.site import Plan, Site
from hermes.policy.station import Station, Stay
from hermes.policy.swap import choose, sets_of_victims, worth
from hermes.policy.ticket import (
    BackendFacts,
    Class,
    ClassRules,
    Decision,
    Load,
    ModelBounds,
    Phase,
    Reject,
    Rules,
    Ticket,
)
from tests.policy.box import facts, scheduler, ticket, told


def crowd(core: Scheduler, model: str, number: int, now: float, on: str = "x") -> tuple[list[Ticket], list[Decision]]:
    """So many ask for a model at once, and a little later it is weighed again what to load."""
    tickets = [ticket(model, now, on=on) for _ in range(number)]
    decisions = [decision for each in tickets for decision in core.offer(each, now)]
    return tickets, decisions + core.expire(now + 0.2)


# --- loads ------------------------------------------------------------------------------------------------------------


def test_a_model_is_loaded_once_however_many_ask_and_then_they_run() -> None:
    core = scheduler(facts(slots=2))
    tickets, decisions = crowd(core, "m", 5, 0.0)
    assert told(decisions) == ["Load m x"]
    assert told(core.loaded("x", "m", 7.0)) == ["Admit m x"] * 2
    assert [each.found for each in tickets[:2]] == ["load", "load"]


def test_one_load_of_a_model_at_a_time_though_several_backends_could() -> None:
    core = scheduler(facts("x"), facts("y"))
    _, decisions = crowd(core, "m", 9, 0.0, on="xy")
    assert told(decisions) == ["Load m x"]


def test_one_load_at_a_time_per_backend() -> None:
    core = scheduler(facts())
    assert told(crowd(core, "a", 1, 0.0)[1]) == ["Load a x"]
    assert told(crowd(core, "b", 1, 1.0)[1]) == []
    assert told(core.loaded("x", "a", 8.0)) == ["Admit a x", "Load b x"]


def test_while_a_model_loads_somewhere_no_timer_runs_for_the_other_backends_that_could_load_it() -> None:
    core = scheduler(facts("x"), facts("y"))
    assert told(core.offer(ticket(on="xy", deadline=500.0), 0.0)) == ["Load m x"]
    assert core.next_deadline() == 500.0


def test_a_load_that_fails_is_tried_once_more() -> None:
    core = scheduler(facts())
    crowd(core, "m", 2, 0.0)
    assert told(core.failed("x", "m", "out of memory", 5.0)) == ["Load m x"]
    assert told(core.loaded("x", "m", 9.0)) == ["Admit m x"]


def test_a_load_that_fails_twice_tells_its_waiters_why_and_the_model_backs_off_ever_longer() -> None:
    core = scheduler(facts())
    now = 0.0
    for back_off_s in (15.0, 30.0, 60.0, 120.0, 240.0, 480.0, 600.0, 600.0):
        assert told(crowd(core, "m", 2, now)[1]) == ["Load m x"]
        core.failed("x", "m", "?", now + 1)
        decisions = core.failed("x", "m", "no such tensor", now + 2)
        assert told(decisions) == ["Reject m load_failed"] * 2
        assert [each.why for each in decisions if isinstance(each, Reject)] == ["no such tensor"] * 2
        [refused] = core.offer(ticket("m", now + 3), now + 3)
        assert isinstance(refused, Reject)
        assert (refused.reason, refused.retry_after_s) == ("load_failed", back_off_s - 1)
        now += 2 + back_off_s
    crowd(core, "m", 1, now)
    core.loaded("x", "m", now + 1)
    assert not core._residency.sites["x"].rests


def test_a_model_that_has_failed_for_days_rests_as_long_as_ever() -> None:
    core = scheduler(facts())
    for number in range(1100):
        now = 600.0 * number
        assert told(core.offer(ticket("m", now), now)) == ["Load m x"]
        core.failed("x", "m", "?", now)
        assert told(core.failed("x", "m", "?", now)) == ["Reject m load_failed"]
    [refused] = core.offer(ticket("m", now), now)
    assert isinstance(refused, Reject) and refused.retry_after_s == 600.0


def test_a_model_that_cannot_be_loaded_on_one_backend_is_loaded_on_another() -> None:
    core = scheduler(facts("x"), facts("y"))
    assert told(core.offer(ticket(on="xy"), 0.0)) == ["Load m x"]
    core.failed("x", "m", "broken disk", 1.0)
    assert told(core.failed("x", "m", "broken disk", 2.0)) == ["Load m y"]
    assert told(core.offer(ticket(arrived_at=3.0, on="x"), 3.0)) == ["Reject m load_failed"]


def test_a_model_is_loaded_where_it_may_run_though_it_is_loaded_where_it_may_not() -> None:
    core = scheduler(facts("x", "m"), facts("y"), m=ModelBounds(load_s=10.0))
    waiting = ticket(on="y", deadline=50.0)
    assert told(core.offer(waiting, 0.0)) == ["Load m y"]
    assert waiting.told is not None and waiting.told.eta_s == 10.0
    core.unheard("y", "m", 1.0)
    assert core.next_deadline() == 2.0
    assert told(core.expire(2.0)) == ["Load m y"]
    core.unheard("y", "m", 39.5)
    assert core.next_deadline() == 40.0  # 10 s before its time


def test_a_model_that_fails_to_load_here_goes_on_where_it_is_loaded() -> None:
    core = scheduler(facts("x", "m"), facts("y"))
    tickets, decisions = crowd(core, "m", 9, 0.0, on="xy")
    assert told(decisions) == ["Admit m x", "Load m y"]
    core.failed("y", "m", "?", 1.0)
    assert told(core.failed("y", "m", "?", 2.0)) == []
    assert told(core.finish(tickets[0], 3.0)) == ["Admit m x"]


def test_a_backend_that_goes_while_it_loads_is_loaded_anew_elsewhere() -> None:
    core = scheduler(facts("x"), facts("y"))
    crowd(core, "m", 2, 0.0, on="xy")
    assert told(core.observe(facts("x", up=False), 1.0)) == ["Load m y"]
    assert core.loaded("x", "m", 2.0) == core.failed("x", "m", "?", 2.0) == []
    assert told(core.loaded("y", "m", 9.0)) == ["Admit m y"]


def test_what_a_load_takes_is_learned_and_refuses_who_cannot_be_in_time() -> None:
    core = scheduler(facts(), rules=Rules(give_up=inf), m=ModelBounds(load_s=2.0, queue_limit=9))
    first = ticket("m", urgency=Class.INTERACTIVE)
    assert told(core.offer(first, 0.0)) == ["Load m x"]
    core.loaded("x", "m", 25.0)
    core.finish(first, 26.0)
    core.observe(facts(loaded=(), seen_at=27.0), 27.0)
    core.observe(facts(up=False, seen_at=27.0), 27.0)
    core.observe(facts(memory=4, seen_at=28.0, sizes={"m": 0}), 28.0)
    assert core._stations["m"].load_s.value == 25.0


# --- swaps ------------------------------------------------------------------------------------------------------------


def drained(core: Scheduler, backend: str = "x") -> list[str]:
    return [name for name, stay in core._residency.sites[backend].stays.items() if stay.draining]


def test_an_idle_model_goes_for_one_that_is_wanted() -> None:
    core = scheduler(facts(loaded="ab"))
    tickets, decisions = crowd(core, "m", 1, 200.0)
    assert told(decisions) == ["Unload a x", "Load m x"]
    core.loaded("x", "m", 210.0)
    assert tickets[0].found == "swap"


def test_a_busy_model_ends_what_it_runs_before_it_goes_and_starts_nothing_new() -> None:
    core = scheduler(facts(loaded="v", memory=5))
    busy = ticket("v")
    core.offer(busy, 0.0)
    _, decisions = crowd(core, "m", 9, 1.0)
    assert (told(decisions), drained(core)) == ([], ["v"])
    assert core.offer(ticket("v", 2.0), 2.0) == []
    assert told(core.finish(busy, 3.0)) == ["Unload v x", "Load m x"]


def test_a_swap_that_gains_nothing_is_not_made_and_weighed_again_soon() -> None:
    core = scheduler(facts(loaded="v", memory=5))
    core.offer(ticket("v"), 0.0)
    assert told(core.offer(ticket("m", 1.0), 1.0)) == []
    assert (drained(core), core.next_deadline()) == ([], 2.0)
    core.expire(2.0)
    assert core.next_deadline() == 3.0


def test_however_the_time_is_rounded_the_timer_that_weighs_a_swap_again_has_something_to_do() -> None:
    """From 128 on a float has one binary digit less for what is behind the point."""
    now = nextafter(127.5, inf)
    core = scheduler(facts(loaded="v", memory=5))
    crowd(core, "v", 2100, 1.0)
    core.offer(ticket("m", now), now)
    assert core.next_deadline() == now + 1.0
    assert core.expire(now + 1.0) == []
    assert core.next_deadline() == now + 2.0


def test_a_pinned_model_never_goes() -> None:
    core = scheduler(facts(loaded="v", memory=5), v=ModelBounds(pinned=True))
    core.finish(done := ticket("v"), 1.0) if core.offer(done := ticket("v"), 0.0) else None
    core.cancel(done, 1.0)
    [refused] = core.offer(ticket("m", 500.0), 500.0)
    assert isinstance(refused, Reject)
    assert (refused.reason, refused.retry_after_s) == ("insufficient_memory", inf)


def test_what_can_never_fit_is_refused_at_once_and_what_can_somewhere_is_not() -> None:
    sizes = {"m": 11}
    core = scheduler(facts("x", sizes=sizes), facts("y", sizes=sizes, memory=12))
    assert told(core.offer(ticket("m", on="x"), 0.0)) == ["Reject m insufficient_memory"]
    assert told(core.offer(ticket("m", on="xy"), 0.0)) == ["Load m y"]


def test_what_is_seen_to_be_too_large_while_it_is_waited_for_is_refused_then() -> None:
    core = scheduler(facts(loaded="v", sizes={"v": 5}, memory=5))
    core.offer(ticket("v"), 0.0)
    core.offer(ticket("m"), 0.0)
    assert told(core.observe(facts(loaded="v", sizes={"v": 5, "m": 6}, memory=5, seen_at=1.0), 1.0)) == [
        "Reject m insufficient_memory"
    ]


def test_a_drain_ends_when_nobody_waits_for_the_load_any_more() -> None:
    core = scheduler(facts(loaded="v", memory=5))
    busy, held_up = ticket("v"), ticket("v", 2.0)
    core.offer(busy, 0.0)
    waiting, _ = crowd(core, "m", 9, 1.0)
    core.offer(held_up, 2.0)
    for each in waiting:
        core.cancel(each, 3.0)
    assert drained(core) == []
    assert told(core.finish(busy, 4.0)) == ["Admit v x"]


def test_a_drain_ends_when_those_who_waited_have_started_elsewhere() -> None:
    core = scheduler(facts("x", "m", memory=5), facts("y", "v", memory=5))
    busy = ticket("v", on="xy")
    core.offer(busy, 0.0)
    core.offer(ticket("m", on="xy"), 0.0)
    waiting, _ = crowd(core, "m", 12, 0.1, on="xy")
    assert drained(core, "y") == ["v"]
    running = next(iter(core._residency.sites["x"].stays["m"].running))
    for each in (running, *waiting):
        core.finish(each, 1.0)
    assert (core.waiting, drained(core, "y")) == (0, [])
    core.finish(busy, 2.0)
    assert told(core.offer(ticket("v", 3.0, on="xy"), 3.0)) == ["Admit v y"]


def test_a_drain_ends_when_those_who_still_wait_cannot_run_there() -> None:
    """Another name of the model is served elsewhere."""
    core = scheduler(facts("x", "v", memory=5), facts("y", "w", memory=5))
    core.offer(ticket("v", on="x"), 0.0)
    core.offer(ticket("w", on="y"), 0.0)
    core.offer(ticket("alias", resident="m", on="y"), 0.1)
    waiting, _ = crowd(core, "m", 9, 1.0, on="x")
    assert drained(core, "x") == ["v"]
    for each in waiting:
        core.cancel(each, 3.0)
    assert drained(core, "x") == []
    assert core.next_deadline() == 4.0


def test_a_drain_ends_when_its_backend_goes() -> None:
    core = scheduler(facts("x", "v", memory=5), facts("y", "v", memory=0))
    busy = ticket("v", on="x")
    core.offer(busy, 0.0)
    crowd(core, "m", 9, 1.0, on="x")
    core.observe(facts("x", "v", memory=5, up=False), 2.0)
    assert drained(core) == []


@pytest.mark.parametrize("now", [120.0, 127.0])
def test_a_drain_ends_when_what_runs_lasts_too_long_for_those_who_wait(now: float) -> None:
    """They start by 131, and a load takes 5 s."""
    core = scheduler(facts(loaded="v", memory=5, slots=2), rules=Rules(), m=ModelBounds(load_s=5.0))
    for number in range(6):
        short = ticket("v", 3.0 * number)
        core.offer(short, 3.0 * number)
        core.finish(short, 3.0 * number + 2.0)
    core.offer(ticket("v", 100.0), 100.0)
    for _ in range(4):
        core.offer(ticket("m", 101.0, urgency=Class.INTERACTIVE), 101.0)
    core.expire(101.2)
    assert drained(core) == ["v"]
    hopeless = ["Reject m deadline_unreachable"] * 4
    assert told(core.offer(ticket("v", now), now)) == [*(hopeless if now > 126.0 else ()), "Admit v x"]
    assert drained(core) == []
    assert told(core.expire(127.0)) == ([] if now > 126.0 else hopeless)


def test_a_load_that_did_not_reach_its_backend_is_tried_again_and_its_waiters_wait_on() -> None:
    core = scheduler(facts())
    crowd(core, "m", 2, 0.0)
    assert core.unheard("x", "m", 1.0) == []
    assert core.next_deadline() == 2.0
    assert told(core.expire(2.0)) == ["Load m x"]


def test_late_news_of_a_load_leaves_a_drain_as_it_is() -> None:
    """A backend has gone and come back, and the model is about to be loaded anew."""
    core = scheduler(facts(loaded="v", memory=5))
    busy = ticket("v")
    core.offer(busy, 0.0)
    crowd(core, "m", 9, 1.0)
    core.unheard("x", "m", 2.0)
    assert drained(core) == ["v"]
    assert told(core.finish(busy, 3.0)) == ["Unload v x", "Load m x"]


def test_a_drain_ends_when_its_backend_has_lost_the_model_that_was_to_come() -> None:
    core = scheduler(facts(loaded="v", memory=5))
    busy = ticket("v")
    core.offer(busy, 0.0)
    crowd(core, "m", 9, 1.0)
    assert told(core.lost("x", "m", 2.0)) == ["Reject m model_lost"] * 9
    assert drained(core) == []


# --- others load and unload too ---------------------------------------------------------------------------------------


def test_a_model_that_others_load_while_room_is_made_for_it_starts_at_once_and_the_drain_ends() -> None:
    core = scheduler(facts(loaded="v", memory=5))
    busy = ticket("v")
    core.offer(busy, 0.0)
    crowd(core, "m", 9, 1.0)
    assert told(core.observe(facts(loaded="vm", memory=10, seen_at=2.0), 2.0)) == ["Admit m x"]
    assert drained(core) == []
    assert core.finish(busy, 3.0) == []


def test_a_model_that_others_unload_while_it_drains_is_not_unloaded_again() -> None:
    core = scheduler(facts(loaded="ab", sizes={"m": 10, "a": 5, "b": 5}))
    busy = ticket("b")
    core.offer(busy, 0.0)
    crowd(core, "m", 9, 1.0)
    assert drained(core) == ["a", "b"]
    core.observe(facts(loaded="b", sizes={"m": 10}, seen_at=2.0), 2.0)
    assert told(core.finish(busy, 3.0)) == ["Unload b x", "Load m x"]


def test_a_load_whose_room_others_have_taken_meanwhile_is_weighed_anew() -> None:
    core = scheduler(facts(loaded="v", memory=9, sizes={"m": 9, "v": 5}))
    busy = ticket("v")
    core.offer(busy, 0.0)
    crowd(core, "m", 9, 1.0)
    core.observe(facts(loaded={"v": 5, "d": 4}, memory=9, sizes={"m": 9}, seen_at=2.0), 2.0)
    assert told(core.finish(busy, 3.0)) == ["Unload d x", "Unload v x", "Load m x"]


def test_whose_time_is_over_when_others_have_taken_the_room_is_told_at_once() -> None:
    core = scheduler(facts(loaded="v", memory=5), rules=Rules(), m=ModelBounds(load_s=12.0))
    busy = ticket("v")
    core.offer(busy, 0.0)
    for _ in range(4):
        core.offer(ticket("m", urgency=Class.INTERACTIVE), 0.0)
    core.expire(0.2)
    assert drained(core) == ["v"]
    assert told(core.observe(facts(loaded="vw", memory=5, seen_at=5.0), 5.0)) == []
    assert told(core.finish(busy, 20.0)) == ["Reject m deadline_unreachable"] * 4


def test_whose_time_is_over_when_its_model_has_to_go_is_told_at_once() -> None:
    core = scheduler(facts(loaded="v", memory=5), rules=Rules(), v=ModelBounds(load_s=12.0))
    busy, waits = ticket("v"), ticket("v", urgency=Class.INTERACTIVE)
    core.offer(busy, 0.0)
    core.offer(waits, 0.0)
    crowd(core, "m", 40, 1.0)
    assert drained(core) == ["v"]
    assert told(core.finish(busy, 20.0)) == ["Unload v x", "Load m x", "Reject v deadline_unreachable"]


def test_a_look_that_began_before_the_load_was_done_unloads_nothing() -> None:
    core = scheduler(facts())
    crowd(core, "m", 1, 0.0)
    core.loaded("x", "m", 5.0)
    core.observe(facts(seen_at=4.9), 5.1)
    assert core.offer(ticket("m", 6.0), 6.0) == []
    assert "m" in core._residency.sites["x"].stays


def test_a_model_on_its_way_out_is_still_seen_and_starts_nothing() -> None:
    """Unloading takes time, and a look may come just then, or have begun before."""
    core = scheduler(facts(loaded="v", memory=5))
    assert told(crowd(core, "m", 1, 1.0)[1]) == ["Unload v x", "Load m x"]
    core.observe(facts(loaded="v", memory=5, seen_at=1.1), 1.2)
    assert core.offer(ticket("v", 1.3), 1.3) == []
    core.loaded("x", "m", 5.0)
    core.observe(facts(loaded="v", memory=5, seen_at=1.4), 5.1)
    assert list(core._residency.sites["x"].stays) == ["m"]


def test_a_busy_model_that_is_not_seen_keeps_its_runs() -> None:
    core = scheduler(facts(loaded="m"))
    busy = ticket()
    core.offer(busy, 0.0)
    core.observe(facts(seen_at=1.0), 1.0)
    core.finish(busy, 2.0)
    assert (core.running, busy.phase) == (0, Phase.DONE)


# --- memory that nobody tells of --------------------------------------------------------------------------------------


def test_memory_that_nobody_tells_of_is_learned_from_what_goes_though_we_let_it_stay() -> None:
    core = scheduler(facts(loaded={"a": 5}, memory=None))
    core.observe(facts(loaded={"b": 5}, memory=None, seen_at=1.0), 1.0)
    assert told(core.offer(ticket("c", 1.0), 1.0)) == ["Unload b x", "Load c x"]


def test_a_model_that_somebody_unloads_still_fits_where_it_was() -> None:
    """What was ever loaded at once has room: a model stopped by hand is no proof that there is less."""
    core = scheduler(facts(loaded={"a": 5, "b": 9}, memory=None, seen_at=1.0))
    core.observe(facts(loaded={"a": 5}, memory=None, seen_at=2.0), 2.0)
    assert told(core.offer(ticket("b", 3.0), 3.0)) == ["Load b x"]


def test_what_is_larger_than_anything_seen_is_tried_alone_where_nobody_tells_of_memory() -> None:
    """Else it would never be known that it fits."""
    core = scheduler(facts(loaded={"a": 5, "b": 5}, memory=None, seen_at=1.0, sizes={"m": 20}))
    core.observe(facts(loaded={"a": 5, "c": 5}, memory=None, seen_at=2.0, sizes={"m": 20}), 2.0)
    assert told(core.offer(ticket("m", 3.0), 3.0)) == ["Unload a x", "Unload c x", "Load m x"]


def test_as_long_as_nothing_is_known_of_memory_everything_is_tried() -> None:
    core = scheduler(facts(loaded="abc", memory=None))
    assert told(core.offer(ticket("m"), 0.0)) == ["Load m x"]


# --- who cannot be in time --------------------------------------------------------------------------------------------


def test_what_waits_for_a_model_that_cannot_be_loaded_in_time_is_refused_before_its_bound() -> None:
    """Nothing is under way for it: there is no hope from one load time before its bound on."""
    rules = Rules((ClassRules(16.0, 30.0), ClassRules(4.0, 120.0), ClassRules(1.0)), give_up=inf)
    core = scheduler(
        facts(loaded="v", memory=5), rules=rules, m=ModelBounds(load_s=12.0), v=ModelBounds(service_s=500.0)
    )
    core.offer(ticket("v"), 0.0)
    hopeless = ticket("m", urgency=Class.INTERACTIVE)
    assert core.offer(hopeless, 0.0) == []
    assert core.expire(17.9) == []
    assert core.next_deadline() == 18.0
    assert told(core.expire(18.0)) == ["Reject m deadline_unreachable"]


def test_a_model_that_nobody_may_wait_for_is_loaded_for_who_comes_again() -> None:
    """With `queue_limit: 0`: else it would never be, whoever asks."""
    core = scheduler(facts(), m=ModelBounds(queue_limit=0))
    assert told(core.offer(ticket("m"), 0.0)) == ["Reject m queue_full", "Load m x"]
    assert told(core.offer(ticket("m"), 1.0)) == ["Reject m queue_full"]
    core.loaded("x", "m", 7.0)
    assert told(core.offer(ticket("m"), 8.0)) == ["Admit m x"]


def test_what_waits_for_a_model_on_its_way_waits_to_its_bound() -> None:
    core = scheduler(facts(), rules=Rules(give_up=inf), m=ModelBounds(load_s=12.0))
    core.offer(ticket("m", urgency=Class.INTERACTIVE), 0.0)
    assert (core.expire(29.9), core.next_deadline()) == ([], 30.0)
    assert told(core.expire(30.0)) == ["Expire m"]


def test_a_swap_is_weighed_again_for_a_model_whose_only_backend_that_has_it_loaded_is_down() -> None:
    core = scheduler(facts("x", "m", memory=5), facts("y", "v", memory=5))
    done = ticket("m", on="xy")
    core.offer(done, 0.0)
    core.offer(ticket("v", on="y"), 0.0)
    core.observe(facts("x", "m", memory=5, up=False), 1.0)
    core.offer(ticket("m", 2.0, on="xy"), 2.0)
    assert core.next_deadline() == 3.0


def test_how_patient_a_usual_timeout_has_to_be_is_twice_the_load_as_it_was_seen_else_as_it_was_said() -> None:
    named = replace(facts(), names={"m": "m"})
    core = scheduler(named, rules=Rules(load_waits=2.0), m=ModelBounds(load_s=130.0))
    assert (core.patience_s("m"), core.patience_s("a")) == (260.0, 0.0)
    for model in "ma":
        core.offer(ticket(model), 0.0)
        assert core.patience_s(model) == (260.0 if model == "m" else 0.0)
        core.loaded("x", model, 40.0)
    assert [core.patience_s(model) for model in "ma"] == [80.0, 80.0]


def slow_load(*loaded: str) -> Scheduler:
    """A model is asked for that takes longer to load than it can be waited for."""
    core = scheduler(
        facts(loaded=loaded, memory=5), rules=Rules(load_waits=2.0), m=ModelBounds(load_s=130.0), d=ModelBounds()
    )
    done = ticket("v")
    core.offer(done, 0.0)
    core.finish(done, 10.0)
    return core


@pytest.mark.parametrize(("now", "orders"), [(400.0, ["Unload v x", "Load m x"]), (20.0, [])])
def test_what_is_not_used_makes_room_for_a_model_that_nobody_can_wait_for(now: float, orders: list[str]) -> None:
    """And may come again: else it could never be loaded."""
    core = slow_load("v")
    core.offer(ticket("m", now, deadline=now + 120.0), now)
    assert told(core.expire(now))[0] == "Reject m deadline_unreachable"
    due = core.next_deadline()
    assert due is not None and now < due <= now + 1.0
    assert told(core.expire(due)) == orders
    assert core.next_deadline() is None


@pytest.mark.parametrize("urgency", [Class.NORMAL, Class.BATCH])
def test_what_waits_without_a_bound_holds_a_model_no_more_than_what_could_start_soon(urgency: Class) -> None:
    core = scheduler(facts(loaded="v", memory=5), v=ModelBounds(service_s=5.0))
    for _ in range(250):
        core.offer(ticket("v", urgency=urgency), 0.0)
    for _ in range(30):
        core.offer(ticket("m", 1.0, urgency=Class.INTERACTIVE), 1.0)
    core.expire(1.2)
    assert drained(core) == ["v"]


def test_a_request_counts_in_swaps_what_its_class_weighs() -> None:
    made = station("a", 5)
    assert made.counts == (1.0, 0.25, 0.0625)


# --- the pieces -------------------------------------------------------------------------------------------------------


def station(name: str, size_bytes: int, pinned: bool = False) -> Station:
    made = Station(name)
    made.size_bytes, made.pinned = size_bytes, pinned
    return made


def site(memory_bytes: int | None, *loaded: Station) -> Site:
    made = Site(BackendFacts("x", True, 2, {}, {}, memory_bytes))
    for each in loaded:
        stay = Stay(each, made.facts, 0.0, each.size_bytes)
        made.stays[each.name] = each.stays["x"] = stay
    return made


def victims(where: Site, wanted: Station) -> list[tuple[Stay, ...]]:
    return list(sets_of_victims(where, where.missing_bytes(wanted), where.surplus(), list(where.stays.values())))


@pytest.mark.parametrize(
    ("memory_bytes", "wanted", "names"),
    [
        (24, 1, ["-"]),  # 6 + 8 + 9 = 23 are taken
        (24, 7, ["a", "b", "c"]),
        (24, 8, ["b", "c", "a+b", "a+c"][:2]),
        (24, 10, ["c", "a+b"]),
        (24, 16, ["a+c", "b+c"]),
        (24, 24, ["a+b+c"]),
        (24, 25, []),
        (None, 99, ["-"]),
    ],
)
def test_each_smallest_set_of_models_that_makes_room(memory_bytes: int | None, wanted: int, names: list[str]) -> None:
    box = site(memory_bytes, station("a", 6), station("b", 8), station("c", 9))
    found = ["+".join(stay.station.name for stay in some) or "-" for some in victims(box, station("m", wanted))]
    assert found == names


def test_a_model_that_is_pinned_under_another_name_stays_before_anybody_has_asked_for_it() -> None:
    loaded = replace(facts(loaded="v", memory=5), names={"chat": "v", "v": "v"})
    core = scheduler(loaded, rules=Rules(), chat=ModelBounds(pinned=True))
    assert told(crowd(core, "m", 9, 0.0)[1]) == ["Reject m insufficient_memory"] * 9
    other = scheduler(loaded, rules=Rules(), talk=ModelBounds(pinned=True, backend_model="v"))
    assert told(crowd(other, "m", 9, 0.0)[1]) == ["Reject m insufficient_memory"] * 9
    assert "Load m x" in told(crowd(scheduler(loaded, rules=Rules()), "m", 9, 0.0)[1])


def test_pinned_models_are_no_victims_and_leave_less_to_hold() -> None:
    box = site(24, station("a", 6, pinned=True), station("b", 8))
    assert [[stay.station.name for stay in some] for some in victims(box, station("m", 12))] == [["b"]]
    assert box.can_hold(station("m", 18))
    assert not box.can_hold(station("m", 19))


def test_of_many_small_models_all_go_where_four_are_not_enough() -> None:
    small = [station(f"s{number}", 1) for number in range(7)]
    assert [len(some) for some in victims(site(7, *small), station("m", 7))] == [7]


def test_of_many_models_only_those_worth_least_are_tried_together() -> None:
    many = [station(f"s{number}", 1) for number in range(40)]
    found = victims(site(40, *many), station("m", 4))
    assert {stay.station.name for some in found for stay in some[:-1]} < {f"s{number}" for number in range(8)}
    assert len(found) == 70  # four of eight


def test_the_swap_that_gains_most_is_chosen_and_none_that_gains_nothing() -> None:
    a, b = station("a", 5), station("b", 5)
    box = site(10, a, b)
    core = scheduler(facts(loaded="ab", slots=2))
    core.offer(ticket("a"), 0.0)
    crowd(core, "m", 2, 300.0)
    assert [stay.station.name for stay in core._residency.sites["x"].plan.victims] == ["b"]  # type: ignore[union-attr]
    assert choose(box, [station("m", 5)], 0.0) is None  # nobody waits for it


def test_a_model_that_was_full_lately_is_worth_as_much_while_it_rests() -> None:
    busy = Stay(station("a", 5), site(10).facts, 0.0, 5)
    runs = [ticket("a", urgency=Class.INTERACTIVE), ticket("a", urgency=Class.INTERACTIVE)]
    busy.station.stays["x"] = busy
    for each in runs:
        busy.start(each, 0.0)
    full = worth(busy, 600.0)
    for each in runs:
        busy.end(each, 600.0)
    assert full == 3.0 * 2
    assert worth(busy, 601.0) == pytest.approx(full, rel=0.1)
    assert worth(busy, 900.0) < 0.01


def test_a_plan_is_compared_by_what_it_is_not_by_what_it_says() -> None:
    one = station("a", 1)
    assert Plan(one, (), 0.0) != Plan(one, (), 0.0)


def test_who_waits_though_nothing_is_under_way_is_told_that_it_may_take_as_long_again() -> None:
    core = scheduler(facts(loaded="a", memory=5))
    for number in range(50):
        core.offer(ticket("a", number / 100, tenant="script"), number / 100)
    waits = ticket("b", 1.0, tenant="script")
    core.offer(waits, 1.0)
    assert core.explain(waits) is not None and waits.kind == "absent"
    assert core.outlook(waits, 1.0) == waits.told
    stay = core._residency.sites["x"].stays["a"]
    for second in range(2, 42):
        for run in list(stay.running):
            core.finish(run, float(second))
    later = core.outlook(waits, 41.0)
    assert later.eta_s >= 40.0 and later.eta_high_s >= later.eta_s


# --- room that is not there -------------------------------------------------------------------------------------------


def crowded(**said: object) -> Scheduler:
    """Room for both by what is known, which may be more than there is; `big` runs, and `m` is loaded beside it."""
    core = scheduler()
    core.observe(replace(facts(loaded={"big": 8}, memory=20, sizes={"big": 8, "m": 2}, slots=2), **said), 0.0)
    core.offer(ticket("big", 0.0), 0.0)
    assert told(crowd(core, "m", 9, 1.0)[1]) == ["Load m x"]
    return core


def test_what_a_load_waits_for_in_vain_goes_for_it() -> None:
    core = crowded(may_be_less=True)
    running = ticket("big", 2.0)
    core.offer(running, 2.0)
    assert told(core.failed("x", "m", "it waits for room", 16.0, late=True)) == []  # until big's runs have ended
    [change] = core.changes()
    assert (change.model, change.victims) == ("m", ("big",))
    core.finish(running, 17.0)
    assert [ticket for ticket in core.tickets() if ticket.phase is Phase.RUNNING]
    [first] = [ticket for ticket in core.tickets() if ticket.phase is Phase.RUNNING]
    assert told(core.finish(first, 18.0)) == ["Unload big x", "Load m x"]
    assert told(core.loaded("x", "m", 20.0))[0] == "Admit m x"


@pytest.mark.parametrize(
    "said",
    [{"may_be_less": False}, {"may_be_less": True, "makes_room": False}],
    ids=["the room is known for sure", "it makes no room by itself"],
)
def test_a_late_load_that_waits_for_nobody_has_failed(said: dict[str, bool]) -> None:
    core = crowded(**said)
    assert told(core.failed("x", "m", "?", 16.0, late=True)) == ["Load m x"]
    assert told(core.failed("x", "m", "?", 32.0, late=True)) == ["Reject m load_failed"] * 9


def test_only_a_load_beside_others_has_to_have_begun_soon() -> None:
    core = scheduler(replace(facts(loaded={}, memory=20), may_be_less=True))
    [load] = [each for each in crowd(core, "m", 2, 0.0)[1] if isinstance(each, Load)]
    assert load.begun_within_s == inf
    core = scheduler(replace(facts(loaded={"v": 5}, memory=20), may_be_less=True))
    [load] = [each for each in crowd(core, "m", 2, 0.0)[1] if isinstance(each, Load)]
    assert load.begun_within_s == BEGUN_WITHIN_S
