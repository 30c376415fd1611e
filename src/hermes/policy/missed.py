"""Models that somebody could not wait for, or that went down: where there is room, they are loaded all the same."""

from math import inf

from hermes.policy.sites import Sites
from hermes.policy.station import Station
from hermes.policy.ticket import Ticket

# Who was refused because of a load may come again within so long.
MISSED_S = 60.0


class Missed(dict[Station, None]):
    """`waiting` are the stations where something waits: for those it is weighed anyway."""

    def __init__(self, sites: Sites, waiting: dict[Station, None]) -> None:
        super().__init__()
        self._sites = sites
        self._waiting = waiting

    def add(self, station: Station, now: float, is_slow: bool = False) -> None:
        """`is_slow`: it takes longer to load than they can wait."""
        station.missed_at, station.is_slow = now, is_slow
        self[station] = None

    def refused(self, ticket: Ticket, station: Station, now: float) -> None:
        """Somebody had to go because the model was not loaded."""
        self.add(station, now, station.load_known_s >= ticket.start_by - ticket.arrived_at)

    def still(self, now: float) -> list[Station]:
        for station in list(self):
            if station.missed_at + MISSED_S <= now or station.stays_on(station.candidates):
                del self[station]
        return [station for station in self if station not in self._waiting]

    def weighs_at(self) -> float:
        """When it is next asked whether to load one."""
        missed = (station for station in self if station not in self._waiting)
        return min(
            (self._sites.weighs_at(station.candidates, station, station.missed_at) for station in missed), default=inf
        )
