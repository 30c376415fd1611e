"""What bounds a backend's memory besides bytes: how many models, and what was only thought to be there."""

import pytest
from msgspec.structs import replace

from hermes.policy.site import Site
from hermes.policy.station import Station, Stay
from hermes.policy.swap import sets_of_victims
from hermes.policy.ticket import BackendFacts, Load, Unload
from tests.policy.box import Box, facts, scheduler, ticket, told


def site(max_loaded: int | None, memory_bytes: int | None, *names: str, pinned: str = "") -> Site:
    """With these models of one byte each in its memory."""
    made = Site(BackendFacts("x", True, 2, {}, {}, memory_bytes, max_loaded=max_loaded))
    for name in names:
        station = Station(name)
        station.pinned = name in pinned
        made.stays[name] = station.stays["x"] = Stay(station, made.facts, 0.0, 1)
    return made


def wanted(size_bytes: int = 1) -> Station:
    station = Station("new")
    station.size_bytes = size_bytes
    return station


def going(box: Site, new: Station) -> list[tuple[Stay, ...]]:
    return list(sets_of_victims(box, *box.lacks(new), list(box.stays.values())))


@pytest.mark.parametrize(
    ("max_loaded", "victims"),
    [(None, [""]), (4, [""]), (3, ["a", "b", "c"]), (2, ["ab", "ac", "bc"]), (1, ["abc"])],
)
def test_models_are_counted_too(max_loaded: int | None, victims: list[str]) -> None:
    found = going(site(max_loaded, None, "a", "b", "c"), wanted())
    assert ["".join(stay.station.name for stay in some) for some in found] == victims


def test_as_many_go_as_count_and_bytes_ask_for() -> None:
    found = going(site(3, 4, "a", "b", "c"), wanted(3))
    assert ["".join(stay.station.name for stay in some) for some in found] == ["ab", "ac", "bc"]


def test_where_pinned_models_take_all_places_there_is_none() -> None:
    box = site(2, None, "a", "b", pinned="ab")
    assert not box.can_hold(wanted())
    assert going(box, wanted()) == []
    assert site(2, None, "a", "b", pinned="a").can_hold(wanted())


def partly_free(memory_bytes: int, of_free: float, pinned: str = "", **sizes: int) -> Site:
    box = site(None, memory_bytes, *sizes, pinned=pinned)
    box.facts = replace(box.facts, of_free=of_free)
    for name, size_bytes in sizes.items():
        box.stays[name].size_bytes = size_bytes
    return box


@pytest.mark.parametrize(
    ("size", "victims"),
    [(8, [""]), (9, ["a", "b"]), (12, ["a", "b"]), (13, ["b"]), (16, ["b"]), (17, ["ab"]), (25, ["ab"]), (26, [])],
)
def test_beside_others_a_model_gets_a_part_of_what_they_leave(size: int, victims: list[str]) -> None:
    """Alone it may take all that there is."""
    box = partly_free(25, 0.8, a=5, b=10)
    found = going(box, wanted(size)) if box.can_hold(wanted(size)) else []
    assert ["".join(stay.station.name for stay in some) for some in found] == victims


def test_beside_what_is_pinned_a_model_gets_a_part_of_what_that_leaves() -> None:
    box = partly_free(25, 0.8, pinned="a", a=5, b=10)
    assert not box.can_hold(wanted(17))
    assert [stay.station.name for some in going(box, wanted(16)) for stay in some] == ["b"]


def test_the_last_place_is_taken_from_who_has_it() -> None:
    box = Box(max_loaded=2)
    box.see("a", "b")
    assert [type(each) for each in box.ask("c")[1]] == [Unload, Load]


def test_of_an_upper_bound_it_is_learned_that_there_was_less() -> None:
    """The backend let one go though there should have been room for three."""
    box = Box(memory_bytes=3, may_be_less=True)
    box.see("a", "b")
    box.see("b", "c")
    assert [type(each) for each in box.ask("a")[1]] == [Unload, Load]


def test_what_goes_while_another_is_loaded_has_gone_for_it() -> None:
    """The load takes long, and nothing is listed until it has ended."""
    box = Box(memory_bytes=3, may_be_less=True)
    box.see("a")
    assert told(box.ask("b")[1]) == ["Load b x"]
    box.see()
    box.load_ends()
    assert [type(each) for each in box.ask("a")[1]] == [Unload, Load]


def test_what_has_gone_since_another_was_loaded_has_gone_for_it() -> None:
    box = Box(memory_bytes=3, may_be_less=True)
    box.see("a")
    assert told(box.ask("b")[1]) == ["Load b x"]
    box.load_ends()
    box.see("b")
    assert [type(each) for each in box.ask("a")[1]] == [Unload, Load]


def test_what_expires_tells_nothing_of_the_room() -> None:
    box = Box(memory_bytes=3, may_be_less=True)
    box.see("a", "b")
    box.see("b")
    box.see("b")
    assert told(box.ask("c")[1]) == ["Load c x"]
    box.load_ends()
    assert told(box.ask("a")[1]) == ["Load a x"]


def test_what_the_operator_says_is_not_learned_anew() -> None:
    box = Box(memory_bytes=3)
    box.see("a", "b")
    box.see("b", "c")
    assert told(box.ask("a")[1]) == ["Load a x"]


def test_under_pressure_nothing_is_loaded_beside_what_is_there() -> None:
    box = Box(pressed="no memory")
    box.see("a")
    assert box.ask("b")[1] == []
    box.facts = {}
    assert "Load b x" in told(box.see("a"))


def test_under_pressure_one_may_take_anothers_place() -> None:
    box = Box(pressed="no memory", max_loaded=1)
    box.see("a")
    assert told(box.ask("b")[1]) == ["Unload a x", "Load b x"]


def test_under_pressure_a_model_takes_the_place_of_no_smaller_one() -> None:
    box = partly_free(12, 1.0, a=5, b=6)
    assert going(box, wanted(6)) == [(box.stays["a"],), (box.stays["b"],)]
    box.facts = replace(box.facts, pressed="no memory")
    assert going(box, wanted(6)) == [(box.stays["b"],)]
    assert going(box, wanted(7)) == [(box.stays["a"], box.stays["b"])]
    assert going(box, wanted(12)) == []


def test_why_a_request_waits_tells_that_loads_had_to_wait_for_memory() -> None:
    core = scheduler(replace(facts(), pressed="3 % of memory is free"))
    asked = ticket("m")
    assert told(core.offer(asked, 0.0)) == []
    why = core.explain(asked)
    assert why is not None and why.pressed == {"x": "3 % of memory is free"}
