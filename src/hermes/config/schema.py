"""The keys there are: read off the types in `hermes.config`, for loading, for variables and for the documents."""

import re
from collections.abc import Iterable
from functools import cache, reduce
from operator import or_
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from msgspec import Meta, Struct
from msgspec.structs import FieldInfo, fields

from hermes.config import Config, Secret

Path = tuple[str | int, ...]
Kind = Any  # a type as annotated: what mypy has no name for


def origin(kind: Kind) -> Any:
    return get_origin(kind)


def optional(kind: Kind) -> tuple[Kind, bool]:
    """The kind without None, and whether None was allowed."""
    if origin(kind) not in (Union, UnionType) or NoneType not in get_args(kind):
        return kind, False
    rest = [argument for argument in get_args(kind) if argument is not NoneType]
    return reduce(or_, rest), True


def is_struct(kind: Kind) -> bool:
    return isinstance(kind, type) and issubclass(kind, Struct)


def is_container(kind: Kind) -> bool:
    return is_struct(kind) or origin(kind) in (tuple, dict)


def meta(kind: Kind) -> Meta:
    """Bounds, description and reader of an annotated kind; empty for a plain one."""
    return kind.__metadata__[0] if origin(kind) is Annotated else Meta()


def describe(kind: Kind) -> str:
    """What is expected, as the end of a sentence."""
    kind, _ = optional(kind)
    if (said := meta(kind).description) is not None:
        return said
    if origin(kind) is Literal:
        return " or ".join(get_args(kind))
    if is_struct(kind) or origin(kind) is dict:
        return "a mapping"
    return {bool: "true or false", Secret: "a text"}.get(kind, "a list")


@cache
def settings(kind: Kind = Config, above: tuple[str, ...] = ()) -> tuple[tuple[tuple[str, ...], FieldInfo], ...]:
    """Every key that one name can set, sections before what is in them. Lists and mappings are one value each."""
    found: list[tuple[tuple[str, ...], FieldInfo]] = []
    for field in fields(kind):
        path = (*above, field.name)
        found.append((path, field))
        inner, _ = optional(field.type)
        if is_struct(inner):
            found += settings(inner, path)
    return tuple(found)


def variable(path: tuple[str, ...]) -> str:
    return "HERMES_" + "__".join(path).upper()


def spell(path: Path) -> str:
    """`models.gemma.timeout_s`, `backends[0].url`, `models."qwen2.5:7b".params`."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            plain = re.fullmatch(r"[A-Za-z0-9_-]+", str(step))
            text += f".{step}" if plain else f".{step!a}".replace("'", '"')
    return text.removeprefix(".")


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The name that was probably meant."""
    from difflib import get_close_matches  # 19 ms, and only when something is wrong

    by_lower = {known.lower(): known for known in names}
    close = get_close_matches(name.lower()[:100], by_lower, n=1, cutoff=0.65)
    return by_lower[close[0]] if close else None
