"""The picture on a terminal, which is given back as it was, whatever ends it."""

import os
import select
import signal
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from rich.console import Console, Group
from rich.live import Live

from hermes.cli.top.frame import frame
from hermes.cli.top.keyboard import Keyboard
from hermes.cli.top.view import Order, View
from hermes.cli.top.watch import Watch

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_KEYS = 0  # standard input
_ALONE_S = 0.05  # a key's bytes come together
# Where a terminal does not tell.
_USUAL_SIZE = os.terminal_size((80, 24))


class Screen:
    """`where`: whom it shows."""

    def __init__(self, watch: Watch, where: str) -> None:
        self._watch = watch
        self._where = where
        self._view = View()
        self._keyboard = Keyboard()
        self._alone_at = 0.0
        self._wake: Callable[[], None] = lambda: None

    def show(self) -> int:
        """Until the user has seen enough, or a signal comes. Returns the exit code."""
        with _signals() as (arrived, self._wake):
            self._watch.changed = self._wake
            while (code := self._show(arrived)) is None:
                os.kill(os.getpid(), signal.SIGSTOP)  # and on from here after `fg`
            return code

    def _show(self, arrived: int) -> int | None:
        """None: the user wants his terminal for a while (Ctrl-Z)."""
        with _keys_as_they_come(), Live(console=Console(), screen=True, auto_refresh=False) as live:
            while True:
                self._draw(live)
                ready, _, _ = select.select([arrived, _KEYS], [], [], self._left_s())
                numbers = os.read(arrived, 4096) if arrived in ready else b""
                if ending := next((number for number in numbers if number in _ENDING), None):
                    return 128 + ending
                if signal.SIGTSTP in numbers:
                    return None
                if self._watch.failed is not None:
                    raise self._watch.failed
                if _KEYS in ready:
                    if not (typed := os.read(_KEYS, 4096)):
                        return 0  # there is no terminal any more
                    keys = self._keyboard.feed(typed)
                    self._alone_at = time.monotonic() + _ALONE_S
                else:
                    keys = self._keyboard.alone() if self._left_s() == 0 else []
                if not self._press(keys):
                    return 0

    def _left_s(self) -> float | None:
        """Until what has been typed is the Escape key, and no other key's first byte."""
        return max(0.0, self._alone_at - time.monotonic()) if self._keyboard.begun else None

    def _draw(self, live: Live) -> None:
        assert self._watch.sight is not None
        live.console.size = size = _size()
        lines = frame(self._watch.sight, self._view, size.columns, size.lines, self._where, self._watch.lost)
        live.update(Group(*lines), refresh=True)

    def _press(self, keys: list[str]) -> bool:
        """False: that is enough."""
        assert self._watch.sight is not None
        for key in keys:
            order = self._view.press(key, self._watch.sight)
            if order is not None:
                if order.verb == "quit":
                    return False
                self._begin(order)
        return True

    def _begin(self, order: Order) -> None:
        def then(told: str) -> None:
            self._view.message = told
            self._wake()

        self._view.message = f"{order} ..."
        self._watch.order(order, then)


@contextmanager
def _keys_as_they_come() -> Iterator[None]:
    """Each when it is pressed, and none shown."""
    before = termios.tcgetattr(_KEYS)
    tty.setcbreak(_KEYS)
    try:
        yield
    finally:
        termios.tcsetattr(_KEYS, termios.TCSADRAIN, before)


@contextmanager
def _signals() -> Iterator[tuple[int, Callable[[], None]]]:
    """What can be waited for together with keys: a descriptor that gives the numbers of signals as they come, and 0
    where it is woken. No signal interrupts anything else.
    """
    arrived, noted = os.pipe()
    os.set_blocking(noted, False)
    before = {number: signal.signal(number, _noted) for number in (*_ENDING, signal.SIGTSTP, signal.SIGWINCH)}
    fd_before = signal.set_wakeup_fd(noted, warn_on_full_buffer=False)

    def wake() -> None:
        with suppress(BlockingIOError):  # it is about to wake
            os.write(noted, b"\0")

    try:
        yield arrived, wake
    finally:
        signal.set_wakeup_fd(fd_before)
        for number, handler in before.items():
            signal.signal(number, handler)


def _noted(number: int, frame: object) -> None:
    """Its number is in the pipe."""


def _size() -> os.terminal_size:
    size = os.get_terminal_size(1)
    return size if size.columns and size.lines else _USUAL_SIZE
