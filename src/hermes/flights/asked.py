"""One request, as it stands before the line."""

from collections.abc import Awaitable
from functools import lru_cache
from math import inf
from typing import cast

from msgspec import Struct

from hermes.attempt import EmbedJob, Job
from hermes.chat import ChatRequest, EmbedRequest, Sampling
from hermes.dialects import ClientDialect, EmbedDialect, Meta
from hermes.exchange import Exchange
from hermes.flights.repeats import Name
from hermes.gateway import Gateway
from hermes.http.response import Response
from hermes.policy.claim import Claim, urgency
from hermes.policy.routing import fill_in
from hermes.policy.ticket import Phase, Ticket
from hermes.principal import Class, Principal
from hermes.router import Route


class Asked(Struct, frozen=True):
    """What the gateway is asked. `name`: by which it is known when it comes again; None: it would not be."""

    exchange: Exchange
    principal: Principal
    dialect: ClientDialect
    request: ChatRequest | EmbedRequest
    response: Response
    size_bytes: int
    prompt_bytes: int
    claim: Claim
    name: Name | None = None

    def ask(self, gateway: Gateway) -> Awaitable[None]:
        """As if nothing stood in between."""
        return self.run(gateway, self.exchange, self.dialect, self.response)

    def run(self, gateway: Gateway, exchange: Exchange, dialect: ClientDialect, response: Response) -> Awaitable[None]:
        """On behalf of another exchange."""
        principal, request, claim = self.principal, self.request, self.claim
        if isinstance(request, ChatRequest):
            sizes = self.size_bytes, self.prompt_bytes
            return gateway.complete(exchange, principal, dialect, request, response, *sizes, claim)
        spoken = cast(EmbedDialect, dialect)
        return gateway.embed(exchange, principal, spoken, request, response, self.size_bytes, claim)

    def sampling(self, route: Route) -> Sampling | None:
        """With the model's own settings where it says nothing; None: no token is drawn."""
        return None if isinstance(self.request, EmbedRequest) else fill_in(self.request.sampling, route.filling)

    def meta(self, route: Route) -> Meta:
        exchange, prompt_tokens = self.exchange, round(self.prompt_bytes * route.tokens_per_byte.value)
        id, created_at = exchange.request_id, int(exchange.created_at)
        return Meta(id, self.request.model, created_at, exchange.timings, prompt_tokens)

    def job(self, route: Route) -> Job | EmbedJob:
        request, spoken = self.request, self.dialect
        rest = self.exchange, route.service, self.meta(route), self.response, inf, self.prompt_bytes
        if isinstance(request, ChatRequest):
            return Job(*rest, spoken, request)
        return EmbedJob(*rest, cast(EmbedDialect, spoken), request)

    def count(self, gateway: Gateway, route: Route) -> None:
        """It is a request, though there is no run for it. Raises RateLimited."""
        gateway.count(self.exchange, self.principal, route.service, self.dialect)

    def is_given(self, ticket: Ticket) -> None:
        """It costs nothing but its bytes. `ticket` is for its record: whose it was."""
        exchange = self.exchange
        exchange.free, exchange.ticket = True, ticket
        if exchange.reuse:  # its model has a cache
            exchange.reuse = "hit"

    def no_ticket(self, route: Route) -> Ticket:
        """One that the scheduler never sees."""
        service, principal = route.service, self.principal
        urgent = urgency(self.claim, self.request.service_tier, principal, service.highest)
        return _no_ticket(service.model, route.found.resident, principal.tenant, urgent)


@lru_cache(maxsize=1024)
def _no_ticket(model: str, resident: str, tenant: str, urgent: Class) -> Ticket:
    return Ticket(model, resident, tenant, (), 0, 0.0, inf, urgent, phase=Phase.DONE)
