"""The pool of connections to one origin: the youngest idle one is used first, a dead one costs one safe retry."""

import asyncio
import re
from collections import deque
from functools import lru_cache
from types import TracebackType

from msgspec import Struct
from msgspec.structs import replace

from hermes.errors import BackendBusy, BackendCrashed, BackendTimeout, BackendUnreachable
from hermes.http.client import ClientConnection, PoolLimits, StaleConnection
from hermes.http.origin import Origin
from hermes.http.wire import NEVER, Deadlines

_is_target = re.compile(r"[\x21-\x7e]+").fullmatch


class Pool:
    """The connections to one origin."""

    def __init__(
        self,
        origin: Origin,
        limits: PoolLimits,
        deadlines: Deadlines,
        loop: asyncio.AbstractEventLoop,
        headers: bytes = b"",
    ) -> None:
        self.origin = origin
        self.limits = limits
        self.loop = loop
        self.opened = 0
        self._connecting = 0
        self._closed = False
        self._unused = asyncio.Event()
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
        lines = _request_line(method, self.origin.prefix + path)
        if body:
            request = b"%b%b%bcontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
                lines,
                self._headers,
                headers,
                len(body),
                body,
            )
        else:
            end = b"\r\n" if method == "GET" else b"content-length: 0\r\n\r\n"
            request = b"%b%b%b%b" % (lines, self._headers, headers, end)
        return ClientExchange(self, request, whole, deadline)

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
        if self._closed:
            raise BackendUnreachable("the backend has been stopped")
        if len(self._open) + self._connecting >= self.limits.connections:
            raise BackendBusy(f"all {self.limits.connections} connections to the backend are in use")
        self._connecting += 1
        try:
            connection = await self._connect(deadline)
        finally:
            self._connecting -= 1
            self._note_use()
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
        self._note_use()

    def _note_use(self) -> None:
        if not (self._open or self._connecting):
            self._unused.set()

    async def retire(self) -> None:
        """From now on keep no connection for later, and wait until none is in use."""
        self.limits = replace(self.limits, idle_connections=0)
        for connection in list(self._idle):
            connection.abort()
        while self._open or self._connecting:
            self._unused.clear()
            await self._unused.wait()

    def close(self) -> None:
        """Break off all that is open. Nothing can be asked any more."""
        self._closed = True
        for connection in list(self._open):
            connection.abort()


class ClientExchange(Struct, eq=False):
    """One request, to be used with `async with`, which gives the connection that has its answer.

    `heard`: pieces of an answer that is put together here.
    """

    pool: Pool
    request: bytes
    whole: bool
    deadline: float
    connection: ClientConnection | None = None
    heard: int = 0

    def __repr__(self) -> str:
        return "ClientExchange(***)"  # there are keys and prompts in it (I26)

    @property
    def mark(self) -> float:
        """Another one after each piece of the answer that was taken; inf while none is awaited."""
        return self.heard + self.connection.deadline if self.connection is not None else 0.0

    def cut(self) -> None:
        """Who waits for the answer hears that there is none."""
        if self.connection is not None:
            self.connection.abort()

    async def __aenter__(self) -> ClientConnection:
        self.connection = connection = self.pool.idle() or await self.pool.connect(self.deadline)
        try:
            await connection.ask(self.request, self.whole, self.deadline)
            connection.answered()
        except StaleConnection:
            connection = await self._ask_anew()
        except BaseException:
            connection.release()
            raise
        self.request = b""  # sent: the answer may take an hour
        return connection

    async def _ask_anew(self) -> ClientConnection:
        """On a new connection, which is never stale.

        Raises BackendCrashed where there is none: an idle one whose server had gone before would have been noticed.
        """
        try:
            self.connection = connection = await self.pool.connect(self.deadline)
        except BackendUnreachable as error:
            raise BackendCrashed("the backend closed the connection, and accepts no other") from error
        try:
            await connection.ask(self.request, self.whole, self.deadline)
            connection.answered()
        except BaseException:
            connection.release()
            raise
        return connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.connection is not None:
            self.connection.release()


@lru_cache(maxsize=256)
def _request_line(method: str, target: str) -> bytes:
    if not _is_target(target):
        raise ValueError(f"{target!r} cannot be a request target")
    return f"{method} {target} HTTP/1.1\r\n".encode("ascii")
