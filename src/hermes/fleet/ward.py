"""A backend in our care, and who sees to it: from the first look until it is let go and what it was at has ended."""

import asyncio
from collections.abc import Callable

from hermes.errors import GatewayError
from hermes.fleet.backend import Backend
from hermes.fleet.health import Health
from hermes.fleet.orders import Listener, Orders
from hermes.fleet.pulls import Pulls
from hermes.metrics import Metrics
from hermes.policy.pulse import Patience
from hermes.policy.ticket import BackendFacts


class Ward:
    """What is seen of `backend`, and how its orders ended, is told to `listener` until it is let go: another one may
    have its name by then.
    """

    def __init__(self, backend: Backend, listener: Listener, metrics: Metrics, patience: Patience) -> None:
        self.backend = backend
        self.orders = Orders(backend, self, metrics)
        self.pulls = Pulls(backend, self, metrics)
        self.health = Health(backend, self, metrics, patience)
        self._listener = listener
        self._group: asyncio.TaskGroup | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._let_go = asyncio.Event()

    async def care(self, looked: Callable[[], None]) -> None:
        """Watch it and do what is ordered. `looked` is called after each look. Ends some time after `let_go`."""
        backend, name = self.backend, self.backend.name
        try:
            async with asyncio.TaskGroup() as self._group:
                work = {
                    "watch": backend.watch(looked),
                    "orders of": self.orders.work(),
                    "health of": self.health.work(),
                    "room of": backend.find_room(),
                }
                self._tasks = [self._group.create_task(each, name=f"{what} {name}") for what, each in work.items()]
                pulling = self._group.create_task(self.pulls.work(), name=f"pulls of {name}")
                await self._let_go.wait()
                self._stop()
                await self.pulls.until_over()
                pulling.cancel()
            await backend.driver.retire()
        finally:
            await backend.driver.close()

    def adopt(self, other: Backend, patience: Patience) -> list[str]:
        """It is the same backend, of which other things are said now. Returns what it has loaded otherwise."""
        self.health.patience = patience
        if self.backend.adopt(other) and self._group is not None:
            self._tasks.append(self._group.create_task(self.backend.find_room()))
        return self.backend.driver.adopt(other.driver)

    def let_go(self) -> None:
        """Nothing is told or ordered any more, from now on; what it is asked for by others ends first."""
        self._let_go.set()
        self._stop()

    def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()

    # --- what it hears is passed on ---------------------------------------------------------------------------------

    def observe(self, facts: BackendFacts) -> None:
        if not self._let_go.is_set():
            self._listener.observe(facts)

    def loaded(self, backend: str, model: str) -> None:
        if not self._let_go.is_set():
            self._listener.loaded(backend, model)

    def load_failed(self, backend: str, model: str, error: GatewayError) -> None:
        if not self._let_go.is_set():
            self._listener.load_failed(backend, model, error)
