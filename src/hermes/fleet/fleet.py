"""All backends: a watcher and a worker each, which of them are up, and who has which model."""

import asyncio
from collections.abc import Iterable
from functools import partial

from hermes.fleet.backend import Backend
from hermes.fleet.orders import Listener, Orders, tell
from hermes.metrics import Metrics
from hermes.policy.ticket import Load, Unload

# Unknown names make us look again at most this often.
REFRESH_S = 1.0


class Fleet:
    """What it sees, and how its orders ended, is told to `listener`."""

    def __init__(self, backends: Iterable[Backend], listener: Listener, metrics: Metrics) -> None:
        self.backends = {backend.name: backend for backend in backends}
        self.orders = {name: Orders(backend, listener, metrics) for name, backend in self.backends.items()}
        self._listener = listener
        self.generation = 0  # grows with each backend that comes, goes, or has other models than before
        for backend in self.backends.values():
            backend.on_change = self._changed

    async def run(self) -> None:
        """Watch all backends, and do what is ordered, until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for name, backend in self.backends.items():
                    group.create_task(backend.watch(partial(self._looked, backend)), name=f"watch {name}")
                    group.create_task(self.orders[name].work(), name=f"orders of {name}")
                    group.create_task(backend.find_room(), name=f"room of {name}")
        finally:
            for backend in self.backends.values():
                backend.driver.pool.close()

    def order(self, order: Load | Unload) -> None:
        self.orders[order.backend].give(order)

    def _looked(self, backend: Backend) -> None:
        """What is seen may lead to orders, which come before what is only to stay."""
        tell(backend, lambda: self._listener.observe(backend.facts))
        self.orders[backend.name].looked()

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
