"""Fair shares of one resource, in tokens: start-time fair queueing (Goyal et al., SIGCOMM 1996).

Every party has a counter of what it was served, divided by its weight; of those that want something the one with the
least goes next. Who comes back from a pause is lifted to the present, so that nobody saves up (VTC: Sheng et al.,
OSDI 2024). What was charged in advance is corrected when the true figure is known.
"""

from collections.abc import Hashable
from math import inf
from typing import Generic, TypeVar

P = TypeVar("P", bound=Hashable)

# Counters of those that are away and not ahead of the present say nothing: they are swept when there are many.
_SWEEP = 256


class Shares(Generic[P]):
    """`present` is where a newcomer begins: about the least counter of those that want something."""

    __slots__ = ("_counters", "_sweep_at", "_wanting", "present")

    def __init__(self) -> None:
        self._counters: dict[P, float] = {}
        self._wanting: dict[P, int] = {}
        self._sweep_at = _SWEEP
        self.present = 0.0

    def counter(self, party: P) -> float:
        """Of one that wants something."""
        return self._counters[party]

    def tag(self, party: P) -> float:
        """Where it stands, whether it wants something or not."""
        return self._counters.get(party, self.present)

    def enter(self, party: P, least: float = inf, tag: float = inf) -> None:
        """It begins to wait, in one more place; `least` is about the smallest counter of those that wait there.

        Where nobody but they can be served it begins with them, however far ahead others are elsewhere. `tag` is where
        it stood when it last waited, if it has only been away to come again.
        """
        wanting = self._wanting[party] = self._wanting.get(party, 0) + 1
        if wanting == 1:
            self._counters[party] = max(self._counters.get(party, 0.0), min(self.present, least, tag))
            if len(self._counters) > self._sweep_at:
                self._sweep()

    def leave(self, party: P) -> None:
        """It waits in one place less."""
        self._wanting[party] -= 1
        if not self._wanting[party]:
            del self._wanting[party]

    def serve(self, party: P, amount: float) -> None:
        """It is served `amount`, in tokens over its weight, whether it had to wait or not."""
        counters, wanting = self._counters, self._wanting
        counter = counters.get(party, 0.0)
        if counter < self.present and party not in wanting:
            counter = self.present
        counters[party] = counter + amount
        if not wanting:  # nobody was passed over: all begin anew, and nobody is ahead of them
            self.present = max(self.present, counters[party])
        if len(counters) > self._sweep_at:
            self._sweep()

    def advance(self, least: float) -> None:
        """`least` is the smallest counter of those that want something and may have it."""
        if least > self.present:
            self.present = least

    def correct(self, party: P, amount: float) -> None:
        """What it was charged for is found to be so much more, or less."""
        if party in self._counters:
            self._counters[party] += amount

    def _sweep(self) -> None:
        present, wanting = self.present, self._wanting
        self._counters = {
            party: counter for party, counter in self._counters.items() if counter > present or party in wanting
        }
        self._sweep_at = 2 * len(self._counters) + _SWEEP
