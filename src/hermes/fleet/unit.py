"""A model that is a process of ours: started when it is loaded, stopped when it is unloaded, told of when it goes down.

1. There is one process at most: the next is started when nothing is left of the last.
2. It is loaded when it is ready, by its own kind's probe. What ends before, or takes too long, has failed to load.
3. One that goes down by itself, or hangs and is killed for it, is told of (`Fallen`), with from when on it may be
   started again: at once the first time, later and later if that goes on.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Collection, Mapping

from msgspec import Struct
from msgspec.structs import replace

from hermes import machine
from hermes.config import Secret
from hermes.errors import BackendError
from hermes.fleet import memory
from hermes.fleet.driver import Single
from hermes.fleet.inventory import Inventory, ModelInfo
from hermes.fleet.process import Process, environment, free_port
from hermes.policy.ticket import Fallen

log = logging.getLogger(__name__)

_PORT = "${PORT}"

# Between two looks whether it is ready: more and more, since a large model takes minutes.
_LOOK_AGAIN_S = 0.02
_LOOK_AT_MOST_S = 0.5
_LOOK_TIMEOUT_S = 2.0

STOP_GRACE_S = 5.0

# One that has been up for so long goes down for a reason of its own.
CALM_S = 60.0
BACK_OFF_S = 1.0
MAX_BACK_OFF_S = 60.0
# Its last words, as the log and the status tell them.
TOLD_LINES = 20


class Command(Struct, frozen=True):
    """How a model's server is started. In `words` and `environ` ${PORT} stands for a free port.

    `driver` makes what speaks to it, on that port. `size_bytes` is a first estimate of what it takes, 0: none.
    `identity`: all that a process of it is told from one of another command by.
    """

    model: str
    words: tuple[str, ...]
    environ: Mapping[str, Secret]
    driver: Callable[[int], Single]
    size_bytes: int = 0
    slots: int | None = None
    start_timeout_s: float = 300.0
    idle_ttl_s: float | None = None
    identity: object = None


class Unit:
    """One model and, while there is one, its process."""

    def __init__(self, command: Command, cpus: Collection[int], changed: Callable[[], None]) -> None:
        self.command = command
        self.state = "stopped"
        self.error = ""
        self.port = 0
        self.restarts = 0
        self.process: Process | None = None
        self.fallen: Fallen | None = None
        self.info = ModelInfo(command.model, command.size_bytes)
        self.slots = command.slots
        self.vram_bytes = 0
        self.driver = command.driver(1)
        self.driver.pool.close()  # there is nothing to be asked yet
        self.unwanted = False
        self._cpus = cpus
        self._changed = changed
        self._lines: Collection[str] = ()
        self._up_at = 0.0
        self._falls = 0
        self._failed_alone = False

    def adopt(self, command: Command) -> bool:
        """It is to be started by this from now on. True: it runs, by another."""
        before, self.command = self.command, command
        if command.identity == before.identity:
            self.slots = command.slots or (self.slots if before.slots is None else None)
            return False
        self.slots, self.info = command.slots, ModelInfo(command.model, command.size_bytes)
        self.break_off()  # `start` begins anew
        return self.state == "running"

    def break_off(self) -> None:
        """What is being started is in vain."""
        if self.state == "starting" and self.process is not None:
            self.process.kill()

    # --- starting and stopping --------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Raises BackendError if it does not get ready."""
        if self.state == "running":
            return
        await self._end()
        self.state, self.error = "starting", ""
        why, identity = "", self.command.identity
        try:
            async with asyncio.timeout(self.command.start_timeout_s):
                process = await self._begin()
                inventory = await self._ready(process)
                why = f"ended before it was ready ({process.status})"
        except TimeoutError:
            inventory, why = None, f"was not ready within {self.command.start_timeout_s:g} s"
        except OSError as error:
            inventory, why = None, f"could not be started ({error.strerror})"
        except BaseException:
            await self.stop()
            raise
        if self.command.identity != identity:
            await self.start()
            return
        if inventory is None:
            await self._end()
            self.state = "failed"
            self._tell(why)
            raise BackendError(f"its process {why}")
        await self._settle(inventory)

    async def _begin(self) -> Process:
        command, self.port = self.command, free_port()
        port = str(self.port)
        words = [word.replace(_PORT, port) for word in command.words]
        said = {"PORT": port} | {name: value.reveal().replace(_PORT, port) for name, value in command.environ.items()}
        process = await Process.start(command.model, words, environment(os.environ, said), self._cpus)
        self.process, self._lines = process, process.lines
        self.driver = command.driver(self.port)
        log.info("%s: process %d starts on port %d", command.model, process.pid, self.port)
        return process

    async def _ready(self, process: Process) -> Inventory | None:
        """What it has, once it tells; None if it ends before."""
        pause_s = _LOOK_AGAIN_S
        while not process.gone.done():
            try:
                return await self.driver.inventory(_LOOK_TIMEOUT_S)
            except BackendError:
                await asyncio.wait((process.gone,), timeout=pause_s)
                pause_s = min(2 * pause_s, _LOOK_AT_MOST_S)
        return None

    async def _settle(self, inventory: Inventory) -> None:
        """It is ready: what it tells of itself, and what it takes of the GPUs."""
        process, command = self.process, self.command
        assert process is not None
        info = inventory.models.get(inventory.names.get(command.model, ""), self.info)
        self.info = replace(info, name=command.model, size_bytes=command.size_bytes or info.size_bytes)
        self.slots = command.slots or inventory.slots or self.driver.slots
        taken = await memory.of_processes()
        if taken:
            members = (await asyncio.to_thread(machine.groups, {process.pid}))[process.pid]
            self.vram_bytes = sum(taken.get(pid, 0) for pid in members)
        self.restarts += self.fallen is not None
        self.fallen = None
        self._failed_alone = False
        self._up_at = asyncio.get_running_loop().time()
        self.state = "running"
        process.gone.add_done_callback(lambda _: self._fall(process))

    async def stop(self) -> None:
        """By our will: it does not come back by itself."""
        self.state = "stopping"
        await self._end()
        self.state, self.error, self.fallen = "stopped", "", None

    async def _end(self) -> None:
        """Nothing is left of its process from then on. Raises BackendError where that cannot be had."""
        self.driver.pool.close()
        if self.process is not None:
            await self.process.stop(STOP_GRACE_S)
            if not self.process.gone.done():
                raise BackendError(f"its last process ({self.process.pid}) does not end")
            self.process = None

    # --- going down -------------------------------------------------------------------------------------------------

    def _fall(self, process: Process) -> None:
        """It is gone, and nobody has stopped it."""
        if self.state != "running" or self.process is not process:
            return
        now = asyncio.get_running_loop().time()
        self._falls = 1 if now - self._up_at >= CALM_S else self._falls + 1
        rest_s = min(BACK_OFF_S * 2.0 ** (self._falls - 2), MAX_BACK_OFF_S) if self._falls > 1 else 0.0
        self.state, self.process = "down", None
        self.driver.pool.close()
        self._tell(f"went down ({process.status})")
        self.fallen = Fallen(now + rest_s, f"its process {self.error}")
        self._changed()

    def _tell(self, why: str) -> None:
        self.error = why
        words = "".join(f"\n{line}" for line in self.last_words)
        log.warning("%s: its process %s%s", self.command.model, why, f"; its last words:{words}" if words else "")

    @property
    def last_words(self) -> list[str]:
        return [*self._lines][-TOLD_LINES:]

    def give_up(self) -> None:
        """It hangs: that it goes down by that is a fact like any other, and so is what follows."""
        if self.process is not None and self.state == "running":
            log.warning("%s: process %d hangs, and is killed", self.command.model, self.process.pid)
            self.process.kill()

    def doubt(self, was_alone: bool) -> None:
        """It could not be started, maybe for want of memory: next time it is given all, but not for ever."""
        self._failed_alone = self._failed_alone or was_alone
        self.info = replace(self.info, size_bytes=self.command.size_bytes if self._failed_alone else 0)

    def told(self, for_operator: bool) -> dict[str, object]:
        process = self.process
        told: dict[str, object] = {
            "model": self.command.model,
            "state": self.state,
            "pid": process.pid if process is not None else None,
            "port": self.port if process is not None else None,
            "slots": self.slots,
            "restarts": self.restarts,
        }
        if self.error:
            told["error"] = self.error
        if self.error and for_operator:
            told["last_words"] = self.last_words
        return told
