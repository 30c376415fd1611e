"""A server that is a process of ours: started in a group of its own, listened to, and ended with all of that group.

None is left behind, whatever ends us. `/bin/sh` starts each (its words are handed on as they are, no shell reads them),
and leaves a watcher in its group: it waits for the end of a pipe that only we hold open, which not even `kill -9` of us
keeps the kernel from closing, and then kills the group. What makes itself a group or a session of its own gets away.
"""

import asyncio
import contextlib
import logging
import os
import re
import signal
import socket
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from typing import cast

log = logging.getLogger(__name__)

_START = 'exec 3<&0 </dev/null; (trap "" HUP INT TERM; read _ <&3; kill -KILL 0) & exec 3<&-; exec "$@"'

# How long it takes at most for what is killed to be gone: a driver gives up its GPU's memory.
_KILL_S = 3.0

# So long after their last pipe was closed processes have ended.
_BURY_S = 0.1

# Of what it says the last lines are kept, and only so much of a line.
KEPT_LINES = 100
_LINE_BYTES = 1000
_control = re.compile(r"[\x00-\x1f\x7f-\x9f]+").sub

# Ours, and no business of what we start: keys, and what the service manager has told us.
_SECRETS = re.compile(
    r"HERMES_.*|API_KEYS_JSON(_FILE)?|.*_API_KEY|CREDENTIALS_DIRECTORY|NOTIFY_SOCKET|WATCHDOG_.*"
).fullmatch


def environment(own: Mapping[str, str], said: Mapping[str, str]) -> dict[str, str]:
    """Of our own all but what is ours alone, and what is said."""
    return {name: value for name, value in own.items() if not _SECRETS(name)} | dict(said)


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Process(asyncio.SubprocessProtocol):
    """`gone` is done when the last of its group has let go of its output, and so of its memory, which the kernel takes
    first; for a moment more they may be listed. `status` tells how it ended, from then on.
    """

    def __init__(self, name: str) -> None:
        self.pid = 0
        self.status = ""
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._name = name
        self._begun = b""  # a line
        self._last_call: asyncio.TimerHandle | None = None

    @classmethod
    async def start(
        cls, name: str, words: Sequence[str], environ: Mapping[str, str], cpus: Collection[int] = ()
    ) -> "Process":
        """`cpus`: where it may run, wherever we stay. Raises OSError; that there is no such program its end tells."""
        _, process = await asyncio.get_running_loop().subprocess_exec(
            lambda: cls(name),
            *("/bin/sh", "-c", _START, "hermes", *words),
            stderr=asyncio.subprocess.STDOUT,
            env=dict(environ),
            start_new_session=True,
        )
        if cpus:
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(process.pid, cpus)
        return process

    async def stop(self, grace_s: float) -> None:
        """End it, by force after `grace_s`, and wait until it is gone. One that cannot be killed is left alone."""
        for number, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 2 * _KILL_S)):
            self._signal(number)
            if (await asyncio.wait((self.gone,), timeout=patience_s))[0]:
                return
        log.warning("%s: process %d has been killed, and is still there", self._name, self.pid)
        self._transport.close()  # uvloop's end waits for it

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        """To the whole group. The watcher is in it until the end, so that its number is nobody else's."""
        if not self.status:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    # --- what the loop calls ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.SubprocessTransport, transport)
        self.pid = self._transport.get_pid() or 0

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        *lines, self._begun = (self._begun + data).split(b"\n")
        for line in lines:
            self._say(line)
        if len(self._begun) > _LINE_BYTES:
            self._say(self._begun)
            self._begun = b""

    def process_exited(self) -> None:
        """By its watcher what it has left behind goes too, and then its output is over; what gets away is let go."""
        number = self._transport.get_returncode() or 0
        self.status = f"exit status {number}" if number >= 0 else f"signal {-number}: {signal.strsignal(-number)}"
        if (lifeline := self._transport.get_pipe_transport(0)) is not None:
            lifeline.close()
        self._last_call = asyncio.get_running_loop().call_later(_KILL_S, self._transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._last_call is not None:
            self._last_call.cancel()
        asyncio.get_running_loop().call_later(_BURY_S, self._bury)
        if self._begun:
            self._say(self._begun)
        if not self.gone.done():
            self.gone.set_result(None)

    def _bury(self) -> None:
        """As the first process of a container we are parent to all that lost theirs."""
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-self.pid, os.WNOHANG)[0]:
                pass

    def _say(self, line: bytes) -> None:
        said = _control(" ", line[:_LINE_BYTES].decode("utf-8", "replace")).rstrip()
        self.lines.append(said)
        log.debug("%s: %s", self._name, said)
