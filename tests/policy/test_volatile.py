"""What changes with every request is taken out of system texts, and nothing else is."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes.chat import ChatRequest, Image, Message, RichMessage, Text
from hermes.policy.volatile import without

HI = Message("user", "Time: 12\nHi")


def system(
    *said: Message | RichMessage, beginnings: tuple[str, ...] = ("Time:", "Id ")
) -> tuple[Message | RichMessage, ...]:
    return without(ChatRequest("m", (*said, HI)), beginnings).messages[:-1]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Be brief", "Be brief"),
        ("Time: 12:01\nBe brief", "Be brief"),
        ("Be brief\nTime: 12:01", "Be brief\n"),
        ("Be\nTime: 12\n\nId 7\nTime:\nbrief", "Be\n\nbrief"),
        ("Tell the Time: now\n Time: 12\ntime: 12", "Tell the Time: now\n Time: 12\ntime: 12"),
        ("a Time: Time: \nTime: 1\nb", "a Time: Time: \nb"),
    ],
)
def test_lines_that_begin_so_are_taken_out(text: str, kept: str) -> None:
    assert system(Message("system", text)) == (Message("system", kept),)


def test_parts_lose_theirs_too_and_what_was_nothing_else_goes() -> None:
    image = Image("image/png", "AA==")
    parts = RichMessage("system", (Text("Time: 1"), image, Text("a\nId 7\n")))
    assert system(parts, Message("system", "Id 8")) == (RichMessage("system", (image, Text("a\n"))),)


def test_a_request_is_never_left_with_nothing() -> None:
    request = ChatRequest("m", (Message("system", "Time: 1"),))
    assert without(request, ("Time:",)) is request


@given(st.text("ab\n"), st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=2))
def test_a_line_stays_unless_it_begins_so(text: str, beginnings: list[str]) -> None:
    kept = [line for line in re.findall(r"[^\n]*\n|[^\n]+", text) if not line.startswith(tuple(beginnings))]
    (said, *_) = [*system(Message("system", text), beginnings=tuple(beginnings)), Message("system", "")]
    assert said == Message("system", "".join(kept))
