"""What the pages show to type is typed, page by page and in their order: at a Hermes in front of simulated models."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

import pytest
from msgspec import Struct

from tests.documents.blocks import PAGES, ROOT, Block, blocks, commands, lines
from tests.fakes.process import COMMAND, SOURCES

# Those of ours that come to an end and change nothing but the Hermes that is there. The others are only parsed.
ENDING = {"ask", "check", "config", "keys", "models", "queue", "status", "usage", "version"}
BLOCKS = [block for block in blocks() if block.why is None]
SHOWN = {"README.md", "index.md", "clients.md"}  # whose Python asks the Hermes that is there


class Place(Struct, frozen=True):
    """A folder to type in, and a Hermes that listens at `port`."""

    folder: Path
    port: int
    environ: Mapping[str, str]

    def run(self, line: str) -> str:
        """Through a shell, as somebody would. What it printed; fails where it did."""
        line = re.sub(r"\blocalhost:4000\b|\b127\.0\.0\.1:4000\b", f"localhost:{self.port}", line)
        line = line.replace("/backups/", f"{self.folder}/").replace("curl ", "curl -sS --fail-with-body ")
        done = subprocess.run(
            ["sh", "-e", "-c", line], cwd=self.folder, env=self.environ, capture_output=True, text=True, timeout=30
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout


@contextmanager
def started(folder: Path, environ: Mapping[str, str], *arguments: str) -> Iterator[int]:
    """The port of one of our own servers, which it tells as soon as it listens."""
    command = [*COMMAND, *arguments]
    with subprocess.Popen(command, cwd=folder, env=environ, stdout=-1, stderr=subprocess.STDOUT, text=True) as process:
        try:
            for line in cast(IO[str], process.stdout):
                if found := re.search(r"listens on http://127\.0\.0\.1:(\d+)", line):
                    yield int(found[1])
                    break
            else:
                raise AssertionError(f"{arguments} did not listen")
        finally:
            process.kill()


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("sim")
    with started(folder, {**SOURCES}, "sim", "--port", "0", "--speed", "1000") as port:
        yield port


@pytest.fixture
def place(simulated: int, tmp_path: Path) -> Iterator[Place]:
    programs = tmp_path / "bin"
    programs.mkdir()
    hermes = programs / "hermes"
    hermes.write_text(f'#!/bin/sh\nexec {" ".join(COMMAND)} "$@"\n')
    hermes.chmod(0o755)
    environ = {
        **SOURCES,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "OLLAMA_URL": f"http://127.0.0.1:{simulated}",
        "KEY": "sk-any",
    }
    with started(tmp_path, {**environ, "HERMES_SERVER__PORT": "0"}, "serve") as port:
        yield Place(tmp_path, port, {**environ, "HERMES_URL": f"http://localhost:{port}"})


def is_typed(line: str) -> bool:
    """Whether all of its commands end by themselves."""
    return all(words[0] in ("curl", "cp") or (words[0] == "hermes" and words[1] in ENDING) for words in commands(line))


TYPED: dict[Path, list[str]] = {
    page: [line for block in BLOCKS if block.page == page and block.language == "console" for line in lines(block)]
    for page in PAGES
}


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("page", [each for each in TYPED if any(map(is_typed, TYPED[each]))], ids=lambda it: it.name)
def test_what_a_page_shows_to_type_does_what_it_should(page: Path, place: Place) -> None:
    for line in filter(is_typed, TYPED[page]):
        assert place.run(line) or ">" in line or line.startswith("cp "), f"{line} printed nothing"


PYTHON = [block for block in BLOCKS if block.language == "python" and block.page.name in SHOWN]


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_the_python_of_a_page_gets_its_answer(block: Block, place: Place) -> None:
    (place.folder / "shown.py").write_text(block.text.replace("localhost:4000", f"localhost:{place.port}"))
    assert place.run(f"{sys.executable} shown.py").strip()


def test_what_fails_is_found(place: Place) -> None:
    for line in ("curl localhost:4000/v1/modles", "hermes status --jsn"):
        with pytest.raises(AssertionError):
            place.run(line)


def test_there_is_something_to_type() -> None:
    assert len([line for typed in TYPED.values() for line in typed if is_typed(line)]) >= 15
    assert len(PYTHON) >= 5 and ROOT / "docs" / "index.md" in TYPED
