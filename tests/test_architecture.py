"""The rooms and the arrows between them: every import in src/hermes against the layers of ARCHITECTURE.md."""

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src"

PURE = ("chat", "dialects", "policy")
# What a pure room may import from outside: values and pure functions. All else is the world.
PURE_MAY_IMPORT = frozenset(
    (
        "bisect",
        "collections",
        "datetime",
        "difflib",
        "enum",
        "functools",
        "hashlib",
        "heapq",
        "itertools",
        "json",
        "math",
        "msgspec",
        "operator",
        "re",
        "sortedcontainers",
        "struct",
        "typing",
    )
)
PURE_MUST_NOT_IMPORT = ("asyncio", "time", "random", "os", "logging", "socket", "ssl", "http", "sqlite3", "threading")

# Each driver has one place: a module, or a room of its own.
DRIVERS = {
    "uvloop": "hermes.cli.loop",
    "httptools": "hermes.http",
    "prometheus_client": "hermes.exposition",
    "click": "hermes.cli",
    "rich": "hermes.cli",
    "jwt": "hermes.oidc.keys",
    "cryptography": "hermes.oidc.keys",
    "matplotlib": "hermes.simulator.replay.plot",
    "opentelemetry": "hermes.tracing.export",
}

Modules = Mapping[str, str]
"""Names of modules to their source."""


@cache
def hermes() -> dict[str, str]:
    modules = {}
    for path in sorted((SRC / "hermes").rglob("*.py")):
        name = ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__")
        modules[name] = path.read_text()
    return modules


