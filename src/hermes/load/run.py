"""Sends what is planned and times what comes back: the one part that knows sockets and clocks.

Without a bound on connections every request is sent when it is due, whatever became of the others. With one, as many
senders take the next request each as they are free: what was due meanwhile is sent late, and its time counts from when
it was due. A plan without times is a closed loop: each sender asks again as soon as it is answered, or when a server
that refused it said that it might. Whoever cannot keep up with the plan stops soon after its end, and says so.

Where a server says that it will never have such requests, the run is over: more of them tell nothing.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from itertools import count
from random import Random

from msgspec import Struct

from hermes.errors import BackendBusy, BackendTimeout, BackendUnreachable, GatewayError
from hermes.http.client import PoolLimits
from hermes.http.origin import Origin
from hermes.http.pool import Pool
from hermes.http.wire import Deadlines
from hermes.load.histogram import Histogram
from hermes.load.plan import Asked
from hermes.load.reading import Reading, kind_of_refusal, words_of_refusal
from hermes.load.tally import ANSWERED, LEFT, TIMEOUT, Result, Tally

_MANY = 1 << 15  # Linux has 28,232 ports to one address
_IN_A_TURN = 64  # then the loop's others have theirs, however much is overdue
_GRACE_S = 1.0  # after the end, to send what was due before it
_LOOK_S = 0.02
_LOOKS = 10  # to one that is shown
_TICK_S = 0.001  # uvloop's timers count milliseconds; what is due within one is sent at once, and counts from then
_MOST_REFUSAL_BYTES = 1 << 16
_FOR_GOOD = frozenset((401, 403, 404))

now = time.perf_counter  # the loop's own clock stands still within a turn, and counts milliseconds


class Request(Struct, frozen=True):
    """`streams`: what comes is to be read piece by piece. `read` False: whatever comes with 200 is an answer."""

    method: str
    path: str
    body: bytes = b""
    headers: bytes = b""
    streams: bool = False
    read: bool = True


Render = Callable[[Asked], Request]
Show = Callable[[Tally, float], None]


class TurnedAway(Exception):
    """It takes another key, model or path, not more requests. `words`: the server's."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(f"{status} {words}".rstrip())
        self.status = status


class Strain(Struct):
    """What the sending cost: whether it was itself what is measured. `cpu` and `cpu_most`: of one core, 0 to 1."""

    lag: Histogram
    cpu: float = 0.0
    cpu_most: float = 0.0


