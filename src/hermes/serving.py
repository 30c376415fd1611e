"""All that a request for tokens passes through, made of a Snapshot; and what another one changes of it."""

import asyncio
import time

from hermes import composition
from hermes import config as settings
from hermes.admission import Admission
from hermes.errors import ConfigError, StorageError
from hermes.fleet.fleet import Fleet
from hermes.fleet.watchdog import Watchdog
from hermes.flights.flights import Flights
from hermes.flights.once import Once
from hermes.flights.retries import Retries
from hermes.flights.runs import Runs
from hermes.gateway import Gateway
from hermes.journal import Journal
from hermes.meter import Meter
from hermes.metrics import Metrics
from hermes.policy.cache import Shelf
from hermes.policy.limiter import Limiter
from hermes.policy.retry import RetryBudget
from hermes.policy.scheduler import Scheduler
from hermes.policy.ticket import Changed
from hermes.router import Router
from hermes.snapshot import Snapshot, moved
from hermes.storage.idempotency import Records
from hermes.storage.learned import Keeper, State
from hermes.storage.ledger import Ledger
from hermes.storage.store import Store


class Serving:
    """`keeper`: of what is learned, once `remember` has found a place for it."""

    def __init__(
        self, first: Snapshot, journal: Journal, store: Store, metrics: Metrics, loop: asyncio.AbstractEventLoop
    ) -> None:
        config, scheduled = first.config, first.scheduled
        self._store = store
        scheduler = Scheduler(scheduled.bounds, scheduled.unlisted, scheduled.rules)
        for name, bounds in scheduled.models.items():
            scheduler.configure(name, bounds)
        self.admission = Admission(scheduler, loop, lambda order: self.fleet.order(order))
        self.fleet = Fleet(first.backends, self.admission, metrics, first.patience)
        self.watchdog = Watchdog(journal, self.fleet.health, first.patience)
        self.router = Router(first.catalog, self.fleet)
        # Of simulated models nothing is kept.
        ledger = Ledger(Store(None) if composition.is_simulated(config) else store, loop)
        self.meter = Meter(Limiter(first.modes), ledger, loop.time)
        self.meter.show(metrics)
        self.gateway = Gateway(
            self.router,
            self.fleet,
            self.admission,
            RetryBudget(first.retries),
            metrics,
            self.meter,
            config.scheduling.queue_heartbeat_s,
            config.volatile_lines,
        )
        self.shelf = Shelf(config.cache.max_bytes, config.cache.ttl_s)
        self.come_again = Retries(journal, loop)
        self.runs = Runs(self.gateway, journal, loop, self.come_again.left)
        once = Once(self.runs, Records(store.database)) if store.folder else None
        self.flights = Flights(self.runs, self.come_again, self.shelf, metrics, config.cache.scope, once)
        self.keeper: Keeper | None = None

    def adopt(self, new: Snapshot) -> None:
        """This holds from now on. What it has of backends has been looked at."""
        config, gateway = new.config, self.gateway
        gateway.heartbeat_s, gateway.volatile_lines = config.scheduling.queue_heartbeat_s, config.volatile_lines
        gateway.retries.adopt(new.retries)
        self.shelf.adopt(config.cache.max_bytes, config.cache.ttl_s)
        self.flights.adopt(config.cache.scope)
        self.meter.limiter.change(new.modes)
        elsewhere = moved(self.router.catalog, new.catalog, self.admission.scheduler.models())
        self.router.adopt(new.catalog)
        replaced = self.fleet.replace(new.backends, new.patience)
        self.watchdog.heed(new.patience)
        facts = tuple(backend.facts for backend in self.fleet.backends.values())
        self.admission.adopt(new.scheduled, Changed(replaced.gone, facts, elsewhere, replaced.stale))

    # --- what outlives a restart ------------------------------------------------------------------------------------

    def remember(self, config: settings.Config) -> None:
        """What was learned before the last one."""
        folder = self._store.folder
        if folder is not None and not composition.is_simulated(config):
            self.keeper = Keeper(folder, self._learned)
            self.admission.scheduler.learn(self.keeper.state.models)
            for name, backend in self.fleet.backends.items():
                backend.learn(self.keeper.state.sizes.get(name, {}))

    async def recall(self, config: settings.Config) -> None:
        """What was used of budgets before it. Raises ConfigError where that cannot be read."""
        now = time.time()  # noqa: TID251 - budgets are of days of the calendar (I35)
        try:
            await self.meter.recall(now, composition.has_budgets(config))
        except StorageError as error:
            raise ConfigError(f"server.state_dir: {error}") from error

    def _learned(self) -> State | None:
        backends = self.fleet.backends
        if any(backend.simulated for backend in backends.values()):
            return None
        sizes = {name: backend.weights for name, backend in backends.items() if backend.weights}
        return State(self.admission.scheduler.learned(), sizes)
