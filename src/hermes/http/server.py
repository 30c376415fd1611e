"""The HTTP/1.1 server: listens, counts its connections, and drains."""

import asyncio
import errno
import os
import socket
import ssl
from email.utils import formatdate

from hermes.http.connection import App, ServerConnection
from hermes.http.heads import Heads
from hermes.http.limits import Limits
from hermes.http.tls import Caller
from hermes.http.wire import Deadlines

_BACKLOG = 1024
_NEVER_FIRST_S = 3600.0  # a connection has deadlines of its own


class Server:
    def __init__(self, app: App, limits: Limits, deadlines: Deadlines, loop: asyncio.AbstractEventLoop) -> None:
        self.app = app
        self.limits = limits
        self.heads = Heads()
        self.arriving_bytes = 0
        self.loop = loop
        self.tls: ssl.SSLContext | None = None
        self.closing = False  # every answer is its connection's last
        self.refused_connections = 0
        self._deadlines = deadlines
        self._connections: set[ServerConnection] = set()
        self._handshakes: dict[ServerConnection, asyncio.Task[None]] = {}
        self._listeners: list[asyncio.Server] = []
        self._date = b""
        self._date_until = 0.0
        self._awaited: set[ServerConnection] = set()  # those that a drain waits for
        self._all_left = asyncio.Event()

    @property
    def open_connections(self) -> int:
        """With those that shake hands, and those that are lost but whose handlers have not returned."""
        return len(self._connections) + len(self._handshakes)

    def forget(self) -> None:
        """Whatever was concluded from heads that came before (`Head.told`) holds no more."""
        self.heads = Heads()
        for connection in self._connections:
            connection.forget()

    async def listen(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> int:
        """Bind a TCP address. Returns the port, chosen by the kernel where 0 was asked. Raises OSError.

        `self.tls` may be another one later: whoever comes then is shown its certificate.
        """
        self.tls = tls
        connect = self._connect if tls is None else lambda: Caller(self._greet)
        listener = await self.loop.create_server(connect, host, port, backlog=_BACKLOG, reuse_address=True)
        self._listeners.append(listener)
        return int(listener.sockets[0].getsockname()[1])

    async def listen_unix(self, path: str) -> None:
        """Bind a Unix socket. A file left there by an earlier process is replaced. Raises OSError."""
        if _is_served(path):
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        self._listeners.append(await self.loop.create_unix_server(self._connect, path, backlog=_BACKLOG))

    async def drain(self, timeout_s: float) -> bool:
        """Let what runs finish, stop accepting, then cut what is left. True if nothing was cut (invariant I33).

        Until what runs has ended, new connections get one answer each: they are told that this is the end.
        """
        self.closing = True
        try:
            async with asyncio.timeout(timeout_s):
                await self._until_left()
                self._stop_accepting()
                await self._until_left()
            return True
        except TimeoutError:
            self._stop_accepting()
            self.abort()
            return False

    async def _until_left(self) -> None:
        """Wait for the connections that there are now; those that are idle leave at once."""
        self._awaited = set(self._connections)
        for connection in list(self._connections):
            connection.close_when_idle()
        while self._awaited:
            self._all_left.clear()
            await self._all_left.wait()

    def _stop_accepting(self) -> None:
        while self._listeners:
            self._listeners.pop().close()
        while self._handshakes:
            self._handshakes.popitem()[1].cancel()

    def cut(self) -> None:
        """Have every connection leave now; their requests are cancelled, and say so."""
        for connection in list(self._connections):
            connection.cut()

    def abort(self) -> None:
        """Cut every connection now, whatever it has still to say; their requests are cancelled."""
        for connection in list(self._connections):
            connection.reset()

    def _connect(self) -> ServerConnection:
        return ServerConnection(self)

    def _greet(self, accepted: socket.socket) -> None:
        if not self._has_room():
            accepted.close()
            return
        connection = ServerConnection(self)
        task = self._handshakes[connection] = self.loop.create_task(self._shake_hands(connection, accepted))
        task.add_done_callback(lambda task: accepted.close() if task.cancelled() else None)  # maybe before it began

    async def _shake_hands(self, connection: ServerConnection, accepted: socket.socket) -> None:
        try:
            await self.loop.connect_accepted_socket(
                lambda: connection,
                accepted,
                ssl=self.tls,
                ssl_handshake_timeout=self.limits.header_timeout_s,
                ssl_shutdown_timeout=_NEVER_FIRST_S,
            )
        except OSError:  # it spoke no TLS, or not in time, or has left
            pass
        finally:
            self._handshakes.pop(connection, None)

    def _has_room(self) -> bool:
        """Whether one more may come in: file descriptors are few. At the end nobody may."""
        if self._listeners and self.open_connections < self.limits.connections:
            return True
        self.refused_connections += 1
        return False

    def welcome(self, connection: ServerConnection) -> bool:
        """Take in a new connection, if there is room; one that has shaken hands has it already."""
        if self._handshakes.pop(connection, None) is None and not self._has_room():
            return False
        self._connections.add(connection)
        self._deadlines.watch(connection)
        return True

    def farewell(self, connection: ServerConnection) -> None:
        self._connections.discard(connection)
        self._deadlines.unwatch(connection)
        self._awaited.discard(connection)
        if not self._awaited:
            self._all_left.set()

    def date_line(self) -> bytes:
        """The Date header (RFC 9110 6.6.1), rendered once a second."""
        now = self.loop.time()
        if now >= self._date_until:
            self._date = b"date: %b\r\n" % formatdate(usegmt=True).encode("ascii")
            self._date_until = now + 1.0
        return self._date


def _is_served(path: str) -> bool:
    """Whether somebody listens on this Unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.setblocking(False)
        return caller.connect_ex(path) in (0, errno.EAGAIN)  # EAGAIN: its backlog is full
