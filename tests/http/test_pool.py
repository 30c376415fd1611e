"""The pool: which connection is used, which is kept, and when a request is sent a second time (invariants I9, I11)."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import cast

import pytest

from hermes.errors import BackendBusy, BackendCrashed, BackendError, BackendTimeout, BackendUnreachable
from hermes.http.client import PoolLimits
from hermes.http.origin import Origin
from hermes.http.pool import Pool
from hermes.http.wire import NEVER, Deadlines
from tests.http.peers import TICK_S, Clock, Listening, Peer, background, listening
from tests.support import run, until

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
Step = Callable[[], Awaitable[object]]


async def ask(pool: Pool, whole: bool = True, deadline: float = NEVER, path: str = "/") -> bytes:
    async with pool.exchange("POST", path, b"{}", whole=whole, deadline=deadline) as answer:
        return await answer.read_all(1000, deadline)


async def served_by(backend: Listening, pool: Pool, peer: Peer | None = None) -> Peer:
    """One request answered, on a new connection or on `peer`."""
    async with background(ask(pool)) as asked:
        peer = peer or await backend.accept()
        await peer.request()
        await peer.send(OK)
        assert await asked == b"ok"
    return peer


def test_a_request_is_ours_from_its_first_byte_to_its_last() -> None:
    """I11, I12: request line, Host and headers come from the configuration; nothing compressed is asked for."""

    async def scenario() -> None:
        async with listening(headers=b"authorization: Bearer upstream\r\n") as (backend, pool):
            exchange = pool.exchange("POST", "/api/chat", b"{}", headers=b"x-hermes-hop: h1\r\n", deadline=NEVER)
            async with background(exchange.__aenter__()):
                head, body = await (await backend.accept()).request()
                assert head.split(b"\r\n") == [
                    b"POST /api/chat HTTP/1.1",
                    b"host: 127.0.0.1:%d" % backend.port,
                    b"accept-encoding: identity",
                    b"authorization: Bearer upstream",
                    b"x-hermes-hop: h1",
                    b"content-type: application/json",
                    b"content-length: 2",
                    b"",
                    b"",
                ]
                assert body == b"{}"

    run(scenario())


@pytest.mark.parametrize(("method", "last"), [("GET", b"accept-encoding: identity"), ("POST", b"content-length: 0")])
def test_a_request_without_a_body_says_so(method: str, last: bytes) -> None:
    async def scenario() -> None:
        async with (
            listening() as (backend, pool),
            background(pool.exchange(method, "/", deadline=NEVER).__aenter__()),
        ):
            head, body = await (await backend.accept()).request()
            assert head.split(b"\r\n")[-3] == last
            assert body == b""

    run(scenario())


@pytest.mark.parametrize("path", ["/a b", "/a\r\nx: 1", "/a\n", "/\0", "/é", "/a HTTP/1.1\r\nhost: evil\r\n\r\n"])
def test_a_path_that_could_split_the_request_is_refused(path: str) -> None:
    """I11."""

    async def scenario() -> None:
        async with listening() as (_, pool):
            with pytest.raises(ValueError, match="cannot be a request target"):
                pool.exchange("GET", path, deadline=NEVER)

    run(scenario())


def test_a_connection_is_used_again() -> None:
    async def scenario() -> None:
        async with listening() as (backend, pool):
            peer = await served_by(backend, pool)
            await served_by(backend, pool, peer)
            assert (pool.opened, pool.open_connections) == (1, 1)

    run(scenario())


def test_nothing_more_is_asked_of_a_closed_pool() -> None:
    """What listens there later may be another."""

    async def scenario() -> None:
        async with listening() as (backend, pool):
            await served_by(backend, pool)
            pool.close()
            with pytest.raises(BackendUnreachable, match="has been stopped"):
                await ask(pool)

    run(scenario())


def test_the_youngest_connection_is_used_first() -> None:
    """So that the older ones grow idle and go."""

    async def scenario() -> None:
        async with listening() as (backend, pool), background(ask(pool)) as one, background(ask(pool)) as two:
            first, second = await backend.accept(), await backend.accept()
            await first.request()
            await second.request()
            await first.send(OK)
            await asyncio.wait([one, two], return_when=asyncio.FIRST_COMPLETED)
            await second.send(OK)
            await asyncio.gather(one, two)
            for _ in range(3):
                await served_by(backend, pool, second)

    run(scenario())


def test_an_idle_connection_is_closed_after_a_while() -> None:
    async def scenario() -> None:
        async with listening(PoolLimits(idle_s=0.05)) as (backend, pool):
            peer = await served_by(backend, pool)
            await peer.gone()
            await until(lambda: not pool.open_connections)
            await served_by(backend, pool)

    run(scenario())


def test_a_connection_whose_asker_left_as_the_answer_came_is_closed_after_a_while_too() -> None:
    async def scenario() -> None:
        async with listening() as (backend, pool):
            async with background(ask(pool)):
                await (await backend.accept()).request()
                [connection] = pool._open
                connection.data_received(OK)
            assert pool.open_connections == 1
            connection.expire(0.0)
            assert not pool.open_connections

    run(scenario())


def test_no_deadline_is_left_between_an_answers_head_and_the_reading_of_its_body() -> None:
    async def scenario() -> None:
        async with listening() as (backend, pool):

            async def look() -> float:
                async with pool.exchange("GET", "/", deadline=1e9) as answer:
                    return answer.deadline

            async with background(look()) as looking:
                peer = await backend.accept()
                await peer.request()
                await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n")
                assert await looking == NEVER

    run(scenario())


def test_no_more_idle_connections_are_kept_than_allowed() -> None:
    async def scenario() -> None:
        async with listening(PoolLimits(idle_connections=2)) as (backend, pool):
            asked = [asyncio.get_running_loop().create_task(ask(pool)) for _ in range(5)]
            peers = [await backend.accept() for _ in asked]
            for peer in peers:
                await peer.request()
                await peer.send(OK)
            assert await asyncio.gather(*asked) == [b"ok"] * 5
            await until(lambda: pool.open_connections == 2)

    run(scenario())


@pytest.mark.parametrize("connections", [1, 3])
def test_there_are_no_more_connections_than_allowed_though_all_are_asked_for_at_once(connections: int) -> None:
    async def scenario() -> None:
        async with listening(PoolLimits(connections=connections)) as (backend, pool):
            asked = [asyncio.get_running_loop().create_task(ask(pool)) for _ in range(10)]
            for _ in range(connections):
                peer = await backend.accept()
                await peer.request()
                await peer.send(OK)
            results = await asyncio.gather(*asked, return_exceptions=True)
            assert sum(result == b"ok" for result in results) == connections
            assert sum(isinstance(result, BackendBusy) for result in results) == 10 - connections
            assert pool.opened == connections

    run(scenario())


@pytest.mark.parametrize("leave", [Peer.close, Peer.reset])
def test_a_pooled_connection_that_turns_out_dead_is_replaced_once(leave: Callable[[Peer], None]) -> None:
    """The request reaches the backend a second time only when not a byte of an answer came back."""

    async def scenario() -> None:
        async with listening() as (backend, pool):
            peer = await served_by(backend, pool)
            async with background(ask(pool)) as asked:
                await peer.request()
                leave(peer)
                fresh = await backend.accept()
                assert (await fresh.request())[1] == b"{}"
                await fresh.send(OK)
                assert await asked == b"ok"
            assert pool.opened == 2

    run(scenario())


def test_a_backend_that_has_died_at_a_pooled_connection_has_died_of_the_request() -> None:
    """There is no other connection to it: it did not only give up one that was idle."""

    async def scenario() -> None:
        async with listening() as (backend, pool):
            peer = await served_by(backend, pool)
            async with background(ask(pool)) as asked:
                await peer.request()
                backend.sock.close()
                peer.close()
                with pytest.raises(BackendCrashed):
                    await asked

    run(scenario())


def test_the_replacement_is_fresh_and_not_another_pooled_connection() -> None:
    """A backend that restarts leaves many dead connections: one retry is enough only if it passes them by."""

    async def scenario() -> None:
        async with listening() as (backend, pool):
            async with background(ask(pool)) as one, background(ask(pool)) as two:
                peers = [await backend.accept(), await backend.accept()]
                for peer in peers:
                    await peer.request()
                    await peer.send(OK)
                await asyncio.gather(one, two)
            port = pool._idle[-1]._transport.get_extra_info("sockname")[1]
            async with background(ask(pool)) as asked:
                dying = next(peer for peer in peers if peer.sock.getpeername()[1] == port)
                await dying.request()
                dying.close()
                fresh = await backend.accept()
                await fresh.request()
                await fresh.send(OK)
                assert await asked == b"ok"
            assert pool.opened == 3

    run(scenario())


def test_a_fresh_connection_that_dies_is_not_replaced() -> None:
    async def scenario() -> None:
        async with listening() as (backend, pool), background(ask(pool)) as asked:
            peer = await backend.accept()
            await peer.request()
            peer.close()
            with pytest.raises(BackendCrashed, match="closed the connection"):
                await asked
            assert pool.opened == 1

    run(scenario())


def test_the_replacement_is_not_replaced_in_its_turn() -> None:
    async def scenario() -> None:
        async with listening() as (backend, pool):
            peer = await served_by(backend, pool)
            async with background(ask(pool)) as asked:
                await peer.request()
                peer.close()
                fresh = await backend.accept()
                await fresh.request()
                fresh.close()
                with pytest.raises(BackendError, match="closed the connection"):
                    await asked
            assert pool.opened == 2

    run(scenario())


@pytest.mark.parametrize("touch", [b"H", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\n"])
def test_a_request_is_not_sent_again_once_a_byte_has_come_back(touch: bytes) -> None:
    async def scenario() -> None:
        async with listening() as (backend, pool):
            peer = await served_by(backend, pool)
            async with background(ask(pool)) as asked:
                await peer.request()
                await peer.send(touch)
                await until(lambda: all(c.touched for c in pool._open))
                peer.close()
                with pytest.raises(BackendError, match="closed the connection"):
                    await asked
            assert pool.opened == 1

    run(scenario())


def test_bytes_that_nobody_asked_for_end_an_idle_connection() -> None:
    """They would be taken for the answer to the next request (I15)."""

    async def scenario() -> None:
        async with listening() as (backend, pool):
            peer = await served_by(backend, pool)
            await peer.send(OK)
            await peer.gone()
            await until(lambda: not pool.open_connections)
            await served_by(backend, pool)

    run(scenario())


def test_a_connection_that_is_being_cut_is_not_handed_out() -> None:
    """Between the decision and the transport's word of it lies a turn of the loop."""

    async def scenario() -> None:
        async with listening() as (backend, pool):
            await served_by(backend, pool)
            idle = next(iter(pool._open))
            idle.data_received(b"unasked")
            assert not idle.lost
            assert (pool.idle() or await pool.connect(NEVER)) is not idle

    run(scenario())


