"""A file that is no YAML, or no TOML, is told by its place and by what was probably meant."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes.config.files import read_tree
from hermes.errors import ConfigError


def told(folder: Path, name: str, text: str) -> list[str]:
    path = folder / name
    path.write_bytes(text.encode())
    with pytest.raises(ConfigError) as refused:
        read_tree(path)
    return str(refused.value).removeprefix(f"{path}: ").split("\n")


@pytest.mark.parametrize(
    ("text", "place", "said"),
    [
        ("server:\n\tport: 4000\n", (2, 1), "a tab stands here; YAML is indented by spaces"),
        ("server:\n  port:\t4000\n", (2, 8), "a tab stands here"),
        ("server:\n  port:4000\n  host: a\n", (2, 3), "each key is written `key: value`, with a colon and a space"),
        ("server:\n  host: a\n  port:4000\n", (3, 3), "each key is written `key: value`"),
        ("server:\n  # b: c\n  port = 4000\n\n  # d\n  host: a\n", (3, 3), "each key is written `key: value`"),
        ("server\n  port: 4000\n", (1, 1), "each key is written `key: value`"),
        ("server:\n  port: 4000\n   host: a\n", (3, 4), "indented deeper than the line above; keys that belong"),
        ("backends:\n  - name: a\n     url: b\n", (3, 6), "indented deeper than the line above"),
        ("server:\n   port: 4000\n  host: a\n", (3, 3), "a key that does not line up with those above"),
        ("backends:\n  - name: a\n  url: b\n", (3, 3), "a key that does not line up with those above"),
        ("models:\n  b: 1\n  - a\n", (3, 3), "an item of a list where keys stand"),
        ("  server:\n    port: 1\nbackends: []\n", (3, 1), "this begins further left than the first line"),
        ("server:\n  host: 'abc\n  port: 1\n", (2, 9), "the quote that begins here is never closed"),
        ("server:\n  host: 'it's'\n", (2, 13), "a value is over before this; a quote or a bracket is missing"),
        ("server:\n  allowed_hosts: [a, b\n  port: 1\n", (2, 18), "the bracket that begins here is not closed"),
        ("server: {port: 1\nbackends: []\n", (1, 9), "the bracket that begins here is not closed"),
        ("a: you are: nice\n", (1, 11), "a value with ': ' in it; put it in single quotes"),
        ("a: @b\n", (1, 4), "no value begins with this character; put it in single quotes"),
        ("keys: [*]\n", (1, 9), "a value that begins with *, & or ! has a meaning; put it in single quotes"),
        ('a: "C:\\Users"\n', (1, 9), r"in double quotes \ has a meaning; write \\, or use single quotes"),
        ("port: {{ port }}\n", (1, 8), "no key can be a list or a mapping; if a text such as {{ this }} is meant"),
        ("a: 1\n---\nb: 2\n", (2, 1), "a second document begins here"),
        ("[server]\nport = 4000\n", (2, 1), "what stands above is whole already; [section] is TOML"),
        ("a: |x\n", (1, 5), "behind | and > nothing stands in the same line"),
        ("a: 1\nb: \x00", (2, 4), "a character that no text has"),
        ("a: 1\r\na: 2\r\n", (2, 1), "this key stands here for the second time"),
    ],
)
def test_a_slip_in_yaml_is_told_where_it_is_and_in_plain_words(
    tmp_path: Path, text: str, place: tuple[int, int], said: str
) -> None:
    first, line, caret = told(tmp_path, "hermes.yaml", text)
    assert first.startswith(f"line {place[0]}, column {place[1]}: {said}")
    assert line.strip() and caret.strip() == "^"


@pytest.mark.parametrize(
    ("text", "place", "said"),
    [
        ("server:\n  port: 4000\n", (1, 7), "each key is written `key = value`"),
        ("gemma3:12b = 1\n", (1, 7), 'each key is written `key = value`; a key such as "a:b" needs quotes'),
        ("[server]\nhost = abc\n", (2, 8), "this is no value; texts stand in quotes"),
        ("a = 10s\n", (1, 7), "one value is over before this; texts stand in quotes"),
        ('[server]\nhost = "abc\nport = 1\n', (2, 12), "the quote is not closed in its line"),
        ("a = 'b\n", (1, 7), "the quote is not closed in its line"),
        ("a = [1, 2\nb = 3\n", (2, 1), "a bracket is not closed, or a comma is missing in it"),
        ("[server\nport = 1\n", (1, 8), "the bracket of a [section] is closed in its line"),
        ("[server]\n[server]\n", (2, 8), "this stands here for the second time"),
        ('a = "C:\\Users"\n', (1, 10), r"in double quotes \ has a meaning"),
    ],
)
def test_a_slip_in_toml_is_told_where_it_is_and_in_plain_words(
    tmp_path: Path, text: str, place: tuple[int, int], said: str
) -> None:
    first, line, caret = told(tmp_path, "hermes.toml", text)
    assert first.startswith(f"line {place[0]}, column {place[1]}: {said}")
    assert line.strip() and caret.strip() == "^"


def test_the_caret_stands_under_what_is_wrong_and_a_tab_is_seen(tmp_path: Path) -> None:
    assert told(tmp_path, "hermes.yaml", "server:\n  \tport: 4000\n")[1:] == [r"      \tport: ***", "      ^"]
    assert told(tmp_path, "hermes.yaml", "server:\n  host: a b: c\n")[1:] == [
        "      host: *** ***: ***",
        " " * 19 + "^",
    ]
    long = "a: '" + "x " * 999 + "' b\n"
    assert max(map(len, told(tmp_path, "hermes.yaml", long))) < 140


@given(st.text("ab:-,[]{}'\"#&*!|>%@ \t\n", max_size=30), st.text("ab:-,[]{}'\" \n", max_size=10))
def test_no_line_that_is_shown_has_more_of_it_than_our_own_names(
    tmp_path_factory: pytest.TempPathFactory, before: str, after: str
) -> None:
    """I26"""
    for name in ("a.yaml", "a.toml"):
        path = tmp_path_factory.getbasetemp() / name
        path.write_text(f"{before}sk-canary{after}")
        try:
            read_tree(path)
        except ConfigError as error:
            assert "canary" not in str(error)
