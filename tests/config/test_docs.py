"""docs/configuration.md, checked against the types in both directions; and what `dump` writes reads back."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec
import pytest
from msgspec import NODEFAULT
from msgspec.structs import FieldInfo, fields

from hermes.chat import Sampling
from hermes.config import Backend, Claims, Config, Cors, Defaults, Key, LoadOptions, Model, Modes, Params, Server, Tls
from hermes.config.dump import dump
from hermes.config.environment import OTHER_NAMES
from hermes.config.kinds import Bytes
from hermes.config.load import Loaded
from hermes.config.notation import format_size
from hermes.config.schema import is_struct, meta, optional, settings, variable
from hermes.dialects import prompt_request
from hermes.principal import ANONYMOUS

Settle = Callable[..., Loaded]
PAGE = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| `")]
REFERENCE = PAGE.split("## Familiar names")[0]
KEY_ROWS = {row[0].strip("`"): row[1:] for row in ROWS if row[0].strip("`") in REFERENCE and len(row) > 3}


def leaves(kind: Any, above: str) -> Iterator[tuple[str, FieldInfo, bool]]:
    """Every documented key below a struct: its path on the page, its field, whether it has its own variable."""
    for field in fields(kind):
        path, inner = f"{above}{field.name}", optional(field.type)[0]
        in_list = any(mark in path for mark in ("[]", "<name>"))
        items = [item for item in get_args(inner) if is_struct(item)] if get_origin(inner) in (tuple, dict) else []
        if items:
            yield from leaves(items[0], path + (".<name>." if get_origin(inner) is dict else "[]."))
            continue
        section = is_struct(inner) and above in ("", "scheduling.")
        if not section:
            yield path, field, not in_list
        if is_struct(inner):
            yield from leaves(inner, path + ".")


LEAVES = {path: (field, own) for path, field, own in leaves(Config, "")}


def default_on_page(path: str, field: FieldInfo) -> str:
    if path.startswith("models.<name>.") and path.removeprefix("models.<name>.") in Defaults.__struct_fields__:
        return "from `defaults`"
    if field.default is NODEFAULT:
        return "required" if field.default_factory is NODEFAULT else "empty"
    if field.default in ((), Params(), LoadOptions(), Cors(), Claims(), Modes()):
        return "empty"
    if field.default is None:
        return "none"
    if isinstance(field.default, tuple):
        return f"`{', '.join(field.default)}`"
    size = optional(field.type)[0] == Bytes
    text = format_size(field.default) if size else field.default
    return f"`{str(text).lower() if isinstance(text, bool) else text}`"


def test_every_key_is_on_the_page_and_every_key_on_the_page_exists() -> None:
    assert list(KEY_ROWS) and set(KEY_ROWS) == set(LEAVES)


@pytest.mark.parametrize("path", LEAVES)
def test_the_page_has_each_keys_default_and_variable(path: str) -> None:
    field, own = LEAVES[path]
    row = KEY_ROWS[path]
    assert row[-2] == default_on_page(path, field)
    assert len(row) == (4 if own else 3)
    if own:
        assert row[0] == f"`{variable(tuple(path.split('.')))}`"
    assert row[-1]


def test_the_page_names_no_variable_that_does_not_exist() -> None:
    known = {variable(path) for path, _ in settings()} | set(OTHER_NAMES)
    named = set(re.findall(r"HERMES_[A-Z_]+", PAGE)) - {"HERMES_SECTION__KEY", "HERMES_"}
    assert named <= known
    assert set(OTHER_NAMES) <= named


def test_the_page_shows_what_can_be_loaded(settle: Settle) -> None:
    examples = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert len(examples) == 4
    for example in examples:
        settle(example)


def test_a_model_has_every_default_and_the_same_one() -> None:
    """A Model stands for itself: its own defaults are those of Defaults. Whether it said `timeout_s` is kept."""
    usual = msgspec.structs.asdict(Defaults()) | {"timeout_s": None}
    assert {name: getattr(Model(), name) for name in Defaults.__struct_fields__} == usual


def test_params_are_those_of_sampling() -> None:
    assert set(Params.__struct_fields__) == set(Sampling.__struct_fields__)


def bounds(kind: Any) -> list[float | None]:
    said = meta(optional(kind)[0])
    return [said.ge, said.gt, said.le, said.lt]


@pytest.mark.parametrize("field", [field for field in fields(Params) if field.name != "stop"], ids=lambda it: it.name)
def test_the_operator_may_set_what_a_prompt_may_ask_for(field: FieldInfo) -> None:
    asked = {field.name: field for field in fields(prompt_request._Options)}[field.name]
    assert bounds(field.type) == bounds(asked.type) != [None] * 4


FULL = """
server: {tls: {cert_file: c.pem}, allowed_hosts: [gpu.example.org, "[::1]"], max_body_bytes: 1000001, keep_alive_s: 1.5,
  cors: {origins: ["https://a.example"], headers: [x-mine], credentials: true, max_age_s: 1h}}
backends: [{name: a, url: "unix:///run/ollama.sock", memory: 24GiB, slots: 4}]
models: {"qwen2.5:7b": {params: {stop: ["\\n"], temperature: 0}, memory_cost: 14GiB, backends: [a]}
  , b: {memory_cost: low, options: {use_mmap: false}, keep_alive: -1}}
defaults: {max_concurrency: 4, timeout_s: 5m}
logging: {access_log: off}
"""


@pytest.mark.parametrize("yaml", ["", FULL])
def test_what_is_dumped_reads_back_as_the_same(settle: Settle, yaml: str) -> None:
    config = settle(yaml).config
    plain = dump(config)
    assert settle(msgspec.json.encode(plain).decode()).config == config
    assert plain["server"]["max_body_bytes"] == ("10MiB" if not yaml else 1000001)


@pytest.mark.parametrize(
    "value", [Server(), Tls("c"), Backend("a", "http://a"), Key("a", "0" * 64), Config(), ANONYMOUS]
)
def test_values_cannot_be_changed(value: Any) -> None:
    with pytest.raises(AttributeError):
        setattr(value, value.__struct_fields__[0], None)


def test_without_keys_everybody_is_the_operator() -> None:
    assert ANONYMOUS.admin
