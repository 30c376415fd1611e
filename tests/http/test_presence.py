"""A client that leaves is noticed in every phase; one that stays but does not read holds back its backend (I9, I13)."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from hermes.http.pool import Pool
from hermes.http.request import Request
from hermes.http.response import Response
from hermes.http.wire import HIGH_WATER_BYTES, NEVER
from tests.http.peers import HOST, Handler, Peer, listening, serving
from tests.support import run, until

GET = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"

# How a client leaves: it closes, it is reset, it only says that it will send no more.
LEAVING = [Peer.close, Peer.reset, Peer.finish]
BY = pytest.mark.parametrize("leave", LEAVING, ids=["by closing", "by a reset", "by half closing"])
Leave = Callable[[Peer], None]


@BY
@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HTT",
        b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nab",
        b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab",
    ],
    ids=["nothing sent", "head half sent", "body half sent", "chunk half sent"],
)
def test_a_client_that_leaves_before_its_request_is_whole_leaves_nothing(sent: bytes, leave: Leave) -> None:
    async def scenario() -> None:
        async with serving() as served:
            peer = await served.connect()
            if sent:
                await peer.send(sent)
                await until(lambda: served.busy)
            await until(lambda: served.server.open_connections == 1)
            leave(peer)
            await served.settled()
            assert not served.app.requests
            assert not served.app.refusals

    run(scenario())


async def _waiting(request: Request, response: Response) -> None:
    await asyncio.Event().wait()


async def _waiting_with_its_head_held(request: Request, response: Response) -> None:
    response.start(200, b"")
    await asyncio.Event().wait()


async def _streaming(request: Request, response: Response) -> None:
    response.start(200, b"")
    response.write(b"first")
    while True:
        response.write(b"more")
        await asyncio.sleep(0.001)


async def _silent_in_its_stream(request: Request, response: Response) -> None:
    response.start(200, b"")
    response.write(b"first")
    await asyncio.Event().wait()


async def _held_back(request: Request, response: Response) -> None:
    response.start(200, b"")
    while True:
        response.write(b"x" * 65536)
        await response.drain()


@BY
@pytest.mark.parametrize(
    "after", [b"", b"GET / HT", GET], ids=["", "with half a request after", "with a request after"]
)
@pytest.mark.parametrize(
    "handler", [_waiting, _waiting_with_its_head_held, _streaming, _silent_in_its_stream, _held_back]
)
def test_a_handler_is_cancelled_when_its_client_leaves(handler: Handler, after: bytes, leave: Leave) -> None:
    """I9: within a second, in every phase, whatever else has been pipelined."""

    async def scenario() -> None:
        async with serving(handler) as served:
            peer = await served.connect(receive_buffer_bytes=8192)
            await peer.send(GET + after)
            await served.app.arrived.wait()
            if handler is _held_back:
                await until(lambda: any(c.resumed is not None for c in served.server._connections))
            leave(peer)
            async with asyncio.timeout(1.0):
                await served.app.cancelled.wait()
            await served.settled()
            assert len(served.app.requests) == 1, "what was pipelined is not begun for a client that has left"

    run(scenario())


def test_a_second_request_is_cancelled_though_it_has_only_been_scheduled() -> None:
    """I9: between a request's arrival and its handler's first step, the answer before it must not count as its own."""

    async def scenario() -> None:
        async with serving() as served:
            peer = await served.connect()
            await peer.send(GET)
            await peer.answer()
            connection = next(iter(served.server._connections))
            connection.data_received(GET)
            task = connection._task
            connection.connection_lost(None)
            assert task is not None
            await asyncio.wait([task])
            assert task.cancelled()
            assert len(served.app.requests) == 1
            connection.lost = False
            connection._transport.abort()

    run(scenario())


def test_a_handler_that_has_answered_is_let_finish() -> None:
    """What follows the answer, the record of it, is not the client's to cancel."""

    async def scenario() -> None:
        finished = asyncio.Event()
        left = asyncio.Event()

        async def handler(request: Request, response: Response) -> None:
            response.send(200, b"", b"")
            await left.wait()
            assert response.gone
            finished.set()

        async with serving(handler) as served:
            peer = await served.connect()
            await peer.send(GET)
            await peer.answer()
            peer.close()
            await until(lambda: all(connection.lost for connection in served.server._connections))
            left.set()
            await finished.wait()
            assert not served.app.cancelled.is_set()

    run(scenario())


