"""Whose a backend's time was lately, in slot-seconds: by class and tenant, who are owed a part of it by their weights.

The index (`swap`) gives memory to the model that serves most requests in time; alone, it lets one tenant's endless
backlog keep the memory from everybody else's models. So who has had less than a part of its fair share of the time
gets the swap that it waits for, and pays for it with the time that the swap takes.
"""

from math import exp

from msgspec import Struct

from hermes.policy.ticket import Ticket
from hermes.principal import Class

WINDOW_S = 600.0
# Who has had less of late is not there.
_HARDLY_S = 1.0
_MOST_PARTIES = 256

_Party = tuple[Class, str]


class Timeshare:
    __slots__ = ("_spent",)

    def __init__(self) -> None:
        # Slot-seconds, as of when, and the party's weight; those heard of last come last.
        self._spent: dict[_Party, tuple[float, float, float]] = {}

    def spend(self, ticket: Ticket, weight: float, slot_s: float, now: float) -> None:
        party = ticket.urgency, ticket.tenant
        spent_s, when, _ = self._spent.pop(party, (0.0, now, weight))
        self._spent[party] = (spent_s * exp((when - now) / WINDOW_S) + slot_s, now, weight)
        if len(self._spent) > _MOST_PARTIES:
            del self._spent[next(iter(self._spent))]

    def balance(self, now: float) -> "Balance":
        spent_s = {party: spent_s * exp((when - now) / WINDOW_S) for party, (spent_s, when, _) in self._spent.items()}
        weights = {party: self._spent[party][2] for party, each_s in spent_s.items() if each_s >= _HARDLY_S}
        return Balance(spent_s, weights, sum(spent_s.values()), sum(weights.values()))


class Balance(Struct, frozen=True):
    """Whose the time was, as of now; the weights of those who had any to speak of."""

    spent_s: dict[_Party, float]
    weights: dict[_Party, float]
    total_s: float
    total_weight: float

    def owes(self, ticket: Ticket, weight: float, part: float) -> bool:
        """Whether its class and tenant have had less than this part of their share."""
        party = ticket.urgency, ticket.tenant
        of_all = weight / (self.total_weight - self.weights.get(party, 0.0) + weight)
        return self.spent_s.get(party, 0.0) < part * of_all * max(self.total_s, _HARDLY_S)
