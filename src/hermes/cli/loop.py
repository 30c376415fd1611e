"""The event loop of the verbs that serve, uvloop, imported here and nowhere else; and what signals mean to them."""

import asyncio
import gc
import logging
import os
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

import uvloop

log = logging.getLogger(__name__)

T = TypeVar("T")


# Python looks for cycles whenever there are 700 objects more than before. Thirty requests at once are as many, none of
# them garbage: looking took 8 % of all time.
NEW_OBJECTS = 10_000


def run(main: Coroutine[Any, Any, T]) -> T:
    gc.set_threshold(NEW_OBJECTS)
    return uvloop.run(main)


def on_signals(
    loop: asyncio.AbstractEventLoop,
    stop: asyncio.Event,
    now: asyncio.Event,
    reload: asyncio.Event | None = None,
    restart: asyncio.Event | None = None,
) -> None:
    """The first SIGTERM or SIGINT sets `stop`, the second `now`. SIGUSR2 sets `restart`, SIGHUP `reload`;
    where it means that the terminal is gone which we were started from, it is as a SIGTERM.
    """
    had_terminal = os.isatty(2)

    def received(name: str) -> None:
        log.info("%s: %s", name, "stopping now" if stop.is_set() else "draining; a second signal stops at once")
        (now if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, received, number.name)

    def hung_up() -> None:
        if reload is None or (had_terminal and not os.isatty(2)):
            received(signal.SIGHUP.name)
        else:
            reload.set()

    loop.add_signal_handler(signal.SIGHUP, hung_up)
    if restart is not None:
        loop.add_signal_handler(signal.SIGUSR2, restart.set)
