"""One process after the other: what is to be taken over from the one before, and what is to be done for the next.

Of an idle process neither costs anything: both halves are imported when they are needed.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING

from hermes.errors import BackendNotFound, GatewayError
from hermes.fleet.backend import PROBE_TIMEOUT_S
from hermes.handover.parts import Parts

if TYPE_CHECKING:
    from hermes.handover.leaving import Leaving
    from hermes.handover.taking import Taking

log = logging.getLogger(__name__)


class Succession:
    """`before` has started us to go on in its place. `why_not`: why nothing can be handed over now, if so.

    `gone` is set when another process goes on, of which `pid` is then told.
    """

    def __init__(
        self, parts: Parts, before: "Taking | None", why_not: Callable[[], str], loop: asyncio.AbstractEventLoop
    ) -> None:
        self.gone = asyncio.Event()
        self._parts = parts
        self._before = before
        self._why_not = why_not
        self._loop = loop
        self._leaving: Leaving | None = None
        self._relays: list[asyncio.Server] = []
        self._tasks: list[asyncio.Task[None]] = []  # for who is before, then for who comes after

    # --- the one before ---------------------------------------------------------------------------------------------

    async def take_over(self, read_keys: Callable[[], None], recall: Callable[[], Awaitable[None]]) -> None:
        """What the one before has, if there is one. Raises ConfigError; then that goes on as if nothing had been."""
        if self._before is None:
            return
        parts = self._parts
        # Every look is over by then: what runs on a backend that was never seen could not be counted there.
        await parts.fleet.refresh(2 * PROBE_TIMEOUT_S)
        state = await self._before.state()
        # More may have been made and used while we started.
        read_keys()
        if state is None or not self._before.is_alike:
            await recall()
        if state is not None:
            for name in state.drained:
                with contextlib.suppress(BackendNotFound):
                    parts.fleet.drain(name, True)
            self._relays = await parts.listeners.open_for_relays(self._before.paths)
            self._before.take(state, parts.admission, parts.meter)
            await self._before.settled()

    def host(self) -> None:
        """All is taken, and accepted here: serve what it passes on until it is gone."""
        if self._before is not None:
            self._tasks.append(self._loop.create_task(self._host(self._before), name="guests"))

    async def _host(self, before: "Taking") -> None:
        await before.host()
        self._close_relays()

    def _close_relays(self) -> None:
        while self._relays:
            self._relays.pop().close()

    async def empty(self) -> None:
        """Wait until nothing runs there any more."""
        if self._before is not None:
            await self._before.empty()

    def send_away(self, keys: Collection[str]) -> None:
        """These let in nobody any more, there neither."""
        if self._before is not None:
            self._before.send_away(keys)

    # --- the one after ----------------------------------------------------------------------------------------------

    async def restart(self) -> int:
        """Have another process go on. Returns its pid. Raises RestartFailed; then everything is as it was."""
        if self._leaving is None:
            from hermes.handover.leaving import Leaving

            self._leaving = Leaving(self._parts, self._why_not, self.gone, self._loop)
        return await self._leaving()

    async def heed(self, asked: asyncio.Event) -> None:
        """For ever: when it is asked for."""
        while True:
            await asked.wait()
            asked.clear()
            try:
                await self.restart()
            except GatewayError as error:
                log.error("not restarted: %s", error)

    @property
    def pid(self) -> int:
        assert self._leaving is not None
        return self._leaving.pid

    async def end(self) -> None:
        """Another process goes on: wait until nothing is left to be done here."""
        assert self._leaving is not None
        guests, self._tasks = self._tasks, [self._loop.create_task(self._leaving.watch(), name="successor")]
        self._tasks += guests
        if guests:  # what the process before this one has is passed on from here
            await asyncio.wait(guests)
        await self._parts.listeners.empty()

    async def close(self) -> None:
        self._close_relays()
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        if self._leaving is not None:
            await self._leaving.close()
