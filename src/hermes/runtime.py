"""The composition root: a Config becomes a running gateway; start, drain, stop, in order."""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Collection, Coroutine, Iterable
from typing import TYPE_CHECKING, Any

from hermes import aliases, composition, gauges
from hermes import config as settings
from hermes.access_log import AccessLog
from hermes.activation import NOTHING, Activated
from hermes.admission import Admission
from hermes.api import admin, dashboard
from hermes.api.app import Api
from hermes.api.cors import Cors
from hermes.api.door import Door
from hermes.api.hour import Hour
from hermes.api.inference import Inference
from hermes.api.live import Live
from hermes.api.management import Management
from hermes.api.models import Models
from hermes.api.ollama import Ollama
from hermes.api.ops import Ops
from hermes.api.queue import Queue
from hermes.api.routes import RouteTable
from hermes.api.table import routes
from hermes.api.usage import Usage
from hermes.auth import Authenticator
from hermes.config.rules import check_bind
from hermes.dialects import ClientDialect
from hermes.dialects.anthropic import Anthropic
from hermes.dialects.openai import OpenAI
from hermes.dialects.openai_completions import Completions
from hermes.dialects.prompt import Prompt
from hermes.dialects.responses import Responses
from hermes.errors import ConfigError, Draining, StorageError
from hermes.fleet.fleet import Fleet
from hermes.fleet.watchdog import Watchdog
from hermes.flights.flights import Flights
from hermes.flights.once import Once
from hermes.flights.retries import Retries
from hermes.flights.runs import Runs
from hermes.gateway import Gateway
from hermes.handover.parts import Parts
from hermes.handover.succession import Succession
from hermes.history import History
from hermes.http.wire import TICK_S, Deadlines
from hermes.journal import Journal
from hermes.keyring import OPERATOR, Keyring
from hermes.lines import are_read, as_json, as_text
from hermes.listeners import Listeners
from hermes.meter import Meter
from hermes.metrics import Metrics
from hermes.notify import Notify
from hermes.policy.cache import Shelf
from hermes.policy.limiter import Limiter
from hermes.policy.retry import RetryBudget
from hermes.policy.scheduler import Scheduler
from hermes.policy.ticket import Changed
from hermes.reload import Reload, Source, Unchanged
from hermes.router import Router
from hermes.snapshot import Snapshot, moved, snapshot
from hermes.storage.idempotency import Records
from hermes.storage.learned import Keeper, State
from hermes.storage.ledger import Ledger
from hermes.storage.store import Store

if TYPE_CHECKING:
    from hermes.handover.taking import Taking

log = logging.getLogger(__name__)

# How long what is cut may take to say so and to be gone.
CUT_S = 1.0
# And how long, at most, the last of what is to be kept may take to be written.
LAST_S = 15.0
# For a look at backends that a change of the configuration brings, before it is in force.
LOOK_S = 2.0


