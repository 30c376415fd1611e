"""Whoever is slow is dropped, and whoever is not slow is not (invariants I10, I13; the clock is the test's)."""

import asyncio
import time
from contextlib import suppress

import pytest

from hermes.http.limits import Limits
from hermes.http.request import Request
from hermes.http.response import Response
from hermes.http.unsent import count_unsent
from hermes.http.wire import NEVER, Deadlines
from hermes.series import Buckets
from tests.http.peers import HOST, Handler, Served, connect, echo, serving
from tests.support import run, until

GET = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
POST = b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n"
LIMITS = Limits()


async def received(served: Served, size: int) -> None:
    """Wait until the server has read so much of a body."""
    connections = served.server._connections
    await until(lambda: any(c._arrival.body_bytes >= size for c in connections), "the body did not arrive")


@pytest.mark.parametrize("start", [b"GET /", b"GET / HTTP/1.1\r\nHost: hermes.test\r\nX: "])
@pytest.mark.parametrize("before", [b"", GET], ids=["first", "second"])
def test_a_head_that_trickles_in_is_refused_at_its_deadline(start: bytes, before: bytes) -> None:
    """I10: one deadline for the whole head; another byte does not move it."""

    async def scenario() -> None:
        async with serving() as served:
            peer = await served.connect()
            if before:
                await peer.send(before)
                await peer.answer()
            await peer.send(start)
            await until(lambda: served.busy)
            for _ in range(7):
                await peer.send(b"a")
                await served.after(1.0)
            assert not served.app.refusals
            await served.after(3.1)
            assert len(served.app.refusals) == 1
            assert (await peer.answer()).status == 408
            assert await peer.rest() == b""

    run(scenario())


@pytest.mark.parametrize(
    "framing",
    [b"Content-Length: 100000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n186a0\r\n"],
    ids=["length", "chunks"],
)
def test_a_body_below_the_lowest_rate_is_refused(framing: bytes) -> None:
    """I10: each byte buys its time at the lowest rate, no more."""

    async def scenario() -> None:
        async with serving() as served:
            peer = await served.connect()
            await peer.send(b"POST / HTTP/1.1\r\n" + HOST + framing + b"x" * 10_240)
            await received(served, 10_240)
            for n in range(1, 17):
                await peer.send(b"x")
                await received(served, 10_240 + n)
                await served.after(1.0)
            assert not served.app.refusals
            await served.after(4.1)
            assert len(served.app.refusals) == 1
            assert (await peer.answer()).status == 408
            assert not served.app.requests

    run(scenario())


def test_a_body_at_the_lowest_rate_may_take_its_time() -> None:
    async def scenario() -> None:
        async with serving() as served:
            peer = await served.connect()
            await peer.send(POST % 102_400)
            for n in range(1, 101):
                await peer.send(b"x" * 1024)
                if n < 100:
                    await received(served, n * 1024)
                    await served.after(1.0)
            assert (await peer.answer()).status == 200

    run(scenario())


def test_an_idle_connection_is_closed_without_a_word() -> None:
    """A 408 could be taken for the answer to a request that is under way."""

    async def scenario() -> None:
        async with serving() as served:
            peer = await served.connect()
            await peer.send(GET)
            await peer.answer()
            await served.after(70)
            assert served.server.open_connections == 1
            await served.after(5.1)
            assert await peer.rest() == b""
            assert not served.app.refusals

    run(scenario())


def test_the_time_for_a_head_begins_with_the_connection() -> None:
    async def scenario() -> None:
        async with serving() as served:
            peer = await served.connect()
            await until(lambda: served.server.open_connections == 1)
            await served.after(6)
            await peer.send(GET[:10])
            await until(lambda: served.busy)
            await served.after(4.1)
            assert len(served.app.refusals) == 1
            assert (await peer.answer()).status == 408

    run(scenario())


def test_a_reader_that_has_caught_up_may_be_idle_as_long_as_any() -> None:
    async def scenario() -> None:
        async def handler(request: Request, response: Response) -> None:
            response.send(200, b"", b"x" * 12_000_000)

        async with serving(handler) as served:
            peer = await served.connect(receive_buffer_bytes=65536)
            await peer.send(GET)
            await paused(served)
            await peer.answer()
            await until(lambda: not served.working)
            await served.after(70)
            await peer.send(GET)
            assert (await peer.answer()).status == 200

    run(scenario())


