"""docs/api.md against the code, in both directions: its routes, and every code that an error can have."""

import ast
import re
from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from typing import Any, cast

from hermes.api.management import Management
from hermes.api.table import routes
from hermes.errors import GatewayError

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "api.md").read_text()
# What answers clients: all but the program around it and the simulated server, whose errors are Ollama's.
SOURCES = [
    path
    for path in sorted((ROOT / "src" / "hermes").rglob("*.py"))
    if not {"simulator", "cli", "config"} & set(path.parts)
]


def rows(heading: str) -> list[list[str]]:
    section = PAGE.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    table = section[section.index("\n|") + 1 :].split("\n\n", 1)[0]  # the first
    lines = table.splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


# --- routes -----------------------------------------------------------------------------------------------------------

WHO = {"open": "anyone", "user": "user", "metrics": "operator, or [a key with `metrics`](keys.md)", "admin": "operator"}


class _Anything:
    def __getattr__(self, name: str) -> Any:
        return name


def test_every_route_is_on_the_page_with_who_may_use_it_and_no_other() -> None:
    told = set()
    for paths, who, _ in rows("Routes"):
        methods = re.findall(r"`([A-Z]+) ", paths)
        for number, path in enumerate(re.findall(r"`(?:[A-Z]+ )?(/[^`]*)`", paths)):
            told.add((methods[min(number, len(methods) - 1)], path.replace("{id}", "{model}"), who))
    anything = cast(Any, _Anything())
    table = (*routes(*[anything] * len(signature(routes).parameters)), *Management(*[anything] * 3).routes())
    assert told == {(route.method, route.path, WHO[route.access]) for route in table}


# --- errors -----------------------------------------------------------------------------------------------------------


def codes_in(tree: ast.Module, constants: dict[str, str]) -> Iterator[str]:
    """Every `code=...` of a call, and every `code` that a class fixes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from (text(keyword.value, constants) for keyword in node.keywords if keyword.arg == "code")
        elif isinstance(node, ast.ClassDef):
            for statement in node.body:
                if isinstance(statement, ast.Assign):
                    yield from _fixed(statement)


def _fixed(statement: ast.Assign) -> Iterator[str]:
    pairs = [(target, statement.value) for target in statement.targets]
    for target in statement.targets:
        if isinstance(target, ast.Tuple) and isinstance(statement.value, ast.Tuple):
            pairs += zip(target.elts, statement.value.elts, strict=True)
    for name, value in pairs:
        if isinstance(name, ast.Name) and name.id == "code":
            yield text(value, {})


def text(value: ast.expr, constants: dict[str, str]) -> str:
    """What an expression stands for: a text, or a constant by its name."""
    if isinstance(value, ast.Constant):
        return str(value.value)
    return constants[value.id if isinstance(value, ast.Name) else cast(ast.Attribute, value).attr]


def code_constants(trees: list[ast.Module]) -> dict[str, str]:
    """Texts that modules give a name in capitals."""
    assigned = (node for tree in trees for node in tree.body if isinstance(node, ast.Assign))
    return {
        name.id: str(node.value.value)
        for node in assigned
        for name in node.targets
        if isinstance(name, ast.Name) and name.id.isupper() and isinstance(node.value, ast.Constant)
    }


def test_every_code_of_an_error_is_on_the_page_and_no_other() -> None:
    told = [code for row in rows("Errors") for code in re.findall(r"`(\w+)`", row[1])]
    trees = [ast.parse(path.read_text()) for path in SOURCES]
    constants = code_constants(trees)
    known = {code for tree in trees for code in codes_in(tree, constants)}
    assert len(known) > 30
    assert sorted(told) == sorted(known)


def kinds(above: type[GatewayError] = GatewayError) -> Iterator[type[GatewayError]]:
    yield above
    for kind in above.__subclasses__():
        yield from kinds(kind)


def test_every_kind_of_error_has_the_status_and_outcome_that_the_page_gives_it() -> None:
    for status, codes, _, outcome in rows("Errors"):
        for kind in kinds():
            if f"`{kind.code}`" in codes:
                assert str(kind.status) in status.split(", "), kind
                assert f"`{kind.outcome}`" in outcome or outcome == "not a request", kind
