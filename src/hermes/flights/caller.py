"""One who is answered with what a shared run says, or with what was said before: in his own dialect."""

import asyncio
from typing import cast

from hermes.attempt import LONG_BYTES, Job, break_off, stream_lines, wait_lines
from hermes.chat import Answer, ChatRequest, Embeddings, EmbedRequest
from hermes.dialects import EmbedDialect, Meta
from hermes.flights.asked import Asked
from hermes.flights.flight import Flight, Place
from hermes.flights.repeats import Repeat
from hermes.policy import cache
from hermes.policy.ticket import Ticket
from hermes.router import Route

# Rendered, a number is somewhat longer than packed.
_LONG_NUMBERS = LONG_BYTES // 10
_JSON = b"content-type: application/json\r\n"


async def give(asked: Asked, route: Route, packed: bytes, now: float) -> Answer | Embeddings:
    """Answer with what was said before."""
    meta = _given(asked, route, asked.no_ticket(route), now)
    if len(packed) <= LONG_BYTES:
        said, body = _unpack(asked, meta, packed)
    else:
        said, body = await asyncio.to_thread(_unpack, asked, meta, packed)
    _send(asked, said, body)
    return said


def give_unread(asked: Asked, known: Repeat, now: float) -> None:
    """The same to who asked so before, whose request was not read this time."""
    meta = _given(asked, known.route, known.ticket, now)
    _send(asked, known.answer, _render(asked, meta, known.answer))


def _given(asked: Asked, route: Route, ticket: Ticket, now: float) -> Meta:
    asked.is_given(ticket)
    asked.exchange.ttft_s = now - asked.exchange.arrived_at
    return asked.meta(route)


def _unpack(asked: Asked, meta: Meta, packed: bytes) -> tuple[Answer | Embeddings, bytes]:
    request = asked.request
    if isinstance(request, EmbedRequest):
        made = cache.unpack_embeddings(packed)
        return made, cast(EmbedDialect, asked.dialect).render_embeddings(made, request, meta)
    answer = cache.unpack_answer(packed)
    return answer, _render(asked, meta, answer)


def _render(asked: Asked, meta: Meta, answer: Answer) -> bytes:
    request, spoken = cast(ChatRequest, asked.request), asked.dialect
    if request.stream:
        return spoken.encoder(request, meta).encode(cache.events(answer))
    return spoken.render_answer(answer, request, meta)


def _send(asked: Asked, said: Answer | Embeddings, body: bytes) -> None:
    exchange, response = asked.exchange, asked.response
    exchange.usage = said.usage
    if asked.request.stream:
        exchange.begun = True
        response.start(200, stream_lines(asked.dialect, exchange))
        response.end(body)
    else:
        response.send(200, _JSON + exchange.id_line(), body)


