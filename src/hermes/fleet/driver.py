"""What speaks to one backend: what it has, and, where it loads what it is told to, loading and pulling."""

from collections.abc import AsyncGenerator, Mapping
from typing import Annotated, Any, Protocol, Self

from msgspec import Meta, Struct

from hermes.dialects import BackendDialect
from hermes.fleet.inventory import Inventory, ModelInfo
from hermes.http.pool import Pool
from hermes.policy.load_options import Terms

_Bytes = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class PullProgress(Struct, frozen=True, omit_defaults=True):
    """One line of a pull. `total` and `completed` in bytes, of the layer `digest`."""

    status: str = ""
    digest: str = ""
    total: _Bytes = 0
    completed: _Bytes = 0
    error: str = ""


class Server(Protocol):
    """Who is asked for answers."""

    @property
    def pool(self) -> Pool: ...
    @property
    def dialect(self) -> BackendDialect: ...


class Driver(Protocol):
    """`loads`: it loads what it is told to; else it sees to its memory itself, and is told nothing. `pulls`: it can be
    told to download. `makes_room`: what it is told to load it loads, if others have to go for it.

    `slots`: how many requests it runs at once, where neither it nor its operator says so. `settles`: it may read a
    prompt to its end though the client has left. `terms` are those that models are loaded on, by full name. `server`:
    who is asked for answers; None: each model has a server of its own.
    """

    loads: bool
    pulls: bool
    makes_room: bool
    slots: int | None
    settles: bool

    @property
    def server(self) -> Server | None: ...
    def server_of(self, model: str) -> Server: ...
    @property
    def terms(self) -> Mapping[str, Terms]: ...

    async def inventory(self, timeout_s: float) -> Inventory:
        """Ask what there is. Raises BackendError (unreachable, late or wrong answers)."""

    def expiring(self, inventory: Inventory) -> list[str]:
        """Models that are to stay and would soon go."""

    def pull(self, model: str, stall_timeout_s: float) -> AsyncGenerator[PullProgress, None]:
        """Download a model. Yields progress; a line with `error` is the last. Raises GatewayError."""

    async def load(self, model: ModelInfo, timeout_s: float) -> None:
        """Bring a model into memory, or have it stay. Raises GatewayError."""

    async def unload(self, model: str, timeout_s: float) -> None:
        """Let a model go when its requests have ended, and wait until it has. Raises GatewayError."""

    def give_up(self, model: str) -> None:
        """Probed again and again it says nothing: end what serves it, where that is ours to end."""

    def adopt(self, other: Any) -> list[str]:
        """That is made from what is said now of the same backend. Returns the models that are loaded otherwise."""

    def revised(self, seen: Inventory) -> Inventory:
        """What was seen, by what is said now."""

    async def retire(self) -> None:
        """Wait until the last thing that was asked is over; nothing else will be."""

    async def close(self) -> None:
        """The end: let go of everything."""


class Single(Driver, Server, Protocol):
    """One server for all its models."""


class Remote:
    """Of a driver what they have in common whose one server somebody else has started."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    @property
    def server(self) -> Self:
        return self

    def server_of(self, model: str) -> Self:
        return self

    def give_up(self, model: str) -> None:
        """It is somebody else's."""

    def revised(self, seen: Inventory) -> Inventory:
        return seen

    async def retire(self) -> None:
        await self.pool.retire()

    async def close(self) -> None:
        self.pool.close()
