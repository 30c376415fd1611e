"""The samples are judged by a validator that shares nothing with the sampler."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes.simulator.schema import sample

WORDS = ("Oslo", "rain", "tomorrow")


def fits(value: Any, schema: dict[str, Any], root: Any) -> bool:
    if "$ref" in schema:
        return fits(value, root["$defs"][schema["$ref"].rsplit("/", 1)[1]], root)
    if "anyOf" in schema:
        return any(fits(value, choice, root) for choice in schema["anyOf"])
    if "enum" in schema:
        return value in schema["enum"]
    if "const" in schema:
        return bool(value == schema["const"])
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return any(_is(value, kind, schema, root) for kind in kinds)


def _is(value: Any, kind: str, schema: dict[str, Any], root: Any) -> bool:
    match kind:
        case "null":
            return value is None
        case "boolean":
            return isinstance(value, bool)
        case "integer" | "number":
            wanted = int if kind == "integer" else (int, float)
            return isinstance(value, wanted) and schema.get("minimum", value) <= value <= schema.get("maximum", value)
        case "string":
            return isinstance(value, str) and schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", 10**6)
        case "array":
            least, most = schema.get("minItems", 0), schema.get("maxItems", 10**6)
            return (
                isinstance(value, list)
                and least <= len(value) <= most
                and all(fits(item, schema["items"], root) for item in value)
            )
    properties = schema.get("properties", {})
    return (
        isinstance(value, dict)
        and set(schema.get("required", ())) <= set(value)
        and all(fits(item, properties[name], root) for name, item in value.items() if name in properties)
    )


def bounded(kind: str) -> st.SearchStrategy[dict[str, Any]]:
    pair = st.tuples(st.integers(-50, 50), st.integers(0, 100))
    return pair.map(lambda bounds: {"type": kind, "minimum": bounds[0], "maximum": sum(bounds)})


LEAVES = st.one_of(
    st.sampled_from(
        [{"type": "string"}, {"type": "boolean"}, {"type": "null"}, {"type": "number"}, {"type": "integer"}]
    ),
    bounded("integer"),
    bounded("number"),
    st.tuples(st.integers(0, 20), st.integers(0, 20)).map(
        lambda bounds: {"type": "string", "minLength": bounds[0], "maxLength": sum(bounds)}
    ),
    st.lists(st.integers() | st.text(max_size=3), min_size=1, max_size=3).map(lambda values: {"enum": values}),
    st.just({"const": 7}),
    st.just({"type": ["string", "null"]}),
)


def grow(children: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    names = st.sampled_from(["city", "days", "unit", "notes"])
    objects = st.tuples(st.dictionaries(names, children, max_size=3), st.booleans()).map(
        lambda drawn: {
            "type": "object",
            "properties": drawn[0],
            "required": list(drawn[0]) if drawn[1] else list(drawn[0])[:1],
        }
    )
    arrays = st.tuples(children, st.integers(0, 4), st.integers(0, 4)).map(
        lambda drawn: {"type": "array", "items": drawn[0], "minItems": drawn[1], "maxItems": drawn[1] + drawn[2]}
    )
    return objects | arrays | st.lists(children, min_size=1, max_size=3).map(lambda choices: {"anyOf": choices})


@given(st.recursive(LEAVES, grow, max_leaves=12), st.integers(0, 1000))
def test_a_sample_fits_its_schema(schema: dict[str, Any], seed: int) -> None:
    assert fits(sample(schema, random.Random(seed), WORDS), schema, schema)


@given(st.integers(0, 200))
def test_a_recursive_schema_comes_to_an_end(seed: int) -> None:
    node = {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
            "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
            "last": {"type": ["object", "null"], "properties": {"up": {"$ref": "#/$defs/node"}}, "required": ["up"]},
        },
        "required": ["name", "children", "next", "last"],
    }
    schema = {"$ref": "#/$defs/node", "$defs": {"node": node}}
    assert fits(sample(schema, random.Random(seed), WORDS), schema, schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/nowhere"},
        {"$ref": "#"},
        {"type": "zork"},
        {"type": []},
        {"type": "array", "minItems": 10**9},
        {"type": "string", "minLength": 10**9},
        {"type": "integer", "minimum": "low"},
        {"allOf": [{"$ref": "#/nowhere"}, {"properties": {"a": True}}]},
        {"anyOf": []},
        True,
        None,
    ],
)
def test_a_strange_schema_still_has_a_sample(schema: Any) -> None:
    sample(schema, random.Random(1), WORDS)


def test_bounds_that_exclude_themselves_are_kept() -> None:
    schema = {"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 5}
    assert sample(schema, random.Random(1), WORDS) == 4
    assert sample({"type": "integer", "minimum": 7, "multipleOf": 5, "maximum": 13}, random.Random(1), WORDS) == 10
