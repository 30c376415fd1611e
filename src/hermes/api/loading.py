"""The routes that have models pulled, loaded and unloaded; and what else has them so: a start, and Ollama's clients."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing

import msgspec

from hermes.admission import Admission
from hermes.api.models import LOOK_TIMEOUT_S
from hermes.api.progress import Progress
from hermes.api.routes import Call
from hermes.dialects import ClientDialect, strict
from hermes.errors import BadRequest, GatewayError, ModelNotFound, NoBackend, UnknownModel
from hermes.fleet.driver import PullProgress
from hermes.fleet.fleet import Fleet
from hermes.fleet.inventory import full_name
from hermes.fleet.orders import LOAD_TIMEOUT_S
from hermes.fleet.pulls import Pulls
from hermes.policy.routing import Candidates, Service, candidates
from hermes.policy.ticket import Ticket
from hermes.principal import ANONYMOUS, Class, Principal
from hermes.router import Router

log = logging.getLogger(__name__)

_json = msgspec.json.Encoder().encode


class _PullBody(msgspec.Struct):
    load: bool = True


class Loading:
    def __init__(self, router: Router, fleet: Fleet, admission: Admission, dialect: ClientDialect) -> None:
        self._router = router
        self._fleet = fleet
        self._admission = admission
        self._dialect = dialect

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
            await self._fleet.refresh(LOOK_TIMEOUT_S)
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
