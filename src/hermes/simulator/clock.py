"""Time as the simulation knows it: the loop's, with a calendar date attached once."""

import asyncio
import time


class Clock:
    """`speed` is for those who reckon how long the simulated hardware takes; the clock itself runs as the loop's."""

    __slots__ = ("_epoch_ns", "_loop", "_prefix", "_second", "speed")

    def __init__(self, loop: asyncio.AbstractEventLoop, speed: float = 1.0) -> None:
        self._loop = loop
        self.speed = speed
        self._epoch_ns = time.time_ns() - int(loop.time() * 1e9)
        self._second = -1
        self._prefix = b""

    def now(self) -> float:
        return self._loop.time()

    async def until(self, at: float) -> None:
        """Wait for an instant on this clock. One that has passed still lets others run, and a cancellation in."""
        delay_s = at - self._loop.time()
        await asyncio.sleep(max(0, delay_s))

    def rfc3339(self, at: float | None = None) -> bytes:
        """An instant as Go prints it (RFC3339Nano in UTC): trailing zeros of the fraction are left out."""
        wall_ns = int((self._loop.time() if at is None else at) * 1e9) + self._epoch_ns
        second, fraction_ns = divmod(wall_ns, 1_000_000_000)
        if second != self._second:
            self._second = second
            self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)).encode("ascii")
        fraction = (b".%09d" % fraction_ns).rstrip(b"0").rstrip(b".")
        return b"%b%bZ" % (self._prefix, fraction)


def nanoseconds(duration_s: float) -> int:
    return round(duration_s * 1e9)