class Runtime:
    """One gateway on the running event loop. What is late is noticed up to `tick_s` later."""

    def __init__(
        self,
        config: settings.Config,
        loop: asyncio.AbstractEventLoop,
        tick_s: float = TICK_S,
        source: Source | None = None,
        reload_asked: asyncio.Event | None = None,
        notify: Notify | None = None,
        restart_asked: asyncio.Event | None = None,
        given: Activated = NOTHING,
        before: "Taking | None" = None,
    ) -> None:
        self._loop = loop
        self.metrics = Metrics()
        self.journal = Journal(self.metrics)
        self.history = History()
        self.journal.sinks.append(self.history.add)
        self._deadlines = Deadlines(loop, tick_s, self.metrics.loop_lag.child(()))
        self._cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()  # before `stay_on`
        self.config = config
        self._door = Door((), Cors(), instance=os.urandom(8).hex())
        first = self._compose(config)
        scheduled = first.scheduled
        self.scheduler = Scheduler(scheduled.bounds, scheduled.unlisted, scheduled.rules)
        for name, bounds in scheduled.models.items():
            self.scheduler.configure(name, bounds)
        self._door.adopt(config.server.allowed_hosts, _cors(config.server.cors))
        folder = composition.state_dir(config.server, os.environ)
        self.store = Store(folder, before.lock_of(folder) if before else None)
        self.people = Authenticator({}, first.anonymous, first.issuers)
        self.keyring = Keyring(self.people, self.store, send_away=self._send_away)
        self.keyring.adopt(first.static_keys, first.stored_keys)
        self.admission = Admission(self.scheduler, loop, lambda order: self.fleet.order(order))
        self.fleet = Fleet(first.backends, self.admission, self.metrics, first.patience)
        self._watchdog = Watchdog(self.journal, self.fleet.health, first.patience)
        self.router = Router(first.catalog, self.fleet)
        retries = RetryBudget(first.retries)
        lines, heartbeat_s = config.volatile_lines, config.scheduling.queue_heartbeat_s
        # Of simulated models nothing is kept.
        ledger = Ledger(Store(None) if composition.is_simulated(config) else self.store, loop)
        self.meter = Meter(Limiter(first.modes), ledger, loop.time)
        self.meter.show(self.metrics)
        self._gateway = Gateway(
            self.router, self.fleet, self.admission, retries, self.metrics, self.meter, heartbeat_s, lines
        )
        self.shelf = Shelf(config.cache.max_bytes, config.cache.ttl_s)
        self._come_again = Retries(self.journal, loop)
        self.runs = Runs(self._gateway, self.journal, loop, self._come_again.left)
        once = Once(self.runs, Records(self.store.database)) if self.store.folder else None
        self._flights = Flights(self.runs, self._come_again, self.shelf, self.metrics, config.cache.scope, once)
        self.reload = Reload(source or Unchanged(config), self._compose, self._take, self._watched, self.metrics)
        self._reload_asked = reload_asked or asyncio.Event()
        self._notify = notify or Notify({})
        self.reload.under_way = self._tell_of_reload
        self._openai = OpenAI()
        bound, files = (before.sockets, before.files) if before is not None else (given.sockets, [])
        self._listeners = Listeners(first.limits, first.tls, self._deadlines, loop, bound, files, before is not None)
        self.api = self._api()
        self.server = self._listeners.server(self.api)
        self._restart_asked = restart_asked or asyncio.Event()
        parts = Parts(
            self._listeners,
            self.admission,
            self.meter,
            self.journal,
            self.fleet,
            self.store,
            self._deadlines,
            given.said,
            self._send_away,
        )
        self.succession = Succession(parts, before, self._why_not, loop)
        self._access_log: AccessLog | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._keeper: Keeper | None = None
        self._last_call: asyncio.TimerHandle | None = None
        self.address = self.admin_address = ""
        gauges.show(self.metrics, self.journal, self.scheduler, self.fleet, self.server, self.shelf)
        aliases.show(self.metrics, self.scheduler)

    # --- composing --------------------------------------------------------------------------------------------------

    def _compose(self, config: settings.Config) -> Snapshot:
        """All that a configuration comes to, while another one may be in force. Raises ConfigError."""
        hop = self._door.hop_line(None)
        return snapshot(config, self.config, self._deadlines, self._loop, hop, self._cpus, self.metrics)

    def _api(self) -> Api:
        openai = self._openai
        models = self._models = Models(self.router, self.fleet, self.admission, openai)
        ops = self._ops = Ops(
            self.fleet,
            models,
            self.admission,
            self.router,
            self.metrics,
            clock=self._loop.time,
            draining=lambda: self.api.draining,
            connections=lambda: self.server.open_connections,
            reload=self.reload,
            reloaded=lambda: self.reload.last,
        )
        prompt, anthropic = Prompt(), Anthropic()
        queue = Queue(self.journal, self.scheduler, self.fleet, self.router, models, self._loop.time)
        wall = time.time  # noqa: TID251 - of records, and when keys end
        hour = Hour(self.history, self.fleet, models, self.router, self._loop.time, wall)
        live = self._live = Live(self.journal, hour, queue, ops, self.people, self._loop, wall)
        dialects = openai, Completions(), Responses(), prompt, anthropic
        inference = self._inference = Inference(
            self._gateway, *dialects, self._flights, caches=composition.caches(self.config)
        )
        ollama = Ollama(inference, models)
        usage = Usage(self.meter.ledger, self.people, self.keyring.names)
        self._routes = tuple(
            routes(inference, models, ops, queue, live, hour, ollama, usage, openai, prompt, anthropic)
        )
        self._managing = tuple(Management(self.fleet, self.router, ollama.dialect).routes())
        areas: dict[bytes, ClientDialect] = {b"/api/": ollama.dialect, b"/v1/messages": anthropic}
        return self._app(self._table(), self.people, areas)

    def _table(self) -> RouteTable:
        more = self._managing if self.config.server.ollama_management else ()
        every = (*self._routes, *more)
        shown = composition.shows_dashboard_to_clients(self.config)
        return RouteTable(dashboard.beside(self._openai, every) if shown else every)

    def _admin_api(self, people: Authenticator) -> Api:
        said = self.config.admin
        routes = admin.routes(self.keyring, self._ops, self._openai, said.metrics, self.succession.restart)
        shown = dashboard.routes(self._openai, self._routes) if said.dashboard else ()
        return self._app(RouteTable((*routes, *shown)), people, {})

    def _app(self, table: RouteTable, people: Authenticator, areas: dict[bytes, ClientDialect]) -> Api:
        clock, left, served = self._loop.time, self._come_again.left, self._models.served
        return Api(table, self._door, people, self.journal, self.metrics, self._openai, clock, areas, left, served)

    # --- running ----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen and begin to watch the backends.

        Raises ConfigError: an address in use, an unreadable certificate, stored keys that cannot be used.
        """
        composition.stay_on(self.config.server.cpu_affinity)
        self._load_keys()
        self._open_access_log()
        self._remember()
        await self._recall()
        if self.people.issuers is not None:
            self.people.issuers.start(self._loop)
        self._begin(self.fleet.run(self._watchdog.watch), "fleet")
        self._begin(self.keyring.watch(), "keyring")
        self._begin(self.reload.watch(self._reload_asked, lambda: self.config.server.watch_config), "reload")
        self._preload(())
        config, listeners = self.config, self._listeners
        self.address = await listeners.open_for_clients(self.server, config.server)
        if path := composition.admin_socket(config, os.environ):
            api = self._admin_api(Authenticator({}, OPERATOR))
            await listeners.open_for_owner(api, path, asked_for=config.admin.unix_socket is not None)
        if (port := config.admin.port) is not None:
            api = self._admin_api(self.people)
            self.admin_address = await listeners.open_for_operators(api, config.admin.host, port)
        await self.succession.take_over(LOOK_S, self._load_keys)
        await listeners.accept()
        self.succession.host()
        self._begin(self.succession.heed(self._restart_asked), "restart")
        self._notify.guard(self._loop)
        self._notify.ready(self._status())

    def _status(self) -> str:
        return f"listens on {self.address}"

    def _tell_of_reload(self, begins: bool) -> None:
        self._notify.reloading() if begins else self._notify.ready(self._status())

    def _load_keys(self) -> None:
        try:
            self.keyring.load()
        except StorageError as error:
            own = ". Give this one a server.state_dir of its own" if error.in_use else ""
            raise ConfigError(f"{error}{own}. Without any stored keys: server.state_dir: off") from error
        check_bind(self.config, stored=self.keyring.used)

    async def run(self, stop: asyncio.Event, now: asyncio.Event) -> bool:
        """Serve until `stop`, then drain; `now` ends the draining. True if no request was cut (invariant I33).

        Where another process goes on, until the last connection here is closed.
        """
        left = self._loop.create_task(self._leave(), name="leave")
        left.add_done_callback(lambda _: stop.set())
        try:
            await stop.wait()
            if left.done():
                left.result()
                return True
            return await self.drain(now)
        finally:
            left.cancel()

    async def drain(self, now: asyncio.Event) -> bool:
        """Readiness fails, the queue is sent away, running requests finish until the deadline or `now`.

        Until they have, and the grace is over, readiness and what operators look at go on being answered.
        """
        server = self.config.server
        self._notify.stopping(server.drain_timeout_s + LAST_S)
        self._listeners.begin_closing()
        self._live.close()
        self.admission.close()
        deadline = self._loop.call_later(server.drain_timeout_s, now.set)
        hurry = self._loop.create_task(now.wait(), name="hurry")
        guests = self._loop.create_task(self.succession.empty(), name="guests")
        hurry.add_done_callback(lambda task: None if task.cancelled() else self._cut())
        try:
            await asyncio.wait((hurry,), timeout=server.drain_grace_s)
            clean = await self._listeners.drain(server.drain_timeout_s + CUT_S) and not self.api.cutting
            # What the process before this one runs may end with it, if one manages both.
            await asyncio.wait((guests, hurry), return_when=asyncio.FIRST_COMPLETED)
            return clean
        finally:
            deadline.cancel()
            guests.cancel()
            hurry.cancel()
            if self._last_call is not None:
                self._last_call.cancel()

    def _cut(self) -> None:
        self._listeners.cut(self.journal.open > 0)
        self._last_call = self._loop.call_later(CUT_S, self._listeners.abort)

    async def stop(self) -> None:
        """Let go of everything."""
        self.api.cutting = True
        await self._listeners.drain(0)
        await self.runs.close()
        for task in list(self._tasks):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        if self.people.issuers is not None:
            await self.people.issuers.stop()
        if self._keeper is not None:
            await self._keeper.end()
        await self.succession.close()
        await self.meter.close()
        await asyncio.to_thread(self.store.close)
        if self._access_log is not None:
            self._access_log.close()
        self._notify.close()

    def _begin(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = self._loop.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _preload(self, before: Iterable[tuple[str, str]]) -> None:
        """What is to be loaded with us, and was not to be before."""
        if new := [each for each in composition.preloaded(self.config) if each not in before]:
            self._begin(self._models.preload(new), "preloading")

    def _remember(self) -> None:
        """What was learned before the last restart."""
        folder = self.store.folder
        if folder is None or composition.is_simulated(self.config):
            return
        self._keeper = Keeper(folder, self._learned)
        self.scheduler.learn(self._keeper.state.models)
        for name, backend in self.fleet.backends.items():
            backend.learn(self._keeper.state.sizes.get(name, {}))
        self._keeper.start()

    async def _recall(self) -> None:
        """What was used of budgets before the last restart. Raises ConfigError where that cannot be read."""
        try:
            now = time.time()  # noqa: TID251 - budgets are of days of the calendar (I35)
            await self.meter.recall(now, composition.has_budgets(self.config))
        except StorageError as error:
            raise ConfigError(f"server.state_dir: {error}") from error

    def _learned(self) -> State | None:
        backends = self.fleet.backends
        if any(backend.simulated for backend in backends.values()):
            return None
        sizes = {name: backend.weights for name, backend in backends.items() if backend.weights}
        return State(self.scheduler.learned(), sizes)

    def _open_access_log(self) -> None:
        """Raises ConfigError."""
        target = self.config.logging.access_log
        if target == "off":
            if self._access_log is not None:
                self.journal.sinks.remove(self._access_log)
                self._loop.run_in_executor(None, self._access_log.close)
                self._access_log = None
            return
        try:
            fd = 2 if target == "stderr" else os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        except OSError as error:
            raise ConfigError(f"logging.access_log: cannot write {target}: {error}") from error
        lines = as_text if are_read(self.config.logging.format, os.isatty(fd)) else as_json
        if self._access_log is not None:
            self._access_log.turn_to(fd, lines)
            return
        self._access_log = AccessLog(fd, self._loop, self.metrics, lines)
        self.journal.sinks.append(self._access_log)

    def _send_away(self, keys: Collection[str]) -> None:
        """Who waits by one of these, which let in nobody any more."""
        self.runs.send_away(keys)
        self.succession.send_away(keys)

    # --- another process --------------------------------------------------------------------------------------------

    def _why_not(self) -> str:
        """It cannot go on in our place now."""
        if self.api.draining:
            return "this server is shutting down"
        if any(backend.command for backend in self.config.backends):
            return "servers that Hermes itself runs cannot be handed over: stop it, and start it anew"
        if composition.is_simulated(self.config):
            return "the simulated server ends with the process that has it"
        return ""

    async def _leave(self) -> None:
        """Once another process goes on, until nothing is left to be done here."""
        await self.succession.gone.wait()
        self._notify.tell(f"MAINPID={self.succession.pid}")
        if self._keeper is not None:
            self._keeper.stop()
        self._live.close()
        await self.succession.end()

    # --- another configuration --------------------------------------------------------------------------------------

    async def _take(self, new: Snapshot) -> tuple[str, ...]:
        """Put it in force (invariant I34). Backends that are new are looked at first, so that what waits for a model
        that has moved there finds it. Raises Draining, or ConfigError; then all is as it was.
        """
        check_bind(new.config, stored=self.keyring.used)
        if not (self.people.open or new.static_keys or new.issuers or self.keyring.used):
            raise ConfigError("keys: the last one is gone, so everybody would be let in: that takes a restart")
        fresh = [backend for backend in new.backends if not self.fleet.has(backend)]
        try:
            await asyncio.gather(*(backend.look_first(LOOK_S) for backend in fresh))
            if self.api.draining:
                raise Draining("this server is shutting down", retry_after_s=1.0)
            self._put_in_force(new)
        except BaseException:
            for backend in fresh:
                if self.fleet.backends.get(backend.name) is not backend:
                    await backend.driver.close()
            raise
        return new.needs_restart

    def _put_in_force(self, new: Snapshot) -> None:
        """At once: nobody sees the one half with the other."""
        before, self.config = self.config, new.config
        try:
            self._open_access_log()
        except ConfigError:
            self.config = before
            raise
        config, server, gateway = new.config, new.config.server, self._gateway
        self._door.adopt(server.allowed_hosts, _cors(server.cors))
        self._trust(new, before)
        self.api.table = self._table()
        self._listeners.adopt(new.limits, new.tls)
        gateway.heartbeat_s, gateway.volatile_lines = config.scheduling.queue_heartbeat_s, config.volatile_lines
        self._inference.adopt(composition.caches(config))
        self.shelf.adopt(config.cache.max_bytes, config.cache.ttl_s)
        self._flights.scope = config.cache.scope
        gateway.retries.adopt(new.retries)
        self.meter.limiter.change(new.modes)
        elsewhere = moved(self.router.catalog, new.catalog, self.scheduler.models())
        self.router.adopt(new.catalog)
        replaced = self.fleet.replace(new.backends, new.patience)
        self._watchdog.heed(new.patience)
        facts = tuple(backend.facts for backend in self.fleet.backends.values())
        self.admission.adopt(new.scheduled, Changed(replaced.gone, facts, elsewhere, replaced.stale))
        if config.logging.level != before.logging.level:
            logging.getLogger().setLevel(config.logging.level.upper())
        self._preload(composition.preloaded(before))

    def _trust(self, new: Snapshot, before: settings.Config) -> None:
        """Keys and issuers are these; those that are the same have their keys already."""
        people = self.people
        if new.config.jwt == before.jwt:
            if people.issuers is not None:
                people.issuers.adopt(new.config.scheduling.usual_class)
        else:
            if people.issuers is not None:
                self._begin(people.issuers.stop(), "issuers")
            people.issuers = new.issuers
            if people.issuers is not None:
                people.issuers.start(self._loop)
        people.anonymous = new.anonymous
        self.keyring.adopt(new.static_keys, new.stored_keys)

    def _watched(self) -> Iterable[str]:
        """Files besides the configuration's that are renewed while it runs."""
        tls = self.config.server.tls
        named = (tls.cert_file, tls.key_file) if tls is not None else ()
        return filter(None, (*named, *(backend.ca_file for backend in self.config.backends)))


def _cors(said: settings.Cors) -> Cors:
    return Cors(said.origins, said.headers, said.credentials, said.max_age_s)
