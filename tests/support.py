"""Running a scenario: on uvloop, within a limit, and with nothing left behind."""

import asyncio
import gc
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import uvloop

T = TypeVar("T")

_LIMIT_S = 20.0
_SETTLE_S = 2.0


def run(scenario: Coroutine[Any, Any, T], *, may_log_errors: bool = False) -> T:
    """Run to the end. Fails on an error that nobody handled or that was only logged, and on a task left over."""
    unhandled: list[object] = []
    heard = _Heard(unhandled)
    logging.getLogger().addHandler(heard)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            result = runner.run(_watched(scenario, unhandled))
            gc.collect(1)  # a task's lost exception is told when the task is collected
    finally:
        logging.getLogger().removeHandler(heard)
    if not may_log_errors:
        assert not unhandled, unhandled
    return result


async def _watched(scenario: Coroutine[Any, Any, T], unhandled: list[object]) -> T:
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
    async with asyncio.timeout(_LIMIT_S):
        result = await scenario
    await until(lambda: asyncio.all_tasks() == {asyncio.current_task()}, "tasks are left over")
    return result


async def until(
    condition: Callable[[], object], what: str = "it did not come true", limit_s: float | None = None
) -> None:
    """Let the loop turn until `condition` holds. Raises AssertionError if it does not within the limit."""
    loop = asyncio.get_running_loop()
    end = loop.time() + (_SETTLE_S if limit_s is None else limit_s)
    while not condition():
        assert loop.time() < end, what
        await asyncio.sleep(0.001)


class _Heard(logging.Handler):
    def __init__(self, records: list[object]) -> None:
        super().__init__(logging.ERROR)
        self._records = records

    def emit(self, record: logging.LogRecord) -> None:
        self._records.append(record.getMessage())
