"""A Config as plain values, for `hermes check`: what `load` would read back, with secrets masked (I26)."""

from collections.abc import Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import fields

from hermes.config import Config, Key, Secret
from hermes.config.kinds import MASK, Bytes, Cost, Moment
from hermes.config.notation import format_moment, format_size
from hermes.config.schema import optional


def dump(config: Config) -> dict[str, Any]:
    return _struct(config)


def _struct(value: Struct) -> dict[str, Any]:
    told = {field.name: plain(getattr(value, field.name), field.type) for field in fields(value)}
    if isinstance(value, Key):
        told["sha256"] = value.key_id + MASK
    return told


def plain(value: Any, kind: Any) -> Any:
    """As a file would say it, where `kind` is what the key holds."""
    if isinstance(value, Struct):
        return _struct(value)
    if isinstance(value, Secret):
        return MASK
    if isinstance(value, Mapping):
        return {name: plain(item, None) for name, item in value.items()}
    if isinstance(value, tuple):
        return [plain(item, None) for item in value]
    if optional(kind)[0] in (Bytes, Cost) and isinstance(value, int):
        return format_size(value)
    if optional(kind)[0] is Moment and value is not None:
        return format_moment(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value
