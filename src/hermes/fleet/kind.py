"""Servers that see to their memory themselves: how they are asked what they have. They are told nothing.

What is particular to one kind is a `Kind`: bytes to values and back, without any I/O. All else is here, and is the same
for vLLM, llama.cpp, TGI and a class of somebody's own.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from types import MappingProxyType
from typing import Protocol

from msgspec import Struct

from hermes.dialects import BackendDialect
from hermes.errors import BackendError, BadRequest, LoopDetected
from hermes.fleet.driver import PullProgress, Remote
from hermes.fleet.inventory import Inventory, ModelInfo, full_name, untagged
from hermes.http.pool import Pool
from hermes.policy.load_options import Terms
from hermes.policy.routing import MODEL_NAME


class Listing(Struct, frozen=True):
    """What a server says that it has. `aliases` are more names, each of one of its models.

    `slots`: how many requests it says to run at once, None: it does not say. `absent`: models that it has yet to load.
    """

    models: tuple[ModelInfo, ...]
    slots: int | None = None
    version: str = ""
    aliases: dict[str, str] = {}
    absent: frozenset[str] = frozenset()


class Kind(BackendDialect, Protocol):
    """A dialect, and how to learn what a server has that speaks it.

    `asks`: paths, each got at every look. `slots` and `settles` are as drivers have them.
    """

    @property
    def asks(self) -> tuple[str, ...]: ...
    @property
    def slots(self) -> int | None: ...
    @property
    def settles(self) -> bool: ...

    def listing(self, said: Mapping[str, bytes]) -> Listing:
        """What there is, from the bodies of what was got.

        `said[path]` raises what is wrong where the answer was none, `said.get(path)` passes that over. Raises
        BackendError for anything else.
        """


class ByItself(Remote):
    """The driver of one server. `hop`: the header line by which a gateway knows that it is looking at itself."""

    loads = False
    pulls = False
    makes_room = True
    terms: Mapping[str, Terms] = MappingProxyType({})

    def __init__(self, pool: Pool, kind: Kind, hop: bytes = b"") -> None:
        super().__init__(pool)
        self.dialect = kind
        self.slots = kind.slots
        self.settles = kind.settles
        self._hop = hop

    def adopt(self, other: "ByItself") -> list[str]:
        return []

    async def inventory(self, timeout_s: float) -> Inventory:
        asked_at = asyncio.get_running_loop().time()
        said = _Said()
        for path in self.dialect.asks:
            await self._ask(path, said, asked_at + timeout_s)
        return _inventory(self.dialect.listing(said), asked_at)

    async def _ask(self, path: str, said: "_Said", deadline: float) -> None:
        """Raises BackendError while it cannot serve: vLLM's engine is dead, llama.cpp loads, TGI is unhealthy."""
        async with self.pool.exchange("GET", path, headers=self._hop, whole=True, deadline=deadline) as answer:
            status, body = answer.status, answer.take_body()
        if status == LoopDetected.status:
            raise BackendError("it is this very gateway, or one in front of it: its url points back here")
        if status >= 500:
            raise self.dialect.error(status, body)
        said.statuses[path] = status
        if status == 200:
            said[path] = body

    def expiring(self, inventory: Inventory) -> list[str]:
        return []

    def pull(self, model: str, stall_timeout_s: float) -> AsyncGenerator[PullProgress, None]:
        raise _by_itself()

    async def load(self, model: ModelInfo, timeout_s: float) -> None:
        raise _by_itself()

    async def unload(self, model: str, timeout_s: float) -> None:
        raise _by_itself()


def _by_itself() -> BadRequest:
    return BadRequest("the backend loads its models itself", code="unsupported_by_backend")


class _Said(dict[str, bytes]):
    """The bodies of what was got."""

    def __init__(self) -> None:
        self.statuses: dict[str, int] = {}

    def __missing__(self, path: str) -> bytes:
        status = self.statuses.get(path)
        if status is None:
            raise KeyError(path)  # that was not asked
        why = "is its api_key right?" if status in (401, 403) else "is its kind right?"
        raise BackendError(f"the backend answered {status} to GET {path}: {why}")


def _inventory(listing: Listing, asked_at: float) -> Inventory:
    models = {model.name: model for model in listing.models if MODEL_NAME(model.name)}
    tagged = {other: name for name in models for other in (full_name(name), untagged(name))}  # as Ollama's have it
    aliases = {alias: name for alias, name in listing.aliases.items() if MODEL_NAME(alias) and name in models}
    names = tagged | aliases | {name: name for name in models}
    slots = listing.slots if listing.slots is not None and listing.slots > 0 else None
    return Inventory(listing.version, models, (), names, asked_at=asked_at, slots=slots, absent=listing.absent)


def public_name(listed: str) -> str:
    """Of what a server calls its model: of a path, which is what it was started with, the last part. "": none."""
    name = listed if MODEL_NAME(listed) else listed.rstrip("/").rpartition("/")[2].removesuffix(".gguf")
    return name if MODEL_NAME(name) else ""
