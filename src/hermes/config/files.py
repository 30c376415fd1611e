"""Finding and reading hermes.yaml, hermes.toml and .env. What they hold is judged elsewhere."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hermes.errors import ConfigError

SYSTEM_DIR = Path("/etc/hermes")
NAMES = ("hermes.yaml", "hermes.toml")
MAX_FILE_BYTES = 2**20


def find(named: str | None, environ: Mapping[str, str], cwd: Path) -> Path | None:
    """The file that was named, else the first one where they are looked for. Naming one that is not there: an error."""
    if named:
        return cwd / named
    for folder in _folders(environ, cwd):
        here = [folder / name for name in NAMES if _is_file(folder / name)]
        if len(here) > 1:
            raise ConfigError(f"{folder} has both {' and '.join(NAMES)}: keep one, or name one with --config")
        if here:
            return here[0]
    return None


def _folders(environ: Mapping[str, str], cwd: Path) -> list[Path]:
    # XDG Base Directory: a relative path in the variable is to be ignored
    configured = environ.get("XDG_CONFIG_HOME", "")
    home = environ.get("HOME", "")
    user = [Path(configured)] if configured.startswith("/") else [Path(home) / ".config"] if home else []
    return [cwd, *(folder / "hermes" for folder in user), SYSTEM_DIR]


def signature(path: str | Path) -> tuple[int, ...] | None:
    """By which it is told whether a file has been changed or replaced, also where a link leads to it. None: there is
    none.
    """
    try:
        found = Path(path).stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None


def read_text(path: Path) -> str:
    """Raises ConfigError."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise ConfigError(f"{path}: larger than 1 MiB")
        return data.decode("utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: {error.strerror}; --config, or HERMES_CONFIG, names another") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; whoever runs Hermes has to be able to read it") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}") from None
    except ValueError:
        raise ConfigError(f"{str(path)!a} cannot be the name of a file") from None


def read_tree(path: Path) -> dict[str, Any]:
    """The file's mapping, TOML by its ending or else YAML. An empty file is an empty mapping."""
    text = read_text(path)
    tree = _toml(path, text) if path.suffix == ".toml" else _yaml(path, text)
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected keys such as 'server:' at the top")
    return tree


def _toml(path: Path, text: str) -> Any:
    import tomllib

    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        from hermes.config.slips import in_toml

        raise ConfigError(f"{path}: {in_toml(text, error)}") from None


def _yaml(path: Path, text: str) -> Any:
    from yaml import YAMLError

    from hermes.config.strictyaml import parse

    try:
        return parse(text)
    except (YAMLError, RecursionError) as error:
        from hermes.config.slips import in_yaml

        raise ConfigError(f"{path}: {in_yaml(text, error)}") from None


# --- .env -----------------------------------------------------------------------------------------------------------

_NAME = re.compile(r"(?:export\s+)?([^\s='\"]+)\s*")
_SINGLE = re.compile(r"\s*'([^']*)'\s*(?:#.*)?")
_DOUBLE = re.compile(r'\s*"((?:[^"\\]|\\.)*)"\s*(?:#.*)?')
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}


def read_env(path: Path) -> dict[str, str]:
    """The KEY=VALUE lines of a .env; none where there is no such file. Later lines win.

    '...' is taken as it stands, "..." knows \\n \\t \\r \\" and \\\\, a bare value ends before ` #`.
    """
    if not _is_file(path):
        return {}
    values: dict[str, str] = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, text = line.strip().partition("=")
        match, value = _NAME.fullmatch(name), _env_value(text)
        if match is None or not equals or value is None:
            raise ConfigError(f"{path}: line {number} is not KEY=VALUE, KEY='VALUE' or KEY=\"VALUE\"")
        values[match[1]] = value
    return values


def _env_value(text: str) -> str | None:
    if text.lstrip().startswith("'"):
        match = _SINGLE.fullmatch(text)
        return match[1] if match else None
    if text.lstrip().startswith('"'):
        match = _DOUBLE.fullmatch(text)
        return re.sub(r"\\(.)", lambda escape: _ESCAPES.get(escape[1], escape[1]), match[1]) if match else None
    return re.split(r"\s#", text, maxsplit=1)[0].strip()
