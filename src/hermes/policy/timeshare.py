"""Whose a backend's time was lately, in slot-seconds: by class and tenant, who are owed a part of it by their weights.

The index (`swap`) gives memory to the model that serves most requests in time; alone, it lets one tenant's endless
backlog keep the memory from everybody else's models. So who has had less than a part of its fair share of the time
gets the swap that it waits for, and pays for it with the time that the swap takes. Where nobody tells a script from an
editor (one tenant, one class), their models do. What a model is owed falls with the square of its share: its swap
holds up all the others.
"""

from collections.abc import Hashable
from math import exp
from typing import Generic, TypeVar

from msgspec import Struct

from hermes.policy.ticket import Ticket
from hermes.principal import CLASSES, Class

WINDOW_S = 600.0
# Who has had less of late is not there.
_HARDLY_S = 1.0
_MOST_PARTIES = 256

Party = TypeVar("Party", bound=Hashable)


class _Spent(Generic[Party]):
    """Slot-seconds, as of when, and the party's weight; those heard of last come last."""

    __slots__ = ("by_party",)

    def __init__(self) -> None:
        self.by_party: dict[Party, tuple[float, float, float]] = {}

    def add(self, party: Party, weight: float, slot_s: float, now: float) -> None:
        spent_s, when, _ = self.by_party.pop(party, (0.0, now, weight))
        self.by_party[party] = (spent_s * exp((when - now) / WINDOW_S) + slot_s, now, weight)
        if len(self.by_party) > _MOST_PARTIES:
            del self.by_party[next(iter(self.by_party))]

    def shares(self, now: float) -> "_Shares[Party]":
        spent_s = {party: each_s * exp((when - now) / WINDOW_S) for party, (each_s, when, _) in self.by_party.items()}
        weights = {party: self.by_party[party][2] for party, each_s in spent_s.items() if each_s >= _HARDLY_S}
        return _Shares(spent_s, weights, sum(spent_s.values()), sum(weights.values()))


class _Shares(Struct, Generic[Party], frozen=True):
    """Whose the time was, as of now; the weights of those who had any to speak of."""

    spent_s: dict[Party, float]
    weights: dict[Party, float]
    total_s: float
    total_weight: float

    def fair(self, party: Party, weight: float) -> float:
        """Its fair part of the time."""
        return weight / (self.total_weight - self.weights.get(party, 0.0) + weight)

    def has_less(self, party: Party, part: float) -> bool:
        """Whether it has had less than this part of the time."""
        return self.spent_s.get(party, 0.0) < part * max(self.total_s, _HARDLY_S)


class Timeshare:
    __slots__ = ("_of_models", "_of_tenants")

    def __init__(self) -> None:
        self._of_tenants: _Spent[tuple[Class, str]] = _Spent()
        self._of_models: tuple[_Spent[str], ...] = tuple(_Spent() for _ in CLASSES)

    def spend(self, ticket: Ticket, weight: float, slot_s: float, now: float) -> None:
        self._of_tenants.add((ticket.urgency, ticket.tenant), weight, slot_s, now)
        self._of_models[ticket.urgency].add(ticket.resident, weight, slot_s, now)

    def balance(self, now: float) -> "Balance":
        return Balance(self._of_tenants.shares(now), tuple(models.shares(now) for models in self._of_models))


class Balance(Struct, frozen=True):
    """Who is owed what, as of now."""

    tenants: _Shares[tuple[Class, str]]
    models: tuple[_Shares[str], ...]  # of each class

    def owes(self, ticket: Ticket, weight: float, part: float) -> bool:
        """Whether its class and tenant have had less than this part of their share, or its model of its class's."""
        party, models = (ticket.urgency, ticket.tenant), self.models[ticket.urgency]
        return self.tenants.has_less(party, part * self.tenants.fair(party, weight)) or models.has_less(
            ticket.resident, part * models.fair(ticket.resident, weight) ** 2
        )