def test_a_connection_without_a_byte_is_closed_without_a_word() -> None:
    async def scenario() -> None:
        async with serving() as served:
            peer = await served.connect()
            await until(lambda: served.server.open_connections == 1)
            await served.after(10.1)
            await served.settled()
            assert await peer.rest() == b""
            assert not served.app.refusals

    run(scenario())


def test_blank_lines_do_not_keep_an_idle_connection() -> None:
    async def scenario() -> None:
        async with serving() as served:
            peer = await served.connect()
            await peer.send(GET)
            await peer.answer()
            await served.after(70)
            await peer.send(b"\r\n")
            await until(lambda: any(c._arrival.overhead_bytes for c in served.server._connections))
            await served.after(5.1)
            assert await peer.rest() == b""

    run(scenario())


def test_a_request_that_takes_long_is_not_a_slow_client() -> None:
    """No deadline of the wire runs while a handler works, nor one that began before."""

    async def scenario() -> None:
        may_end = asyncio.Event()

        async def handler(request: Request, response: Response) -> None:
            await may_end.wait()
            response.send(200, b"", b"")

        async with serving(handler) as served:
            peer = await served.connect()
            await peer.send(GET + GET[:10])
            await served.app.arrived.wait()
            await served.after(10_000)
            may_end.set()
            assert (await peer.answer()).status == 200

    run(scenario())


@pytest.mark.parametrize("early", [GET[:10], POST % 3 + b"a"], ids=["in its head", "in its body"])
def test_what_comes_early_gets_its_time_from_its_turn_on(early: bytes) -> None:
    """A pipelined request is not late because the one before it was long; but then its time does run."""

    async def scenario() -> None:
        may_end = asyncio.Event()

        async def handler(request: Request, response: Response) -> None:
            await may_end.wait()
            response.send(200, b"", request.body)

        async with serving(handler) as served:
            peer = await served.connect()
            await peer.send(GET + early)
            await served.app.arrived.wait()
            await served.after(1000)
            may_end.set()
            assert (await peer.answer()).status == 200
            await served.after(7)
            assert not served.app.refusals
            await served.after(3.1)
            assert len(served.app.refusals) == 1
            assert (await peer.answer()).status == 408

    run(scenario())


def test_a_handler_that_works_on_after_its_answer_leaves_no_connection_without_a_deadline() -> None:
    async def scenario() -> None:
        may_return = asyncio.Event()

        async def handler(request: Request, response: Response) -> None:
            response.send(200, b"", b"")
            await may_return.wait()

        async with serving(handler) as served:
            peer = await served.connect()
            await peer.send(GET)
            assert (await peer.answer()).status == 200
            await served.after(1000)
            may_return.set()
            await until(lambda: not served.working)
            await served.after(75.1)
            assert await peer.rest() == b""

    run(scenario())


async def flood(request: Request, response: Response) -> None:
    response.start(200, b"")
    for _ in range(4000):
        response.write(b"x" * 16384)
        if response.paused:
            await response.drain()
    response.end()


async def paused(served: Served) -> None:
    await until(lambda: any(c.resumed is not None for c in served.server._connections), "nothing is held back")


@pytest.mark.parametrize("request_bytes", [GET, b"GET / HTTP/1.0\r\n\r\n"])
def test_a_reader_that_makes_no_progress_is_dropped(request_bytes: bytes) -> None:
    """I13: after the write deadline its handler is cancelled and nothing is kept for it."""

    async def scenario() -> None:
        async with serving(flood) as served:
            peer = await served.connect(receive_buffer_bytes=8192)
            await peer.send(request_bytes)
            await paused(served)
            await served.after(55)
            assert not served.app.cancelled.is_set()
            await served.after(5.1)  # what the kernels took meanwhile was progress
            await served.after(60.1)
            await served.app.cancelled.wait()
            await served.settled()
            with pytest.raises(ConnectionResetError):
                await peer.rest()

    run(scenario())


