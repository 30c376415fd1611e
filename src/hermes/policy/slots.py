"""What runs, and what may: the caps of models, keys and the process, and the slots of backends (invariant I1).

A slot is taken and given back by synchronous changes of these objects only (invariant I2).
"""

from collections.abc import Callable

from hermes.policy.affinity import Homes
from hermes.policy.line import Line
from hermes.policy.station import Station, Stay
from hermes.policy.ticket import Changed, ModelBounds, Settings, Ticket

# A home may run so many times the mean and one more: above that its conversations go elsewhere.
BUSIER = 1.25


class Lane:
    """One model's bounds and runs, under one of its names."""

    __slots__ = ("bounds", "running", "station")

    def __init__(self, bounds: ModelBounds) -> None:
        self.bounds = bounds
        self.running = 0
        self.station: Station | None = None


class Slots:
    """`cap` is the process's; `unlisted` bounds every model that was not configured."""

    def __init__(self, cap: int | None, unlisted: ModelBounds) -> None:
        self.running = 0
        self.lanes: dict[str, Lane] = {}
        self.unlisted = unlisted
        self.cap = cap
        self._homes = Homes()
        self._capped: dict[str, int] = {}  # the runs that caps count, by their names

    def lane(self, model: str) -> Lane:
        lane = self.lanes.get(model)
        if lane is None:
            lane = self.lanes[model] = Lane(self.unlisted)
        return lane

    def adopt(self, settings: Settings, change: Changed, waiting: Callable[[str], int]) -> None:
        """Other bounds hold from now on. Of a name that is not listed nothing is kept, unless it runs or waits."""
        self.cap, self.unlisted = settings.bounds.max_concurrent, settings.unlisted
        for model, lane in list(self.lanes.items()):
            lane.bounds = settings.models.get(model, settings.unlisted)
            if not lane.running and not waiting(model):
                if change.gone or model in change.models:
                    lane.station = None  # it may mean another one
                if model not in settings.models:
                    del self.lanes[model]
        for model, bounds in settings.models.items():
            self.lane(model).bounds = bounds

    def fit(self, station: Station) -> None:
        """The bounds of one of its names have changed, or its names have."""
        bounds = [lane.bounds for lane in self.lanes.values() if lane.station is station]
        # Of a backend that does not say: the most that the operator says for any name, else one.
        station.slots = max((each.max_concurrency or 1 for each in bounds), default=1)
        station.pinned = any(each.pinned for each in bounds)
        station.adaptive = any(each.adaptive for each in bounds)
        station.size_bytes = max((each.size_bytes or 0 for each in bounds), default=0)
        for stay in station.stays.values():
            stay.fit()

    # --- starting and ending ----------------------------------------------------------------------------------------

    def is_capped(self, ticket: Ticket) -> bool:
        """Whether as many run as one of its caps lets."""
        for name, most in ticket.caps:  # noqa: SIM110 - a generator is a call of its own
            if self._capped.get(name, 0) >= most:
                return True
        return False

    def place(self, ticket: Ticket, lane: Lane, station: Station) -> Stay | None:
        """Where to run: a backend with a free slot; None if the ticket has to wait."""
        cap = lane.bounds.max_concurrency
        if (cap is not None and lane.running >= cap) or (self.cap is not None and self.running >= self.cap):
            return None
        if ticket.caps and self.is_capped(ticket):
            return None
        found, avoid, stays = None, ticket.avoid, station.stays
        for name in ticket.candidates:
            stay = stays.get(name)
            if stay is None or not stay.open or stay.held >= stay.slots:
                continue
            if found is not None:
                if ticket.prefix:
                    return self._home(ticket, stays)
                # The least busy; the one that has just failed comes last.
                if name == avoid or (stay.held * found.weight >= found.held * stay.weight and found.backend != avoid):
                    continue
            found = stay
        return found

    def _home(self, ticket: Ticket, stays: dict[str, Stay]) -> Stay:
        """Of several with a free slot that where its conversation is at home, unless that has much more to do than the
        others; else one of the least busy, to be its home.
        """
        up = [stay for name in ticket.candidates if (stay := stays.get(name)) is not None and stay.open]
        allowed = 1 + BUSIER * sum([stay.held for stay in up]) / sum([stay.weight for stay in up])
        home = self._homes.find(ticket.prefix)
        free = {}
        for stay in up:
            if stay.held < stay.slots and stay.backend != ticket.avoid:
                load = free[stay] = stay.held / stay.weight
                if stay.backend == home and load <= allowed:
                    return stay
        least = min(free.values())
        idle = {stay.backend: stay.weight for stay, load in free.items() if load == least}
        return stays[self._homes.found(ticket.prefix, idle)]

    def nearer(
        self, head: Ticket, stay: Stay, line: Line, station: Station, now: float, pace_s: float
    ) -> tuple[Ticket, Stay]:
        """Who goes now, and where, of a line whose head could: another, where that is at home and the head is not.

        The head is passed over so seldom that it waits no longer than a run takes (delay scheduling: Zaharia et al.,
        EuroSys 2010).
        """
        stays, patience = station.stays, line.slots
        if self._is_near(head, stays) or head.passed >= patience or head.start_by - now <= pace_s * patience:
            return head, stay
        cost = head.prompt_tokens + station.output_tokens.expected(head.tenant)
        for ticket in line.backlogs[head.urgency].beside(head, cost / head.weight, now, pace_s):
            if self._is_near(ticket, stays) and (place := self.place(ticket, self.lanes[ticket.model], station)):
                head.passed += 1
                return ticket, place
        return head, stay

    def _is_near(self, ticket: Ticket, stays: dict[str, Stay]) -> bool:
        """Whether waiting brings it no nearer: there is room where it is at home, or it is so nowhere."""
        stay = stays.get(self._homes.find(ticket.prefix))
        return stay is None or not stay.open or stay.held < stay.slots

    def start(self, ticket: Ticket, lane: Lane, stay: Stay, now: float) -> None:
        self.running += 1
        lane.running += 1
        stay.start(ticket, now)
        if ticket.prefix:
            self._homes.move(ticket.prefix, stay.backend)
        for name, _ in ticket.caps:
            self._capped[name] = self._capped.get(name, 0) + 1

    def end(self, ticket: Ticket, stay: Stay, now: float, settles_at: float) -> None:
        self.running -= 1
        self.lanes[ticket.model].running -= 1
        stay.end(ticket, now, settles_at)
        capped = self._capped
        for name, _ in ticket.caps:
            if left := capped[name] - 1:
                capped[name] = left
            else:
                del capped[name]

    # --- questions --------------------------------------------------------------------------------------------------

    def most(self, here: int, model: str, station: Station) -> int:
        """How many can run at once, of a line that has so many slots here; of one that has none, as many as usual."""
        slots = here or station.usual_slots
        cap = self.lanes[model].bounds.max_concurrency
        if cap is not None and cap < slots:
            slots = cap
        if self.cap is not None and self.cap < slots:
            slots = self.cap
        return slots or 1
