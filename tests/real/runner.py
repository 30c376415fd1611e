"""The process in which an Ollama on this machine runs a model: its child, started with the model's file."""

import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from tests.real.house import MODEL, ollama
from tests.support import until

_PATIENCE_S = 60.0
# Clock ticks of 10 ms: an idle runner needs none.
_WORK = 5


async def until_busy() -> None:
    """Wait until the runner of MODEL has been at work from now on."""
    runners = await _runners()
    idle = _ticks(runners)
    await until(lambda: _ticks(runners) >= idle + _WORK, "the runner does nothing", _PATIENCE_S)


async def kill_runner() -> None:
    """The runner of MODEL dies at once, nothing else does. Skips the test where it is not ours to kill."""
    try:
        for process in await _runners():
            os.kill(int(process.name), signal.SIGKILL)
    except PermissionError:
        pytest.skip("the runner belongs to another user")


@asynccontextmanager
async def frozen_runner() -> AsyncIterator[None]:
    """The runner of MODEL hangs meanwhile, nothing else does. Skips the test where it is not ours to stop."""
    runners = [int(process.name) for process in await _runners()]
    try:
        for number in runners:
            os.kill(number, signal.SIGSTOP)
        yield
    except PermissionError:
        pytest.skip("the runner belongs to another user")
    finally:
        for number in runners:
            with suppress(OSError):
                os.kill(number, signal.SIGCONT)


async def _runners() -> list[Path]:
    runners = _processes_with(await _model_file())
    if not runners:
        pytest.skip("no process on this machine runs the model")
    return runners


async def _model_file() -> str:
    status, shown = await ollama("/api/show", {"model": MODEL})
    assert status == 200
    file = re.search(r"^FROM (/.+)$", shown["modelfile"], re.MULTILINE)
    assert file is not None, f"{MODEL} has no file"
    return file[1]


def _processes_with(argument: str) -> list[Path]:
    return [process for process in Path("/proc").glob("[0-9]*") if argument in _read(process / "cmdline").split("\0")]


def _ticks(processes: list[Path]) -> int:
    """The processor time that they have taken: fields 14 and 15 of proc(5)'s stat, whose second may hold blanks."""
    stats = [_read(process / "stat").rpartition(")")[2].split() for process in processes]
    return sum(int(stat[11]) + int(stat[12]) for stat in stats if stat)


def _read(file: Path) -> str:
    try:
        return file.read_bytes().decode(errors="replace")
    except OSError:  # the process has ended
        return ""
