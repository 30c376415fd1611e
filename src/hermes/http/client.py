"""One connection to a backend, and one exchange at a time on it.

Rules: a connection that has not answered whole is never reused; leaving an exchange early aborts its connection at
once, so the backend sees the client's leaving within milliseconds (invariant I9); a backend is not trusted for bytes:
its heads, bodies and silences are bounded (I15).
"""

import asyncio
from collections.abc import Callable
from typing import Protocol, cast

import httptools
from msgspec import Struct

from hermes.errors import BackendCrashed, BackendError, BackendTimeout
from hermes.http.wire import HIGH_WATER_BYTES, NEVER, give_way


class PoolLimits(Struct, frozen=True):
    """`whole_bytes`: the longest body of an answer that is asked for whole."""

    connections: int = 8192
    idle_connections: int = 256
    idle_s: float = 30.0
    connect_timeout_s: float = 5.0
    head_bytes: int = 64 * 1024
    header_fields: int = 100
    whole_bytes: int = 16 * 1024 * 1024


class StaleConnection(Exception):
    """A pooled connection turned out to be dead before any byte of the answer: safe to ask again on a new one."""


# Of an honest answer each byte of body costs at most eight of framing: as many bytes in all.
_MOST_PER_BYTE = 9

# Takes a piece of a body. Returns until when the next one must come, or ENOUGH to get no more for now.
Take = Callable[[bytes], float]
ENOUGH = 0.0


class Keeper(Protocol):
    """The pool, as its connections see it."""

    limits: PoolLimits
    loop: asyncio.AbstractEventLoop

    def keep(self, connection: "ClientConnection") -> None: ...
    def forget(self, connection: "ClientConnection") -> None: ...


