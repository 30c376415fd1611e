"""The routes about models: what there is, pulling more, loading and unloading."""

import asyncio
from contextlib import aclosing
from datetime import UTC, datetime

import msgspec

from hermes.admission import Admission
from hermes.api.routes import Call
from hermes.dialects import ClientDialect, strict
from hermes.errors import BadRequest, Draining, GatewayError, ModelNotFound, NoBackend
from hermes.fleet.fleet import Fleet
from hermes.fleet.inventory import ModelInfo
from hermes.fleet.ollama import PullProgress, full_name
from hermes.fleet.orders import LOAD_TIMEOUT_S
from hermes.http.response import Response
from hermes.policy.routing import Candidates, Catalog, Service, candidates
from hermes.policy.ticket import Ticket
from hermes.principal import Class, Principal

_json = msgspec.json.Encoder().encode


LOOK_TIMEOUT_S = 5.0


class _PullBody(msgspec.Struct):
    load: bool = True


class Models:
    def __init__(self, catalog: Catalog, fleet: Fleet, admission: Admission, dialect: ClientDialect) -> None:
        self._catalog = catalog
        self._fleet = fleet
        self._admission = admission
        self._dialect = dialect

    # --- listing ----------------------------------------------------------------------------------------------------

    async def list(self, call: Call) -> None:
        served = sorted(self._served().items())
        if _asks_as_anthropics_clients(call):
            data = [_anthropics_model(name, info) for name, info in served]
            first, last = (served[0][0], served[-1][0]) if served else (None, None)
            call.reply(_json({"data": data, "has_more": False, "first_id": first, "last_id": last}))
            return
        call.reply(_json({"object": "list", "data": [_model_object(name, info) for name, info in served]}))

    async def get(self, call: Call) -> None:
        assert call.model is not None
        info = self._info(call.model)
        if info is None:
            raise ModelNotFound(f"the model {call.model!r} is not served here", param="model")
        shape = _anthropics_model if _asks_as_anthropics_clients(call) else _model_object
        call.reply(_json(shape(call.model, info)))

    def _served(self) -> dict[str, ModelInfo]:
        """Every public name with what is known of the model: the listed ones that a backend has, then all others."""
        served: dict[str, ModelInfo] = {}
        if self._catalog.unlisted is not None:
            for backend in self._fleet.backends.values():
                served |= backend.inventory.models
        listed = {name: self._info(name) for name in self._catalog.listed}
        return served | {name: info for name, info in listed.items() if info is not None}

    def _info(self, name: str) -> ModelInfo | None:
        service = self._catalog.service(name)
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
        service = self._service(call.model)
        model = full_name(service.backend_model)
        if not self._fleet.ready:
            await self._fleet.refresh()
        pulls = self._fleet.puller(model, service.backends)
        progress = _Progress(call.response, b"content-type: application/x-ndjson\r\n" + call.exchange.id_line())
        try:
            async with aclosing(pulls.follow(model)) as lines:
                async for line in lines:
                    await progress.tell(line)
            if wanted.load:
                await progress.tell(PullProgress(status="loading"))
                await self._bring(service, self._found(service), call.principal)
                await pulls.backend.look(LOOK_TIMEOUT_S)
        except GatewayError as error:
            progress.fail(self._dialect.render_error(error, call.exchange.request_id))
            raise
        except asyncio.CancelledError:  # though the client is there: it is we who stop
            progress.fail(self._dialect.render_error(Draining("this server has shut down"), call.exchange.request_id))
            raise
        progress.end({"done": True, "model": call.model, "loaded": wanted.load})

    # --- loading ----------------------------------------------------------------------------------------------------

    async def load(self, call: Call) -> None:
        """Bring a model into memory; answered when it is there."""
        service, found = await self._known(call)
        await self._bring(service, found, call.principal)
        call.reply(_json({"model": service.model, "loaded": sorted(self._admission.scheduler.where(found.resident))}))

    async def unload(self, call: Call) -> None:
        """Let a model go, wherever it is; answered at once, also where it has to end first what it runs."""
        service, found = await self._known(call)
        where = self._admission.scheduler.where(found.resident)
        self._admission.unload(found.resident)
        told = {"model": service.model, "unloading": sorted(where), "active": sum(where.values())}
        call.reply(_json(told), status=202 if where else 200)

    async def _known(self, call: Call) -> tuple[Service, Candidates]:
        """The model that the path names, and who has it.

        Raises ModelNotFound or NoBackend, and BadRequest where nobody that has it is told what to load.
        """
        assert call.model is not None
        service = self._service(call.model)
        if not candidates(service, self._fleet.inventories()).names:
            await self._fleet.refresh()
            if not self._fleet.ready:
                raise NoBackend("no backend is up", retry_after_s=1.0)
        call.exchange.model = service.model
        found = self._found(service)
        self._fleet.loading(found.names)
        return service, found

    def _service(self, model: str) -> Service:
        service = self._catalog.service(model)
        if service is None:
            raise ModelNotFound(f"the model {model!r} is not served here", param="model")
        return service

    def _found(self, service: Service) -> Candidates:
        found = candidates(service, self._fleet.inventories())
        if not found.names:
            raise ModelNotFound(f"no backend has the model {service.backend_model!r}", param="model")
        return found

    async def _bring(self, service: Service, found: Candidates, principal: Principal) -> None:
        """Have it loaded unless it is, by the rules for requests: as one that waits for it, and then asks for nothing.

        It has as much patience as a load may take, and the rights of what nobody waits for.
        """
        if self._admission.scheduler.where(found.resident):
            return
        now = asyncio.get_running_loop().time()
        ticket = Ticket(
            service.model if service.model in self._catalog.listed else found.resident,
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


class _Progress:
    """Lines of JSON to the client. An error before the first of them is an error status instead."""

    def __init__(self, response: Response, headers: bytes) -> None:
        self._response = response
        response.start(200, headers)

    async def tell(self, line: object) -> None:
        self._response.write(_json(line) + b"\n")
        if self._response.paused:
            await self._response.drain()

    def fail(self, error: bytes) -> None:
        if self._response.started and not self._response.gone:
            self._response.break_off(error + b"\n")

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


def _anthropics_model(name: str, info: ModelInfo) -> dict[str, object]:
    created_at = datetime.fromtimestamp(_unix(info.modified_at), UTC)
    return {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": f"{created_at:%Y-%m-%dT%H:%M:%SZ}",
        "lifecycle": "active",
    }


def _unix(rfc3339: str) -> int:
    try:
        return int(datetime.fromisoformat(rfc3339).timestamp())
    except ValueError:
        return 0
