"""What goes back: framing, order, keep-alive, and the ends that must not look clean (invariants I5, I11, I12, I33)."""

import asyncio
from collections.abc import Callable

import pytest

from hermes.http.limits import Limits
from hermes.http.request import Request
from hermes.http.response import Response
from hermes.http.wire import STATUS_LINES, render_headers
from tests.http.peers import HOST, Handler, echo, serving
from tests.support import run, until


def get(path: bytes, *lines: bytes) -> bytes:
    return b"GET %b HTTP/1.1\r\n%b%b\r\n" % (path, HOST, b"".join(line + b"\r\n" for line in lines))


async def stream(request: Request, response: Response) -> None:
    response.start(200, b"content-type: text/plain\r\n")
    for piece in (b"a", b"", b"bc"):
        response.write(piece)
        await asyncio.sleep(0)
    response.end(b"d")


def test_a_connection_serves_one_request_after_the_other() -> None:
    async def scenario() -> None:
        async with serving() as served:
            peer = await served.connect()
            for path in (b"/a", b"/b", b"/c"):
                await peer.send(get(path))
                answer = await peer.answer()
                assert answer.body == b"GET %b " % path
                assert "connection" not in answer.headers
            assert served.server.open_connections == 1

    run(scenario())


@pytest.mark.parametrize("request_bytes", [get(b"/", b"Connection: close"), b"GET / HTTP/1.0\r\n\r\n"])
def test_a_connection_ends_after_the_answer_where_the_client_says_so(request_bytes: bytes) -> None:
    async def scenario() -> None:
        async with serving() as served:
            peer = await served.connect()
            await peer.send(request_bytes)
            answer = await peer.answer()
            assert answer.headers["connection"] == "close"
            assert await peer.rest() == b""

    run(scenario())


def test_nothing_after_a_request_that_closes_is_served() -> None:
    async def scenario() -> None:
        async with serving() as served:
            peer = await served.connect()
            await peer.send(get(b"/a", b"Connection: close") + get(b"/b"))
            assert (await peer.answer()).body == b"GET /a "
            assert await peer.rest() == b""
            assert len(served.app.requests) == 1
            assert not served.app.refusals

    run(scenario())


def test_a_streamed_answer_is_chunked() -> None:
    async def scenario() -> None:
        async with serving(stream) as served:
            peer = await served.connect()
            await peer.send(get(b"/"))
            answer = await peer.answer()
            assert (answer.body, answer.whole) == (b"abcd", True)
            await peer.send(get(b"/"))
            assert (await peer.answer()).body == b"abcd"

    run(scenario())


def test_a_streamed_answer_to_http_1_0_ends_with_the_connection() -> None:
    """RFC 9112 6.3: HTTP/1.0 knows no chunks."""

    async def scenario() -> None:
        async with serving(stream) as served:
            answer = await served.ask(b"GET / HTTP/1.0\r\n\r\n")
            assert answer.body == b"abcd"
            assert answer.headers["connection"] == "close"
            assert "transfer-encoding" not in answer.headers

    run(scenario())


@pytest.mark.parametrize("handler", [echo, stream])
def test_an_answer_to_head_has_the_head_only(handler: Handler) -> None:
    async def scenario() -> None:
        async with serving(handler) as served:
            peer = await served.connect()
            await peer.send(b"HEAD / HTTP/1.1\r\n" + HOST + b"\r\n" + get(b"/next"))
            head = await peer.answer("HEAD")
            assert head.status == 200
            assert "content-length" in head.headers or "transfer-encoding" in head.headers
            assert (await peer.answer()).whole

    run(scenario())


def test_pipelined_requests_are_answered_in_order_though_the_first_is_slow() -> None:
    async def scenario() -> None:
        first_may_end = asyncio.Event()

        async def handler(request: Request, response: Response) -> None:
            if request.path == b"/slow":
                await first_may_end.wait()
            response.send(200, b"", request.path)

        async with serving(handler) as served:
            peer = await served.connect()
            await peer.send(get(b"/slow") + get(b"/b") + b"BREW\r\n")
            await served.app.arrived.wait()
            assert len(served.app.requests) == 1, "one request of a connection at a time"
            first_may_end.set()
            assert (await peer.answer()).body == b"/slow"
            assert (await peer.answer()).body == b"/b"
            assert (await peer.answer()).status == 400
            assert await peer.rest() == b""

    run(scenario())


