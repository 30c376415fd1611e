"""What classes and tenants were served of what is short: each model's slots, and the process's where it has a cap."""

from collections.abc import Iterable, Iterator
from math import inf

from hermes.policy.fairness import Shares
from hermes.policy.station import Station
from hermes.policy.ticket import Rules, Ticket
from hermes.principal import Class

Accounts = tuple[Shares[Class], tuple[Shares[str], ...]]


class Ledger:
    """`is_shared`: models hold each other up, so turns are taken between those of different models too."""

    __slots__ = ("_classes", "_rules", "_tenants", "is_shared")

    def __init__(self, rules: Rules, is_shared: bool) -> None:
        self.is_shared = is_shared
        self._rules = rules
        self._classes: Shares[Class] = Shares()
        self._tenants: tuple[Shares[str], ...] = (Shares(), Shares(), Shares())

    def adopt(self, rules: Rules, is_shared: bool, waiting: Iterable[Ticket]) -> None:
        """Other rules hold from now on. Where models begin to hold each other up, nobody was served of that yet."""
        self._rules = rules
        if is_shared != self.is_shared:
            self.is_shared, self._classes, self._tenants = is_shared, Shares(), (Shares(), Shares(), Shares())
            for ticket in waiting:
                self.enter(ticket)

    def enter(self, ticket: Ticket) -> None:
        """It begins to wait."""
        if self.is_shared:
            self._classes.enter(ticket.urgency)
            tag = ticket.place.shared_tag if ticket.place is not None else inf
            self._tenants[ticket.urgency].enter(ticket.tenant, tag=tag)

    def leave(self, ticket: Ticket) -> None:
        if self.is_shared:
            self._classes.leave(ticket.urgency)
            self._tenants[ticket.urgency].leave(ticket.tenant)

    def tag(self, ticket: Ticket) -> float:
        """Where its tenant stands."""
        return self._tenants[ticket.urgency].tag(ticket.tenant) if self.is_shared else inf

    def charge(self, ticket: Ticket, station: Station) -> None:
        """It starts: what it will probably take is charged in advance."""
        cost = ticket.charged_tokens = ticket.prompt_tokens + station.output_tokens.expected(ticket.tenant)
        for classes, tenants in self._accounts(station):
            classes.serve(ticket.urgency, cost / self._rules.classes[ticket.urgency].weight)
            tenants[ticket.urgency].serve(ticket.tenant, cost / ticket.weight)

    def correct(self, ticket: Ticket, station: Station, tokens: float) -> None:
        """It took so many tokens."""
        off = tokens - ticket.charged_tokens
        ticket.charged_tokens = tokens
        for classes, tenants in self._accounts(station):
            classes.correct(ticket.urgency, off / self._rules.classes[ticket.urgency].weight)
            tenants[ticket.urgency].correct(ticket.tenant, off / ticket.weight)

    def advance(self, ticket: Ticket) -> None:
        """Its turn has come."""
        if self.is_shared:
            self._classes.advance(self._classes.counter(ticket.urgency))
            tenants = self._tenants[ticket.urgency]
            tenants.advance(tenants.counter(ticket.tenant))

    def turn(self, ticket: Ticket) -> tuple[float, float, float]:
        """Of those whose turn it is at their models, the least goes first: by what all models have served them."""
        if not self.is_shared:
            return 0.0, 0.0, ticket.arrived_at
        tenants = self._tenants[ticket.urgency]
        return self._classes.counter(ticket.urgency), tenants.counter(ticket.tenant), ticket.arrived_at

    def _accounts(self, station: Station) -> Iterator[Accounts]:
        yield station.classes, station.tenants
        if self.is_shared:
            yield self._classes, self._tenants
