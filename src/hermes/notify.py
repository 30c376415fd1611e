"""What the service manager is told: sd_notify(3), a datagram to $NOTIFY_SOCKET; without one, nothing.

Its watchdog is answered from the event loop, at half the time that it allows: a loop that hangs is restarted.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Mapping
from time import CLOCK_MONOTONIC, clock_gettime_ns


class Notify:
    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        # sd_notify(3): a path, or the name of an abstract socket behind an @
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._watchdog_s = _watchdog_s(environ)
        self._timer: asyncio.TimerHandle | None = None

    def tell(self, *lines: str) -> None:
        """As in `READY=1`. Who does not listen misses it."""
        if self._address:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, contextlib.suppress(OSError):
                sender.setblocking(False)
                sender.sendto("\n".join(lines).encode(), self._address)

    def ready(self, status: str) -> None:
        self.tell("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """`ready` ends it."""
        self.tell("RELOADING=1", f"MONOTONIC_USEC={clock_gettime_ns(CLOCK_MONOTONIC) // 1000}", "STATUS=reloading")

    def stopping(self, within_s: float) -> None:
        """However long it usually waits for an end, this one may take so long."""
        self.tell("STOPPING=1", f"EXTEND_TIMEOUT_USEC={int(within_s * 1e6)}", "STATUS=draining")

    def guard(self, loop: asyncio.AbstractEventLoop) -> None:
        """Answer the watchdog from now on, if there is one."""
        if self._watchdog_s:
            self.tell("WATCHDOG=1")
            self._timer = loop.call_later(self._watchdog_s / 2, self.guard, loop)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


def _watchdog_s(environ: Mapping[str, str]) -> float:
    """0: nobody watches us. sd_watchdog_enabled(3)"""
    if environ.get("WATCHDOG_PID", "").strip() not in ("", str(os.getpid())):
        return 0.0
    try:
        return int(environ.get("WATCHDOG_USEC", "0")) / 1e6
    except ValueError:
        return 0.0
