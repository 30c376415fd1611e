"""The old process: starts the new one, passes on what it has, and is gone when the last of its connections is."""

import asyncio
import contextlib
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from hermes import __version__
from hermes.errors import RestartFailed, StorageError
from hermes.handover import VARIABLE
from hermes.handover.channel import (
    Admitted,
    Channel,
    Greeting,
    Message,
    Off,
    Ready,
    Refused,
    Revoked,
    State,
    Taken,
    Yours,
)
from hermes.handover.elsewhere import Elsewhere
from hermes.handover.parts import Parts
from hermes.handover.relay import Relay
from hermes.handover.reserved import Passed
from hermes.policy.ticket import Phase

log = logging.getLogger(__name__)

# From the start of the new one until it is ready, and from what it is passed until it has taken it.
START_S = 60.0
TAKE_S = 10.0
# And until it has ended, once it has broken off.
END_S = 5.0
VERSION = f"{__version__} {sys.version}"

# Of service managers, and of this process alone.
_NOT_INHERITED = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_PID")


class Leaving:
    """`pid` is that of who goes on, once that is settled and `gone` set. `why_not`: why nothing can be passed on."""

    def __init__(
        self,
        parts: Parts,
        why_not: Callable[[], str],
        gone: asyncio.Event,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.pid = 0
        self._gone = gone
        self._why_not = why_not
        self._parts = parts
        self._loop = loop
        self._under_way: asyncio.Task[int] | None = None
        self._channel: Channel | None = None
        self._elsewhere: Elsewhere | None = None
        self._ready = self._taken = asyncio.Event()

    async def __call__(self) -> int:
        """Have another process of the same command go on, whether who asks for it waits or not. Returns its pid.

        Raises RestartFailed; then everything is as it was.
        """
        if self._under_way is not None or self.pid:
            raise RestartFailed("a restart is under way")
        if why := self._why_not():
            raise RestartFailed(why)
        self._under_way = self._loop.create_task(self._go(), name="handover")
        self._under_way.add_done_callback(self._went)
        return await asyncio.shield(self._under_way)

    def _went(self, task: asyncio.Task[int]) -> None:
        self._under_way = None
        if not task.cancelled():
            task.exception()  # whoever still waits is told

    async def _go(self) -> int:
        folder = None
        try:
            folder = Path(tempfile.mkdtemp(prefix="hermes-"))  # for this user alone
            return await self._restart(folder)
        except (OSError, StorageError) as error:
            raise RestartFailed(f"no other process can be started: {error}") from error
        finally:
            if folder is not None and not self.pid:
                shutil.rmtree(folder, ignore_errors=True)

    async def watch(self) -> None:
        """Who waits here waits in vain once the new process is gone too."""
        assert self._channel is not None
        await self._channel.ended.wait()
        log.info("process %d, which went on, is gone", self.pid)
        self._parts.admission.apply(self._parts.admission.scheduler.close())

    async def close(self) -> None:
        if self._under_way is not None:
            self._under_way.cancel()
            await asyncio.wait((self._under_way,))
        if self._channel is not None:
            self._channel.close()

    async def _restart(self, folder: Path) -> int:
        parts = self._parts
        sockets = parts.listeners.sockets()
        places = {place: (fds, str(folder / str(number))) for number, (place, fds) in enumerate(sockets.items())}
        lock = parts.store.lock()
        fds = [fd for each in sockets.values() for fd in each] + ([] if lock is None else [lock])
        self._ready, self._taken = asyncio.Event(), asyncio.Event()
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = start(theirs.fileno(), fds, parts.said)
            except BaseException:
                ours.close()
                raise
        channel = self._channel = await Channel.on(ours, self._hear)
        try:
            channel.tell(Greeting(VERSION, places, parts.listeners.files(), lock, str(parts.store.folder)))
            await self._heard(self._ready, START_S, process)
            if why := self._why_not():  # by now
                raise RestartFailed(why)
            await self._pass_on({place: path for place, (_, path) in places.items()}, process)
        except BaseException:
            channel.tell(Off())
            channel.close()
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            raise
        self.pid = process.pid
        self._gone.set()
        log.info("process %d goes on; this one ends what it has begun", process.pid)
        return process.pid

    async def _heard(self, event: asyncio.Event, within_s: float, process: "subprocess.Popen[bytes]") -> None:
        """Raises RestartFailed where the new one ends before, or is too slow."""
        assert self._channel is not None
        waits = [self._loop.create_task(each.wait(), name="restart") for each in (event, self._channel.ended)]
        try:
            await asyncio.wait(waits, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if event.is_set():
            return
        if not self._channel.ended.is_set():
            raise RestartFailed(f"the new process was not ready within {within_s:g} s")
        try:
            code = await asyncio.to_thread(process.wait, END_S)
        except subprocess.TimeoutExpired:
            raise RestartFailed("the new process has broken off, and does not end") from None
        raise RestartFailed(f"the new process ended with {code} before it was ready; the log says why")

    async def _pass_on(self, paths: dict[str, str], process: "subprocess.Popen[bytes]") -> None:
        """All at once, up to the wait; undone where nobody takes it."""
        parts, admission = self._parts, self._parts.admission
        channel = self._channel
        assert channel is not None
        settled: asyncio.Future[bool] = self._loop.create_future()
        drained = [name for name, backend in parts.fleet.backends.items() if backend.draining]
        elsewhere = self._elsewhere = Elsewhere(admission.scheduler, admission.scheduler.tickets(), channel.tell)
        passed = Passed(parts.meter, parts.journal.asking(), channel.tell)
        parts.listeners.hand_over(lambda place, app: Relay(app, paths[place], settled, parts.deadlines, self._loop))
        channel.tell(State(elsewhere.told(Phase.RUNNING), elsewhere.told(Phase.WAITING), drained, passed.state))
        admission.scheduler = elsewhere
        try:
            await self._heard(self._taken, TAKE_S, process)
        except BaseException:
            self._elsewhere = None
            admission.scheduler, decisions = elsewhere.undo(self._loop.time())
            admission.apply(decisions)
            passed.undo()
            await parts.listeners.take_back()
            settled.set_result(False)
            raise
        parts.listeners.let_go()
        elsewhere.let_go()
        passed.let_go()
        settled.set_result(True)
        channel.tell(Yours())

    def _hear(self, message: Message) -> None:
        match message:
            case Ready():
                self._ready.set()
            case Taken():
                self._taken.set()
            case Admitted() | Refused():
                if self._elsewhere is not None:  # else it has been undone
                    self._parts.admission.apply(self._elsewhere.answered(message))
            case Revoked():
                self._parts.send_away(message.keys)
            case _:
                raise ValueError(f"the new process has no say in this: {message}")


def start(channel: int, fds: Iterable[int], said: dict[str, Any]) -> "subprocess.Popen[bytes]":
    """Another process of the command that this one was started by, with these descriptors.

    `said`: what it is told of its configuration.
    """
    environ = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
    return subprocess.Popen(  # noqa: S603 - what we were started by
        [sys.executable, *sys.orig_argv[1:]],
        env={**environ, VARIABLE: json.dumps((channel, said))},
        pass_fds=(channel, *fds),
    )