@pytest.mark.parametrize("closing", [b"", b"Connection: close\r\n"])
def test_a_whole_answer_that_is_not_read_is_dropped(closing: bytes) -> None:
    """Its handler is long gone; the connection must not be left to hold the bytes."""

    async def scenario() -> None:
        async def handler(request: Request, response: Response) -> None:
            response.send(200, b"", b"x" * 12_000_000)

        async with serving(handler) as served:
            peer = await served.connect(receive_buffer_bytes=8192)
            await peer.send(GET[:-2] + closing + b"\r\n")
            await paused(served)
            for _ in range(3):  # to the linger's end, to the first judgement, to the second
                await served.after(60.1)
            await served.settled()

    run(scenario())


def test_a_reader_cannot_escape_its_deadline_by_asking_again() -> None:
    """I13: a pipelined request does not disarm what guards the answer before it."""

    async def scenario() -> None:
        async def handler(request: Request, response: Response) -> None:
            response.send(200, b"", b"x" * 12_000_000)
            if request.path == b"/again":
                await response.drain()

        async with serving(handler) as served:
            peer = await served.connect(receive_buffer_bytes=8192)
            await peer.send(GET)
            await paused(served)
            await peer.send(GET.replace(b"/ ", b"/again ") * 2)
            await until(lambda: len(served.app.requests) == 2)
            for _ in range(2):  # what the kernels took meanwhile was progress
                await served.after(60.1)
            await served.settled()

    run(scenario())


async def big(request: Request, response: Response) -> None:
    response.send(200, b"", b"x" * 30_000_000)
    await response.drain()


def test_a_reader_whose_progress_only_the_kernel_sees_is_kept() -> None:
    """I13: it takes less than would make our own buffer shorter."""

    async def scenario() -> None:
        async with serving(big) as served:
            peer = await served.connect(receive_buffer_bytes=8192)
            await peer.send(GET)
            await paused(served)
            (connection,) = served.server._connections
            held = [connection._transport.get_write_buffer_size()]
            for _ in range(4):
                unsent = count_unsent(connection._transport)
                await peer.exactly(65536)
                await until(lambda before=unsent: count_unsent(connection._transport) < before)
                await served.after(60.1)
                assert served.server.open_connections == 1
                held.append(connection._transport.get_write_buffer_size())
            assert len(set(held)) < len(held), "our own buffer has shown all of it"
            peer.close()

    run(scenario())


@pytest.mark.parametrize("handler", [flood, big])
def test_a_slow_reader_that_makes_progress_is_kept(handler: Handler) -> None:
    """I13: any progress within the write deadline starts it anew."""

    async def scenario() -> None:
        async with serving(handler) as served:
            peer = await served.connect(receive_buffer_bytes=65536)
            await peer.send(GET)
            for _ in range(8):
                await paused(served)
                connection = next(iter(served.server._connections))
                unsent = connection._transport.get_write_buffer_size()
                while connection._transport.get_write_buffer_size() == unsent:
                    await peer.receive()
                await served.after(55)
            assert not served.app.cancelled.is_set()
            assert served.server.open_connections == 1

    run(scenario())


def test_a_pause_that_is_over_leaves_no_deadline_behind() -> None:
    """A stream to a client that says `Connection: close` outlives the write deadline of a pause long past."""

    async def scenario() -> None:
        resumed, may_end = asyncio.Event(), asyncio.Event()

        async def handler(request: Request, response: Response) -> None:
            response.start(200, b"")
            while not response.paused:
                response.write(b"x" * 65536)
            await response.drain()
            resumed.set()
            await may_end.wait()
            response.end(b"last")

        async with serving(handler) as served:
            peer = await served.connect()
            await peer.send(GET[:-2] + b"Connection: close\r\n\r\n")
            while not resumed.is_set():
                await peer.receive()
            await served.after(61)
            assert not served.app.cancelled.is_set()
            may_end.set()
            assert (await peer.rest()).endswith(b"last\r\n0\r\n\r\n")

    run(scenario())


