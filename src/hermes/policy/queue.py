"""What waits, and how much may: bounded by count and bytes, per model, per tenant, and in all (invariant I4)."""

from msgspec import Struct

from hermes.policy.line import Line
from hermes.policy.station import Station
from hermes.policy.ticket import Bounds, Ticket


class Held(Struct):
    """A tenant's tickets that wait, and their bytes."""

    tickets: int = 0
    size_bytes: int = 0


class Queue:
    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.stations: dict[Station, None] = {}  # those where something waits
        self.lines: dict[Line, Station] = {}
        self.tickets = 0
        self.size_bytes = 0
        self._by_model: dict[str, int] = {}
        self._by_tenant: dict[str, Held] = {}

    def tickets_of(self, model: str) -> int:
        return self._by_model.get(model, 0)

    def is_full(self, ticket: Ticket, model_limit: int) -> bool:
        """Whether one more ticket would be over a bound."""
        bounds, tenant = self.bounds, self._by_tenant.get(ticket.tenant, _NONE)
        return (
            self.tickets_of(ticket.model) >= model_limit
            or self.tickets >= bounds.queue_tickets
            or self.size_bytes + ticket.size_bytes > bounds.queue_bytes
            or tenant.tickets >= bounds.tenant_tickets
            or tenant.size_bytes + ticket.size_bytes > bounds.tenant_bytes
        )

    def put(self, ticket: Ticket, station: Station) -> None:
        key = ticket.model, ticket.candidates
        line = station.lines.get(key)
        if line is None:
            line = station.lines[key] = Line(ticket.model, ticket.candidates, station.tenants)
            line.slots = station.slots_on(ticket.candidates)
            self.stations[station] = None
            self.lines[line] = station
        if not line.backlogs[ticket.urgency].waiting:
            station.classes.enter(ticket.urgency, line.least(station.classes))
        line.put(ticket)
        station.waiting += 1
        station.waiting_of[ticket.urgency] += 1
        self._count(ticket, 1, ticket.size_bytes)

    def take(self, ticket: Ticket, station: Station) -> None:
        key = ticket.model, ticket.candidates
        line = station.lines[key]
        line.take(ticket)
        station.waiting -= 1
        station.waiting_of[ticket.urgency] -= 1
        if not line.backlogs[ticket.urgency].waiting:
            station.classes.leave(ticket.urgency)
        if not line.waiting:
            del station.lines[key], self.lines[line]
            if not station.lines:
                del self.stations[station]
        self._count(ticket, -1, -ticket.size_bytes)

    def _count(self, ticket: Ticket, tickets: int, size_bytes: int) -> None:
        self.tickets += tickets
        self.size_bytes += size_bytes
        self._by_model[ticket.model] = self._by_model.get(ticket.model, 0) + tickets
        tenant = self._by_tenant.get(ticket.tenant)
        if tenant is None:
            tenant = self._by_tenant[ticket.tenant] = Held()
        tenant.tickets += tickets
        tenant.size_bytes += size_bytes
        if not tenant.tickets:
            del self._by_tenant[ticket.tenant]  # models are few; of tenants there may be any number


_NONE = Held()
