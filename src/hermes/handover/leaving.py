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
from time import monotonic
from typing import Any

from hermes import __version__
from hermes.errors import RestartFailed, StorageError
from hermes.handover import VARIABLE
from hermes.handover.channel import Admitted, Channel, Greeting, Message, Refused, Revoked, State, Taken, Yours
from hermes.handover.elsewhere import Elsewhere
from hermes.handover.parts import Parts
from hermes.handover.relay import Relay
from hermes.handover.reserved import Passed
from hermes.policy.ticket import Phase

log = logging.getLogger(__name__)

# From the start of the new one until it is ready.
START_S = 60.0
# From what it is passed until it has taken that, while all here stands still: some ms (docs/operations.md).
TAKE_S = 2.0
# And until it has ended, once it has broken off, or was killed.
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
        self._folder = ""
        self._channel: Channel | None = None
        self._elsewhere: Elsewhere | None = None

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
        try:
            self._folder = tempfile.mkdtemp(prefix="hermes-")  # for this user alone
            return await self._restart(Path(self._folder))
        except (OSError, StorageError) as error:
            raise RestartFailed(f"no other process can go on: {error}") from error
        finally:
            if not self.pid:
                self._tidy_up()

    def _tidy_up(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    async def watch(self) -> None:
        """Who waits here waits in vain once the new process is gone too."""
        assert self._channel is not None
        await self._channel.ended.wait()
        log.info("process %d, which went on, is gone", self.pid)
        self._parts.admission.apply(self._parts.admission.scheduler.close())
        self._tidy_up()

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
        ours, theirs = socket.socketpair()
        channel = self._channel = Channel(ours)
        try:
            with theirs:
                process = start(theirs.fileno(), fds, parts.said)
            try:
                greeting = Greeting(VERSION, places, parts.listeners.files(), lock, str(parts.store.folder))
                await self._until_ready(channel, greeting)
                self._pass_on(channel, {place: path for place, (_, path) in places.items()})
            except ConnectionError:
                raise RestartFailed(await _how_it_ended(process)) from None
            except BaseException:
                process.kill()  # before it can take the channel's end for ours
                await _end_of(process)
                raise
        except BaseException:
            channel.close()
            raise
        self.pid = process.pid
        self._gone.set()
        log.info("process %d goes on; this one ends what it has begun", process.pid)
        return process.pid

    async def _until_ready(self, channel: Channel, greeting: Greeting) -> None:
        channel.send(greeting, TAKE_S)
        try:
            async with asyncio.timeout(START_S):
                await channel.readable()
        except TimeoutError:
            raise RestartFailed(f"the new process was not ready within {START_S:g} s") from None
        channel.receive(TAKE_S)

    def _pass_on(self, channel: Channel, paths: dict[str, str]) -> None:
        """In one turn of the loop, the new one's word that it has all included: until then nothing is changed, and
        nothing happens of which the scheduler would have to be told where that word does not come.
        """
        if why := self._why_not():  # by now
            raise RestartFailed(why)
        parts, admission, early = self._parts, self._parts.admission, list[Message]()
        drained = [name for name, backend in parts.fleet.backends.items() if backend.draining]
        elsewhere = Elsewhere(admission.scheduler, admission.scheduler.tickets(), channel.tell)
        passed = Passed(parts.meter, parts.journal.asking(), channel.tell)
        running, waiting = elsewhere.told(Phase.RUNNING), elsewhere.told(Phase.WAITING)
        until = monotonic() + TAKE_S  # for all of it, however much the new one says
        try:
            channel.send(State(running, waiting, drained, passed.state), TAKE_S)
            while not isinstance(message := channel.receive(until - monotonic()), Taken):
                early.append(message)
            channel.send(Yours(), until - monotonic())
        except TimeoutError:
            raise RestartFailed(f"the new process has not taken over within {TAKE_S:g} s") from None
        # All is its own now, and nothing here may fail.
        self._elsewhere = admission.scheduler = elsewhere
        passed.let_go()
        parts.listeners.hand_over(lambda place, app: Relay(app, paths[place], parts.deadlines, self._loop))
        channel.listen(self._hear)
        for message in early:
            self._hear(message)

    def _hear(self, message: Message) -> None:
        match message:
            case Admitted() | Refused():
                assert self._elsewhere is not None
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


async def _how_it_ended(process: "subprocess.Popen[bytes]") -> str:
    if (code := await _end_of(process)) is not None:
        return f"the new process ended with {code} before it was ready; the log says why"
    process.kill()
    await _end_of(process)
    return "the new process has broken off, and does not end"


async def _end_of(process: "subprocess.Popen[bytes]") -> int | None:
    """None: it does not end."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        return await asyncio.to_thread(process.wait, END_S)
    return None
