"""What the policy's tests share: facts and tickets said shortly, and a box that plays decisions in virtual time."""

import random
from bisect import bisect
from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import heappop, heappush
from itertools import count
from math import inf
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from hermes.policy.scheduler import Scheduler
from hermes.policy.ticket import (
    Admit,
    BackendFacts,
    Bounds,
    Class,
    ClassRules,
    Decision,
    Load,
    ModelBounds,
    Rules,
    Ticket,
)

# Only deadlines bound how long a request waits, and nobody is sent away for what is only thought.
PATIENT = Rules((ClassRules(16.0), ClassRules(4.0), ClassRules(1.0)), give_up=inf, waste=1.0)
UNBOUNDED = Bounds(queue_tickets=10**6, tenant_tickets=10**6)
ROOM = ModelBounds(queue_limit=10**6)


def facts(
    name: str = "x",
    loaded: Mapping[str, int] | Iterable[str] = (),
    *,
    memory: int | None = 10,
    sizes: Mapping[str, int] | None = None,
    slots: int | None = 1,
    up: bool = True,
    seen_at: float = 0.0,
) -> BackendFacts:
    """Of a backend whose memory is ours to fill. Where only names are told, each model takes 5 of its 10 bytes."""
    weights = dict(loaded) if isinstance(loaded, Mapping) else dict.fromkeys(loaded, 5)
    return BackendFacts(
        name, up, slots, weights, dict.fromkeys("abcdmv", 5) if sizes is None else sizes, memory, seen_at
    )


def scheduler(
    *backends: BackendFacts, rules: Rules = PATIENT, bounds: Bounds = UNBOUNDED, **models: ModelBounds
) -> Scheduler:
    made = Scheduler(bounds, ROOM, rules)
    for model, known in models.items():
        made.configure(model, known)
    for each in backends:
        made.observe(each, each.seen_at)
    return made


def ticket(model: str = "m", arrived_at: float = 0.0, *, on: str = "x", resident: str = "", **more: Any) -> Ticket:
    more = {"tenant": "t", "size_bytes": 1, "deadline": 1e6} | more
    return Ticket(model=model, resident=resident or model, candidates=tuple(on), arrived_at=arrived_at, **more)


def told(decisions: Iterable[Decision]) -> list[str]:
    """Decisions in words: `Admit m x`, `Load m x`, `Reject m load_failed`."""
    words = []
    for each in decisions:
        model = each.ticket.model if hasattr(each, "ticket") else each.model
        last = getattr(each, "backend", "") or getattr(each, "reason", "")
        words.append(f"{type(each).__name__} {model} {last}".strip())
    return words


class Box:
    """A scheduler in front of one backend, whose models take a byte each. A second passes before each event."""

    def __init__(self, *loaded: str, **facts: Any) -> None:
        self.now = 0.0
        self.facts = facts
        self.core = scheduler()
        if loaded:
            self.see(*loaded)

    def see(self, *loaded: str) -> list[Decision]:
        self.now += 1
        known = BackendFacts("x", True, 2, dict.fromkeys(loaded, 1), dict.fromkeys("abc", 1), seen_at=self.now)
        return self.core.observe(replace(known, **self.facts), self.now)

    def ask(self, model: str) -> tuple[Ticket, list[Decision]]:
        self.now += 1
        self.asked = ticket(model, self.now)
        return self.asked, self.core.offer(self.asked, self.now)

    def load_ends(self) -> None:
        """And who has asked for it leaves."""
        self.now += 1
        self.core.loaded("x", self.asked.model, self.now)
        self.core.cancel(self.asked, self.now)

    def finish(self, run: Ticket) -> list[Decision]:
        self.now += 1
        return self.core.finish(run, self.now)

    def unload(self, model: str) -> list[Decision]:
        self.now += 1
        return self.core.unload(model, self.now)


class Job(Struct, frozen=True):
    """A request and what only the backend will know of it."""

    ticket: Ticket
    output_tokens: int
    service_s: float


# Tokens at each tenth and near the top, of the first 4,000 conversations of the Azure LLM inference trace of 2023.
PARTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.995, 1.0)
PROMPTS = (2, 322, 397, 849, 1009, 1047, 1091, 1140, 1266, 2468, 4081, 4116, 4152, 7930)
OUTPUTS = (10, 53, 81, 97, 135, 204, 388, 397, 412, 430, 482, 626, 667, 1000)
READS, WRITES = 2000, 40  # tokens a second


