"""All backends: one watcher each, who is up, and what each has."""

import asyncio
import logging
from collections.abc import Callable, Iterable

from hermes.errors import BackendError
from hermes.fleet.inventory import Inventory
from hermes.fleet.ollama import Ollama
from hermes.policy.scheduler import BackendFacts

log = logging.getLogger(__name__)

# One lost probe is a hiccup; two in a row, a second apart, mean down. What fails in between is of the same hiccup: a
# failed request makes us look again at once, and several may fail while a server restarts.
FAILURES_UNTIL_DOWN = 2
RETRY_S = 1.0
HICCUP_S = 0.9
PROBE_TIMEOUT_S = 5.0
# Unknown names make us look again at most this often.
REFRESH_S = 1.0


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
    ) -> None:
        self.name = name
        self.kind = kind
        self.url = url
        self.driver = driver
        self.slots = slots
        self.interval_s = interval_s
        self.state = "starting"
        self.error = ""
        self.inventory = Inventory("", {}, (), {})
        self.failures = 0
        self.seen_at = 0.0
        self._failed_at = 0.0
        self._told: object = None
        self._said_to_be_simulated = simulated
        self._look = asyncio.Event()
        self._looked = asyncio.Event()  # the end of the probe that begins next

    @property
    def simulated(self) -> bool:
        """By its own word or the operator's."""
        return self.inventory.simulated or self._said_to_be_simulated

    @property
    def facts(self) -> BackendFacts:
        return BackendFacts(self.name, self.state == "up", self.slots)

    async def watch(self, on_change: Callable[["Backend"], None]) -> None:
        """Probe for ever: regularly, and at once when somebody asks."""
        while True:
            self._look.clear()
            looked, self._looked = self._looked, asyncio.Event()
            await self._probe()
            self._tell(on_change)
            looked.set()
            try:
                async with asyncio.timeout(RETRY_S if self.failures else self.interval_s):
                    await self._look.wait()
            except TimeoutError:
                pass

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

    def _tell(self, on_change: Callable[["Backend"], None]) -> None:
        """Say what has changed. Who could not take it is told again after the next look."""
        seen = self.state, self.inventory.names
        if seen == self._told:
            return
        try:
            on_change(self)
            self._told = seen
        except Exception:  # nor must whoever listens
            log.exception("telling of backend %s met a bug", self.name)


class Fleet:
    """`on_change` hears of every backend that came, went, or has other models than before."""

    def __init__(self, backends: Iterable[Backend], on_change: Callable[[Backend], None]) -> None:
        self.backends = {backend.name: backend for backend in backends}
        self.generation = 0  # grows with each such change
        self._on_change = on_change

    async def run(self) -> None:
        """Watch all backends until cancelled."""
        try:
            async with asyncio.TaskGroup() as watchers:
                for backend in self.backends.values():
                    watchers.create_task(backend.watch(self._changed), name=f"watch {backend.name}")
        finally:
            for backend in self.backends.values():
                backend.driver.pool.close()

    def _changed(self, backend: Backend) -> None:
        self.generation += 1
        self._on_change(backend)

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
