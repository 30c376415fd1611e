"""A verb and what is around it: streams that are closed or full, and what variables hold."""

import os
import subprocess
import sys

import pytest

from tests.cli.verbs import Run, ask
from tests.fakes.backend import ollama
from tests.fakes.gateway import hermes, key, scenario
from tests.fakes.process import SOURCES


def shell(line: str) -> "subprocess.CompletedProcess[str]":
    environ = {**os.environ, **SOURCES, "HERMES_URL": "http://[::1]:1"}
    return subprocess.run(f"{sys.executable} {line}", shell=True, capture_output=True, text=True, env=environ)


@pytest.mark.parametrize(
    ("redirected", "code", "said"),
    [
        ("version >&-", 0, ""),
        ("version <&- 2>&-", 0, ""),
        ("models >&-", 3, "no Hermes answers"),
        ("ask gemma <&-", 3, "no Hermes answers"),
        ("version >/dev/full", 1, "hermes: cannot write the answer: No space left on device\n"),
        ("--help >/dev/full", 1, "hermes: cannot write the answer: No space left on device\n"),
    ],
)
def test_a_stream_that_is_closed_or_full_ends_in_no_traceback(redirected: str, code: int, said: str) -> None:
    done = shell(f"-m hermes {redirected}")
    assert (done.returncode, "Traceback" in done.stderr) == (code, False)
    assert said in done.stderr


def test_no_socket_is_taken_for_a_stream_that_was_closed() -> None:
    """What is opened first gets the lowest number, and what is printed later would go there."""
    code = "import os; from hermes.cli import _open_what_is_closed as o; o(); print(os.open('.', 0))"
    assert shell(f'-c "{code}" <&- 2>&-').stdout == "3\n"


@pytest.mark.parametrize("key", ["sk-canary\nx", "sk-canary\u20ac"])
def test_a_key_that_is_none_is_not_told(verb: Run, key: str) -> None:
    """I17: what makes the request would quote it."""
    done = verb("status", HERMES_API_KEY=key)
    assert done.exit_code == 2 and "HERMES_API_KEY is no key" in done.stderr
    assert "canary" not in done.output


@scenario
async def test_a_key_may_end_in_a_newline_as_files_do(verb: Run) -> None:
    async with ollama() as backend, hermes(backend, keys=[key("ann")]) as gateway:
        assert (await ask(verb, gateway, "models", HERMES_API_KEY="sk-ann\n")).exit_code == 0


@scenario
async def test_that_nothing_is_logged_is_told(verb: Run) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        assert (await ask(verb, gateway, "logs")).stderr == "hermes: no request is over yet\n"
        assert "is like that" in (await ask(verb, gateway, "logs", "--outcome", "nonsense")).stderr
        assert (await ask(verb, gateway, "logs", "-n", "0")).output == ""
