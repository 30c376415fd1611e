"""A plain tree to a Config: every problem is found and told at once, with its path, the value and what was expected."""

from collections.abc import Callable
from datetime import date
from typing import Any, get_args

import msgspec
from msgspec import NODEFAULT
from msgspec.structs import fields

from hermes.config import Config, Model, Secret, with_defaults
from hermes.config.kinds import MASK
from hermes.config.schema import Path, describe, is_struct, meta, nearest, optional, origin, settings, spell
from hermes.errors import ConfigError

_REFUSED = object()


def build(tree: dict[str, Any], source: Callable[[Path], str] = lambda path: "") -> Config:
    """Raises ConfigError with one line per problem. `source` says where the value at a path came from."""
    builder = _Builder(source)
    config = builder.value(Config, tree, ())
    if builder.problems:
        raise ConfigError("\n".join(builder.problems))
    models = {name: _inherit(model, config, tree["models"][name] or {}) for name, model in config.models.items()}
    return msgspec.structs.replace(config, models=models)  # type: ignore[no-any-return]


def _inherit(model: Model, config: Config, said: dict[str, Any]) -> Model:
    return with_defaults(model, config.defaults, frozenset(said))


class _Builder:
    """Walks types and tree together and collects what does not fit."""

    def __init__(self, source: Callable[[Path], str]) -> None:
        self.source = source
        self.problems: list[str] = []

    def value(self, kind: Any, value: Any, path: Path) -> Any:
        kind, may_be_none = optional(kind)
        if value is None and may_be_none:
            return None
        if is_struct(kind):
            return self._struct(kind, value, path)
        if origin(kind) is tuple:
            return self._list(kind, value, path)
        if origin(kind) is dict:
            return self._mapping(kind, value, path)
        return self._leaf(kind, value, path)

    def _struct(self, kind: Any, value: Any, path: Path) -> Any:
        if value is None:
            value = {}  # `server:` with nothing under it
        if not isinstance(value, dict):
            return self._refuse(kind, value, path)
        known = {field.name: field for field in fields(kind)}
        self._unknown(kind, list(known), value, path)
        made = {
            name: self.value(field.type, value[name], (*path, name)) for name, field in known.items() if name in value
        }
        for name, field in known.items():
            if name not in value and field.default is NODEFAULT and field.default_factory is NODEFAULT:
                self._problem((*path, name), f"missing, expected {describe(field.type)}")
                made[name] = _REFUSED
        return _REFUSED if _REFUSED in made.values() else kind(**made)

    def _list(self, kind: Any, value: Any, path: Path) -> Any:
        if not isinstance(value, list | tuple):
            return self._refuse(kind, value, path)
        item_kind = get_args(kind)[0]
        return tuple(self.value(item_kind, item, (*path, index)) for index, item in enumerate(value))

    def _mapping(self, kind: Any, value: Any, path: Path) -> Any:
        if value is None:
            return {}
        if not isinstance(value, dict):
            return self._refuse(kind, value, path)
        name_kind, item_kind = get_args(kind)
        return {
            self._name(name_kind, name, path): self.value(item_kind, item, (*path, str(name)))
            for name, item in value.items()
        }

    def _name(self, kind: Any, name: Any, path: Path) -> Any:
        try:
            return msgspec.convert(name, kind)
        except msgspec.ValidationError:
            self._problem(path, f"{_show(name)} is not {describe(kind)}")
            return _REFUSED

    def _leaf(self, kind: Any, value: Any, path: Path) -> Any:
        if kind is Secret:
            return self._secret(value, path)
        if isinstance(value, date):  # TOML has such values, and YAML texts
            value = value.isoformat()
        try:
            read = (meta(kind).extra or {}).get("parse")
            return msgspec.convert(read(value) if read and isinstance(value, str) else value, kind)
        except (msgspec.ValidationError, ValueError):
            return self._refuse(kind, value, path)

    def _secret(self, value: Any, path: Path) -> Any:
        if type(value) is int:
            value = str(value)
        if not isinstance(value, str) or not value.isascii() or not value.isprintable() or not value:
            return self._refuse(Secret, value, path)
        if value == MASK:
            self._problem(path, f"{MASK} is how a secret is shown, not the secret")
        return Secret(value)

    # --- what is told -----------------------------------------------------------------------------------------------

    def _refuse(self, kind: Any, value: Any, path: Path) -> Any:
        hint = nearest(value, _words(kind)) if isinstance(value, str) else None
        shown = MASK if kind is Secret or path[:1] == ("keys",) else _show(value)
        more = f", did you mean {hint}?" if hint else ""
        if (is_struct(kind) or origin(kind) is dict) and isinstance(value, str) and ":" in value:
            more = "; behind a key's colon stands a space"
        self._problem(path, f"{shown} is not {describe(kind)}{more}")
        return _REFUSED

    def _unknown(self, kind: Any, known: list[str], value: dict[Any, Any], path: Path) -> None:
        for name in value:
            if name in known:
                continue
            # in `keys` even a name may be somebody's key
            where = path if path[:1] == ("keys",) else (*path, name)
            self._problem(where, f"unknown key{_hint(str(name), known, kind)}")

    def _problem(self, path: Path, text: str) -> None:
        where = spell(path) or "the configuration"
        source = self.source(path)
        self.problems.append(f"{where}: {text}" + (f" ({source})" if source else ""))


def _hint(name: str, known: list[str], kind: Any) -> str:
    if deeper := _named(name, kind):
        return f", did you mean {deeper}?"
    if close := nearest(name, known) or _named(name, Config):
        return f", did you mean {close}?"
    return f"; known: {', '.join(known)}"


def _named(name: str, kind: Any) -> str:
    """Where below it a key has this very name."""
    return " or ".join(".".join(path) for path, _ in settings(kind) if path[-1] == name)


def _words(kind: Any) -> list[str]:
    """The literal words that a kind accepts."""
    if isinstance(kind, str):
        return [kind]
    return [word for argument in get_args(kind) for word in _words(argument)]


def _show(value: Any) -> str:
    """A value in an error: on one line, short, and nothing of what is inside a mapping or a list."""
    if isinstance(value, dict | list | tuple | set):
        return "a list" if isinstance(value, list | tuple) else "a mapping"
    if value is None:
        return "nothing"
    text = ascii(value)
    if "@" in text and "://" in text:  # user:password@host
        return MASK
    return text if len(text) <= 60 else text[:57] + "..."
