"""One who is answered with what a shared run says, or with what was said before: in his own dialect."""

import asyncio
from math import inf
from typing import cast

from hermes.attempt import LONG_BYTES, EmbedJob, Job, break_off, stream_lines, wait_lines
from hermes.chat import Answer, ChatRequest, Embeddings
from hermes.dialects import EmbedDialect, Meta
from hermes.flights.asked import Asked
from hermes.flights.flight import Flight, Place
from hermes.policy import cache
from hermes.policy.claim import urgency
from hermes.policy.ticket import Phase, Ticket
from hermes.router import Route

# Rendered, a number is somewhat longer than packed.
_LONG_NUMBERS = LONG_BYTES // 10


class Caller:
    """`exchange` is told what becomes of him, `free` above all: whether it cost anything."""

    def __init__(self, asked: Asked, route: Route) -> None:
        self.exchange = exchange = asked.exchange
        self.request = request = asked.request
        self.key_id = asked.principal.key_id
        self._asked = asked
        self._route = route
        exchange.model, exchange.stream, exchange.cancel = route.service.model, request.stream, asked.response.cancel
        self._job = _job(asked, route)

    # --- what was said before ---------------------------------------------------------------------------------------

    async def give(self, packed: bytes, now: float) -> None:
        """A kept answer."""
        self._is_given()
        job = self._job
        if len(packed) <= LONG_BYTES:
            answer = cache.unpack(packed, self.request)
        else:
            answer = await asyncio.to_thread(cache.unpack, packed, self.request)
        self.exchange.ttft_s = now - self.exchange.arrived_at
        self.exchange.usage = answer.usage
        if isinstance(job, Job) and isinstance(answer, Answer) and self.request.stream:
            self.exchange.begun = True
            job.response.start(200, stream_lines(job))
            job.response.end(job.dialect.encoder(job.request, job.meta).encode(cache.events(answer)))
        else:
            self.send(await self.render(answer))

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
        head = b"content-type: application/json\r\n" + self.exchange.id_line() + self._wait_lines() + lines
        self._job.response.send(200, head, body)

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
        try:
            if isinstance(self._job, Job) and self.request.stream:
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
        self.exchange.usage = flight.answer.usage
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
            job.response.start(200, stream_lines(job) + self._wait_lines())

    def _beat(self, job: Job, flight: Flight) -> None:
        """A sign of life while the run waits for its turn."""
        beats, position, eta_ms = flight.queued
        if beats > job.meta.beats and not self.exchange.begun:
            if not job.response.started:
                job.response.start(200, stream_lines(job))
            job.response.write(job.dialect.queued(position, eta_ms, job.meta))
            job.meta.beats = beats

    # --- what is told of him ----------------------------------------------------------------------------------------

    def _is_given(self) -> None:
        self.exchange.free = True
        self.exchange.ticket = self._no_ticket()
        self._say_so()

    def _learn(self, flight: Flight) -> None:
        exchange, run = self.exchange, flight.exchange
        exchange.usage, exchange.asked = run.usage, run.asked
        if run.ttft_s is not None:
            exchange.ttft_s = max(0.0, run.arrived_at + run.ttft_s - exchange.arrived_at)
        if exchange.free:
            self._is_given()
            return
        exchange.ticket, exchange.backend, exchange.attempts = run.ticket, run.backend, run.attempts
        exchange.queue_s, exchange.model, exchange.crashes = run.queue_s, run.model or exchange.model, run.crashes
        if exchange.ticket is None or exchange.ticket.tenant != self._asked.principal.tenant:
            exchange.ticket = self._no_ticket()
        self._say_so()

    def _say_so(self) -> None:
        if self.exchange.reuse:  # its model has a cache
            self.exchange.reuse = "hit" if self.exchange.free else "miss"

    def _wait_lines(self) -> bytes:
        exchange = self.exchange
        return b"" if exchange.free or exchange.ticket is None else wait_lines(exchange, exchange.ticket)

    def _no_ticket(self) -> Ticket:
        """For his record: whose it was. The scheduler never sees it."""
        asked, service, tenant = self._asked, self._route.service, self._asked.principal.tenant
        urgent = urgency(asked.claim, asked.request.service_tier, asked.principal, service.highest)
        names, at = (service.model, self._route.found.resident, tenant), self.exchange.arrived_at
        return Ticket(*names, (), asked.size_bytes, at, inf, urgent, phase=Phase.DONE)


def _job(asked: Asked, route: Route) -> Job | EmbedJob:
    exchange, request = asked.exchange, asked.request
    prompt_tokens = int(asked.prompt_bytes * route.tokens_per_byte.value)
    meta = Meta(exchange.request_id, request.model, int(exchange.created_at), exchange.timings, prompt_tokens)
    rest = exchange, route.service, meta, asked.response, inf, asked.prompt_bytes
    if isinstance(request, ChatRequest):
        return Job(*rest, asked.dialect, request)
    return EmbedJob(*rest, cast(EmbedDialect, asked.dialect), request)
