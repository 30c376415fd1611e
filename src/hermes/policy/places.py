"""The places in the queue of those who have left it, and may come again: SDKs close one try before they begin another.

What is kept is where a request stood among those of its own tenant, and how far that was behind others; how long it may
wait is the new try's own.
"""

from msgspec import Struct

from hermes.principal import Class

KEPT_S = 30.0
# Some 300 bytes each. Those who left first are forgotten first.
REMEMBERED = 4096


class Place(Struct, frozen=True):
    """Where a ticket stood: before those of its tenant that must start later than `turn_by`.

    `sequence` tells it from others of that time; 0: it has not waited. `tag` is its tenant's counter then, among those
    who waited for its model, `shared_tag` among all (`policy/fairness`).
    """

    resident: str
    urgency: Class
    turn_by: float
    sequence: int
    tag: float
    shared_tag: float


class Places:
    """By owner and what was asked."""

    def __init__(self) -> None:
        self._left: dict[tuple[str, bytes], tuple[Place, float]] = {}

    def __len__(self) -> int:
        return len(self._left)

    def leave(self, owner: str, asked: bytes, place: Place, now: float) -> None:
        """One has left. Of several that asked the same, the first to have come is remembered."""
        key = owner, asked
        before = self._left.pop(key, None)
        if before is not None and before[1] > now and before[0].turn_by <= place.turn_by:
            place = before[0]
        elif len(self._left) >= REMEMBERED:
            del self._left[next(iter(self._left))]
        self._left[key] = place, now + KEPT_S

    def take(self, owner: str, asked: bytes, now: float) -> Place | None:
        """The place that was left, once."""
        place, until = self._left.pop((owner, asked), (None, now))
        return place if until > now else None
