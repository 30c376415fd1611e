"""The routes about models: what there is, pulling more, loading and unloading."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Container, Iterable, Iterator, Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from types import TracebackType

import msgspec

from hermes.admission import Admission
from hermes.api.routes import Call
from hermes.dialects import ClientDialect, strict
from hermes.errors import BadRequest, Draining, GatewayError, ModelNotFound, NoBackend, UnknownModel
from hermes.fleet.driver import PullProgress
from hermes.fleet.fleet import Fleet
from hermes.fleet.inventory import LoadedModel, ModelInfo, full_name
from hermes.fleet.orders import LOAD_TIMEOUT_S
from hermes.fleet.pulls import Pulls
from hermes.policy.routing import ALIAS, MODEL_NAME, Candidates, Catalog, Service, candidates
from hermes.policy.ticket import Ticket
from hermes.principal import ANONYMOUS, Class, Principal
from hermes.router import Router

log = logging.getLogger(__name__)

_json = msgspec.json.Encoder().encode


LOOK_TIMEOUT_S = 5.0
# What so many keys may see is remembered: it takes 10 us for each model to find out.
SIGHTS = 32


class _PullBody(msgspec.Struct):
    load: bool = True


class Models:
    def __init__(self, router: Router, fleet: Fleet, admission: Admission, dialect: ClientDialect) -> None:
        self._router = router
        self._fleet = fleet
        self._admission = admission
        self._dialect = dialect
        self._seen: dict[tuple[str, ...], set[str]] = {}  # by the patterns of a key
        self._seen_of: tuple[Catalog | None, int] = None, -1

    # --- listing ----------------------------------------------------------------------------------------------------

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
            service = self._service(name)
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

    # --- pulling ----------------------------------------------------------------------------------------------------

    async def pull(self, call: Call) -> None:
        """Download a model, telling the progress as it comes, then load it (unless `"load": false`)."""
        assert call.model is not None
        tree = strict.parse_object(call.request.body or b"{}", frozenset(_PullBody.__struct_fields__))
        for key in tree.keys() - _PullBody.__struct_fields__:
            raise BadRequest(
                f"`{key[:200]}` is not known; the only key is `load`", code="unknown_parameter", param=key[:200]
            )
        wanted = strict.convert(tree, _PullBody)
        service, pulls = await self._puller(call, call.model)
        with Progress(call, self._dialect) as progress:
            async with aclosing(pulls.follow(full_name(service.backend_model))) as lines:
                async for line in lines:
                    await progress.tell(line)
            if wanted.load:
                await progress.tell(PullProgress(status="loading"))
                await self.bring(service, self._found(service), call.principal)
                await pulls.backend.look(LOOK_TIMEOUT_S)
            progress.end({"done": True, "model": call.model, "loaded": wanted.load})

    async def download(self, call: Call, model: str) -> AsyncGenerator[PullProgress, None]:
        """Have a model downloaded, and follow it."""
        service, pulls = await self._puller(call, model)
        return pulls.follow(full_name(service.backend_model))

    async def _puller(self, call: Call, model: str) -> tuple[Service, Pulls]:
        self._router.catalog.check_allowed(call.principal, model)
        service = self._service(model)
        if not self._fleet.ready:
            await self._fleet.refresh()
        return service, self._fleet.puller(full_name(service.backend_model), service.backends)

    # --- loading ----------------------------------------------------------------------------------------------------

    async def preload(self, wanted: Iterable[tuple[str, str]]) -> None:
        """Have models loaded for a start: backend and model each. What cannot be is told in the log."""
        for backend, model in wanted:
            await self.look()
            try:
                await self.bring(Service(model, model), Candidates((backend,), model), ANONYMOUS)
            except GatewayError as error:
                log.warning("%s was not loaded at the start: %s", model, error.message)

    async def load(self, call: Call) -> None:
        """Bring a model into memory; answered when it is there."""
        assert call.model is not None
        service, found = await self.known(call, call.model)
        self._fleet.loading(found.names)
        await self.bring(service, found, call.principal)
        call.reply(_json({"model": service.model, "loaded": sorted(self._admission.scheduler.where(found.resident))}))

    async def unload(self, call: Call) -> None:
        """Let a model go, wherever it is; answered at once, also where it has to end first what it runs."""
        assert call.model is not None
        service, where = await self.let_go(call, call.model)
        told = {"model": service.model, "unloading": sorted(where), "active": sum(where.values())}
        call.reply(_json(told), status=202 if where else 200)

    async def let_go(self, call: Call, model: str) -> tuple[Service, Mapping[str, int]]:
        """Have a model unloaded. Tells where it was, and how much runs on it there."""
        service, found = await self.known(call, model)
        self._fleet.loading(found.names)
        where = self._admission.scheduler.where(found.resident)
        self._admission.unload(found.resident)
        return service, where

    async def known(self, call: Call, model: str) -> tuple[Service, Candidates]:
        """The model of this name, and who has it. Raises ModelNotAllowed, ModelNotFound or NoBackend."""
        self._router.catalog.check_allowed(call.principal, model)
        service = self._service(model)
        if not candidates(service, self._fleet.inventories()).names:
            await self._fleet.refresh()
            if not self._fleet.can_serve(service.backends):
                raise NoBackend("no backend is up", retry_after_s=1.0)
        found = self._found(service)
        call.exchange.model = service.model  # a label's value: never a name that is only asked for (I27)
        return service, found

    def _service(self, model: str) -> Service:
        service = self._router.catalog.service(model)
        if service is None:
            raise UnknownModel(model)
        return service

    def _found(self, service: Service) -> Candidates:
        found = candidates(service, self._fleet.inventories())
        if not found.names:
            raise ModelNotFound(f"no backend has the model {service.backend_model!r}", param="model")
        return found

    async def bring(self, service: Service, found: Candidates, principal: Principal) -> None:
        """Have it loaded unless it is, by the rules for requests: as one that waits for it, and then asks for nothing.

        It has as much patience as a load may take, and the rights of what nobody waits for.
        """
        if self._admission.scheduler.where(found.resident):
            return
        now = asyncio.get_running_loop().time()
        ticket = Ticket(
            service.model if service.model in self._router.catalog.listed else found.resident,
            found.resident,
            principal.tenant,
            found.names,
            0,
            now,
            now + LOAD_TIMEOUT_S,
            urgency=Class.BATCH,
        )
        async with self._admission.admit(ticket):
            self._admission.leave(ticket)  # before the end of the block: of how long runs take this teaches nothing


class Progress:
    """Lines of JSON to the client, within `with`. An error before the first of them is an error status instead."""

    def __init__(self, call: Call, dialect: ClientDialect) -> None:
        self._call = call
        self._dialect = dialect
        self._response = call.response
        self._response.start(200, b"content-type: application/x-ndjson\r\n" + call.exchange.id_line())

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, asyncio.CancelledError):  # though the client is there: it is we who stop
            error = Draining("this server has shut down")
        if isinstance(error, GatewayError) and self._response.started:
            self._response.break_off(self._dialect.render_error(error, self._call.exchange.request_id) + b"\n")

    async def tell(self, line: object) -> None:
        self._response.write(_json(line) + b"\n")
        if self._response.paused:
            await self._response.drain()

    def end(self, line: object) -> None:
        self._response.end(_json(line) + b"\n")


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
