"""One try at one backend: open, decode, forward, end.

Nothing reaches the client before the backend's first event, so a failure until then may be tried again. From the first
content byte on an error ends the stream as the dialect's own error event, uncleanly, and is final (invariant I5).
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from msgspec import Struct

from hermes.chat import (
    Answer,
    ChatRequest,
    Failure,
    ReasoningDelta,
    Stop,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from hermes.dialects import BackendDialect, ClientDialect, Decoder, Encoder, Meta
from hermes.errors import BackendError, BackendTimeout, Draining, GatewayError
from hermes.exchange import Exchange
from hermes.http.client import ENOUGH, ClientConnection
from hermes.http.pool import Pool
from hermes.http.response import Response
from hermes.policy.routing import Service

MAX_ERROR_BYTES = 64 * 1024
# After the last event the backend only has to say that the body is over.
_END_TIMEOUT_S = 1.0

# Proxies in between must pass each piece on as it comes (nginx reads the second header).
_NO_BUFFERING = b"cache-control: no-cache, no-transform\r\nx-accel-buffering: no\r\n"


class Server(Protocol):
    """A backend, as an attempt needs it."""

    @property
    def pool(self) -> Pool: ...
    @property
    def dialect(self) -> BackendDialect: ...


class Job(Struct, frozen=True):
    """What is asked for, by whom, and where the answer goes."""

    exchange: Exchange
    dialect: ClientDialect
    request: ChatRequest
    service: Service
    meta: Meta
    response: Response
    deadline: float


async def run(job: Job, server: Server, resident: str) -> None:
    """Have `server` answer `job` with its model `resident`.

    Raises GatewayError; `job.response.started` then tells whether it is final.
    """
    request, spoken, pool = job.request, server.dialect, server.pool
    path, body = spoken.render_request(request, resident)
    asking = pool.exchange(
        "POST", path, body, headers=job.exchange.forwarded, whole=not request.stream, deadline=job.deadline
    )
    del body  # the rendered request is nobody's once it is sent: a stream may last for an hour
    async with asking as answer:
        if answer.status != 200:
            raise spoken.error(answer.status, await answer.read_all(MAX_ERROR_BYTES, job.deadline))
        if request.stream:
            await _Stream(job, answer, spoken, pool.loop.time).run()
        else:
            _answer_whole(job, answer.take_body(), spoken, pool.loop.time())


def _answer_whole(job: Job, answer: bytes, spoken: BackendDialect, now: float) -> None:
    exchange = job.exchange
    said = spoken.whole(answer, job.request, exchange.request_id)
    if isinstance(said, Answer):
        exchange.usage = said.usage
        exchange.first_content_at = now
        lines = b"content-type: application/json\r\n" + exchange.id_line()
        job.response.send(200, lines, job.dialect.render_answer(said, job.meta))
    elif said is None:
        raise BackendError("the backend's answer ended before it was complete")
    else:
        raise spoken.failure(said)


class _Stream:
    """One streamed answer on its way from backend to client."""

    __slots__ = (
        "_answer",
        "_begun",
        "_clock",
        "_decoder",
        "_encoder",
        "_job",
        "_must_end_at",
        "_response",
        "_spoken",
        "_stall_timeout_s",
        "_stopped",
    )

    def __init__(self, job: Job, answer: ClientConnection, spoken: BackendDialect, clock: Callable[[], float]) -> None:
        self._job = job
        self._response = job.response
        self._answer = answer
        self._spoken = spoken
        self._decoder: Decoder = spoken.decoder(job.request, job.exchange.request_id)
        self._encoder: Encoder = job.dialect.encoder(job.request, job.meta)
        self._clock = clock
        self._stall_timeout_s = job.service.stall_timeout_s
        self._must_end_at = self._clock() + job.service.max_stream_s
        self._begun = False  # content has come
        self._stopped = False

    async def run(self) -> None:
        response = self._response
        content_type = b"content-type: %b\r\n" % self._job.dialect.stream_content_type
        response.start(200, content_type + self._job.exchange.id_line() + _NO_BUFFERING)
        try:
            await self._forward()
        except BaseException as error:
            if response.started and not (response.ended or response.gone):
                response.break_off(self._encoder.fail(_told(error)))
            raise

    async def _forward(self) -> None:
        deadline = self._job.deadline
        while not await self._answer.flow(self._take, deadline):
            if self._stopped:
                await self._finish()
                return
            await self._drain()
            deadline = min(self._clock() + self._stall_timeout_s, self._must_end_at)
        self._end(self._decoder.finish())

    def _take(self, data: bytes) -> float:
        """Decode, encode and write what has come, at once: one write per read. Returns when more must come.

        ENOUGH: no more for now, the client is slow; or at all, the answer is over.
        """
        if self._begun and (text := self._decoder.text(data)):
            keeps_up = self._response.write(self._encoder.text(text))
        else:
            keeps_up = self._take_events(data)
        if not keeps_up:
            return ENOUGH
        if not self._begun:
            return self._job.deadline
        due_at = self._clock() + self._stall_timeout_s
        return min(self._must_end_at, due_at)

    def _take_events(self, data: bytes) -> bool:
        """False: enough for now."""
        events = self._decoder.feed(data)
        for event in events:
            if type(event) is not TextDelta or not self._begun:
                self._note(event)
        if self._stopped:
            self._response.end(self._encoder.encode(events))
            return False
        return self._response.write(self._encoder.encode(events))

    async def _drain(self) -> None:
        """Wait for a slow client, but not past the stream's own end: it holds a slot."""
        try:
            async with asyncio.timeout_at(self._must_end_at):
                await self._response.drain()
        except TimeoutError:
            raise BackendTimeout("the stream took too long: its client reads too slowly") from None

    def _end(self, events: list[StreamEvent]) -> None:
        """The backend's bytes are over; `events` is what an unfinished line held."""
        for event in events:
            self._note(event)
        if not self._stopped:
            raise BackendError("the backend's stream ended before its answer was complete")
        self._response.end(self._encoder.encode(events))

    def _note(self, event: StreamEvent) -> None:
        """What an event means for the request itself. Raises what a Failure means for the client."""
        exchange = self._job.exchange
        match event:
            case TextDelta() | ReasoningDelta() | ToolCallDelta():
                if not self._begun:
                    self._begun = True
                    exchange.first_content_at = self._clock()
            case Usage():
                exchange.usage = event
            case Stop():
                self._stopped = True
            case Failure():
                if not self._response.started:
                    exchange.first_content_at = None  # what came along with it is not sent
                raise self._spoken.failure(event)

    async def _finish(self) -> None:
        """The client has its whole answer. Let the backend end the body, so that its connection can serve again."""
        if not self._answer.complete:
            with suppress(BackendError):
                await self._answer.read(self._clock() + _END_TIMEOUT_S)


def _told(error: BaseException) -> GatewayError:
    """What a client is told of the end of its stream. Cancelled though the client is there: it is we who stop."""
    if isinstance(error, GatewayError):
        return error
    return (
        Draining("this server has shut down")
        if isinstance(error, asyncio.CancelledError)
        else GatewayError("internal error")
    )
