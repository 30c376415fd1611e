"""Who is in flight where, and whether anything comes of it: a backend may hang while all its lists are green.

It looks every so often at what runs, at no cost to what runs: each request to a backend has a mark that changes with
what comes. Where a model has been silent for longer than is usual (`pulse`), it is probed (`health`); where it is found
stuck, what has sent nothing to its client yet is cut, to be tried elsewhere.
"""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from math import inf

from msgspec import Struct

from hermes.errors import Outcome
from hermes.exchange import Exchange
from hermes.fleet.health import Health
from hermes.journal import Journal
from hermes.policy.breaker import STUCK
from hermes.policy.pulse import Patience, Pulse
from hermes.policy.ticket import Phase, Ticket

log = logging.getLogger(__name__)

# Looks in the shortest silence that may be suspicious.
LOOKS = 5

_Place = tuple[str, str]  # backend and model


class _Run(Struct, eq=False):
    """One attempt. `mark` was last seen to change at `moved_at`; `begun`: something has come."""

    exchange: Exchange
    ticket: Ticket
    pulse: Pulse
    mark: float
    moved_at: float
    begun: bool = False

    @property
    def is_whole(self) -> bool:
        """Nothing need come of it before its end."""
        asking = self.exchange.asking
        return self.exchange.holds_back or (asking is not None and asking.whole)

    @property
    def is_last(self) -> bool:
        """Else its request is at another try by now."""
        return self.exchange.ticket is self.ticket


class Watchdog:
    """`healths` are those of all backends, by name."""

    def __init__(self, journal: Journal, healths: Mapping[str, Health], patience: Patience) -> None:
        self._journal = journal
        self._healths = healths
        self._patience = patience
        self._runs: dict[Ticket, _Run] = {}
        self._pulses: dict[_Place, Pulse] = {}
        self._heeded = asyncio.Event()
        self._attend()

    def heed(self, patience: Patience) -> None:
        """There may be other backends, and what is thought of silence may have changed."""
        if patience != self._patience:
            self._patience = patience
            self._pulses.clear()
            self._heeded.set()
        self._pulses = {place: pulse for place, pulse in self._pulses.items() if place[0] in self._healths}
        self._attend()

    def _attend(self) -> None:
        for name, health in self._healths.items():
            health.on_probed = partial(self._on_probed, name)
            health.is_silent = partial(self._is_silent_since, name)

    async def watch(self) -> None:
        """Look for ever."""
        loop = asyncio.get_running_loop()
        while True:
            self._heeded.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._patience.silence_s / LOOKS or None):
                    await self._heeded.wait()
                    continue
            try:
                self.look(loop.time())
            except Exception:  # who looks at what runs must not end who watches the backends
                log.exception("looking at what runs met a bug")

    def look(self, now: float) -> None:
        """See what has come since the last look, and probe what is silent for too long."""
        before, self._runs = self._runs, {}
        suspects: set[_Place] = set()
        for exchange in self._journal.asking():
            ticket = exchange.ticket
            if ticket is not None and ticket.phase is Phase.RUNNING:
                run = before.pop(ticket, None)
                if run is None:
                    run = self._begin(exchange, ticket, now)
                self._runs[ticket] = run
                self._follow(run, now)
        for run in before.values():
            if self._end(run, now):
                suspects.add((run.ticket.backend, run.ticket.resident))
        for place, runs in self._places().items():
            if place[0] in self._healths and self._is_silent(place, runs, now):
                suspects.add(place)
        for place in suspects:
            if place[0] in self._healths:
                self._probe(place)

    def _places(self) -> dict[_Place, list[_Run]]:
        places: dict[_Place, list[_Run]] = {}
        for run in self._runs.values():
            places.setdefault((run.ticket.backend, run.ticket.resident), []).append(run)
        return places

    # --- one run ----------------------------------------------------------------------------------------------------

    def _begin(self, exchange: Exchange, ticket: Ticket, now: float) -> _Run:
        place = ticket.backend, ticket.resident
        pulse = self._pulses.get(place)
        if pulse is None:
            pulse = self._pulses[place] = Pulse(self._patience.silence_s)
        return _Run(exchange, ticket, pulse, -1.0, now)

    def _follow(self, run: _Run, now: float) -> None:
        asking, pulse = run.exchange.asking, run.pulse
        mark = asking.mark if asking is not None else 0.0
        if mark == run.mark and mark < inf:  # inf: its client reads slowly, which is no silence of the backend's
            return
        run.mark, gap_s, run.moved_at = mark, now - run.moved_at, now
        if run.begun:
            pulse.heard_at = now
            pulse.spoke(gap_s)
        elif run.exchange.ttft_s is not None or (asking is not None and asking.heard):
            run.begun, pulse.heard_at = True, now
            begun_at = now if run.exchange.ttft_s is None else run.exchange.arrived_at + run.exchange.ttft_s
            pulse.began(begun_at - run.ticket.started_at, run.ticket.prompt_tokens)
            if (health := self._healths.get(run.ticket.backend)) is not None:
                health.began(run.ticket)

    def _end(self, run: _Run, now: float) -> bool:
        """It has ended since the last look. True: its backend had all the time that it may need, and gave nothing."""
        exchange, ticket, pulse = run.exchange, run.ticket, run.pulse
        took_s = now - ticket.started_at
        if not exchange.closed or not run.is_last:
            return False
        if exchange.outcome is Outcome.OK:
            pulse.heard_at = now
            if run.is_whole:
                pulse.ended(took_s)
        if exchange.outcome is not Outcome.UPSTREAM_TIMEOUT:
            return False
        if run.begun:
            return now - run.moved_at >= pulse.within_s()
        return took_s >= pulse.before_s(ticket.prompt_tokens)

    # --- all runs of a model on a backend ---------------------------------------------------------------------------

    def _is_silent(self, place: _Place, runs: list[_Run], now: float) -> bool:
        pulse, (backend, model) = runs[0].pulse, place
        if not self._healths[backend].backend.has_in_memory(model):
            pulse.heard_at = now  # a load takes as long as it takes
        silent_since = max(pulse.heard_at, min(run.ticket.started_at for run in runs))
        return now - silent_since >= max([s for run in runs if (s := _may_last_s(run)) < inf], default=inf)

    def _probe(self, place: _Place) -> None:
        health, model = self._healths[place[0]], place[1]
        breaker = health.backend.breakers.get(model)
        if breaker is None or breaker.state is not STUCK:
            health.probe(model)

    def _is_silent_since(self, backend: str, model: str, since: float) -> bool:
        self.look(asyncio.get_running_loop().time())
        pulse = self._pulses.get((backend, model))
        return pulse is None or pulse.heard_at < since

    def _on_probed(self, backend: str, model: str, is_stuck: bool) -> None:
        place = backend, model
        if is_stuck:
            self._cut(place)
        elif (pulse := self._pulses.get(place)) is not None:
            pulse.heard_at = asyncio.get_running_loop().time()

    def _cut(self, place: _Place) -> None:
        """What has sent nothing to its client yet is tried elsewhere."""
        for run in self._runs.values():
            exchange, ticket = run.exchange, run.ticket
            is_there = run.is_last and ticket.phase is Phase.RUNNING and (ticket.backend, ticket.resident) == place
            if is_there and not exchange.begun and exchange.asking is not None:
                exchange.asking.cut()


def _may_last_s(run: _Run) -> float:
    if run.is_whole:
        return run.pulse.at_all_s()
    return run.pulse.within_s() if run.begun else run.pulse.before_s(run.ticket.prompt_tokens)
