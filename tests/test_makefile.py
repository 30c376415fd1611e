"""What `make` does before there is anything to run."""

import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def script(path: Path, body: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def make_run(folder: Path, python: Path) -> subprocess.CompletedProcess[str]:
    command = ["make", "run", f"PYTHON={python}", f"VENV={folder / '.venv'}"]
    return subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=20)


def test_a_python_that_is_too_old_is_told_so_and_leaves_nothing(tmp_path: Path) -> None:
    done = make_run(tmp_path, script(tmp_path / "python3.9", "exit 1"))
    assert done.returncode != 0
    assert "needs Python 3.11 or newer" in done.stderr and "PYTHON=" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_an_environment_that_is_half_made_is_made_anew(tmp_path: Path) -> None:
    script(tmp_path / ".venv" / "bin" / "python", "exit 1")
    asked = tmp_path / "asked"
    python = script(tmp_path / "python3", f'echo "$@" >> {asked}; test "$1" = -c')
    assert make_run(tmp_path, python).returncode != 0
    assert asked.read_text().splitlines()[-1] == f"-m venv --clear {tmp_path / '.venv'}"


def test_help_has_a_line_with_words_for_every_target() -> None:
    root = Path(__file__).parents[1]
    (targets,) = [
        line.split()[1:] for line in (root / "Makefile").read_text().splitlines() if line.startswith(".PHONY")
    ]
    helping = ["make", "--no-print-directory", "help"]
    told = subprocess.run(helping, cwd=root, capture_output=True, text=True, check=True).stdout.splitlines()
    words = {line.split()[1]: line.split()[2:] for line in told}
    assert sorted(words) == sorted(targets)
    assert [target for target, told_of_it in words.items() if len(told_of_it) < 2] == []
