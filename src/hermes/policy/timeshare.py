"""Whose a backend's time was lately, in slot-seconds: by class and tenant, who are owed a part of it by their weights.

The index (`swap`) gives memory to the model that serves most requests in time; alone, it lets one tenant's endless
backlog keep the memory from everybody else's models. So who has had less than a part of its fair share of the time
gets the swap that it waits for, and pays for it with the time that the swap takes. Where nobody tells a script from an
editor (one tenant, one class), their models do: each is owed a smaller part of its share of the class's time.
"""

from collections.abc import Hashable
from math import exp
from typing import Generic, TypeVar

from hermes.policy.ticket import Ticket
from hermes.principal import CLASSES, Class

WINDOW_S = 600.0
# Who has had less of late is not there.
_HARDLY_S = 1.0
_MOST_PARTIES = 256
# What a model is owed, beside what a tenant is. As much would cost a trace whose users are all alike 2 to 3 points.
MODELS_PART = 0.5

Party = TypeVar("Party", bound=Hashable)


class Timeshare:
    __slots__ = ("_of_models", "_of_tenants")

    def __init__(self) -> None:
        self._of_tenants: _Spent[tuple[Class, str]] = _Spent()
        self._of_models: tuple[_Spent[str], ...] = tuple(_Spent() for _ in CLASSES)

    def spend(self, ticket: Ticket, weight: float, slot_s: float, now: float) -> None:
        self._of_tenants.add((ticket.urgency, ticket.tenant), weight, slot_s, now)
        self._of_models[ticket.urgency].add(ticket.resident, weight, slot_s, now)

    def owes(self, ticket: Ticket, weight: float, part: float, now: float) -> bool:
        """Whether its class and tenant have had less than this part of their share, or its model of its class's."""
        party, models = (ticket.urgency, ticket.tenant), self._of_models[ticket.urgency]
        return self._of_tenants.lacks(party, weight, part, now) or models.lacks(
            ticket.resident, weight, part * MODELS_PART, now
        )


class _Spent(Generic[Party]):
    __slots__ = ("_spent",)

    def __init__(self) -> None:
        # Slot-seconds, as of when, and the party's weight; those heard of last come last.
        self._spent: dict[Party, tuple[float, float, float]] = {}

    def add(self, party: Party, weight: float, slot_s: float, now: float) -> None:
        spent_s, when, _ = self._spent.pop(party, (0.0, now, weight))
        self._spent[party] = (spent_s * exp((when - now) / WINDOW_S) + slot_s, now, weight)
        if len(self._spent) > _MOST_PARTIES:
            del self._spent[next(iter(self._spent))]

    def lacks(self, own: Party, weight: float, part: float, now: float) -> bool:
        """Whether it has had less than this part of its share."""
        own_s, total_s, weights = 0.0, 0.0, weight
        for party, (spent_s, when, each) in self._spent.items():
            spent_s *= exp((when - now) / WINDOW_S)
            if party == own:
                own_s = spent_s
            elif spent_s >= _HARDLY_S:
                weights += each
            total_s += spent_s
        return own_s < part * weight / weights * max(total_s, _HARDLY_S)
