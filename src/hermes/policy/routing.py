"""Which model a request means, how it is served, and which backends can."""

from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import replace

from hermes.chat import Sampling


class Service(Struct, frozen=True):
    """How one model is served. `backend_model` is the backends' name for it; no `backends`: any that has it.

    `sampling` fills in where a request is silent; `max_output_tokens` is a ceiling. `timeout_s` counts from arrival
    to the last byte of a whole answer, to the first content byte of a stream; then `stall_timeout_s` bounds each
    silence and `max_stream_s` the whole stream.
    """

    model: str
    backend_model: str
    backends: tuple[str, ...] = ()
    timeout_s: float = 120.0
    stall_timeout_s: float = 60.0
    max_stream_s: float = 3600.0
    sampling: Sampling = Sampling()
    max_output_tokens: int | None = None


class Catalog(Struct, frozen=True):
    """The models that are listed, and how an unlisted one is served; no `unlisted`: not at all."""

    listed: dict[str, Service]
    unlisted: Service | None

    def service(self, name: str) -> Service | None:
        """How `name` is served, as far as that does not depend on who has it."""
        service = self.listed.get(name)
        if service is None and self.unlisted is not None:
            return replace(self.unlisted, model=name, backend_model=name)
        return service


class Candidates(Struct, frozen=True):
    """The backends that have a model. `resident` is its full name there, tag included."""

    names: tuple[str, ...]
    resident: str


# Backend name -> every name it knows a model by -> the model's full name.
Inventories = Mapping[str, Mapping[str, str]]


def candidates(service: Service, inventories: Inventories) -> Candidates:
    """Who has the model; no names when nobody does."""
    allowed = service.backends or tuple(inventories)
    found = tuple(name for name in allowed if service.backend_model in inventories.get(name, ()))
    return Candidates(found, inventories[found[0]][service.backend_model] if found else service.backend_model)


def fill_in(asked: Sampling, service: Service, promised: Sampling) -> Sampling:
    """What the request asked for; where it is silent the model's own settings, then what the dialect promises.

    Never more than the model's ceiling of output tokens.
    """
    filled = _over(_over(asked, service.sampling), promised)
    ceiling = service.max_output_tokens
    if ceiling is not None and (filled.max_tokens is None or filled.max_tokens > ceiling):
        return replace(filled, max_tokens=ceiling)
    return filled


def _over(upper: Sampling, lower: Sampling) -> Sampling:
    """`upper`, with `lower` showing through where it says nothing."""
    silent = {
        key: value
        for key in Sampling.__struct_fields__
        if (value := getattr(lower, key)) not in _NOTHING and getattr(upper, key) in _NOTHING
    }
    return replace(upper, **silent) if silent else upper


_NOTHING = (None, ())
