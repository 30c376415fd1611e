"""What stands before the line: an answer that was given before, a run that another has begun, or one of one's own.

Only what would be answered the same another time is shared (`policy/cache`), and only within what `scope` says (I21).
What is answered so holds no slot and no place in the queue: `exchange.reuse` is `hit` then, and that is where whoever
counts tokens sees that none were spent.
"""

import asyncio
import contextlib
import os
from collections.abc import Awaitable
from functools import partial
from math import inf
from typing import Literal, cast

from msgspec import Struct
from msgspec.structs import replace

from hermes.attempt import LONG_BYTES, EmbedJob, Job, break_off
from hermes.chat import ChatRequest, Embeddings, EmbedRequest
from hermes.dialects import ClientDialect, EmbedDialect, Meta
from hermes.errors import BackendTimeout, DeadlineUnreachable, GatewayError, QueueTimeout
from hermes.exchange import Exchange, Journal
from hermes.flights import caller
from hermes.flights.flight import Flight
from hermes.flights.recorder import Recorder
from hermes.gateway import Gateway
from hermes.http.request import NO_HEAD
from hermes.http.response import Response
from hermes.metrics import Metrics
from hermes.policy import cache, volatile
from hermes.policy.cache import Shelf
from hermes.policy.claim import NO_CLAIM, NO_REUSE, Claim, urgency
from hermes.policy.routing import fill_in
from hermes.policy.ticket import Phase, Ticket
from hermes.principal import Principal
from hermes.router import Route

Scope = Literal["key", "tenant", "all"]


class Asked(Struct, frozen=True):
    """One request, as the gateway is asked."""

    exchange: Exchange
    principal: Principal
    dialect: ClientDialect
    request: ChatRequest | EmbedRequest
    response: Response
    size_bytes: int
    prompt_bytes: int
    claim: Claim

    def ask(self, gateway: Gateway, exchange: Exchange, dialect: ClientDialect, response: Response) -> Awaitable[None]:
        principal, request, claim = self.principal, self.request, self.claim
        if isinstance(request, ChatRequest):
            sizes = self.size_bytes, self.prompt_bytes
            return gateway.complete(exchange, principal, dialect, request, response, *sizes, claim)
        spoken = cast(EmbedDialect, dialect)
        return gateway.embed(exchange, principal, spoken, request, response, self.size_bytes, claim)


class Flights:
    """`shelf` has the answers that were given; `lines` are the configuration's volatile ones."""

    def __init__(
        self,
        gateway: Gateway,
        journal: Journal,
        metrics: Metrics,
        loop: asyncio.AbstractEventLoop,
        shelf: Shelf,
        scope: Scope = "key",
        lines: tuple[str, ...] = (),
    ) -> None:
        self._gateway = gateway
        self._journal = journal
        self._metrics = metrics
        self._loop = loop
        self._scope = scope
        self._lines = lines
        self.shelf = shelf
        self._flights: dict[tuple[bytes, bool], Flight] = {}  # by digest; streams and whole answers apart
        self._running: set[Flight] = set()
        self._recorders: dict[ClientDialect, Recorder] = {}

    def complete(
        self,
        exchange: Exchange,
        principal: Principal,
        dialect: ClientDialect,
        request: ChatRequest,
        response: Response,
        size_bytes: int,
        prompt_bytes: int,
        claim: Claim = NO_CLAIM,
    ) -> Awaitable[None]:
        """As the gateway does."""
        if self._lines:
            request = volatile.without(request, self._lines)
        return self._answer(Asked(exchange, principal, dialect, request, response, size_bytes, prompt_bytes, claim))

    def embed(
        self,
        exchange: Exchange,
        principal: Principal,
        dialect: EmbedDialect,
        request: EmbedRequest,
        response: Response,
        size_bytes: int,
        claim: Claim = NO_CLAIM,
    ) -> Awaitable[None]:
        """The same for embeddings."""
        return self._answer(Asked(exchange, principal, dialect, request, response, size_bytes, size_bytes, claim))

    async def close(self) -> None:
        """Nobody waits for what still runs."""
        for flight in self._running:
            flight.task.cancel()
        for flight in tuple(self._running):
            with contextlib.suppress(asyncio.CancelledError):
                await flight.task

    async def _answer(self, asked: Asked) -> None:
        exchange, terms = asked.exchange, (asked.claim.reuse or NO_REUSE).terms
        route = await self._route(asked)
        if route is None or route.service.reuse == "off":
            await asked.ask(self._gateway, exchange, asked.dialect, asked.response)
            return
        request = _filled(asked.request, route)
        if not (terms.kept and (route.service.reuse == "forced" or cache.is_deterministic(request))):
            exchange.reuse = "bypass"
            self._metrics.cache.add((route.service.model, "bypass"))
            await asked.ask(self._gateway, exchange, asked.dialect, asked.response)
            return
        exchange.model, exchange.stream, exchange.cancel = route.service.model, request.stream, asked.response.cancel
        try:
            key = await self._digest(asked, request, route.found.resident)
            packed = self.shelf.find(key, self._loop.time(), terms.max_age_s)
            if packed is None:
                await self._share(asked, route, key, joins=terms.max_age_s >= 0)
            else:
                _is_given(asked, route)
                await caller.give(_job(asked, route), packed, self._loop.time())
        finally:
            self._metrics.cache.add((route.service.model, exchange.reuse))

    async def _route(self, asked: Asked) -> Route | None:
        """How the model is served; None: not at all, which the gateway has to say, or see to."""
        router, model, dialect = self._gateway.router, asked.request.model, asked.dialect
        try:
            return router.known(model, dialect) or await router.find(model, dialect)
        except GatewayError:
            return None

    async def _digest(self, asked: Asked, request: ChatRequest | EmbedRequest, resident: str) -> bytes:
        principal = asked.principal
        owner = {"key": f"key {principal.key_id}", "tenant": f"tenant {principal.tenant}", "all": ""}[self._scope]
        if asked.size_bytes <= LONG_BYTES:
            return cache.digest(request, resident, owner)
        return await asyncio.to_thread(cache.digest, request, resident, owner)  # 10 MiB take 20 ms (I36)

    # --- runs -------------------------------------------------------------------------------------------------------

    async def _share(self, asked: Asked, route: Route, key: bytes, *, joins: bool) -> None:
        """Answer by a run that has begun, or by a new one."""
        exchange, job = asked.exchange, _job(asked, route)
        try:
            while True:
                flight = self._flights.get((key, job.request.stream))
                begins = flight is None or not (joins and flight.can_be_joined)
                if flight is None or begins:
                    flight = self._begin(asked, key)
                try:
                    await _read(asked, route, job, flight)
                    return
                except (QueueTimeout, DeadlineUnreachable, BackendTimeout):
                    if begins or exchange.begun:
                        raise
                    # The time of who began it is over, which need not be ours.
        except BaseException as error:
            break_off(job, error)
            raise

    def _begin(self, asked: Asked, key: bytes) -> Flight:
        """One that whoever asks the same may join."""
        of = asked.exchange
        if (recorder := self._recorders.get(asked.dialect)) is None:
            recorder = self._recorders[asked.dialect] = Recorder(asked.dialect)
        id = of.request_id if of.request_id not in recorder.runs else os.urandom(14).hex()
        run = Exchange(id, of.method, of.arrived_at, of.created_at, of.route, key_id=of.key_id, forwarded=of.forwarded)
        flight = recorder.runs[id] = self._flights[key, asked.request.stream] = Flight(run, self._loop)
        self._running.add(flight)
        self._journal.runs[run] = None
        flight.start(partial(self._run, asked, key, flight, recorder))
        return flight

    async def _run(self, asked: Asked, key: bytes, flight: Flight, recorder: Recorder) -> None:
        run = flight.exchange
        try:
            await asked.ask(self._gateway, run, cast(ClientDialect, recorder), Response(flight, NO_HEAD))
            await self._keep(key, flight)
        except GatewayError as error:
            run.outcome = error.outcome
            raise
        finally:
            run.closed = True
            self._running.discard(flight)
            del recorder.runs[run.request_id], self._journal.runs[run]
            if self._flights.get((key, asked.request.stream)) is flight:
                del self._flights[key, asked.request.stream]

    async def _keep(self, key: bytes, flight: Flight) -> None:
        """For others to be given: only what is whole (I15), and said by the model that was asked for."""
        if flight.answer is not None and not flight.exchange.asked:
            numbers = isinstance(flight.answer, Embeddings)  # a million of them take 20 ms (I36)
            pack = asyncio.to_thread(cache.pack, flight.answer) if numbers else None
            packed = cache.pack(flight.answer) if pack is None else await pack
            self.shelf.keep(key, packed, self._loop.time())


