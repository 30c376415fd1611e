"""Whose a backend's time was lately, in slot-seconds: by class and tenant, who are owed a part of it by their weights.

The index (`swap`) gives memory to the model that serves most requests in time; alone, it lets one tenant's endless
backlog keep the memory from everybody else's models. So who has had less than a part of its fair share of the time
gets the swap that it waits for, and pays for it with the time that the swap takes.
"""

from math import exp

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

    def owes(self, ticket: Ticket, weight: float, part: float, now: float) -> bool:
        """Whether its class and tenant have had less than this part of their share."""
        own, own_s, total_s, weights = (ticket.urgency, ticket.tenant), 0.0, 0.0, weight
        for party, (spent_s, when, each) in self._spent.items():
            spent_s *= exp((when - now) / WINDOW_S)
            if party == own:
                own_s = spent_s
            elif spent_s >= _HARDLY_S:
                weights += each
            total_s += spent_s
        return own_s < part * weight / weights * max(total_s, _HARDLY_S)