class Caller:
    """`exchange` is told what becomes of him, `free` above all: whether it cost anything."""

    def __init__(self, asked: Asked, route: Route) -> None:
        self.exchange = asked.exchange
        self._asked = asked
        self._route = route
        self._job = asked.job(route)

    async def render(self, answer: Answer | Embeddings) -> bytes:
        job = self._job
        if isinstance(job, Job):
            assert isinstance(answer, Answer)
            return job.dialect.render_answer(answer, job.request, job.meta)
        assert isinstance(answer, Embeddings)
        if sum(map(len, answer.vectors)) <= _LONG_NUMBERS:
            return job.dialect.render_embeddings(answer, job.request, job.meta)
        return await asyncio.to_thread(job.dialect.render_embeddings, answer, job.request, job.meta)

    def send(self, body: bytes, lines: bytes = b"") -> None:
        self._job.response.send(200, _JSON + self.exchange.id_line() + self._wait_lines() + lines, body)

    async def take(self, answer: Answer) -> None:
        """What an earlier try of the same was answered."""
        self._is_given()
        self.exchange.usage = answer.usage
        self.send(await self.render(answer))

    def send_again(self, body: bytes) -> None:
        """What was sent before, to another try of the same."""
        self._is_given()
        self.send(body, b"idempotent-replayed: true\r\n")

    # --- what a run says --------------------------------------------------------------------------------------------

    async def be_served(self, flight: Flight) -> None:
        """Raises what the run has failed with. Its first caller pays for it; if he leaves, the next."""
        exchange = self.exchange
        exchange.free = bool(flight.callers)
        place = flight.join(exchange)
        if exchange.traced is not None and flight.exchange.traced is not None:
            exchange.traced.follow(flight.exchange.traced)
        try:
            if isinstance(self._job, Job) and self._job.request.stream:
                await self._follow(self._job, flight, place)
            else:
                await self._wait(flight)
        finally:
            exchange.free = flight.paid or next(iter(flight.callers)) is not exchange
            flight.paid = flight.paid or flight.over
            self._learn(flight)
            flight.leave(exchange)

    def break_off(self, error: BaseException) -> None:
        """A stream that was begun, by signs of life or more, will not be whole."""
        break_off(self._job, error)

    async def _wait(self, flight: Flight) -> None:
        while not flight.over:
            await flight.news()
        if flight.error is not None:
            raise flight.error
        assert flight.answer is not None
        self._learn(flight)
        self.send(flight.rendered or await self.render(flight.answer))

    async def _follow(self, job: Job, flight: Flight, place: Place) -> None:
        """From its beginning, and then as it comes."""
        response, encoder = job.response, job.dialect.encoder(job.request, job.meta)
        try:
            while True:
                pieces, ended = flight.read(place), flight.ended
                if not (pieces or ended):
                    if flight.error is not None:
                        raise flight.error
                    self._beat(job, flight)
                    await flight.news()
                    continue
                if not self.exchange.begun:
                    self._open(job, flight)
                said = b"".join(
                    [encoder.text(each) if isinstance(each, str) else encoder.encode(each) for each in pieces]
                )
                if ended:
                    response.end(said)
                    return
                if not response.write(said):
                    await response.drain()
                flight.has_read(place)
        except BaseException as error:
            if self.exchange.begun:
                break_off(job, error, encoder)
            raise

    def _open(self, job: Job, flight: Flight) -> None:
        self.exchange.begun = True
        self._learn(flight)
        if not job.response.started:
            job.response.start(200, stream_lines(job.dialect, job.exchange) + self._wait_lines())

    def _beat(self, job: Job, flight: Flight) -> None:
        """A sign of life while the run waits for its turn."""
        beats, position, eta_ms = flight.queued
        if beats > job.meta.beats and not self.exchange.begun:
            if not job.response.started:
                job.response.start(200, stream_lines(job.dialect, job.exchange))
            job.response.write(job.dialect.queued(position, eta_ms, job.meta))
            job.meta.beats = beats

    # --- what is told of him ----------------------------------------------------------------------------------------

    def _learn(self, flight: Flight) -> None:
        exchange, run = self.exchange, flight.exchange
        exchange.usage, exchange.asked = run.usage, run.asked
        if run.ttft_s is not None:
            exchange.ttft_s = max(0.0, run.arrived_at + run.ttft_s - exchange.arrived_at)
        if exchange.free:
            self._is_given()
            return
        exchange.quota_lines = run.quota_lines
        exchange.ticket, exchange.backend, exchange.attempts = run.ticket, run.backend, run.attempts
        exchange.queue_s, exchange.model, exchange.crashes = run.queue_s, run.model or exchange.model, run.crashes
        if exchange.ticket is None or exchange.ticket.tenant != self._asked.principal.tenant:
            exchange.ticket = self._asked.no_ticket(self._route)
        if exchange.reuse:
            exchange.reuse = "miss"

    def _is_given(self) -> None:
        self._asked.is_given(self._asked.no_ticket(self._route))

    def _wait_lines(self) -> bytes:
        exchange = self.exchange
        return b"" if exchange.free or exchange.ticket is None else wait_lines(exchange, exchange.ticket)
