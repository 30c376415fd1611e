"""What waits: in order, bounded by count and bytes, each with its deadline.

Tickets of one model that can run in the same places wait in one line, so its head speaks for all of it. A model has a
second line only while tickets wait from before a change of who has it, and others from after.
"""

from collections import OrderedDict
from heapq import heapify, heappop, heappush

from msgspec import Struct

from hermes.policy.ticket import Bounds, Phase, Ticket

_Line = OrderedDict[Ticket, None]
_Kind = tuple[str, str, tuple[str, ...]]


class Held(Struct):
    """Tickets waiting, and their bytes."""

    tickets: int = 0
    size_bytes: int = 0


class Queue:
    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self.all = Held()
        self._lines: dict[_Kind, _Line] = {}
        self._by_model: dict[str, Held] = {}
        self._by_tenant: dict[str, Held] = {}
        self._deadlines: list[tuple[float, int, Ticket]] = []
        self._sequence = 0

    # --- questions --------------------------------------------------------------------------------------------------

    def tickets_of(self, model: str) -> int:
        return self._by_model.get(model, _NONE).tickets

    def is_full(self, ticket: Ticket, model_limit: int) -> bool:
        """Whether one more ticket would be over a bound (invariant I4)."""
        bounds, tenant = self._bounds, self._by_tenant.get(ticket.tenant, _NONE)
        return (
            self.tickets_of(ticket.model) >= model_limit
            or self.all.tickets >= bounds.queue_tickets
            or self.all.size_bytes + ticket.size_bytes > bounds.queue_bytes
            or tenant.tickets >= bounds.tenant_tickets
            or tenant.size_bytes + ticket.size_bytes > bounds.tenant_bytes
        )

    def heads(self) -> list[Ticket]:
        """The first of each line. If it cannot run, nothing behind it can."""
        return [next(iter(line)) for line in self._lines.values()]

    def next_deadline(self) -> float | None:
        """The earliest deadline; None while nothing waits."""
        while self._deadlines and self._deadlines[0][2].phase is not Phase.WAITING:
            heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    # --- changes ----------------------------------------------------------------------------------------------------

    def put(self, ticket: Ticket, at_head: bool) -> None:
        ticket.phase = Phase.WAITING
        line = self._lines.setdefault(_kind(ticket), _Line())
        line[ticket] = None
        if at_head:
            line.move_to_end(ticket, last=False)
        self._hold(ticket, 1)
        self._sequence += 1
        # What has left before its deadline is still in the heap: sweep when that is most of it.
        if len(self._deadlines) > 2 * self.all.tickets + 64:
            self._deadlines = [entry for entry in self._deadlines if entry[2].phase is Phase.WAITING]
            heapify(self._deadlines)
        heappush(self._deadlines, (ticket.deadline, self._sequence, ticket))

    def take(self, ticket: Ticket, phase: Phase) -> None:
        """It waits no longer: it runs, or is done."""
        ticket.phase = phase
        kind = _kind(ticket)
        line = self._lines[kind]
        del line[ticket]
        if not line:
            del self._lines[kind]
        self._hold(ticket, -1)

    def take_line(self, head: Ticket) -> list[Ticket]:
        """All that wait in the line of this head are done."""
        tickets = list(self._lines[_kind(head)])
        for ticket in tickets:
            self.take(ticket, Phase.DONE)
        return tickets

    def take_late(self, now: float) -> list[Ticket]:
        """What has waited to its deadline is done."""
        late = []
        while (deadline := self.next_deadline()) is not None and deadline <= now:
            late.append(heappop(self._deadlines)[2])
            self.take(late[-1], Phase.DONE)
        return late

    def _hold(self, ticket: Ticket, change: int) -> None:
        tenant = self._by_tenant.setdefault(ticket.tenant, Held())
        model = self._by_model.setdefault(ticket.model, Held())
        for held in (self.all, tenant, model):
            held.tickets += change
            held.size_bytes += change * ticket.size_bytes
        if not tenant.tickets:
            del self._by_tenant[ticket.tenant]  # models are few; of tenants there may be any number


_NONE = Held()


def _kind(ticket: Ticket) -> _Kind:
    return ticket.model, ticket.resident, ticket.candidates
