"""What the keys of `hermes top` do: pure, from bytes to keys, and from keys to orders."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes.cli.top.keyboard import Keyboard
from hermes.cli.top.sight import Model, Request, Sight
from hermes.cli.top.view import Order, View
from tests.cli.sights import drawn, sight


def settled(**more: Any) -> tuple[View, Sight]:
    models = tuple(Model(name, "loaded") for name in "abc")
    requests = tuple(Request(name, "a", "normal", "me", True, "") for name in ("r0", "r1", "r2"))
    view, seen = View(**more), sight(models=models, requests=requests)
    view.settle(seen)
    return view, seen


def test_keys_choose_rows_and_panes_and_stop_at_both_ends() -> None:
    view, seen = settled()
    for pressed, pane, chosen in (
        ("down", "models", "b"),
        ("tab", "requests", "r0"),
        ("down", "requests", "r1"),
        ("G", "requests", "r2"),
        ("j", "requests", "r2"),
        ("tab", "models", "b"),
        ("pagedown", "models", "c"),
        ("k", "models", "b"),
        ("home", "models", "a"),
        ("up", "models", "a"),
        ("left", "requests", "r2"),
    ):
        assert view.press(pressed, seen) is None
        assert (view.pane, view.chosen[view.pane]) == (pane, chosen), pressed


def test_who_is_chosen_is_followed_and_who_takes_his_place_when_he_is_gone() -> None:
    view, seen = settled(chosen={"requests": "r1"})
    older = (Request("new", "a", "normal", "me", True, ""), *seen.requests)
    view.settle(sight(requests=older))
    assert (view.chosen["requests"], view.at["requests"]) == ("r1", 2)
    view.settle(sight(requests=(*older[:2], older[3])))
    assert view.chosen["requests"] == "r2"
    view.settle(sight(requests=()))
    assert "requests" not in view.chosen


def test_of_several_requests_with_one_id_the_chosen_one_is_meant() -> None:
    requests = tuple(Request("same", "a", "normal", "me", True, "", handle) for handle in ("h0", "h1", "h2"))
    view, seen = View(pane="requests"), sight(requests=requests)
    view.settle(seen)
    view.press("down", seen)
    view.settle(sight(requests=requests))
    assert view.at["requests"] == 1 and view.press("c", seen) is None
    assert (order := view.press("y", seen)) is not None and (order.name, order.key) == ("same", "h1")


def test_the_question_whether_to_cancel_fits_80_columns() -> None:
    requests = (Request("3f6c0a9d1b52e87f4a0c10000042", "llama3.2:latest", "normal", "anonymous", True, "", "h0"),)
    view, seen = View(pane="requests"), sight(requests=requests)
    view.settle(seen)
    view.press("c", seen)
    asked = "cancel …10000042 of anonymous for llama3.2:latest? y: yes, any other key: no"
    assert drawn(seen, view)[-1].rstrip() == asked


@pytest.mark.parametrize(
    ("pane", "pressed", "verb", "name"), [("requests", "c", "cancel", "r0 of me for a"), ("models", "u", "unload", "a")]
)
def test_what_takes_something_away_is_asked_for_twice(pane: Any, pressed: str, verb: Any, name: str) -> None:
    view, seen = settled(pane=pane)
    assert view.press(pressed, seen) is None
    assert f"{verb} {name}? y: yes, any other key: no" in drawn(seen, view)[-1]
    assert view.press("q", seen) is None  # any other key
    assert view.press("y", seen) is None  # nothing is asked any more
    view.press(pressed, seen)
    order = view.press("y", seen)
    assert order is not None and (order.verb, str(order)) == (verb, f"{verb} {name}")


def test_a_question_is_about_what_was_chosen_when_it_was_asked() -> None:
    view, seen = settled(pane="requests")
    view.press("c", seen)
    view.settle(sight(requests=seen.requests[1:]))
    order = view.press("y", seen)
    assert order is not None and order.name == "r0"


def test_loading_needs_no_question_and_nothing_is_done_in_the_wrong_pane() -> None:
    view, seen = settled()
    assert view.press("l", seen) == Order("load", "a")
    assert view.press("c", seen) is None and "choose one of the requests first" in drawn(seen, view)[-1]
    assert view.press("?", seen) is None and "after a question" in "".join(drawn(seen, view))
    assert view.press("q", seen) == Order("quit")


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_keys_are_the_same_in_whatever_pieces_they_come(size: int) -> None:
    typed = b"j\x1b[A\x1bOB\t\x1b[5~\x1b[1;5Cq\xc3\xa9\x1b[Z\x1bx?"
    keyboard, keys = Keyboard(), []
    for at in range(0, len(typed), size):
        keys += keyboard.feed(typed[at : at + size])
    assert keys == ["j", "up", "down", "tab", "pageup", "q", "tab", "escape", "x", "?"]


def test_escape_is_a_key_once_no_other_byte_has_come() -> None:
    keyboard = Keyboard()
    assert keyboard.feed(b"j\x1b") == ["j"] and keyboard.begun
    assert keyboard.alone() == ["escape"] and not keyboard.begun
    assert keyboard.feed(b"\x1b[") == [] and not keyboard.begun
    assert keyboard.feed(b"A") == ["up"]


@given(st.lists(st.binary(max_size=12)))
def test_no_bytes_break_the_keyboard(pieces: list[bytes]) -> None:
    keyboard = Keyboard()
    assert all(isinstance(name, str) for piece in pieces for name in keyboard.feed(piece))
