"""Configurations of other programs, made Hermes's: what has a place here is taken over, the rest is told."""

from collections.abc import Iterator
from itertools import count
from math import isfinite
from typing import Any

import yaml
from msgspec import Struct, field

from hermes.config import commands
from hermes.config.build import build
from hermes.config.rules import check
from hermes.config.schema import spell
from hermes.errors import ConfigError

Tree = dict[str, Any]


class Imported(Struct):
    """A tree as a file of ours would have it, and a line for each thing that has no place in it."""

    tree: Tree = field(default_factory=lambda: {"backends": [], "models": {}})
    remarks: list[str] = field(default_factory=list)

    def leave(self, path: tuple[str | int, ...], why: str) -> None:
        self.remarks.append(f"{spell(path)}: {why}")

    def leave_rest(self, section: Any, known: set[str], path: tuple[str | int, ...]) -> None:
        """Tell what nobody has read, so that nothing is lost in silence."""
        if isinstance(section, dict):
            for name in section:
                if name not in known:
                    self.leave((*path, str(name)), "left out")

    def text(self, source: str) -> str:
        """A hermes.yaml: what is to be known of it first, and then what was taken over."""
        head = [f"# Made of {source}."]
        if self.remarks:
            head += [
                "# What could not be taken over, or is otherwise here:",
                *(f"# - {' '.join(each.split())}" for each in self.remarks),
            ]
        try:
            tree = _written_out({name: part for name, part in self.tree.items() if part}, count())
        except RecursionError:
            raise ConfigError(_ENDLESS) from None
        return "\n".join(head) + "\n" + yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120)

    def check(self) -> None:
        """Raises ConfigError where Hermes would not take it."""
        config = build(commands.filled(self.tree))
        check(config)


_MOST_PARTS = 100_000
_ENDLESS = "what its anchors stand for has no end"


def _written_out(part: Any, parts: Iterator[int]) -> Any:
    """A copy in which nothing stands twice: YAML would have it once, and name it where it stands again."""
    if next(parts) > _MOST_PARTS:
        raise ConfigError(_ENDLESS)
    if isinstance(part, dict):
        return {name: _written_out(each, parts) for name, each in part.items()}
    if isinstance(part, list):
        return [_written_out(each, parts) for each in part]
    return part


def mapping(value: Any, what: str) -> Tree:
    if not isinstance(value, dict):
        raise ConfigError(f"{what}: expected a mapping, this is no configuration of it")
    return value


def section(tree: Any, *names: str) -> Tree:
    """What is under these names, one in the other; nothing where that is no mapping."""
    for name in names:
        tree = tree.get(name) if isinstance(tree, dict) else None
    return tree if isinstance(tree, dict) else {}


def listed(tree: Tree, name: str) -> list[Any]:
    found = tree.get(name)
    return found if isinstance(found, list) else []


def number(value: Any) -> float | None:
    """What may be written as a text too."""
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    if not isfinite(found):
        return None
    return int(found) if found.is_integer() else found
