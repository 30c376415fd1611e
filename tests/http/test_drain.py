"""Stopping, and how many may come in (invariant I33, the fault table's file descriptors)."""

import asyncio

import pytest

from hermes.http.limits import Limits
from hermes.http.request import Request
from hermes.http.response import Response
from tests.http.peers import HOST, background, connect, serving
from tests.support import run, until

GET = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"


def test_draining_closes_idle_connections_at_once_and_accepts_no_more() -> None:
    async def scenario() -> None:
        async with serving() as served:
            idle, fresh = await served.connect(), await served.connect()
            await idle.send(GET)
            await idle.answer()
            await until(lambda: served.server.open_connections == 2)
            assert await served.server.drain(5.0) is True
            assert await idle.rest() == b""
            assert await fresh.rest() == b""
            with pytest.raises(ConnectionError):
                await connect(served.port)

    run(scenario())


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "already streaming"])
def test_draining_lets_running_requests_finish(streamed: bool) -> None:
    """Nothing in flight is dropped before the deadline, and nobody waits for a connection that is done."""

    async def scenario() -> None:
        may_end = asyncio.Event()

        async def handler(request: Request, response: Response) -> None:
            if streamed:
                response.start(200, b"")
                response.write(b"first")
            await may_end.wait()
            if streamed:
                response.end(b"last")
            else:
                response.send(200, b"", b"firstlast")

        async with serving(handler) as served:
            peer = await served.connect()
            await peer.send(GET)
            await served.app.arrived.wait()
            async with background(served.server.drain(5.0)) as draining:
                await asyncio.sleep(0)
                assert not draining.done()
                may_end.set()
                answer = await peer.answer()
                assert (answer.body, answer.whole) == (b"firstlast", True)
                assert streamed or answer.headers["connection"] == "close"
                assert await peer.rest() == b""
                peer.close()
                assert await draining is True

    run(scenario())


def test_draining_closes_a_connection_at_once_whose_handler_works_on_after_its_answer_and_waits_for_the_handler() -> (
    None
):
    async def scenario() -> None:
        may_return = asyncio.Event()

        async def handler(request: Request, response: Response) -> None:
            response.send(200, b"", b"")
            await may_return.wait()

        async with serving(handler) as served:
            peer = await served.connect()
            await peer.send(GET)
            await peer.answer()
            async with background(served.server.drain(5.0)) as draining:
                assert await peer.rest() == b""
                assert not draining.done()
                may_return.set()
                assert await draining is True
            assert not served.app.cancelled.is_set()

    run(scenario())


@pytest.mark.parametrize("cut_by", ["the client", "us"])
def test_draining_waits_for_the_last_word_of_a_handler_that_was_cancelled(cut_by: str) -> None:
    """I3: its record of the request would be lost if the process ended now."""

    async def scenario() -> None:
        recorded = asyncio.Event()

        async def handler(request: Request, response: Response) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.01)
                recorded.set()

        async with serving(handler) as served:
            peer = await served.connect()
            await peer.send(GET)
            await served.app.arrived.wait()
            async with background(served.server.drain(5.0)) as draining:
                await asyncio.sleep(0)
                if cut_by == "us":
                    served.server.abort()
                peer.close()
                assert await draining is True
                assert recorded.is_set()

    run(scenario())


def test_draining_lets_a_request_that_is_arriving_finish() -> None:
    async def scenario() -> None:
        async with serving() as served:
            peer = await served.connect()
            await peer.send(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\n\r\na")
            await until(lambda: served.busy)
            async with background(served.server.drain(5.0)) as draining:
                await asyncio.sleep(0)
                await peer.send(b"bc")
                answer = await peer.answer()
                assert answer.body == b"POST / abc"
                assert answer.headers["connection"] == "close"
                peer.close()
                assert await draining is True

    run(scenario())


def test_draining_does_not_cut_an_answer_on_its_way() -> None:
    """Also one whose reader is slow, and whose request was refused."""

    async def scenario() -> None:
        async with serving(limits=Limits(body_bytes=1)) as served:
            peer = await served.connect()
            await peer.send(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 300000\r\n\r\n" + b"x" * 1000)
            await until(lambda: bool(served.app.refusals))
            async with background(served.server.drain(5.0)) as draining:
                await peer.send(b"x" * 1000)
                assert (await peer.answer()).status == 413
                peer.close()
                assert await draining is True

    run(scenario())


def test_the_deadline_cuts_what_is_still_running() -> None:
    async def scenario() -> None:
        async def handler(request: Request, response: Response) -> None:
            response.start(200, b"")
            response.write(b"first")
            await asyncio.Event().wait()

        async with serving(handler) as served:
            peer = await served.connect()
            await peer.send(GET)
            await peer.until(b"first\r\n")
            assert await served.server.drain(0.02) is False
            with pytest.raises(ConnectionResetError):
                await peer.rest()
            await served.app.cancelled.wait()

    run(scenario())


def test_a_handler_that_outlives_its_connection_holds_the_drain_until_its_deadline() -> None:
    async def scenario() -> None:
        may_return = asyncio.Event()

        async def handler(request: Request, response: Response) -> None:
            response.send(200, b"", b"")
            await may_return.wait()

        async with serving(handler) as served:
            peer = await served.connect()
            await peer.send(GET)
            await peer.answer()
            peer.close()
            await until(lambda: all(connection.lost for connection in served.server._connections))
            assert await served.server.drain(0.01) is False
            may_return.set()

    run(scenario())


def test_until_what_runs_has_ended_new_connections_are_answered_once() -> None:
    """Whoever balances load can ask whether we are ready, and is told no."""

    async def scenario() -> None:
        may_end = asyncio.Event()

        async def handler(request: Request, response: Response) -> None:
            if request.path == b"/slow":
                await may_end.wait()
            response.send(200, b"", b"")

        async with serving(handler) as served:
            slow = await served.connect()
            await slow.send(b"GET /slow HTTP/1.1\r\n" + HOST + b"\r\n")
            await served.app.arrived.wait()
            async with background(served.server.drain(5.0)) as draining:
                for _ in range(2):
                    peer = await served.connect()
                    await peer.send(GET)
                    assert (await peer.answer()).headers["connection"] == "close"
                    assert await peer.rest() == b""
                    peer.close()
                silent = await served.connect()
                await until(lambda: served.server.open_connections == 2)
                may_end.set()
                assert (await slow.answer()).status == 200
                slow.close()
                assert await draining is True
                await silent.gone()
                with pytest.raises(ConnectionError):
                    await connect(served.port)

    run(scenario())


def test_connections_above_the_cap_are_turned_away_and_those_below_are_served() -> None:
    async def scenario() -> None:
        async with serving(limits=Limits(connections=2)) as served:
            inside = [await served.connect() for _ in range(2)]
            await until(lambda: served.server.open_connections == 2)
            for _ in range(3):
                await (await served.connect()).gone()
            assert served.server.refused_connections == 3
            for peer in inside:
                await peer.send(GET)
                assert (await peer.answer()).status == 200
            inside[0].close()
            await served.settled(1)
            assert (await served.ask(GET)).status == 200

    run(scenario())


def test_the_date_is_rendered_once_a_second() -> None:
    async def scenario() -> None:
        async with serving() as served:
            first = served.server.date_line()
            assert first.startswith(b"date: ")
            assert first.endswith(b" GMT\r\n")
            assert served.server.date_line() is first
            served.server._date_until = 0.0
            assert served.server.date_line() is not first

    run(scenario())