class Load:
    """One run against one server. `connections` None: as many as it takes."""

    def __init__(
        self, origin: Origin, render: Render, timeout_s: float, connections: int | None = None, show: Show | None = None
    ) -> None:
        self._loop = asyncio.get_running_loop()
        most = connections or _MANY
        limits = PoolLimits(connections=most, idle_connections=most, idle_s=60.0)
        self._pool = Pool(origin, limits, Deadlines(self._loop), self._loop)
        self._render = render
        self._timeout_s = timeout_s
        self._connections = connections
        self._show = show
        self.strain = Strain(Histogram())

    async def run(self, plan: Iterator[Asked], tally: Tally, think_s: float = 0.0) -> None:
        """Until the plan or the time is over, and everybody has an answer or has waited for long enough.

        Cancelled, it ends at once: whoever still waits has left. Raises TurnedAway.
        """
        watch = self._loop.create_task(self._watch(tally))
        began_at, began_cpu_s = now(), time.process_time()
        try:
            async with asyncio.TaskGroup() as group:
                if self._connections is None:
                    await self._send_all(plan, tally, group)
                else:
                    for number in range(self._connections):
                        group.create_task(self._send_in_turn(plan, tally, think_s, Random(number)))
        except ExceptionGroup as failed:
            turned_away, others = failed.split(TurnedAway)
            if turned_away is None or others is not None:
                raise
            raise turned_away.exceptions[0] from None
        finally:
            watch.cancel()
            self.strain.cpu = (time.process_time() - began_cpu_s) / (now() - began_at)
            self.strain.cpu_most = max(self.strain.cpu, self.strain.cpu_most)
            self._pool.close()

    async def _send_all(self, plan: Iterator[Asked], tally: Tally, group: asyncio.TaskGroup) -> None:
        room = asyncio.Semaphore(_MANY)
        for asked in plan:
            request = self._render(asked)
            await room.acquire()
            if (due_at := await self._until_due(asked, tally)) is None:
                return
            group.create_task(self._send(asked, request, due_at, tally)).add_done_callback(lambda _: room.release())
            if asked.number % _IN_A_TURN == 0:
                await asyncio.sleep(0)
        tally.plan_ended = True

    async def _send_in_turn(self, plan: Iterator[Asked], tally: Tally, think_s: float, random: Random) -> None:
        for asked in plan:
            request = self._render(asked)
            if (due_at := await self._until_due(asked, tally)) is None:
                return
            reading = await self._send(asked, request, due_at, tally)
            if asked.at_s is None and reading.retry_after_s and not await self._heed(reading.retry_after_s, tally):
                return
            if think_s:
                await asyncio.sleep(random.expovariate(1 / think_s))
        tally.plan_ended = True

    async def _heed(self, retry_after_s: float, tally: Tally) -> bool:
        """Until the end at most; where that is no time, no longer than an answer would be. Whether it is not over."""
        left_s = self._timeout_s if tally.until_at is None else max(0.0, tally.until_at - now())
        tally.heeded += 1
        tally.heeded_s += (waits_s := min(retry_after_s, left_s))
        await asyncio.sleep(waits_s)
        return tally.until_at is None or waits_s < left_s

    async def _until_due(self, asked: Asked, tally: Tally) -> float | None:
        """When the request is due, once it is; None: not before the end, or too late to be sent at all."""
        due_at = now() if asked.at_s is None else tally.began_at + asked.at_s
        if tally.until_at is not None:
            if due_at >= tally.until_at:
                return None
            if now() >= tally.until_at + _GRACE_S:
                tally.unsent_s = max(tally.unsent_s, tally.until_at - due_at)
                return None
        if (early_s := due_at - now()) > _TICK_S:
            await asyncio.sleep(early_s)
        return min(due_at, now())

    async def _send(self, asked: Asked, request: Request, due_at: float, tally: Tally) -> Reading:
        result = Result(asked, due_at, now(), 0.0, LEFT, Reading(tally.gaps(due_at)))
        tally.begin(due_at)
        try:
            if asked.leaves is None:
                result.outcome = await self._ask(request, result.reading, tally)
            else:
                async with asyncio.timeout(asked.leaves * tally.usual_s):
                    result.outcome = await self._ask(request, result.reading, tally)
        except TimeoutError:
            result.outcome = LEFT
        finally:
            result.ended_at = now()
            tally.end(result)
        return result.reading

    async def _ask(self, request: Request, reading: Reading, tally: Tally) -> str:
        """The outcome."""
        deadline = self._loop.time() + self._timeout_s

        def take(data: bytes) -> float:
            at, before = now(), reading.pieces
            reading.take(data, at)
            tally.came(reading.pieces - before, at)
            return deadline

        try:
            async with self._pool.exchange(
                request.method,
                request.path,
                request.body,
                headers=request.headers,
                whole=not request.streams,
                deadline=deadline,
            ) as connection:
                if connection.status != 200:
                    body = await connection.read_all(_MOST_REFUSAL_BYTES, deadline)
                    if connection.status in _FOR_GOOD:
                        raise TurnedAway(connection.status, words_of_refusal(body))
                    reading.told_retry(connection.headers)
                    return kind_of_refusal(connection.status, body)
                if not request.read:
                    return ANSWERED
                reading.told_wait(connection.headers.get(b"x-hermes-queue-ms", b""))
                if request.streams:
                    await connection.flow(take, deadline)
                else:
                    reading.take_whole(connection.take_body(), now())
        except BackendTimeout:
            return TIMEOUT
        except (BackendUnreachable, BackendBusy):
            return "unreachable"
        except GatewayError:
            return _told(reading) or "broken off"
        except (ValueError, RecursionError):
            return "not an answer"
        return _told(reading) or (ANSWERED if reading.complete else "incomplete")

    async def _watch(self, tally: Tally) -> None:
        """How late the loop is, and how busy the process; and how far, for whoever is shown that."""
        since, cpu_s = now(), time.process_time()
        for turn in count():
            if self._show and turn % _LOOKS == 0:
                self._show(tally, now() - tally.began_at)
            before = now()
            await asyncio.sleep(_LOOK_S)
            after = now()
            self.strain.lag.add(max(0.0, after - before - _LOOK_S))
            if after - since >= 1.0:
                used_s = time.process_time()
                self.strain.cpu_most = max(self.strain.cpu_most, (used_s - cpu_s) / (after - since))
                since, cpu_s = after, used_s


def _told(reading: Reading) -> str:
    """What the server said went wrong after it had begun."""
    return f"in the answer: {reading.error}" if reading.error else ""
