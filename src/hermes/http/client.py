"""The HTTP/1.1 client: a pool of connections to one origin, and one exchange at a time on each.

Rules: a connection that has not answered whole is never reused; leaving an exchange early aborts its connection at
once, so the backend sees the client's leaving within milliseconds (invariant I9); a backend is not trusted for bytes:
its heads, bodies and silences are bounded (I15).
"""

import asyncio
import re
from collections import deque
from collections.abc import Callable, Coroutine
from functools import lru_cache
from types import TracebackType
from typing import cast

import httptools
from msgspec import Struct

from hermes.errors import BackendBusy, BackendError, BackendTimeout, BackendUnreachable
from hermes.http.origin import Origin
from hermes.http.wire import HIGH_WATER_BYTES, NEVER, Deadlines

_is_target = re.compile(r"[\x21-\x7e]+").fullmatch


class PoolLimits(Struct, frozen=True):
    connections: int = 8192
    idle_connections: int = 256
    idle_s: float = 30.0
    connect_timeout_s: float = 5.0
    head_bytes: int = 64 * 1024
    header_fields: int = 100


class StaleConnection(Exception):
    """A pooled connection turned out to be dead before any byte of the answer: safe to ask again on a new one."""


class ClientConnection(asyncio.Protocol):
    __slots__ = (
        "_body",
        "_failure",
        "_fields",
        "_framed",
        "_held",
        "_interim",
        "_overhead_bytes",
        "_parser",
        "_pool",
        "_sent",
        "_transport",
        "_waiter",
        "_want_whole",
        "body_bytes",
        "complete",
        "deadline",
        "headers",
        "keep_alive",
        "lost",
        "reused",
        "status",
        "timed_out",
        "touched",
    )

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._waiter: asyncio.Future[None] | None = None
        self.lost = False
        self.reused = False
        self.deadline = NEVER
        self._parser = httptools.HttpResponseParser(self)
        self._begin()

    def _begin(self) -> None:
        self._body: list[bytes] = []
        self._failure = ""
        self._fields: dict[bytes, bytes] = {}
        self._framed = False
        self._held = False
        self._interim = False
        self._overhead_bytes = 0
        self._sent = False
        self._want_whole = False
        self.body_bytes = 0
        self.complete = False
        self.headers: dict[bytes, bytes] = {}
        self.keep_alive = False
        self.status = 0
        self.timed_out = False
        self.touched = False

    # --- the exchange calls -----------------------------------------------------------------------------------------

    async def ask(self, request: bytes, want_whole: bool, deadline: float) -> None:
        """Send a request and wait for its answer's status and headers, or for all of it.

        Raises BackendError, BackendTimeout or StaleConnection.
        """
        if not self.lost:
            self._sent = True
            self._want_whole = want_whole
            self._transport.write(request)
        while self._failure or not self.status or (want_whole and not self.complete):
            self._raise_if_over()
            # Waiting is written out, here and in `read`: a coroutine less for every answer and every chunk.
            self._waiter = self._pool.loop.create_future()
            self.deadline = deadline
            try:
                await self._waiter
            finally:
                self._waiter = None
                self.deadline = NEVER

    async def read(self, deadline: float) -> bytes:
        """All body bytes that have come since the last read; b"" once the body is complete."""
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
        data = self.take_body()
        if self._held:
            self._held = False
            self._transport.resume_reading()
        return data

    def take_body(self) -> bytes:
        """The body bytes that are here."""
        data = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        self.body_bytes = 0
        return data

    def _raise_if_over(self) -> None:
        if self.timed_out:
            raise BackendTimeout("the backend did not answer in time")
        if self._failure:
            raise BackendError(self._failure)
        if self.lost:
            if self.reused and not self.touched:
                raise StaleConnection
            raise BackendError("the backend closed the connection before its answer was complete")

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
                self._transport.resume_reading()
            self._begin()
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
        if not self._sent:
            self.abort()  # bytes nobody asked for: what follows on this connection could not be trusted
            return
        self.touched = True
        body_bytes = self.body_bytes
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._stop_parsing(error)
        # Heads, chunk framing and trailers: an honest byte of body costs at most eight of framing.
        self._overhead_bytes += len(data) - 9 * (self.body_bytes - body_bytes)
        if self._overhead_bytes < 0:
            self._overhead_bytes = 0
        elif self._overhead_bytes > self._pool.limits.head_bytes:
            self._fail("the backend's answer has too long a head, or too much framing")
        if self.body_bytes > HIGH_WATER_BYTES and not (self._want_whole or self._held):
            self._held = True
            self._transport.pause_reading()
        if not self._want_whole or self.complete or self._failure:
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if exc is None and self.status and not (self._framed or self._failure):
            self.complete = True  # neither length nor chunks: the end of the connection ends the body
        self._pool.forget(self)
        self._wake()

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

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(self._fields) >= self._pool.limits.header_fields:
            raise BackendError("the backend's answer has too many header fields")
        self._fields[name.lower()] = value

    def on_headers_complete(self) -> None:
        headers, self._fields = self._fields, {}  # trailers are read by nobody
        status = self._parser.get_status_code()
        if status < 200:
            if status < 100:
                raise BackendError(f"the backend's answer has the status {status}")
            self._interim = True
            return
        self.status = status
        self.headers = headers
        self._framed = b"content-length" in headers or b"transfer-encoding" in headers
        self.keep_alive = self._parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        self._body.append(body)
        self.body_bytes += len(body)
        if self._want_whole and self.body_bytes > self._pool.max_whole_bytes:
            raise BackendError("the backend's answer is too long")

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
        else:
            self.complete = True


