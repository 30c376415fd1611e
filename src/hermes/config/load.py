"""Where settings come from, and which wins: flag, HERMES_*, familiar names, .env (same order), file, default."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from msgspec import Struct

from hermes.config import Config, commands, credentials
from hermes.config.build import build
from hermes.config.environment import Layer, Tree, familiar_layers, from_text, nested, own_layers, parallel_hint
from hermes.config.files import find, read_env, read_tree
from hermes.config.rules import check
from hermes.config.schema import Path as KeyPath
from hermes.config.schema import nearest, settings
from hermes.errors import ConfigError

DEFAULT_BACKEND = {"name": "ollama", "url": "http://127.0.0.1:11434"}


class Loaded(Struct, frozen=True):
    """A Config and where it came from. `file` is None where there was none; `layers` go from low to high."""

    config: Config
    file: Path | None
    layers: tuple[Layer, ...]

    def source(self, path: KeyPath) -> str:
        """The variable, flag or file that decided the key at `path`; "default" if nothing did."""
        return _source(self.layers, path, len(path)) or "default"


class Source:
    """Where a configuration comes from. Read again, it is what a start would make of it now, by the same flags and
    variables; but for the file, which has to be where it was.
    """

    def __init__(self, path: str | None, environ: Mapping[str, str], overrides: Mapping[str, Any], cwd: Path) -> None:
        self._asked = path, environ, overrides, cwd
        self.file: Path | None = None  # that it was read from; None: there was none, or it was not read yet
        self.change: Callable[[Config], Config] = lambda config: config  # whatever else a start would make of it

    def read(self) -> Config:
        """Raises ConfigError, one line per problem."""
        loaded = resolve(*self._asked)
        if self.file not in (None, loaded.file):
            raise ConfigError(f"{self.file}: no such file any more; a restart would do without it")
        self.file = loaded.file
        return self.change(loaded.config)

    def files(self) -> Iterator[Path]:
        """That it is read from, or would be if they were there."""
        path, environ, _, cwd = self._asked
        with suppress(ConfigError):
            file = find(path or environ.get("HERMES_CONFIG"), environ, cwd)
            yield from () if file is None else (file,)
            yield (file.parent if file else cwd) / ".env"
        yield from credentials.files(environ)


def load(path: str | None, environ: Mapping[str, str], overrides: Mapping[str, Any], cwd: Path) -> Config:
    """The configuration in force. `path`: the file named by --config; `overrides`: dotted path -> value, from flags.

    Raises ConfigError, one line per problem.
    """
    return resolve(path, environ, overrides, cwd).config


def resolve(path: str | None, environ: Mapping[str, str], overrides: Mapping[str, Any], cwd: Path) -> Loaded:
    """As `load`, with where each setting came from."""
    file = find(path or environ.get("HERMES_CONFIG"), environ, cwd)
    dotenv = read_env((file.parent if file else cwd) / ".env")
    stack = _Stack()
    if file is not None:
        stack.add([Layer(str(file), commands.filled(read_tree(file)))])
    if dotenv.get("HERMES_CONFIG"):
        stack.problems.append("HERMES_CONFIG in .env: the .env is found by the file, not the file by the .env")
    dotenv, environ = (credentials.filled(variables, stack.problems) for variables in (dotenv, environ))
    for variables, suffix in ((dotenv, " in .env"), (environ, "")):
        stack.add(familiar_layers(variables, stack.tree, suffix))
        stack.add(own_layers(variables, suffix))
    stack.add(_flags(overrides))
    stack.add(_backend_layers(stack.tree, {**dotenv, **environ}))
    return _finish(stack, file)


def _finish(stack: "_Stack", file: Path | None) -> Loaded:
    layers = tuple(stack.layers)
    try:
        config = build(stack.tree, lambda path: _nearest_source(layers, path))
        check(config)
    except ConfigError as error:
        stack.problems.append(str(error))
    if stack.problems:
        raise ConfigError("\n".join(stack.problems))
    return Loaded(config, file, layers)


class _Stack:
    """The layers so far, merged, and what was wrong with those that could not be laid."""

    def __init__(self) -> None:
        self.layers: list[Layer] = []
        self.tree: Tree = {}
        self.problems: list[str] = []

    def add(self, layers: Iterable[Layer | ConfigError]) -> None:
        for layer in layers:
            if isinstance(layer, ConfigError):
                self.problems.append(str(layer))
            else:
                self.layers.append(layer)
                self.tree = merged(self.tree, layer.tree)


def merged(below: dict[Any, Any], above: dict[Any, Any]) -> dict[Any, Any]:
    """Mappings join, key by key; anything else is replaced, lists too. {0: ...} over a list means its first item."""
    tree = dict(below)
    for key, value in above.items():
        under = tree.get(key)
        if isinstance(under, list) and isinstance(value, dict) and value.keys() == {0}:
            value = [*merged({0: under[0]}, value).values(), *under[1:]]
        elif isinstance(under, dict) and isinstance(value, dict):
            value = merged(under, value)
        tree[key] = value
    return tree


def _flags(overrides: Mapping[str, Any]) -> Iterable[Layer | ConfigError]:
    """A layer per flag that was given; None is not given."""
    known = {".".join(path): (path, field) for path, field in settings()}
    for name, value in overrides.items():
        if value is None:
            continue
        if name not in known:
            close = nearest(name, known)
            yield ConfigError(f"{name}: unknown key" + (f", did you mean {close}?" if close else "") + " (flag)")
            continue
        path, field = known[name]
        try:
            yield Layer("flag", nested(path, from_text(name, field.type, value) if isinstance(value, str) else value))
        except ConfigError as error:
            yield error


def _backend_layers(tree: Tree, variables: Mapping[str, str]) -> Iterable[Layer]:
    """The backend that is there without being configured, and Ollama's own word on its slots, if it has one."""
    if not (backends := tree.get("backends")):
        backends = [DEFAULT_BACKEND]
        yield Layer("default", {"backends": backends})
    slots = parallel_hint(variables)
    alone = backends[0] if isinstance(backends, list) and len(backends) == 1 else None
    if not slots or not isinstance(alone, dict) or alone.get("kind", "ollama") != "ollama":
        return
    if alone.get("slots") is None:
        yield Layer("OLLAMA_NUM_PARALLEL", {"backends": {0: {"slots": slots}}})


# --- sources --------------------------------------------------------------------------------------------------------


def _source(layers: tuple[Layer, ...], path: KeyPath, length: int) -> str | None:
    return next((layer.source for layer in reversed(layers) if _holds(layer.tree, path[:length])), None)


def _nearest_source(layers: tuple[Layer, ...], path: KeyPath) -> str:
    """Where the key came from or, if it is missing, what it should have been in."""
    found = (_source(layers, path, length) for length in range(len(path), 0, -1))
    return next((source for source in found if source), "")


def _holds(tree: Any, path: KeyPath) -> bool:
    for step in path:
        try:
            tree = tree[step]
        except (LookupError, TypeError):
            return False
    return True
