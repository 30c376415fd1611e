"""The routes about models: what there is, and who may see it."""

from collections.abc import Callable, Container, Iterable, Iterator
from datetime import UTC, datetime

import msgspec

from hermes.api.routes import Call
from hermes.errors import UnknownModel
from hermes.fleet.fleet import Fleet
from hermes.fleet.inventory import LoadedModel, ModelInfo, full_name
from hermes.policy.routing import ALIAS, MODEL_NAME, Catalog, candidates
from hermes.principal import Principal
from hermes.router import Router

_json = msgspec.json.Encoder().encode

LOOK_TIMEOUT_S = 5.0
# What so many keys may see is remembered: it takes 10 us for each model to find out.
SIGHTS = 32


class Models:
    def __init__(self, router: Router, fleet: Fleet) -> None:
        self._router = router
        self._fleet = fleet
        self._seen: dict[tuple[str, ...], set[str]] = {}  # by the patterns of a key
        self._seen_of: tuple[Catalog | None, int] = None, -1

    async def list(self, call: Call) -> None:
        served = sorted(self.served(call.principal).items())
        if _asks_as_anthropics_clients(call):
            served += _aliases(served, self._router.catalog.listed)
            data = [_anthropics_model(name, info) for name, info in served]
            first, last = (served[0][0], served[-1][0]) if served else (None, None)
            call.reply(_json({"data": data, "has_more": False, "first_id": first, "last_id": last}))
            return
        call.reply(_json({"object": "list", "data": [_model_object(name, info) for name, info in served]}))

    async def get(self, call: Call) -> None:
        assert call.model is not None
        shape = _anthropics_model if _asks_as_anthropics_clients(call) else _model_object
        call.reply(_json(shape(call.model, self.info(call, call.model))))

    def info(self, call: Call, name: str) -> ModelInfo:
        """What is known of a model, by a public name. Raises ModelNotAllowed or ModelNotFound."""
        self._router.catalog.check_allowed(call.principal, name)
        info = self._info(name)
        if info is None:
            raise UnknownModel(name)
        return info

    def served(self, principal: Principal) -> dict[str, ModelInfo]:
        """Every public name that may be used, with what is known of the model: the listed ones that a backend has, then
        all others.
        """
        served: dict[str, ModelInfo] = {}
        if self._router.catalog.unlisted is not None:
            for backend in self._fleet.backends.values():
                models = backend.inventory.models
                served |= {name: info for name, info in models.items() if self._is_meant(name, info)}
        listed = {name: self._info(name) for name in self._router.catalog.listed}
        served |= {name: info for name, info in listed.items() if info is not None}
        if principal.models:
            return {name: info for name, info in served.items() if self._router.catalog.allows(principal, name)}
        return served

    def seen(self, principal: Principal) -> Callable[[str], bool]:
        """Whether a model may be told of, by a backend's own name for it: it is one that may be used."""
        if not principal.models:
            return lambda name: True
        catalog, generation = self._router.catalog, self._fleet.generation
        if self._seen_of[0] is not catalog or self._seen_of[1] != generation or len(self._seen) >= SIGHTS:
            self._seen_of = catalog, generation
            self._seen.clear()
        names = self._seen.get(principal.models)
        if names is None:
            listed = (service for name, service in catalog.listed.items() if catalog.allows(principal, name))
            residents = {info.name for info in self.served(principal).values()}
            names = residents.union(*((each.backend_model, full_name(each.backend_model)) for each in listed))
            self._seen[principal.models] = names
        return names.__contains__

    async def look(self) -> None:
        """See to it that what is told of the backends is fresh."""
        await self._fleet.refresh(LOOK_TIMEOUT_S)

    def loaded(self, principal: Principal) -> Iterator[tuple[str, ModelInfo, LoadedModel]]:
        """What is in the memory of the backends, by every public name that it is served by from there."""
        for name, info in self.served(principal).items():
            service = self._router.catalog.service(name)
            assert service is not None, "or it would not be served"
            for backend in self._fleet.backends.values():
                if backend.state == "up" and backend.name in (service.backends or (backend.name,)):
                    yield from ((name, info, model) for model in backend.inventory.loaded if model.name == info.name)

    def _is_meant(self, name: str, info: ModelInfo) -> bool:
        """Whether this is what is asked by its own name: a listed one may stand for another."""
        meant = self._info(name)
        return meant is not None and meant.name == info.name

    def _info(self, name: str) -> ModelInfo | None:
        service = self._router.catalog.service(name)
        if service is None:
            return None
        found = candidates(service, self._fleet.inventories())
        return self._fleet.backends[found.names[0]].inventory.models.get(found.resident) if found.names else None


def _model_object(name: str, info: ModelInfo) -> dict[str, object]:
    """OpenAI's model object; `capabilities` is ours (completion, tools, vision, thinking, embedding ...)."""
    namespace, _, _ = info.name.rpartition("/")
    return {
        "id": name,
        "object": "model",
        "created": _unix(info.modified_at),
        "owned_by": namespace or "library",
        "capabilities": info.capabilities,
    }


def _asks_as_anthropics_clients(call: Call) -> bool:
    return b"anthropic-version" in call.request.headers


def _aliases(served: Iterable[tuple[str, ModelInfo]], taken: Container[str]) -> list[tuple[str, ModelInfo]]:
    """The names that Claude Code's picker shows, of models that can chat. `taken` ones mean what is listed so."""
    return [
        (alias, info)
        for name, info in served
        if (not info.capabilities or "completion" in info.capabilities)
        and not name.lower().startswith(("claude", "anthropic"))
        and MODEL_NAME(alias := ALIAS + name)
        and alias not in taken
    ]


def _anthropics_model(name: str, info: ModelInfo) -> dict[str, object]:
    created_at = datetime.fromtimestamp(_unix(info.modified_at), UTC)
    return {
        "type": "model",
        "id": name,
        "display_name": name.removeprefix(ALIAS),
        "created_at": f"{created_at:%Y-%m-%dT%H:%M:%SZ}",
        "lifecycle": "active",
    }


def _unix(rfc3339: str) -> int:
    try:
        return int(datetime.fromisoformat(rfc3339).timestamp())
    except ValueError:
        return 0
