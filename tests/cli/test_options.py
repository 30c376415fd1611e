"""What is shown on a terminal."""

import logging
import sys
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path

import pytest

from hermes.cli.log import _Text
from hermes.cli.options import Failed, called, columns, plain, say


def test_others_words_do_not_drive_the_terminal() -> None:
    """Names, answers and errors come from clients and backends (A4, A6)."""
    hostile = "\x1b]0;owned\x07\x1b[2J\r\x9b31m\u202eevil\ud800"
    shown = plain(f"a\tb\n{hostile}")
    assert shown.startswith("a\tb\n") and shown.endswith("evil\ufffd")
    assert not {"\x1b", "\x07", "\r", "\x9b", "\u202e", "\ud800"} & set(shown)


def test_a_terminal_gets_plain_text_and_a_pipe_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for is_terminal, told in ((True, "a\ufffdb\n"), (False, "a\rb\n")):
        stdout = StringIO()
        monkeypatch.setattr(stdout, "isatty", lambda is_terminal=is_terminal: is_terminal)
        monkeypatch.setattr(sys, "stdout", stdout)
        say("a\rb")
        assert stdout.getvalue() == told


def test_an_error_does_not_drive_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    Failed("it said \x1b[2J", 1).show()
    assert capsys.readouterr().err == "hermes: it said \ufffd[2J\n"


def test_columns_are_as_wide_as_what_is_in_them() -> None:
    assert list(columns([("A", "LONG", ""), ("long", "b", "c")])) == ["A     LONG", "long  b     c"]


def test_a_name_cannot_pretend_to_be_another_line() -> None:
    assert list(columns([("ann\nbob  ok",), ("c",)])) == [r"ann\nbob  ok", "c"]


def test_a_log_that_people_read_does_not_drive_their_terminal() -> None:
    """I28."""
    record = logging.LogRecord("hermes", logging.INFO, "", 0, "backend b0 is down: %s", ("\x1b[2Jgone",), None)
    assert _Text().format(record).endswith(r"backend b0 is down: \x1b[2Jgone")


def test_the_program_is_named_as_it_can_be_called_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, other = tmp_path / "venv", tmp_path / "other"
    for folder in (ours, other):
        folder.mkdir()
        (folder / "hermes").write_text("#!/bin/sh\n")
        (folder / "hermes").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["venv/hermes", "serve"])
    for path, name in ((ours, "hermes"), (other, "venv/hermes"), (tmp_path, "venv/hermes")):
        monkeypatch.setenv("PATH", str(path))
        assert called() == name
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "__main__.py")])
    assert called() == "hermes"


def test_what_the_terminals_characters_have_not_is_told_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    bytes_out = BytesIO()
    monkeypatch.setattr(sys, "stdout", TextIOWrapper(bytes_out, "ascii", write_through=True))
    say("gemma … \ud800")
    assert bytes_out.getvalue() == b"gemma \\u2026 \\ud800\n"
