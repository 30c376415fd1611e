"""A backend whose models are processes of ours (`unit`).

What is loaded together is the scheduler's to decide, as with any backend that loads what it is told to.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping
from types import MappingProxyType

from msgspec.structs import replace

from hermes import machine
from hermes.errors import BackendError, BadRequest, ModelNotFound
from hermes.fleet.driver import PullProgress, Server
from hermes.fleet.inventory import Inventory, LoadedModel, ModelInfo, full_name
from hermes.fleet.unit import Command, Unit
from hermes.policy.load_options import Terms

# Where it could not be started again in that time it waits for who asks: its memory may be another's for good.
MISSED_S = 600.0


class Managed:
    """`cpus`: the processors that the processes may run on; none: those of ours."""

    loads = True
    pulls = False
    makes_room = False
    slots: int | None = None  # each model has its own
    server: Server | None = None
    terms: Mapping[str, Terms] = MappingProxyType({})

    def __init__(self, commands: Iterable[Command], cpus: Collection[int] = ()) -> None:
        self.changed: Callable[[], None] = lambda: None
        self._cpus = cpus
        self._units = {each.model: self._unit(each) for each in commands}
        self.settles = any(unit.driver.settles for unit in self._units.values())

    def server_of(self, model: str) -> Server:
        return self._units[model].driver

    def adopt(self, other: "Managed") -> list[str]:
        """What runs by another command than it is to is told, and so is what is to be no longer: it goes when it is
        unloaded.
        """
        commands = {model: unit.command for model, unit in other._units.items()}
        stale = []
        for model, unit in list(self._units.items()):
            command = commands.pop(model, None)
            unit.unwanted = command is None
            if command is not None:
                is_stale = unit.adopt(command)
            elif not (is_stale := unit.process is not None):
                del self._units[model]
            else:
                unit.break_off()
            if is_stale:
                stale.append(model)
        self._units |= {model: self._unit(command) for model, command in commands.items()}
        self.settles = any(unit.driver.settles for unit in self._units.values())
        return stale

    async def retire(self) -> None:
        await asyncio.gather(*(unit.driver.pool.retire() for unit in self._units.values()))

    def _unit(self, command: Command) -> Unit:
        return Unit(command, self._cpus, lambda: self.changed())

    async def inventory(self, timeout_s: float) -> Inventory:
        """What we know ourselves, and what the processes take."""
        asked_at = asyncio.get_running_loop().time()
        running = {unit.process.pid: unit for unit in self._units.values() if unit.process and unit.state == "running"}
        weights = await asyncio.to_thread(machine.groups, running) if running else {}
        loaded = tuple(
            _loaded(unit, sum(weights[pid].values())) for pid, unit in running.items() if unit.state == "running"
        )
        return self.revised(Inventory("", {}, loaded, {}, asked_at=asked_at))

    def revised(self, seen: Inventory) -> Inventory:
        """With what is known without looking."""
        units = [(model, unit) for model, unit in self._units.items() if not unit.unwanted]
        names = {name: model for model, _ in units for name in (full_name(model), model.removesuffix(":latest"))}
        return replace(
            seen,
            models={model: unit.info for model, unit in units},
            names=names | {model: model for model, _ in units},
            slots_of={model: unit.slots for model, unit in units if unit.slots},
            idle_ttls_s={model: unit.command.idle_ttl_s for model, unit in units if unit.command.idle_ttl_s},
            fallen={
                model: unit.fallen
                for model, unit in units
                if unit.fallen and seen.asked_at < unit.fallen.until + MISSED_S
            },
        )

    def expiring(self, inventory: Inventory) -> list[str]:
        return []

    def pull(self, model: str, stall_timeout_s: float) -> AsyncGenerator[PullProgress, None]:
        raise BadRequest("the backend runs what it is configured to", code="unsupported_by_backend")

    async def load(self, model: ModelInfo, timeout_s: float) -> None:
        """Start its process, within a time of its own."""
        if (unit := self._units.get(model.name)) is None or unit.unwanted:
            raise ModelNotFound(f"there is no command of {model.name!r} any more", param="model")
        is_alone = not any(each.process for each in self._units.values() if each is not unit)
        try:
            await unit.start()
        except BackendError:
            unit.doubt(is_alone)
            if unit.unwanted:
                del self._units[model.name]
            raise

    async def unload(self, model: str, timeout_s: float) -> None:
        if (unit := self._units.get(model)) is not None:
            await unit.stop()
            if unit.unwanted:
                del self._units[model]

    def give_up(self, model: str) -> None:
        if (unit := self._units.get(model)) is not None:
            unit.give_up()

    async def close(self) -> None:
        await asyncio.gather(*(unit.stop() for unit in self._units.values()), return_exceptions=True)

    @property
    def restarts(self) -> dict[str, int]:
        """By model."""
        return {model: unit.restarts for model, unit in self._units.items()}

    def told(self, for_operator: bool) -> list[dict[str, object]]:
        """Of each process; what it has said is for the operator."""
        return [unit.told(for_operator) for unit in self._units.values()]


def _loaded(unit: Unit, rss_bytes: int) -> LoadedModel:
    size_bytes = rss_bytes + unit.vram_bytes or unit.info.size_bytes
    return LoadedModel(unit.command.model, size_bytes, unit.vram_bytes, unit.info.context_length, "")
