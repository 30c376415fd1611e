"""The HTTP/1.1 server: listens, counts its connections, and drains."""

import asyncio
import ssl
from email.utils import formatdate

from hermes.http.connection import App, Limits, ServerConnection
from hermes.http.tls import TlsConnection
from hermes.http.wire import Deadlines

_BACKLOG = 1024
_NEVER_FIRST_S = 3600.0  # a connection has deadlines of its own


class Server:
    def __init__(self, app: App, limits: Limits, deadlines: Deadlines, loop: asyncio.AbstractEventLoop) -> None:
        self.app = app
        self.limits = limits
        self.loop = loop
        self.closing = False
        self.refused_connections = 0
        self._deadlines = deadlines
        self._connections: set[ServerConnection] = set()
        self._listeners: list[asyncio.Server] = []
        self._date = b""
        self._date_until = 0.0
        self._empty: asyncio.Event | None = None

    @property
    def open_connections(self) -> int:
        """With those that are lost but whose handlers have not returned."""
        return len(self._connections)

    async def listen(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> int:
        """Bind a TCP address. Returns the port, chosen by the kernel where 0 was asked. Raises OSError."""
        if tls is None:
            listener = await self.loop.create_server(self._connect, host, port, backlog=_BACKLOG, reuse_address=True)
        else:
            listener = await self.loop.create_server(
                self._connect_tls,
                host,
                port,
                ssl=tls,
                ssl_handshake_timeout=self.limits.header_timeout_s,
                ssl_shutdown_timeout=_NEVER_FIRST_S,
                backlog=_BACKLOG,
                reuse_address=True,
            )
        self._listeners.append(listener)
        return int(listener.sockets[0].getsockname()[1])

    async def listen_unix(self, path: str) -> None:
        """Bind a Unix socket. A file left there by an earlier process is replaced. Raises OSError."""
        self._listeners.append(await self.loop.create_unix_server(self._connect, path, backlog=_BACKLOG))

    async def drain(self, timeout_s: float) -> bool:
        """Stop accepting, let what runs finish, then cut what is left. True if nothing was cut (invariant I33)."""
        self.closing = True
        for listener in self._listeners:
            listener.close()
        for connection in list(self._connections):
            connection.close_when_idle()
        self._empty = asyncio.Event()
        if not self._connections:
            return True
        try:
            async with asyncio.timeout(timeout_s):
                await self._empty.wait()
            return True
        except TimeoutError:
            self.abort()
            return False

    def abort(self) -> None:
        """Cut every connection now; their requests are cancelled."""
        for connection in list(self._connections):
            connection.reset()

    def _connect(self) -> ServerConnection:
        return ServerConnection(self)

    def _connect_tls(self) -> ServerConnection:
        return TlsConnection(self)

    def welcome(self, connection: ServerConnection) -> bool:
        """Take in a new connection; False when there are too many already (file descriptors are few), or at the end."""
        if self.closing or len(self._connections) >= self.limits.connections:
            self.refused_connections += 1
            return False
        self._connections.add(connection)
        self._deadlines.watch(connection)
        return True

    def farewell(self, connection: ServerConnection) -> None:
        self._connections.discard(connection)
        self._deadlines.unwatch(connection)
        if self._empty is not None and not self._connections:
            self._empty.set()

    def date_line(self) -> bytes:
        """The Date header (RFC 9110 6.6.1), rendered once a second."""
        now = self.loop.time()
        if now >= self._date_until:
            self._date = b"date: %b\r\n" % formatdate(usegmt=True).encode("ascii")
            self._date_until = now + 1.0
        return self._date
