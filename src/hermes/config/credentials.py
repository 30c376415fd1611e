"""Variables whose values are in files, as containers and systemd pass secrets: `NAME_FILE`, and credentials.

`$CREDENTIALS_DIRECTORY` (systemd.exec(5), Credentials) has a file for each credential; one that bears a variable's name
stands in for it. A variable that is set itself wins.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from hermes.config.files import read_text
from hermes.config.schema import settings, variable
from hermes.errors import ConfigError

_FAMILIAR = ("API_KEYS_JSON", "LLM_BACKEND_URL", "OLLAMA_URL", "OLLAMA_HOST", "PORT", "MAX_CONCURRENT")
_DIRECTORY = "CREDENTIALS_DIRECTORY"
_NAME = re.compile(r"[A-Z][A-Z0-9_]*").fullmatch


def filled(environ: Mapping[str, str], problems: list[str]) -> dict[str, str]:
    """The variables with what is in files; what cannot be read is added to `problems`."""
    values = dict(environ)
    known = _known()
    for name, file in _named(environ, known):
        del values[f"{name}_FILE"]
        if environ.get(name):
            problems.append(f"{name}_FILE: {name} is set as well; keep one")
        else:
            _read_into(values, name, file, f"{name}_FILE: ", problems)
    for file in _credentials(environ):
        if file.name in known and not values.get(file.name):
            _read_into(values, file.name, file, "", problems)
    return values


def files(environ: Mapping[str, str]) -> Iterator[Path]:
    """That `filled` reads, or would."""
    yield from (file for _, file in _named(environ, _known()))
    yield from _credentials(environ)


def _known() -> set[str]:
    return {*_FAMILIAR, *(variable(path) for path, _ in settings())}


def _named(environ: Mapping[str, str], known: set[str]) -> list[tuple[str, Path]]:
    """Names with their files. HERMES_SERVER__TLS__KEY_FILE is a setting, and names no other."""
    found = [(name, name.removesuffix("_FILE")) for name in environ if name.endswith("_FILE") and name not in known]
    return [(base, Path(environ[name])) for name, base in found if base in known and environ[name]]


def _credentials(environ: Mapping[str, str]) -> list[Path]:
    try:
        folder = sorted(Path(environ[_DIRECTORY]).iterdir()) if environ.get(_DIRECTORY) else []
    except OSError:
        return []
    return [file for file in folder if _NAME(file.name)]


def _read_into(values: dict[str, str], name: str, file: Path, where: str, problems: list[str]) -> None:
    try:
        values[name] = read_text(file).strip()
    except ConfigError as error:
        problems.append(f"{where}{error}")
