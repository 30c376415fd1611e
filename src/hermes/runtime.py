"""The composition root: a Config becomes a running gateway; start, drain, stop, in order."""

import asyncio
import contextlib
import logging
import os
import signal
from typing import TYPE_CHECKING

from hermes import composition, drivers, gauges
from hermes import config as settings
from hermes.access_log import AccessLog
from hermes.admission import Admission
from hermes.api.app import Api
from hermes.api.door import Door
from hermes.api.inference import Inference
from hermes.api.models import Models
from hermes.api.ollama import Ollama
from hermes.api.ops import Ops
from hermes.api.queue import Queue
from hermes.api.routes import RouteTable
from hermes.api.table import routes
from hermes.dialects import ClientDialect
from hermes.dialects.anthropic import Anthropic
from hermes.dialects.openai import OpenAI
from hermes.dialects.openai_completions import Completions
from hermes.dialects.prompt import Prompt
from hermes.dialects.responses import Responses
from hermes.errors import ConfigError
from hermes.exchange import Journal
from hermes.fleet.backend import Backend
from hermes.fleet.fleet import Fleet
from hermes.fleet.watchdog import Watchdog
from hermes.flights.flights import Flights
from hermes.flights.once import Once
from hermes.flights.retries import Retries
from hermes.flights.runs import Runs
from hermes.gateway import Gateway
from hermes.http.server import Server
from hermes.http.wire import TICK_S, Deadlines
from hermes.metrics import Metrics
from hermes.policy.cache import Shelf
from hermes.policy.retry import RetryBudget
from hermes.policy.scheduler import Scheduler
from hermes.router import Router
from hermes.storage.idempotency import Records
from hermes.storage.learned import Keeper, State

if TYPE_CHECKING:
    from hermes.storage.database import Database

log = logging.getLogger(__name__)

# How long what is cut may take to say so and to be gone.
CUT_S = 1.0


