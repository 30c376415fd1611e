"""Who runs next, and where: the scheduler's pure core.

Events go in (`offer`, `finish`, `cancel`, `expire`, `observe`, `resize`, `close`), decisions come out, in the order
they were made. Rules:
- No more runs of a model than its cap, none over a backend's slots, none over the process's cap (invariant I1).
- What waits is bounded by count and bytes: per model, per tenant, and in all (I4).
- First come, first served within a model; models do not hold each other up. After every event, nothing waits that
  could run; nothing starts past its deadline.
- A slot is taken and given back by synchronous changes of this object only, and giving it back twice is nothing (I2).
"""

from collections.abc import Iterable

from hermes.policy.queue import Queue
from hermes.policy.ticket import (
    Admit,
    BackendFacts,
    Bounds,
    Decision,
    Expire,
    Load,
    ModelBounds,
    Phase,
    Reject,
    Ticket,
)


class _Resident:
    """A model as backends know it. Its slots are shared by all its names."""

    __slots__ = ("lanes", "running", "slots")

    def __init__(self) -> None:
        self.lanes: list[_Lane] = []  # of all its names
        self.running: dict[str, int] = {}  # by backend
        self.slots = 1

    def join(self, lane: "_Lane") -> None:
        """Share the slots with one more name, or with one whose bounds have changed."""
        lane.resident = self
        if lane not in self.lanes:
            self.lanes.append(lane)
        # Of a backend that does not say: the most that the operator says for any name, else one.
        self.slots = max(each.bounds.max_concurrency or 1 for each in self.lanes)


class _Lane:
    """One model's bounds and runs."""

    __slots__ = ("bounds", "resident", "running", "service_s")

    def __init__(self, bounds: ModelBounds) -> None:
        self.bounds = bounds
        self.running = 0
        self.service_s = 1.0  # how long a run holds its slot: a running mean, for Retry-After
        self.resident = _Resident()  # until it is known which: one of its own
        self.resident.join(self)


