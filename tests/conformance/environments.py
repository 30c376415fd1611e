"""An environment for each client, outside of this tree, made on the first run and again when its versions change."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hermes-conformance"
_DECLARED = tomllib.loads((HERE / "clients.toml").read_text())
_ERRORS = {
    name: dict(zip(_DECLARED["errors"]["kinds"], classes, strict=True)) for name, classes in _DECLARED["errors"].items()
}
_AGENT = "it is a program for people, not a library: it does a whole task, streamed, by tools of its own"
_NODE: str = _DECLARED["node"]["runtime"]


@dataclass(frozen=True, slots=True)
class Client:
    """What clients.toml says of one; `errors` is the class that each kind of error has to be.

    An agent has `tools` of its own, of which models call one, each with an argument, and does the task that needs one.
    """

    name: str
    packages: tuple[str, ...]
    script: str
    errors: dict[str, str] = field(default_factory=dict)
    argument: str = ""
    cannot: dict[str, str] = field(default_factory=dict)
    refused_by_ollama: dict[str, str] = field(default_factory=dict)
    tools: dict[str, str] = field(default_factory=dict)

    def why_not(self, task: str) -> str | None:
        """Why it has no way to do that, if it has none."""
        return _AGENT if self.tools and task != "tools" else self.cannot.get(task)

    @property
    def versions(self) -> str:
        return ", ".join(
            package.replace("==", " ") if "==" in package else " ".join(package.rsplit("@", 1))
            for package in self.packages
        )

    def command(self) -> list[str]:
        """How its script is run, in its environment."""
        home = node(self.packages) if self.script.endswith(".mjs") else python(self.packages)
        program = home / ("node_modules/.bin/node" if self.script.endswith(".mjs") else "bin/python")
        script = HERE / "clients" / self.script
        if self.script.endswith(".mjs"):
            # Node looks for packages from where the script is, not from where it is started.
            for each in script.parent.glob("*.mjs"):
                shutil.copy(each, home)
            script = home / script.name
        return [str(program), str(script), self.argument]


def clients() -> list[Client]:
    return [_client(**declared) for declared in _DECLARED["client"]]


def _client(*, packages: list[str], errors: str = "", **rest: Any) -> Client:
    return Client(packages=tuple(packages), errors=_ERRORS.get(errors, {}), **rest)


def python(packages: tuple[str, ...]) -> Path:
    """A venv that has these."""
    home = _home("python", packages)
    if not (home / "ready").exists():
        _run([sys.executable, "-m", "venv", "--clear", str(home)], Path.cwd())
        _run([str(home / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", *packages], home)
        (home / "ready").touch()
    return home


def node(packages: tuple[str, ...]) -> Path:
    """A folder with these in its node_modules, and with Node itself."""
    home = _home("node", packages)
    if not (home / "ready").exists():
        home.mkdir(parents=True, exist_ok=True)
        (home / "package.json").write_text(json.dumps({"private": True}))
        _run(["npm", "install", "--no-save", "--no-audit", "--no-fund", "--loglevel=error", _NODE, *packages], home)
        (home / "ready").touch()
    return home


def models() -> Path:
    """Where the models are kept that are made for the engines."""
    return _CACHE / "models"


def _home(kind: str, packages: tuple[str, ...]) -> Path:
    pinned = hashlib.sha256(" ".join((kind, _NODE if kind == "node" else sys.version, *packages)).encode()).hexdigest()
    return _CACHE / f"{kind}-{pinned[:12]}"


def _run(command: list[str], folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True)
