"""A process of ours: what is kept of what it says, how its end is told, and that all of its group goes with it."""

import asyncio
import ctypes
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from hermes import machine
from hermes.fleet import memory
from hermes.fleet import process as module
from hermes.fleet.process import KEPT_LINES, Process, environment, free_port
from tests.fakes.gateway import scenario
from tests.support import until

GRACE_S = 2.0


@asynccontextmanager
async def shell(script: str) -> AsyncIterator[Process]:
    process = await Process.start("a", ("/bin/sh", "-c", script), os.environ)
    try:
        yield process
    finally:
        process._transport.close()  # uvloop waits for what is open


@scenario
async def test_its_last_lines_are_kept_from_either_stream() -> None:
    async with shell(f"echo first; seq {KEPT_LINES}; echo last >&2; printf unended") as process:
        await process.gone
        lines = [str(number) for number in range(3, KEPT_LINES + 1)]
        assert [*process.lines] == [*lines, "last", "unended"] and process.status == "exit status 0"


@scenario
async def test_a_long_line_is_cut_and_what_moves_a_cursor_is_dropped() -> None:
    async with shell(r"""head -c 3000000 /dev/zero | tr '\0' x; printf '\n\033[2Ja\rb\n'""") as process:
        await process.gone
        assert max(map(len, process.lines)) == 1000 and process.lines[-1] == " [2Ja b"


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("exit 3", "exit status 3"),
        ("kill -9 $$", "signal 9: Killed"),
        ("kill -63 $$", "signal 63: Real-time signal 29"),
        ("exec nothing-like-it", "exit status 127"),
    ],
)
@scenario
async def test_how_it_has_ended_is_told(script: str, status: str) -> None:
    async with shell(script) as process:
        await process.gone
        assert process.status == status


@pytest.mark.parametrize("script", ["sleep 100 & exec sleep 100", "trap '' TERM; sleep 100 & sleep 100; sleep 100"])
@scenario
async def test_stopping_it_ends_its_whole_group_the_stubborn_too(script: str) -> None:
    async with shell(script) as process:
        await asyncio.to_thread(_until_it_has, process.pid, 3)
        await process.stop(0.05)
        assert process.gone.done()
        await _nobody_is_left(process)


@scenario
async def test_what_it_has_left_behind_ends_with_it() -> None:
    async with shell("sleep 100 & exit 0") as process:
        await process.gone
        await _nobody_is_left(process)


@scenario
async def test_it_runs_where_it_may_wherever_we_stay() -> None:
    one = {min(os.sched_getaffinity(0))}
    process = await Process.start("a", ("sleep", "100"), os.environ, one)
    assert os.sched_getaffinity(process.pid) == one
    await process.stop(GRACE_S)


@scenario
async def test_nobody_is_left_unburied_where_we_are_the_first_process() -> None:
    """PR_SET_CHILD_SUBREAPER (prctl(2)) makes us parent of orphans, as that would."""
    prctl = ctypes.CDLL(None).prctl
    prctl(36, 1)
    try:
        async with shell("sleep 100 & exit 0") as process:
            await process.gone
            await until(lambda: not machine.groups({process.pid})[process.pid])
    finally:
        prctl(36, 0)


@scenario
async def test_without_us_even_a_stubborn_one_that_was_asked_to_go_ends_with_its_group() -> None:
    async with shell("trap '' TERM; sleep 100 & sleep 100; sleep 100") as process:
        await asyncio.to_thread(_until_it_has, process.pid, 4)
        os.killpg(process.pid, signal.SIGTERM)
        lifeline = process._transport.get_pipe_transport(0)
        assert lifeline is not None
        lifeline.close()
        await process.gone
        assert process.status == "signal 9: Killed"
        await _nobody_is_left(process)


@scenario
async def test_stopping_what_is_gone_is_nothing() -> None:
    async with shell("exit 0") as process:
        await process.gone
        await process.stop(GRACE_S)
        assert process.status == "exit status 0"


@scenario
async def test_what_gets_away_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_KILL_S", 0.05)
    async with shell("setsid sleep 100 & echo $!; exec sleep 0.02") as process:
        await process.gone
        away = int(process.lines[0])
        assert process.status == "exit status 0"
        os.kill(away, signal.SIGKILL)  # it is still there


async def _nobody_is_left(process: Process) -> None:
    """The kernel closes the files of what ends somewhat before it is listed as dead."""
    await until(lambda: not _members(process.pid))


def _members(group: int) -> int:
    """The living: nobody may be there to bury the dead."""
    states = {pid: Path(f"/proc/{pid}/stat") for pid in machine.groups({group})[group]}
    return sum(path.exists() and path.read_text().rpartition(")")[2].split()[0] != "Z" for path in states.values())


def _until_it_has(group: int, count: int) -> None:
    while _members(group) < count:
        pass


def test_the_environment_is_ours_without_our_secrets_and_what_is_said() -> None:
    own = {"HERMES_KEYS": "k", "API_KEYS_JSON": "k", "PATH": "/bin", "LANG": "C", "MY_HERMES_HOME": "h"}
    own |= dict.fromkeys(("API_KEYS_JSON_FILE", "OPENAI_API_KEY", "CREDENTIALS_DIRECTORY"), "k")
    own |= dict.fromkeys(("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"), "1")
    assert environment(own, {"LANG": "de"}) == {"PATH": "/bin", "LANG": "de", "MY_HERMES_HOME": "h"}


def test_a_free_port_is_another_each_time() -> None:
    assert 0 < free_port() < 65536


def test_what_a_group_takes_is_seen() -> None:
    found = machine.groups({os.getpgrp()})[os.getpgrp()]
    assert found[os.getpid()] > 1 << 20
    assert machine.groups({2**22 + 1}) == {2**22 + 1: {}}


def test_the_size_of_a_model_is_that_of_all_its_parts(tmp_path: Path) -> None:
    for name in ("a-00001-of-00002.gguf", "a-00002-of-00002.gguf", "b.gguf", "a-00001-of-00003.gguf"):
        (tmp_path / name).write_bytes(b"12345")
    assert memory.of_files([str(tmp_path / "a-00001-of-00002.gguf"), str(tmp_path / "b.gguf"), "not-there"]) == 15


@scenario
async def test_what_processes_take_of_gpus_is_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def tell(*command: str) -> str:
        return "12, 100\n13, [N/A]\n12, 20\n"

    monkeypatch.setattr(memory, "_run", tell)
    assert await memory.of_processes() == {12: 120 << 20}
