"""What stands before the line: an answer that was given before, a run that another has begun, or one of one's own.

Only what would be answered the same another time is shared (`policy/cache`), and only within what `scope` says (I21).
What is answered so holds no slot and no place in the queue: it is `exchange.free` then, and that is where whoever
counts tokens sees that none were spent.
"""

import asyncio
import contextlib
from collections.abc import Awaitable
from functools import partial
from typing import Literal

from msgspec.structs import replace

from hermes.attempt import LONG_BYTES
from hermes.chat import Answer, ChatRequest, Embeddings
from hermes.dialects import ClientDialect
from hermes.errors import (
    BackendTimeout,
    DeadlineUnreachable,
    GatewayError,
    QueueTimeout,
    QuotaExceeded,
    RateLimited,
)
from hermes.exchange import Exchange
from hermes.flights.asked import Asked
from hermes.flights.caller import Caller, give, give_unread
from hermes.flights.flight import Flight
from hermes.flights.once import Once
from hermes.flights.repeats import Name, Repeat, Repeats
from hermes.flights.retries import Retries
from hermes.flights.runs import Runs
from hermes.http.response import Response
from hermes.metrics import Metrics
from hermes.policy import cache, volatile
from hermes.policy.cache import Shelf
from hermes.policy.claim import NO_REUSE, Claim
from hermes.principal import Principal
from hermes.router import Route

Scope = Literal["key", "tenant", "all"]