class Scheduler:
    """`bounds` are those of the process; `unlisted` those of every model that `configure` was not called for."""

    def __init__(self, bounds: Bounds, unlisted: ModelBounds) -> None:
        self._bounds = bounds
        self._unlisted = unlisted
        self._queue = Queue(bounds)
        self._lanes: dict[str, _Lane] = {}
        self._residents: dict[str, _Resident] = {}
        self._backends: dict[str, BackendFacts] = {}
        self._running = 0
        self._closed = False

    # --- events -----------------------------------------------------------------------------------------------------

    def configure(self, model: str, bounds: ModelBounds) -> None:
        """Set a model's bounds, before anything waits for it."""
        lane = self._lane(model)
        lane.bounds = bounds
        lane.resident.join(lane)

    def resize(self, model: str, bounds: ModelBounds, now: float) -> list[Decision]:
        """Change a model's bounds. A lower cap stops new runs until enough have ended; none is killed (I1)."""
        self.configure(model, bounds)
        return self._dispatch(now)

    def offer(self, ticket: Ticket, now: float, *, again: bool = False) -> list[Decision]:
        """Take in a request; `again`: it has had its turn, failed early, and goes to the head of its queue."""
        assert ticket.phase is Phase.NEW, "a ticket is offered once"
        if ticket.deadline <= now:
            ticket.phase = Phase.DONE
            return [Expire(ticket)]
        if self._closed:
            return [self._reject(ticket, "draining")]
        lane = self._lanes.get(ticket.model) or self._lane(ticket.model)
        is_new_name = lane.resident is not self._residents.get(ticket.resident)
        earlier = self._share_slots(lane, ticket.resident, now) if is_new_name else []
        if backend := self._place(ticket, lane):  # nothing that waits can run, so this overtakes nobody
            earlier.append(self._start(ticket, lane, backend, now))
            return earlier
        if not self._has_hope(ticket):
            return [*earlier, self._reject(ticket, "no_backend")]
        if self._queue.is_full(ticket, lane.bounds.queue_limit):
            return [*earlier, self._reject(ticket, "queue_full")]
        self._queue.put(ticket, at_head=again)
        return earlier

    def finish(self, ticket: Ticket, now: float) -> list[Decision]:
        """A run has ended, however it ended. Ending it again changes nothing (I2)."""
        if ticket.phase is not Phase.RUNNING:
            return []
        ticket.phase = Phase.DONE
        lane = self._lanes[ticket.model]
        lane.service_s += 0.1 * (now - ticket.started_at - lane.service_s)
        lane.running -= 1
        self._residents[ticket.resident].running[ticket.backend] -= 1
        self._running -= 1
        return self._dispatch(now) if self._queue.all.tickets else []

    def cancel(self, ticket: Ticket, now: float) -> list[Decision]:
        """Its client has left, in whatever phase."""
        if ticket.phase is Phase.WAITING:
            self._queue.take(ticket, Phase.DONE)
            return []
        return self.finish(ticket, now)

    def expire(self, now: float) -> list[Decision]:
        """Give up on what has waited to its deadline."""
        return [Expire(ticket) for ticket in self._queue.take_late(now)]

    def observe(self, facts: BackendFacts, now: float) -> list[Decision]:
        """A backend has come, gone or changed. What no live backend can serve is refused now, not after its wait."""
        self._backends[facts.name] = facts
        hopeless = [head for head in self._queue.heads() if not self._has_hope(head)]
        return self._send_away(hopeless, "no_backend") + self._dispatch(now)

    def close(self) -> list[Decision]:
        """The process is about to end: nothing starts any more, and nothing waits (invariant I33)."""
        self._closed = True
        return self._send_away(self._queue.heads(), "draining")

    # --- questions --------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When `expire` should next be called; None while nothing waits."""
        return self._queue.next_deadline()

    @property
    def running(self) -> int:
        return self._running

    @property
    def waiting(self) -> int:
        return self._queue.all.tickets

    @property
    def waiting_bytes(self) -> int:
        return self._queue.all.size_bytes

    def load(self, model: str) -> Load:
        lane = self._lanes.get(model)
        return Load(lane.running if lane else 0, self._queue.tickets_of(model))

    def bounds(self, model: str) -> ModelBounds:
        lane = self._lanes.get(model)
        return lane.bounds if lane else self._unlisted

    def models(self) -> Iterable[str]:
        return self._lanes.keys()

    def slots(self, model: str, backend: str) -> int:
        """How many runs of a model a backend takes at once."""
        facts, lane = self._backends.get(backend), self._lanes.get(model)
        return (facts.slots if facts else None) or (lane.resident.slots if lane else 1)

    # --- placing and starting ---------------------------------------------------------------------------------------

    def _lane(self, model: str) -> _Lane:
        lane = self._lanes.get(model)
        if lane is None:
            lane = self._lanes[model] = _Lane(self._unlisted)
        return lane

    def _share_slots(self, lane: _Lane, resident: str, now: float) -> list[Decision]:
        """Count this lane's among the names of a resident model: its bounds may tell of more slots for all of them."""
        self._residents.setdefault(resident, _Resident()).join(lane)
        return self._dispatch(now)

    def _is_up(self, name: str) -> bool:
        facts = self._backends.get(name)
        return facts is not None and facts.up

    def _has_hope(self, ticket: Ticket) -> bool:
        return any(self._is_up(name) for name in ticket.candidates)

    def _place(self, ticket: Ticket, lane: _Lane) -> str:
        """The backend to run on: the least busy one with a free slot; "" if the ticket has to wait."""
        cap, process_cap = lane.bounds.max_concurrency, self._bounds.max_concurrent
        if (cap is not None and lane.running >= cap) or (process_cap is not None and self._running >= process_cap):
            return ""
        resident = self._residents[ticket.resident]
        best, fewest = "", 0
        for name in ticket.candidates:
            facts = self._backends.get(name)
            if facts is None or not facts.up:
                continue
            running = resident.running.get(name, 0)
            if running >= (facts.slots or resident.slots):
                continue
            if not best or (name == ticket.avoid, running) < (best == ticket.avoid, fewest):
                best, fewest = name, running
        return best

    def _start(self, ticket: Ticket, lane: _Lane, backend: str, now: float) -> Admit:
        ticket.phase = Phase.RUNNING
        ticket.backend = backend
        ticket.started_at = now
        self._running += 1
        lane.running += 1
        running = self._residents[ticket.resident].running
        running[backend] = running.get(backend, 0) + 1
        return Admit(ticket, backend)

    def _dispatch(self, now: float) -> list[Decision]:
        """Start all that can start, the earliest arrival of all lines' heads first."""
        if not self._queue.all.tickets:
            return []
        lanes, decisions = self._lanes, self.expire(now)
        while ready := [
            (head, backend) for head in self._queue.heads() if (backend := self._place(head, lanes[head.model]))
        ]:
            ticket, backend = min(ready, key=lambda found: found[0].arrived_at)
            self._queue.take(ticket, Phase.RUNNING)
            decisions.append(self._start(ticket, lanes[ticket.model], backend, now))
        return decisions

    # --- refusing ---------------------------------------------------------------------------------------------------

    def _send_away(self, heads: Iterable[Ticket], reason: str) -> list[Decision]:
        """Refuse all that wait in the lines of these heads."""
        return [self._reject(ticket, reason) for head in heads for ticket in self._queue.take_line(head)]

    def _reject(self, ticket: Ticket, reason: str) -> Reject:
        ticket.phase = Phase.DONE
        lane = self._lane(ticket.model)
        slots = sum(self.slots(ticket.model, name) for name in ticket.candidates if self._is_up(name))
        drain_s = lane.service_s * (self._queue.tickets_of(ticket.model) + 1) / max(1, slots)
        # Clients obey Retry-After up to 60 s; below 1 s they would come back into the same queue.
        return Reject(ticket, reason, min(60.0, max(1.0, drain_s)))


__all__ = [
    "Admit",
    "BackendFacts",
    "Bounds",
    "Decision",
    "Expire",
    "Load",
    "ModelBounds",
    "Phase",
    "Reject",
    "Scheduler",
    "Ticket",
]
