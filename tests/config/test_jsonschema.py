"""The schema for editors against the code that parses: each value of a table, at each key."""

from collections.abc import Callable, Iterator
from typing import Any, get_args, get_origin

import pytest
from click.testing import CliRunner
from msgspec import Struct, json
from msgspec.structs import FieldInfo, fields

from hermes.cli import cli
from hermes.config import Config
from hermes.config.build import _Builder
from hermes.config.dump import dump
from hermes.config.jsonschema import meanings, schema
from hermes.config.load import Loaded
from hermes.config.schema import is_struct, optional
from tests.config.test_docs import FULL
from tests.json_schema import faults

SCHEMA = schema()


def structs(kind: Any = Config) -> Iterator[type[Struct]]:
    """Every type that holds keys."""
    kind = optional(kind)[0]
    if is_struct(kind):
        yield kind
        for field in fields(kind):
            yield from structs(field.type)
    elif get_origin(kind) in (tuple, dict):
        for each in get_args(kind):
            yield from structs(each)


def properties(told: Any) -> Iterator[dict[str, Any]]:
    if isinstance(told, dict):
        if isinstance(found := told.get("properties"), dict):
            yield found
        for each in told.values():
            yield from properties(each)


KEYS = {
    (kind.__name__, field.name): (field, next(each[field.name] for each in properties(SCHEMA) if [*each] == names))
    for kind in structs()
    for names in [[each.name for each in fields(kind)]]
    for field in fields(kind)
}
# 1.0 is not here: to JSON Schema it is a whole number.
VALUES = [
    *(None, True, False, 0, 1, -1, 7, 0.5, 2.5, 61, 1001, 65536, 2**31, 10**10, 10**16, 2**62, 2**64, -(10**9)),
    *("", "x", "a b", "low", "off", "forced", "pin", "queue", "key", "info", "true", "7", "RS256", "vllm", "normal"),
    *("24GiB", "24G", "1.5 kb", "30s", "5 m", "2h", "1d", "-1", "2027-01-31", "2027-01-31T18:00:00Z", "yesterday"),
    *("127.0.0.1", "a:1", "a..b", "/p", "./p", "http://h:1", "unix:///p", "https://h/p", "ftp://h", "m:C", "*", "a*"),
    *("f" * 64, "F" * 64, "é", "a\0", "a\nb", "x" * 300, [], ["x"], [1], ["/"], [None], {}, {"x": 1}, {"x": "y"}),
    *({"": 1}, {"a b": "y"}, {"x": None}, {"x": {}}, {"weight": 2}, {"name": "a"}, [{"name": "a"}], [{"command": "a"}]),
]


TOO_LONG = [("Issuer", "leeway_s", "5 m"), ("Issuer", "leeway_s", "2h")]  # of a text no schema knows how much it is


@pytest.mark.parametrize("key", KEYS, ids=".".join)
def test_what_hermes_takes_an_editor_takes_and_what_hermes_refuses_an_editor_marks(key: tuple[str, str]) -> None:
    field, told = KEYS[key]
    for value in VALUES:
        fits = not [*faults(told, value)]
        assert takes(field, value) == fits or (fits and (*key, value) in TOO_LONG), value


def takes(field: FieldInfo, value: Any) -> bool:
    from hermes.config.commands import filled

    if field.name == "backends" and isinstance(value, list):
        value = filled({"backends": value})["backends"]
    builder = _Builder(lambda path: "")
    builder.value(field.type, value, ("key",))
    return not builder.problems


@pytest.mark.parametrize("yaml", ["", FULL])
def test_what_is_in_force_fits_the_schema(settle: Callable[..., Loaded], yaml: str) -> None:
    assert [*faults(SCHEMA, dump(settle(yaml).config))] == []


def test_every_default_fits_its_own_key() -> None:
    defaults = [told for _, told in KEYS.values() if "default" in told]
    assert len(defaults) > 100
    assert [fault for told in defaults for fault in faults(told, told["default"])] == []


def test_each_meaning_is_of_a_key_that_there_is() -> None:
    assert {(kind, key) for kind, keys in meanings().items() for key in keys} == KEYS.keys()


def test_the_verb_prints_it() -> None:
    done = CliRunner().invoke(cli, ["config", "schema"])
    assert done.exit_code == 0 and json.decode(done.stdout) == json.decode(json.encode(SCHEMA))


def test_a_slip_is_marked_at_its_place() -> None:
    slip = {"models": {"gemma": {"timeout": 30}}, "server": {"port": "abc"}}
    assert [*faults(SCHEMA, slip)] == ["$.models.gemma: unknown timeout", "$.server.port: 'abc' is not ['integer']"]
