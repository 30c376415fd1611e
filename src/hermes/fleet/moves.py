"""What came into a backend's memory and what went, the last of it: for whoever wants to see an hour of it."""

from collections import deque
from typing import Literal

from msgspec import Struct

# An hour of swaps every 20 s.
REMEMBERED = 200


What = Literal["loaded", "failed", "unloaded", "came", "went"]


class Move(Struct, frozen=True):
    """`at`: monotonic seconds. `came` and `went` is what others did, or the backend; what `failed` was not loaded."""

    at: float
    model: str
    what: What
    took_s: float = 0.0


def moves() -> deque[Move]:
    return deque(maxlen=REMEMBERED)
