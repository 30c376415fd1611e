"""The old process dies, or is not understood: who goes on is settled by what it has said (`handover`)."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from hermes.errors import ConfigError
from hermes.handover import taking as module
from hermes.handover.channel import Channel, Greeting, Ready, State, Taken, Yours
from hermes.handover.taking import Taking
from hermes.listeners import Listeners
from tests.fakes.gateway import scenario
from tests.http.peers import serving

STATE = State([], [], [], b"")
NOBODY: Any = None


@asynccontextmanager
async def begun(stop: asyncio.Event | None = None) -> AsyncIterator[tuple[socket.socket, Channel, Taking]]:
    """What the old process has of it, and the new one."""
    ours, theirs = socket.socketpair()
    old = Channel(ours)
    old.send(Greeting("1", {}, [], None, ""), 1.0)
    taking = Taking.meet(theirs.detach(), stop or asyncio.Event())
    try:
        yield ours, old, taking
    finally:
        for end in (old, taking._channel):
            end.close()


@pytest.mark.parametrize("said", [b"", b"\0\0\0\1?", b"\0\0"], ids=["nothing", "what is not understood", "a part"])
@scenario
async def test_one_that_is_told_nothing_ends(monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    """I1: the old one is there, and goes on."""
    monkeypatch.setattr(module, "_PATIENCE_S", 0.02)
    async with begun() as (end, _, taking):
        end.sendall(said)
        with pytest.raises(ConfigError, match="is not told"):
            await taking.state()


@scenario
async def test_one_that_is_told_to_stop_before_it_is_ready_takes_nothing() -> None:
    """Else it would take all, and end with it."""
    stop = asyncio.Event()
    async with begun(stop) as (_, old, taking):
        stop.set()
        with pytest.raises(ConfigError, match="told to stop"):
            await taking.state()
        with pytest.raises(TimeoutError):
            old.receive(0.01)


@pytest.mark.parametrize("dies", [True, False], ids=["who died", "who heard it"])
@scenario
async def test_one_that_has_taken_all_goes_on_in_the_place_of(dies: bool) -> None:
    async with begun() as (_, old, taking):
        old.send(STATE, 1.0)
        assert await taking.state() == STATE
        taking.take(STATE, NOBODY, NOBODY)
        assert [old.receive(1.0) for _ in range(2)] == [Ready(), Taken()]
        settled = asyncio.get_running_loop().create_task(taking.settled())
        await asyncio.sleep(0)
        assert not settled.done(), "it may have been too late"
        if dies:
            old.close()
        else:
            old.send(Yours(), 1.0)
        await settled
        assert taking._channel.ended.is_set() == dies


@pytest.mark.parametrize("read", [True, False], ids=["what was said to it was read", "it was not"])
@scenario
async def test_one_goes_on_with_nothing_in_the_place_of_who_died_before_it_passed_anything_on(read: bool) -> None:
    async with begun() as (end, old, taking):
        if read:
            end.shutdown(socket.SHUT_WR)
        else:
            old.close()
        assert await taking.state() is None
        await taking.host()


@scenario
async def test_a_socket_that_was_never_taken_over_is_not_removed(tmp_path: Path) -> None:
    """Another process listens at it."""
    path = str(tmp_path / "hermes.sock")
    for accepts in (True, False):
        with socket.socket(socket.AF_UNIX) as theirs:
            theirs.bind(path)
            theirs.listen()
            async with serving() as served:
                deadlines, loop, limits = served.server._deadlines, served.server.loop, served.server.limits
                listeners = Listeners(limits, None, deadlines, loop, {path: [theirs.dup()]}, [path], waits=True)
                await listeners._listen_unix(served.server, path, None)
                assert not served.server.sockets(), "it accepts nobody yet"
                if accepts:
                    listeners._servers.append(served.server)
                    await listeners.accept()
                await served.server.drain(0.0)
        assert is_there(tmp_path) is not accepts


def is_there(folder: Path) -> bool:
    return (folder / "hermes.sock").exists()
