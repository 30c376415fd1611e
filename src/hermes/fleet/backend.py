"""One backend as it is seen: probed for ever; whether it is up, what it has, what is loaded, what room there is."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from math import inf

from hermes import machine
from hermes.errors import BackendError, BackendUnreachable
from hermes.fleet import memory
from hermes.fleet.download import Download
from hermes.fleet.driver import Driver
from hermes.fleet.inventory import Inventory, LoadedModel
from hermes.fleet.moves import moves
from hermes.policy.breaker import STUCK, Breaker
from hermes.policy.ticket import BackendFacts

log = logging.getLogger(__name__)

# One lost probe is a hiccup; two in a row, a second apart, mean down. What fails in between is of the same hiccup: a
# failed request makes us look again at once, and several may fail while a server restarts.
FAILURES_UNTIL_DOWN = 2
RETRY_S = 1.0
HICCUP_S = 0.9
PROBE_TIMEOUT_S = 5.0


class Backend:
    """One backend as it is seen now. `state` is `starting` until the first probe has ended."""

    def __init__(
        self,
        name: str,
        kind: str,
        url: str,
        driver: Driver,
        slots: int | None,
        interval_s: float,
        simulated: bool = False,
        memory_bytes: int | None = None,
        max_loaded: int | None = None,
        weight: float = 1.0,
        identity: object = None,
    ) -> None:
        self.name = name
        self.kind = kind
        self.url = url
        self.driver = driver
        self.server = driver.server
        self._said_slots = slots
        self.interval_s = interval_s
        self.room = memory.said(memory_bytes)
        self.max_loaded = max_loaded
        self.weight = weight
        self._identity = identity  # all by which it is told from another one of its name
        self.draining = False  # an operator wants nothing new to start there
        self.pressed = ""  # why nothing more should be loaded
        self.state = "starting"
        self.error = ""
        self.inventory = Inventory("", {}, (), {})
        self.failures = 0
        self.seen_at = 0.0
        self.gone_at: dict[str, float] = {}  # what we have unloaded, when; inf: it is about to be
        self.pulling: dict[str, Download] = {}  # by model
        self.breakers: dict[str, Breaker] = {}  # of the models that have given trouble
        self.moves = moves()
        self.on_change: Callable[[], None] = lambda: None  # it came, went, or has other models than before
        self._failed_at = 0.0
        self._seen: object = None
        self._weights: dict[str, int] = {}  # what each model took when it was last loaded
        self._patience: set[asyncio.Timeout] = set()  # with what it is asked for
        self._said_to_be_simulated = simulated
        self._look = asyncio.Event()
        self._seen_once = asyncio.Event()
        self._looked = asyncio.Event()  # the end of the probe that begins next

    def is_same(self, other: "Backend | None") -> bool:
        """Whether that is another description of the same."""
        return other is not None and other._identity == self._identity

    def adopt(self, other: "Backend") -> bool:
        """What that says of it holds from now on. True: nothing is said of its room any more, that is to be found."""
        self.interval_s, self.max_loaded, self.weight = other.interval_s, other.max_loaded, other.weight
        self._said_slots, self._said_to_be_simulated = other._said_slots, other._said_to_be_simulated
        lost = self.room.kind == "said" and other.room.kind != "said"
        if lost or other.room.kind == "said":
            self.room = other.room
        return lost

    @property
    def simulated(self) -> bool:
        """By its own word or the operator's."""
        return self.inventory.simulated or self._said_to_be_simulated

    @property
    def slots(self) -> int | None:
        """How many requests it runs at once per loaded model: by the operator's word, its own, or its kind's."""
        return self._said_slots or self.inventory.slots or self.driver.slots

    @property
    def takes_work(self) -> bool:
        return self.state == "up" and not self.draining

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

    def doubt(self, model: str) -> None:
        """It could not be loaded: where nobody makes room for it, it may take more now than it took."""
        if not self.driver.makes_room:
            self._weights.pop(model, None)

    @property
    def facts(self) -> BackendFacts:
        room, asked_at, gone_at = self.room, self.inventory.asked_at, self.gone_at
        now = asyncio.get_running_loop().time() if self.pulling else 0.0
        loaded = {
            model.name: self._weight(model)
            for model in self.inventory.loaded
            if asked_at > gone_at.get(model.name, -inf)  # what is seen may be gone by now, or about to go
        }
        self._weights |= loaded
        sizes = {name: self._weights.get(name, info.size_bytes) for name, info in self.inventory.models.items()}
        if not self.driver.makes_room:  # what nobody knows the size of is loaded alone, and has one from then on
            sizes = {name: size_bytes or room.capacity_bytes or 0 for name, size_bytes in sizes.items()}
        if room.is_found and room.capacity_bytes is not None:
            # What does not fit is run partly by the processors: it takes all there is, and is refused to nobody.
            sizes = {name: min(size_bytes, room.capacity_bytes) for name, size_bytes in sizes.items()}
        return BackendFacts(
            self.name,
            self.takes_work,
            self.slots,
            loaded if self.driver.loads else None,
            sizes,
            room.capacity_bytes,
            asked_at,
            max_loaded=self.max_loaded or (None if self.driver.makes_room or room.capacity_bytes else 1),
            may_be_less=room.is_found,
            pressed=self.pressed,
            settles=self.driver.settles,
            of_free=memory.OF_FREE_MEMORY if self.driver.makes_room and self._is_on_gpu else 1.0,
            names=self.inventory.names if self.driver.loads else {},
            weight=self.weight,
            pulling={name: now + each.left_s(now) for name, each in self.pulling.items() if name not in sizes},
            makes_room=self.driver.makes_room,
            slots_of=self.inventory.slots_of,
            idle_ttls_s=self.inventory.idle_ttls_s,
            fallen={name: each for name, each in self.inventory.fallen.items() if asked_at > gone_at.get(name, -inf)},
            limits={name: int(each.limit) for name, each in self.breakers.items() if each.limit < inf},
            resting={name: each.until for name, each in self.breakers.items() if each.rests},
        )

    @property
    def _is_on_gpu(self) -> bool:
        return self.room.kind in ("said", "gpu") and self._has_gpu

    @property
    def generates(self) -> bool:
        """Whether anything can be asked of it: it answers, and not all that it has is stuck.

        What is stuck in a server's memory tells of the others that it has, though not of another server.
        """
        stuck = {self.own_name(name) for name, breaker in self.breakers.items() if breaker.state is STUCK}
        loaded = {model.name for model in self.inventory.loaded} if self.server is not None else None
        there = loaded or self.inventory.models.keys()
        return self.state == "up" and not (stuck and stuck >= there)

    @property
    def _has_gpu(self) -> bool:
        """What runs on a GPU tells that there is one."""
        return any(model.vram_bytes for model in self.inventory.loaded)

    def own_name(self, model: str) -> str:
        """What it calls a model that has the fuller name of another backend's."""
        return self.inventory.names.get(model, model)

    def has_in_memory(self, model: str) -> bool:
        """As far as was seen."""
        if self.driver.loads:
            return any(each.name == model for each in self.inventory.loaded)
        return self.own_name(model) not in self.inventory.absent

    def reloads_avoided(self, model: str) -> int:
        """Of a model, by any of its names."""
        resident = self.inventory.names.get(model)
        terms = None if resident is None else self.driver.terms.get(resident)
        return 0 if terms is None else terms.reloads_avoided

    def _weight(self, model: LoadedModel) -> int:
        """What it takes of the room. Of an unknown one: of the GPU's memory, if it is there."""
        is_told = self.room.kind == "gpu" and self.driver.makes_room
        return model.vram_bytes if is_told else model.vram_bytes or model.size_bytes

    async def find_room(self) -> None:
        """Ask this machine what a backend on it has for models, if nobody has said so."""
        await self._seen_once.wait()
        if self.room.capacity_bytes is None and self._is_here and self.driver.loads:
            self.room = await memory.find(sum(model.vram_bytes for model in self.inventory.loaded))
            self._mistrust()
            size = self.room.capacity_bytes
            told = f"{size / 2**30:.1f} GiB" if size else "an unknown amount of memory"
            log.info("backend %s has %s for models (%s)", self.name, told, self.room.source)
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

    async def watch(self, looked: Callable[[], None]) -> None:
        """Probe for ever: regularly, and at once when somebody asks. `looked` is called after each probe."""
        ended = self._looked
        try:
            while True:
                self._look.clear()
                ended, self._looked = self._looked, asyncio.Event()
                await self._probe(PROBE_TIMEOUT_S)
                self._notice_change()
                looked()
                ended.set()
                try:
                    async with asyncio.timeout(RETRY_S if self.failures else self.interval_s):
                        await self._look.wait()
                except TimeoutError:
                    pass
        finally:  # nobody looks any more
            ended.set()
            self._looked.set()

    async def look_first(self, timeout_s: float) -> None:
        """Before it is watched: so that who is told of it is told what it has."""
        await self._probe(timeout_s)
        self._notice_change()

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

    async def while_up(self, ask: Awaitable[None]) -> None:
        """Raises BackendUnreachable if the backend goes down meanwhile: nobody may say so, and no answer ever come."""
        patience = asyncio.timeout(None)
        self._patience.add(patience)
        try:
            async with patience:
                await ask
        except TimeoutError as error:
            raise BackendUnreachable(self.error) from error
        finally:
            self._patience.discard(patience)

    async def _probe(self, timeout_s: float) -> None:
        before = self.state
        try:
            self.inventory = await self.driver.inventory(timeout_s)
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
            for patience in self._patience:
                if not patience.expired():
                    patience.reschedule(now)

    def _notice_change(self) -> None:
        seen = self.state, self.inventory.names
        if seen != self._seen:
            self._seen = seen
            self.on_change()