def chats(seed: int) -> Callable[..., list[Job]]:
    """Requests with lengths as conversations have them."""
    dice = random.Random(seed)

    def length(quantiles: Sequence[int]) -> int:
        part = dice.random()
        place = bisect(PARTS, part)
        (low, least), (high, most) = ((PARTS[each], quantiles[each]) for each in (place - 1, place))
        return int(least + (most - least) * (part - low) / (high - low))

    def make(count: int, small: bool = False, **more: Any) -> list[Job]:
        made = []
        for _ in range(count):
            prompt, output = length(PROMPTS), length(OUTPUTS)
            if small:
                prompt, output = min(prompt, 200), min(output, 40)
            asked = ticket(**{"urgency": Class.BATCH, "deadline": inf, **more, "prompt_tokens": prompt})
            made.append(Job(asked, output, prompt / READS + output / WRITES))
        return made

    return make


class Run(Struct, eq=False):
    job: Job
    started_at: float
    ended_at: float

    @property
    def is_cut(self) -> bool:
        """Its deadline came before its end."""
        return self.ended_at < self.started_at + self.job.service_s

    @property
    def output_tokens(self) -> float:
        """What was written: the prompt is read first."""
        lacking_s = self.started_at + self.job.service_s - self.ended_at
        return max(0.0, self.job.output_tokens - WRITES * lacking_s)

    def tokens(self, until: float) -> float:
        """What it was served by then: the prompt at once, the output as it goes."""
        if self.started_at > until:
            return 0.0
        done = min(1.0, (until - self.started_at) / max(self.job.service_s, 1e-9))
        return self.job.ticket.prompt_tokens + done * self.job.output_tokens


class Play:
    """Plays a scheduler: runs take what their jobs say and are settled at their end, loads take `load_s`.

    A whole answer is cut at its deadline, as the server does.
    """

    def __init__(self, core: Scheduler, jobs: Iterable[Job], load_s: float = 10.0) -> None:
        self.core = core
        self.runs: list[Run] = []
        self.lost: list[Decision] = []
        self.now = 0.0
        self._load_s = load_s
        self._jobs = {job.ticket: job for job in jobs}
        self._numbers = count()
        self._events: list[tuple[float, int, Callable[..., list[Decision]], tuple[Any, ...]]] = []
        for each in self._jobs:
            self._at(each.arrived_at, core.offer, each)

    def to_the_end(self) -> "Play":
        while (due := self.core.next_deadline()) is not None or self._events:
            if due is not None and (not self._events or due < self._events[0][0]):
                self.now = max(self.now, due)
                self._follow(self.core.expire(self.now))
                continue
            self.now, _, happen, about = heappop(self._events)
            self._follow(happen(*about, self.now))
        assert (self.core.running, self.core.waiting) == (0, 0)
        return self

    def _at(self, when: float, happen: Callable[..., list[Decision]], *about: Any) -> None:
        heappush(self._events, (when, next(self._numbers), happen, about))

    def _follow(self, decisions: list[Decision]) -> None:
        for each in decisions:
            if isinstance(each, Admit):
                job = self._jobs[each.ticket]
                ended_at = self.now + job.service_s
                run = Run(job, self.now, min(ended_at, each.ticket.deadline) if each.ticket.whole else ended_at)
                self.runs.append(run)
                self._at(run.ended_at, self._end, run)
            elif isinstance(each, Load):
                self._at(self.now + self._load_s, self.core.loaded, each.backend, each.model)
            elif hasattr(each, "ticket"):
                self.lost.append(each)

    def _end(self, run: Run, now: float) -> list[Decision]:
        if run.is_cut:
            return self.core.cancel(run.job.ticket, now)
        self.core.settle(run.job.ticket, run.job.ticket.prompt_tokens, run.job.output_tokens)
        return self.core.finish(run.job.ticket, now)

    # --- questions --------------------------------------------------------------------------------------------------

    def tokens(self, whose: Callable[[Ticket], Any], since: float = 0.0, until: float = 1e12) -> dict[Any, float]:
        """What each was served in a stretch of time."""
        served: dict[Any, float] = {}
        for run in self.runs:
            name = whose(run.job.ticket)
            served[name] = served.get(name, 0.0) + run.tokens(until) - run.tokens(since)
        return served

    def backlog_until(self, whose: Callable[[Ticket], Any]) -> float:
        """When the first of them had nothing waiting any more, if all came at the start."""
        last: dict[Any, float] = {}
        for run in self.runs:
            last[whose(run.job.ticket)] = run.started_at
        return min(last.values())


def tenant(of: Ticket) -> str:
    return of.tenant


def urgency(of: Ticket) -> Class:
    return of.urgency