async def _read(asked: Asked, route: Route, job: Job | EmbedJob, flight: Flight) -> None:
    """Be answered by this run. Its first caller pays for it; if he leaves, the next."""
    exchange = asked.exchange
    exchange.reuse = "hit" if flight.callers else "miss"
    place = flight.join(exchange)
    try:
        if isinstance(job, Job) and job.request.stream:
            await caller.follow(job, flight, place)
        else:
            await caller.wait(job, flight)
    finally:
        if next(iter(flight.callers)) is exchange and not flight.paid:
            exchange.reuse, flight.paid = "miss", flight.over
            caller.pay(exchange, flight.exchange)
        else:
            _is_given(asked, route)
        if exchange.ticket is None or exchange.ticket.tenant != asked.principal.tenant:
            exchange.ticket = _no_ticket(asked, route)
        flight.leave(exchange)


def _is_given(asked: Asked, route: Route) -> None:
    """It costs nothing but its bytes."""
    asked.exchange.reuse = "hit"
    asked.exchange.ticket = _no_ticket(asked, route)


def _no_ticket(asked: Asked, route: Route) -> Ticket:
    """For its record: whose it was. The scheduler never sees it."""
    service, request = route.service, asked.request
    urgent = urgency(asked.claim, request.service_tier, asked.principal, service.highest)
    of, tenant = asked.exchange, asked.principal.tenant
    ticket = Ticket(service.model, route.found.resident, tenant, (), asked.size_bytes, of.arrived_at, inf, urgent)
    ticket.phase = Phase.DONE
    return ticket


def _filled(request: ChatRequest | EmbedRequest, route: Route) -> ChatRequest | EmbedRequest:
    if isinstance(request, EmbedRequest):
        return request
    sampling = fill_in(request.sampling, route.filling)
    return request if sampling is request.sampling else replace(request, sampling=sampling)


def _job(asked: Asked, route: Route) -> Job | EmbedJob:
    exchange, request = asked.exchange, asked.request
    prompt_tokens = int(asked.prompt_bytes * route.tokens_per_byte.value)
    meta = Meta(exchange.request_id, request.model, int(exchange.created_at), exchange.timings, prompt_tokens)
    rest = exchange, route.service, meta, asked.response, inf, asked.prompt_bytes
    if isinstance(request, ChatRequest):
        return Job(*rest, asked.dialect, request)
    return EmbedJob(*rest, cast(EmbedDialect, asked.dialect), request)
