"""How things stand: what may be asked of a scheduler. Nothing here changes anything."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from hermes.policy.concurrency import Concurrency
from hermes.policy.estimates import Learned, Outlook
from hermes.policy.forecast import Forecast
from hermes.policy.queue import Queue
from hermes.policy.site import Swaps
from hermes.policy.sites import Sites
from hermes.policy.slots import Slots
from hermes.policy.station import Stations
from hermes.policy.ticket import (
    Bounds,
    Change,
    InMemory,
    ModelBounds,
    Occupancy,
    Phase,
    Rules,
    Ticket,
    Why,
)
from hermes.principal import CLASS_NAMES, CLASSES, Class


class Standing:
    """`bounds` are those of the process; `unlisted` those of every model that nothing else was said of."""

    def __init__(self, bounds: Bounds, unlisted: ModelBounds, rules: Rules) -> None:
        self._stations = Stations(rules)
        self._sites = Sites()
        self._queue = Queue(bounds)
        self._slots = Slots(bounds.max_concurrent, unlisted)
        self._forecast = Forecast(rules, self._sites, self._slots)

    # --- requests ---------------------------------------------------------------------------------------------------

    def outlook(self, ticket: Ticket, now: float) -> Outlook:
        """When a waiting ticket will start, as things are."""
        return self._forecast.outlook(ticket, self._stations[ticket.resident], now)

    def explain(self, ticket: Ticket) -> Why | None:
        """Why a ticket waits that has just begun to; None if it does not."""
        if ticket.told is None or ticket.phase is not Phase.WAITING:
            return None
        line = self._stations[ticket.resident].lines[ticket.model, ticket.candidates]
        waiting = {
            name: backlog.waiting for name, backlog in zip(CLASS_NAMES, line.backlogs, strict=True) if backlog.waiting
        }
        memory = tuple(self._sites.in_memory())
        return Why(ticket.told, ticket.kind, waiting, memory, tuple(self.changes()), self._sites.pressed())

    def tickets(self) -> Iterator[Ticket]:
        """All that run or wait."""
        for site in self._sites.values():
            for stay in site.stays.values():
                yield from stay.running
        for line in self._queue.lines:
            yield from line

    @property
    def whole(self) -> Bounds:
        """Those of the process."""
        return self._queue.bounds

    @property
    def running(self) -> int:
        return self._slots.running

    @property
    def waiting(self) -> int:
        return self._queue.tickets

    @property
    def waiting_bytes(self) -> int:
        return self._queue.size_bytes

    def occupancy(self, model: str) -> Occupancy:
        lane = self._slots.lanes.get(model)
        return Occupancy(lane.running if lane else 0, self._queue.tickets_of(model))

    def waiting_by_class(self) -> Counter[tuple[str, Class]]:
        """How many wait for each model."""
        found: Counter[tuple[str, Class]] = Counter()
        for line in self._queue.lines:
            for urgency, backlog in zip(CLASSES, line.backlogs, strict=True):
                found[line.model, urgency] += backlog.waiting
        return found

    # --- models, and backends' memories -----------------------------------------------------------------------------

    def bounds(self, model: str) -> ModelBounds:
        lane = self._slots.lanes.get(model)
        return lane.bounds if lane else self._slots.unlisted

    def models(self) -> Iterable[str]:
        return self._slots.lanes.keys()

    def swaps(self) -> Mapping[tuple[str, str], Swaps]:
        """By backend and model: those that took others' places."""
        return self._sites.swaps

    def changes(self) -> Iterator[Change]:
        """What is under way in the backends' memories."""
        return self._sites.changes()

    def patience_s(self, resident: str) -> float:
        """What no usual bound on a wait for a model should be below, by what is known of how long it loads."""
        station = self._stations.get(resident)
        if station is None or not station.load_s.is_known:
            return 0.0
        return self._forecast.patience_s(station.load_s.value)

    def where(self, resident: str) -> dict[str, int]:
        """The backends where a model is loaded, and how many runs it has there."""
        station = self._stations.get(resident)
        stays = station.stays.values() if station is not None else ()
        return {stay.backend: len(stay.running) for stay in stays if stay.up}

    def in_memory(self, backend: str) -> Iterator[InMemory]:
        """What a backend has loaded, and how much there is to do for it."""
        return (model for model in self._sites.in_memory() if model.backend == backend)

    def running_on(self, backend: str) -> int:
        site = self._sites.get(backend)
        return sum(len(stay.running) for stay in site.stays.values()) if site is not None else 0

    def concurrency(self, model: str) -> Mapping[str, Concurrency]:
        """What was found out of how many runs of it each backend does well at once; empty where that is not asked."""
        lane = self._slots.lanes.get(model)
        station = lane.station if lane is not None else None
        return station.concurrency if station is not None and station.adaptive else {}

    def limits(self) -> Iterator[tuple[str, str, int]]:
        """Backend, model and how many of its runs are let there at once, where that is found out."""
        for station in self._stations.values():
            if station.adaptive:
                yield from ((backend, station.name, known.limit) for backend, known in station.concurrency.items())

    def slots(self, model: str, backend: str) -> int:
        """How many runs of a model a backend takes at once, at most."""
        site, lane = self._sites.get(backend), self._slots.lanes.get(model)
        station, own = (lane.station, lane.bounds.max_concurrency) if lane else (None, None)
        told = site.facts.slots_for(station.name if station else model) if site else None
        return told or (station.slots if station else own) or 1

    def learned(self) -> dict[str, Learned]:
        """By the names that backends have for models."""
        found = {name: station.learned for name, station in self._stations.items()}
        return {name: learned for name, learned in found.items() if learned != Learned()}
