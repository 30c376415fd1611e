"""What the Dockerfile says, run without Docker: its steps, its user, its health check.

`make image` (HERMES_IMAGE names a Python for everybody) takes all of its steps, by root, into an empty environment
from PyPI, and becomes its user; else what is installed here is run as it is.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE

import pytest

from tests.fakes.process import SOURCES

ROOT = Path(__file__).parents[2]
LINES = (ROOT / "Dockerfile").read_text().replace("\\\n", "").splitlines()
ENV = dict(pair.split("=", 1) for pair in next(line for line in LINES if line.startswith("ENV ")).split()[1:])
USER = int(next(line for line in LINES if line.startswith("USER ")).split()[1].partition(":")[0])
CHECK = json.loads(next(line for line in LINES if line.startswith("HEALTHCHECK ")).partition("CMD ")[2])
KEYS = json.dumps({"sk-1": {"user": "ann"}})


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """One that other users may look into."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def program(folder: Path) -> list[str]:
    """Python and what it runs, as the image has them or as they are here."""
    python = os.environ.get("HERMES_IMAGE")
    if python is None:
        return [sys.executable, "-m", "hermes"]
    build, home = folder / "build", folder / "hermes"
    for line in LINES[: LINES.index("FROM ${BASE}")]:
        word, _, rest = line.partition(" ")
        if word == "COPY":
            for name in rest.split()[:-1]:
                subprocess.run(["cp", "-r", ROOT / name, build], check=True)
        elif word == "WORKDIR":
            build.mkdir()
        elif word == "RUN":
            step = rest.replace("/opt/hermes", str(home)).replace("python -m venv", f"{python} -m venv")
            subprocess.run(step, shell=True, cwd=build, check=True)
    return [str(home / "bin/python"), str(home / "bin/hermes")]


def somebody_else(program: list[str]) -> int | None:
    """The image's user, where we may become him and he may run this Python."""
    try:
        subprocess.run([program[0], "-c", ""], user=USER, check=True)
    except (PermissionError, subprocess.CalledProcessError):
        return None
    return USER


@pytest.fixture
def served(program: list[str], folder: Path) -> Iterator[int]:
    """The port of one that may write nowhere but to the volume."""
    user = somebody_else(program)
    assert user is not None or "HERMES_IMAGE" not in os.environ, "this has to be asked for by root"
    volume, keys = folder / "volume", folder / "keys.json"
    volume.mkdir(mode=0o700)
    keys.write_text(KEYS)
    if user is not None:
        os.chown(volume, user, user)
    env = {**SOURCES, **ENV, "HERMES_SERVER__STATE_DIR": str(volume), "PORT": "0", "API_KEYS_JSON_FILE": str(keys)}
    if "HERMES_IMAGE" in os.environ:
        del env["PYTHONPATH"]
    process = subprocess.Popen([*program, "serve"], env=env, cwd="/", stderr=PIPE, text=True, user=user, group=user)
    assert process.stderr is not None
    try:
        listens = next(line for line in process.stderr if "listens on" in line)
        yield int(re.findall(r"http://0\.0\.0\.0:(\d+)", listens)[0])
        process.terminate()
        assert process.wait(10) == 0, "it drains"
    finally:
        process.kill()
        process.communicate()


def test_it_runs_as_the_images_user_and_its_health_check_sees_it(program: list[str], served: int) -> None:
    """I24: on every address, since there are keys; they come by a file."""
    port, other = str(served), "1"
    for env, code in (
        ({"PORT": port}, 0),
        ({"PORT": other}, 1),
        ({"HERMES_SERVER__PORT": port, "PORT": other}, 0),
        ({"HERMES_SERVER__PORT": other, "PORT": port}, 1),
    ):
        check = [program[0], *CHECK[1:]]
        assert subprocess.run(check, env=env, capture_output=True).returncode == code


def test_without_keys_it_refuses_to_listen_to_everybody(tmp_path: Path) -> None:
    """I24"""
    env = {**ENV, **SOURCES, "HERMES_SERVER__STATE_DIR": str(tmp_path), "PORT": "0"}
    ended = subprocess.run([sys.executable, "-m", "hermes", "serve"], env=env, cwd="/", capture_output=True, text=True)
    assert ended.returncode == 2 and "keys" in ended.stderr


def test_the_build_gets_what_it_copies_and_nothing_else() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        name for line in LINES if line.startswith("COPY ") and "--from" not in line for name in line.split()[1:-1]
    }
    assert copied == allowed
    assert all((ROOT / name).exists() for name in allowed)
