"""The configuration as a JSON Schema (2020-12), for editors: read off the types that parse it, as `schema` reads them.

It refuses nothing that Hermes takes. What only a reader or a rule between keys can refuse, it lets pass.
"""

import re
import tomllib
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args

import msgspec
from msgspec import NODEFAULT, Struct
from msgspec.structs import FieldInfo, fields

from hermes.config import Backend, Config, Defaults, Model, Secret
from hermes.config.dump import plain
from hermes.config.schema import is_struct, meta, optional, origin

Schema = dict[str, Any]

# Who has the whole meaning of a key that says no more than this.
_AS_FOR = {"As for a model": "Model", "As for a key": "Key", "As for `interactive`": "Interactive"}


@cache
def meanings() -> dict[str, dict[str, str]]:
    """What each key means, in Markdown: by its type's name and its own."""
    return tomllib.loads((Path(__file__).parent / "meanings.toml").read_text(encoding="utf-8"))


def schema() -> Schema:
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Hermes"} | _struct(Config)


def _struct(kind: type[Struct]) -> Schema:
    told: Schema = {"type": ["object", "null"], "additionalProperties": False}
    told["properties"] = {field.name: _property(kind, field) for field in fields(kind)}
    required = [field.name for field in fields(kind) if field.required]
    if not required:
        return told
    # what a backend does not say, its command tells: `commands`
    needed = (
        {"anyOf": [{"required": required}, {"required": ["command"]}]} if kind is Backend else {"required": required}
    )
    return told | {"type": "object"} | needed


def _property(owner: type[Struct], field: FieldInfo) -> Schema:
    told = _of(field.type)
    told["description"] = _meaning(owner.__name__, field)
    inherited = owner is Model and field.name in Defaults.__struct_fields__
    if field.default is not NODEFAULT and not is_struct(optional(field.type)[0]) and not inherited:
        told["default"] = plain(field.default, field.type)
    return told


def _meaning(owner: str, field: FieldInfo) -> str:
    said = meanings()[owner][field.name]
    for words, other in _AS_FOR.items():
        if said.startswith(words):
            said = f"{said} {meanings()[other][field.name]}"
    kind = optional(field.type)[0]
    if (expected := meta(kind).description) is not None:
        said += f" Expected: {expected}."
    return re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", said)  # links lead nowhere from an editor


def _of(kind: Any) -> Schema:
    kind, may_be_none = optional(kind)
    if is_struct(kind):
        told = _struct(kind)
    elif origin(kind) is tuple:
        told = {"type": "array", "items": _of(get_args(kind)[0])}
    elif origin(kind) is dict:
        name, item = get_args(kind)
        told = {"type": ["object", "null"], "propertyNames": _leaf(name), "additionalProperties": _of(item)}
    else:
        told = _leaf(kind)
    return _or_null(told) if may_be_none else told


def _leaf(kind: Any) -> Schema:
    if kind is Secret:
        return {"type": ["string", "integer"], "pattern": "^[ -~]+$"}
    if kind is bool:
        return {"type": "boolean"}
    if origin(kind) is Literal:
        return {"enum": list(get_args(kind))}
    said, bare = meta(kind), get_args(kind)[0]
    if origin(bare) in (Union, UnionType):
        return _union(get_args(bare), (said.extra or {}).get("text"))
    if bare is str:
        return {"type": "string", "pattern": (said.extra or {}).get("text") or _ecma(said.pattern or "")}
    told: Schema = {"type": "integer" if bare is int else "number"}
    for bound, name in (("ge", "minimum"), ("gt", "exclusiveMinimum"), ("le", "maximum")):
        if (value := getattr(said, bound)) is not None:
            told[name] = value
    return _or_text(told, (said.extra or {}).get("text"))


def _union(kinds: tuple[Any, ...], text: str | None) -> Schema:
    """Of words and true and false, which can be told one by one; or of words and a number, of which `text` tells."""
    parts = [_leaf(kind) for kind in kinds]
    if text is not None:
        (number,) = (part for part in parts if "type" in part)
        return number | {"pattern": text}
    return {"enum": [word for part in parts for word in part.get("enum", (True, False))]}


def _or_text(told: Schema, pattern: str | None) -> Schema:
    return told if pattern is None else told | {"type": [told["type"], "string"], "pattern": pattern}


def _or_null(told: Schema) -> Schema:
    if "enum" in told:
        return told | {"enum": [*told["enum"], None]}
    types = told["type"] if isinstance(told["type"], list) else [told["type"]]
    return told | {"type": list(dict.fromkeys([*types, "null"]))}


def _ecma(pattern: str) -> str:
    return pattern.replace(r"\A", "^").replace(r"\Z", "$").replace(r"\0", r"\u0000")


def text() -> str:
    return msgspec.json.format(msgspec.json.encode(schema()), indent=2).decode()
