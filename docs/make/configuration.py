"""The tables of docs/configuration.md: each stands below a comment that names its keys, `<!-- keys: server -->`.

A section's name stands for all that is in it; any other name is one key.
"""

import re
from collections.abc import Iterator
from typing import Any, Literal, get_args

from msgspec import NODEFAULT, Struct
from msgspec.structs import FieldInfo, fields

from hermes.config import Config, Defaults, Model, Secret
from hermes.config.dump import plain
from hermes.config.jsonschema import meanings
from hermes.config.schema import is_struct, meta, optional, origin, variable

_TABLE = re.compile(r"(<!-- keys: (.*?) -->\n\n)(?:\|.*\n)*")


def page(text: str) -> str:
    """The page with its tables made anew."""
    return _TABLE.sub(lambda match: match[1] + _table(match[2].split()), text)


def rows(names: list[str]) -> Iterator[list[str]]:
    """Of each key: its name, its variable where it has one, what it takes, its default, its meaning."""
    for field in fields(Config):
        if field.name in names:
            yield from _rows(Config, field, "")


def _rows(owner: type[Struct], field: FieldInfo, above: str) -> Iterator[list[str]]:
    path, inner = f"{above}{field.name}", optional(field.type)[0]
    items = [item for item in get_args(inner) if is_struct(item)] if origin(inner) in (tuple, dict) else []
    if items:
        mark = ".<name>." if origin(inner) is dict else "[]."
        for each in fields(items[0]):
            yield from _rows(items[0], each, path + mark)
        return
    if not (is_struct(inner) and above in ("", "scheduling.")):  # those have headings
        alone = not any(mark in path for mark in ("[]", "<name>"))
        own = [f"`{variable(tuple(path.split('.')))}`"] if alone else []
        meaning = meanings()[owner.__name__][field.name]
        yield [f"`{path}`", *own, word(inner), default(owner, field), meaning]
    if is_struct(inner):
        for each in fields(inner):
            yield from _rows(inner, each, f"{path}.")


def _table(names: list[str]) -> str:
    found = [*rows(names)]
    head = ["key", *(["variable"] if len(found[0]) == 5 else []), "value", "default", "meaning"]
    lines = (f"| {' | '.join(line)} |\n" for line in (head, *found))
    return next(lines) + "|---" * len(head) + "|\n" + "".join(lines)


def word(kind: Any) -> str:
    """What a key takes, in a word or two."""
    if origin(kind) is tuple:
        item = word(get_args(kind)[0])
        return f"list of {item}" if item.startswith("`") else f"list of {item}s"
    if origin(kind) is Literal:
        return ", ".join(f"`{each}`" for each in get_args(kind))
    if is_struct(kind) or origin(kind) is dict:
        return "mapping"
    return {bool: "boolean", Secret: "secret"}.get(kind) or str(meta(kind).title)


def default(owner: type[Struct], field: FieldInfo) -> str:
    if owner is Model and field.name in Defaults.__struct_fields__:
        return "from `defaults`"
    if field.required:
        return "required"
    usual = plain(field.default, field.type) if field.default is not NODEFAULT else {}
    if usual is None:
        return "none"
    if usual in ([], {}) or is_struct(optional(field.type)[0]):
        return "empty"
    if isinstance(usual, list):
        usual = ", ".join(usual)
    return f"`{str(usual).lower() if isinstance(usual, bool) else usual}`"