class Pool:
    """The connections to one origin."""

    def __init__(
        self,
        origin: Origin,
        limits: PoolLimits,
        deadlines: Deadlines,
        loop: asyncio.AbstractEventLoop,
        headers: bytes = b"",
        max_whole_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        self.origin = origin
        self.limits = limits
        self.loop = loop
        self.max_whole_bytes = max_whole_bytes
        self.opened = 0
        self._connecting = 0
        self._deadlines = deadlines
        self._idle: deque[ClientConnection] = deque()
        self._open: set[ClientConnection] = set()
        # A compressed stream would be held back and could expand without bound (invariant I12).
        self._headers = b"host: %b\r\naccept-encoding: identity\r\n%b" % (origin.host_header, headers)

    @property
    def open_connections(self) -> int:
        return len(self._open)

    def exchange(
        self, method: str, path: str, body: bytes = b"", *, headers: bytes = b"", whole: bool = False, deadline: float
    ) -> "ClientExchange":
        """One request and its answer, to be used with `async with`. `whole`: the answer is awaited complete.

        `headers` are rendered lines. Not for HEAD: its answer announces a body that does not come. Raises ValueError
        for a path that cannot stand in a request line.
        """
        lines = _request_line(method, self.origin.prefix + path) + self._headers + headers
        if body:
            lines += b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
        else:
            lines += b"\r\n" if method == "GET" else b"content-length: 0\r\n\r\n"
        return ClientExchange(self, lines + body, whole, deadline)

    def idle(self) -> ClientConnection | None:
        """An idle connection, the youngest first, if there is one."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.lost:
                connection.deadline = NEVER
                return connection
        return None

    async def connect(self, deadline: float) -> ClientConnection:
        """A new connection.

        Raises BackendUnreachable, BackendBusy, or BackendTimeout when there was no time left to connect.
        """
        if len(self._open) + self._connecting >= self.limits.connections:
            raise BackendBusy(f"all {self.limits.connections} connections to the backend are in use")
        self._connecting += 1
        try:
            connection = await self._connect(deadline)
        finally:
            self._connecting -= 1
        self.opened += 1
        if not connection.lost:
            self._open.add(connection)
            self._deadlines.watch(connection)
        return connection

    async def _connect(self, deadline: float) -> ClientConnection:
        timeout_s = min(self.limits.connect_timeout_s, deadline - self.loop.time())
        try:
            async with asyncio.timeout(timeout_s):
                return await self.origin.connect(lambda: ClientConnection(self))
        except TimeoutError:
            if timeout_s < self.limits.connect_timeout_s:
                raise BackendTimeout("the time for an answer was over before the backend could be reached") from None
            raise BackendUnreachable(f"the backend did not accept a connection within {timeout_s:.3g} s") from None
        except (OSError, ValueError) as error:
            raise BackendUnreachable("the backend cannot be reached") from error

    def keep(self, connection: ClientConnection) -> None:
        if len(self._idle) >= self.limits.idle_connections:
            connection.abort()
            return
        connection.deadline = self.loop.time() + self.limits.idle_s
        self._idle.append(connection)

    def forget(self, connection: ClientConnection) -> None:
        self._open.discard(connection)
        self._deadlines.unwatch(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def close(self) -> None:
        for connection in list(self._open):
            connection.abort()


class ClientExchange:
    """One request on one connection. Its answer is there once the block is entered."""

    __slots__ = ("_connection", "_deadline", "_pool", "_request", "_whole")

    def __init__(self, pool: Pool, request: bytes, whole: bool, deadline: float) -> None:
        self._pool = pool
        self._request = request
        self._whole = whole
        self._deadline = deadline
        self._connection: ClientConnection = cast(ClientConnection, None)

    async def __aenter__(self) -> "ClientExchange":
        pool, deadline = self._pool, self._deadline
        self._connection = connection = pool.idle() or await pool.connect(deadline)
        try:
            await connection.ask(self._request, self._whole, deadline)
        except StaleConnection:
            await self._ask_anew()
        except BaseException:
            connection.release()
            raise
        self._request = b""  # sent: the answer may take an hour
        return self

    async def _ask_anew(self) -> None:
        """On a new connection, which is never stale."""
        self._connection = connection = await self._pool.connect(self._deadline)
        try:
            await connection.ask(self._request, self._whole, self._deadline)
        except BaseException:
            connection.release()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.release()

    @property
    def status(self) -> int:
        return self._connection.status

    @property
    def headers(self) -> dict[bytes, bytes]:
        return self._connection.headers

    @property
    def read(self) -> Callable[[float], Coroutine[None, None, bytes]]:
        """`await read(deadline)`: the next body bytes, as they come; b"" at the end.

        Raises BackendError when they break off, BackendTimeout when they do not come.
        """
        return self._connection.read

    @property
    def body(self) -> bytes:
        """The body of an answer that was asked for whole."""
        return self._connection.take_body()

    async def read_all(self, max_bytes: int) -> bytes:
        """The rest of the body, at most `max_bytes` of it."""
        parts, size = [], 0
        while data := await self.read(self._deadline):
            parts.append(data)
            size += len(data)
            if size > max_bytes:
                raise BackendError(f"the backend's answer is longer than {max_bytes} bytes")
        return b"".join(parts)


@lru_cache(maxsize=256)
def _request_line(method: str, target: str) -> bytes:
    if not _is_target(target):
        raise ValueError(f"{target!r} cannot be a request target")
    return f"{method} {target} HTTP/1.1\r\n".encode("ascii")
