"""A terminal of one's own, and `hermes top` on it."""

import fcntl
import os
import pty
import struct
import subprocess
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fakes.gateway import Hermes
from tests.fakes.process import COMMAND, SOURCES
from tests.support import until


@dataclass
class Terminal:
    """One of 80 by 24 in which `hermes top` runs. `shown` is all that was written to it."""

    process: subprocess.Popen[bytes]
    master: int
    slave: int
    before: list[Any]
    shown: str = ""

    async def shows(self, words: str) -> None:
        """From now on."""
        at = len(self.shown)
        await until(lambda: self._read() and words in self.shown[at:], f"{words!r} was not shown", 10.0)

    def _read(self) -> bool:
        while True:
            try:
                self.shown += os.read(self.master, 65536).decode(errors="replace")
            except BlockingIOError:
                return True

    def press(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    async def ended(self) -> int:
        """With this code, and the terminal as it was."""
        await until(lambda: self._read() and self.process.poll() is not None, "it did not end", 10.0)
        self.is_given_back()
        return self.process.returncode

    async def stopped(self) -> None:
        stat = Path(f"/proc/{self.process.pid}/stat")
        await until(lambda: self._read() and stat.read_text().rpartition(")")[2].split()[0] == "T", "it goes on", 10.0)

    def is_given_back(self) -> None:
        self._read()
        assert termios.tcgetattr(self.slave) == self.before
        assert self.shown.rfind("\x1b[?1049l") > self.shown.rfind("\x1b[?1049h")  # the alternate screen is left
        assert self.shown.rfind("\x1b[?25h") > self.shown.rfind("\x1b[?25l")  # the cursor is there


@asynccontextmanager
async def top(gateway: Hermes, **environ: str) -> AsyncIterator[Terminal]:
    master, slave = pty.openpty()
    os.set_blocking(master, False)
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environ = {**SOURCES, "TERM": "xterm-256color", "HERMES_URL": f"http://127.0.0.1:{gateway.port}", **environ}
    terminal = Terminal(
        subprocess.Popen(  # noqa: ASYNC220 - at once
            [*COMMAND, "top"], stdin=slave, stdout=slave, stderr=slave, env=environ, start_new_session=True
        ),
        master,
        slave,
        termios.tcgetattr(slave),
    )
    try:
        yield terminal
    finally:
        terminal.process.kill()
        terminal.process.wait()
        os.close(master)
        os.close(slave)
