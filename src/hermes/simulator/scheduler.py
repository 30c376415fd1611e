"""Which models are loaded, as Ollama's scheduler has it (server/sched.go, version 0.33).

1. A request for a model that is loaded with the options it wants uses it at once; its runner's slots queue without
   bound. Every other request goes through one pending queue, bounded by `max_queue`: past that, 503.
2. The pending queue is served strictly in order, one load or eviction at a time: its head blocks what is behind.
3. Beside others a model is loaded only if it takes at most 80 % of the free memory and fewer than
   `max_loaded_models` are loaded. Otherwise one is evicted: the first idle one by keep_alive, then by name; if all are
   busy, the first of all, once its requests are over.
4. keep_alive belongs to the runner: the last request's value holds, and runs from when the runner falls idle.
5. A load that nobody waits for any more is given up; what is behind it starts from the beginning.
"""

import asyncio
from collections import deque
from types import TracebackType

from hermes.simulator.clock import Clock
from hermes.simulator.gojson import Refusal
from hermes.simulator.models import SimulatedModel
from hermes.simulator.requests import FOREVER_S, Options
from hermes.simulator.settings import SimulatorConfig
from hermes.simulator.stats import Gauge, Stats

_BUSY = "server busy, please try again.  maximum pending requests exceeded"
_TIMER_LIMIT_S = 1e8  # longer waits never end within a process's life


class LoadOptions:
    """What a runner is started with; a request that wants another value makes it start anew."""

    __slots__ = ("automatic_ctx", "num_ctx", "others", "shift")

    def __init__(self, model: SimulatedModel, options: Options, shift: bool, default_num_ctx: int) -> None:
        wanted = default_num_ctx if options.num_ctx is None else options.num_ctx
        least = 2048 if "vision" in model.capabilities else 4
        self.num_ctx = min(max(wanted, least), model.context_length)
        self.automatic_ctx = options.num_ctx is None
        self.shift = shift
        # A negative num_gpu means "as you see fit" and fits any runner.
        self.others = tuple((name, value) for name, value in options.load if name != "num_gpu" or value >= 0)

    def suits(self, wanted: "LoadOptions") -> bool:
        same_ctx = self.num_ctx == wanted.num_ctx or (self.automatic_ctx and wanted.automatic_ctx)
        return same_ctx and self.shift == wanted.shift and self.others == wanted.others


class Runner:
    """One loaded model, and the slots it serves requests in."""

    def __init__(self, model: SimulatedModel, options: LoadOptions, keep_alive_s: float, running: Gauge) -> None:
        self.model = model
        self.options = options
        self.keep_alive_s = keep_alive_s
        self.users = 0
        self.crashed = False
        self.hangs_until = 0.0
        self.gone = asyncio.Event()
        self.expires_at: float | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.running = running
        self.slots = asyncio.Semaphore(model.parallel)
        self.settling: dict[Slot, asyncio.TimerHandle] = {}

    def stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def end(self) -> None:
        """The process is gone, and with it every prompt that was still being read for nobody."""
        self.stop_timer()
        for slot, timer in list(self.settling.items()):
            timer.cancel()
            slot.release()
        self.gone.set()


class Slot:
    """One of a runner's slots, with `async with`. A prompt that is being read keeps it to the end of the reading."""

    __slots__ = ("_loop", "_runner", "busy_until")

    def __init__(self, runner: Runner, loop: asyncio.AbstractEventLoop) -> None:
        self._runner = runner
        self._loop = loop
        self.busy_until = 0.0

    async def __aenter__(self) -> "Slot":
        await self._runner.slots.acquire()
        self._runner.running.up()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop.time() < self.busy_until and not self._runner.gone.is_set():
            self._runner.settling[self] = self._loop.call_at(self.busy_until, self.release)
        else:
            self.release()

    def release(self) -> None:
        self._runner.settling.pop(self, None)
        self._runner.running.down()
        self._runner.slots.release()


class _Pending:
    """A request in the pending queue. Its future is cancelled when its client leaves."""

    __slots__ = ("future", "keep_alive_s", "model", "options", "slow_load_s", "will_fail")

    def __init__(
        self,
        model: SimulatedModel,
        options: LoadOptions,
        keep_alive_s: float | None,
        future: "asyncio.Future[Runner]",
        slow_load_s: float,
        will_fail: bool,
    ) -> None:
        self.model = model
        self.options = options
        self.keep_alive_s = keep_alive_s
        self.future = future
        self.slow_load_s = slow_load_s
        self.will_fail = will_fail


