"""Models that are processes: they go down by themselves, rest, and go when nobody has used them for long."""

from msgspec.structs import replace

from hermes.policy.ticket import Admit, BackendFacts, Bounds, Fallen, ModelBounds, Reject, Unload
from tests.policy.box import Box, facts, scheduler, ticket, told

DOWN = Fallen(0.0, "its process went down")


def used(*loaded: str, **more: object) -> Box:
    """Where each of these was asked for once."""
    box = Box(*loaded, **more)
    for model in loaded:
        run, _ = box.ask(model)
        box.finish(run)
    return box


def test_what_went_down_is_loaded_again_though_nobody_asks() -> None:
    box = used("a", memory_bytes=2)
    box.facts["fallen"] = {"a": DOWN}
    assert told(box.see()) == ["Load a x"]


def test_it_is_loaded_when_it_has_rested_and_not_before() -> None:
    box = used("a", memory_bytes=2)
    box.facts["fallen"] = {"a": Fallen(box.now + 5, "why")}
    assert box.see() == []
    due = box.core.next_deadline()
    assert due is not None and due >= box.facts["fallen"]["a"].until
    assert told(box.core.expire(due)) == ["Load a x"]


def test_who_asks_meanwhile_hears_why() -> None:
    box = used("a", memory_bytes=2)
    box.facts["fallen"] = {"a": Fallen(box.now + 9, "its process went down")}
    box.see()
    asked, decisions = box.ask("a")
    assert decisions == [Reject(asked, "load_failed", 7.0, "its process went down")]


def test_it_takes_nobodys_place() -> None:
    box = used("a", "b", memory_bytes=1)
    box.facts["fallen"] = {"a": DOWN}
    assert box.see("b") == []
    _, decisions = box.ask("a")  # a request may
    assert told(decisions) == ["Unload b x", "Load a x"]


def test_what_went_down_stays_down_where_an_operator_wants_it_gone() -> None:
    box = used("a", memory_bytes=2)
    box.facts["fallen"] = {"a": Fallen(box.now + 5, "why")}
    box.see()
    assert told(box.unload("a")) == ["Unload a x"]
    assert box.core.next_deadline() is None
    box.facts["fallen"] = {}
    assert box.see() == box.core.expire(box.now + 9) == []


def test_what_is_being_started_again_is_not_stopped_meanwhile() -> None:
    box = used("a", memory_bytes=2)
    box.facts["fallen"] = {"a": DOWN}
    assert told(box.see()) == ["Load a x"]
    assert box.unload("a") == []


def test_that_one_went_down_tells_nothing_of_the_memory() -> None:
    box = used("a", memory_bytes=9, may_be_less=True)
    box.ask("b")
    box.load_ends()
    box.facts["fallen"] = {"a": DOWN}
    assert told(box.see("b")) == ["Load a x"]


def test_what_nobody_uses_for_long_goes() -> None:
    box = used("a", memory_bytes=1, idle_ttls_s={"a": 5.0})
    since = box.now
    while not (decisions := box.see("a")):
        pass
    assert (decisions, box.now - since) == ([Unload("x", "a")], 5.0)


def test_what_runs_stays_and_is_idle_from_its_end_on() -> None:
    box = Box("a", memory_bytes=1, idle_ttls_s={"a": 3.0})
    run, _ = box.ask("a")
    assert not any(box.see("a") for _ in range(9))
    box.finish(run)
    assert [told(box.see("a")) for _ in range(3)] == [[], [], ["Unload a x"]]


def test_a_short_run_is_a_use_too() -> None:
    box = used("a", memory_bytes=1, idle_ttls_s={"a": 3.0})
    box.see("a")
    box.see("a")
    run, _ = box.ask("a")
    box.now -= 0.99
    box.finish(run)
    assert box.see("a") == []


def test_what_somebody_waits_for_stays() -> None:
    core = scheduler(bounds=Bounds(max_concurrent=1))
    known = BackendFacts("x", True, 1, {"a": 1, "b": 1}, idle_ttls_s={"a": 5.0})
    core.observe(known, 0.0)
    for model in "ba":  # only one may run
        core.offer(ticket(model), 1.0)
    assert core.observe(replace(known, seen_at=9.0), 9.0) == []


def test_what_is_going_is_loaded_again_for_who_comes() -> None:
    box = used("a", memory_bytes=1, idle_ttls_s={"a": 1.0})
    box.see("a")
    waits, decisions = box.ask("a")
    assert told(decisions) == ["Load a x"]
    assert box.core.loaded("x", "a", box.now) == [Admit(waits, "x")]


def test_each_model_may_have_slots_of_its_own() -> None:
    box = Box("a", "b", memory_bytes=2, slots_of={"a": 3})
    started = {model: sum(bool(box.ask(model)[1]) for _ in range(5)) for model in "ab"}
    assert started == {"a": 3, "b": 2}
    assert [box.core.slots(model, "x") for model in "ab"] == [3, 2]


def test_slots_that_are_not_known_yet_are_those_of_the_backend() -> None:
    core = scheduler(facts("x", slots=4))
    core.offer(ticket("m"), 0.0)
    assert core.slots("m", "x") == 4


def grown(makes_room: bool, **sizes: int) -> Box:
    """Three models, the later the larger than was thought; the first is worth more than the second."""
    box = Box("a", memory_bytes=9, makes_room=makes_room)
    for loaded in ("ab", "abc"):
        box.see(*loaded)
    for model in "aab":
        run, _ = box.ask(model)
        box.finish(run)
    box.facts["loaded"] = sizes
    return box


def test_where_one_is_larger_than_was_thought_the_least_worth_goes() -> None:
    assert told(grown(makes_room=False, a=3, b=3, c=4).see()) == ["Unload b x"]
    assert told(grown(makes_room=False, a=3, b=3, c=7).see()) == ["Unload b x", "Unload a x"]
    assert grown(makes_room=False, a=3, b=3, c=3).see() == grown(makes_room=True, a=3, b=3, c=4).see() == []


def test_the_last_to_come_goes_if_no_other_can() -> None:
    core = scheduler(a=ModelBounds(pinned=True), b=ModelBounds(pinned=True))
    known = BackendFacts("x", True, 2, {"a": 1, "b": 1}, memory_bytes=4, makes_room=False, names={"a": "a", "b": "b"})
    core.observe(known, 1.0)
    assert told(core.observe(replace(known, loaded={"a": 1, "b": 1, "c": 3}, seen_at=2.0), 2.0)) == ["Unload c x"]


def test_what_is_going_already_is_counted_no_more() -> None:
    box = grown(makes_room=False, a=3, b=3, c=4)
    for _ in range(2):
        box.ask("a")
    run, _ = box.ask("b")
    assert [box.see() for _ in range(3)] == [[], [], []]
    assert told(box.finish(run)) == ["Unload b x"]
