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
    collect,
)
from hermes.dialects import BackendDialect, ClientDialect, Decoder, Encoder, Meta
from hermes.errors import BackendError, BackendTimeout, GatewayError
from hermes.exchange import Exchange
from hermes.http.client import ClientExchange, Pool
from hermes.http.response import Response
from hermes.policy.routing import Service

MAX_ERROR_BYTES = 64 * 1024
MAX_ANSWER_BYTES = 64 * 1024 * 1024
# After the last event the backend only has to say that the body is over.
_END_TIMEOUT_S = 1.0

# Proxies in between must pass each piece on as it comes (nginx reads the second header).
_NO_BUFFERING = b"cache-control: no-cache, no-transform\r\nx-accel-buffering: no\r\n"

_CONTENT = (TextDelta, ReasoningDelta, ToolCallDelta)


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
        decoder = server.dialect.decoder(job.request, job.exchange.request_id)
        if whole:
            await _answer_whole(job, answer, server.dialect, decoder)
        else:
            await _Stream(job, answer, server.dialect, decoder).run()


async def _answer_whole(job: Job, answer: ClientExchange, spoken: BackendDialect, decoder: Decoder) -> None:
    said = collect(decoder.feed(await answer.read_all(MAX_ANSWER_BYTES)) + decoder.finish())
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

    __slots__ = ("_answer", "_decoder", "_encoder", "_job", "_loop", "_must_end_at", "_spoken", "_stopped")

    def __init__(self, job: Job, answer: ClientExchange, spoken: BackendDialect, decoder: Decoder) -> None:
        self._job = job
        self._answer = answer
        self._spoken = spoken
        self._decoder = decoder
        self._encoder: Encoder = job.dialect.encoder(job.request, job.meta)
        self._loop = asyncio.get_running_loop()
        self._must_end_at = self._loop.time() + job.service.max_stream_s
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
        job, response = self._job, self._job.response
        deadline = job.deadline
        while data := await self._answer.read(deadline):
            events = self._decoder.feed(data)
            if events:
                self._write(events)
                if self._stopped:
                    await self._finish()
                    return
            if response.paused:
                await response.drain()
            deadline = self._next_deadline()
        if events := self._decoder.finish():
            self._write(events)
        if not self._stopped:
            raise BackendError("the backend's stream ended before its answer was complete")

    def _write(self, events: list[StreamEvent]) -> None:
        job = self._job
        for event in events:
            kind = type(event)
            if kind in _CONTENT:
                if job.exchange.first_content_at is None:
                    job.exchange.first_content_at = self._loop.time()
            elif kind is Usage:
                job.exchange.usage = event  # type: ignore[assignment]  # narrowed by its type object
            elif kind is Stop:
                self._stopped = True
            elif isinstance(event, Failure):
                if not job.response.started:
                    job.exchange.first_content_at = None  # what came along with it is not sent
                raise self._spoken.failure(event)
        encoded = self._encoder.encode(events)
        if self._stopped:
            job.response.end(encoded)
        else:
            job.response.write(encoded)

    def _next_deadline(self) -> float:
        """When the next bytes must be here. Raises BackendTimeout where bytes keep coming but the time is over."""
        now, service = self._loop.time(), self._job.service
        if self._job.exchange.first_content_at is None:
            deadline = self._job.deadline
        else:
            deadline = min(now + service.stall_timeout_s, self._must_end_at)
        if now >= deadline:
            raise BackendTimeout("the backend's answer took too long")
        return deadline

    async def _finish(self) -> None:
        """The client has its whole answer. Let the backend end the body, so that its connection can serve again."""
        with suppress(BackendError):
            await self._answer.read(self._loop.time() + _END_TIMEOUT_S)


def _head(job: Job, content_type: bytes) -> bytes:
    lines = b"content-type: %b\r\n" % content_type + job.exchange.id_line()
    return lines + _NO_BUFFERING if job.request.stream else lines
