"""The new process is late, or the old one dies: who goes on is settled by what the old one says last (`handover`)."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from hermes.errors import ConfigError
from hermes.handover.channel import Channel, Greeting, Message, Off, State, Yours
from hermes.handover.taking import Taking
from hermes.listeners import Listeners
from tests.fakes.gateway import scenario
from tests.http.peers import serving

STATE = State([], [], [], b"")


@asynccontextmanager
async def begun() -> AsyncIterator[tuple[Channel, Taking]]:
    """What the old process has of it, and the new one."""
    ours, theirs = socket.socketpair()
    heard: list[Message] = []
    old = await Channel.on(ours, heard.append)
    old.tell(Greeting("1", {}, [], None, ""))
    taking = await Taking.meet(theirs.detach())
    try:
        yield old, taking
    finally:
        for end in (old, taking._channel):
            end.close()
            await end.ended.wait()


@pytest.mark.parametrize("passed", [False, True], ids=["before it is passed anything", "with all that it was passed"])
@scenario
async def test_one_that_is_late_ends(passed: bool) -> None:
    async with begun() as (old, taking):
        for message in (STATE, Off()) if passed else (Off(),):
            old.tell(message)
        old.close()
        with pytest.raises(ConfigError, match="goes on itself"):
            await taking.state()


@scenario
async def test_one_that_takes_it_late_ends() -> None:
    async with begun() as (old, taking):
        old.tell(STATE)
        assert await taking.state() == STATE
        old.tell(Off())
        old.close()
        with pytest.raises(ConfigError, match="goes on itself"):
            await taking.settled()


@pytest.mark.parametrize("last", [None, Yours()], ids=["who died", "who heard it in time"])
@scenario
async def test_one_goes_on_in_the_place_of_who_did_not_say_no(last: Yours | None) -> None:
    async with begun() as (old, taking):
        old.tell(STATE)
        assert await taking.state() == STATE
        if last is None:
            old.close()
        else:
            old.tell(last)
        await taking.settled()


@scenario
async def test_one_goes_on_with_nothing_in_the_place_of_who_died_before_it_passed_anything_on() -> None:
    async with begun() as (old, taking):
        old.close()
        assert await taking.state() is None


@scenario
async def test_all_can_be_said_before_the_new_one_looks() -> None:
    ours, theirs = socket.socketpair()
    old = await Channel.on(ours, lambda message: None)
    for message in (Greeting("1", {}, [], None, ""), Off()):
        old.tell(message)
    old.close()
    await old.ended.wait()
    with pytest.raises(ConfigError, match="goes on itself"):
        taking = await Taking.meet(theirs.detach())
        try:
            await taking.state()
        finally:
            await taking._channel.ended.wait()


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
