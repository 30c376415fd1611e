"""A floor under every model's share of requests that start in time (`Rules.floor`, docs/scheduling.md).

The index alone gives up the rarest, slowest model under load. One that falls behind gets more weight in swaps with
each request, one that does not gets less.
"""

from hermes.policy.station import Station

MAX_WEIGHT = 20.0
WEIGHT_STEP = 1.05
# Shares are those of about so many requests.
SHARE_OF_LAST = 500.0


class Floor:
    __slots__ = ("_arrived", "_in_time", "part")

    def __init__(self, part: float) -> None:
        self.part = part  # of the overall share
        self._arrived = 0.0
        self._in_time = 0.0

    def arrived(self, station: Station) -> None:
        if not self.part:
            return
        fade = 1 - 1 / SHARE_OF_LAST
        self._arrived, self._in_time = self._arrived * fade + 1, self._in_time * fade
        station.arrived, station.in_time = station.arrived * fade + 1, station.in_time * fade
        behind = station.in_time * self._arrived < self.part * self._in_time * station.arrived
        weight = station.weight * WEIGHT_STEP if behind else station.weight / WEIGHT_STEP
        station.weight = min(MAX_WEIGHT, max(1.0, weight))

    def started(self, station: Station) -> None:
        station.in_time += 1
        self._in_time += 1
