"""Which model a request means, how it is served, and which backends can."""

import re
from collections.abc import Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from hermes.chat import Sampling
from hermes.errors import BadRequest, ModelNotAllowed
from hermes.policy.access import may_use
from hermes.principal import UNBOUNDED, Allowance, Class, Principal

# I25. Also keeps model names fit for labels, paths and log lines.
MODEL_NAME = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._:/@-]{0,199}").fullmatch


# Claude Code's picker shows only names that begin with claude or anthropic: so every model has one.
ALIAS = "claude-local-"


def check_model_name(name: str) -> str:
    """The name, if it is one. Raises BadRequest."""
    if not MODEL_NAME(name):
        raise BadRequest(
            f"{name[:80]!r} is not a model name: letters, digits and . _ : / @ -, a letter or digit first,"
            " no '..', at most 200",
            param="model",
        )
    return name


class Service(Struct, frozen=True):
    """How one model is served. `backend_model` is the backends' name for it; no `backends`: any that has it.

    `sampling` fills in where a request is silent; `max_output_tokens` is a ceiling. `timeout_s` counts from arrival
    to the last byte of a whole answer, to the first content byte of a stream; it is longer if the model takes long to
    load and `awaits_load`. Then `stall_timeout_s` bounds each silence and `max_stream_s` the whole stream. No request
    of it is of a class above `highest`. `pulled`: where nobody has it, it is downloaded for whoever asks. `fallback`:
    the models that answer instead when it cannot be served, the first that can. `allowance` is what all keys together
    may use of it. `reuse`: answers are given again, `on` where they would be the same, `forced` always.
    """

    model: str
    backend_model: str
    backends: tuple[str, ...] = ()
    timeout_s: float = 120.0
    awaits_load: bool = False
    stall_timeout_s: float = 60.0
    max_stream_s: float = 3600.0
    sampling: Sampling = Sampling()
    max_output_tokens: int | None = None
    highest: Class = Class.INTERACTIVE
    pulled: bool = False
    fallback: tuple[str, ...] = ()
    allowance: Allowance = UNBOUNDED
    reuse: str = "off"


class Catalog(Struct, frozen=True):
    """The models that are listed, and how an unlisted one is served; no `unlisted`: not at all."""

    listed: dict[str, Service]
    unlisted: Service | None

    def service(self, name: str) -> Service | None:
        """How `name` is served, as far as that does not depend on who has it.

        A listed one may be said with the usual tag: to Ollama's clients that is the same name. What begins as an alias
        is one unless it is listed itself.
        """
        name = self.meant(name)
        service = self._listed(name)
        if service is None and self.unlisted is not None:
            return replace(self.unlisted, model=name, backend_model=name)
        return service

    def meant(self, name: str) -> str:
        """What an alias stands for; any other name as it is."""
        while name.startswith(ALIAS) and name != ALIAS and self._listed(name) is None:
            name = name[len(ALIAS) :]
        return name

    def _listed(self, name: str) -> Service | None:
        return self.listed.get(name) or self.listed.get(name.removesuffix(":latest"))

    def allows(self, principal: Principal, name: str) -> bool:
        """Whether who asks may use the model of this name, if there is one."""
        return not principal.models or may_use(principal.models, self.meant(name))

    def check_allowed(self, principal: Principal, name: str) -> None:
        """Raises ModelNotAllowed, or BadRequest for a bad name."""
        if not self.allows(principal, check_model_name(name)):
            raise ModelNotAllowed(f"this key may not use the model {name!r}", param="model")


class Candidates(Struct, frozen=True):
    """The backends that have a model. `resident` is its full name there, tag included."""

    names: tuple[str, ...]
    resident: str


# Backend name -> every name it knows a model by -> the model's full name.
Inventories = Mapping[str, Mapping[str, str]]


def candidates(service: Service, inventories: Inventories) -> Candidates:
    """Who has the model; no names when nobody does.

    Ollama lists `gemma` as `gemma:latest`, others do not: the fuller name is good for all that take the shorter one.
    """
    allowed = service.backends or tuple(inventories)
    found = tuple(name for name in allowed if service.backend_model in inventories.get(name, ()))
    names = (inventories[name][service.backend_model] for name in found)
    return Candidates(found, max(names, key=len, default=service.backend_model))


_NOTHING = frozenset((None, ()))


class Filling(Struct, frozen=True):
    """What stands where a request is silent, by field, and the ceiling of output tokens."""

    values: tuple[tuple[str, Any], ...]
    max_output_tokens: int | None


def filling(service: Service, promised: Sampling) -> Filling:
    """The model's own settings; where they are silent, what the dialect promises."""
    own = service.sampling
    both = ((key, getattr(own, key), getattr(promised, key)) for key in Sampling.__struct_fields__)
    said = ((key, lower if upper in _NOTHING else upper) for key, upper, lower in both)
    return Filling(tuple((key, value) for key, value in said if value not in _NOTHING), service.max_output_tokens)


def fill_in(asked: Sampling, filling: Filling) -> Sampling:
    """What the request asked for, filled in where it is silent. Never more than the ceiling of output tokens."""
    filled: dict[str, Any] = {}
    for key, value in filling.values:
        if getattr(asked, key) in _NOTHING:
            filled[key] = value  # noqa: PERF403 - a comprehension is a call of its own on 3.11, which costs more
    ceiling = filling.max_output_tokens
    if ceiling is not None and (asked.max_tokens or filled.get("max_tokens") or ceiling) >= ceiling:
        filled["max_tokens"] = ceiling
    return replace(asked, **filled) if filled else asked
