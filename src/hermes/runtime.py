"""The composition root: a Config becomes a running gateway; start, drain, stop, in order; and takes another one."""

import asyncio
import contextlib
import logging
import os
from collections.abc import Collection, Coroutine, Iterable
from typing import TYPE_CHECKING, Any

from hermes import aliases, composition, drivers, gauges
from hermes import config as settings
from hermes.access_log import Target
from hermes.activation import NOTHING, Activated
from hermes.api.cors import Cors
from hermes.api.door import Door
from hermes.auth import Authenticator
from hermes.errors import Draining
from hermes.front import Front
from hermes.handover.parts import Parts
from hermes.handover.succession import Succession
from hermes.history import History
from hermes.http.wire import TICK_S, Deadlines
from hermes.journal import Journal
from hermes.keyring import OPERATOR
from hermes.listeners import Listeners
from hermes.metrics import Metrics
from hermes.notify import Notify
from hermes.policy.scheduler import Scheduler
from hermes.reload import Reload, Source, Unchanged
from hermes.serving import Serving
from hermes.snapshot import Snapshot, snapshot
from hermes.storage.store import Store
from hermes.trust import Trust

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
        self._tasks: set[asyncio.Task[None]] = set()
        self.metrics = Metrics()
        self.journal = Journal(self.metrics)
        self.history = History()
        self.journal.sinks.append(self.history.add)
        self._access_log = Target(self.journal.sinks, loop, self.metrics)
        self._deadlines = Deadlines(loop, tick_s, self.metrics.loop_lag.child(()))
        self._cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()  # before `stay_on`
        self.config = config
        self._door = Door((), Cors(), instance=os.urandom(8).hex())
        first = self._compose(config)
        folder = composition.state_dir(config.server, os.environ)
        self.store = Store(folder, before.lock_of(folder) if before else None)
        self.trust = trust = Trust(first, self.store, self._send_away, self._begin, loop)
        self.people, self.keyring = trust.people, trust.keyring
        self.serving = serving = Serving(first, self.journal, self.store, self.metrics, loop)
        self.admission, self.fleet, self.router = serving.admission, serving.fleet, serving.router
        self.meter, self.runs, self.shelf = serving.meter, serving.runs, serving.shelf
        self.reload = Reload(
            source or Unchanged(config),
            self._compose,
            self._take,
            lambda: composition.watched(self.config),
            self.metrics,
        )
        self.reload.under_way = self._tell_of_reload
        self._reload_asked = reload_asked or asyncio.Event()
        self._notify = notify or Notify({})
        self.tracing = composition.tracing(config, os.urandom(8).hex(), self.metrics, self.fleet)
        bound, files = (before.sockets, before.files) if before is not None else (given.sockets, [])
        self._listeners = Listeners(first.limits, first.tls, self._deadlines, loop, bound, files, before is not None)
        self.front = Front(
            first,
            self._door,
            serving,
            trust,
            self.journal,
            self.history,
            self.metrics,
            self.reload,
            self._listeners,
            loop,
            self.tracing,
        )
        self.api, self.server = self.front.api, self.front.server
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
        self._last_call: asyncio.TimerHandle | None = None
        self.address = self.admin_address = ""
        gauges.show(self.metrics, self.journal, self.scheduler, self.fleet, self.server, self.shelf)
        aliases.show(self.metrics, self.scheduler)

    @property
    def scheduler(self) -> Scheduler:
        """Another one, when another process goes on."""
        return self.admission.scheduler

    def _compose(self, config: settings.Config) -> Snapshot:
        """All that a configuration comes to, while another one may be in force. Raises ConfigError."""
        hop = self._door.hop_line(None)
        return snapshot(config, self.config, self._deadlines, self._loop, hop, self._cpus, self.metrics)

    # --- running ----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen and begin to watch the backends.

        Raises ConfigError: an address in use, an unreadable certificate, stored keys that cannot be used.
        """
        composition.stay_on(self.config.server.cpu_affinity)
        self.trust.load(self.config)
        self._access_log.adopt(self.config.logging)
        self.serving.remember(self.config)
        await self.serving.recall(self.config)
        self.trust.start()
        self._begin(self.fleet.run(self.serving.watchdog.watch), "fleet")
        self._begin(self.keyring.watch(), "keyring")
        self._begin(self.reload.watch(self._reload_asked, lambda: self.config.server.watch_config), "reload")
        self._preload(())
        config, listeners, front, restart = self.config, self._listeners, self.front, self.succession.restart
        self.address = await listeners.open_for_clients(self.server, config.server)
        if path := composition.admin_socket(config, os.environ):
            api = front.for_operators(config.admin, Authenticator({}, OPERATOR), restart)
            await listeners.open_for_owner(api, path, asked_for=config.admin.unix_socket is not None)
        if (port := config.admin.port) is not None:
            api = front.for_operators(config.admin, self.people, restart)
            self.admin_address = await listeners.open_for_operators(api, config.admin.host, port)
        await self.succession.take_over(lambda: self.trust.load(self.config), lambda: self.serving.recall(self.config))
        await listeners.accept()
        self.succession.host()
        if self.reload.is_late:  # whoever had it read anew while we started asked the one before
            self._reload_asked.set()
        if self.serving.keeper is not None:  # not before: what is learned is ours to write now
            self.serving.keeper.start()
        self._begin(self.succession.heed(self._restart_asked), "restart")
        self._notify.guard(self._loop)
        self._notify.ready(self._status())

    def _status(self) -> str:
        return f"listens on {self.address}"

    def _tell_of_reload(self, begins: bool) -> None:
        self._notify.reloading() if begins else self._notify.ready(self._status())

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
        self.front.live.close()
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
        await self.trust.stop()
        if self.serving.keeper is not None:
            await self.serving.keeper.end()
        await self.succession.close()
        await self.meter.close()
        await asyncio.to_thread(self.store.close)
        self._access_log.close()
        if self.tracing is not None:
            await asyncio.to_thread(self.tracing.close)
        self._notify.close()

    def _begin(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = self._loop.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _preload(self, before: Iterable[tuple[str, str]]) -> None:
        """What is to be loaded with us, and was not to be before."""
        if new := [each for each in drivers.preloaded(self.config) if each not in before]:
            self._begin(self.front.loading.preload(new), "preloading")

    def _send_away(self, keys: Collection[str]) -> None:
        """Who waits by one of these, which let in nobody any more."""
        self.runs.send_away(keys)
        self.succession.send_away(keys)

    # --- another process --------------------------------------------------------------------------------------------

    def _why_not(self) -> str:
        """It cannot go on in our place now."""
        if self.api.draining:
            return "this server is shutting down"
        if os.getpid() == 1:
            return "the container ends with its first process: have another replica go on"
        if any(backend.command for backend in self.config.backends):
            return "servers that Hermes itself runs cannot be handed over: stop it, and start it anew"
        if composition.is_simulated(self.config):
            return "the simulated server ends with the process that has it: stop it, and start it anew"
        return ""

    async def _leave(self) -> None:
        """Once another process goes on, until nothing is left to be done here."""
        await self.succession.gone.wait()
        # The other one's watchdog begins now: what it has said so far was not the main process's word.
        self._notify.tell(f"MAINPID={self.succession.pid}", "WATCHDOG=1")
        if self.serving.keeper is not None:
            self.serving.keeper.stop()
        self.front.live.close()
        await self.succession.end()

    # --- another configuration --------------------------------------------------------------------------------------

    async def _take(self, new: Snapshot) -> tuple[str, ...]:
        """Put it in force (invariant I34). Backends that are new are looked at first, so that what waits for a model
        that has moved there finds it. Raises Draining, or ConfigError; then all is as it was.
        """
        self.trust.check(new)
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
        before, config = self.config, new.config
        self._access_log.adopt(config.logging)
        self.config = config
        self.trust.adopt(new, before)
        self.front.adopt(new)
        self.serving.adopt(new)
        if config.logging.level != before.logging.level:
            logging.getLogger().setLevel(config.logging.level.upper())
        self._preload(drivers.preloaded(before))