def test_a_wait_for_the_client_that_is_given_up_can_be_taken_up_again() -> None:
    """Whoever stops waiting in `drain` must not cancel it for whoever waits next."""

    async def scenario() -> None:
        gave_up = asyncio.Event()

        async def handler(request: Request, response: Response) -> None:
            response.start(200, b"")
            while not response.paused:
                response.write(b"x" * 65536)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await response.drain()
            gave_up.set()
            await response.drain()
            response.end(b"last")

        async with serving(handler) as served:
            peer = await served.connect(receive_buffer_bytes=65536)
            await peer.send(GET)
            await gave_up.wait()
            assert (await peer.answer()).body.endswith(b"last")

    run(scenario())


def test_a_client_that_never_stops_sending_is_cut_off() -> None:
    """I13: the time to swallow what a refused client still sends is bounded."""

    async def scenario() -> None:
        async with serving() as served:
            peer = await served.connect()
            await peer.send(POST % 40_000_000)
            await peer.answer()
            await peer.send(b"x" * 1000)
            assert served.server.open_connections == 1
            await served.after(LIMITS.linger_s + 0.1)
            await served.settled()

    run(scenario())


def test_one_failing_deadline_does_not_end_the_others() -> None:
    async def scenario() -> None:
        expired = asyncio.Event()

        class Watched:
            def __init__(self, fails: bool) -> None:
                self.deadline = 0.0
                self._fails = fails

            def expire(self, now: float) -> None:
                self.deadline = NEVER
                if self._fails:
                    raise ZeroDivisionError
                expired.set()

        deadlines = Deadlines(asyncio.get_running_loop(), tick_s=0.001)
        several = [Watched(True), Watched(True), Watched(False)]
        for watched in several:
            deadlines.watch(watched)
        await expired.wait()
        for watched in several:
            deadlines.unwatch(watched)

    run(scenario(), may_log_errors=True)


def test_how_late_the_loop_is_shows_in_its_ticks() -> None:
    """I36."""

    class Watched:
        deadline = NEVER

        def expire(self, now: float) -> None: ...

    async def scenario() -> None:
        lag = Buckets((0.02,))
        deadlines = Deadlines(asyncio.get_running_loop(), 0.001, lag)
        deadlines.watch(watched := Watched())
        asyncio.get_running_loop().call_soon(time.sleep, 0.03)
        await until(lambda: lag.counts[1] == 1)
        deadlines.unwatch(watched)
        assert lag.total > 0.02

    run(scenario())


def test_an_idle_process_has_no_timer() -> None:
    async def scenario() -> None:
        async with serving() as served:
            peer = await served.connect()
            await peer.send(GET)
            await peer.answer()
            deadlines = served.server._deadlines
            assert deadlines._timer is not None
            peer.close()
            await until(lambda: deadlines._timer is None)

    run(scenario())


@pytest.mark.parametrize(
    "start", [b"GET / HTTP/1.1\r\nX: a", POST % 1_000_000], ids=["in their heads", "in their bodies"]
)
def test_a_thousand_slow_attackers_are_dropped_while_the_healthy_are_served(start: bytes) -> None:
    """`Must show` 5, I10. Here the time is real."""

    async def scenario() -> None:
        limits = Limits(header_timeout_s=1.0, body_min_bytes_per_s=1e6, linger_s=0.2)
        async with serving(echo, limits) as served:
            now = asyncio.get_running_loop().time
            attackers = []
            for _ in range(1000):
                attackers.append(await connect(served.port))
                await attackers[-1].send(start)  # who says nothing for too long is dropped without a word
            healthy = await served.connect()
            slowest_s = 0.0
            while not served.app.refusals or served.server.open_connections > 1:
                began = now()
                await healthy.send(GET)
                assert (await healthy.answer()).status == 200
                slowest_s = max(slowest_s, now() - began)
                for attacker in attackers[::10]:
                    with suppress(ConnectionError):
                        await attacker.send(b"a")
            for attacker in attackers:
                attacker.close()
            assert [error.status for error in served.app.refusals] == [408] * 1000
            assert slowest_s < 5.0  # of a machine that may be busy with other things

    run(scenario())
