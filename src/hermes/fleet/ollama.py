"""Ollama's management API: what it has and what is loaded, pulling and loading. Inference goes through `attempt`.

Shapes: Ollama's docs/api.md and server/routes.go (v0.33).
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from hermes.dialects import strict
from hermes.dialects.ndjson import Lines
from hermes.dialects.ollama import Ollama as Dialect
from hermes.errors import BackendError, BackendTimeout, LoopDetected
from hermes.fleet.driver import PullProgress, Remote
from hermes.fleet.inventory import Inventory, LoadedModel, ModelInfo
from hermes.fleet.terms import NO_PINS, UNPINNED, Agreed, TermsOf
from hermes.http.pool import Pool
from hermes.policy.load_options import KEEP_ALIVE_S, Pins

T = TypeVar("T")

_Size = Annotated[int, Meta(ge=0, le=2**63 - 1)]

_MANAGEMENT_BYTES = 16 * 1024 * 1024

LOOK_AGAIN_S = 0.05


class _Version(Struct):
    version: str
    simulated: bool = False


class _Details(Struct):
    family: str = ""
    parameter_size: str = ""
    quantization_level: str = ""
    context_length: _Size = 0
    embedding_length: _Size = 0
    format: str = "gguf"


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
    template: str = ""
    parameters: str = ""


class Ollama(Remote):
    """One Ollama server. `pins` are by any of the model's names; `unlisted` are those of all other models.

    `hop`: the header line by which a gateway knows that it is looking at itself.
    """

    loads = True
    pulls = True
    makes_room = True
    slots: int | None = None  # OLLAMA_NUM_PARALLEL cannot be asked
    settles = True  # it reads a prompt to its end, whoever has left meanwhile

    def __init__(
        self, pool: Pool, pins: Mapping[str, Pins] = NO_PINS, unlisted: Pins = UNPINNED, hop: bytes = b""
    ) -> None:
        super().__init__(pool)
        self._hop = hop
        self.terms = TermsOf(pins, unlisted)
        self.dialect: Dialect = Agreed(self.terms.__getitem__, self._thinks)
        self._models: dict[str, ModelInfo] = {}  # as last listed
        self._shown: dict[str, _Show] = {}  # by digest: what a model can do does not change under one

    def adopt(self, other: "Ollama") -> list[str]:
        """What is loaded otherwise is loaded anew by whoever asks next."""
        self.terms.adopt(other.terms)
        return []

    async def inventory(self, timeout_s: float) -> Inventory:
        """Ask what there is. Raises BackendError (unreachable, late or wrong answers)."""
        asked_at = asyncio.get_running_loop().time()
        deadline = asked_at + timeout_s
        version = await self._get("/api/version", _Version, deadline)
        tags = await self._get("/api/tags", _Tags, deadline)
        running, told_at = await self._running(deadline)
        models = {tag.name: await self._describe(tag, deadline) for tag in tags.models or ()}
        self._shown = {tag.digest: self._shown[tag.digest] for tag in tags.models or () if tag.digest in self._shown}
        self._models = models
        names = _names(models)
        loaded = tuple(
            LoadedModel(
                model.name,
                model.size,
                model.size_vram,
                model.context_length,
                model.expires_at,
                _seconds_until(model.expires_at, told_at),
            )
            for model in running
        )
        self._see(running, models)
        return Inventory(version.version, models, loaded, names, version.simulated, asked_at)

    def _see(self, running: tuple[_Running, ...], models: Mapping[str, ModelInfo]) -> None:
        contexts = {model.name: model.context_length for model in running}
        for name in {*self.terms, *contexts}:
            terms = self.terms[name]
            if name in contexts:
                terms.see(contexts[name], models[name].context_length if name in models else 0)
            else:
                terms.miss()

    def expiring(self, inventory: Inventory) -> list[str]:
        """Models that are to stay and would soon go. What others have loaded and only they use is theirs to keep."""
        loaded = {model.name for model in inventory.loaded}
        for name, terms in self.terms.items():
            terms.kept = terms.kept and name in loaded
        return [
            model.name
            for model in inventory.loaded
            if self.terms[model.name].stays and model.expires_in_s is not None and model.expires_in_s < KEEP_ALIVE_S / 3
        ]

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
        """Bring a model into memory, or have it stay: an empty prompt generates nothing. Raises BackendError."""
        terms = self.terms[model.name]
        # A load that is not to be kept would be an unload.
        keep_alive_s = terms.keep_alive_s or KEEP_ALIVE_S
        path, asked = "/api/generate", {"model": model.name, "stream": False, "keep_alive": keep_alive_s}
        if "embedding" in model.capabilities and "completion" not in model.capabilities:
            path, asked = "/api/embed", {"model": model.name, "input": [], "keep_alive": keep_alive_s}
        if terms.options:
            asked["options"] = terms.options
        deadline = asyncio.get_running_loop().time() + timeout_s
        try:
            await self._tell_to(path, asked, deadline)
        except BackendError as error:
            if type(error) is BackendError:  # it was heard, and not for want of time or permission
                terms.failed()
            raise
        terms.loaded()
        with contextlib.suppress(BackendError):  # what waits for it may ask for a context of its own
            running, _ = await self._running(deadline)
            self._see(running, self._models)

    async def unload(self, model: str, timeout_s: float) -> None:
        """Let a model go when its requests have ended, and wait until it has. Raises BackendError.

        Ollama answers before. While the model is still there, the next load might make another one go as well.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        await self._tell_to("/api/generate", {"model": model, "stream": False, "keep_alive": 0}, deadline)
        while any(running.name == model for running in (await self._running(deadline))[0]):
            if loop.time() > deadline - LOOK_AGAIN_S:
                raise BackendTimeout(f"it has not let {model!r} go within {timeout_s:.3g} s")
            await asyncio.sleep(LOOK_AGAIN_S)
        self.terms[model].miss()

    async def _tell_to(self, path: str, asked: dict[str, Any], deadline: float) -> None:
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
            details.context_length or _length(shown, ".context_length"),
            shown.capabilities or tag.capabilities or (),
            details.embedding_length or _length(shown, ".embedding_length"),
            details.format,
            shown.template,
            shown.parameters,
            shown.model_info or {},
        )

    async def _show(self, tag: _Tag, deadline: float) -> _Show:
        if tag.digest not in self._shown:
            body = msgspec.json.encode({"model": tag.name})
            async with self.pool.exchange("POST", "/api/show", body, whole=True, deadline=deadline) as answer:
                said = answer.take_body()
                self._shown[tag.digest] = _decode(said, _Show) if answer.status == 200 else _Show()
        return self._shown[tag.digest]

    async def _running(self, deadline: float) -> tuple[tuple[_Running, ...], datetime]:
        """What is loaded, and when that was by the backend's clock, which `expires_at` is of too."""
        running, headers = await self._ask("/api/ps", _Ps, deadline)
        try:
            told_at = parsedate_to_datetime(headers[b"date"].decode("latin-1"))
        except (KeyError, ValueError):
            told_at = datetime.now(UTC)
        return running.models or (), told_at

    async def _get(self, path: str, kind: type[T], deadline: float) -> T:
        return (await self._ask(path, kind, deadline))[0]

    async def _ask(self, path: str, kind: type[T], deadline: float) -> tuple[T, dict[bytes, bytes]]:
        async with self.pool.exchange("GET", path, headers=self._hop, whole=True, deadline=deadline) as answer:
            said, headers = answer.take_body(), answer.headers
            if answer.status == LoopDetected.status:
                raise BackendError("it is this very gateway, or one in front of it: its url points back here")
            if answer.status != 200:
                raise BackendError(f"the backend answered {answer.status} to GET {path}: is it an Ollama?")
            return _decode(said, kind), headers


def _decode(data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except strict.MALFORMED as error:
        raise BackendError(f"the backend's answer is not Ollama's: {error}") from error


def _seconds_until(rfc3339: str, now: datetime) -> float | None:
    try:
        return (datetime.fromisoformat(rfc3339) - now).total_seconds()
    except (ValueError, TypeError):  # no date, or one without its time zone
        return None


def _names(models: dict[str, ModelInfo]) -> dict[str, str]:
    """Every name Ollama accepts for its models: `gemma` is `gemma:latest`."""
    names = {name.removesuffix(":latest"): name for name in models}
    return names | {name: name for name in models}


def _length(shown: _Show, ending: str) -> int:
    for key, value in (shown.model_info or {}).items():
        if key.endswith(ending) and isinstance(value, int):
            return value
    return 0
