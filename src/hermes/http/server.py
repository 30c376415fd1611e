"""The HTTP/1.1 server: listens, counts its connections, and drains."""

import asyncio
import contextlib
import errno
import os
import socket
import ssl
import sys
from email.utils import formatdate
from pathlib import Path
from typing import Any

from hermes.http.connection import App, ServerConnection
from hermes.http.heads import Heads
from hermes.http.limits import Limits
from hermes.http.tls import Caller
from hermes.http.wire import Deadlines

_BACKLOG = 1024
_NEVER_FIRST_S = 3600.0  # a connection has deadlines of its own
# From 3.13 on asyncio removes a Unix socket's file with the listener, though another process listens there by then.
_KEEPS_FILE: dict[str, Any] = {} if sys.version_info < (3, 13) else {"cleanup_socket": False}


class Server:
    def __init__(self, app: App, limits: Limits, deadlines: Deadlines, loop: asyncio.AbstractEventLoop) -> None:
        self.app = app
        self.limits = limits
        self.heads = Heads()
        self.arriving_bytes = 0
        self.loop = loop
        self.clock = loop.time  # one object for all connections
        self.tls: ssl.SSLContext | None = None
        self.closing = False  # every answer that begins is its connection's last, and says so
        self.hurries = False  # and so is each that has begun, though it has not said so
        self._over = False  # and nobody may come in any more
        self.refused_connections = 0
        self._deadlines = deadlines
        self._connections: set[ServerConnection] = set()
        self._handshakes: dict[ServerConnection, asyncio.Task[None]] = {}
        self._listeners: list[asyncio.Server] = []
        self._paused: list[socket.socket] = []
        self.files: list[str] = []  # of Unix sockets, which are ours to remove
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

    async def listen_unix(self, path: str, mode: int | None = None) -> None:
        """Bind a Unix socket, with these rights from the first moment (None: the process's usual ones).

        A socket left there by an earlier process is replaced, one that is served is not. Raises OSError.
        """
        if _is_served(path):
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        bound = _bind_unix(path, mode)
        self.files.append(path)
        try:
            await self.accept_on(bound)
        except BaseException:
            bound.close()
            raise

    async def accept_on(self, bound: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        """Listen on a socket that is bound already, maybe by another process."""
        self.tls = tls
        bound.setblocking(False)
        if bound.family == socket.AF_UNIX:
            listening = self.loop.create_unix_server(self._connect, sock=bound, backlog=_BACKLOG, **_KEEPS_FILE)
            self._listeners.append(await listening)
        else:
            connect = self._connect if tls is None else lambda: Caller(self._greet)
            self._listeners.append(await self.loop.create_server(connect, sock=bound, backlog=_BACKLOG))

    def hold(self, bound: list[socket.socket], tls: ssl.SSLContext | None = None) -> None:
        """The same, from `resume` on."""
        self.tls = tls
        self._paused += bound

    async def listen_for_relays(self, path: str) -> asyncio.Server:
        """A way in that is the caller's to close."""
        return await self.loop.create_unix_server(self._connect, sock=_bind_unix(path, 0o600), backlog=_BACKLOG)

    # --- handing over -----------------------------------------------------------------------------------------------

    def sockets(self) -> list[int]:
        """The descriptors at which it listens."""
        return [each.fileno() for listener in self._listeners for each in listener.sockets]

    def pause(self) -> None:
        """Accept nobody for now; who comes waits in the kernel."""
        self._paused += [socket.socket(fileno=os.dup(fd)) for fd in self.sockets()]
        while self._listeners:
            self._listeners.pop().close()

    async def resume(self) -> None:
        while self._paused:
            await self.accept_on(self._paused.pop(), self.tls)

    def let_go(self) -> None:
        """Others accept at its sockets now. What still comes here gets one answer each."""
        self.closing = True
        self.files.clear()
        while self._listeners:
            self._listeners.pop().close()

    async def empty(self) -> None:
        """Wait until there is no connection any more."""
        while self._connections or self._handshakes:
            self._awaited = set(self._connections)
            self._all_left.clear()
            await self._all_left.wait()

    # --- the end ----------------------------------------------------------------------------------------------------

    async def drain(self, timeout_s: float) -> bool:
        """Let what runs finish, stop accepting, then cut what is left. True if nothing was cut (invariant I33).

        Until what runs has ended, new connections get one answer each: they are told that this is the end.
        """
        self.closing = self.hurries = True
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
        self._over = True
        while self.files:  # as long as it is served, it is nobody else's
            with contextlib.suppress(OSError):
                Path(self.files.pop()).unlink()
        while self._listeners:
            self._listeners.pop().close()
        while self._paused:
            self._paused.pop().close()
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
            self._tell_if_all_left()

    def _has_room(self) -> bool:
        """Whether one more may come in: file descriptors are few. At the end nobody may; whoever was accepted before
        others accept in our place is told of a turn or two after.
        """
        if not self._over and self.open_connections < self.limits.connections:
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
        self._tell_if_all_left()

    def _tell_if_all_left(self) -> None:
        if not self._awaited:
            self._all_left.set()

    def date_line(self) -> bytes:
        """The Date header (RFC 9110 6.6.1), rendered once a second."""
        now = self.loop.time()
        if now >= self._date_until:
            self._date = b"date: %b\r\n" % formatdate(usegmt=True).encode("ascii")
            self._date_until = now + 1.0
        return self._date


def _bind_unix(path: str, mode: int | None) -> socket.socket:
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        bound.setblocking(False)
        if Path(path).is_socket():
            Path(path).unlink()
        elif Path(path).exists():
            raise FileExistsError(errno.EEXIST, "there is another file")
        bound.bind(path)
        if mode is not None:
            Path(path).chmod(mode)  # nobody can connect before it listens
    except BaseException:
        bound.close()
        raise
    return bound


def _is_served(path: str) -> bool:
    """Whether somebody listens on this Unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.setblocking(False)
        return caller.connect_ex(path) in (0, errno.EAGAIN)  # EAGAIN: its backlog is full
