"""Ollama's management API: what it has and what is loaded, pulling and loading. Inference goes through `attempt`.

Shapes: Ollama's docs/api.md and server/routes.go (v0.33).
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from hermes.chat import ChatRequest
from hermes.dialects import strict
from hermes.dialects.ndjson import Lines
from hermes.dialects.ollama import Ollama as Dialect
from hermes.errors import BackendError
from hermes.fleet.inventory import Inventory, LoadedModel, ModelInfo
from hermes.http.pool import Pool

T = TypeVar("T")

_Size = Annotated[int, Meta(ge=0, le=2**63 - 1)]

_MANAGEMENT_BYTES = 16 * 1024 * 1024


class _Version(Struct):
    version: str
    simulated: bool = False


class _Details(Struct):
    family: str = ""
    parameter_size: str = ""
    quantization_level: str = ""
    context_length: _Size = 0


class _Tag(Struct):
    name: str
    size: _Size = 0
    digest: str = ""
    modified_at: str = ""
    details: _Details | None = None
    capabilities: tuple[str, ...] | None = None


class _Tags(Struct):
    models: tuple[_Tag, ...] | None = None


class _Running(Struct):
    name: str
    size: _Size = 0
    size_vram: _Size = 0
    context_length: _Size = 0
    expires_at: str = ""


class _Ps(Struct):
    models: tuple[_Running, ...] | None = None


class _Show(Struct):
    capabilities: tuple[str, ...] | None = None
    model_info: dict[str, Any] | None = None


class PullProgress(Struct, frozen=True, omit_defaults=True):
    """One line of a pull. `total` and `completed` in bytes, of the layer `digest`."""

    status: str = ""
    digest: str = ""
    total: _Size = 0
    completed: _Size = 0
    error: str = ""


class Pins(Struct, frozen=True):
    """What is the same for every request of a model: load-time options that differ make Ollama load it anew."""

    options: dict[str, Any] = {}
    keep_alive: float | None = None


NO_PINS: Mapping[str, Pins] = MappingProxyType({})


class _Pinning(Dialect):
    """Requests of a model that something is pinned for are rendered by a dialect of its own."""

    def __init__(self, own: Mapping[str, Dialect], thinks: Callable[[str], bool | None]) -> None:
        super().__init__(thinks=thinks)
        self._own = own

    def render_request(self, request: ChatRequest, model: str) -> tuple[str, bytes]:
        own = self._own.get(model)
        return super().render_request(request, model) if own is None else own.render_request(request, model)


class Ollama:
    """One Ollama server. `pins` are by any of the model's names."""

    dialect: Dialect

    def __init__(self, pool: Pool, pins: Mapping[str, Pins] = NO_PINS) -> None:
        self.pool = pool
        self._pins = {name: said for name, said in pins.items() if said != Pins()}
        self._pinned: dict[str, Pins] = {}  # by full name, of the models that there are
        self._own: dict[str, Dialect] = {}  # the same
        self.dialect = _Pinning(self._own, self._thinks) if self._pins else Dialect(thinks=self._thinks)
        self._models: dict[str, ModelInfo] = {}  # as last listed
        self._shown: dict[str, _Show] = {}  # by digest: what a model can do does not change under one

    async def inventory(self, timeout_s: float) -> Inventory:
        """Ask what there is. Raises BackendError (unreachable, late or wrong answers)."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        version = await self._get("/api/version", _Version, deadline)
        tags = await self._get("/api/tags", _Tags, deadline)
        running = await self._get("/api/ps", _Ps, deadline)
        models = {tag.name: await self._describe(tag, deadline) for tag in tags.models or ()}
        self._shown = {tag.digest: self._shown[tag.digest] for tag in tags.models or () if tag.digest in self._shown}
        self._models = models
        names = _names(models)
        self._pin({names[name]: pins for name, pins in self._pins.items() if name in names})
        loaded = tuple(
            LoadedModel(model.name, model.size, model.size_vram, model.context_length, model.expires_at)
            for model in running.models or ()
        )
        return Inventory(version.version, models, loaded, names, version.simulated)

    def _pin(self, pinned: dict[str, Pins]) -> None:
        self._pinned = pinned
        self._own.clear()
        self._own |= {name: Dialect(pins.options, pins.keep_alive, self._thinks) for name, pins in pinned.items()}

    def _thinks(self, model: str) -> bool | None:
        """Whether a model is able to think; None where its server does not say what it can."""
        info = self._models.get(model)
        return "thinking" in info.capabilities if info is not None and info.capabilities else None

    async def pull(self, model: str, stall_timeout_s: float) -> AsyncGenerator[PullProgress, None]:
        """Download a model. Yields progress; a line with `error` is the last. Raises BackendError."""
        loop = asyncio.get_running_loop()
        body = msgspec.json.encode({"model": model, "stream": True})
        deadline = loop.time() + stall_timeout_s
        async with self.pool.exchange("POST", "/api/pull", body, deadline=deadline) as answer:
            if answer.status != 200:
                raise self.dialect.error(answer.status, await answer.read_all(_MANAGEMENT_BYTES, deadline))
            lines = Lines()
            while data := await answer.read(loop.time() + stall_timeout_s):
                for line in lines.feed(data):
                    yield _decode(line, PullProgress)
            if last := lines.finish():
                yield _decode(last, PullProgress)

    async def load(self, model: ModelInfo, timeout_s: float) -> None:
        """Bring a model into memory: an empty prompt loads and generates nothing. Raises BackendError."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        path, asked = "/api/generate", {"model": model.name, "stream": False}
        pins = self._pinned.get(model.name, Pins())
        if "embedding" in model.capabilities and "completion" not in model.capabilities:
            path, asked = "/api/embed", {"model": model.name, "input": []}
        if pins.options:
            asked["options"] = pins.options
        if pins.keep_alive is not None:
            asked["keep_alive"] = pins.keep_alive
        body = msgspec.json.encode(asked)
        async with self.pool.exchange("POST", path, body, whole=True, deadline=deadline) as answer:
            said = answer.take_body()
            if answer.status != 200:
                raise self.dialect.error(answer.status, said)

    async def _describe(self, tag: _Tag, deadline: float) -> ModelInfo:
        """The list knows nothing of tools and thinking where a model brings a template of its own (seen on 0.33)."""
        details, shown = tag.details or _Details(), await self._show(tag, deadline)
        return ModelInfo(
            tag.name,
            tag.size,
            tag.digest,
            tag.modified_at,
            details.family,
            details.parameter_size,
            details.quantization_level,
            details.context_length or _context_length(shown),
            shown.capabilities or tag.capabilities or (),
        )

    async def _show(self, tag: _Tag, deadline: float) -> _Show:
        if tag.digest not in self._shown:
            body = msgspec.json.encode({"model": tag.name})
            async with self.pool.exchange("POST", "/api/show", body, whole=True, deadline=deadline) as answer:
                said = answer.take_body()
                self._shown[tag.digest] = _decode(said, _Show) if answer.status == 200 else _Show()
        return self._shown[tag.digest]

    async def _get(self, path: str, kind: type[T], deadline: float) -> T:
        async with self.pool.exchange("GET", path, whole=True, deadline=deadline) as answer:
            said = answer.take_body()
            if answer.status != 200:
                raise BackendError(f"the backend answered {answer.status} to GET {path}: is it an Ollama?")
            return _decode(said, kind)


def _decode(data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except strict.MALFORMED as error:
        raise BackendError(f"the backend's answer is not Ollama's: {error}") from error


def _names(models: dict[str, ModelInfo]) -> dict[str, str]:
    """Every name Ollama accepts for its models: `gemma` is `gemma:latest`."""
    names = {name.removesuffix(":latest"): name for name in models}
    return names | {name: name for name in models}


def _context_length(shown: _Show) -> int:
    for key, value in (shown.model_info or {}).items():
        if key.endswith(".context_length") and isinstance(value, int):
            return value
    return 0
