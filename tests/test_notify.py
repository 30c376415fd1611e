"""What the service manager is told, by a socket that stands in for systemd's."""

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from time import monotonic_ns

import pytest

from hermes.notify import Notify
from tests.fakes.backend import DONE, ollama, play
from tests.fakes.gateway import CHAT, chat, scenario
from tests.fakes.process import serve


class Manager:
    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address.replace("@", "\0", 1))
        self.socket.setblocking(False)
        self.address = address

    async def told(self, but: str = "WATCHDOG=1") -> dict[str, str]:
        """The next thing that it is told."""
        while True:
            async with asyncio.timeout(5.0):
                message = (await asyncio.get_running_loop().sock_recv(self.socket, 4096)).decode()
            if message != but:
                return dict(line.split("=", 1) for line in message.splitlines())


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(str(tmp_path / "notify"))
    yield manager
    manager.socket.close()


@scenario
async def test_it_is_told_of_start_reload_and_end(tmp_path: Path, manager: Manager) -> None:
    """I33: the end may take as long as the drain."""
    environ = {"NOTIFY_SOCKET": manager.address, "HERMES_SERVER__DRAIN_TIMEOUT_S": "300"}
    async with ollama() as backend, serve(tmp_path, backend=backend, **environ) as hermes:
        ready = {"READY": "1", "STATUS": f"listens on {hermes.address}"}
        assert await manager.told() == ready
        before_us = monotonic_ns() // 1000
        hermes.signal(signal.SIGHUP)
        told = await manager.told()
        assert told["RELOADING"] == "1" and before_us <= int(told["MONOTONIC_USEC"]) <= monotonic_ns() // 1000
        assert await manager.told() == ready
        free = asyncio.Event()
        backend.default = play("Hel", free, "lo", DONE)
        runs = await hermes.open(CHAT, chat(stream=True))
        await runs.head()
        hermes.signal()
        told = await manager.told()
        assert told["STOPPING"] == "1" and int(told["EXTEND_TIMEOUT_USEC"]) > 300_000_000
        free.set()
        await runs.events()
        runs.peer.close()
        assert (await hermes.end())[0] == 0


@scenario
async def test_a_reload_that_is_refused_is_over_too(tmp_path: Path, manager: Manager) -> None:
    """I34"""
    (tmp_path / "hermes.yaml").write_text("server: {watch_config: false}")
    async with ollama() as backend, serve(tmp_path, backend=backend, NOTIFY_SOCKET=manager.address) as hermes:
        ready = await manager.told()
        (tmp_path / "hermes.yaml").write_text("server: {no: such}")
        hermes.signal(signal.SIGHUP)
        assert "RELOADING" in await manager.told()
        assert await manager.told() == ready


@scenario
async def test_the_watchdog_is_answered_by_the_loop_and_not_while_that_hangs(manager: Manager) -> None:
    """I36: a loop that hangs is restarted."""
    loop = asyncio.get_running_loop()
    notify = Notify({"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "40000", "WATCHDOG_PID": str(os.getpid())})
    began_at = loop.time()
    notify.guard(loop)
    for _ in range(3):
        assert await manager.told(but="") == {"WATCHDOG": "1"}
    assert 0.038 <= loop.time() - began_at < 1.0, "at half the time, by a clock of whole milliseconds"
    notify.close()
    await asyncio.sleep(0.03)
    with pytest.raises(BlockingIOError):
        manager.socket.recv(100)


@scenario
async def test_a_watchdog_of_another_process_is_not_ours(manager: Manager) -> None:
    for environ in ({"WATCHDOG_USEC": "40000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "soon"}, {}):
        Notify({"NOTIFY_SOCKET": manager.address, **environ}).guard(asyncio.get_running_loop())
    with pytest.raises(BlockingIOError):
        manager.socket.recv(100)


def test_an_abstract_socket_is_spoken_to() -> None:
    manager = Manager(f"@hermes-{os.getpid()}")
    Notify({"NOTIFY_SOCKET": manager.address}).ready("up")
    assert manager.socket.recv(100) == b"READY=1\nSTATUS=up"
    manager.socket.close()


def test_nobody_who_listens_is_nobody_who_is_missed(tmp_path: Path) -> None:
    Notify({}).ready("up")
    Notify({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).ready("up")
