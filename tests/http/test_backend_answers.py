"""What a backend may send, and what becomes of it: it is not trusted for bytes (invariant I15)."""

import asyncio
from contextlib import suppress
from typing import Literal

import pytest

from hermes.errors import BackendError
from hermes.http.client import ENOUGH, ClientConnection, PoolLimits
from hermes.http.pool import Pool
from hermes.http.wire import NEVER
from tests.http.peers import background, listening
from tests.support import run, until

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"


# Piece by piece as it is asked for, or as it comes; or not before it is complete.
Way = Literal["read", "flow", "whole"]


class Read:
    """What an exchange has given to its caller."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.body = b""
        self.pieces = 0
        self.ended = False

    async def take(self, pool: Pool, way: Way = "read") -> None:
        async with pool.exchange("GET", "/", whole=way == "whole", deadline=NEVER) as answer:
            self.status, self.headers = answer.status, answer.headers
            await (self._flow(answer) if way == "flow" else self._read(answer))
            self.ended = True

    async def _read(self, answer: ClientConnection) -> None:
        while data := await answer.read(NEVER):
            self.body += data

    async def _flow(self, answer: ClientConnection) -> None:
        while not await answer.flow(self._keep, NEVER):
            pass

    def _keep(self, data: bytes) -> float:
        """Every other piece is enough for now."""
        self.body += data
        self.pieces += 1
        return NEVER if self.pieces % 2 else ENOUGH


async def _exchange(data: bytes, way: Way, apart: bool, then: str, limits: PoolLimits | None = None) -> Read:
    """Send `data` as the answer and leave then. Raises what the exchange raises."""
    read = Read()
    async with (
        listening(limits or PoolLimits(whole_bytes=300_000)) as (backend, pool),
        background(read.take(pool, way)) as reading,
    ):
        peer = await backend.accept()
        await peer.request()
        with suppress(ConnectionError):
            await (peer.send_apart(data) if apart else peer.send(data))
        if then == "close":
            peer.close()
        elif then == "reset":
            await until(lambda: all(c.body_bytes or read.body for c in pool._open))
            peer.reset()
        await reading
    return read


HOW = pytest.mark.parametrize("apart", [False, True], ids=["whole", "byte by byte"])
WAY = pytest.mark.parametrize("way", ["read", "flow", "whole"])
STREAMED = pytest.mark.parametrize("way", ["read", "flow"])


@HOW
@WAY
@pytest.mark.parametrize(
    ("data", "status", "body"),
    [
        (OK + b"Content-Length: 3\r\n\r\nabc", 200, b"abc"),
        (OK + b"content-length: 0\r\n\r\n", 200, b""),
        (CHUNKED + b"3\r\nabc\r\n1;x=y\r\nd\r\n0\r\nx-trailer: 1\r\n\r\n", 200, b"abcd"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 3\r\n\r\n", 304, b""),
        (
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nlink: a\r\n\r\n" + OK + b"content-length: 1\r\n\r\nx",
            200,
            b"x",
        ),
        (b"HTTP/1.1 500\r\ncontent-length: 1\r\n\r\nx", 500, b"x"),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\nx", 200, b"x"),
    ],
    ids=["length", "empty", "chunks", "204", "304", "interim answers", "no reason", "HTTP/1.0"],
)
def test_a_valid_answer_is_read(data: bytes, status: int, body: bytes, way: Way, apart: bool) -> None:
    read = run(_exchange(data, way, apart, then="stay"))
    assert (read.status, read.body, read.ended) == (status, body, True)
    assert b"link" not in read.headers
    assert b"x-trailer" not in read.headers


@WAY
def test_the_end_of_the_connection_ends_a_body_without_length(way: Way) -> None:
    """RFC 9112 6.3."""
    read = run(_exchange(OK + b"\r\nabc", way, apart=False, then="close"))
    assert (read.body, read.ended) == (b"abc", True)


@WAY
@HOW
@pytest.mark.parametrize(
    ("data", "then", "message"),
    [
        (b"", "close", "before its answer was complete"),
        (b"HTTP/1.1 20", "close", "before its answer was complete"),
        (OK + b"content-length: 4\r\n\r\nabc", "close", "before its answer was complete"),
        (OK + b"content-length: 4\r\n\r\nabc", "reset", "before its answer was complete"),
        (CHUNKED + b"3\r\nabc\r\n", "close", "before its answer was complete"),
        (CHUNKED + b"3\r\nabc\r\n0\r\n", "close", "before its answer was complete"),
        (OK + b"\r\nabc", "reset", "before its answer was complete"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "close", "before its answer was complete"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "stay", "not HTTP"),
        (b'{"error": "no"}', "stay", "not HTTP"),
        (b"HTTP/2 200 OK\r\n\r\n", "stay", "not HTTP"),
        (b"HTTP/1.1 abc OK\r\n\r\n", "stay", "not HTTP"),
        (b"HTTP/1.1 099 OK\r\n\r\n", "stay", "status 99"),
        (b"HTTP/1.1 000 OK\r\ncontent-length: 0\r\n\r\n", "stay", "status 0"),
        (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", "stay", "not HTTP"),
        (OK + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n", "stay", "not HTTP"),
        (OK + b"content-length: 3\r\ncontent-length: 4\r\n\r\nabcd", "stay", "not HTTP"),
        (OK + b"x: a\0b\r\n\r\n", "stay", "not HTTP"),
        (b"HTTP/1.1 200 OK\ncontent-length: 0\n\n", "stay", "not HTTP"),
        (CHUNKED + b"xyz\r\n", "stay", "not HTTP"),
        (CHUNKED + b"3\r\nabcd\r\n", "stay", "not HTTP"),
        (OK + b"x: " + b"a" * 5_000, "stay", "too long a head"),
        (OK + b"x" * 5_000, "stay", "too long a head"),
        (OK + b"x: " + b"a" * 5_000 + b"\r\ncontent-length: 0\r\n\r\n", "stay", "too long a head"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 200, "stay", "too long a head"),
        (OK + b"".join(b"x-%d: 1\r\n" % n for n in range(101)) + b"\r\n", "stay", "too many header fields"),
        (OK + b"".join(b"x-%d: 1\r\n" % n for n in range(100)) + b"content-length: 9\r\n\r\n", "close", "too many"),
        (CHUNKED + b"1;" + b"e" * 5_000, "stay", "too much framing"),
        (CHUNKED + b"1\r\na\r\n0\r\nx: " + b"t" * 5_000, "stay", "too much framing"),
    ],
)
def test_an_answer_that_is_not_whole_and_valid_is_an_error(
    data: bytes, then: str, message: str, way: Way, apart: bool
) -> None:
    """I15: truncation and garbage are never a success."""
    with pytest.raises(BackendError, match=message):
        run(_exchange(data, way, apart, then, PoolLimits(head_bytes=4_000)))


@STREAMED
def test_what_came_before_a_stream_broke_is_delivered_first(way: Way) -> None:
    async def scenario() -> None:
        read = Read()
        async with listening() as (backend, pool), background(read.take(pool, way)) as reading:
            peer = await backend.accept()
            await peer.request()
            await peer.send(CHUNKED)
            await until(lambda: read.status == 200)
            await peer.send(b"3\r\nabc\r\nzz")
            with pytest.raises(BackendError, match="not HTTP"):
                await reading
            assert (read.body, read.ended) == (b"abc", False)

    run(scenario())


@pytest.mark.parametrize(
    ("size", "fits"), [(300_000, True), (300_001, False), (3_000_000, False)], ids=["at", "one above", "far above"]
)
@pytest.mark.parametrize("chunked", [False, True])
def test_a_whole_answer_has_a_longest_length(size: int, fits: bool, chunked: bool) -> None:
    """I13, I15: however it arrives, also in one read with its end."""
    framed = b"%x\r\n" % size + b"x" * size + b"\r\n0\r\n\r\n"
    data = CHUNKED + framed if chunked else OK + b"content-length: %d\r\n\r\n" % size + b"x" * size
    if fits:
        assert len(run(_exchange(data, "whole", False, "stay")).body) == size
    else:
        with pytest.raises(BackendError, match="too long"):
            run(_exchange(data, "whole", False, "stay"))


@pytest.mark.parametrize(
    ("first", "rest", "why"),
    [
        (OK + b"content-length: 1\r\nx: " + b"x" * 900, b"x" * 150 + b"\r\n\r\ny", "too long a head"),
        (OK + b"content-length: 1500\r\n\r\n" + b"x" * 950, b"x" * 550, "too long"),
    ],
    ids=["the head", "the body"],
)
def test_what_comes_in_two_reads_is_limited_as_a_whole(first: bytes, rest: bytes, why: str) -> None:
    """I13, I15: each is short enough, and the second one ends the answer."""

    async def scenario() -> None:
        async with (
            listening(PoolLimits(head_bytes=1000, whole_bytes=1000)) as (backend, pool),
            background(Read().take(pool, "whole")) as reading,
        ):
            await (await backend.accept()).request()
            [connection] = pool._open
            connection.data_received(first)
            connection.data_received(rest)
            with pytest.raises(BackendError, match=why):
                await reading

    run(scenario())


def test_a_small_answer_above_the_longest_length_is_refused_though_it_comes_in_one_read() -> None:
    async def scenario() -> None:
        async with (
            listening(PoolLimits(whole_bytes=10)) as (backend, pool),
            background(Read().take(pool, "whole")) as reading,
        ):
            peer = await backend.accept()
            await peer.request()
            await peer.send(OK + b"content-length: 11\r\n\r\n" + b"x" * 11)
            with pytest.raises(BackendError, match="too long"):
                await reading

    run(scenario())


def test_reading_all_has_a_longest_length_too() -> None:
    async def scenario() -> None:
        async def read_all(pool: Pool) -> bytes:
            async with pool.exchange("GET", "/", deadline=NEVER) as answer:
                return await answer.read_all(10, NEVER)

        async with listening() as (backend, pool), background(read_all(pool)) as reading:
            peer = await backend.accept()
            await peer.request()
            await peer.send(OK + b"content-length: 11\r\n\r\n" + b"x" * 11)
            with pytest.raises(BackendError, match="longer than 10 bytes"):
                await reading

    run(scenario())


@STREAMED
def test_a_body_that_we_cut_short_ourselves_is_not_whole(way: Way) -> None:
    """An end of our own making must not pass for the end of a body without length."""

    async def scenario() -> None:
        read = Read()
        async with listening() as (backend, pool), background(read.take(pool, way)) as reading:
            peer = await backend.accept()
            await peer.request()
            await peer.send(OK + b"\r\nabc")
            await until(lambda: bool(read.body))
            pool.close()
            with pytest.raises(BackendError, match="was cut"):
                await reading
            assert not read.ended

    run(scenario())


@STREAMED
def test_a_stream_of_the_smallest_chunks_is_not_too_much_framing(way: Way) -> None:
    """An honest server may frame each byte on its own, and send size, content and end apart."""

    async def scenario() -> None:
        read = Read()
        limits = PoolLimits(head_bytes=1000)
        async with listening(limits) as (backend, pool), background(read.take(pool, way)) as reading:
            peer = await backend.accept()
            await peer.request()
            await peer.send(CHUNKED)
            for _ in range(2000):
                for piece in (b"0001\r\n", b"a", b"\r\n"):
                    await peer.send(piece)
                    await asyncio.sleep(0)
            await peer.send(b"0\r\n\r\n")
            await reading
            assert len(read.body) == 2000

    run(scenario())


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_in_a_flood_everyone_else_has_a_turn_after_each_read(framing: str) -> None:
    """I9, I36: libuv by itself would read it up to 32 times in one event, 8 MB at once."""
    flood = bytes(range(256)) * 16_000
    answer = OK + b"content-length: %d\r\n\r\n%b" % (len(flood), flood)
    if framing == "chunked":
        answer = CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(flood), flood)

    async def scenario() -> None:
        turn, turns, got = 0, [], bytearray()

        async def count() -> None:
            nonlocal turn
            while True:
                turn += 1
                await asyncio.sleep(0)

        def take(data: bytes) -> float:
            turns.append(turn)
            got.extend(data)
            return NEVER

        async def flow(pool: Pool) -> bool:
            async with pool.exchange("GET", "/", deadline=NEVER) as answer:
                await until(lambda: answer._held)
                return await answer.flow(take, NEVER)

        async with listening() as (backend, pool), background(flow(pool)) as flowing, background(count()):
            peer = await backend.accept()
            await peer.request()
            await peer.send(answer)
            assert await flowing
        assert got == flood
        read_in = turns[1:]  # the first piece was here before
        assert len(read_in) > 10
        assert len(read_in) == len(set(read_in))

    run(scenario())
