"""An event loop without a world: one callback a step, in a chosen order, on a clock that jumps from timer to timer."""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Coroutine
from heapq import heappop
from typing import Any, TypeVar

T = TypeVar("T")


class Stuck(AssertionError):
    """Somebody waits, and nothing will ever happen any more: a lost wake-up."""


class VirtualLoop(asyncio.BaseEventLoop):
    """`seed` draws which of the callbacks that are ready runs next; None: the first, as asyncio does.

    Asyncio promises little more about the order of two tasks than that it is some order, so code must hold in all.
    """

    # What asyncio's own loops are made of, under the same names from 3.11 on.
    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]
    _stopping: bool

    def __init__(self, seed: int | None = None) -> None:
        super().__init__()
        self.steps = 0
        self.after_each_step: Callable[[], None] = lambda: None
        self._now = 1000.0
        self._dice = None if seed is None else random.Random(seed)
        self._planned: dict[int, list[Callable[[], object]]] = {}
        self._failures: list[BaseException] = []
        self.set_exception_handler(self._on_failure)

    def time(self) -> float:
        return self._now

    def at_step(self, number: int, action: Callable[[], object]) -> None:
        """Do this just before the step of that number."""
        self._planned.setdefault(number, []).append(action)

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run to the end of `main`, then until no timer is left. Raises what a callback has raised."""
        try:
            result = self.run_until_complete(main)
            while self._ready or self._scheduled:
                self._run_once()
            if self._failures:
                raise self._failures[0]
            return result
        finally:
            self.close()

    def _run_once(self) -> None:
        while self._scheduled and (self._scheduled[0].cancelled() or self._scheduled[0].when() <= self._now):
            self._wake(heappop(self._scheduled))
        if self._ready:
            self._step()
        elif self._scheduled:
            self._now = self._scheduled[0].when()
        elif not self._stopping:
            raise Stuck(f"after {self.steps} steps nothing is ready, and no timer is set")

    def _wake(self, timer: asyncio.TimerHandle) -> None:
        timer._scheduled = False  # type: ignore[attr-defined]
        self._ready.append(timer)

    def _step(self) -> None:
        position = self._dice.randrange(len(self._ready)) if self._dice else 0
        handle = self._ready[position]
        del self._ready[position]
        if handle.cancelled():
            return
        for action in self._planned.pop(self.steps, ()):
            action()
        self.steps += 1
        if not handle.cancelled():
            handle._run()
        self.after_each_step()

    def _on_failure(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._failures.append(context.get("exception") or AssertionError(context["message"]))
