"""The ends of a wire that a test holds: a raw client, a raw backend, and servers and pools around them."""

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

from msgspec import Struct

from hermes.errors import GatewayError
from hermes.http.client import PoolLimits
from hermes.http.limits import Limits
from hermes.http.origin import Origin
from hermes.http.pool import Pool
from hermes.http.request import Request
from hermes.http.response import Response
from hermes.http.server import Server
from hermes.http.wire import NEVER, Deadlines
from tests.support import until

HOST = b"Host: hermes.test\r\n"
TICK_S = 0.01

Handler = Callable[[Request, Response], Awaitable[None]]


class Answer(Struct, frozen=True):
    """One answer, as its bytes say it. `whole`: its framing says that it is complete."""

    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool = True


class Peer:
    """One end of a connection, read and written by hand."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.unread = b""
        self._loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self.sock, data)

    async def send_apart(self, data: bytes) -> None:
        """Byte by byte; the loop turns in between."""
        for position in range(len(data)):
            await self.send(data[position : position + 1])

    async def receive(self) -> bytes:
        """What has come; b"" at the end. Raises ConnectionResetError."""
        data = self.unread or await self._loop.sock_recv(self.sock, 65536)
        self.unread = b""
        return data

    async def until(self, mark: bytes) -> bytes:
        """Everything up to and with `mark`. Raises EOFError when it does not come."""
        while mark not in self.unread:
            data = await self._loop.sock_recv(self.sock, 65536)
            if not data:
                raise EOFError(self.unread)
            self.unread += data
        head, _, self.unread = self.unread.partition(mark)
        return head + mark

    async def exactly(self, size: int) -> bytes:
        got = bytearray(self.unread)
        while len(got) < size:
            data = await self._loop.sock_recv(self.sock, 65536)
            if not data:
                raise EOFError(bytes(got))
            got += data
        self.unread = bytes(got[size:])
        return bytes(got[:size])

    async def rest(self) -> bytes:
        """Everything until the end, which must be a clean one for TCP."""
        parts = [self.unread]
        self.unread = b""
        while data := await self._loop.sock_recv(self.sock, 65536):
            parts.append(data)
        return b"".join(parts)

    async def gone(self) -> None:
        """Wait until the other end has left, cleanly or not."""
        with suppress(ConnectionError):
            await self.rest()

    async def answer(self, method: str = "GET") -> Answer:
        """Read one answer: its head, then the body as its framing tells."""
        status, headers = _parse_head(await self.until(b"\r\n\r\n"))
        if method == "HEAD" or status < 200 or status == 204:
            return Answer(status, headers, b"")
        if headers.get("transfer-encoding") == "chunked":
            return Answer(status, headers, *await self._chunks())
        if "content-length" in headers:
            return Answer(status, headers, await self.exactly(int(headers["content-length"])))
        return Answer(status, headers, await self.rest())

    async def _chunks(self) -> tuple[bytes, bool]:
        body = b""
        try:
            while size := int(await self.until(b"\r\n"), 16):
                body += await self.exactly(size)
                assert await self.exactly(2) == b"\r\n"
        except EOFError:
            return body, False
        assert await self.exactly(2) == b"\r\n"
        return body, True

    async def request(self) -> tuple[bytes, bytes]:
        """Read one request as a backend: its head, and its body by length."""
        head = await self.until(b"\r\n\r\n")
        length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        return head, await self.exactly(int(length[0].partition(b":")[2])) if length else b""

    def finish(self) -> None:
        """Say that nothing more will come."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        self.sock.close()


