"""A span: what was done, from when until when, as a part of what."""

import random
from typing import Literal, TypeAlias

from msgspec import Struct

from hermes.policy.trace import Context

Kind = Literal["server", "client", "internal"]
Attributes: TypeAlias = dict[str, str | int | float | bool | tuple[str, ...]]

# What a span takes besides long texts, until it is sent.
_SPAN_BYTES = 1500


class Span(Struct, frozen=True):
    """Times are seconds since 1970. `remote`: the parent is somebody else's. `links`: what it waited for elsewhere."""

    context: Context
    parent: Context | None
    name: str
    kind: Kind
    begun_at: float
    ended_at: float
    attributes: Attributes
    failed: bool = False
    remote: bool = False
    links: tuple[Context, ...] = ()

    @property
    def size_bytes(self) -> int:
        """What is not ASCII takes up to 4 bytes a character."""
        texts = (value for value in self.attributes.values() if isinstance(value, str))
        return _SPAN_BYTES + sum(len(text) if text.isascii() else 4 * len(text) for text in texts)


def new_id(length: int) -> str:
    """So many bytes in hexadecimal digits, not all of them 0."""
    return f"{random.getrandbits(8 * length) or 1:0{2 * length}x}"
