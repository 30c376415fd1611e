"""What one backend is to load and unload: one order after the other, and how each has ended is told.

Besides what is ordered, what is loaded and would soon go by itself is kept, where it is to stay.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from math import inf
from typing import Protocol

from msgspec import Struct

from hermes.errors import GatewayError, LoadNotBegun, ModelNotFound
from hermes.fleet.backend import PROBE_TIMEOUT_S, Backend
from hermes.fleet.inventory import ModelInfo
from hermes.fleet.moves import Move, What
from hermes.metrics import Metrics
from hermes.policy.ticket import BackendFacts, Load, Unload

log = logging.getLogger(__name__)

# Ollama's own patience with a load (OLLAMA_LOAD_TIMEOUT).
LOAD_TIMEOUT_S = 300.0
UNLOAD_TIMEOUT_S = 10.0
# A model that is loaded is kept at once. One that runs expires, for all that is told, until it falls idle.
RENEW_TIMEOUT_S = 10.0
RENEW_AGAIN_S = 60.0
# One change is under way per backend, and operators unload what is loaded: a few orders wait at most. So many are those
# of a backend that answers nothing, or of a bug.
MAX_ORDERS = 256


class _Renew(Struct, frozen=True):
    """An order of our own: have a loaded model stay."""

    model: str


class Listener(Protocol):
    """Who is told what the fleet sees, and how what it was asked to do has ended."""

    def observe(self, facts: BackendFacts) -> None: ...
    def loaded(self, backend: str, model: str) -> None: ...
    def load_failed(self, backend: str, model: str, error: GatewayError) -> None: ...


class Orders:
    """What `backend` is to do. `looked` is to be called after each look at it."""

    def __init__(self, backend: Backend, listener: Listener, metrics: Metrics) -> None:
        self._backend = backend
        self._listener = listener
        self._metrics = metrics
        self._waiting: asyncio.Queue[Load | Unload | _Renew] = asyncio.Queue(MAX_ORDERS)
        self._carried_out_at = -inf  # the last of them
        self._asked: dict[str, Load] = {}  # the last load of each model that was ordered
        self._renewed: dict[str, float] = {}
        self._loaded: set[str] = set()  # at the last look, without what was unloaded since
        self._busy = False

    @property
    def idle(self) -> bool:
        """Whether nothing is ordered or being carried out."""
        return self._waiting.empty() and not self._busy

    def give(self, order: Load | Unload) -> None:
        """To be carried out after all that was given before.

        Where too many wait, a load has failed, and is told so; without an unload the next look sees the model again.
        """
        try:
            self._waiting.put_nowait(order)
        except asyncio.QueueFull:
            log.warning("backend %s has %d orders waiting: it is not told to %s", self._backend.name, MAX_ORDERS, order)
            if isinstance(order, Load):
                self._asked[order.model] = order
                why = GatewayError(f"{MAX_ORDERS} loads and unloads are waiting to be carried out")
                # Never from within: who gives orders is not ready yet to hear of them.
                asyncio.get_running_loop().call_soon(self._tell_failed, order, why)
            return
        if isinstance(order, Unload):
            self._backend.gone_at[order.model] = inf
        else:
            self._backend.gone_at.pop(order.model, None)
            self._asked[order.model] = order

    def looked(self) -> None:
        """See what went, and have what is to stay kept: where nothing has changed since we looked."""
        backend = self._backend
        if backend.state == "up" and self.idle and backend.inventory.asked_at > self._carried_out_at:
            self._count_gone()
            self._renew()

    async def work(self) -> None:
        """Carry out orders for ever."""
        while True:
            next_order = await self._waiting.get()
            self._busy = True
            match next_order:
                case Load() as order:
                    await self._load(order)
                case Unload(model=model):
                    await self._unload(model)
                case _Renew(model=model):
                    await self._keep(model)
            self._carried_out_at, self._busy = asyncio.get_running_loop().time(), False
            self._backend.suspect()

    async def _load(self, order: Load) -> None:
        """Tells how it went; not that it failed, where it has been ordered again since: that has its own answer."""
        backend, model, began = self._backend, order.model, asyncio.get_running_loop().time()
        outcome = "failed"
        try:
            await backend.while_up(self._bring(order))
        except GatewayError as error:
            log.warning("backend %s could not load %s: %s", backend.name, model, error.message)
            self._note(model, "failed", began)
            backend.doubt(model)
            if isinstance(error, ModelNotFound):  # who hears of it asks again who has it
                await backend.look(PROBE_TIMEOUT_S)
            self._tell_failed(order, error)
        except Exception:  # who waits for the model must hear of it all the same
            log.exception("loading %s on backend %s met a bug", model, backend.name)
            self._tell_failed(order, GatewayError("loading it met a bug; the log has its cause"))
        else:
            log.info("backend %s has loaded %s", backend.name, model)
            outcome = "loaded"
            self._loaded.add(model)
            self._note(model, "loaded", began)
            self._metrics.load_time.observe((backend.name, model), asyncio.get_running_loop().time() - began)
            if not backend.inventory.loaded:  # only what runs there tells whether it has a GPU
                await backend.look(PROBE_TIMEOUT_S)
            tell(backend, partial(self._listener.loaded, backend.name, model))
        finally:
            self._metrics.loads.add((backend.name, model, outcome))

    async def _bring(self, order: Load) -> None:
        """Raises BackendError; LoadNotBegun where it waits for room that was thought to be there."""
        backend = self._backend
        loading = asyncio.get_running_loop().create_task(
            backend.driver.load(self._info(order.model), LOAD_TIMEOUT_S), name="load"
        )
        try:
            done, _ = await asyncio.wait((loading,), timeout=min(order.begun_within_s, LOAD_TIMEOUT_S))
            if not done:
                await backend.look(PROBE_TIMEOUT_S)
                # Listed as soon as it has a process.
                if order.model not in {model.name for model in backend.inventory.loaded} and not loading.done():
                    raise LoadNotBegun(f"{order.model} waits for room beside what is in memory")
            await loading
        finally:
            loading.cancel()
            await asyncio.wait((loading,))  # the next order finds nothing of it under way

    def _tell_failed(self, order: Load, error: GatewayError) -> None:
        if self._asked[order.model] is order:
            tell(self._backend, partial(self._listener.load_failed, self._backend.name, order.model, error))

    async def _unload(self, model: str) -> None:
        """Where that fails the backend makes room by itself, or the next load fails, and is told of."""
        backend = self._backend
        try:
            await backend.while_up(backend.driver.unload(model, UNLOAD_TIMEOUT_S))
        except GatewayError as error:
            log.warning("backend %s could not unload %s: %s", backend.name, model, error.message)
            backend.gone_at.pop(model, None)
        else:
            log.info("backend %s has unloaded %s", backend.name, model)
            self._metrics.unloads.add((backend.name, model, "hermes"))
            self._loaded.discard(model)
            self._note(model, "unloaded")
            if model in backend.gone_at:
                backend.gone_at[model] = asyncio.get_running_loop().time()

    def _count_gone(self) -> None:
        """What others have unloaded, or the backend itself: for another model, or because it ended."""
        loaded = {model.name for model in self._backend.inventory.loaded}
        for model in self._loaded - loaded:
            self._metrics.unloads.add((self._backend.name, model, "others"))
            self._note(model, "went")
        for model in loaded - self._loaded:
            self._note(model, "came")
        self._loaded = loaded

    def _note(self, model: str, what: What, began: float | None = None) -> None:
        now = asyncio.get_running_loop().time()
        self._backend.moves.append(Move(now, model, what, 0.0 if began is None else now - began))

    def _renew(self) -> None:
        """Have what is about to expire stay.

        Never something that may be gone by now, which that would load; what is ordered later is carried out later.
        """
        now = asyncio.get_running_loop().time()
        for model in self._backend.driver.expiring(self._backend.inventory)[:MAX_ORDERS]:
            if now - self._renewed.get(model, -inf) >= RENEW_AGAIN_S:
                self._renewed[model] = now
                self._waiting.put_nowait(_Renew(model))

    async def _keep(self, model: str) -> None:
        try:
            await self._backend.while_up(self._backend.driver.load(self._info(model), RENEW_TIMEOUT_S))
        except GatewayError as error:
            log.warning("backend %s could not be told to keep %s: %s", self._backend.name, model, error.message)

    def _info(self, model: str) -> ModelInfo:
        return self._backend.inventory.models.get(model) or ModelInfo(model)


def tell(backend: Backend, tell: Callable[[], None]) -> None:
    """Who listens must not end who watches, or loads."""
    try:
        tell()
    except Exception:
        log.exception("telling of backend %s met a bug", backend.name)