def _parse_head(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    version, status, _ = first.split(" ", 2)
    assert version == "HTTP/1.1"
    headers: dict[str, str] = {}
    for line in lines[:-2]:
        name, _, value = line.partition(": ")
        assert name not in headers, name
        headers[name] = value
    return int(status), headers


async def connect(port: int, receive_buffer_bytes: int = 0) -> Peer:
    sock = socket.socket()
    sock.setblocking(False)
    if receive_buffer_bytes:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    except OSError:
        sock.close()
        raise
    return Peer(sock)


async def echo(request: Request, response: Response) -> None:
    response.send(200, b"", b" ".join((request.method.encode(), request.path, request.body)))


class App:
    """Answers with a handler, and keeps what it was asked."""

    def __init__(self, handler: Handler = echo) -> None:
        self.requests: list[Request] = []
        self.refusals: list[GatewayError] = []
        self.arrived = asyncio.Event()
        self.cancelled = asyncio.Event()
        self._handler = handler

    async def handle(self, request: Request, response: Response) -> None:
        self.requests.append(request)
        self.arrived.set()
        try:
            await self._handler(request, response)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    def refuse(self, error: GatewayError, response: Response) -> None:
        self.refusals.append(error)
        response.send(error.status, b"", error.code.encode())


class Clock:
    """The running loop, with a clock that a test can move on."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ahead_s = 0.0

    def time(self) -> float:
        return self._loop.time() + self._ahead_s

    def advance(self, seconds: float) -> None:
        self._ahead_s += seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


class _Tick:
    """Watched once, to see that a tick is over."""

    def __init__(self) -> None:
        self.deadline = 0.0
        self.over = asyncio.Event()

    def expire(self, now: float) -> None:
        self.deadline = NEVER
        self.over.set()


class Served:
    """A listening server and the clients that a test has opened to it."""

    def __init__(self, app: App, server: Server, deadlines: Deadlines, clock: Clock, port: int) -> None:
        self.app = app
        self.server = server
        self.port = port
        self.peers: list[Peer] = []
        self._clock = clock
        self._deadlines = deadlines

    async def after(self, seconds: float) -> None:
        """Let the server's time pass, and every deadline in it."""
        self._clock.advance(seconds)
        self._deadlines.watch(tick := _Tick())
        await tick.over.wait()
        self._deadlines.unwatch(tick)

    async def connect(self, receive_buffer_bytes: int = 0) -> Peer:
        peer = await connect(self.port, receive_buffer_bytes)
        self.peers.append(peer)
        return peer

    async def ask(self, data: bytes) -> Answer:
        """One request on a connection of its own."""
        peer = await self.connect()
        await peer.send(data)
        return await peer.answer(data.split(b" ")[0].decode())

    @property
    def busy(self) -> int:
        """How many connections have a request in them, however incomplete."""
        return sum(connection.busy for connection in self.server._connections)

    @property
    def working(self) -> int:
        """How many handlers have not returned."""
        return sum(connection._task is not None for connection in self.server._connections)

    async def settled(self, connections: int = 0) -> None:
        await until(lambda: self.server.open_connections == connections, "the server's connections did not close")


@asynccontextmanager
async def serving(
    handler: Handler = echo, limits: Limits | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Served]:
    """A server on loopback. When the block is left no connection may be, once the test's clients are closed."""
    clock = Clock()
    loop = cast(asyncio.AbstractEventLoop, clock)
    app, deadlines = App(handler), Deadlines(loop, TICK_S)
    server = Server(app, limits or Limits(), deadlines, loop)
    served = Served(app, server, deadlines, clock, await server.listen("127.0.0.1", 0, tls))
    try:
        yield served
    finally:
        for peer in served.peers:
            peer.close()
        try:
            await served.settled()
        finally:
            await server.drain(0)


class Listening:
    """A backend whose connections a test accepts and answers by hand."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.port: int = sock.getsockname()[1] if sock.family == socket.AF_INET else 0
        self.peers: list[Peer] = []

    async def accept(self) -> Peer:
        sock, _ = await asyncio.get_running_loop().sock_accept(self.sock)
        self.peers.append(Peer(sock))
        return self.peers[-1]


@asynccontextmanager
async def listening(limits: PoolLimits | None = None, **options: Any) -> AsyncIterator[tuple[Listening, Pool]]:
    """A hand-driven backend and a pool to it. When the block is left no connection of the pool may be in use."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.setblocking(False)
        backend = Listening(sock)
        origin = Origin.parse(f"http://127.0.0.1:{backend.port}")
        pool = Pool(origin, limits or PoolLimits(), Deadlines(loop, TICK_S), loop, **options)
        try:
            yield backend, pool
        finally:
            pool.close()
            for peer in backend.peers:
                peer.close()
        await until(lambda: not pool.open_connections, "connections to the backend are left open")


@asynccontextmanager
async def background(work: Coroutine[Any, Any, Any]) -> AsyncIterator[asyncio.Task[Any]]:
    """A task that ends with the block, whatever it is doing."""
    task = asyncio.get_running_loop().create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await task
