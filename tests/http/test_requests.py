"""Which bytes become a request, and which are refused (invariants I10, I11)."""

import asyncio
from contextlib import suppress
from itertools import pairwise, permutations
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hermes.http import heads as heads_module
from hermes.http.connection import App as Answering
from hermes.http.connection import ServerConnection
from hermes.http.heads import Heads
from hermes.http.limits import Limits
from hermes.http.request import Head, Request
from hermes.http.response import Response
from tests.http.peers import HOST, App, Peer, background, serving
from tests.support import run, until

GET = b"GET / HTTP/1.1\r\n" + HOST
POST = b"POST /p HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"

# name, bytes, body as the application must see it
ACCEPTED = [
    ("no body", GET + b"\r\n", b""),
    ("content-length", POST + b"Content-Length: 3\r\n\r\nabc", b"abc"),
    ("a blank after the length", POST + b"Content-Length: 3 \t\r\n\r\nabc", b"abc"),
    ("chunks", CHUNKED + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", b"abcde"),
    ("leading zeros and capitals in chunk sizes", CHUNKED + b"000A\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
    ("chunk extensions", CHUNKED + b'3;a=b;c="d;e"\r\nabc\r\n0;last\r\n\r\n', b"abc"),
    ("trailers", CHUNKED + b"3\r\nabc\r\n0\r\nX-Checksum: 1\r\n\r\n", b"abc"),
    ("the chunked coding in capitals", POST + b"Transfer-Encoding: CHUNKED\r\n\r\n0\r\n\r\n", b""),
    ("blank lines before it", b"\r\n\r\n" + GET + b"\r\n", b""),
    ("a header without a value", GET + b"X-Empty:\r\n\r\n", b""),
    ("bytes above ASCII in a value", GET + b"X-Name: \xc3\xa9\xff\r\n\r\n", b""),
    ("GET with a body", GET + b"Content-Length: 2\r\n\r\nhi", b"hi"),
    ("HTTP/1.0 without Host", b"POST /p HTTP/1.0\r\nContent-Length: 1\r\n\r\nx", b"x"),
]

# name, bytes, error code
REFUSED = [
    ("not HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", "malformed_http"),
    ("the HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "malformed_http"),
    ("HTTP/2.0", b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", "http_version_not_supported"),
    ("HTTP/0.9", b"GET /\r\n\r\n", "http_version_not_supported"),
    ("an unknown method", b"BREW / HTTP/1.1\r\n" + HOST + b"\r\n", "malformed_http"),
    ("a method in small letters", b"get / HTTP/1.1\r\n" + HOST + b"\r\n", "malformed_http"),
    ("no Host", b"GET / HTTP/1.1\r\n\r\n", "missing_host"),
    ("two Hosts", GET + HOST + b"\r\n", "duplicate_header"),
    ("two credentials", GET + b"Authorization: Bearer a\r\nauthorization: Bearer b\r\n\r\n", "duplicate_header"),
    ("length and chunks", POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", "malformed_http"),
    ("chunks and length", POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", "malformed_http"),
    ("two lengths", POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", "malformed_http"),
    ("two lengths that differ", POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc", "malformed_http"),
    ("a list of lengths", POST + b"Content-Length: 3, 3\r\n\r\nabc", "malformed_http"),
    ("a signed length", POST + b"Content-Length: +3\r\n\r\nabc", "malformed_http"),
    ("a negative length", POST + b"Content-Length: -3\r\n\r\nabc", "malformed_http"),
    ("a hexadecimal length", POST + b"Content-Length: 0x3\r\n\r\nabc", "malformed_http"),
    ("an empty length", POST + b"Content-Length: \r\n\r\n", "malformed_http"),
    ("a length beyond 64 bits", POST + b"Content-Length: 99999999999999999999\r\n\r\n", "malformed_http"),
    ("bare LF after the request line", b"GET / HTTP/1.1\n" + HOST + b"\r\n", "malformed_http"),
    ("bare LF after a header", GET + b"X: a\nY: b\r\n\r\n", "malformed_http"),
    ("bare LF at the end of the head", GET + b"\n", "malformed_http"),
    ("bare CR in a header", GET + b"X: a\rb\r\n\r\n", "malformed_http"),
    ("NUL in a header", GET + b"X: a\0b\r\n\r\n", "malformed_http"),
    ("a control character in a header", GET + b"X: a\x0bb\r\n\r\n", "malformed_http"),
    ("NUL in the target", b"GET /\0 HTTP/1.1\r\n" + HOST + b"\r\n", "malformed_http"),
    ("a folded header", GET + b"X: a\r\n b\r\n\r\n", "malformed_http"),
    ("a header folded by a tab", GET + b"X: a\r\n\tb\r\n\r\n", "malformed_http"),
    ("a space before the first header", b"GET / HTTP/1.1\r\n " + HOST + b"\r\n", "malformed_http"),
    ("a space before the colon", GET + b"X : a\r\n\r\n", "malformed_http"),
    ("a tab before the colon", GET + b"Content-Length\t: 3\r\n\r\nabc", "malformed_http"),
    ("a header without a name", GET + b": a\r\n\r\n", "malformed_http"),
    ("a header without a colon", GET + b"X\r\n\r\n", "malformed_http"),
    ("a header name above ASCII", GET + b"X\xe9: a\r\n\r\n", "malformed_http"),
    ("an absolute target", b"GET http://hermes.test/ HTTP/1.1\r\n" + HOST + b"\r\n", "malformed_target"),
    ("CONNECT", b"CONNECT hermes.test:80 HTTP/1.1\r\n" + HOST + b"\r\n", "malformed_target"),
    ("CONNECT to a path", b"CONNECT / HTTP/1.1\r\n" + HOST + b"Upgrade: x\r\n\r\n", "malformed_target"),
    ("a fragment", b"GET /a#b HTTP/1.1\r\n" + HOST + b"\r\n", "malformed_target"),
    ("a target above ASCII", b"GET /\xc3\xa9 HTTP/1.1\r\n" + HOST + b"\r\n", "malformed_http"),
    ("a space in the target", b"GET /a b HTTP/1.1\r\n" + HOST + b"\r\n", "malformed_http"),
    ("a coding besides chunked", POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n", "unsupported_transfer_encoding"),
    ("a coding after chunked", POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n", None),
    ("an unknown coding", POST + b"Transfer-Encoding: xchunked\r\n\r\n", "unsupported_transfer_encoding"),
    ("the identity coding", POST + b"Transfer-Encoding: identity\r\n\r\n", "unsupported_transfer_encoding"),
    ("chunked twice in a list", POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n", None),
    ("chunked twice", POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", None),
    ("chunks in HTTP/1.0", b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", None),
    ("a chunk size that is no number", CHUNKED + b"g\r\n", "malformed_http"),
    ("a chunk size with a prefix", CHUNKED + b"0x3\r\nabc\r\n", "malformed_http"),
    ("a negative chunk size", CHUNKED + b"-3\r\nabc\r\n", "malformed_http"),
    ("a signed chunk size", CHUNKED + b"+3\r\nabc\r\n", "malformed_http"),
    ("no chunk size", CHUNKED + b"\r\nabc\r\n", "malformed_http"),
    ("a blank after a chunk size", CHUNKED + b"3 \r\nabc\r\n", "malformed_http"),
    ("a chunk size beyond 64 bits", CHUNKED + b"fffffffffffffffff\r\n", "malformed_http"),
    ("bare LF after a chunk size", CHUNKED + b"3\nabc\r\n0\r\n\r\n", "malformed_http"),
    ("bare LF in a chunk extension", CHUNKED + b"3;a\nbc\r\nabc\r\n", "malformed_http"),
    ("bare LF after a chunk", CHUNKED + b"3\r\nabc\n0\r\n\r\n", "malformed_http"),
    ("a chunk longer than its size", CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n", "malformed_http"),
    ("bare LF after the trailers", CHUNKED + b"0\r\nX: a\r\n\n", "malformed_http"),
    ("an expectation that cannot be met", POST + b"Expect: 200-ok\r\nContent-Length: 1\r\n\r\n", "expectation_failed"),
]


@pytest.mark.parametrize(("data", "body"), [case[1:] for case in ACCEPTED], ids=[case[0] for case in ACCEPTED])
@pytest.mark.parametrize("apart", [False, True], ids=["whole", "byte by byte"])
def test_a_valid_request_reaches_the_application_whole(data: bytes, body: bytes, apart: bool) -> None:
    """I10."""

    async def scenario() -> None:
        async with serving() as served:
            peer = await served.connect()
            await (peer.send_apart(data) if apart else peer.send(data))
            assert (await peer.answer()).status == 200
            assert [request.body for request in served.app.requests] == [body]

    run(scenario())


@pytest.mark.parametrize(("data", "code"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
@pytest.mark.parametrize("apart", [False, True], ids=["whole", "byte by byte"])
def test_a_malformed_request_is_refused_and_its_connection_closed(data: bytes, code: str | None, apart: bool) -> None:
    """I10, I11. What follows on the connection, a smuggled request for instance, is never looked at."""

    async def scenario() -> None:
        async with serving() as served:
            peer = await served.connect()
            await (peer.send_apart(data) if apart else peer.send(data))
            await _send_what_can_be_sent(peer, GET + b"\r\n")
            answer = await peer.answer()
            assert 400 <= answer.status < 500
            assert answer.headers["connection"] == "close"
            assert code is None or answer.body.decode() == code
            assert await peer.rest() == b""
            assert not served.app.requests
            assert len(served.app.refusals) == 1

    run(scenario())


async def _send_what_can_be_sent(peer: Peer, data: bytes) -> None:
    with suppress(ConnectionError):
        await peer.send(data)


@pytest.mark.parametrize(
    ("sent", "seen"),
    [
        (b"//evil.test/x", b"//evil.test/x"),
        (b"/a/../b", b"/a/../b"),
        (b"/%2e%2E%2f", b"/%2e%2E%2f"),
        (b"/a?b?c", b"/a"),
    ],
)
def test_a_path_is_handed_on_as_it_came(sent: bytes, seen: bytes) -> None:
    """I16 rests on it: nothing is decoded, collapsed or resolved, and `//` starts no authority."""

    async def scenario() -> None:
        async with serving() as served:
            await served.ask(b"GET %b HTTP/1.1\r\n" % sent + HOST + b"\r\n")
            assert served.app.requests[0].path == seen

    run(scenario())


def test_repeated_list_headers_are_joined_and_their_names_are_small() -> None:
    async def scenario() -> None:
        async with serving() as served:
            await served.ask(GET + b"ACCEPT: a\r\naccept: b\r\nX-Key:  k \r\n\r\n")
            request = served.app.requests[0]
            assert request.headers[b"accept"] == b"a, b"
            assert request.header(b"x-key") == "k"

    run(scenario())


def test_trailers_are_not_headers() -> None:
    """RFC 9110 6.5.1: a credential or a host in a trailer must not count."""

    async def scenario() -> None:
        async with serving() as served:
            trailers = b"Authorization: Bearer smuggled\r\nX-Late: 1\r\n"
            peer = await served.connect()
            await peer.send(CHUNKED + b"1\r\nx\r\n0\r\n" + trailers + b"\r\n" + GET + b"\r\n")
            assert (await peer.answer()).status == 200
            assert (await peer.answer()).status == 200
            for request in served.app.requests:
                assert b"authorization" not in request.headers
                assert b"x-late" not in request.headers

    run(scenario())


SMALL = Limits(request_line_bytes=100, headers_bytes=400, header_fields=10, body_bytes=1000, linger_s=0.2)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /" + b"a" * 99 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 200),
        (b"GET /" + b"a" * 100 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414),
        (b"GET /" + b"a" * 5000, 414),
        (GET + b"X: " + b"a" * 370 + b"\r\n\r\n", 200),
        (GET + b"X: " + b"a" * 400 + b"\r\n\r\n", 431),
        (GET + b"X: " + b"a" * 5000, 431),
        (GET + b"x" * 5000, 431),
        (GET + b"".join(b"X%d: 1\r\n" % n for n in range(9)) + b"\r\n", 200),
        (GET + b"".join(b"X%d: 1\r\n" % n for n in range(10)) + b"\r\n", 431),
        (GET + b"A:\r\n" * 9 + b"\r\n", 200),
        (GET + b"A:\r\n" * 10 + b"\r\n", 431),
        (b"\r\n" * 5000, 431),
        (POST + b"Content-Length: 1000\r\n\r\n" + b"a" * 1000, 200),
        (POST + b"Content-Length: 1001\r\n\r\n", 413),
        (CHUNKED + b"3e8\r\n" + b"a" * 1000 + b"\r\n0\r\n\r\n", 200),
        (CHUNKED + b"3e9\r\n" + b"a" * 1001 + b"\r\n0\r\n\r\n", 413),
        (CHUNKED + b"1\r\na\r\n" * 1000 + b"0\r\n\r\n", 200),
        (CHUNKED + b"1\r\na\r\n" * 1001 + b"0\r\n\r\n", 413),
    ],
)
@pytest.mark.parametrize("apart", [False, True], ids=["whole", "byte by byte"])
def test_every_size_has_a_limit_and_the_limit_itself_is_allowed(data: bytes, status: int, apart: bool) -> None:
    """I10: request line, fields, headers and body, in one read or in many."""

    async def scenario() -> None:
        async with serving(limits=SMALL) as served:
            peer = await served.connect()
            try:
                await (peer.send_apart(data) if apart else peer.send(data))
            except ConnectionError:
                assert status != 200
            assert (await peer.answer()).status == status
            assert len(served.app.requests) == (status == 200)

    run(scenario())


def test_the_default_limits_are_the_documented_ones() -> None:
    """I10: request line 8 KiB, headers 32 KiB and 100 fields, body 10 MiB, heads within 10 s."""
    limits = Limits()
    assert (limits.request_line_bytes, limits.headers_bytes, limits.header_fields) == (8 << 10, 32 << 10, 100)
    assert (limits.body_bytes, limits.header_timeout_s) == (10 << 20, 10.0)


@pytest.mark.parametrize(
    "flood",
    [b"1;" + b"e" * 2000, b"1\r\na\r\n0\r\n" + b"X: " + b"t" * 2000, b"1\r\na\r\n0\r\n" + b"X: t\r\n" * 400],
    ids=["one endless chunk extension", "one endless trailer", "endless trailers"],
)
def test_framing_without_end_is_refused(flood: bytes) -> None:
    """I10: what no limit on the body counts, chunk extensions and trailers, has its own."""

    async def scenario() -> None:
        async with serving(limits=SMALL) as served:
            peer = await served.connect()
            await peer.send(CHUNKED)
            await until(lambda: served.busy)  # what comes with the head in one read is not weighed
            with suppress(ConnectionError):
                await peer.send_apart(flood)
            assert (await peer.answer()).status == 431
            assert not served.app.requests

    run(scenario())


def test_many_small_chunks_with_long_extensions_are_refused() -> None:
    """A byte of content buys eight of framing, not thousands (compare CVE-2023-39326 in Go)."""

    async def scenario() -> None:
        async with serving(limits=SMALL) as served:
            peer = await served.connect()
            await peer.send(CHUNKED)
            await until(lambda: served.busy)
            with pytest.raises(ConnectionError):
                for _ in range(400):
                    await peer.send(b"1;" + b"e" * 98 + b"\r\na\r\n")
                    await asyncio.sleep(0)
                await peer.gone()
                raise ConnectionResetError
            assert served.app.refusals[0].status == 431
            assert not served.app.requests

    run(scenario())


def test_while_a_flood_of_small_chunks_comes_everyone_else_has_a_turn_after_each_read() -> None:
    """I36: libuv by itself would read it up to 32 times in one event, 8 MB at once."""

    async def scenario() -> None:
        async with serving() as served:
            arrived = []  # bytes of body, turn by turn

            async def look() -> None:
                while True:
                    arrived.append(served.server.arriving_bytes)
                    await asyncio.sleep(0)

            peer = await served.connect()
            async with background(look()):
                await peer.send(CHUNKED + b"1\r\na\r\n" * 500_000)
                await until(lambda: served.server.arriving_bytes == 500_000)
            assert max(after - before for before, after in pairwise(arrived)) <= 256_000 / 6 + 1

    run(scenario())


def test_bodies_that_arrive_are_bounded_all_together() -> None:
    """I4: by many clients as by one; what has arrived, was refused or left makes room."""

    async def scenario() -> None:
        limits = Limits(body_bytes=1000, arriving_bytes=1500, linger_s=0.2)
        async with serving(limits=limits) as served:
            head = POST + b"Content-Length: 900\r\n\r\n"
            first, second, third = [await served.connect() for _ in range(3)]
            await first.send(head + b"a" * 800)
            await until(lambda: served.server.arriving_bytes == 800)
            await second.send(head + b"b" * 800)
            assert (await second.answer()).status == 503
            await until(lambda: served.server.arriving_bytes == 800)
            await first.send(b"a" * 100)
            assert (await first.answer()).status == 200
            await third.send(head + b"c" * 800)
            await until(lambda: served.server.arriving_bytes == 800)
            third.close()
            await until(lambda: served.server.arriving_bytes == 0)

    run(scenario())


def test_requests_that_wait_behind_another_count_among_what_arrives() -> None:
    """I4."""

    async def scenario() -> None:
        release = asyncio.Event()

        async def handler(request: Request, response: Response) -> None:
            await release.wait()
            response.send(200, b"", request.body)

        async with serving(handler) as served:
            peer = await served.connect()
            await peer.send(GET + b"\r\n" + POST + b"Content-Length: 5\r\n\r\nhello")
            await until(lambda: served.server.arriving_bytes == 5)
            release.set()
            assert [(await peer.answer()).status for _ in range(2)] == [200, 200]
            assert served.server.arriving_bytes == 0

    run(scenario())


class _Wire(asyncio.Transport):
    """A transport that goes nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...
    def get_write_buffer_size(self) -> int:
        return 0

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None: ...
    def abort(self) -> None: ...
    def close(self) -> None: ...


class _Host:
    """A server without sockets."""

    def __init__(self, app: Answering, limits: Limits, heads: Heads) -> None:
        self.app = app
        self.limits = limits
        self.heads = heads
        self.arriving_bytes = 0
        self.loop = asyncio.get_running_loop()
        self.clock = self.loop.time
        self.closing = False
        self.hurries = False

    def welcome(self, connection: ServerConnection) -> bool:
        return True

    def farewell(self, connection: ServerConnection) -> None: ...

    def date_line(self) -> bytes:
        return b""


async def _feed(pieces: list[bytes], heads: Heads | None = None) -> tuple[list[tuple[object, ...]], list[str], bytes]:
    """What the application sees, what is refused, and what is answered. `heads`: those that came before."""
    app = App()
    connection = ServerConnection(_Host(app, SMALL, heads or Heads()))
    wire = _Wire()
    connection.connection_made(wire)
    for piece in pieces:
        connection.data_received(piece)
    while (task := connection._task) is not None:
        await asyncio.wait([task])
    connection.connection_lost(None)
    seen = [(request.method, request.path, request.query, request.headers, request.body) for request in app.requests]
    return cast(list[tuple[object, ...]], seen), [error.code for error in app.refusals], b"".join(wire.written)


MESSAGES = [case[1] for case in ACCEPTED] + [case[1] for case in REFUSED]
MESSAGES += [POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nabc"]


@pytest.mark.parametrize("blank", [b"\n\r\n\r\n", b"\r\n\r\n", b"\n\n", b"\r\n"])
def test_blank_lines_are_never_taken_for_the_head_that_once_followed_them(blank: bytes) -> None:
    """I17: or they would bring somebody else's request, with his credentials."""

    async def scenario() -> None:
        heads = Heads()
        mine = blank + b"GET /mine HTTP/1.1\r\n" + HOST + b"Authorization: Bearer mine\r\n\r\n"
        for _ in range(3):
            await _feed([mine], heads)
        assert (await _feed([blank], heads))[0] == []
        seen, _, _ = await _feed([blank + b"GET /other HTTP/1.1\r\n" + HOST + b"\r\n"], heads)
        assert [request[1] for request in seen] == [b"/other"]

    run(scenario())


def test_on_one_connection_no_head_is_taken_for_the_one_before_it() -> None:
    """I10, I17: each of them is known, and they differ before the length, after it, or have none."""

    async def scenario() -> None:
        bodies = [POST + b"Content-Length: 1\r\nX-Api-Key: %b\r\n\r\nx" % key for key in (b"a", b"b")]
        others = [b"POST /q HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nX-Api-Key: a\r\n\r\nx"]
        others += [b"GET /%b HTTP/1.1\r\n" % path + HOST + b"\r\n" for path in (b"a", b"b")]
        heads = Heads()
        for message in bodies + others:
            for _ in range(2):
                await _feed([message], heads)
        for two in permutations(bodies + others, 2):
            assert await _feed([*two], heads) == await _feed([*two])

    run(scenario())


# Heads of those above, with other lengths, and what could be taken for one of them.
OTHER_LENGTHS = [
    b"\n" + POST + b"Content-Length: 3\r\n\r\nabc",
    b"\n\r\n\r\n" + GET + b"\r\n",
    b"\n\r\n\r\n",
    POST + b"Content-Length: 12\r\n\r\n012345678901",
    POST + b"Content-Length: 0\r\n\r\n",
    POST + b"Content-Length: 0003\r\n\r\nabc",
    POST + b"Content-Length: 99999\r\n\r\n",
    POST + b"content-length: 3\r\n\r\nabc",
    POST + b"Content-Length: 3\r\nContent-Length: \r\n\r\nabc",
    POST + b"Content-Length:3\r\n\r\nabc",
    POST + b"\r\n\r\nContent-Length: 3\r\n\r\nabc",
    GET + b"Content-Length: 0\r\n\r\n",
    b"\r\n" + POST + b"Content-Length: 3\r\n\r\nabc",
]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(MESSAGES), min_size=1, max_size=3), st.data())
def test_requests_are_the_same_however_the_bytes_are_cut(messages: list[bytes], data: st.DataObject) -> None:
    """Whole, byte by byte, and at any cut (I10)."""
    stream = b"".join(messages)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(stream) - 1), max_size=8)))

    async def scenario() -> None:
        whole = await _feed([stream])
        assert await _feed([stream[start:end] for start, end in pairwise([0, *cuts, len(stream)])]) == whole
        assert await _feed([stream[position : position + 1] for position in range(len(stream))]) == whole

    run(scenario())


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(MESSAGES + OTHER_LENGTHS), min_size=1, max_size=3), st.data())
def test_a_head_that_came_before_means_the_same_again(messages: list[bytes], data: st.DataObject) -> None:
    """Whether heads are read or remembered makes no difference, at any cut (I10)."""
    stream = b"".join(messages)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(stream) - 1), max_size=8)))

    async def scenario() -> None:
        read = await _feed([stream[position : position + 1] for position in range(len(stream))])
        heads = Heads()
        for message in MESSAGES * 2:
            await _feed([message], heads)
        assert await _feed([stream], heads) == read
        assert await _feed([stream[start:end] for start, end in pairwise([0, *cuts, len(stream)])], heads) == read

    run(scenario())


def test_a_head_that_came_before_is_not_read_again() -> None:
    """Its body may have another length, and may come later."""

    async def scenario() -> None:
        heads = Heads()
        first = POST + b"Content-Length: 3\r\n\r\n"
        second = POST + b"Content-Length: 12\r\n\r\n"
        for _ in range(2):  # some clients never send one twice
            await _feed([first + b"abc"], heads)
        app = App()
        connection = ServerConnection(_Host(app, SMALL, heads))
        connection.connection_made(_Wire())
        for piece in (second, b"0123456", b"78901"):
            connection.data_received(piece)
        assert connection._task is not None
        await asyncio.wait([connection._task])
        assert [request.body for request in app.requests] == [b"012345678901"]
        assert connection._arrival._parser is None
        connection.connection_lost(None)

    run(scenario())


def test_the_heads_remembered_are_bounded() -> None:
    """I4, I13: by number, and by the length of each."""

    async def scenario() -> None:
        heads = Heads()
        for number in range(3 * heads_module.COUNT):
            for _ in range(2):
                await _feed([b"GET /%d HTTP/1.1\r\n" % number + HOST + b"\r\n"], heads)
        assert 0 < len(heads._known) <= heads_module.COUNT
        heads = Heads()
        for padding in (100, heads_module.BYTES):
            head = Head("GET", b"/", b"", {b"x": b"x" * padding})
            for _ in range(2):
                heads.learn(b"GET / HTTP/1.1\r\nX: " + b"x" * padding + b"\r\n\r\n", head)
        assert len(heads._known) == 1

    run(scenario())


def test_who_has_read_the_last_answer_late_has_no_longer_to_leave_than_others() -> None:
    """I13: the time to read is over with the reading."""

    async def scenario() -> None:
        async def handler(request: Request, response: Response) -> None:
            response.send(200, b"", b"")

        host = _Host(App(handler), SMALL, Heads())
        connection = ServerConnection(host)
        connection.connection_made(_Wire())
        connection.data_received(GET + b"Connection: close\r\n\r\n")
        assert connection._task is not None
        await asyncio.wait([connection._task])
        connection.pause_writing()
        connection.resume_writing()
        assert connection.deadline <= host.loop.time() + SMALL.linger_s
        connection.connection_lost(None)

    run(scenario())


def test_a_bug_in_a_parser_call_is_not_blamed_on_the_client() -> None:
    """It reaches the loop's exception handler with its traceback, and no 400 is sent."""

    async def scenario() -> None:
        async def handler(request: Request, response: Response) -> None:
            raise AssertionError

        app = App(handler)
        connection = ServerConnection(_Host(app, cast(Limits, None), Heads()))
        wire = _Wire()
        connection._transport = wire
        with pytest.raises(Exception, match="callback") as caught:
            connection.data_received(GET + b"\r\n")
        assert isinstance(caught.value.__context__, AttributeError)
        assert not wire.written

    run(scenario())
