"""All backends: one watcher each, who is up, and what each has; and one worker each, which loads and unloads."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from math import inf
from typing import Protocol

from msgspec import Struct

from hermes import machine
from hermes.errors import BackendError, BackendUnreachable, GatewayError, ModelNotFound
from hermes.fleet import memory
from hermes.fleet.inventory import Inventory, LoadedModel, ModelInfo
from hermes.fleet.ollama import Ollama
from hermes.policy.ticket import BackendFacts, Load, Unload

log = logging.getLogger(__name__)

# One lost probe is a hiccup; two in a row, a second apart, mean down. What fails in between is of the same hiccup: a
# failed request makes us look again at once, and several may fail while a server restarts.
FAILURES_UNTIL_DOWN = 2
RETRY_S = 1.0
HICCUP_S = 0.9
PROBE_TIMEOUT_S = 5.0
# Unknown names make us look again at most this often.
REFRESH_S = 1.0
# Ollama's own patience with a load (OLLAMA_LOAD_TIMEOUT), and so ours with a pull that makes no progress.
LOAD_TIMEOUT_S = 300.0
UNLOAD_TIMEOUT_S = 10.0
# A model that is loaded is kept at once. One that runs expires, for all that is told, until it falls idle.
RENEW_TIMEOUT_S = 10.0
RENEW_AGAIN_S = 60.0


class _Renew(Struct, frozen=True):
    """An order of our own: have a loaded model stay."""

    model: str


class Listener(Protocol):
    """Who is told what the fleet sees, and how what it was asked to do has ended."""

    def observe(self, facts: BackendFacts) -> None: ...
    def loaded(self, backend: str, model: str) -> None: ...
    def load_failed(self, backend: str, model: str, error: GatewayError) -> None: ...


class Backend:
    """One backend as it is seen now. `state` is `starting` until the first probe has ended."""

    def __init__(
        self,
        name: str,
        kind: str,
        url: str,
        driver: Ollama,
        slots: int | None,
        interval_s: float,
        simulated: bool = False,
        memory_bytes: int | None = None,
        max_loaded: int | None = None,
    ) -> None:
        self.name = name
        self.kind = kind
        self.url = url
        self.driver = driver
        self.slots = slots
        self.interval_s = interval_s
        self.room = memory.said(memory_bytes)
        self.max_loaded = max_loaded
        self.pressed = ""  # why nothing more should be loaded
        self.state = "starting"
        self.error = ""
        self.inventory = Inventory("", {}, (), {})
        self.failures = 0
        self.seen_at = 0.0
        self.on_change: Callable[[], None] = lambda: None  # it came, went, or has other models than before
        self._failed_at = 0.0
        self._seen: object = None
        self._weights: dict[str, int] = {}  # what each model took when it was last loaded
        self._gone_at: dict[str, float] = {}  # what was unloaded, when; inf: it is about to be
        self._orders: asyncio.Queue[Load | Unload | _Renew] = asyncio.Queue()
        self._carried_out_at = -inf  # the last of them
        self._asked: dict[str, Load] = {}  # the last load of each model that was ordered
        self._renewed: dict[str, float] = {}
        self._patience: asyncio.Timeout | None = None  # with the order that is being carried out
        self._said_to_be_simulated = simulated
        self._look = asyncio.Event()
        self._seen_once = asyncio.Event()
        self._looked = asyncio.Event()  # the end of the probe that begins next

    @property
    def simulated(self) -> bool:
        """By its own word or the operator's."""
        return self.inventory.simulated or self._said_to_be_simulated

    @property
    def _is_here(self) -> bool:
        """Whether this machine's memory is what it loads models into."""
        return memory.is_here(self.url) and not self.simulated

    @property
    def weights(self) -> dict[str, int]:
        """What each model took when it was last loaded, as far as is known, in bytes."""
        return dict(self._weights)

    def learn(self, weights: Mapping[str, int]) -> None:
        """What was known earlier."""
        self._weights = {**weights, **self._weights}

    @property
    def facts(self) -> BackendFacts:
        room, asked_at, gone_at = self.room, self.inventory.asked_at, self._gone_at
        loaded = {
            model.name: self._weight(model)
            for model in self.inventory.loaded
            if asked_at > gone_at.get(model.name, -inf)  # what is seen may be gone by now, or about to go
        }
        self._weights |= loaded
        sizes = {name: self._weights.get(name, info.size_bytes) for name, info in self.inventory.models.items()}
        if room.is_found and room.capacity_bytes is not None:
            # What does not fit is run partly by the processors: it takes all there is, and is refused to nobody.
            sizes = {name: min(size_bytes, room.capacity_bytes) for name, size_bytes in sizes.items()}
        return BackendFacts(
            self.name,
            self.state == "up",
            self.slots,
            loaded,
            sizes,
            room.capacity_bytes,
            asked_at,
            max_loaded=self.max_loaded,
            may_be_less=room.is_found,
            pressed=self.pressed,
            of_free=memory.OF_FREE_MEMORY if room.kind in ("said", "gpu") and self._has_gpu else 1.0,
        )

    @property
    def _has_gpu(self) -> bool:
        """What runs on a GPU tells that there is one."""
        return any(model.vram_bytes for model in self.inventory.loaded)

    def _weight(self, model: LoadedModel) -> int:
        """What it takes of the room. Of an unknown one: of the GPU's memory, if it is there."""
        return model.vram_bytes if self.room.kind == "gpu" else model.vram_bytes or model.size_bytes

    def reloads_avoided(self, model: str) -> int:
        """Of a model, by any of its names."""
        resident = self.inventory.names.get(model)
        return 0 if resident is None else self.driver.terms[resident].reloads_avoided

    async def find_room(self) -> None:
        """Ask this machine what a backend on it has for models, if nobody has said so."""
        await self._seen_once.wait()
        if self.room.capacity_bytes is None and self._is_here:
            self.room = await memory.find(sum(model.vram_bytes for model in self.inventory.loaded))
            self._mistrust()
            log.info("backend %s has %s bytes for models (%s)", self.name, self.room.capacity_bytes, self.room.source)
            self._look.set()

    def _feel(self) -> None:
        """Whether memory has become scarce where it runs, if that is here."""
        before, self.pressed = self.pressed, machine.pressure() if self._is_here else ""
        if self.pressed and not before:
            log.warning("loads on backend %s wait: %s", self.name, self.pressed)
        elif before and not self.pressed:
            log.info("loads on backend %s wait no longer for memory", self.name)

    def _mistrust(self) -> None:
        """The memory of the machine is not a GPU's."""
        if self.room.kind == "ram" and self._has_gpu:
            self.room = memory.UNKNOWN

    async def watch(self, listener: Listener) -> None:
        """Probe for ever: regularly, and at once when somebody asks."""
        while True:
            self._look.clear()
            looked, self._looked = self._looked, asyncio.Event()
            await self._probe()
            self._notice_change()
            self._tell(lambda: listener.observe(self.facts))
            self._renew()
            looked.set()
            try:
                async with asyncio.timeout(RETRY_S if self.failures else self.interval_s):
                    await self._look.wait()
            except TimeoutError:
                pass

    def order(self, order: Load | Unload) -> None:
        """To be carried out after all that was ordered before."""
        if isinstance(order, Unload):
            self._gone_at[order.model] = inf
        else:
            self._gone_at.pop(order.model, None)
            self._asked[order.model] = order
        self._orders.put_nowait(order)

    @property
    def idle(self) -> bool:
        """Whether nothing is ordered or being carried out."""
        return self._orders.empty() and self._patience is None

    async def work(self, listener: Listener) -> None:
        """Carry out orders for ever."""
        while True:
            match await self._orders.get():
                case Load() as order:
                    await self._load(order, listener)
                case Unload(model=model):
                    await self._unload(model)
                case _Renew(model=model):
                    await self._keep(model)
            self._carried_out_at = asyncio.get_running_loop().time()
            self._look.set()

    async def _carry_out(self, order: Awaitable[None]) -> None:
        """Raises BackendUnreachable if the backend goes down meanwhile: nobody may say so, and no answer ever come."""
        try:
            async with asyncio.timeout(None) as self._patience:
                await order
        except TimeoutError as error:
            raise BackendUnreachable(self.error) from error
        finally:
            self._patience = None

    async def _load(self, order: Load, listener: Listener) -> None:
        """Tells how it went; not that it failed, where it has been ordered again since: that has its own answer."""
        model = order.model
        try:
            await self._carry_out(self.driver.load(self._info(model), LOAD_TIMEOUT_S))
        except GatewayError as error:
            log.warning("backend %s could not load %s: %s", self.name, model, error.message)
            if isinstance(error, ModelNotFound):  # who hears of it asks again who has it
                await self.look(PROBE_TIMEOUT_S)
            self._tell_failed(listener, order, error)
        except Exception:  # who waits for the model must hear of it all the same
            log.exception("loading %s on backend %s met a bug", model, self.name)
            self._tell_failed(listener, order, GatewayError("loading it met a bug; the log has its cause"))
        else:
            log.info("backend %s has loaded %s", self.name, model)
            self._tell(partial(listener.loaded, self.name, model))

    def _tell_failed(self, listener: Listener, order: Load, error: GatewayError) -> None:
        if self._asked[order.model] is order:
            self._tell(partial(listener.load_failed, self.name, order.model, error))

    async def _unload(self, model: str) -> None:
        """Where that fails the backend makes room by itself, or the next load fails, and is told of."""
        try:
            await self._carry_out(self.driver.unload(model, UNLOAD_TIMEOUT_S))
        except GatewayError as error:
            log.warning("backend %s could not unload %s: %s", self.name, model, error.message)
            self._gone_at.pop(model, None)
        else:
            log.info("backend %s has unloaded %s", self.name, model)
            if model in self._gone_at:
                self._gone_at[model] = asyncio.get_running_loop().time()

    def _renew(self) -> None:
        """Have what is about to expire stay.

        Never something that may be gone by now, which that would load: nothing has changed since we looked, and what
        is ordered later is carried out later.
        """
        now, looked_at = asyncio.get_running_loop().time(), self.inventory.asked_at
        if self.state != "up" or not self.idle or looked_at <= self._carried_out_at:
            return
        for model in self.driver.expiring(self.inventory):
            if now - self._renewed.get(model, -inf) >= RENEW_AGAIN_S:
                self._renewed[model] = now
                self._orders.put_nowait(_Renew(model))

    async def _keep(self, model: str) -> None:
        try:
            await self._carry_out(self.driver.load(self._info(model), RENEW_TIMEOUT_S))
        except GatewayError as error:
            log.warning("backend %s could not be told to keep %s: %s", self.name, model, error.message)

    def _info(self, model: str) -> ModelInfo:
        return self.inventory.models.get(model) or ModelInfo(model)

    def suspect(self) -> None:
        """An attempt could not reach it: look now rather than at the next turn."""
        self._look.set()

    async def look(self, timeout_s: float) -> None:
        """Look again from now on, and wait until that is done or `timeout_s` is over."""
        looked = self._looked
        self._look.set()
        try:
            async with asyncio.timeout(timeout_s):
                await looked.wait()
        except TimeoutError:
            pass

    async def _probe(self) -> None:
        before = self.state
        try:
            self.inventory = await self.driver.inventory(PROBE_TIMEOUT_S)
        except BackendError as error:
            self._failed(error.message)
        except Exception:  # one backend's watcher must not end the others'
            log.exception("looking at backend %s met a bug", self.name)
            self._failed("looking at it met a bug; the log has its cause")
        else:
            self.failures = 0
            self.error = ""
            self.state = "up"
            self._mistrust()
            self._feel()
            self._seen_once.set()
        self.seen_at = asyncio.get_running_loop().time()
        if self.state != before:
            log.info("backend %s is %s%s", self.name, self.state, f": {self.error}" if self.error else "")

    def _failed(self, why: str) -> None:
        now = asyncio.get_running_loop().time()
        self.error = why
        if not self.failures or now - self._failed_at >= HICCUP_S:
            self.failures += 1
            self._failed_at = now
        if self.failures >= FAILURES_UNTIL_DOWN or self.state == "starting":
            self.state = "down"
            if self._patience is not None and not self._patience.expired():
                self._patience.reschedule(now)

    def _notice_change(self) -> None:
        seen = self.state, self.inventory.names
        if seen != self._seen:
            self._seen = seen
            self.on_change()

    def _tell(self, tell: Callable[[], None]) -> None:
        try:
            tell()
        except Exception:  # who listens must not end who watches, or loads
            log.exception("telling of backend %s met a bug", self.name)


