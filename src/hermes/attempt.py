"""One try at one backend: open, decode, forward, end.

Nothing reaches the client before the backend's first event, so a failure until then may be tried again. From the first
content byte on an error ends the stream as the dialect's own error event, uncleanly, and is final (invariant I5).
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from time import monotonic

from msgspec import Struct
from msgspec.structs import replace

from hermes.chat import (
    Answer,
    ChatRequest,
    EmbedRequest,
    Failure,
    ReasoningDelta,
    Stop,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    Usage,
    collect,
)
from hermes.dialects import BackendDialect, ClientDialect, Decoder, EmbedDialect, Encoder, Meta
from hermes.errors import BackendBusy, BackendError, BackendTimeout, Draining, GatewayError
from hermes.exchange import Exchange
from hermes.fleet.driver import Server
from hermes.http.client import ENOUGH, ClientConnection
from hermes.http.pool import ClientExchange
from hermes.http.response import Response
from hermes.policy.routing import Service
from hermes.policy.ticket import Ticket

log = logging.getLogger(__name__)

MAX_ERROR_BYTES = 64 * 1024
# Of a whole answer that comes as a stream. What surrounds a token is some 250 bytes.
MAX_GATHERED_BYTES = 64 << 20
# Of numbers: what is longer would hold the event loop up for more than a few milliseconds.
LONG_BYTES = 256 * 1024
# After the last event the backend only has to say that the body is over.
_END_TIMEOUT_S = 1.0

# Proxies in between must pass each piece on as it comes (nginx reads the second header).
_NO_BUFFERING = b"cache-control: no-cache, no-transform\r\nx-accel-buffering: no\r\n"


class Work(Struct, frozen=True):
    """What is asked of a service, and where the answer goes."""

    exchange: Exchange
    service: Service
    meta: Meta
    response: Response
    deadline: float
    prompt_bytes: int


class Job(Work, frozen=True):
    """An answer, whole or streamed."""

    dialect: ClientDialect
    request: ChatRequest


class EmbedJob(Work, frozen=True):
    """Embeddings, which are always answered whole."""

    dialect: EmbedDialect
    request: EmbedRequest


async def run(job: Job | EmbedJob, server: Server, ticket: Ticket) -> None:
    """Have `server` answer `job` with the model that `ticket` is for.

    Raises GatewayError; `job.exchange.begun` then tells whether it is final: content has gone out.
    """
    exchange, request, spoken, pool = job.exchange, job.request, server.dialect, server.pool
    if isinstance(request, EmbedRequest):
        gathers = False
        path, body = spoken.render_embed(request, ticket.resident)
    else:
        gathers = spoken.streams_only and not request.stream
        path, body = spoken.render_request(replace(request, stream=True) if gathers else request, ticket.resident)
    whole = not (request.stream or gathers)
    if exchange.traced is not None:
        at = pool.origin
        dialect = exchange.traced.ask(exchange, job.dialect, at.unix_path or at.host, at.port)
        job = replace(job, dialect=dialect)
    asking = pool.exchange("POST", path, body, headers=exchange.forwarded, whole=whole, deadline=job.deadline)
    exchange.asking = asking
    del body  # the rendered request is nobody's once it is sent: a stream may last for an hour
    sent_at = monotonic()
    async with asking as answer:
        if answer.status != 200:
            error = spoken.error(answer.status, await answer.read_all(MAX_ERROR_BYTES, job.deadline))
            if isinstance(error, BackendBusy):
                error.retry_after_s = _retry_after_s(answer.headers)
            raise error
        if isinstance(job, EmbedJob):
            exchange.backend_s = monotonic() - sent_at
            await _answer_embedded(job, answer.take_body(), spoken, ticket, pool.loop.time())
            return
        if job.request.stream:
            await _Stream(job, answer, spoken, ticket, pool.loop.time).run()
            exchange.backend_s = monotonic() - sent_at
            return
        if gathers:
            decoder = spoken.decoder(job.request, exchange.request_id)
            events = await _gather(asking, answer, decoder, job.deadline)
            exchange.backend_s = monotonic() - sent_at
            said = collect(events)
        else:
            exchange.backend_s = monotonic() - sent_at
            said = spoken.whole(answer.take_body(), job.request, exchange.request_id)
        _answer_whole(job, said, spoken, ticket, pool.loop.time())
        if gathers:
            exchange.cancel = None  # what is still to be done is no business of the client's
            answered_at = monotonic()
            await _let_end(answer, exchange, ticket, pool.loop.time)
            exchange.backend_s += monotonic() - answered_at


def break_off(job: Job | EmbedJob, error: BaseException, encoder: Encoder | None = None) -> None:
    """End an answer that has begun and will not be whole, as the dialect tells of an error (invariant I5).

    `encoder`: what has rendered it so far, if there has been more than signs of life.
    """
    response = job.response
    if isinstance(job, Job) and response.started and not (response.ended or response.gone):
        told = job.exchange.dismissed or _told(error)
        response.break_off((encoder or job.dialect.encoder(job.request, job.meta)).fail(told))


def stream_lines(dialect: ClientDialect, exchange: Exchange) -> bytes:
    """What the head of every stream says."""
    return b"content-type: %b\r\n%b%b" % (dialect.stream_content_type, exchange.id_line(), _NO_BUFFERING)


# Milliseconds. Of a request that found its model loaded and a slot free all but the last are 0.
_WAIT = (
    "x-hermes-queue-ms: %d\r\nx-hermes-queue-position: %d\r\nx-hermes-eta-ms: %d\r\nx-hermes-backend: %s\r\n"
    "x-hermes-loaded: %s\r\nserver-timing: queue;dur=%d, load;dur=%d, ttft;dur=%d\r\n"
)


def wait_lines(exchange: Exchange, ticket: Ticket) -> bytes:
    """How long it waited, how long it was thought to when it came, where it runs, and how its model was found."""
    if ticket.told is None and exchange.attempts == 1 and not exchange.asked:  # it did not wait
        return b"%b%d\r\n" % (_no_wait(exchange.backend), (exchange.ttft_s or 0.0) * 1000)
    told, queue_ms = ticket.told, int((exchange.queue_s or 0.0) * 1000)
    position, eta_ms = (0, 0) if told is None else (told.position, int(told.eta_s * 1000))
    load_ms, ttft_ms = int(ticket.load_s * 1000), int((exchange.ttft_s or 0.0) * 1000)
    lines = _WAIT % (queue_ms, position, eta_ms, exchange.backend, ticket.found, queue_ms, load_ms, ttft_ms)
    if exchange.asked:
        lines += f"x-hermes-model-served: {exchange.model}\r\n"
    return lines.encode("ascii")


@lru_cache(maxsize=256)
def _no_wait(backend: str) -> bytes:
    """What is the same for all that found their model loaded and a slot free there, up to the time it took."""
    return (_WAIT % (0, 0, 0, backend, "hit", 0, 0, 0)).encode("ascii").removesuffix(b"0\r\n")


def _wait_words(exchange: Exchange, ticket: Ticket) -> str:
    """The same on one line."""
    lines = wait_lines(exchange, ticket).decode("ascii").split("\r\n")
    return " ".join(line.removeprefix("x-hermes-").replace(": ", "=") for line in lines[:-1])


def whole_lines(exchange: Exchange, ticket: Ticket) -> bytes:
    """What the head of every whole answer says."""
    return b"content-type: application/json\r\n" + exchange.id_line() + wait_lines(exchange, ticket)


async def _answer_embedded(job: EmbedJob, answer: bytes, spoken: BackendDialect, ticket: Ticket, now: float) -> None:
    exchange = job.exchange
    exchange.ttft_s = now - exchange.arrived_at

    def translate() -> tuple[Usage, bytes]:
        made = spoken.embeddings(answer, job.request)
        return made.usage, job.dialect.render_embeddings(made, job.request, job.meta)

    # A million numbers take a quarter of a second (invariant I36).
    exchange.usage, body = translate() if len(answer) <= LONG_BYTES else await asyncio.to_thread(translate)
    job.response.send(200, whole_lines(exchange, ticket), body)


def _answer_whole(job: Job, said: Answer | Failure | None, spoken: BackendDialect, ticket: Ticket, now: float) -> None:
    exchange = job.exchange
    if isinstance(said, Answer):
        exchange.usage, exchange.answer = said.usage, said
        exchange.ttft_s = now - exchange.arrived_at
        body = job.dialect.render_answer(said, job.request, job.meta)
        job.response.send(200, whole_lines(exchange, ticket), body)
    elif said is None:
        raise BackendError("the backend's answer ended before it was complete")
    else:
        raise spoken.failure(said)


async def _gather(
    asking: ClientExchange, answer: ClientConnection, decoder: Decoder, deadline: float
) -> list[StreamEvent]:
    """All events of a stream that nobody waits to see begin."""
    events: list[StreamEvent] = []
    size_bytes = 0

    def take(data: bytes) -> float:
        nonlocal size_bytes
        size_bytes += len(data)
        asking.heard += 1
        if size_bytes > MAX_GATHERED_BYTES:
            raise BackendError(f"the backend's answer is longer than {MAX_GATHERED_BYTES} bytes")
        events.extend(decoder.feed(data))
        return ENOUGH if events and type(events[-1]) in (Stop, Failure) else deadline

    if await answer.flow(take, deadline):
        events += decoder.finish()
    return events


def doubt(exchange: Exchange, ticket: Ticket) -> None:
    """No more is charged, told and learned of than can be of what the backend claims to have counted (I15)."""
    usage, said = exchange.usage, exchange.said if exchange.answer is None else exchange.answer.characters
    exchange.usage = usage.believed(ticket.size_bytes, said)
    if exchange.usage is not usage:
        told = exchange.backend, usage.prompt_tokens, usage.completion_tokens, exchange.request_id
        log.warning(
            "the backend %s claims %d + %d tokens for request %s, more than can be: so many do not count", *told
        )


async def _let_end(answer: ClientConnection, exchange: Exchange, ticket: Ticket, clock: Callable[[], float]) -> None:
    """The client has its whole answer. Let the backend end the body, so that its connection can serve again."""
    if not answer.complete:
        doubt(exchange, ticket)  # before who shares the answer is told of it
        with suppress(BackendError):
            await answer.read(clock() + _END_TIMEOUT_S)


# Longer is a mistake, or a quota that comes again tomorrow.
_MAX_RETRY_AFTER_S = 300.0


def _retry_after_s(headers: Mapping[bytes, bytes]) -> float | None:
    """When a busy backend wants to be asked again, if it tells so in seconds (RFC 9110, 10.2.3)."""
    told = headers.get(b"retry-after", b"")
    return min(float(told), _MAX_RETRY_AFTER_S) if told.isdigit() else None


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
        "_said",
        "_sent",
        "_spoken",
        "_stall_timeout_s",
        "_stopped",
        "_ticket",
        "_was_kept_alive",
    )

    def __init__(
        self,
        job: Job,
        answer: ClientConnection,
        spoken: BackendDialect,
        ticket: Ticket,
        clock: Callable[[], float],
    ) -> None:
        self._job = job
        self._ticket = ticket
        self._response = job.response
        self._answer = answer
        self._spoken = spoken
        self._decoder: Decoder = spoken.decoder(job.request, job.exchange.request_id)
        self._encoder: Encoder = job.dialect.encoder(job.request, job.meta)
        self._clock = clock
        self._stall_timeout_s = job.service.stall_timeout_s
        self._must_end_at = self._clock() + job.service.max_stream_s
        self._begun = False  # content has come
        self._said = 0  # characters
        self._sent = False  # something has gone out
        self._was_kept_alive = job.response.started  # by signs of life, while it waited
        self._stopped = False

    async def run(self) -> None:
        deadline = self._job.deadline
        try:
            while not await self._answer.flow(self._take, deadline):
                if self._stopped:
                    await _let_end(self._answer, self._job.exchange, self._ticket, self._clock)
                    return
                await self._drain()
                deadline = min(self._clock() + self._stall_timeout_s, self._must_end_at)
            self._end(self._decoder.finish())
        except BaseException as error:
            self._job.exchange.said = self._said
            if self._sent:
                break_off(self._job, error, self._encoder)
            raise

    def _take(self, data: bytes) -> float:
        """Decode, encode and write what has come, at once: one write per read. Returns when more must come.

        ENOUGH: no more for now, the client is slow; or at all, the answer is over.
        """
        if self._begun and (text := self._decoder.text(data)):
            self._said += len(text)
            keeps_up = self._response.write(self._encoder.text(text))
        else:
            keeps_up = self._take_events(data)
        if not keeps_up:
            return ENOUGH
        if not self._begun:
            return self._job.deadline
        due_at = self._clock() + self._stall_timeout_s
        # `min` takes 0.1 us more, for every chunk.
        return due_at if due_at < self._must_end_at else self._must_end_at  # noqa: FURB136

    def _take_events(self, data: bytes) -> bool:
        """False: enough for now."""
        events = self._decoder.feed(data)
        for event in events:
            if type(event) is TextDelta or type(event) is ReasoningDelta:
                self._said += len(event.text)
            elif type(event) is ToolCallDelta:
                self._said += len(event.name) + len(event.arguments)
            if type(event) is not TextDelta or not self._begun:
                self._note(event)
        if self._stopped:
            self._complete(events)
            return False
        encoded = self._encoder.encode(events)
        if encoded and not self._sent:
            self._open()
        return self._response.write(encoded)

    def _open(self) -> None:
        """The head waits for the first bytes after it, since it tells how long they took."""
        job = self._job
        self._sent = job.exchange.begun = True
        if not self._was_kept_alive:
            self._response.start(200, stream_lines(job.dialect, job.exchange) + wait_lines(job.exchange, self._ticket))

    def _complete(self, events: list[StreamEvent]) -> None:
        self._job.exchange.said = self._said
        if self._job.exchange.dismissed:
            return  # its task is about to hear of it
        encoded = self._encoder.encode(events)
        if not self._sent:
            self._open()
        if self._was_kept_alive:  # its head went out before there was anything to tell
            encoded = self._encoder.aside(_wait_words(self._job.exchange, self._ticket)) + encoded
        self._response.end(encoded)
        self._job.exchange.cancel = None  # what is still to be done is no business of the client's

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
        self._complete(events)

    def _note(self, event: StreamEvent) -> None:
        """What an event means for the request itself. Raises what a Failure means for the client."""
        exchange = self._job.exchange
        match event:
            case TextDelta() | ReasoningDelta() | ToolCallDelta():
                if not self._begun:
                    self._begun = True
                    exchange.ttft_s = self._clock() - exchange.arrived_at
            case Usage():
                exchange.usage = event
            case Stop():
                self._stopped = True
            case Failure():
                if not self._sent:
                    exchange.ttft_s = None  # what came along with it is not sent
                raise self._spoken.failure(event)


def _told(error: BaseException) -> GatewayError:
    """What a client is told of the end of its stream. Cancelled though the client is there: it is we who stop."""
    if isinstance(error, GatewayError):
        return error
    return (
        Draining("this server has shut down")
        if isinstance(error, asyncio.CancelledError)
        else GatewayError("internal error")
    )