class Scheduler:
    def __init__(self, config: SimulatorConfig, clock: Clock, stats: Stats, loop: asyncio.AbstractEventLoop) -> None:
        self.loading: Runner | None = None
        self._config = config
        self._clock = clock
        self._stats = stats
        self._loop = loop
        self._runners: dict[str, Runner] = {}
        self._pending: deque[_Pending] = deque()
        self._arrived = asyncio.Event()

    @property
    def pending(self) -> int:
        return len(self._pending)

    @property
    def loaded(self) -> list[Runner]:
        return list(self._runners.values())

    async def acquire(
        self,
        model: SimulatedModel,
        options: LoadOptions,
        keep_alive_s: float | None,
        *,
        slow_load_s: float = 0.0,
        will_fail: bool = False,
    ) -> Runner:
        """A loaded runner, to be given back with `release`. Raises Refusal: queue full, or the load failed."""
        runner = self._runners.get(model.name)
        if runner is not None and runner.options.suits(options):
            self._use(runner, keep_alive_s)
            return runner
        if len(self._pending) >= self._config.max_queue:
            raise Refusal(503, _BUSY)
        future: asyncio.Future[Runner] = self._loop.create_future()
        self._pending.append(_Pending(model, options, keep_alive_s, future, slow_load_s, will_fail))
        self._arrived.set()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self.release(future.result())  # granted, but its client left before it could know
            raise

    def slot(self, runner: Runner) -> Slot:
        return Slot(runner, self._loop)

    def release(self, runner: Runner) -> None:
        runner.users -= 1
        if runner.users or self._runners.get(runner.model.name) is not runner:
            return
        if runner.keep_alive_s <= 0:
            self._unload(runner)
            return
        runner.expires_at = self._clock.now() + runner.keep_alive_s
        if runner.keep_alive_s < _TIMER_LIMIT_S:
            runner.timer = self._loop.call_later(runner.keep_alive_s, self._unload, runner)

    def expire(self, model: SimulatedModel) -> None:
        """Unload as soon as it is idle: now, if it is."""
        runner = self._runners.get(model.name)
        if runner is not None:
            runner.expires_at = self._clock.now()
            self._expire(runner)

    def crash(self, runner: Runner) -> None:
        """The process behind a model dies: whatever runs there fails, the next request loads it again."""
        runner.crashed = True
        if self._runners.get(runner.model.name) is runner:
            self._unload(runner)

    async def run(self) -> None:
        """Serve the pending queue, for ever."""
        while True:
            while not self._pending:
                self._arrived.clear()
                await self._arrived.wait()
            await self._serve(self._pending.popleft())

    def stop(self) -> None:
        for runner in self.loaded:
            self._unload(runner)

    # --- the head of the pending queue ------------------------------------------------------------------------------

    async def _serve(self, request: _Pending) -> None:
        while not request.future.done():
            runner = self._runners.get(request.model.name)
            if runner is not None and runner.options.suits(request.options):
                self._use(runner, request.keep_alive_s)
                request.future.set_result(runner)
                return
            victim = runner or self._victim_for(request.model)
            if victim is None:
                await self._load(request)
                return
            self._expire(victim)
            await victim.gone.wait()

    def _victim_for(self, model: SimulatedModel) -> Runner | None:
        """Who must go before this model can be loaded; None if it can be loaded now."""
        if not self._runners:
            return None
        free = self._config.memory_bytes - sum(runner.model.memory_bytes for runner in self._runners.values())
        full = len(self._runners) >= self._config.max_loaded_models > 0
        return self._first_to_go() if full or model.memory_bytes > free * 0.8 else None

    def _first_to_go(self) -> Runner:
        ordered = sorted(self._runners.values(), key=lambda runner: (runner.keep_alive_s, runner.model.name))
        return next((runner for runner in ordered if not runner.users), ordered[0])

    async def _load(self, request: _Pending) -> None:
        model = request.model
        runner = Runner(model, request.options, self._keep_alive(request), self._stats.model(model.name).running)
        load_s = model.load_s / self._clock.speed + request.slow_load_s
        self.loading = runner
        try:
            if model.memory_bytes > self._config.memory_bytes:
                raise _cannot_fit(model, self._config.memory_bytes)
            await asyncio.wait((request.future,), timeout=load_s)
            if request.will_fail:
                raise Refusal(500, "llama-server process has terminated: exit status 1: simulated load failure")
        except Refusal as error:
            if not request.future.done():
                request.future.set_exception(error)
            return
        finally:
            self.loading = None
        if request.future.done():
            self._stats.aborted_loads += 1
            return
        self._stats.loads += 1
        self._runners[model.name] = runner
        runner.users = 1
        request.future.set_result(runner)

    # --- runners ----------------------------------------------------------------------------------------------------

    def _keep_alive(self, request: _Pending) -> float:
        return self._config.keep_alive_s if request.keep_alive_s is None else request.keep_alive_s

    def _use(self, runner: Runner, keep_alive_s: float | None) -> None:
        runner.users += 1
        runner.stop_timer()
        if keep_alive_s is not None:
            runner.keep_alive_s = keep_alive_s

    def _expire(self, runner: Runner) -> None:
        runner.stop_timer()
        runner.keep_alive_s = 0.0
        if not runner.users:
            self._unload(runner)

    def _unload(self, runner: Runner) -> None:
        del self._runners[runner.model.name]
        self._stats.unloads += 1
        runner.end()


def expiry(runner: Runner, now: float) -> float:
    """When a runner will be unloaded if nothing comes; an estimate while it is busy or loading."""
    return runner.expires_at if runner.expires_at is not None else now + min(runner.keep_alive_s, FOREVER_S)


def _cannot_fit(model: SimulatedModel, memory_bytes: int) -> Refusal:
    need, have = (f"{size / 1024**3:.1f} GiB" for size in (model.memory_bytes, memory_bytes))
    return Refusal(500, f"model requires more system memory ({need}) than is available ({have})")