class Runtime:
    """One gateway on the running event loop. What is late is noticed up to `tick_s` later."""

    def __init__(self, config: settings.Config, loop: asyncio.AbstractEventLoop, tick_s: float = TICK_S) -> None:
        self.config = config
        self._loop = loop
        self.metrics = Metrics()
        self.journal = Journal(self.metrics)
        self._deadlines = Deadlines(loop, tick_s)
        self.bounds = composition.bounds(config)
        self.scheduler = Scheduler(
            self.bounds, composition.unlisted_bounds(config.defaults), composition.rules(config.scheduling)
        )
        for name, model in config.models.items():
            self.scheduler.configure(name, composition.model_bounds(model, config))
        server = config.server
        self._door = Door(server.allowed_hosts, server.allowed_origins, instance=os.urandom(8).hex())
        self.admission = Admission(self.scheduler, loop, lambda order: self.fleet.order(order))
        patience = composition.patience(config.health)
        backends = [self._backend(group) for group in composition.groups(config)]
        self.fleet = Fleet(backends, self.admission, self.metrics, patience)
        self._watchdog = Watchdog(self.journal, self.fleet.health, patience)
        self.catalog = composition.catalog(config)
        self._state_dir = composition.state_dir(config.server, os.environ)
        self._database: Database | None = None
        self.api = self._api()
        self.server = Server(self.api, composition.limits(config.server), self._deadlines, loop)
        self._access_log: AccessLog | None = None
        self._watching: asyncio.Task[None] | None = None
        self._preloading: asyncio.Task[None] | None = None
        self._keeper: Keeper | None = None
        self._last_call: asyncio.TimerHandle | None = None
        self.address = ""
        gauges.show(self.metrics, self.journal, self.scheduler, self.fleet, self.server, self.shelf)

    # --- composing --------------------------------------------------------------------------------------------------

    def _backend(self, group: list[settings.Backend]) -> Backend:
        backend = group[0]
        if backend.command is not None:
            return self._managed(group)
        pins, unlisted = composition.pins(self.config, backend), composition.unlisted_pins(self.config)
        hop = self._door.hop_line(None)
        driver = drivers.driver(backend, self._deadlines, self._loop, pins, unlisted, hop)
        return Backend(
            backend.name,
            backend.kind,
            backend.url,
            driver,
            backend.slots,
            backend.probe_interval_s,
            backend.simulated,
            backend.memory,
            backend.max_loaded,
            backend.weight,
        )

    def _managed(self, group: list[settings.Backend]) -> Backend:
        """Processes of ours, on one memory."""
        driver = drivers.managed(group, self.config, self._deadlines, self._loop)
        backend = Backend(
            group[0].name,
            "managed",
            "http://127.0.0.1",
            driver,
            None,
            min(each.probe_interval_s for each in group),
            memory_bytes=max((each.memory for each in group if each.memory), default=None),
            max_loaded=max((each.max_loaded for each in group if each.max_loaded), default=None),
            weight=max(each.weight for each in group),
        )
        driver.changed = backend.suspect
        return backend

    def _api(self) -> Api:
        config, openai = self.config, OpenAI()
        retries = RetryBudget(composition.retries(config.limits))
        heartbeat_s = config.scheduling.queue_heartbeat_s
        lines = config.volatile_lines
        router = Router(self.catalog, self.fleet)
        gateway = Gateway(router, self.fleet, self.admission, retries, self.metrics, heartbeat_s, lines)
        cache = config.cache
        self.shelf = Shelf(cache.max_bytes, cache.ttl_s)
        come_again = Retries(self.journal, self._loop)
        self.runs = Runs(gateway, self.journal, self._loop, come_again.left)
        once = Once(self.runs, Records(self._open_database)) if self._state_dir else None
        flights = Flights(self.runs, come_again, self.shelf, self.metrics, cache.scope, lines, once)
        ops = Ops(
            self.fleet,
            self.admission,
            self.catalog,
            self.metrics,
            self.bounds,
            clock=self._loop.time,
            draining=lambda: self.api.draining,
            connections=lambda: self.server.open_connections,
        )
        prompt, anthropic = Prompt(), Anthropic()
        models = self._models = Models(self.catalog, self.fleet, self.admission, openai)
        queue = Queue(self.journal, self.scheduler, self.fleet, self._loop.time)
        dialects = openai, Completions(), Responses(), prompt, anthropic
        inference = Inference(gateway, *dialects, flights, caches=composition.caches(config))
        ollama = Ollama(inference, models)
        table = RouteTable(routes(inference, models, ops, queue, ollama, openai, prompt, anthropic))
        people = composition.authenticator(config)
        areas: dict[bytes, ClientDialect] = {b"/api/": ollama.dialect, b"/v1/messages": anthropic}
        clock = self._loop.time
        return Api(table, self._door, people, self.journal, self.metrics, openai, clock, areas, come_again.left)

    # --- running ----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen and begin to watch the backends. Raises ConfigError (address in use, unreadable certificate)."""
        server = self.config.server
        composition.stay_on(server.cpu_affinity)
        self._open_access_log()
        self._remember()
        self._watching = self._loop.create_task(self.fleet.run(self._watchdog.watch), name="fleet")
        if preloaded := composition.preloaded(self.config):
            self._preloading = self._loop.create_task(self._models.preload(preloaded), name="preloading")
        try:
            if server.unix_socket:
                await self.server.listen_unix(server.unix_socket)
                self.address = f"unix:{server.unix_socket}"
            else:
                port = await self.server.listen(server.host, server.port, composition.tls(server))
                shown = f"[{server.host}]" if ":" in server.host else server.host
                self.address = f"{'https' if server.tls else 'http'}://{shown}:{port}"
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {server.unix_socket or f'{server.host}:{server.port}'}: {error}"
            ) from error

    async def run(self, stop: asyncio.Event, now: asyncio.Event) -> bool:
        """Serve until `stop`, then drain; `now` ends the draining. True if no request was cut (invariant I33)."""
        await stop.wait()
        return await self.drain(now)

    async def drain(self, now: asyncio.Event) -> bool:
        """Readiness fails, the queue is sent away, running requests finish until the deadline or `now`.

        Until they have, and the grace is over, readiness and what operators look at go on being answered.
        """
        self.api.draining = self.server.closing = True
        self.admission.close()
        server = self.config.server
        deadline = self._loop.call_later(server.drain_timeout_s, now.set)
        hurry = self._loop.create_task(now.wait(), name="hurry")
        hurry.add_done_callback(lambda task: None if task.cancelled() else self._cut())
        try:
            await asyncio.wait((hurry,), timeout=server.drain_grace_s)
            return await self.server.drain(server.drain_timeout_s + CUT_S) and not self.api.cutting
        finally:
            deadline.cancel()
            hurry.cancel()
            if self._last_call is not None:
                self._last_call.cancel()

    def _cut(self) -> None:
        self.api.cutting = self.journal.open > 0
        self.server.cut()
        self._last_call = self._loop.call_later(CUT_S, self.server.abort)

    async def stop(self) -> None:
        """Let go of everything."""
        self.api.cutting = True
        await self.server.drain(0)
        await self.runs.close()
        for task in filter(None, (self._preloading, self._watching)):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        if self._keeper is not None:
            await self._keeper.end()
        if self._database is not None:
            await asyncio.to_thread(self._database.close)
        if self._access_log is not None:
            self._access_log.close()

    def _open_database(self) -> "Database":
        """For whoever is the first to need it: neither SQLite nor its file costs anything before."""
        from hermes.storage.database import Database

        assert self._state_dir is not None
        self._database = Database(self._state_dir)
        return self._database

    def _remember(self) -> None:
        """What was learned before the last restart."""
        folder = self._state_dir
        if folder is None or any(backend.simulated for backend in self.config.backends):
            return
        self._keeper = Keeper(folder, self._learned)
        self.scheduler.learn(self._keeper.state.models)
        for name, backend in self.fleet.backends.items():
            backend.learn(self._keeper.state.sizes.get(name, {}))
        self._keeper.start()

    def _learned(self) -> State | None:
        backends = self.fleet.backends
        if any(backend.simulated for backend in backends.values()):
            return None
        sizes = {name: backend.weights for name, backend in backends.items() if backend.weights}
        return State(self.scheduler.learned(), sizes)

    def _open_access_log(self) -> None:
        target = self.config.logging.access_log
        if target == "off":
            return
        try:
            fd = 2 if target == "stderr" else os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        except OSError as error:
            raise ConfigError(f"logging.access_log: cannot write {target}: {error}") from error
        self._access_log = AccessLog(fd, self._loop, self.metrics)
        self.journal.sinks.append(self._access_log)


def on_signals(loop: asyncio.AbstractEventLoop, stop: asyncio.Event, now: asyncio.Event) -> None:
    """The first SIGTERM or SIGINT sets `stop`, the second `now`."""

    def received(name: str) -> None:
        log.info("%s: %s", name, "stopping now" if stop.is_set() else "draining; a second signal stops at once")
        (now if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, received, number.name)
