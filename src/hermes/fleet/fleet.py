"""All backends: each watched, kept healthy, given orders and downloads; which are up, who has and who fetches what."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

from msgspec import Struct

from hermes.errors import BackendNotFound, BadRequest, GatewayError, NoBackend
from hermes.fleet.backend import Backend
from hermes.fleet.download import Download
from hermes.fleet.health import Health
from hermes.fleet.orders import Listener, Orders, tell
from hermes.fleet.pulls import Pulls
from hermes.fleet.ward import Ward
from hermes.metrics import Metrics
from hermes.policy.pulse import STANDARD, Patience
from hermes.policy.ticket import Load, Unload

# Unknown names make us look again at most this often.
REFRESH_S = 1.0


class Replaced(Struct, frozen=True):
    """What a change of the backends means for others: which are `gone`, and what has models loaded that are to be
    loaded otherwise (`stale`: backend and model).
    """

    gone: tuple[str, ...]
    stale: tuple[tuple[str, str], ...]


class Fleet:
    """What it sees, and how its orders ended, is told to `listener`."""

    def __init__(
        self, backends: Iterable[Backend], listener: Listener, metrics: Metrics, patience: Patience = STANDARD
    ) -> None:
        self.backends: dict[str, Backend] = {}
        self.orders: dict[str, Orders] = {}
        self.pulls: dict[str, Pulls] = {}
        self.health: dict[str, Health] = {}
        self.generation = 0  # grows with each backend that comes, goes, or has other models than before
        self._listener = listener
        self._metrics = metrics
        self._wards: dict[str, Ward] = {}
        self._group: asyncio.TaskGroup | None = None
        self.replace(backends, patience)

    async def run(self, *beside: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Watch all backends, and do what is ordered, until cancelled; and what is to be done beside that."""
        try:
            async with asyncio.TaskGroup() as self._group:
                for work in beside:
                    self._group.create_task(work())
                for ward in self._wards.values():
                    self._care(ward)
        finally:  # those as well whose care had not begun
            await asyncio.gather(*(backend.driver.close() for backend in self.backends.values()))

    def _care(self, ward: Ward) -> None:
        if self._group is not None:
            self._group.create_task(ward.care(lambda: self._looked(ward)), name=f"care of {ward.backend.name}")

    # --- which there are --------------------------------------------------------------------------------------------

    def has(self, backend: Backend) -> bool:
        """Whether it is one of these: whoever is asked there is asked in the same way."""
        return backend.is_same(self.backends.get(backend.name))

    def replace(self, wanted: Iterable[Backend], patience: Patience) -> Replaced:
        """From now on there are these. What was the same before stays what it was, with what is said of it now; what
        is there no longer is told nothing any more, and closed when the last thing asked of it is over.
        """
        before, self._wards, stale = self._wards, {}, []
        for backend in wanted:
            name = backend.name
            if self.has(backend):
                ward = self._wards[name] = before.pop(name)
                stale += [(name, model) for model in ward.adopt(backend, patience)]
                continue
            if (old := self.backends.get(name)) is not None:
                backend.draining = old.draining
                backend.learn(old.weights)
            ward = self._wards[name] = Ward(backend, self._listener, self._metrics, patience)
            backend.on_change = self._changed
            self._care(ward)
        for ward in before.values():
            ward.let_go()
        # others hold on to these
        for index, part in (
            (self.backends, "backend"),
            (self.orders, "orders"),
            (self.pulls, "pulls"),
            (self.health, "health"),
        ):
            index.clear()
            index.update({name: getattr(ward, part) for name, ward in self._wards.items()})
        self._changed()
        return Replaced(tuple(before), tuple(stale))

    def health_of(self, backend: Backend) -> Health | None:
        """None: it is gone, and what becomes of it tells nobody anything."""
        ward = self._wards.get(backend.name)
        return ward.health if ward is not None and ward.backend is backend else None

    def order(self, order: Load | Unload) -> None:
        self.orders[order.backend].give(order)

    def drain(self, name: str, draining: bool) -> None:
        """Have nothing new start there, or have it again. Raises BackendNotFound."""
        backend = self.backends.get(name)
        if backend is None:
            raise BackendNotFound(f"there is no backend {name[:80]!r}; there are: {', '.join(self.backends)}")
        backend.draining = draining
        tell(backend, lambda: self._listener.observe(backend.facts))

    def _looked(self, ward: Ward) -> None:
        """What is seen may lead to orders, which come before what is only to stay."""
        ward.health.looked()
        tell(ward.backend, lambda: ward.observe(ward.backend.facts))
        ward.orders.looked()

    def _changed(self) -> None:
        self.generation += 1

    def puller(self, model: str, allowed: tuple[str, ...]) -> Pulls:
        """Who downloads a model: the backend that is at it, else where that did not fail lately.

        Raises NoBackend, or BadRequest where none of them is told what to download.
        """
        names = [name for name in self.loading(allowed or self.backends) if self.backends[name].driver.pulls]
        if not names:
            raise BadRequest("the backend runs what it is configured to", code="unsupported_by_backend")
        up = [self.pulls[name] for name in names if self.backends[name].takes_work]
        if not up:
            raise NoBackend(f"no backend is up that could pull {model!r}", retry_after_s=1.0)
        return min(up, key=lambda pulls: (model not in pulls.backend.pulling, pulls.rests_until(model)))

    def loading(self, names: Iterable[str]) -> list[str]:
        """Those that load what they are told to. Raises BadRequest if there is none."""
        loading = [name for name in names if name in self.backends and self.backends[name].driver.loads]
        if not loading:
            raise BadRequest("the backend loads its models itself", code="unsupported_by_backend")
        return loading

    def fetch(self, model: str, allowed: tuple[str, ...]) -> str:
        """See to it that a model that requests wait for is downloaded. Tells where.

        Raises NoBackend, or why it could not be had, as long as that is not tried again.
        """
        pulls = self.puller(model, allowed)
        if (failure := pulls.failure(model)) is not None:
            raise failure
        pulls.keep(model)
        return pulls.backend.name

    def download(self, model: str, backends: Iterable[str]) -> Download | None:
        """The download of a model that one of these does not have yet."""
        for name in backends:
            backend = self.backends[name]
            if model in backend.pulling and model not in backend.inventory.names:
                return backend.pulling[model]
        return None

    def unfetched(self, model: str, backends: Iterable[str]) -> GatewayError | None:
        """What to tell those that cannot wait until one of these has downloaded a model. None: they wait for none."""
        return next(filter(None, (self.pulls[name].refusal(model) for name in backends)), None)

    @property
    def ready(self) -> bool:
        return any(backend.takes_work and backend.generates for backend in self.backends.values())

    def can_serve(self, names: Sequence[str]) -> bool:
        """Whether one of these backends takes work; no names: one of all."""
        return any(self.backends[name].takes_work for name in names or self.backends)

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
