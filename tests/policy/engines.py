"""Backends that have a knee, played in virtual time behind the scheduler: more at once than that brings nothing."""

import random
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from math import inf
from typing import Protocol

from msgspec import Struct

from hermes.policy.concurrency import Concurrency
from hermes.policy.ticket import Admit, Decision, ModelBounds, Ticket
from tests.policy.box import WRITES, Job, chats, facts, scheduler, ticket

READS = 1000  # tokens a second; the policy begins by thinking twice as many


def documents(seed: int) -> Callable[[int], list[Job]]:
    """Long prompts and short answers, both of very different lengths."""
    dice = random.Random(seed)

    def make(count: int) -> list[Job]:
        made = []
        for _ in range(count):
            prompt, output = dice.lognormvariate(7.0, 1.5), dice.lognormvariate(3.5, 1.0)
            made.append(Job(ticket(deadline=inf, prompt_tokens=min(30_000, int(prompt) + 1)), int(output) + 1, 0.0))
        return made

    return make


class Engine(Protocol):
    knee: int

    def speeds(self, runs: int, now: float) -> list[float]:
        """Tokens a second that each writes of so many, the first to come first."""
        ...


class Slots(Struct):
    """So many slots and a queue behind them, as Ollama has it."""

    knee: int

    def speeds(self, runs: int, now: float) -> list[float]:
        busy = min(runs, self.knee)
        return [WRITES] * busy + [0.0] * (runs - busy)


class Batching(Struct):
    """Continuous batching: everything runs, together about as fast as `knee` runs would without slowing down.

    Beyond that each one more takes `strain` of the throughput: memory for contexts becomes scarce.
    """

    knee: int
    strain: float = 0.0

    def speeds(self, runs: int, now: float) -> list[float]:
        if not runs:
            return []
        together = runs / (1 + (runs / self.knee) ** 4) ** 0.25
        together /= 1 + self.strain * max(0, runs - self.knee)
        return [WRITES * together / runs] * runs


class Unsteady:
    """Somebody else uses the machine too: each five minutes it is half as fast as the engine, or faster."""

    def __init__(self, engine: Engine, seed: int) -> None:
        self.knee = engine.knee
        self._engine = engine
        self._dice = random.Random(seed)
        self._parts: list[float] = []

    def speeds(self, runs: int, now: float) -> list[float]:
        while len(self._parts) <= now / 300:
            self._parts.append(self._dice.uniform(0.5, 1.0))
        return [self._parts[-1] * speed for speed in self._engine.speeds(runs, now)]


class Work(Struct, eq=False):
    """A run as the backend sees it; `left` counts in tokens written."""

    ticket: Ticket
    output_tokens: int
    left: float
    first_at: float | None = None


class Moment(Struct, frozen=True):
    """How things stood after so many runs."""

    runs: int
    limit: int
    settled: int


class Play:
    """Plays `runs` of them. `clients` ask again when they are answered; or `rate` of them come each second.

    A prompt is read at `reads` tokens a second, as long as the engine writes at full speed.
    """

    def __init__(
        self, engine: Engine, runs: int = 2000, seed: int = 1, *, cap: int = 32, clients: int = 100,
        rate: float = 0.0, whole: bool = False, moves: Mapping[int, int] | None = None,
        lengths: Callable[[int], Callable[[int], list[Job]]] = chats, reads: int = READS,
    ) -> None:  # fmt: skip
        self.engine = engine
        self.now = 0.0
        self.core = scheduler(facts("x", "m", slots=None), m=ModelBounds(cap, 10**6, adaptive=True))
        self.moments: list[Moment] = []
        self.reasons: list[str] = []
        self.most = 0
        self._jobs, self._reads = lengths(seed), reads
        self._dice = random.Random(seed)
        self._at_work: list[Work] = []
        self._output: dict[Ticket, int] = {}
        self._rate, self._whole = rate, whole
        next_at = 0.0 if rate else inf
        for _ in range(0 if rate else clients):
            self._ask()
        while len(self.moments) < runs:
            self._work(next_at)
            if self.now >= next_at:
                next_at = self.now + self._dice.expovariate(rate)
                self._ask()
            for done in [each for each in self._at_work if each.left <= 1e-6]:
                self._end(done)
                if not rate:
                    self._ask()
                self.engine.knee = (moves or {}).get(len(self.moments), self.engine.knee)

    @property
    def found(self) -> Concurrency:
        return self.core.concurrency("m")["x"]

    def _ask(self) -> None:
        job = self._jobs(1)[0]
        asked = job.ticket
        asked.arrived_at, asked.whole = self.now, self._whole
        self._output[asked] = job.output_tokens
        self._follow(self.core.offer(asked, self.now))

    def _follow(self, decisions: list[Decision]) -> None:
        for each in decisions:
            assert isinstance(each, Admit)
            output, prompt = self._output.pop(each.ticket), each.ticket.prompt_tokens
            self._at_work.append(Work(each.ticket, output, output + prompt * WRITES / self._reads))
        self.most = max(self.most, len(self._at_work))

    def _work(self, until: float) -> None:
        """Until something happens."""
        speeds = self.engine.speeds(len(self._at_work), self.now)
        passed_s = until - self.now
        for each, speed in zip(self._at_work, speeds, strict=True):
            if speed:
                target = each.output_tokens if each.first_at is None else 0.0
                passed_s = min(passed_s, max(each.left - target, 1e-9) / speed)
        self.now += passed_s
        for each, speed in zip(self._at_work, speeds, strict=True):
            each.left -= speed * passed_s
            if each.first_at is None and each.left <= each.output_tokens + 1e-6:
                each.first_at = self.now

    def _end(self, done: Work) -> None:
        self._at_work.remove(done)
        if not self._whole:
            self.core.begun(done.ticket, done.first_at or self.now)
        self.core.settle(done.ticket, done.ticket.prompt_tokens, done.output_tokens)
        self._follow(self.core.finish(done.ticket, self.now))
        self.moments.append(Moment(len(self.moments) + 1, self.found.limit, self.found.settled))
        if not self.reasons or self.reasons[-1] != self.found.why:
            self.reasons.append(self.found.why)

    # --- questions --------------------------------------------------------------------------------------------------

    def reached(self, low: float, high: float, since: int = 0) -> int:
        """After how many runs it had settled there first."""
        return next((each.runs - since for each in self.moments[since:] if low <= each.settled <= high), 10**6)

    def share(self, low: float, high: float, since: int, until: int = 10**6) -> float:
        """Of the runs in between: at how many the limit was there."""
        looked_at = [low <= each.limit <= high for each in self.moments[since:until]]
        return sum(looked_at) / len(looked_at)

    def turns(self, since: int) -> Iterator[tuple[int, int]]:
        """What was settled, from and to, each time it changed."""
        settled = [each.settled for each in self.moments[since:]]
        return ((one, other) for one, other in pairwise(settled) if one != other)
