"""docs/configuration.md, checked against the types in both directions; and what `dump` writes reads back."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import FieldInfo, fields

from docs.make import configuration
from hermes.chat import Sampling
from hermes.config import Backend, Config, Defaults, Key, Model, Params, Server, Tls
from hermes.config.dump import dump
from hermes.config.environment import OTHER_NAMES
from hermes.config.load import Loaded
from hermes.config.schema import meta, optional, settings, variable
from hermes.dialects import prompt_request
from hermes.principal import ANONYMOUS

Settle = Callable[..., Loaded]
PAGE = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()


def test_the_page_has_every_key_as_the_code_has_it() -> None:
    """Made by `make reference`: what a key takes, its default and its meaning stand in the code, once."""
    assert configuration.page(PAGE) == PAGE


def test_every_section_has_its_table() -> None:
    named = [name for names in re.findall(r"<!-- keys: (.*?) -->", PAGE) for name in names.split()]
    assert sorted(named) == sorted(Config.__struct_fields__)
    assert len([*configuration.rows(named)]) > 180


def test_what_was_changed_by_hand_is_made_anew() -> None:
    assert configuration.page(PAGE.replace("| `4000` |", "| `4001` |")) == PAGE
    assert configuration.page(re.sub(r"^\| `server.port.*\n", "", PAGE, flags=re.MULTILINE)) == PAGE


def test_the_page_names_no_variable_that_does_not_exist() -> None:
    known = {variable(path) for path, _ in settings()} | set(OTHER_NAMES)
    named = set(re.findall(r"HERMES_[A-Z_]+", PAGE)) - {"HERMES_SECTION__KEY", "HERMES_"}
    assert named <= known
    assert set(OTHER_NAMES) <= named


def test_the_page_shows_what_can_be_loaded(settle: Settle) -> None:
    examples = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert len(examples) == 5
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