class ClientConnection(asyncio.Protocol):
    __slots__ = (
        "_body",
        "_failure",
        "_fields",
        "_head",
        "_held",
        "_interim",
        "_overhead_bytes",
        "_parser",
        "_pool",
        "_sent",
        "_take",
        "_thrown",
        "_transport",
        "_waiter",
        "_want_whole",
        "body_bytes",
        "complete",
        "deadline",
        "keep_alive",
        "lost",
        "on_body",
        "on_header",
        "reused",
        "status",
        "timed_out",
        "touched",
    )

    def __init__(self, pool: Keeper) -> None:
        self._pool = pool
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._waiter: asyncio.Future[None] | None = None
        self._take: Take | None = None
        self._thrown: BaseException | None = None
        self.lost = False
        self.reused = False
        self.deadline = NEVER
        # The answer. What it is made of, the parser puts down itself.
        self._body: list[bytes] = []
        self._fields: dict[bytes, bytes] = {}  # of the head; then the trailers, which are read by nobody
        self._head: dict[bytes, bytes] = {}
        self.on_body = self._body.append
        self.on_header = self._fields.__setitem__
        self._parser = httptools.HttpResponseParser(self)
        self._failure = ""
        self._held = False
        self._interim = False
        self._overhead_bytes = 0
        self._sent = False
        self._want_whole = False
        self.body_bytes = 0
        self.complete = False
        self.keep_alive = False
        self.status = 0
        self.timed_out = False
        self.touched = False

    # --- the exchange calls -----------------------------------------------------------------------------------------

    def ask(self, request: bytes, want_whole: bool, deadline: float) -> asyncio.Future[None]:
        """Send a request. What comes back is to be awaited; then `answered` tells. Raises what that does.

        No coroutine, and waiting is written out below: one less for every answer.
        """
        if self.lost:
            self._raise_if_over()
        self._sent = True
        self._want_whole = want_whole
        self._transport.write(request)
        self._waiter = waiter = self._pool.loop.create_future()
        self.deadline = deadline
        return waiter

    def answered(self) -> None:
        """The answer's status and headers are here, or all of it.

        Raises BackendError, BackendTimeout or StaleConnection where they are not.
        """
        self._waiter = None
        self.deadline = NEVER
        if self._failure or not self.status or (self._want_whole and not self.complete):
            self._raise_if_over()

    @property
    def headers(self) -> dict[bytes, bytes]:
        """Of the answer, with lower-case names."""
        return {name.lower(): value for name, value in self._head.items()}

    async def read(self, deadline: float) -> bytes:
        """All body bytes that have come since the last read; b"" once the body is complete.

        Raises BackendError when they break off, BackendTimeout when they do not come.
        """
        while not self._body:
            if self.complete:
                return b""
            self._raise_if_over()
            self._waiter = self._pool.loop.create_future()
            self.deadline = deadline
            try:
                await self._waiter
            finally:
                self._waiter = None
                self.deadline = NEVER
        self._resume_reading()
        return self.take_body()

    async def read_all(self, max_bytes: int, deadline: float) -> bytes:
        """The rest of the body, at most `max_bytes` of it."""
        parts, size = [], 0
        while data := await self.read(deadline):
            parts.append(data)
            size += len(data)
            if size > max_bytes:
                raise BackendError(f"the backend's answer is longer than {max_bytes} bytes")
        return b"".join(parts)

    async def flow(self, take: Take, deadline: float) -> bool:
        """Give the body to `take`, each piece in the very event that brings it, until it wants no more.

        True once it has all. Raises what `take` raises, and what `read` does.
        """
        self._take = take
        self.deadline = deadline
        try:
            if self._body:
                self._give(take)
            self._resume_reading()
            while self._take is not None and not self.complete:
                if self.deadline != NEVER:  # a piece has come since the last deadline passed, in the same turn
                    self.timed_out = False
                self._raise_if_over()
                self._waiter = self._pool.loop.create_future()
                await self._waiter
            if self._thrown is not None:
                raise self._thrown
            return self._take is not None
        finally:
            self._take = self._thrown = self._waiter = None
            self.deadline = NEVER

    def _give(self, take: Take) -> None:
        """Let `take` have what is here. What it raises is raised in the task that waits in `flow`."""
        try:
            deadline = take(self.take_body())
        except Exception as error:
            self._stop_taking(error)
            return
        if deadline:
            self.deadline = deadline
        else:
            self._stop_taking(None)

    def _stop_taking(self, error: Exception | None) -> None:
        self._take, self._thrown, self.deadline = None, error, NEVER
        self._wake()

    def take_body(self) -> bytes:
        """The body bytes that are here."""
        self.body_bytes = 0
        if len(self._body) == 1:
            return self._body.pop()
        data = b"".join(self._body)
        self._body.clear()
        return data

    def _resume_reading(self) -> None:
        if self._held:
            self._held = False
            self._transport.resume_reading()

    def _raise_if_over(self) -> None:
        if self.timed_out:
            raise BackendTimeout("the backend did not answer in time")
        if self._failure:
            raise BackendError(self._failure)
        if self.lost:
            if self.reused and not self.touched:
                raise StaleConnection
            kind = BackendError if self.touched else BackendCrashed
            raise kind("the backend closed the connection before its answer was complete")

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def release(self) -> None:
        """The exchange is over: back to the pool if the answer was read whole, else gone at once."""
        if self.lost:
            return
        # A backend that has answered before it had the whole request may never read the rest.
        unsent_bytes = self._transport.get_write_buffer_size()
        if self.complete and self.keep_alive and not (self._failure or unsent_bytes):
            if self._held:
                self._resume_reading()
            if self._body:
                self.take_body()
            self._waiter = None
            self._fields.clear()
            self._overhead_bytes = self.status = 0
            self._sent = self.complete = self.touched = self.timed_out = False
            self.reused = True
            self._pool.keep(self)
        else:
            self.abort()

    def abort(self) -> None:
        self._fail("the connection to the backend was cut")  # an end of our making completes no body
        self._pool.forget(self)
        self._transport.abort()

    def expire(self, now: float) -> None:
        self.deadline = NEVER
        if self._waiter is None:
            self.abort()  # idle in the pool for too long
        elif not self._waiter.done():
            self.timed_out = True
            self._wake()

    # --- the transport calls ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        take, body = self._take, self._body
        if take is None:
            self._receive(data)
            return
        if len(data) > HIGH_WATER_BYTES:
            give_way(self._transport, self._pool.loop)
        try:
            self._parser.feed_data(data)
            # One honest piece, in which `_weigh` would find nothing: most are.
            if (
                len(body) == 1
                and len(data) < _MOST_PER_BYTE * len(body[0])
                and not (self._overhead_bytes or self.complete)
            ):
                deadline = take(body.pop())
                if deadline:
                    self.deadline = deadline
                else:
                    self._stop_taking(None)
                return
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._stop_parsing(error)
        except Exception as error:
            self._stop_taking(error)
            return
        self._weigh(len(data), sum(map(len, body)))
        if body:
            self._give(take)
        if self._take is None or self.complete or self._failure:
            self._wake()

    def _receive(self, data: bytes) -> None:
        """What comes while nobody takes it."""
        if not self._sent:
            self.abort()  # bytes nobody asked for: what follows on this connection could not be trusted
            return
        self.touched = True
        body = self._body
        parts = len(body)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._stop_parsing(error)
        limits = self._pool.limits
        if (
            self.complete
            and not (parts or self._overhead_bytes)
            and len(data) <= limits.head_bytes <= limits.whole_bytes
        ):
            self._wake()  # all at once, and no longer than its head alone might be
            return
        new_bytes = sum(map(len, body[parts:]))
        self._weigh(len(data), new_bytes)
        self.body_bytes += new_bytes
        if self._want_whole:
            if self.body_bytes > limits.whole_bytes:
                self._fail("the backend's answer is too long")
            if not (self.complete or self._failure):
                return
        elif self.body_bytes > HIGH_WATER_BYTES and not self._held:
            self._held = True
            self._transport.pause_reading()
        if self.status or self._failure:
            self._wake()

    def _weigh(self, received_bytes: int, content_bytes: int) -> None:
        """Heads, chunk framing and trailers must not come without end."""
        overhead_bytes = self._overhead_bytes + received_bytes - _MOST_PER_BYTE * content_bytes
        self._overhead_bytes = max(0, overhead_bytes)
        if overhead_bytes > self._pool.limits.head_bytes:
            self._fail("the backend's answer has too long a head, or too much framing")

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if exc is None and self.status and not (self._failure or self._is_framed()):
            self.complete = True  # neither length nor chunks: the end of the connection ends the body
        self._pool.forget(self)
        self._wake()

    def _is_framed(self) -> bool:
        return not self.headers.keys().isdisjoint((b"content-length", b"transfer-encoding"))

    def _stop_parsing(self, error: Exception) -> None:
        """Not HTTP, or what a parser call below has raised. After a whole answer it only costs the connection."""
        self.keep_alive = False
        cause = error.__context__
        if cause is not None and not isinstance(cause, BackendError):
            raise error
        if not self.complete:
            self._fail(cause.message if cause else "the backend's answer is not HTTP")

    def _fail(self, message: str) -> None:
        self._failure = self._failure or message

    # --- the parser calls: a BackendError raised here ends the parsing ----------------------------------------------

    def on_message_begin(self) -> None:
        if self.complete:
            raise BackendError("the backend sent more than its answer")

    def on_headers_complete(self) -> None:
        if len(self._fields) > self._pool.limits.header_fields:
            raise BackendError("the backend's answer has too many header fields")
        status = self._parser.get_status_code()
        if status >= 200:
            self.status = status
            self._head = self._fields.copy()
            self.keep_alive = self._parser.should_keep_alive()
            return
        if status < 100:
            raise BackendError(f"the backend's answer has the status {status}")
        self._interim = True
        self._fields.clear()

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
        else:
            self.complete = True
