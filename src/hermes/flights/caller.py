"""How one caller is answered with what another's run says, or with what was said before: in his own dialect."""

import asyncio

from hermes.attempt import LONG_BYTES, EmbedJob, Job, break_off, stream_lines, wait_lines
from hermes.chat import Answer, Embeddings
from hermes.exchange import Exchange
from hermes.flights.flight import Flight, Place
from hermes.policy import cache

# Rendered, a number is somewhat longer than packed.
_LONG_NUMBERS = LONG_BYTES // 10


async def give(job: Job | EmbedJob, packed: bytes, now: float) -> None:
    """What was said before."""
    if len(packed) <= LONG_BYTES:
        answer = cache.unpack(packed, job.request)
    else:
        answer = await asyncio.to_thread(cache.unpack, packed, job.request)
    job.exchange.ttft_s = now - job.exchange.arrived_at
    if isinstance(job, Job) and isinstance(answer, Answer) and job.request.stream:
        job.exchange.usage, job.exchange.begun = answer.usage, True
        encoder = job.dialect.encoder(job.request, job.meta)
        job.response.start(200, stream_lines(job))
        job.response.end(encoder.encode(cache.events(answer)))
    else:
        await send(job, answer)


async def wait(job: Job | EmbedJob, flight: Flight) -> None:
    """The whole answer, when it is there. Raises what the run has failed with."""
    while not flight.over:
        await flight.news()
    if flight.error is not None:
        raise flight.error
    assert flight.answer is not None
    _learn(job, flight)
    await send(job, flight.answer)


async def send(job: Job | EmbedJob, answer: Answer | Embeddings) -> None:
    exchange = job.exchange
    exchange.usage = answer.usage
    body = await render(job, answer)
    job.response.send(200, b"content-type: application/json\r\n" + exchange.id_line() + _waited(job), body)


async def render(job: Job | EmbedJob, answer: Answer | Embeddings) -> bytes:
    if isinstance(job, Job):
        assert isinstance(answer, Answer)
        return job.dialect.render_answer(answer, job.request, job.meta)
    assert isinstance(answer, Embeddings)
    if sum(map(len, answer.vectors)) <= _LONG_NUMBERS:
        return job.dialect.render_embeddings(answer, job.request, job.meta)
    return await asyncio.to_thread(job.dialect.render_embeddings, answer, job.request, job.meta)


async def follow(job: Job, flight: Flight, place: Place) -> None:
    """The stream, from its beginning and then as it comes. Raises what the run has failed with."""
    response, encoder = job.response, job.dialect.encoder(job.request, job.meta)
    try:
        while True:
            pieces, ended = flight.read(place), flight.ended
            if not (pieces or ended):
                if flight.error is not None:
                    raise flight.error
                _beat(job, flight)
                await flight.news()
                continue
            if not job.exchange.begun:
                _open(job, flight)
            said = b"".join([encoder.text(each) if isinstance(each, str) else encoder.encode(each) for each in pieces])
            if ended:
                job.exchange.usage = flight.exchange.usage
                response.end(said)
                return
            if not response.write(said):
                await response.drain()
            flight.has_read(place)
    except BaseException as error:
        if job.exchange.begun:
            break_off(job, error, encoder)
        raise


def _open(job: Job, flight: Flight) -> None:
    job.exchange.begun = True
    _learn(job, flight)
    if not job.response.started:
        job.response.start(200, stream_lines(job) + _waited(job))


def _beat(job: Job, flight: Flight) -> None:
    """A sign of life while it waits for its turn."""
    beats, position, eta_ms = flight.queued
    if beats > job.meta.beats and not job.exchange.begun:
        if not job.response.started:
            job.response.start(200, stream_lines(job))
        job.response.write(job.dialect.queued(position, eta_ms, job.meta))
        job.meta.beats = beats


def _learn(job: Job | EmbedJob, flight: Flight) -> None:
    """The first content is there. Whoever pays is told how long it waited."""
    exchange, run = job.exchange, flight.exchange
    if run.ttft_s is not None:
        exchange.ttft_s = max(0.0, run.arrived_at + run.ttft_s - exchange.arrived_at)
    exchange.asked = run.asked
    if exchange.reuse == "miss":
        pay(exchange, run)


def pay(exchange: Exchange, run: Exchange) -> None:
    """The run was this one's."""
    exchange.ticket, exchange.backend, exchange.attempts = run.ticket, run.backend, run.attempts
    exchange.queue_s, exchange.usage, exchange.asked = run.queue_s, run.usage, run.asked
    exchange.model, exchange.crashes = run.model or exchange.model, run.crashes


def _waited(job: Job | EmbedJob) -> bytes:
    exchange = job.exchange
    if exchange.reuse != "miss" or exchange.ticket is None:
        return b""
    return wait_lines(exchange, exchange.ticket)
