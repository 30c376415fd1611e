"""Conversations of several users over three backends, in virtual time."""

import random
from collections import Counter
from heapq import heappop, heappush
from typing import Any

from hermes.policy.scheduler import Scheduler
from hermes.policy.ticket import Admit, BackendFacts, Decision, Ticket
from tests.policy.box import scheduler, ticket

NAMES = ("x", "y", "z")


def fleet(slots: int = 4, **weights: float) -> Scheduler:
    """Backends that see to their memory themselves: what they have can be asked for."""
    known = [BackendFacts(name, True, slots, weight=weights.get(name, 1.0)) for name in NAMES]
    return scheduler(*known)


class Talks:
    """So many conversations, each of so many turns, over three backends with four slots each. Between two turns their
    users think for a while.
    """

    def __init__(self, think_s: float, seed: int, tenants: int = 1, count: int = 60, turns: int = 8) -> None:
        self.hits = self.later = 0
        self.requests: Counter[str] = Counter()
        self._dice = random.Random(seed)
        self._think_s, self._turns, self._tenants = think_s, turns, tenants
        self._core = fleet()
        self._last: dict[int, str] = {}
        self._turn: Counter[int] = Counter()
        self._events: list[tuple[float, int, Any]] = []
        self._numbers = iter(range(10**6))
        for conversation in range(1, count + 1):
            self._at(self._dice.uniform(0, think_s), conversation)
        while self._events:
            now, _, about = heappop(self._events)
            if isinstance(about, Ticket):
                self._end(about, now)
            else:
                tenant = f"t{about % self._tenants}"
                asked = ticket(arrived_at=now, on="xyz", prefix=about * 7919, tenant=tenant, prompt_tokens=100)
                self._follow(self._core.offer(asked, now), now)

    def _at(self, when: float, about: Any) -> None:
        heappush(self._events, (when, next(self._numbers), about))

    def _follow(self, decisions: list[Decision], now: float) -> None:
        for each in decisions:
            assert isinstance(each, Admit)
            run = each.ticket
            if run.prefix in self._last:
                self.later += 1
                self.hits += self._last[run.prefix] == run.backend
            self._last[run.prefix] = run.backend
            self.requests[run.backend] += 1
            self._at(now + self._dice.expovariate(0.5), run)

    def _end(self, run: Ticket, now: float) -> None:
        self._core.settle(run, run.prompt_tokens, 100)
        self._follow(self._core.finish(run, now), now)
        self._turn[run.prefix] += 1
        if self._turn[run.prefix] < self._turns:
            self._at(now + (self._dice.expovariate(1 / self._think_s) if self._think_s else 0.0), run.prefix // 7919)