@pytest.mark.parametrize(
    ("limits", "bodies", "served_count"),
    [(Limits(pipeline_depth=4), [b""] * 50, 5), (Limits(body_bytes=1000), [b"x" * 600] * 10, 3)],
    ids=["by count", "by bytes"],
)
def test_a_pipeline_is_bounded(limits: Limits, bodies: list[bytes], served_count: int) -> None:
    """I4: past its depth, or its bytes, we stop listening; what was taken is answered, then the connection closes."""

    async def scenario() -> None:
        may_end = asyncio.Event()

        async def handler(request: Request, response: Response) -> None:
            await may_end.wait()
            response.send(200, b"", b"")

        async with serving(handler, limits) as served:
            peer = await served.connect()
            for body in bodies:
                await peer.send(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            await served.app.arrived.wait()
            may_end.set()
            answers = [await peer.answer() for _ in range(served_count)]
            assert "close" in answers[-1].headers["connection"]
            assert all("connection" not in answer.headers for answer in answers[:-1])
            assert await peer.rest() == b""
            assert len(served.app.requests) == served_count

    run(scenario())


EXPECTING = b"POST / HTTP/1.1\r\n" + HOST + b"Expect: 100-Continue\r\nContent-Length: 3\r\n\r\n"


def test_a_client_that_waits_to_be_asked_is_asked_for_its_body() -> None:
    """RFC 9110 10.1.1."""

    async def scenario() -> None:
        async with serving() as served:
            peer = await served.connect()
            await peer.send(EXPECTING)
            assert (await peer.answer()).status == 100
            assert not served.app.requests
            await peer.send(b"abc")
            assert (await peer.answer()).body == b"POST / abc"

    run(scenario())


def test_a_pipelined_client_that_waits_is_asked_when_its_turn_comes() -> None:
    """An interim answer may not overtake the answer before it; nor may it be forgotten."""

    async def scenario() -> None:
        may_end = asyncio.Event()

        async def handler(request: Request, response: Response) -> None:
            await may_end.wait()
            response.send(200, b"", request.body)

        async with serving(handler) as served:
            peer = await served.connect()
            await peer.send(get(b"/a") + get(b"/b") + EXPECTING)
            await served.app.arrived.wait()
            assert served.busy
            may_end.set()
            assert [(await peer.answer()).status for _ in range(3)] == [200, 200, 100]
            await peer.send(b"abc")
            assert (await peer.answer()).body == b"abc"

    run(scenario())


def test_a_client_is_asked_though_the_handler_before_it_works_on_after_its_answer() -> None:
    async def scenario() -> None:
        may_return = asyncio.Event()

        async def handler(request: Request, response: Response) -> None:
            response.send(200, b"", request.body)
            await may_return.wait()

        async with serving(handler) as served:
            peer = await served.connect()
            await peer.send(get(b"/a"))
            assert (await peer.answer()).status == 200
            await peer.send(EXPECTING)
            await until(lambda: any(c._arrival.request is not None for c in served.server._connections))
            may_return.set()
            assert (await peer.answer()).status == 100
            await peer.send(b"abc")
            assert (await peer.answer()).body == b"abc"

    run(scenario())


def test_a_refused_body_is_not_asked_for() -> None:
    async def scenario() -> None:
        async with serving(limits=Limits(body_bytes=2)) as served:
            assert (await served.ask(EXPECTING)).status == 413

    run(scenario())


def test_http_1_0_is_never_asked() -> None:
    """RFC 9110 10.1.1: its expectation is ignored."""

    async def scenario() -> None:
        async with serving() as served:
            answer = await served.ask(b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx")
            assert answer.body == b"POST / x"

    run(scenario())


@pytest.mark.parametrize("apart", [False, True], ids=["whole", "byte by byte"])
@pytest.mark.parametrize(
    "body", [b"Content-Length: 3\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"]
)
def test_an_offer_of_another_protocol_is_ignored_and_the_body_is_not(body: bytes, apart: bool) -> None:
    """RFC 9110 7.8. Java's HttpClient offers h2c by default, and llhttp takes such a request's body for h2c."""

    async def scenario() -> None:
        async with serving() as served:
            peer = await served.connect()
            offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
            data = (b"POST /p HTTP/1.1\r\n" + HOST + offer + body) * 2 + get(b"/next")
            await (peer.send_apart(data) if apart else peer.send(data))
            assert (await peer.answer()).body == b"POST /p abc"
            assert (await peer.answer()).body == b"POST /p abc"
            assert (await peer.answer()).body == b"GET /next "
            assert b"upgrade" not in served.app.requests[0].headers

    run(scenario())


def test_an_answer_that_is_broken_off_ends_uncleanly_with_its_data_delivered() -> None:
    """I5: the last chunk is missing, so no client takes the answer for a whole one."""

    async def scenario() -> None:
        async def handler(request: Request, response: Response) -> None:
            response.start(200, b"")
            response.write(b"some")
            response.break_off(b"error")

        async with serving(handler) as served:
            answer = await served.ask(get(b"/"))
            assert (answer.body, answer.whole) == (b"someerror", False)

    run(scenario())


def test_an_answer_to_http_1_0_that_is_broken_off_ends_by_a_reset() -> None:
    """I5: a clean end of the connection would be a clean end of the body."""

    async def scenario() -> None:
        async def handler(request: Request, response: Response) -> None:
            response.start(200, b"")
            response.write(b"some")
            response.break_off(b"error")

        async with serving(handler, Limits(linger_s=0.05)) as served:
            peer = await served.connect()
            await peer.send(b"GET / HTTP/1.0\r\n\r\n")
            assert await peer.until(b"someerror")
            with pytest.raises(ConnectionResetError):
                await peer.receive()

    run(scenario())


def test_a_failure_before_the_first_byte_still_chooses_its_status() -> None:
    async def scenario() -> None:
        async def handler(request: Request, response: Response) -> None:
            response.start(200, b"content-type: text/event-stream\r\n")
            assert not response.started
            response.send(502, b"", b"failed")

        async with serving(handler) as served:
            answer = await served.ask(get(b"/"))
            assert (answer.status, answer.body) == (502, b"failed")

    run(scenario())


@pytest.mark.parametrize("request_bytes", [get(b"/"), b"GET / HTTP/1.0\r\n\r\n"])
@pytest.mark.parametrize("started", [False, True])
def test_a_bug_in_a_handler_cuts_the_connection(request_bytes: bytes, started: bool) -> None:
    """I5: also what ends by a bug never looks whole."""

    async def scenario() -> None:
        async def handler(request: Request, response: Response) -> None:
            if started:
                response.start(200, b"")
                response.write(b"some")
            raise ZeroDivisionError

        async with serving(handler) as served:
            peer = await served.connect()
            await peer.send(request_bytes)
            with pytest.raises(ConnectionResetError):
                await peer.rest()

    run(scenario(), may_log_errors=True)


def test_a_request_is_answered_once() -> None:
    """I3: what is written after the end must not run into the next answer."""

    async def scenario() -> None:
        refused = 0

        async def handler(request: Request, response: Response) -> None:
            nonlocal refused
            response.start(200, b"")
            response.end(b"x")
            response.write(b"late")
            again: tuple[Callable[[], None], ...] = (
                lambda: response.send(200, b"", b""),
                response.end,
                response.break_off,
            )
            for answer in again:
                with pytest.raises(RuntimeError, match="once"):
                    answer()
                refused += 1

        async with serving(handler) as served:
            peer = await served.connect()
            await peer.send(get(b"/") * 2)
            assert [(await peer.answer()).body for _ in range(2)] == [b"x", b"x"]
            assert refused == 6

    run(scenario())


@pytest.mark.parametrize(
    ("name", "value"),
    [(b"x-a", b"1\r\nset-cookie: 1"), (b"x-a", b"1\n"), (b"x-a", b"\0"), (b"x-a: 1\r\nx-b", b"1"), (b"", b"1")],
)
def test_response_splitting_is_refused(name: bytes, value: bytes) -> None:
    """I11."""
    with pytest.raises(ValueError, match="is not a token with one line"):
        render_headers([(b"x-fine", b"1"), (name, value)])


def test_every_final_status_has_a_line() -> None:
    assert STATUS_LINES[200] == b"HTTP/1.1 200 OK\r\n"
    assert STATUS_LINES[529] == b"HTTP/1.1 529 \r\n"
    assert set(STATUS_LINES) == set(range(200, 600))


@pytest.mark.parametrize("chunked", [False, True], ids=["by length", "by chunks"])
def test_the_answer_to_a_body_too_large_arrives_though_the_client_is_still_sending(chunked: bool) -> None:
    """RFC 9112 9.6: closing over unread bytes would reset the connection, and the reset overtake the answer."""

    async def scenario() -> None:
        async with serving(limits=Limits(body_bytes=100_000)) as served:
            peer = await served.connect()
            framing = b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"Content-Length: 4000000\r\n\r\n"
            await peer.send(b"POST / HTTP/1.1\r\n" + HOST + framing)
            piece = b"8000\r\n" + b"x" * 0x8000 + b"\r\n" if chunked else b"x" * 0x8000
            for _ in range(100):
                await peer.send(piece)
                await asyncio.sleep(0)
            assert (await peer.answer()).status == 413
            assert await peer.rest() == b""
            assert not served.app.requests

    run(scenario())


def test_a_half_sent_pipeline_does_not_lose_the_answer_before_it() -> None:
    async def scenario() -> None:
        async with serving() as served:
            peer = await served.connect()
            await peer.send(get(b"/a") + b"GET /b HT")
            assert (await peer.answer()).body == b"GET /a "
            await peer.send(b"TP/1.1\r\n" + HOST + b"\r\n")
            assert (await peer.answer()).body == b"GET /b "

    run(scenario())
