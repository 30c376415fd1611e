"""One try at one backend: open, decode, forward, end.

Nothing reaches the client before the backend's first event, so a failure until then may be tried again. From the first
content byte on an error ends the stream as the dialect's own error event, uncleanly, and is final (invariant I5).
"""

import asyncio
from contextlib import suppress
from typing import Protocol

from msgspec import Struct

from hermes.chat import (
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
from hermes.errors import BackendError, BackendTimeout, GatewayError
from hermes.exchange import Exchange
from hermes.http.client import ClientExchange, Pool
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
    resident: str
    meta: Meta
    response: Response
    deadline: float
    headers: bytes


async def run(job: Job, server: Server) -> None:
    """Have `server` answer `job`. Raises GatewayError; `job.response.started` then tells whether it is final."""
    whole = not job.request.stream
    # The rendered request is nobody's once it is sent: a stream may last for an hour.
    async with server.pool.exchange(
        "POST",
        *server.dialect.render_request(job.request, job.resident),
        headers=job.headers,
        whole=whole,
        deadline=job.deadline,
    ) as answer:
        if answer.status != 200:
            raise server.dialect.error(answer.status, await answer.read_all(MAX_ERROR_BYTES))
        if whole:
            _answer_whole(job, answer.body, server.dialect)
        else:
            await _Stream(job, answer, server.dialect).run()


def _answer_whole(job: Job, answer: bytes, spoken: BackendDialect) -> None:
    said = spoken.whole(answer, job.request, job.exchange.request_id)
    if said is None:
        raise BackendError("the backend's answer ended before it was complete")
    if isinstance(said, Failure):
        raise spoken.failure(said)
    now = asyncio.get_running_loop().time()
    job.exchange.usage = said.usage
    job.exchange.first_content_at = now
    job.response.send(200, _head(job, b"application/json"), job.dialect.render_answer(said, job.meta))


class _Stream:
    """One streamed answer on its way from backend to client."""

    __slots__ = (
        "_answer",
        "_begun",
        "_decoder",
        "_encoder",
        "_job",
        "_loop",
        "_must_end_at",
        "_spoken",
        "_stall_timeout_s",
        "_stopped",
    )

    def __init__(self, job: Job, answer: ClientExchange, spoken: BackendDialect) -> None:
        self._job = job
        self._answer = answer
        self._spoken = spoken
        self._decoder: Decoder = spoken.decoder(job.request, job.exchange.request_id)
        self._encoder: Encoder = job.dialect.encoder(job.request, job.meta)
        self._loop = asyncio.get_running_loop()
        self._stall_timeout_s = job.service.stall_timeout_s
        self._must_end_at = self._loop.time() + job.service.max_stream_s
        self._begun = False  # content has come
        self._stopped = False

    async def run(self) -> None:
        response = self._job.response
        response.start(200, _head(self._job, self._job.dialect.stream_content_type))
        try:
            await self._forward()
        except GatewayError as error:
            if response.started:
                response.break_off(self._encoder.fail(error))
            raise

    async def _forward(self) -> None:
        """Each read is decoded, encoded and written at once: one write per read."""
        job, response, clock = self._job, self._job.response, self._loop.time
        read, decode, encode = self._answer.read, self._decoder.feed, self._encoder.encode
        deadline = job.deadline
        while data := await read(deadline):
            if events := decode(data):
                for event in events:
                    if type(event) is not TextDelta or not self._begun:
                        self._note(event)
                if self._stopped:
                    response.end(encode(events))
                    await self._finish()
                    return
                response.write(encode(events))
                if response.paused:
                    await self._drain()
            now = clock()
            deadline = min(now + self._stall_timeout_s, self._must_end_at) if self._begun else job.deadline
            if now >= deadline:
                raise BackendTimeout("the backend's answer took too long")
        self._end(self._decoder.finish())

    async def _drain(self) -> None:
        """Wait for a slow client, but not past the stream's own end: it holds a slot."""
        try:
            async with asyncio.timeout_at(self._must_end_at):
                await self._job.response.drain()
        except TimeoutError:
            raise BackendTimeout("the stream took too long: its client reads too slowly") from None

    def _end(self, events: list[StreamEvent]) -> None:
        """The backend's bytes are over; `events` is what an unfinished line held."""
        for event in events:
            self._note(event)
        if not self._stopped:
            raise BackendError("the backend's stream ended before its answer was complete")
        self._job.response.end(self._encoder.encode(events))

    def _note(self, event: StreamEvent) -> None:
        """What an event means for the request itself. Raises what a Failure means for the client."""
        exchange = self._job.exchange
        match event:
            case TextDelta() | ReasoningDelta() | ToolCallDelta():
                if not self._begun:
                    self._begun = True
                    exchange.first_content_at = self._loop.time()
            case Usage():
                exchange.usage = event
            case Stop():
                self._stopped = True
            case Failure():
                if not self._job.response.started:
                    exchange.first_content_at = None  # what came along with it is not sent
                raise self._spoken.failure(event)

    async def _finish(self) -> None:
        """The client has its whole answer. Let the backend end the body, so that its connection can serve again."""
        with suppress(BackendError):
            await self._answer.read(self._loop.time() + _END_TIMEOUT_S)


def _head(job: Job, content_type: bytes) -> bytes:
    lines = b"content-type: %b\r\n" % content_type + job.exchange.id_line()
    return lines + _NO_BUFFERING if job.request.stream else lines
