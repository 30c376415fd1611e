"""The simulated computer: what every request shares, and how one request is counted, faulted and given a runner."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any

from hermes.errors import ConfigError
from hermes.http.response import Response
from hermes.simulator.clock import Clock
from hermes.simulator.faults import Chance, Fault, asked_fault, tag
from hermes.simulator.gojson import Refusal
from hermes.simulator.library import Library, details
from hermes.simulator.models import SimulatedModel, short_name
from hermes.simulator.reply import Reply, RunnerCrashed
from hermes.simulator.requests import Options
from hermes.simulator.sabotage import SabotagedReply
from hermes.simulator.scheduler import LoadOptions, Runner, Scheduler, expiry
from hermes.simulator.settings import SimulatorConfig
from hermes.simulator.stats import Abort, Stats

_FOR_EVER_S = 1e6


class Machine:
    """`outage` befalls every request while it is set, also those that only look; `pull_fault` befalls pulls."""

    def __init__(self, config: SimulatorConfig, stats: Stats, loop: asyncio.AbstractEventLoop) -> None:
        self.config = config
        self.stats = stats
        self.clock = Clock(loop, config.speed)
        self.library = Library(config, self.clock)
        self.scheduler = Scheduler(config, self.clock, stats, loop)
        self.rng = random.Random(config.seed)  # noqa: S311 - ids and jitter
        self.outage: Fault | None = None
        self.pull_fault: Fault | None = None
        self._chance = Chance(config.faults, config.seed)

    def inference_fault(self, header: str, prompt: str) -> Fault | None:
        """What befalls an inference request: what it asks for, else what chance has for it."""
        return self.fault(header, prompt) or self._chance.draw()

    def fault(self, header: str, prompt: str = "") -> Fault | None:
        """What befalls any request. Raises Refusal for a fault that is misspelt: it would prove nothing."""
        try:
            return asked_fault(header, prompt) or self.outage
        except ConfigError as error:
            raise Refusal(400, str(error)) from None

    def reply(self, response: Response, streaming: bool, fault: Fault | None) -> Reply:
        """Raises Ended if the fault leaves nothing to be answered."""
        if fault is None:
            return Reply(response, streaming)
        sabotaged = SabotagedReply(response, streaming, fault, self.clock, self.stats)
        sabotaged.strike_first()
        return sabotaged

    def visit(self, model: SimulatedModel, prompt: str) -> "Visit":
        return Visit(self.stats, self.clock, model.name, tag(prompt))

    @asynccontextmanager
    async def runner(
        self, model: SimulatedModel, options: Options, *, shift: bool, keep_alive_s: float | None, fault: Fault | None
    ) -> AsyncIterator[Runner]:
        """A loaded runner for one request. Raises Refusal. A crash inside takes the whole runner down."""
        kind = fault.kind if fault is not None else ""
        wanted = LoadOptions(model, options, shift, self.config.num_ctx)
        slow_load_s = fault.for_s if fault is not None and kind == "slow-load" else 0.0
        runner = await self.scheduler.acquire(
            model, wanted, keep_alive_s, slow_load_s=slow_load_s, will_fail=kind == "load-fail"
        )
        if fault is not None and kind == "hang":
            self.stats.faults[kind] += 1
            runner.hangs_until = self.clock.now() + min(fault.for_s, _FOR_EVER_S)
        try:
            yield runner
        except RunnerCrashed:
            self.scheduler.crash(runner)
            raise
        finally:
            self.scheduler.release(runner)

    def list_running(self) -> dict[str, Any]:
        """The answer of /api/ps: what lasts longest comes first."""
        now = self.clock.now()
        runners = self.scheduler.loaded
        if self.config.lists_loading and self.scheduler.loading is not None:
            runners.append(self.scheduler.loading)
        runners.sort(key=lambda runner: expiry(runner, now), reverse=True)
        return {"models": [_running(runner, self.clock.rfc3339(expiry(runner, now))) for runner in runners]}


def _running(runner: Runner, expires_at: bytes) -> dict[str, Any]:
    model = runner.model
    name = short_name(model.name)
    return {
        "name": name,
        "model": name,
        "size": model.memory_bytes,
        "digest": model.digest,
        "details": details(model),
        "expires_at": expires_at.decode("ascii"),
        "size_vram": model.memory_bytes,
        "context_length": runner.options.num_ctx,
    }


class Visit:
    """Counts one inference request, with `with`. A cancellation means that its client has left."""

    __slots__ = ("_clock", "_model", "_stats", "_tag", "phase")

    def __init__(self, stats: Stats, clock: Clock, model: str, label: str) -> None:
        self.phase = "load"
        self._stats = stats
        self._clock = clock
        self._model = model
        self._tag = label

    def __enter__(self) -> "Visit":
        self._stats.started += 1
        self._stats.model(self._model).requests.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stats.model(self._model).requests.down()
        if isinstance(error, asyncio.CancelledError):
            self._stats.aborted += 1
            self._stats.aborts.append(Abort(self._clock.now(), self._model, self.phase, self._tag))
        else:
            self._stats.finished += 1
