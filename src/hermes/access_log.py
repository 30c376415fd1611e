"""The access log: records as JSON lines, written in groups by a thread, so a stalled pipe never stalls the event loop.

What waits for the thread is bounded; past that, lines are dropped and counted (invariant I4).
"""

import asyncio
import os
import threading
from collections import deque

import msgspec
from msgspec import Struct

from hermes.metrics import Metrics

MAX_WAITING_LINES = 10_000
GROUP_S = 0.2


class AccessLog:
    """A sink of records. `close` writes what is left."""

    def __init__(self, fd: int, loop: asyncio.AbstractEventLoop, metrics: Metrics) -> None:
        self._fd = fd
        self._loop = loop
        self._metrics = metrics
        self._encode = msgspec.json.Encoder().encode
        self._lines: list[bytes] = []
        self._groups: deque[bytes] = deque()
        self._handed_over = 0  # lines; written by the loop alone
        self._written = 0  # lines; written by the thread alone
        self._wake = threading.Semaphore(0)
        self._timer: asyncio.TimerHandle | None = None
        self._thread = threading.Thread(target=self._write_groups, name="access-log", daemon=True)
        self._thread.start()

    def __call__(self, record: Struct) -> None:
        if len(self._lines) + self._handed_over - self._written >= MAX_WAITING_LINES:
            self._metrics.log_dropped.add(())
            return
        self._lines.append(self._encode(record))
        if self._timer is None:
            self._timer = self._loop.call_later(GROUP_S, self._hand_over)

    def close(self, timeout_s: float = 2.0) -> None:
        """Write what is left."""
        if self._timer is not None:
            self._timer.cancel()
        self._hand_over()
        self._groups.append(b"")
        self._wake.release()
        self._thread.join(timeout_s)

    def _hand_over(self) -> None:
        self._timer = None
        if not self._lines:
            return
        self._lines.append(b"")
        self._handed_over += len(self._lines) - 1
        self._groups.append(b"\n".join(self._lines))
        self._lines = []
        self._wake.release()

    def _write_groups(self) -> None:
        while True:
            self._wake.acquire()
            group = self._groups.popleft()
            if not group:
                return
            lines = group.count(b"\n")
            try:
                while group:
                    group = group[os.write(self._fd, group) :]
            except OSError:
                self._metrics.log_dropped.add((), lines)
            self._written += lines
