"""The routes for operators and their tools: is it alive, is it ready, what is going on."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from math import inf

import msgspec
from msgspec.structs import asdict, replace

from hermes import __version__, exposition, machine
from hermes.admission import Admission
from hermes.api.models import Models
from hermes.api.queue import tell_change
from hermes.api.routes import Call
from hermes.errors import Draining, NoBackend
from hermes.fleet.backend import Backend
from hermes.fleet.fleet import Fleet
from hermes.fleet.managed import Managed
from hermes.metrics import Metrics
from hermes.policy.breaker import Breaker
from hermes.policy.standing import Standing
from hermes.policy.ticket import Change, Occupancy
from hermes.principal import Principal
from hermes.reload import Attempt
from hermes.router import Router

log = logging.getLogger(__name__)
_json = msgspec.json.Encoder().encode


STATUS_PATIENCE_S = 1.0
_IDLE = Occupancy(0, 0)


class Ops:
    def __init__(
        self,
        fleet: Fleet,
        models: Models,
        admission: Admission,
        router: Router,
        counted: Metrics,
        *,
        clock: Callable[[], float],
        draining: Callable[[], bool],
        connections: Callable[[], int],
        reload: Callable[[str], Awaitable[Attempt]],
        reloaded: Callable[[], Attempt | None],
    ) -> None:
        self._fleet = fleet
        self._models = models
        self._scheduler: Standing = admission.scheduler
        self._router = router
        self._metrics = counted
        self._clock = clock
        self._draining = draining
        self._connections = connections
        self._reload = reload
        self._reloaded = reloaded
        self._started_at = clock()

    async def alive(self, call: Call) -> None:
        call.reply(_json({"status": "ok", "ready": self._ready()}))

    async def ready(self, call: Call) -> None:
        if self._draining():
            raise Draining("this server is shutting down", retry_after_s=1.0)
        if not self._fleet.ready:
            raise NoBackend("no backend is up", retry_after_s=1.0)
        call.reply(_json({"status": "ok", "ready": True}))

    def _ready(self) -> bool:
        return self._fleet.ready and not self._draining()

    async def scrape(self, call: Call) -> None:
        """The values are taken here, between two requests (I3); all else is done in a thread (invariant I36)."""
        taken = list(self._metrics.take())
        text = await asyncio.to_thread(lambda: exposition.render(exposition.told(taken)))
        call.reply(text, content_type=exposition.CONTENT_TYPE)

    async def drain(self, call: Call) -> None:
        """Nothing new starts there; what runs may end. Not kept over a restart."""
        self._drain(call, True)

    async def resume(self, call: Call) -> None:
        self._drain(call, False)

    def _drain(self, call: Call, draining: bool) -> None:
        name = call.named or ""
        self._fleet.drain(name, draining)
        log.info("backend %s %s", name, "drains" if draining else "takes work again")
        call.reply(_json({"backend": name, "draining": draining, "active": self._scheduler.running_on(name)}))

    async def status(self, call: Call) -> None:
        """All there is to see, the backends as they are now (or, where they do not answer, as last seen)."""
        await self._fleet.refresh(STATUS_PATIENCE_S)
        call.reply(_json(self.told(call.principal)))

    def told(self, principal: Principal) -> dict[str, object]:
        """The same, as it was seen last."""
        state = "draining" if self._draining() else "ok" if self._fleet.ready else "no_backend"
        seen = self._models.seen(principal)
        models = {name: self._model(name, principal) for name in sorted(self._known(principal))}
        status: dict[str, object] = {
            "status": state,
            "version": __version__,
            "uptime_s": round(self._clock() - self._started_at, 3),
            "requests": self._requests(principal, models),
            "backends": [self._backend(backend, principal, seen) for backend in self._fleet.backends.values()],
            "models": models,
        }
        if principal.admin:
            status |= {"process": machine.process(), "machine": machine.machine(), "cgroup": machine.cgroup()}
        if (last := self._reloaded()) is not None:
            status["reload"] = last if principal.admin else replace(last, error="", needs_restart=())
        return status

    def _requests(self, principal: Principal, models: dict[str, dict[str, object]]) -> dict[str, object]:
        """To operators of all; to others of the models that they may use, whose lines their own places tell of too."""
        scheduler = self._scheduler
        told: dict[str, object] = {
            "active": scheduler.running,
            "queued": scheduler.waiting,
            "max_concurrent": scheduler.whole.max_concurrent,
            "queue_total": scheduler.whole.queue_tickets,
            "queue_bytes": scheduler.whole.queue_bytes,
        }
        if principal.admin:
            return told | {"queued_bytes": scheduler.waiting_bytes, "connections": self._connections()}
        loads = [scheduler.occupancy(name) for name in models]
        return told | {"active": sum(load.running for load in loads), "queued": sum(load.waiting for load in loads)}

    async def reload(self, call: Call) -> None:
        """The configuration is read anew. Answered when it is in force; raises why it is not."""
        call.reply(_json(await self._reload("a request")))

    def _known(self, principal: Principal) -> set[str]:
        """Those that are listed, and those that are or were asked for, as far as they may be used."""
        catalog, scheduler = self._router.catalog, self._scheduler
        asked = (name for name in scheduler.models() if catalog.service(name) or scheduler.occupancy(name) != _IDLE)
        return {name for name in {*catalog.listed, *asked} if catalog.allows(principal, name)}

    def _model(self, name: str, principal: Principal) -> dict[str, object]:
        load, bounds = self._scheduler.occupancy(name), self._scheduler.bounds(name)
        slots = {backend: self._scheduler.slots(name, backend) for backend in self._fleet.backends}
        service = self._router.catalog.service(name)
        asked = name if service is None else service.backend_model
        told: dict[str, object] = {
            "active": load.running,
            "queued": load.waiting,
            "max_concurrency": bounds.max_concurrency,
            "queue_limit": bounds.queue_limit,
            "slots": slots,
            "reloads_avoided": sum(backend.reloads_avoided(asked) for backend in self._fleet.backends.values()),
        }
        if principal.admin:  # others may not use it by that name
            told["backend_model"] = asked
        if found := self._scheduler.concurrency(name):
            told["adaptive"] = {
                backend: {"limit": known.limit, "cap": known.cap, "why": known.why} for backend, known in found.items()
            }
        return told

    def _backend(self, backend: Backend, principal: Principal, seen: Callable[[str], bool]) -> dict[str, object]:
        told = _backend(backend, seen)
        if principal.admin:  # the backend's own door may be open to anybody who knows where it is
            told["url"] = backend.url
            if backend.error:
                told["error"] = backend.error
        used = {
            each.model: {"running": each.running, "slots": each.slots}
            for each in self._scheduler.in_memory(backend.name)
        }
        told["loaded"] = [
            asdict(model) | used.get(model.name, {}) for model in backend.inventory.loaded if seen(model.name)
        ]
        if isinstance(backend.driver, Managed):
            processes = backend.driver.told(principal.admin)
            told["processes"] = [process for process in processes if seen(str(process["model"]))]
        now = self._clock()
        if found := [(name, each) for name, each in backend.breakers.items() if seen(name)]:
            told["health"] = [_health(name, each, now, principal.admin) for name, each in found]
        changes = (each for each in self._scheduler.changes() if each.backend == backend.name and seen(each.model))
        if changing := [tell_change(each, seen) | {"for_ms": _age_ms(each, now)} for each in changes]:
            told["changes"] = changing
        return told


def _age_ms(change: Change, now: float) -> int:
    return round((now - (change.loading_since or change.decided_at)) * 1000)


def _health(model: str, breaker: Breaker, now: float, tells_why: bool) -> dict[str, object]:
    """`retry_in_s`: until a request, or where it is stuck a probe, tries whether it is well again.

    `why` may be what the backend said to somebody's request, with his prompt in it (invariant I21).
    """
    told: dict[str, object] = {"model": model, "state": breaker.state}
    if tells_why and breaker.why:
        told["why"] = breaker.why
    if breaker.rests:
        told["retry_in_s"] = max(0.0, round(min(breaker.until, breaker.probe_at) - now, 3))
    elif breaker.limit < inf:
        told["limit"] = int(breaker.limit)
    return told


def _backend(backend: Backend, seen: Callable[[str], bool]) -> dict[str, object]:
    told: dict[str, object] = {
        "name": backend.name,
        "kind": backend.kind,
        "state": backend.state,
        "version": backend.inventory.version,
        "simulated": backend.simulated,
        "memory": {"bytes": backend.room.capacity_bytes, "source": backend.room.source},
        "models": sum(map(seen, backend.inventory.models)),
    }
    if pulling := {name: each.percent for name, each in backend.pulling.items() if seen(name)}:
        told["pulling"] = [{"model": name, "percent": percent} for name, percent in pulling.items()]
    if backend.draining:
        told["draining"] = True
    if backend.pressed:
        told["pressed"] = f"loads wait: {backend.pressed}"
    if backend.slots is None and backend.server is not None:
        own = " (or OLLAMA_NUM_PARALLEL)" if backend.kind == "ollama" else ""
        told["hint"] = (
            f"its slots are not known: one request at a time, unless max_concurrency says more. Set slots{own}"
        )
    return told
