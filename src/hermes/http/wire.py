"""What server and client share of the wire: heads, limits, and the one timer that enforces every deadline."""

import asyncio
import math
import re
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Protocol

from hermes.series import Buckets

Header = tuple[bytes, bytes]

# Bytes a peer may leave unread before the other side's reading pauses (invariant I13).
HIGH_WATER_BYTES = 64 * 1024

_PHRASES = {status.value: status.phrase.encode("ascii") for status in HTTPStatus}
# Every code has a line: 529 and its like are in use and in no registry. A reason may be empty (RFC 9112 4).
STATUS_LINES = {code: b"HTTP/1.1 %d %b\r\n" % (code, _PHRASES.get(code, b"")) for code in range(200, 600)}

_is_token = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch  # RFC 9110 5.6.2
_breaks_line = re.compile(rb"[\r\n\0]").search


def render_headers(headers: Iterable[Header]) -> bytes:
    """Header lines. Raises ValueError for one that could end its line (response splitting, invariant I11)."""
    lines = []
    for name, value in headers:
        if not _is_token(name) or _breaks_line(value):
            raise ValueError(f"header {name!r} is not a token with one line as its value")
        lines.append(b"%b: %b\r\n" % (name, value))
    return b"".join(lines)


def header_tokens(value: bytes) -> Sequence[bytes]:
    """The comma-separated members of a list header, lower-cased (RFC 9110 5.6.1)."""
    return [token.strip().lower() for token in value.split(b",")]


def give_way(transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
    """Read on in the loop's next turn: of a flood, libuv reads up to 32 times, 8 MB, before anyone else's."""
    transport.pause_reading()
    loop.call_soon(transport.resume_reading)


class Watched(Protocol):
    """Something with a deadline, in the loop's seconds; `math.inf` while it has none."""

    deadline: float

    def expire(self, now: float) -> None:
        """The deadline has passed. Moves it, or ends what it guards."""


TICK_S = 0.25


class Deadlines:
    """One coarse timer for any number of deadlines: setting one is an attribute store, not a heap operation.

    It ticks only while something is watched, so an idle process sleeps. A deadline is noticed up to `tick_s` late.
    `lag`: how late the ticks themselves are, each a sample of how long whatever comes to the loop waits for it.
    """

    __slots__ = ("_due_at", "_lag", "_loop", "_tick_s", "_timer", "_watched")

    def __init__(self, loop: asyncio.AbstractEventLoop, tick_s: float = TICK_S, lag: Buckets | None = None) -> None:
        self._loop = loop
        self._tick_s = tick_s
        self._lag = lag
        self._due_at = 0.0
        self._watched: set[Watched] = set()
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, watched: Watched) -> None:
        self._watched.add(watched)
        if self._timer is None:
            self._arm(self._loop.time())

    def unwatch(self, watched: Watched) -> None:
        self._watched.discard(watched)

    def _arm(self, now: float) -> None:
        self._due_at = now + self._tick_s
        self._timer = self._loop.call_later(self._tick_s, self._tick)

    def _tick(self) -> None:
        now, self._timer = self._loop.time(), None
        if self._lag is not None:
            self._lag.observe(max(0.0, now - self._due_at))
        if self._watched:  # the next tick is set first: one that fails must not end all deadlines
            self._arm(now)
        due = [watched for watched in self._watched if watched.deadline <= now]
        for watched in due:
            watched.expire(now)


NEVER = math.inf
