"""A value that fits a JSON Schema: what a model constrained by a grammar, or calling a tool, would write."""

import math
import random
from collections.abc import Sequence
from typing import Any

_DEPTH = 6  # from here on optional parts are left out, so that a recursive schema comes to an end
_LONGEST = 1000  # characters or items, whatever a schema demands
_DATED = {
    "date": "2026-03-14",
    "date-time": "2026-03-14T15:09:26Z",
    "time": "15:09:26Z",
    "email": "ada@example.org",
    "uri": "https://example.org/",
    "uuid": "3f2a9c54-7d1e-4b60-9a8f-5c0e6d7b1a23",
    "ipv4": "192.0.2.7",
}


class NoSchema(ValueError):
    """What was given is not shaped like a JSON Schema."""


def sample(schema: Any, rng: random.Random, words: Sequence[str]) -> Any:
    """One instance. Understands what structured outputs use: types, enums, objects, arrays, references, bounds.

    Raises NoSchema.
    """
    try:
        return _Sampler(schema, rng, words or ("answer",)).value(schema, 0)
    except (AttributeError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise NoSchema(str(error)) from error


class _Sampler:
    def __init__(self, root: Any, rng: random.Random, words: Sequence[str]) -> None:
        self._root = root
        self._rng = rng
        self._words = words

    def value(self, schema: Any, depth: int) -> Any:
        if not isinstance(schema, dict):
            return self._text({})
        if depth > 4 * _DEPTH:
            return None  # a schema that demands itself for ever has no finite instance
        if "$ref" in schema:
            return self.value(self._resolve(schema["$ref"]), depth + 1)
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return self._rng.choice(schema["enum"])
        for choice in ("anyOf", "oneOf"):
            if schema.get(choice):
                return self.value(self._choose(schema[choice], depth), depth + 1)
        if schema.get("allOf"):
            return self.value(_merge([self._followed(part) for part in schema["allOf"]], schema), depth + 1)
        return self._typed(schema, depth)

    def _typed(self, schema: dict[str, Any], depth: int) -> Any:
        match self._type(schema, depth):
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, depth)
            case "integer":
                return self._integer(schema)
            case "number":
                return self._number(schema)
            case "boolean":
                return self._rng.random() < 0.5
            case "null":
                return None
            case _:
                return self._text(schema)

    def _type(self, schema: dict[str, Any], depth: int) -> str:
        kind = schema.get("type")
        if isinstance(kind, list) and kind:
            plain = [name for name in kind if name not in ("object", "array")] if depth >= _DEPTH else []
            return str((plain or kind)[0])
        if kind is None:
            return "object" if "properties" in schema else "array" if "items" in schema else "string"
        return str(kind)

    def _object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties") or {}
        required = schema.get("required") or []
        names = [name for name in properties if name in required or depth < _DEPTH]
        made = {name: self.value(properties[name], depth + 1) for name in names}
        for name in required:
            made.setdefault(name, self._rng.choice(self._words))
        return made

    def _array(self, schema: dict[str, Any], depth: int) -> list[Any]:
        usual = 1 if depth < _DEPTH else 0
        least = int(min(_limit(schema, "minItems") or usual, _LONGEST))
        most = _limit(schema, "maxItems")
        first = [self.value(item, depth + 1) for item in schema.get("prefixItems") or []]
        wanted = self._rng.randint(least, max(least, 3 * usual))
        wanted = max(wanted if most is None else min(wanted, int(most)), len(first))
        return first + [self.value(schema.get("items", {}), depth + 1) for _ in range(wanted - len(first))]

    def _integer(self, schema: dict[str, Any]) -> int:
        low, high = self._bounds(schema, step=1)
        step = max(1, int(_limit(schema, "multipleOf") or 1))
        first = -(-math.ceil(low) // step) * step
        return first + step * self._rng.randint(0, max(0, (math.floor(high) - first) // step))

    def _number(self, schema: dict[str, Any]) -> float:
        low, high = self._bounds(schema, step=0)
        return min(max(round(self._rng.uniform(low, high), 2), low), high) if low <= high else low

    def _bounds(self, schema: dict[str, Any], step: int) -> tuple[float, float]:
        low, high = _limit(schema, "minimum"), _limit(schema, "maximum")
        above, below = _limit(schema, "exclusiveMinimum"), _limit(schema, "exclusiveMaximum")
        if low is None and above is None:
            ceiling = high if high is not None else below
            low = 0 if ceiling is None or ceiling > 0 else ceiling - 100
        if high is None and below is None:
            high = max(low if low is not None else 0, above if above is not None else 0) + 100
        margin = step or 0.01
        lowest = max(limit for limit in (low, above + margin if above is not None else None) if limit is not None)
        highest = min(limit for limit in (high, below - margin if below is not None else None) if limit is not None)
        return lowest, highest

    def _text(self, schema: dict[str, Any]) -> str:
        known = _DATED.get(str(schema.get("format")))
        if known is not None:
            return known
        text = self._rng.choice(self._words)
        while len(text) < min(_limit(schema, "minLength") or 0, _LONGEST):
            text += " " + self._rng.choice(self._words)
        longest = _limit(schema, "maxLength")
        return text if longest is None else text[: int(longest)]

    def _choose(self, schemas: list[Any], depth: int) -> Any:
        if depth < _DEPTH:
            return self._rng.choice(schemas)
        plain = [item for item in map(self._followed, schemas) if item.get("type") not in ("object", "array")]
        return (plain or schemas)[0]

    def _followed(self, schema: Any) -> dict[str, Any]:
        found = self._resolve(schema["$ref"]) if isinstance(schema, dict) and "$ref" in schema else schema
        return found if isinstance(found, dict) else {}

    def _resolve(self, reference: str) -> Any:
        found = self._root
        for part in reference.removeprefix("#").strip("/").split("/"):
            if part:
                found = found.get(part) if isinstance(found, dict) else None
        return found


def _merge(schemas: list[dict[str, Any]], base: dict[str, Any]) -> dict[str, Any]:
    merged: dict[str, Any] = {key: value for key, value in base.items() if key != "allOf"}
    for schema in schemas:
        for key, value in schema.items():
            if key == "properties":
                merged[key] = {**merged.get(key, {}), **value}
            elif key == "required":
                merged[key] = [*merged.get(key, []), *value]
            else:
                merged.setdefault(key, value)
    return merged


def _limit(schema: dict[str, Any], key: str) -> float | None:
    """A bound that is a number; anything else bounds nothing."""
    value = schema.get(key)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