def layers() -> list[list[str]]:
    """The block of ARCHITECTURE.md that follows the rule, top layer first."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    _, rule, after = text.partition("Imports go only downwards")
    assert rule, "ARCHITECTURE.md has lost its rule"
    block = after.split("```")[1]
    return [[room.strip() for room in line.split("|")] for line in block.strip().splitlines()]


# --- reading imports --------------------------------------------------------------------------------------------------


def imports(module: str, modules: Modules) -> Iterator[str]:
    """Everything that a module imports, wherever in it: in functions and under TYPE_CHECKING too."""
    package = module if is_package(module, modules) else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(modules[module])):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            source = ".".join(filter(None, (base, node.module)))
            for alias in node.names:
                named = f"{source}.{alias.name}"
                yield named if named in modules else source


def is_package(module: str, modules: Modules) -> bool:
    return any(other.startswith(f"{module}.") for other in modules)


def own_imports(modules: Modules) -> dict[str, set[str]]:
    return {
        module: {name for name in imports(module, modules) if name in modules and name != module} for module in modules
    }


def room(module: str) -> str:
    """The part after `hermes.`; the package itself and `python -m hermes` stand outside the rooms."""
    return module.split(".")[1] if "." in module else ""


# --- the rules --------------------------------------------------------------------------------------------------------


def upward_or_sideways(modules: Modules, order: list[list[str]]) -> list[str]:
    level = {name: number for number, line in enumerate(order) for name in line}
    wrong = []
    for module, targets in own_imports(modules).items():
        for target in sorted(targets):
            here, there = room(module), room(target)
            if here in ("", "__main__") or there in ("", here):
                continue
            if there == "__main__" or here not in level or there not in level or level[there] <= level[here]:
                wrong.append(f"{module} imports {target}")
    return wrong


def circle(modules: Modules) -> list[str]:
    """Modules that import each other in a circle; empty if there is none."""
    try:
        TopologicalSorter(own_imports(modules)).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def worldly(modules: Modules) -> list[str]:
    """Imports of pure rooms that are not on their short list."""
    wrong = []
    for module in modules:
        if room(module) in PURE:
            for name in imports(module, modules):
                ours = name in modules
                if room(name) in ("metrics", "series", "config") if ours else name.split(".")[0] not in PURE_MAY_IMPORT:
                    wrong.append(f"{module} imports {name}")
    return wrong


def drivers_elsewhere(modules: Modules) -> list[str]:
    return [
        f"{module} imports {name}"
        for module in modules
        for name in imports(module, modules)
        if (place := DRIVERS.get(name.split(".")[0])) and module != place and not module.startswith(f"{place}.")
    ]


# --- the code obeys them ----------------------------------------------------------------------------------------------


def test_imports_go_only_downwards() -> None:
    assert upward_or_sideways(hermes(), layers()) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circle(hermes()) == []


def test_the_pure_rooms_import_nothing_of_the_world() -> None:
    assert worldly(hermes()) == []


def test_each_driver_is_imported_in_one_place() -> None:
    assert drivers_elsewhere(hermes()) == []


def test_every_room_has_its_place_in_one_layer_and_every_place_its_room() -> None:
    placed = [name for line in layers() for name in line]
    assert sorted(placed) == sorted({room(module) for module in hermes()} - {"", "__main__"})


def test_the_rooms_are_listed_in_architecture_md() -> None:
    tree = (ROOT / "ARCHITECTURE.md").read_text().split("src/hermes/\n")[1].split("```")[0]
    listed = re.findall(r"^  (\w+)(?:/|\.py) ", tree, re.MULTILINE)
    assert sorted(listed) == sorted({room(module) for module in hermes()} - {""})


# --- and the rules find what breaks them ------------------------------------------------------------------------------

ORDER = [["cli"], ["api"], ["http", "exchange"], ["dialects", "policy"], ["chat", "config"], ["errors"]]
RIGHT = {
    "hermes": "",
    "hermes.__main__": "from hermes.cli import main",
    "hermes.cli": "from hermes import __version__\nfrom hermes.api.app import Api",
    "hermes.api": "",
    "hermes.api.app": "import asyncio\nfrom hermes.api.door import Door\nfrom hermes import errors",
    "hermes.api.door": "from hermes.http.request import Request",
    "hermes.http": "",
    "hermes.http.request": "import httptools",
    "hermes.exchange": "from hermes.chat import Usage",
    "hermes.dialects": "from hermes.chat import Text",
    "hermes.policy": "from collections.abc import Mapping",
    "hermes.chat": "from msgspec import Struct",
    "hermes.config": "from hermes.errors import ConfigError",
    "hermes.errors": "from enum import StrEnum",
}


def found(module: str, source: str) -> list[str]:
    """What the rules say of a tree in which one module has one wrong line."""
    modules = RIGHT | {module: f"{RIGHT.get(module, '')}\n{source}"}
    return [*upward_or_sideways(modules, ORDER), *worldly(modules), *drivers_elsewhere(modules), *circle(modules)]


def test_a_right_tree_has_nothing_wrong() -> None:
    assert found("hermes.errors", "") == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("hermes.chat", "from hermes.dialects import Text"),
        ("hermes.chat", "import hermes.dialects"),
        ("hermes.chat", "from hermes import dialects"),
        ("hermes.chat", "from . import dialects"),
        ("hermes.http.request", "from ..api.app import Api"),
        ("hermes.http.request", "from hermes.exchange import Exchange"),
        ("hermes.policy", "def decide():\n    from hermes.dialects import Text"),
        ("hermes.errors", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from hermes.chat import Text"),
        ("hermes.api.door", "import hermes.cli as cli"),
        ("hermes.config", "import hermes.__main__"),
        ("hermes.unplaced", "from hermes.errors import GatewayError"),
    ],
)
def test_an_import_that_goes_up_or_sideways_is_found(module: str, source: str) -> None:
    assert upward_or_sideways(RIGHT | {module: source}, ORDER) != []


@pytest.mark.parametrize("name", PURE_MUST_NOT_IMPORT)
def test_a_pure_room_that_looks_at_the_world_is_found(name: str) -> None:
    for line in (f"import {name}", f"from {name} import something", f"import {name}.part as part"):
        assert found("hermes.policy", line) == [f"hermes.policy imports {line.split()[1]}"]


def test_a_pure_room_that_reads_the_configuration_is_found() -> None:
    assert worldly(RIGHT | {"hermes.policy": "from hermes.config import Config"}) != []


def test_a_circle_inside_a_room_is_found() -> None:
    assert circle(RIGHT | {"hermes.api.door": "from hermes.api.app import Api"}) != []


@pytest.mark.parametrize(
    ("module", "source"), [("hermes.api.app", "import uvloop"), ("hermes.exchange", "from httptools import parse_url")]
)
def test_a_driver_in_a_second_place_is_found(module: str, source: str) -> None:
    assert drivers_elsewhere(RIGHT | {module: source}) != []
