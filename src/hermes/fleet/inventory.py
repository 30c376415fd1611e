"""What a backend has: its models, and those in its memory."""

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from hermes.policy.ticket import Fallen


class ModelInfo(Struct, frozen=True):
    """A model on a backend's disk. `modified_at` is RFC 3339 as the backend gives it.

    `parameters` are its own, a line for each; `metadata` is its file's, by GGUF's names.
    """

    name: str
    size_bytes: int = 0
    digest: str = ""
    modified_at: str = ""
    family: str = ""
    parameter_size: str = ""
    quantization: str = ""
    context_length: int = 0
    capabilities: tuple[str, ...] = ()
    embedding_length: int = 0
    format: str = "gguf"
    template: str = ""
    parameters: str = ""
    metadata: dict[str, Any] = {}


class LoadedModel(Struct, frozen=True):
    """A model in a backend's memory; `vram_bytes` of its `size_bytes` are on the GPU.

    `expires_at` is the backend's word, `expires_in_s` what that came to when it was said. Of one that runs it tells
    nothing: Ollama sets it when a model falls idle.
    """

    name: str
    size_bytes: int
    vram_bytes: int
    context_length: int
    expires_at: str
    expires_in_s: float | None = None


class Inventory(Struct, frozen=True):
    """`names` maps every name that the backend accepts to the model's full name. `asked_at`: monotonic seconds.

    `slots`: how many requests it says to run at once, None: it does not say. `absent`: of a server that sees to its
    memory itself, and tells, what it has yet to load. `slots_of`, `idle_ttls_s` and `fallen` are as in BackendFacts.
    """

    version: str
    models: dict[str, ModelInfo]
    loaded: tuple[LoadedModel, ...]
    names: dict[str, str]
    simulated: bool = False
    asked_at: float = 0.0
    slots: int | None = None
    slots_of: Mapping[str, int] = {}
    idle_ttls_s: Mapping[str, float] = {}
    fallen: Mapping[str, Fallen] = {}
    absent: frozenset[str] = frozenset()


def full_name(model: str) -> str:
    """The name that it has in lists once it is there: `gemma` is `gemma:latest`."""
    return model if ":" in model.rpartition("/")[2] else f"{model}:latest"


def untagged(name: str) -> str:
    return name.removesuffix(":latest")