class Flights:
    """`shelf` has the answers that were given. Those that were given in another `scope` are nobody's."""

    def __init__(
        self,
        runs: Runs,
        retries: Retries,
        shelf: Shelf,
        metrics: Metrics,
        scope: Scope = "key",
        once: Once | None = None,
    ) -> None:
        self._runs = runs
        self._gateway = runs.gateway
        self._loop = runs.loop
        self._retries = retries
        self._shelf = shelf
        self._metrics = metrics
        self.scope = scope
        self._once = once
        self.repeats = Repeats()
        self._flights: dict[tuple[bytes, bool], Flight] = {}  # by digest; streams and whole answers apart

    def adopt(self, scope: Scope) -> None:
        """It holds from now on. How models are served has changed with it, so whoever comes is read again."""
        self.scope, self.repeats = scope, Repeats()

    def answer_unread(
        self,
        name: Name,
        exchange: Exchange,
        principal: Principal,
        dialect: ClientDialect,
        response: Response,
        claim: Claim,
    ) -> Awaitable[None] | None:
        """As `answer` would, what came before in the same bytes and is on the shelf. None: it has to be read."""
        known, now = self.repeats.find(name, principal, claim), self._loop.time()
        if known is None:
            return None
        is_served_so = self._gateway.router.known(known.request.model, dialect) is known.route
        if not is_served_so or self._shelf.find(known.key, now) is not known.packed:
            self.repeats.forget(name, principal)
            return None
        sizes = known.size_bytes, known.prompt_bytes
        asked = Asked(exchange, principal, dialect, known.request, response, *sizes, claim)
        return self._give_unread(asked, known, now)

    async def _give_unread(self, asked: Asked, known: Repeat, now: float) -> None:
        self._note(asked, known.route)
        asked.count(self._gateway, known.route)
        asked.exchange.reuse = "hit"
        give_unread(asked, known, now)
        self._metrics.cache.add((known.route.service.model, "hit"))

    async def answer(self, asked: Asked) -> None:
        """As the gateway would, or better. Raises what it raises."""
        if isinstance(asked.request, ChatRequest) and (lines := self._gateway.volatile_lines):
            # Before it is told from others.
            asked = replace(asked, request=volatile.without(asked.request, lines))
        reuse, router = asked.claim.reuse or NO_REUSE, self._gateway.router
        if asked.principal.models:
            router.check_allowed(asked.principal, asked.request.model)
        answer = None
        if reuse.again or reuse.once:
            answer = await self._retries.come_again(asked, takes_over=reuse.again)
        route = router.known(asked.request.model, asked.dialect)
        if route is None:
            with contextlib.suppress(GatewayError):  # which the gateway has to tell, or see to
                route = await router.find(asked.request.model, asked.dialect)
        if route is None:
            await asked.ask(self._gateway)
        elif answer is not None:
            self._note(asked, route)
            asked.count(self._gateway, route)
            await Caller(asked, route).take(answer)
        elif reuse.once and self._once is not None and not asked.request.stream:
            self._note(asked, route)
            await self._once.answer(asked, route, reuse)
        elif route.service.reuse == "off":
            await asked.ask(self._gateway)
        else:
            await self._reuse(asked, route, reuse.terms)

    async def _reuse(self, asked: Asked, route: Route, terms: cache.Terms) -> None:
        exchange, service, sampling = asked.exchange, route.service, asked.sampling(route)
        exchange.reuse = "bypass"
        try:
            if not (terms.kept and (service.reuse == "forced" or cache.is_deterministic(sampling))):
                await asked.ask(self._gateway)
                return
            self._note(asked, route)
            exchange.reuse = "miss"
            # Backends may have different models of one name.
            model = "\n".join((route.found.resident, *service.backends))
            what = asked.request, sampling, model, self._owner(asked.principal)
            if asked.size_bytes <= LONG_BYTES:
                key = cache.digest(*what)
            else:
                key = await asyncio.to_thread(cache.digest, *what)  # 10 MiB take 20 ms (I36)
            now = self._loop.time()
            if packed := self._shelf.find(key, now, terms.max_age_s):
                asked.count(self._gateway, route)
                said = await give(asked, route, packed, now)
                self._learn(asked, route, key, packed, said)
            else:
                await self._share(asked, route, key, joins=terms.max_age_s > 0)
        except GatewayError:
            if not exchange.begun:
                exchange.reuse = ""  # no answer, so nothing is told of where it came from
            raise
        finally:
            if exchange.reuse:
                self._metrics.cache.add((service.model, exchange.reuse))

    def _learn(self, asked: Asked, route: Route, key: bytes, packed: bytes, said: Answer | Embeddings) -> None:
        """For when it comes again. Not with `logprobs`, which take ten times what they take packed."""
        request = asked.request
        if asked.name is None or not isinstance(said, Answer) or said.logprobs:
            return
        if isinstance(request, ChatRequest):
            request = replace(request, extra=None)  # no backend is asked, and it may take 20 times its bytes
            sizes, ticket = (asked.size_bytes, asked.prompt_bytes), asked.no_ticket(route)
            repeat = Repeat(asked.principal, asked.claim, request, *sizes, route, key, packed, said, ticket)
            self.repeats.learn(asked.name, repeat)

    def _note(self, asked: Asked, route: Route) -> None:
        """What the gateway notes of those it is asked for."""
        exchange = asked.exchange
        exchange.model, exchange.stream, exchange.cancel = (
            route.service.model,
            asked.request.stream,
            asked.response.cancel,
        )

    def _owner(self, principal: Principal) -> str:
        """Who is given what was said to whom: never what another model said in its place, who may not use that."""
        if self.scope == "key":
            return "key " + principal.key_id
        return "\n".join(("tenant " + principal.tenant if self.scope == "tenant" else "", *principal.models))

    async def _share(self, asked: Asked, route: Route, key: bytes, *, joins: bool) -> None:
        """Answer by a run that has begun, or by a new one. Who began it is charged for it, all others for a request."""
        named, caller = (key, asked.request.stream), Caller(asked, route)
        try:
            while True:
                flight = self._flights.get(named)
                begins = flight is None or not (joins and flight.can_be_joined)
                if flight is None or begins:
                    finish, forget = partial(self._keep, key), partial(self._forget, named)
                    flight = self._flights[named] = self._runs.begin(asked, finish, forget)
                else:
                    asked.count(self._gateway, route)
                try:
                    await caller.be_served(flight)
                    return
                except (QueueTimeout, DeadlineUnreachable, BackendTimeout, RateLimited, QuotaExceeded):
                    if begins or asked.exchange.begun:
                        raise
                    # The time of who began it is over, or what he may use, which need not be ours.
                    asked.exchange.uncharge()
        except BaseException as error:
            caller.break_off(error)
            raise

    async def _keep(self, key: bytes, flight: Flight) -> None:
        """For others to be given: only what is whole (I15), and said by the model that was asked for."""
        if flight.answer is None or flight.exchange.asked:
            return
        if isinstance(flight.answer, Embeddings):  # a million numbers take 20 ms (I36)
            packed = await asyncio.to_thread(cache.pack, flight.answer)
        else:
            packed = cache.pack(flight.answer)
        self._shelf.keep(key, packed, self._loop.time())

    def _forget(self, named: tuple[bytes, bool], flight: Flight) -> None:
        if self._flights.get(named) is flight:
            del self._flights[named]