@pytest.mark.parametrize("surplus", [b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil", b"HTTP/1.1 20", b"x"])
@pytest.mark.parametrize("whole", [True, False])
def test_what_follows_an_answer_is_dropped_with_its_connection(surplus: bytes, whole: bool) -> None:
    """I15: the answer stands as it was; the next request must not find the surplus, nor the rest of it."""

    async def scenario() -> None:
        async with listening() as (backend, pool):
            async with background(ask(pool, whole)) as asked:
                peer = await backend.accept()
                await peer.request()
                await peer.send(OK + surplus)
                assert await asked == b"ok"
            await peer.gone()
            await served_by(backend, pool)

    run(scenario())


def test_a_connection_that_the_backend_will_close_is_not_kept() -> None:
    async def scenario() -> None:
        async with listening() as (backend, pool):
            async with background(ask(pool)) as asked:
                peer = await backend.accept()
                await peer.request()
                await peer.send(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
                assert await asked == b"ok"
            await peer.gone()
            assert pool.open_connections == 0

    run(scenario())


def test_a_connection_whose_backend_answers_before_it_has_read_the_request_is_not_kept() -> None:
    """It may never read the rest, and the next request would wait behind it."""

    async def scenario() -> None:
        async with listening() as (backend, pool):
            exchange = pool.exchange("POST", "/", b"x" * 20_000_000, whole=True, deadline=NEVER)
            async with background(exchange.__aenter__()) as entered:
                peer = await backend.accept()
                await peer.until(b"\r\n\r\n")
                await peer.send(OK)
                await entered
                await exchange.__aexit__(None, None, None)
            await peer.gone()
            assert pool.open_connections == 0

    run(scenario())


def test_an_answer_that_was_held_back_does_not_leave_its_connection_deaf() -> None:
    """A pooled connection reads, however its last exchange ended."""

    async def scenario() -> None:
        async with listening() as (backend, pool):
            exchange = pool.exchange("GET", "/", deadline=NEVER)
            async with background(exchange.__aenter__()) as entered:
                peer = await backend.accept()
                await peer.request()
                await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 200000\r\n\r\n")
                await entered
                connection = exchange.connection
                while not connection.complete:
                    await peer.send(b"x" * min(100_000, 200_000 - connection.body_bytes))
                    await asyncio.sleep(0)
                    connection.data_received(b"x" * (200_000 - connection.body_bytes))
                assert connection._held
                await exchange.__aexit__(None, None, None)
            assert not connection._held
            assert connection._transport.is_reading()

    run(scenario())


PHASES = ["head", "half a head", "body", "half a body"]


async def _bring_to(phase: str, peer: Peer) -> None:
    await peer.request()
    if phase == "half a head":
        await peer.send(b"HTTP/1.1 200 OK\r\n")
    elif phase in ("body", "half a body"):
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n" + (b"o" if phase == "half a body" else b""))


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("whole", [True, False])
def test_a_cancelled_exchange_cuts_its_connection_at_once(phase: str, times: int, whole: bool) -> None:
    """I9."""

    async def scenario() -> None:
        async with listening() as (backend, pool), background(ask(pool, whole)) as asked:
            peer = await backend.accept()
            await _bring_to(phase, peer)
            for _ in range(times):
                asked.cancel()
            await asyncio.wait([asked])
            assert asked.cancelled()
            async with asyncio.timeout(1.0):
                await peer.gone()
            assert pool.open_connections == 0

    run(scenario())


def test_an_exchange_that_is_left_early_cuts_its_connection_at_once() -> None:
    """I9: also without a cancellation, and though the answer is still on its way."""

    async def scenario() -> None:
        async with listening() as (backend, pool):

            async def peek() -> int:
                async with pool.exchange("GET", "/", deadline=NEVER) as answer:
                    return answer.status

            async with background(peek()) as peeked:
                peer = await backend.accept()
                await _bring_to("half a body", peer)
                assert await peeked == 200
            async with asyncio.timeout(1.0):
                await peer.gone()
            assert pool.open_connections == 0

    run(scenario())


class _Slow(Origin, frozen=True):
    """An origin whose connections take their time."""

    async def connect(self, factory: Callable[[], asyncio.BaseProtocol]) -> asyncio.BaseProtocol:  # type: ignore[override]
        await asyncio.Event().wait()
        raise AssertionError


@pytest.mark.parametrize("times", [1, 2])
def test_a_cancelled_connect_leaves_nothing(times: int) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        pool = Pool(_Slow("", "", 0, b""), PoolLimits(connections=1), Deadlines(loop), loop)
        for _ in range(3):
            async with background(ask(pool)) as asked:
                await until(lambda: pool._connecting == 1)
                for _ in range(times):
                    asked.cancel()
                await asyncio.wait([asked])
                assert asked.cancelled()
            assert (pool._connecting, pool.open_connections) == (0, 0)

    run(scenario())


def test_a_cancellation_that_meets_the_new_connection_leaves_nothing() -> None:
    """Cancelled after every number of turns of the loop, while connecting, asking, and being answered."""

    async def scenario() -> None:
        async with listening() as (backend, pool):

            async def answering() -> None:
                while True:
                    peer = await backend.accept()
                    await peer.request()
                    await peer.send(OK)

            async with background(answering()):
                for turns in range(40):
                    async with background(ask(pool)) as asked:
                        for _ in range(turns):
                            await asyncio.sleep(0)
                        asked.cancel()
                        await asyncio.wait([asked])
                    pool.close()
                    await until(lambda: not pool.open_connections and not pool._connecting)
                for peer in backend.peers:
                    await peer.gone()

    run(scenario())


def test_a_backend_that_does_not_accept_in_time_is_unreachable() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        pool = Pool(_Slow("", "", 0, b""), PoolLimits(connect_timeout_s=0.02), Deadlines(loop), loop)
        with pytest.raises(BackendUnreachable, match=r"0\.02 s"):
            await ask(pool)
        with pytest.raises(BackendTimeout):
            await ask(pool, deadline=loop.time() + 0.01)
        with pytest.raises(BackendTimeout):
            await ask(pool, deadline=loop.time() - 1)

    run(scenario())


def test_a_full_backlog_is_unreachable() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
            fillers = [socket.socket() for _ in range(3)]
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(full.getsockname())
            origin = Origin.parse(f"http://127.0.0.1:{full.getsockname()[1]}")
            pool = Pool(origin, PoolLimits(connect_timeout_s=0.1), Deadlines(loop), loop)
            with pytest.raises(BackendUnreachable, match="did not accept"):
                await ask(pool)
            for filler in fillers:
                filler.close()
            assert pool.open_connections == 0

    run(scenario())


def test_a_closed_port_is_unreachable() -> None:
    async def scenario() -> None:
        async with listening() as (backend, pool):
            backend.sock.close()
            with pytest.raises(BackendUnreachable, match="cannot be reached"):
                await ask(pool)

    run(scenario())


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("whole", [True, False])
def test_a_backend_that_falls_silent_is_given_up_at_the_deadline(phase: str, whole: bool) -> None:
    """I15."""

    async def scenario() -> None:
        clock = Clock()
        loop = cast(asyncio.AbstractEventLoop, clock)
        async with listening() as (backend, _):
            origin = Origin.parse(f"http://127.0.0.1:{backend.port}")
            pool = Pool(origin, PoolLimits(), Deadlines(loop, TICK_S), loop)
            async with background(ask(pool, whole, deadline=clock.time() + 60)) as asked:
                peer = await backend.accept()
                await _bring_to(phase, peer)
                clock.advance(61)
                with pytest.raises(BackendTimeout):
                    await asked
                await peer.gone()
                assert pool.open_connections == 0

    run(scenario())


def test_each_read_may_have_a_deadline_of_its_own() -> None:
    async def scenario() -> None:
        async with listening() as (backend, pool):
            loop = asyncio.get_running_loop()

            async def read() -> None:
                async with pool.exchange("GET", "/", deadline=NEVER) as answer:
                    assert await answer.read(NEVER) == b"o"
                    with pytest.raises(BackendTimeout):
                        await answer.read(loop.time() + 0.01)

            async with background(read()) as reading:
                peer = await backend.accept()
                await _bring_to("half a body", peer)
                await reading
                await peer.gone()

    run(scenario())


def test_an_answer_that_comes_as_its_deadline_passes_is_no_timeout() -> None:
    """What has been received is received: the next read has a deadline of its own."""

    async def scenario() -> None:
        async with listening() as (backend, pool):

            async def read() -> bytes:
                async with pool.exchange("GET", "/", deadline=NEVER) as answer:
                    return await answer.read(NEVER) + await answer.read(NEVER)

            async with background(read()) as reading:
                peer = await backend.accept()
                await peer.request()
                await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n")
                await until(lambda: any(c.status and c._waiter and not c._waiter.done() for c in pool._open))
                connection = next(iter(pool._open))
                connection.data_received(b"o")
                connection.expire(0.0)
                await until(lambda: (connection._waiter and not connection._waiter.done()) or reading.done())
                await peer.send(b"k")
                assert await reading == b"ok"

    run(scenario())


def test_a_piece_that_comes_as_its_deadline_passes_is_no_timeout_of_what_flows() -> None:
    async def scenario() -> None:
        async with listening() as (backend, pool):
            taken: list[bytes] = []

            def take(data: bytes) -> float:
                taken.append(data)
                return 1e9  # far, but a deadline

            async def flow() -> bool:
                async with pool.exchange("GET", "/", deadline=NEVER) as answer:
                    return await answer.flow(take, 1e9)

            async with background(flow()) as flowing:
                peer = await backend.accept()
                await peer.request()
                await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n")
                await until(lambda: any(c._take and c._waiter and not c._waiter.done() for c in pool._open))
                connection = next(iter(pool._open))
                connection.expire(0.0)
                connection.data_received(b"o")
                await until(lambda: (connection._waiter and not connection._waiter.done()) or flowing.done())
                await peer.send(b"k")
                assert await flowing
                assert taken == [b"o", b"k"]

    run(scenario())
