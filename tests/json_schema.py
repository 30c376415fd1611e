"""As much of JSON Schema 2020-12 as our own schemas use: where a value does not fit."""

import re
from collections.abc import Iterator
from typing import Any

_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}
_BOUNDS = {
    "minimum": lambda value, bound: value >= bound,
    "exclusiveMinimum": lambda value, bound: value > bound,
    "maximum": lambda value, bound: value <= bound,
}
KNOWN = {"$schema", "$ref", "type", "enum", "const", "pattern", "properties", "required", "additionalProperties"} | {
    *("propertyNames", "items", "minItems", "anyOf", "oneOf", "allOf", "title", "description", "default", "examples"),
    *("format", "maxItems", "minLength"),
    *_BOUNDS,
}


def faults(schema: Any, value: Any, root: Any = None, path: str = "$") -> Iterator[str]:
    """One line for each thing that does not fit. A keyword that is not known here is an error of ours."""
    root = schema if root is None else root
    if schema is True:
        return
    assert schema is not False and schema.keys() <= KNOWN, (path, schema)
    if "$ref" in schema:
        target = root
        for step in schema["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        yield from faults(target, value, root, path)
    yield from _scalar(schema, value, path)
    if isinstance(value, dict):
        yield from _object(schema, value, root, path)
    if isinstance(value, list):
        if len(value) < schema.get("minItems", 0):
            yield f"{path}: too few"
        for index, item in enumerate(value):
            yield from faults(schema.get("items", True), item, root, f"{path}[{index}]")
    for name, enough in (("anyOf", lambda fits: fits > 0), ("oneOf", lambda fits: fits == 1)):
        if name in schema:
            found = [[*faults(each, value, root, path)] for each in schema[name]]
            if not enough(sum(not each for each in found)):
                yield f"{path}: not {name}: {found}"
    for each in schema.get("allOf", ()):
        yield from faults(each, value, root, path)


def _scalar(schema: Any, value: Any, path: str) -> Iterator[str]:
    if "type" in schema:
        types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        if not any(_is(value, each) for each in types):
            yield f"{path}: {value!r} is not {types}"
    if "enum" in schema and not any(_same(value, each) for each in schema["enum"]):
        yield f"{path}: {value!r} is none of {schema['enum']}"
    if "const" in schema and not _same(value, schema["const"]):
        yield f"{path}: {value!r} is not {schema['const']!r}"
    if isinstance(value, str) and not re.search(schema.get("pattern", ""), value):
        yield f"{path}: {value!r} does not fit {schema['pattern']}"
    if isinstance(value, int | float) and not isinstance(value, bool):
        for name, fits in _BOUNDS.items():
            if name in schema and not fits(value, schema[name]):
                yield f"{path}: {value!r} against {name} {schema[name]}"


def _object(schema: Any, value: dict[str, Any], root: Any, path: str) -> Iterator[str]:
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{path}: without {name}"
    properties, rest = schema.get("properties", {}), schema.get("additionalProperties", True)
    for name, item in value.items():
        yield from faults(schema.get("propertyNames", True), name, root, f"{path}.{name}")
        if name not in properties and rest is False:
            yield f"{path}: unknown {name}"
        else:
            yield from faults(properties.get(name, rest), item, root, f"{path}.{name}")


def _is(value: Any, name: str) -> bool:
    if name == "integer":
        return _is(value, "number") and float(value).is_integer()
    return isinstance(value, _TYPES[name]) and (name == "boolean" or not isinstance(value, bool))


def _same(one: Any, other: Any) -> bool:
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)
