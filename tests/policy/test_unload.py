"""An operator wants a model gone: nothing starts on it any more, what runs ends, then it goes; once."""

from hermes.policy.ticket import Admit, BackendFacts, Load, Unload
from tests.policy.box import Box


def test_an_idle_model_goes_at_once_and_once() -> None:
    box = Box("a", memory_bytes=1)
    assert box.unload("a") == [Unload("x", "a")]
    assert (box.unload("a"), box.core.where("a")) == ([], {})


def test_what_is_not_loaded_is_not_unloaded() -> None:
    assert Box("a", memory_bytes=1).unload("b") == Box(memory_bytes=1).unload("a") == []


def test_a_busy_model_goes_when_its_last_run_has_ended() -> None:
    box = Box("a", memory_bytes=1)
    runs, _ = box.ask("a")
    assert box.unload("a") == []
    assert box.finish(runs) == [Unload("x", "a")]


def test_nothing_starts_on_it_meanwhile_and_who_waits_has_it_loaded_again() -> None:
    box = Box("a", memory_bytes=1)
    runs, _ = box.ask("a")
    box.unload("a")
    waits, decisions = box.ask("a")
    assert decisions == []
    assert box.finish(runs) == [Unload("x", "a"), Load("x", "a")]
    assert box.core.loaded("x", "a", box.now) == [Admit(waits, "x")]


def test_what_was_to_go_for_another_is_unloaded_once() -> None:
    box = Box("a", memory_bytes=1)
    runs, _ = box.ask("a")
    for _ in range(9):  # enough to be worth the swap
        box.ask("b")
    box.core.expire(box.now + 5)
    assert [change.model for change in box.core.changes()] == ["b"]
    assert box.unload("a") == []
    assert box.finish(runs) == [Unload("x", "a"), Load("x", "b")]


def test_it_goes_also_where_what_it_was_to_go_for_is_wanted_no_more() -> None:
    box = Box("a", memory_bytes=1)
    runs, _ = box.ask("a")
    others = [box.ask("b")[0] for _ in range(9)]
    box.core.expire(box.now + 5)
    assert [change.model for change in box.core.changes()] == ["b"]
    box.unload("a")
    for ticket in others:
        box.core.cancel(ticket, box.now)
    waits, _ = box.ask("a")
    assert waits.backend == ""
    assert box.finish(runs)[0] == Unload("x", "a")


def test_a_look_from_before_does_not_bring_it_back() -> None:
    box = Box("a", memory_bytes=1)
    facts = BackendFacts("x", True, 1, {"a": 1}, {"a": 1}, 1, box.now)
    box.unload("a")
    box.core.observe(facts, box.now)
    assert box.core.where("a") == {}


def test_while_it_ends_what_it_runs_no_timer_fires_for_who_waits() -> None:
    box = Box("a", memory_bytes=1)
    box.ask("a")
    box.ask("a")
    waiting, _ = box.ask("a")
    box.unload("a")
    assert box.core.next_deadline() == waiting.deadline