def test_a_handler_that_is_cancelled_twice_leaves_nothing() -> None:
    async def scenario() -> None:
        async def handler(request: Request, response: Response) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.01)

        async with serving(handler) as served:
            peer = await served.connect()
            await peer.send(GET)
            await served.app.arrived.wait()
            connection = next(iter(served.server._connections))
            peer.close()
            await until(lambda: connection.lost)
            assert connection._task is not None
            connection._task.cancel()
            await served.settled()

    run(scenario())


def proxy(pool: Pool, passed: list[int]) -> Callable[[Request, Response], Awaitable[None]]:
    """What the gateway does with a stream: read, write, wait for the client."""

    async def handler(request: Request, response: Response) -> None:
        async with pool.exchange("GET", "/", deadline=NEVER) as answer:
            response.start(answer.status, b"")
            while data := await answer.read(NEVER):
                passed.append(len(data))
                response.write(data)
                if response.paused:
                    await response.drain()
            response.end()

    return handler


async def _pour(peer: Peer, poured: list[int], piece: bytes) -> None:
    while True:
        await peer.send(piece)
        poured.append(len(piece))


@pytest.mark.parametrize("framing", ["chunks", "length", "end of connection"])
def test_a_client_that_does_not_read_stops_the_reading_from_its_backend(framing: str) -> None:
    """I13: what Hermes itself holds stays within the high-water marks; the rest waits where it was made."""

    async def scenario() -> None:
        passed: list[int] = []
        poured: list[int] = []
        head = {
            "chunks": b"transfer-encoding: chunked\r\n\r\n",
            "length": b"content-length: 1000000000\r\n\r\n",
            "end of connection": b"\r\n",
        }[framing]
        piece = b"4000\r\n" + b"x" * 0x4000 + b"\r\n" if framing == "chunks" else b"x" * 0x4000
        async with listening() as (backend, pool), serving(proxy(pool, passed)) as served:
            client = await served.connect(receive_buffer_bytes=8192)
            await client.send(GET)
            peer = await backend.accept()
            await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\n" + head)
            loop = asyncio.get_running_loop()
            pouring = loop.create_task(_pour(peer, poured, piece))
            await until(lambda: any(c._held for c in pool._open), "the backend is not held back")
            upstream = next(iter(pool._open))
            downstream = next(iter(served.server._connections))
            count = -1
            while count != len(poured):  # until the kernel's buffers are full as well
                count = len(poured)
                await served.after(0)
            held = upstream.body_bytes + downstream._transport.get_write_buffer_size()
            assert held <= 2 * HIGH_WATER_BYTES + 2 * 256_000, "each side may exceed its mark by one read"
            assert sum(passed) + upstream.body_bytes < sum(poured)

            for _ in range(1000):  # a client that reads again gets it all going again
                await client.receive()
            assert len(poured) > count
            pouring.cancel()
            await asyncio.wait([pouring])
            client.close()
            await peer.gone()

    run(scenario())


@pytest.mark.parametrize("phase", ["before the answer", "in the stream", "held back", "between two reads"])
def test_the_backend_sees_within_a_second_that_the_client_has_left(phase: str) -> None:
    """I9, end to end: client, server, pool, backend."""

    async def scenario() -> None:
        passed: list[int] = []
        async with listening() as (backend, pool), serving(proxy(pool, passed)) as served:
            client = await served.connect(receive_buffer_bytes=8192)
            await client.send(GET)
            peer = await backend.accept()
            await peer.request()
            pouring = None
            if phase != "before the answer":
                await peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n")
                await client.until(b"1\r\nx\r\n")
            if phase == "between two reads":
                await peer.send(b"5\r\nab")
            if phase == "held back":
                piece = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
                pouring = asyncio.get_running_loop().create_task(_pour(peer, [], piece))
                await until(lambda: any(c._held for c in pool._open))
            client.close()
            async with asyncio.timeout(1.0):
                if pouring is None:
                    await peer.gone()
                else:
                    await asyncio.wait([pouring])
            if pouring is not None:
                assert isinstance(pouring.exception(), ConnectionError)
            await served.settled()
            await until(lambda: not pool.open_connections)

    run(scenario())
