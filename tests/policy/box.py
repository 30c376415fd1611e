"""What the policy's tests share: facts and tickets said shortly, and a box that plays decisions in virtual time."""

from collections.abc import Callable, Iterable, Mapping
from heapq import heappop, heappush
from itertools import count
from typing import Any

from msgspec import Struct

from hermes.policy.scheduler import Scheduler
from hermes.policy.ticket import PATIENT, Admit, BackendFacts, Bounds, Class, Decision, Load, ModelBounds, Rules, Ticket

UNBOUNDED = Bounds(queue_tickets=10**6, tenant_tickets=10**6)
ROOM = ModelBounds(queue_limit=10**6)


def facts(
    name: str = "x",
    loaded: Mapping[str, int] | Iterable[str] = (),
    *,
    memory: int | None = 10,
    sizes: Mapping[str, int] | None = None,
    slots: int = 1,
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


class Job(Struct, frozen=True):
    """A request and what only the backend will know of it."""

    ticket: Ticket
    output_tokens: int
    service_s: float


class Run(Struct, eq=False):
    job: Job
    started_at: float
    ended_at: float

    def tokens(self, until: float) -> float:
        """What it was served by then: the prompt at once, the output as it goes."""
        if self.started_at > until:
            return 0.0
        done = min(1.0, (until - self.started_at) / max(self.job.service_s, 1e-9))
        return self.job.ticket.prompt_tokens + done * self.job.output_tokens


class Play:
    """Plays a scheduler: runs take what their jobs say and are settled at their end, loads take `load_s`."""

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
        while self._events:
            due = self.core.next_deadline()
            if due is not None and due < self._events[0][0]:
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
                run = Run(job, self.now, self.now + job.service_s)
                self.runs.append(run)
                self._at(run.ended_at, self._end, run)
            elif isinstance(each, Load):
                self._at(self.now + self._load_s, self.core.loaded, each.backend, each.model)
            elif hasattr(each, "ticket"):
                self.lost.append(each)

    def _end(self, run: Run, now: float) -> list[Decision]:
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
