"""What was learned of models and backends, in one small file: a head start, never needed.

A file that is missing, garbled or not ours to read or write is a warning at most. It is replaced as a whole (a
temporary file, fsync, rename), so whatever interrupts that, there is the old one or the new one.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from hermes.policy.estimates import Learned

log = logging.getLogger(__name__)

NAME = "learned.json"
VERSION = 1
WRITE_EVERY_S = 60.0
# Far more than a thousand models take.
MAX_BYTES = 1 << 20
# A file system that does not answer holds up the end no longer than this.
LAST_WRITE_S = 5.0

_Bytes = Annotated[int, Meta(ge=0, le=2**60)]


class State(Struct, frozen=True):
    """`models`: by full name, what was learned of them; `sizes`: by backend and model, what it takes when loaded."""

    models: dict[str, Learned] = {}
    sizes: dict[str, dict[str, _Bytes]] = {}
    version: Annotated[int, Meta(ge=VERSION, le=VERSION)] = VERSION


_NOTHING = State()


def read(folder: Path) -> State:
    """What was written last; nothing where nothing can be made of it."""
    path = folder / NAME
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(MAX_BYTES), type=State)
    except FileNotFoundError:
        return _NOTHING
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        log.warning("what was learned earlier is not used: cannot read %s: %s", path, error)
        return _NOTHING


def write(folder: Path, state: State) -> None:
    """Raises OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{NAME}.{os.getpid()}"
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(state)))
            file.flush()
            os.fsync(file.fileno())
        path.replace(folder / NAME)
    except BaseException:
        with contextlib.suppress(OSError):
            path.unlink()
        raise


class Keeper:
    """Writes what `collect` tells, if that has changed: at most every minute, and at the end. None: nothing to keep."""

    def __init__(self, folder: Path, collect: Callable[[], State | None]) -> None:
        """`state` is what was written last."""
        self.state = read(folder)
        self._folder = folder
        self._collect = collect
        self._ended = asyncio.Event()
        self._failed = ""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name="keeper")

    def stop(self) -> None:
        """Another process writes it from now on."""
        self._collect = lambda: None

    async def end(self) -> None:
        """Write for the last time."""
        self._ended.set()
        if self._task is not None:
            await asyncio.wait((self._task,), timeout=LAST_WRITE_S)
            self._task.cancel()

    async def _run(self) -> None:
        while not self._ended.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WRITE_EVERY_S):
                    await self._ended.wait()
            await self._write()

    async def _write(self) -> None:
        state = self._collect()
        if state is None or state == self.state:
            return
        try:
            await asyncio.to_thread(write, self._folder, state)
        except OSError as error:
            if str(error) != self._failed:  # once, not every minute
                log.warning("what was learned is not kept: cannot write to %s: %s", self._folder, error)
            self._failed = str(error)
        else:
            self.state, self._failed = state, ""
