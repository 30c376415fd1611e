"""How a model is served, and by whom: names to backends that have it and can do what is asked."""

from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace

from hermes.chat import ChatRequest, EmbedRequest, MustCall
from hermes.dialects import BackendDialect, ClientDialect
from hermes.errors import BadRequest, NoBackend, UnknownModel
from hermes.fleet.fleet import Fleet
from hermes.fleet.inventory import full_name
from hermes.policy.estimates import Average
from hermes.policy.routing import Candidates, Catalog, Filling, Service, candidates, check_model_name, filling
from hermes.principal import Principal

# Of English in common tokenizers; what backends count corrects it, model by model.
USUAL_TOKENS_PER_BYTE = 0.25


class Route(Struct, frozen=True):
    """How a model is served and by whom, what fills in a request in one dialect, and how long its prompts are.

    `spreads`: there is a choice of backends.
    """

    service: Service
    found: Candidates
    spreads: bool
    filling: Filling
    tokens_per_byte: Average


class Router:
    """`prompts`: how many tokens a byte of a prompt is, by resident."""

    def __init__(self, catalog: Catalog, fleet: Fleet) -> None:
        self.catalog = catalog
        self._fleet = fleet
        self.prompts: dict[str, Average] = {}
        self._routes: dict[tuple[str, ClientDialect], Route] = {}
        self._routes_of = -1

    def adopt(self, catalog: Catalog) -> None:
        """Models are served so from now on."""
        self.catalog = catalog
        self._routes.clear()

    def known(self, model: str, dialect: ClientDialect) -> Route | None:
        """What `find` found before, as long as no backend's models have changed since."""
        if self._routes_of != self._fleet.generation:
            self._routes_of = self._fleet.generation
            self._routes.clear()
        return self._routes.get((model, dialect))

    async def find(self, model: str, dialect: ClientDialect) -> Route:
        """How `model` is served and by whom. Raises UnknownModel, or NoBackend when nobody can tell."""
        catalog = self.catalog
        service = catalog.service(check_model_name(model))
        if service is None:
            raise UnknownModel(model)
        found = candidates(service, self._fleet.inventories())
        if not found.names:
            await self._fleet.refresh()
            if catalog is not self.catalog:
                return await self.find(model, dialect)
            found = candidates(service, self._fleet.inventories())
        if not found.names and service.pulled:
            return self._pulled(service, dialect)
        if not found.names:
            if not self._fleet.can_serve(service.backends):
                raise NoBackend(f"no backend is up that could serve {model!r}", retry_after_s=1.0)
            raise UnknownModel(model, f"no backend has the model {service.backend_model!r}")
        if service.model not in self.catalog.listed:
            service, found = self._listed_as(found) or (replace(service, model=found.resident), found)
        route = self._routes[model, dialect] = self._to(service, found, dialect)
        return route

    def _to(self, service: Service, found: Candidates, dialect: ClientDialect) -> Route:
        tokens_per_byte = self.prompts.setdefault(found.resident, Average(USUAL_TOKENS_PER_BYTE))
        return Route(service, found, len(found.names) > 1, filling(service, dialect.sampling_defaults), tokens_per_byte)

    def able(self, route: Route, request: ChatRequest | EmbedRequest) -> Route:
        """Only to backends that can do what it takes, where not all can. Raises BadRequest if none can."""
        if isinstance(request, EmbedRequest):
            unable = BadRequest("the backend makes no embeddings", code="unsupported_by_backend")
            return self._only(route, lambda spoken: spoken.embeds, unable)
        if isinstance(request.tool_choice, MustCall):
            words = "`tool_choice` must be auto or none: the backend cannot be forced to call a tool"
            unable = BadRequest(words, code="unsupported_parameter", param="tool_choice")
            return self._only(route, lambda spoken: spoken.forces_tools, unable)
        if request.raw or request.suffix:
            param, what = ("suffix", "before a suffix") if request.suffix else ("raw", "with images, or by a format")
            words = f"`{param}` is not supported: the backend cannot complete a text {what}"
            unable = BadRequest(words, code="unsupported_by_backend", param=param)
            return self._only(route, lambda spoken: spoken.completes(request), unable)
        return route

    def _only(self, route: Route, able: Callable[[BackendDialect], bool], unable: BadRequest) -> Route:
        backends = self._fleet.backends
        found = route.found
        names = tuple(name for name in found.names if able(backends[name].driver.server_of(found.resident).dialect))
        if not names:
            raise unable
        return replace(route, found=replace(found, names=names))

    def _pulled(self, service: Service, dialect: ClientDialect) -> Route:
        """Nobody has the model yet: it is downloaded. Not remembered, so that each request sees to that."""
        resident = full_name(service.backend_model)
        found = Candidates((self._fleet.fetch(resident, service.backends),), resident)
        return self._to(service, found, dialect)

    def check_allowed(self, principal: Principal, model: str) -> None:
        """Raises ModelNotAllowed, or BadRequest for a bad name."""
        self.catalog.check_allowed(principal, model)

    def fallbacks(self, model: str) -> tuple[str, ...]:
        """The models that may answer instead."""
        service = self.catalog.service(model)
        return () if service is None else service.fallback

    def _listed_as(self, found: Candidates) -> tuple[Service, Candidates] | None:
        """The listed service of a model that was asked for by another of its names: its settings hold all the same."""
        inventories = self._fleet.inventories()
        for service in self.catalog.listed.values():
            listed = candidates(service, inventories)
            if listed.names and listed.resident == found.resident:
                return service, listed
        return None

    def prompt_tokens(self, principal: Principal, model: str, prompt_bytes: int) -> int:
        """About how many tokens a prompt of this length is, going by what the model's others were. Asks no backend.

        Raises ModelNotAllowed, UnknownModel, or BadRequest for a bad name.
        """
        self.catalog.check_allowed(principal, model)
        service = self.catalog.service(check_model_name(model))
        found = None if service is None else candidates(service, self._fleet.inventories())
        if service is None or found is None or not (found.names or service.pulled):
            raise UnknownModel(model)
        learned = self.prompts.get(found.resident)
        return round(prompt_bytes * (USUAL_TOKENS_PER_BYTE if learned is None else learned.value))
