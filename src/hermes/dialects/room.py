"""How much of an answer is kept by those who have to tell it at its end (I13)."""

from hermes.errors import BackendError

# As much as a whole answer may have.
MAX_KEPT_BYTES = 16 << 20


class Room:
    """For one stream."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = MAX_KEPT_BYTES

    def take(self, size: int) -> None:
        """Raises BackendError once there is none left."""
        self._left -= size
        if self._left < 0:
            raise BackendError(f"the backend's answer is longer than {MAX_KEPT_BYTES} bytes")
