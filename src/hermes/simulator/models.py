"""The models a simulated server has: what each weighs, how fast it is, what it can do, and how names resolve."""

import hashlib
import re
from difflib import get_close_matches
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from hermes.config.notation import parse_size
from hermes.errors import ConfigError

GIB = 1024**3

CAPABILITIES = ("completion", "tools", "vision", "insert", "thinking", "embedding")


class SimulatedModel(Struct, frozen=True):
    """One model. `memory_bytes` is what it takes when loaded, `load_s` how long that takes; rates are tokens a second.

    `built_in_parser`: tool calls come in a middle chunk as soon as they are whole, as from models that Ollama parses
    itself; otherwise in the final object, as from models with a native chat template.
    """

    name: str
    memory_bytes: int = 4 * GIB
    load_s: float = 3.0
    prefill_tps: float = 1500.0
    decode_tps: float = 40.0
    slots: int = 1
    context_length: int = 32768
    capabilities: tuple[str, ...] = ("completion",)
    built_in_parser: bool = False
    embedding_length: int = 768
    family: str = "llama"
    parameter_size: str = "7B"

    @property
    def file_bytes(self) -> int:
        """What it takes on disk: the weights, without the caches that loading adds."""
        return self.memory_bytes * 9 // 10

    @property
    def digest(self) -> str:
        return hashlib.sha256(f"simulated {self.name}".encode()).hexdigest()

    @property
    def parallel(self) -> int:
        """Slots in use: Ollama gives an embedding model one, whatever is configured (sched.go, load)."""
        return self.slots if "completion" in self.capabilities else 1


DEFAULT_MODELS = (
    SimulatedModel(
        "gemma",
        memory_bytes=9 * GIB,
        load_s=2.5,
        slots=4,
        capabilities=("completion", "tools", "vision"),
        family="gemma3",
        parameter_size="12.2B",
    ),
    SimulatedModel(
        "mistral", memory_bytes=5 * GIB, load_s=1.5, decode_tps=55.0, capabilities=("completion", "tools", "insert")
    ),
    SimulatedModel(
        "llama3.2",
        memory_bytes=3 * GIB,
        load_s=1.0,
        prefill_tps=3000.0,
        decode_tps=90.0,
        slots=4,
        capabilities=("completion", "tools"),
        parameter_size="3.2B",
    ),
    SimulatedModel(
        "qwen3",
        memory_bytes=6 * GIB,
        load_s=2.0,
        decode_tps=60.0,
        slots=2,
        capabilities=("completion", "tools", "thinking"),
        built_in_parser=True,
        family="qwen3",
        parameter_size="8.2B",
    ),
    SimulatedModel(
        "nomic-embed-text",
        memory_bytes=GIB // 2,
        load_s=0.4,
        prefill_tps=8000.0,
        context_length=2048,
        capabilities=("embedding",),
        family="nomic-bert",
        parameter_size="137M",
    ),
)

# What `pull` finds besides the models that are there from the start.
REGISTRY = (
    SimulatedModel("phi4-mini", memory_bytes=3 * GIB, load_s=1.0, decode_tps=80.0, parameter_size="3.8B"),
    SimulatedModel("gemma:27b", memory_bytes=18 * GIB, load_s=6.0, decode_tps=20.0, parameter_size="27.4B"),
    SimulatedModel("all-minilm", memory_bytes=GIB // 8, load_s=0.2, capabilities=("embedding",), embedding_length=384),
)


# --- names ----------------------------------------------------------------------------------------------------------

_HOST, _NAMESPACE = "registry.ollama.ai", "library"
_PART = {
    "host": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}", re.ASCII).fullmatch,
    "namespace": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}", re.ASCII).fullmatch,
    "model": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}", re.ASCII).fullmatch,
}


def full_name(name: str) -> str | None:
    """`host/namespace/model:tag`, with Ollama's defaults (types/model/name.go); None if it is no model name."""
    path, colon, tag = name.strip().rpartition(":")
    if not colon or "/" in tag:
        path, tag = name.strip(), "latest"
    *before, model = path.rsplit("/", 2)
    namespace = before.pop() if before else _NAMESPACE
    host = before.pop() if before else _HOST
    host = host.partition("://")[2] or host
    valid = _PART["host"](host) and _PART["namespace"](namespace) and _PART["model"](model) and _PART["model"](tag)
    return f"{host}/{namespace}/{model}:{tag}" if valid else None


def short_name(name: str) -> str | None:
    """The name as Ollama lists it: always with a tag, without the default host and namespace."""
    full = full_name(name)
    if full is None:
        return None
    host, namespace, model = full.rsplit("/", 2)
    if host.lower() != _HOST:
        return full
    return model if namespace.lower() == _NAMESPACE else f"{namespace}/{model}"


def model_key(name: str) -> str | None:
    """What two spellings of one model have in common: `gemma`, `Gemma:latest` and `library/gemma` are the same."""
    short = short_name(name)
    return short.casefold() if short is not None else None


# --- written on a command line --------------------------------------------------------------------------------------

_FIELDS = {
    "load": "load_s",
    "prefill": "prefill_tps",
    "decode": "decode_tps",
    "slots": "slots",
    "context": "context_length",
}
_FORM = "gemma=8GiB,load=6,prefill=2000,decode=40,slots=4,context=8192,can=completion+tools"


def parse_model(spec: str) -> SimulatedModel:
    """A model from `name` or `name=memory,load=seconds,...`; what is not said is as in DEFAULT_MODELS, or usual.

    Raises ConfigError that shows the form.
    """
    name, _, rest = spec.partition("=")
    if model_key(name) is None:
        raise ConfigError(f"model {spec!r}: {name!r} is no model name; write {_FORM}")
    known = {model_key(model.name): model for model in (*REGISTRY, *DEFAULT_MODELS)}
    model = known.get(model_key(name), SimulatedModel(name, capabilities=("completion", "tools")))
    fields: dict[str, Any] = {"name": name}
    for part in filter(None, rest.split(",")):
        key, _, value = part.partition("=") if "=" in part else ("memory", "", part)
        try:
            field, parsed = _parse_field(key.strip(), value.strip())
        except ValueError as error:
            raise ConfigError(f"model {name!r}: {key}={value}: {error}; write {_FORM}") from None
        fields[field] = parsed
    return replace(model, **fields)


def _parse_field(key: str, value: str) -> tuple[str, Any]:
    if key == "memory":
        return "memory_bytes", parse_memory(value)
    if key == "can":
        wanted = tuple(value.split("+"))
        for capability in wanted:
            if capability not in CAPABILITIES:
                raise ValueError(f"{capability!r} is none of {', '.join(CAPABILITIES)}")
        return "capabilities", wanted
    if key not in _FIELDS:
        near = get_close_matches(key, [*_FIELDS, "memory", "can"], n=1)
        raise ValueError(f"there is no {key!r}" + (f", but {near[0]!r}" if near else ""))
    number = float(value) if key in ("load", "prefill", "decode") else int(value)
    if not 0 <= number < float("inf") or (number == 0 and key != "load"):
        raise ValueError("it must be above 0")
    return _FIELDS[key], number


def parse_memory(text: str) -> int:
    """Bytes in `8GiB`, `512MB` or `1073741824`. Raises ValueError."""
    try:
        size = parse_size(text)
    except ValueError:
        size = 0
    if not size:
        raise ValueError("a size is written like 8GiB or 512MB")
    return size