class Fleet:
    """What it sees, and how its orders ended, is told to `listener`."""

    def __init__(self, backends: Iterable[Backend], listener: Listener) -> None:
        self.backends = {backend.name: backend for backend in backends}
        self._listener = listener
        self.generation = 0  # grows with each backend that comes, goes, or has other models than before
        for backend in self.backends.values():
            backend.on_change = self._changed

    async def run(self) -> None:
        """Watch all backends, and do what is ordered, until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for backend in self.backends.values():
                    group.create_task(backend.watch(self._listener), name=f"watch {backend.name}")
                    group.create_task(backend.work(self._listener), name=f"orders of {backend.name}")
                    group.create_task(backend.find_room(), name=f"room of {backend.name}")
        finally:
            for backend in self.backends.values():
                backend.driver.pool.close()

    def order(self, order: Load | Unload) -> None:
        self.backends[order.backend].order(order)

    def _changed(self) -> None:
        self.generation += 1

    @property
    def ready(self) -> bool:
        return any(backend.state == "up" for backend in self.backends.values())

    def inventories(self) -> dict[str, dict[str, str]]:
        """What each backend has, as last seen: a backend that is down keeps its models."""
        return {name: backend.inventory.names for name, backend in self.backends.items()}

    async def refresh(self, timeout_s: float = 2.0) -> None:
        """Look again where the last look is not fresh: a model may have been added by somebody else."""
        now = asyncio.get_running_loop().time()
        stale = [
            backend
            for backend in self.backends.values()
            if backend.state == "starting" or now - backend.seen_at > REFRESH_S
        ]
        await asyncio.gather(*(backend.look(timeout_s) for backend in stale))
