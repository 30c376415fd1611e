"""What waits in one place, and which of it goes next.

A line has tickets that can run on the same backends under the same cap, so that what holds one of them up holds all of
them up. The classes take turns by their weights. Within a class the ticket that must start first goes first, while all
can start in time; when they cannot, or need not, the tenant that was served least. Of a tenant's own tickets those of
the lowest priority go first, then who must start first, then who came first; one who has left and comes again stands
where he stood.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator
from heapq import heapify, heappop, heappush, merge
from itertools import islice
from math import inf
from typing import Any

from sortedcontainers import SortedList

from hermes.policy.fairness import Shares
from hermes.policy.ticket import Ticket
from hermes.principal import CLASSES, Class

# How many of the first to start are looked at for one whose tenant has some that are not capped.
_LOOK_AHEAD = 32

IsCapped = Callable[[Ticket], bool]


class Backlog:
    """The tickets of one class in one line. `shares`: what its tenants were served, in other lines too.

    `in_turns`: tenants take turns even while all could start in time.
    """

    __slots__ = (
        "_capped",
        "_having",
        "_in_turns",
        "_order",
        "_pushed",
        "_returned",
        "_shares",
        "_tenants",
        "_turns",
        "start_by",
        "waiting",
    )

    def __init__(self, shares: Shares[str], *, in_turns: bool = False) -> None:
        self._in_turns = in_turns
        self.waiting = 0
        self.start_by = inf  # when the first of them must start
        self._shares = shares
        self._order: SortedList[Any] = SortedList()  # of (start_by, sequence, ticket)
        self._tenants: dict[str, list[tuple[float, float, int, Ticket]]] = {}
        self._having: list[int] = []  # how many tenants have one ticket or more, two or more, ...
        self._turns: list[tuple[float, int, str]] = []  # a heap; what is not true any more is dropped on top
        self._pushed = 0
        self._capped: set[str] = set()
        self._returned: list[tuple[float, int, Ticket]] = []  # in the places that they have left

    def __iter__(self) -> Iterator[Ticket]:
        return (ticket for _, _, ticket in self._order)

    def firsts(self) -> Iterator[Ticket]:
        """Each tenant's next; those who have waited longest without a break first."""
        return (own[0][-1] for own in self._tenants.values())

    def goes_first(self, ticket: Ticket) -> bool:
        """Whether it is its tenant's next."""
        return self._tenants[ticket.tenant][0][-1] is ticket

    def put(self, ticket: Ticket) -> None:
        self._order.add((ticket.start_by, ticket.sequence, ticket))
        self.waiting += 1
        self.start_by = min(self.start_by, ticket.start_by)
        own = self._tenants.get(ticket.tenant)
        if own is None:
            tag = ticket.place.tag if ticket.place is not None else inf
            self._shares.enter(ticket.tenant, self._turns[0][0] if self._turns and self._tenants else inf, tag)
            own = self._tenants[ticket.tenant] = []
            self.turn(ticket.tenant)
        insort(own, (ticket.priority, _turn_by(ticket), ticket.sequence, ticket))
        if ticket.turn_by < ticket.start_by:
            insort(self._returned, (ticket.turn_by, ticket.sequence, ticket))
        if ticket.tenant in self._capped:
            self.turn(ticket.tenant)  # its caps may be others
        if len(own) > len(self._having):
            self._having.append(0)
        self._having[len(own) - 1] += 1

    def take(self, ticket: Ticket) -> None:
        self._order.remove((ticket.start_by, ticket.sequence, ticket))
        self.waiting -= 1
        if ticket.start_by == self.start_by:
            self.start_by = self._order[0][0] if self.waiting else inf
        if ticket.turn_by < ticket.start_by:
            self._returned.remove((ticket.turn_by, ticket.sequence, ticket))
        tenant = ticket.tenant
        own = self._tenants[tenant]
        place = 0
        if own[0][-1] is not ticket:
            place = bisect_left(own, (ticket.priority, _turn_by(ticket), ticket.sequence, ticket))
        assert own[place][-1] is ticket
        self._having[len(own) - 1] -= 1
        if not self._having[-1]:
            self._having.pop()
        del own[place]
        if not own:
            del self._tenants[tenant]
            self._capped.discard(tenant)
            self._shares.leave(tenant)

    def turn(self, tenant: str) -> None:
        """Its counter has changed, or it may run again."""
        if tenant in self._tenants:
            self._capped.discard(tenant)
            if len(self._turns) > 4 * len(self._tenants) + 64:
                self._turns = [(self._shares.counter(each), 0, each) for each in self._tenants]
                heapify(self._turns)
                return
            self._pushed += 1
            heappush(self._turns, (self._shares.counter(tenant), self._pushed, tenant))

    def head(self, now: float, pace_s: float, is_capped: IsCapped) -> Ticket | None:
        """Who goes next; None if all are capped. `pace_s` passes from one start to the next."""
        turns, tenants = self._turns, self._tenants
        while turns:
            counter, _, tenant = turns[0]
            if tenant in tenants and tenant not in self._capped and counter == self._shares.counter(tenant):
                ticket = _uncapped(tenants[tenant], is_capped)
                if ticket is not None:
                    break
                self._capped.add(tenant)
            heappop(turns)
        else:
            return None
        self._shares.advance(counter)
        if len(tenants) == 1 or self.crowded(now, pace_s):
            return ticket
        for _, _, urgent in self._firsts():
            if urgent.tenant not in self._capped and (first := _uncapped(tenants[urgent.tenant], is_capped)):
                return first
        return ticket

    def _firsts(self) -> Iterable[tuple[float, int, Ticket]]:
        """Those that must start first, as if who came again had never left."""
        firsts = islice(self._order, _LOOK_AHEAD)
        return merge(self._returned, firsts) if self._returned else firsts

    def beside(self, head: Ticket, cost: float, now: float, pace_s: float) -> Iterator[Ticket]:
        """Those that may go before the head for once, the first to start first: none that comes later among its
        user's own by its priority, and where users take turns, none of one who was served more by above `cost`.
        """
        most = self._shares.counter(head.tenant) + cost if self.crowded(now, pace_s) else inf
        for _, _, ticket in islice(self._order, _LOOK_AHEAD):
            if ticket.priority <= self._tenants[ticket.tenant][0][0] and self._shares.counter(ticket.tenant) <= most:
                yield ticket

    def crowded(self, now: float, pace_s: float) -> bool:
        """Whether not all can start in time, or none has a time to start by, or nobody is in a hurry."""
        if self._in_turns:
            return True
        last_s: float = self._order[-1][0] - now
        return last_s == inf or self.waiting * pace_s > last_s

    # --- questions --------------------------------------------------------------------------------------------------

    def first(self) -> Ticket:
        ticket: Ticket = self._order[0][2]
        return ticket

    def in_time(self, when: float) -> int:
        """How many could still start then."""
        if when <= self.start_by:
            return self.waiting
        late: int = self._order.bisect_left((when, -1))
        return self.waiting - late

    def ahead(self, ticket: Ticket, now: float, pace_s: float) -> int:
        """How many will start before this one, which waits here or is about to."""
        if not self.waiting:
            return 0
        own = self._tenants.get(ticket.tenant, ())
        if len(self._tenants) - bool(own) == 0:
            return bisect_left(own, (ticket.priority, _turn_by(ticket), ticket.sequence))
        if not self.crowded(now, pace_s):
            place: int = self._order.bisect_left((_turn_by(ticket), ticket.sequence))
            return place
        mine = bisect_left(own, (ticket.priority, _turn_by(ticket), ticket.sequence))
        # Turns go round: before my (n + 1)th, every other has about as many.
        turns = mine + 1
        if len(self._tenants) < turns:
            rounds = sum(min(len(each), turns) for each in self._tenants.values())
        else:
            rounds = sum(self._having[:turns])
        return mine + rounds - min(len(own), turns)


