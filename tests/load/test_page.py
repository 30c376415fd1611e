"""The report: all in one file, in which nothing runs and nothing is fetched."""

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from hermes.load.figures import Figures, figures
from hermes.load.histogram import Histogram
from hermes.load.page import page
from hermes.load.run import Strain
from hermes.load.svg import plot, ticks
from hermes.load.table import amount, seconds, table
from hermes.load.tally import Tally
from tests.load.test_tally import BEGAN, over

EVIL = '400 <script>alert("x")</script>'


def filled() -> Figures:
    tally = Tally(BEGAN, 0.0, None, {"e2e": 1.0}, ["<b>ann"])
    for number in range(100):
        over(tally, number / 10, 0.5 + number / 100)
    over(tally, 3.0, 1.0, EVIL)
    setting: dict[str, Any] = {"models": ["gemma", "qwen3"], "url": "http://box/<i>", "api": "openai"}
    setting |= {"arrivals": "poisson", "rate": 10.0}
    return figures(tally, Strain(Histogram()), setting, None, False)


class Balanced(HTMLParser):
    """Tags and attributes, all closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.points = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.points += sum(len((value or "").split()) for name, value in attrs if name == "points")
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_page_needs_nothing_and_runs_nothing_whatever_a_server_says() -> None:
    """What a server said stands in it as text."""
    text = page(filled())
    found = Balanced()
    found.feed(text)
    assert found.open == [] and found.points > 100
    assert not found.tags & {"script", "link", "img", "iframe", "b", "i", "form", "object", "a"}
    assert not {name for name in found.attributes if name.startswith("on") or name in ("src", "href", "style")}
    assert "default-src 'none'" in text and not re.search(r"url\(|@import", text)
    assert "400 &lt;script&gt;" in text and "http://box/&lt;i&gt;" in text


def test_what_is_told_apart_has_one_heading_and_a_question_no_full_stop() -> None:
    tally = Tally(BEGAN, 0.0, None, {"e2e": 1.0}, ["ann", "ben"])
    for tenant in (0, 1):
        over(tally, 1.0, 0.5, tenant=tenant)
    lag = Histogram()
    lag.add(0.5)
    found = figures(tally, Strain(lag), {}, None, False)
    text = page(found)
    assert text.lower().count("by tenant") == 1 and "by tenant" in table(found)
    for told in (text, table(found)):
        assert "core shared?" in told and "?." not in told


def test_a_run_in_which_nothing_happened_has_a_page_and_a_table_too() -> None:
    nothing = figures(Tally(BEGAN, 0.0, None, {}, [""]), Strain(Histogram()), {}, None, False)
    assert "<svg" not in page(nothing)
    assert "0 requests" in table(nothing)


def test_the_table_says_how_it_was_asked_what_came_and_how_good_that_was() -> None:
    lines = table(filled()).splitlines()
    assert lines[0] == "gemma, qwen3 at http://box/<i>, openai"
    assert lines[1] == "open loop: Poisson arrivals, 10/s; times count from when a request was due"
    assert lines[2] == "101 requests in 11.4 s: 100 answered, 0 left, 1 failed"
    assert any(
        line.startswith("goodput: ") and "also where it ended later), 50.5 % of requests (e2e <= 1.00 s)" in line
        for line in lines
    )
    times = next(line for line in lines if line.startswith("end to end"))
    assert re.split("  +", times)[1:] == ["995 ms", "990 ms", "1.39 s", "1.44 s", "1.48 s", "1.49 s", "1.49 s"]
    assert lines[-1].split(maxsplit=1) == ["1", EVIL]


@pytest.mark.parametrize(
    ("value_s", "text"),
    [
        (0.0, "0"),
        (0.0000042, "4.20 us"),
        (0.000999, "999 us"),
        (0.0513, "51.3 ms"),
        (0.9996, "1.00 s"),
        (120.4, "120 s"),
    ],
)
def test_times_are_told_in_three_digits(value_s: float, text: str) -> None:
    assert seconds(value_s) == text


def test_amounts_are_told_in_three_digits_or_whole() -> None:
    assert [amount(value) for value in (0, 0.123, 9.996, 42.0, 12345.6)] == ["0", "0.12", "10.0", "42.0", "12,346"]


@pytest.mark.parametrize(
    ("most", "expected"),
    [(0.0, [0, 1]), (1.0, [0, 0.2, 0.4, 0.6, 0.8, 1]), (7.3, [0, 2, 4, 6, 8]), (1200, [0, 500, 1000, 1500])],
)
def test_ticks_are_round_and_reach_over_all(most: float, expected: list[float]) -> None:
    assert ticks(most) == expected


def test_a_plot_stays_within_its_frame() -> None:
    drawn = plot([("a", [(0, 0), (5, 3), (10, 7)]), ("none", [])], "x", amount)
    for points in re.findall(r'class="line c\d" points="([^"]*)"', drawn):
        for x, y in (map(float, point.split(",")) for point in points.split()):
            assert 0 <= x <= 720 and 0 <= y <= 260
    assert "none" not in drawn
