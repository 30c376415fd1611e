"""OpenAI-compatible servers: vLLM, llama.cpp's llama-server, and whatever else speaks that API: what they have.

Shapes: vLLM 0.32, llama.cpp of autumn 2026.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
from msgspec import Struct

from hermes.chat import ChatRequest, EmbedRequest
from hermes.dialects import strict
from hermes.dialects.openai_backend import LLAMACPP, OPENAI, VLLM, OpenAIBackend, Words
from hermes.errors import BackendError
from hermes.fleet.inventory import ModelInfo, untagged
from hermes.fleet.kind import Listing, public_name

KindName = Literal["openai", "vllm", "llamacpp"]


class Traits(Struct, frozen=True):
    """What tells one kind of them from another. `health`: what fails while it cannot serve; `about`: where else it
    tells of itself. The others are as a `Kind` has them.
    """

    words: Words
    streams_only: bool
    settles: bool
    slots: int | None = None
    health: str = ""
    about: str = ""


KINDS: Mapping[KindName, Traits] = {
    # Of an unknown server the worst is assumed.
    "openai": Traits(OPENAI, streams_only=True, settles=True),
    # It notices within 0.12 s that a client has left, whatever that had asked for. 256: its --max-num-seqs where nobody
    # says otherwise (1024 on the largest GPUs), which cannot be asked.
    "vllm": Traits(VLLM, streams_only=False, settles=False, slots=256, health="/health", about="/version"),
    # Until it has something to send it looks once a second whether somebody waits, and begins that second anew with
    # every result for anybody: of a whole answer it may never notice, of a prompt not before it has read it. At best it
    # ends the batch that it is at (2048 tokens: 2.6 s at 800 tokens/s).
    "llamacpp": Traits(LLAMACPP, streams_only=True, settles=True, health="/health", about="/props"),
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
    status: Any = None  # of llama.cpp's router: {"value": "loaded"}, or unloaded, loading, sleeping

    @property
    def is_absent(self) -> bool:
        value = self.status.get("value") if isinstance(self.status, dict) else None
        return isinstance(value, str) and value != "loaded"


class _Models(Struct):
    data: list[_Model]


class _About(Struct):
    """vLLM's `/version`; llama.cpp's `/props`."""

    version: str = ""
    build_info: str = ""
    total_slots: int | None = None


class OpenAIKind(OpenAIBackend):
    """One server of this kind. Requests go by the ids that it lists.

    `called`: it has one model, and that is what we call it, whatever it is listed as.
    """

    def __init__(self, traits: Traits, called: str = "") -> None:
        super().__init__(traits.words, traits.streams_only)
        self.settles = traits.settles
        self.slots = traits.slots
        self.asks = tuple(filter(None, (traits.health, "/v1/models", traits.about)))
        self._about = traits.about
        self._called = called
        self._ids: Mapping[str, str] = {}  # by the name that we have for each

    def render_request(self, request: ChatRequest, model: str) -> tuple[str, bytes]:
        return super().render_request(request, self._id(model))

    def render_embed(self, request: EmbedRequest, model: str) -> tuple[str, bytes]:
        return super().render_embed(request, self._id(model))

    def _id(self, model: str) -> str:
        return self._ids.get(model) or self._ids.get(untagged(model), model)

    def listing(self, said: Mapping[str, bytes]) -> Listing:
        named = {name: model for model in _decode(said["/v1/models"]).data if (name := public_name(model.id))}
        if self._called and named:
            named = {self._called: named.get(self._called) or next(iter(named.values()))}
        self._ids = {name: model.id for name, model in named.items()}
        about = _decode_about(said.get(self._about, b""))
        return Listing(
            tuple(_info(name, model) for name, model in named.items()),
            about.total_slots,
            about.version or about.build_info,
            {alias: name for name, model in named.items() for alias in model.aliases or ()},
            frozenset(name for name, model in named.items() if model.is_absent),
        )


def _decode(data: bytes) -> _Models:
    try:
        return msgspec.json.decode(data, type=_Models)
    except strict.MALFORMED as error:
        raise BackendError(f"the backend's answer is not OpenAI's: {error}") from error


def _decode_about(data: bytes) -> _About:
    """What it tells of itself, if it does."""
    try:
        return msgspec.json.decode(data, type=_About)
    except strict.MALFORMED:
        return _About()


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