def _uncapped(own: list[tuple[float, float, int, Ticket]], is_capped: IsCapped) -> Ticket | None:
    """The first of a tenant's tickets that its caps let run."""
    met: set[tuple[tuple[str, int], ...]] = set()  # caps that let none run
    for _, _, _, ticket in own:
        if ticket.caps not in met:
            if not is_capped(ticket):
                return ticket
            met.add(ticket.caps)
    return None


def _turn_by(ticket: Ticket) -> float:
    """By when it must start, or must have started when it was asked for first."""
    return min(ticket.start_by, ticket.turn_by)


class Line:
    """`backlogs` by class. `candidates` are the backends that all of them can run on; `slots` those they have now."""

    __slots__ = ("backlogs", "candidates", "model", "slots", "start_by", "waiting")

    def __init__(self, model: str, candidates: tuple[str, ...], shares: tuple[Shares[str], ...]) -> None:
        self.model = model
        self.candidates = candidates
        self.slots = 0
        self.backlogs = tuple(Backlog(shares[each], in_turns=each is Class.BATCH) for each in CLASSES)
        self.waiting = 0
        self.start_by = inf  # when the first of them must start

    def __iter__(self) -> Iterator[Ticket]:
        return (ticket for backlog in self.backlogs for ticket in backlog)

    def put(self, ticket: Ticket) -> None:
        self.backlogs[ticket.urgency].put(ticket)
        self.waiting += 1
        if ticket.start_by < self.start_by:
            self.start_by = ticket.start_by

    def take(self, ticket: Ticket) -> None:
        self.backlogs[ticket.urgency].take(ticket)
        self.waiting -= 1
        if ticket.start_by == self.start_by:
            interactive, normal, batch = self.backlogs
            self.start_by = min(interactive.start_by, normal.start_by, batch.start_by)

    def turn(self, tenant: str) -> None:
        """It may run again."""
        for backlog in self.backlogs:
            backlog.turn(tenant)

    def head(self, classes: Shares[Class], now: float, pace_s: float, is_capped: IsCapped) -> Ticket | None:
        """Who goes next, by the turns of `classes`; None if nobody may."""
        waiting = [each for each in CLASSES if self.backlogs[each].waiting]
        if len(waiting) > 1:
            waiting.sort(key=classes.counter)
        if waiting:
            classes.advance(classes.counter(waiting[0]))
        for each in waiting:
            if (ticket := self.backlogs[each].head(now, pace_s, is_capped)) is not None:
                return ticket
        return None

    def least(self, classes: Shares[Class]) -> float:
        """The smallest counter of the classes that wait here; inf if none does."""
        return min([classes.counter(each) for each in CLASSES if self.backlogs[each].waiting], default=inf)

    def earliest(self) -> Ticket:
        """The one that must start first."""
        return min(
            (backlog for backlog in self.backlogs if backlog.waiting), key=lambda backlog: backlog.start_by
        ).first()
