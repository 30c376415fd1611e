"""How much may wait: bounded by count and bytes, per model, per tenant, and in all (invariant I4)."""

from msgspec import Struct

from hermes.policy.ticket import Bounds, Ticket


class Held(Struct):
    """Tickets waiting, and their bytes."""

    tickets: int = 0
    size_bytes: int = 0


class Queue:
    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self.all = Held()
        self._by_model: dict[str, Held] = {}
        self._by_tenant: dict[str, Held] = {}

    def tickets_of(self, model: str) -> int:
        return self._by_model.get(model, _NONE).tickets

    def is_full(self, ticket: Ticket, model_limit: int) -> bool:
        """Whether one more ticket would be over a bound."""
        bounds, tenant = self._bounds, self._by_tenant.get(ticket.tenant, _NONE)
        return (
            self.tickets_of(ticket.model) >= model_limit
            or self.all.tickets >= bounds.queue_tickets
            or self.all.size_bytes + ticket.size_bytes > bounds.queue_bytes
            or tenant.tickets >= bounds.tenant_tickets
            or tenant.size_bytes + ticket.size_bytes > bounds.tenant_bytes
        )

    def hold(self, ticket: Ticket, change: int) -> None:
        """`change` is 1 for a ticket that begins to wait, -1 for one that waits no longer."""
        tenant = self._by_tenant.setdefault(ticket.tenant, Held())
        model = self._by_model.setdefault(ticket.model, Held())
        for held in (self.all, tenant, model):
            held.tickets += change
            held.size_bytes += change * ticket.size_bytes
        if not tenant.tickets:
            del self._by_tenant[ticket.tenant]  # models are few; of tenants there may be any number


_NONE = Held()
