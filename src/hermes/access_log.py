"""The access log: a line for each record, written in groups by a thread, so a stalled pipe never stalls the event loop.

What waits for the thread is bounded; past that, lines are dropped and counted (invariant I4). One record is one line,
whatever happens to the lines around it (I28).
"""

import asyncio
import contextlib
import logging
import os
import select
import threading
from collections import deque
from collections.abc import Callable

from hermes import config as settings
from hermes.errors import ConfigError
from hermes.lines import Lines, are_read, as_json, as_text
from hermes.metrics import Metrics
from hermes.record import Record

log = logging.getLogger(__name__)

MAX_WAITING_LINES = 10_000
GROUP_S = 0.2


class Target:
    """Where the configuration has it: a sink among the others while there is one."""

    def __init__(
        self, sinks: list[Callable[[Record], None]], loop: asyncio.AbstractEventLoop, metrics: Metrics
    ) -> None:
        self._sinks = sinks
        self._loop = loop
        self._metrics = metrics
        self._log: AccessLog | None = None

    def adopt(self, said: settings.Logging) -> None:
        """Raises ConfigError; then it is where it was."""
        target, log = said.access_log, self._log
        if target == "off":
            if log is not None:
                self._sinks.remove(log)
                self._loop.run_in_executor(None, log.close)
                self._log = None
            return
        try:
            fd = 2 if target == "stderr" else os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        except OSError as error:
            raise ConfigError(f"logging.access_log: cannot write {target}: {error}") from error
        lines = as_text if are_read(said.format, os.isatty(fd)) else as_json
        if log is not None:
            log.turn_to(fd, lines)
            return
        self._log = AccessLog(fd, self._loop, self._metrics, lines)
        self._sinks.append(self._log)

    def close(self) -> None:
        if self._log is not None:
            self._log.close()


class AccessLog:
    """A sink of records. `close` writes what is left."""

    def __init__(self, fd: int, loop: asyncio.AbstractEventLoop, metrics: Metrics, lines: Lines = as_json) -> None:
        self._fd = fd
        self._loop = loop
        self._metrics = metrics
        self._lines = lines
        self._records: list[Record] = []
        self._groups: deque[list[Record] | tuple[int, Lines]] = deque()  # or another file
        self._handed_over = 0  # records; written by the loop alone
        self._written = 0  # records; written by the thread alone
        self._torn = False  # the last line written has no end
        self._fails = False  # the last group was not written, as the log says once
        self._wake = threading.Semaphore(0)
        self._timer: asyncio.TimerHandle | None = None
        self._thread = threading.Thread(target=self._write_groups, name="access-log", daemon=True)
        self._thread.start()

    def __call__(self, record: Record) -> None:
        if len(self._records) + self._handed_over - self._written >= MAX_WAITING_LINES:
            self._metrics.log_dropped.add(())
            return
        self._records.append(record)
        if self._timer is None:
            self._timer = self._loop.call_later(GROUP_S, self._hand_over)

    def turn_to(self, fd: int, lines: Lines) -> None:
        """Write there from now on, and so. The last file is closed when all is in it that came before."""
        self._hand_over()
        self._groups.append((fd, lines))
        self._wake.release()

    def close(self, timeout_s: float = 2.0) -> None:
        """Write what is left."""
        if self._timer is not None:
            self._timer.cancel()
        self._hand_over()
        self._groups.append([])
        self._wake.release()
        self._thread.join(timeout_s)

    def _hand_over(self) -> None:
        self._timer = None
        if not self._records:
            return
        self._handed_over += len(self._records)
        self._groups.append(self._records)
        self._records = []
        self._wake.release()

    def _write_groups(self) -> None:
        while True:
            self._wake.acquire()
            group = self._groups.popleft()
            if isinstance(group, tuple):
                if self._fd > 2:
                    with contextlib.suppress(OSError):  # that what was written is not on the disk
                        os.close(self._fd)
                (self._fd, self._lines), self._torn, self._fails = group, False, False
                continue
            if not group:
                return
            self._write(self._lines(group))
            self._written += len(group)

    def _write(self, lines: bytes) -> None:
        """All of them, however long that takes; what cannot be written at all is dropped."""
        done = 0
        try:
            while self._torn:
                self._torn = not self._write_some(b"\n")
            while done < len(lines):
                done += self._write_some(lines[done:])
            self._fails = False
        except OSError as error:
            if self._fd > 2 and not self._fails:  # a standard stream is where the log would say so
                log.warning("the access log cannot be written: %s; its lines are dropped", error.strerror)
            self._fails = True
            self._metrics.log_dropped.add((), lines.count(b"\n", done))
            self._torn = self._torn or (done > 0 and lines[done - 1 : done] != b"\n")

    def _write_some(self, data: bytes) -> int:
        """Returns how many bytes were written. Raises OSError."""
        try:
            return os.write(self._fd, data)
        except BlockingIOError:  # whoever shares the pipe with us may have made it non-blocking
            poll = select.poll()
            poll.register(self._fd, select.POLLOUT)
            poll.poll()
            return 0
