"""OpenAI-compatible servers: vLLM, llama.cpp's llama-server, and whatever else speaks that API: what they have.

They see to their memory themselves, and are told nothing. Shapes: vLLM 0.32, llama.cpp of autumn 2026.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import Struct

from hermes.chat import ChatRequest, EmbedRequest
from hermes.dialects import strict
from hermes.dialects.openai_backend import LLAMACPP, OPENAI, VLLM, OpenAIBackend, Words
from hermes.errors import BackendError, BadRequest, LoopDetected
from hermes.fleet.inventory import Inventory, ModelInfo
from hermes.fleet.ollama import PullProgress, full_name
from hermes.http.pool import Pool
from hermes.policy.load_options import Terms
from hermes.policy.routing import MODEL_NAME

T = TypeVar("T")

KindName = Literal["openai", "vllm", "llamacpp"]


class Kind(Struct, frozen=True):
    """`health`: a path that fails while it cannot serve. `about`: where else it tells of itself.

    `streams_only`, `settles` and `slots` are as dialects and drivers have them.
    """

    words: Words
    streams_only: bool
    settles: bool
    slots: int | None = None
    health: str = ""
    about: str = ""


KINDS: Mapping[KindName, Kind] = {
    # Of an unknown server the worst is assumed.
    "openai": Kind(OPENAI, streams_only=True, settles=True),
    # It notices within 0.12 s that a client has left, whatever that had asked for. 256: its --max-num-seqs where nobody
    # says otherwise (1024 on the largest GPUs), which cannot be asked.
    "vllm": Kind(VLLM, streams_only=False, settles=False, slots=256, health="/health", about="/version"),
    # Until it has something to send it looks once a second whether somebody waits, and begins that second anew with
    # every result for anybody: of a whole answer it may never notice, of a prompt not before it has read it. At best it
    # ends the batch that it is at (2048 tokens: 2.6 s at 800 tokens/s).
    "llamacpp": Kind(LLAMACPP, streams_only=True, settles=True, health="/health", about="/props"),
}


class _Meta(Struct):
    """llama.cpp's."""

    n_ctx: int = 0
    n_ctx_train: int = 0
    size: int = 0
    ftype: str = ""


class _Model(Struct):
    id: str
    created: float | None = None
    aliases: list[str] | None = None
    max_model_len: int | None = None
    meta: _Meta | None = None


class _Models(Struct):
    data: list[_Model]


class _About(Struct):
    """vLLM's `/version`; llama.cpp's `/props`."""

    version: str = ""
    build_info: str = ""
    total_slots: int | None = None


class _Named(OpenAIBackend):
    """Requests go by the ids that the server lists."""

    ids: Mapping[str, str] = MappingProxyType({})  # by the name that we have for each

    def render_request(self, request: ChatRequest, model: str) -> tuple[str, bytes]:
        return super().render_request(request, self._id(model))

    def render_embed(self, request: EmbedRequest, model: str) -> tuple[str, bytes]:
        return super().render_embed(request, self._id(model))

    def _id(self, model: str) -> str:
        return self.ids.get(model) or self.ids.get(_short(model), model)


