"""One request, as it stands before the line."""

from collections.abc import Awaitable
from typing import cast

from msgspec import Struct
from msgspec.structs import replace

from hermes.chat import ChatRequest, EmbedRequest
from hermes.dialects import ClientDialect, EmbedDialect
from hermes.exchange import Exchange
from hermes.gateway import Gateway
from hermes.http.response import Response
from hermes.policy.claim import Claim
from hermes.policy.routing import fill_in
from hermes.principal import Principal
from hermes.router import Route


class Asked(Struct, frozen=True):
    """What the gateway is asked."""

    exchange: Exchange
    principal: Principal
    dialect: ClientDialect
    request: ChatRequest | EmbedRequest
    response: Response
    size_bytes: int
    prompt_bytes: int
    claim: Claim

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

    def filled(self, route: Route) -> ChatRequest | EmbedRequest:
        """With the model's own settings where it says nothing."""
        if isinstance(self.request, EmbedRequest):
            return self.request
        sampling = fill_in(self.request.sampling, route.filling)
        return self.request if sampling is self.request.sampling else replace(self.request, sampling=sampling)