class OpenAI:
    """One server of this kind. `hop`: the header line by which a gateway knows that it is looking at itself.

    `called`: it has one model, and that is what we call it, whatever it is listed as.
    """

    loads = False
    pulls = False
    makes_room = True
    terms: Mapping[str, Terms] = MappingProxyType({})

    def __init__(self, pool: Pool, kind: Kind, hop: bytes = b"", called: str = "") -> None:
        self.pool = pool
        self._called = called
        self._hop = hop
        self.dialect = _Named(kind.words, kind.streams_only)
        self.settles = kind.settles
        self.slots = kind.slots
        self._kind = kind

    @property
    def server(self) -> "OpenAI":
        return self

    def server_of(self, model: str) -> "OpenAI":
        return self

    async def close(self) -> None:
        self.pool.close()

    async def inventory(self, timeout_s: float) -> Inventory:
        asked_at = asyncio.get_running_loop().time()
        deadline = asked_at + timeout_s
        if self._kind.health:
            await self._check(self._kind.health, deadline)
        listed = await self._get("/v1/models", _Models, deadline)
        about = _About()
        if self._kind.about:
            about = await self._about(self._kind.about, deadline)
        named = {name: model for model in listed.data if (name := _name(model.id))}
        if self._called and named:
            named = {self._called: named.get(self._called) or next(iter(named.values()))}
        self.dialect.ids = {name: model.id for name, model in named.items()}
        models = {name: _info(name, model) for name, model in named.items()}
        aliases = {alias: name for name, model in named.items() for alias in model.aliases or () if MODEL_NAME(alias)}
        tagged = {other: name for name in models for other in (full_name(name), _short(name))}  # as Ollama's have it
        names = tagged | aliases | {name: name for name in models}
        version = about.version or about.build_info
        slots = about.total_slots if about.total_slots and about.total_slots > 0 else None
        return Inventory(version, models, (), names, asked_at=asked_at, slots=slots)

    def expiring(self, inventory: Inventory) -> list[str]:
        return []

    def pull(self, model: str, stall_timeout_s: float) -> AsyncGenerator[PullProgress, None]:
        raise _by_itself()

    async def load(self, model: ModelInfo, timeout_s: float) -> None:
        raise _by_itself()

    async def unload(self, model: str, timeout_s: float) -> None:
        raise _by_itself()

    async def _check(self, path: str, deadline: float) -> None:
        """Raises BackendError while it cannot serve: vLLM's engine is dead, llama.cpp loads. Not told by all builds."""
        async with self.pool.exchange("GET", path, whole=True, deadline=deadline) as answer:
            said = answer.take_body()
            if answer.status >= 500:
                raise self.dialect.error(answer.status, said)

    async def _about(self, path: str, deadline: float) -> _About:
        """What it tells of itself, if it does."""
        async with self.pool.exchange("GET", path, whole=True, deadline=deadline) as answer:
            said = answer.take_body() if answer.status == 200 else b""
        try:
            return msgspec.json.decode(said, type=_About)
        except strict.MALFORMED:
            return _About()

    async def _get(self, path: str, kind: type[T], deadline: float) -> T:
        async with self.pool.exchange("GET", path, headers=self._hop, whole=True, deadline=deadline) as answer:
            said = answer.take_body()
            if answer.status == LoopDetected.status:
                raise BackendError("it is this very gateway, or one in front of it: its url points back here")
            if answer.status in (401, 403):
                raise BackendError(f"the backend answered {answer.status} to GET {path}: is its api_key right?")
            if answer.status != 200:
                raise BackendError(f"the backend answered {answer.status} to GET {path}: does it speak OpenAI's API?")
            return _decode(said, kind)


def _by_itself() -> BadRequest:
    return BadRequest("the backend loads its models itself", code="unsupported_by_backend")


def _decode(data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except strict.MALFORMED as error:
        raise BackendError(f"the backend's answer is not OpenAI's: {error}") from error


def _name(listed: str) -> str:
    """The public name of what a server lists: of a path, which is what it was started with, the file's."""
    name = listed if MODEL_NAME(listed) else listed.rstrip("/").rpartition("/")[2].removesuffix(".gguf")
    return name if MODEL_NAME(name) else ""


def _short(name: str) -> str:
    return name.removesuffix(":latest")


def _info(name: str, model: _Model) -> ModelInfo:
    meta = model.meta or _Meta()
    return ModelInfo(
        name,
        size_bytes=max(0, meta.size),
        modified_at=_rfc3339(model.created),
        quantization=meta.ftype,
        context_length=model.max_model_len or meta.n_ctx or meta.n_ctx_train,
    )


def _rfc3339(unix: Any) -> str:
    try:
        return datetime.fromtimestamp(unix, UTC).isoformat()
    except (TypeError, ValueError, OverflowError, OSError):
        return ""
