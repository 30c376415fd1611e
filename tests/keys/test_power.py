"""A power cut, in which what was not synced is lost: nothing acknowledged is among it (I32).

`make kills` cuts 100 times, the suite a few.
"""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from time import sleep

import pytest

from tests.fakes.process import SOURCES
from tests.keys.acknowledged import Acknowledged

CUTS = int(os.environ.get("HERMES_POWER_CUTS", "4"))
HERE = Path(__file__).parent
SECTOR = 512


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not sys.platform.startswith("linux") or (compiler := shutil.which("cc") or shutil.which("gcc")) is None:
        pytest.skip("needs Linux and a C compiler")
    made = tmp_path_factory.mktemp("shim") / "power.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", made, HERE / "power.c", "-ldl"], check=True
    )
    return made


class Machine:
    """`folder` is what a process sees; `shadow` what of it is on the disk for certain."""

    def __init__(self, tmp_path: Path, shim: Path) -> None:
        self.folder, self.shadow = tmp_path / "state", tmp_path / "shadow"
        self._shim = shim
        self.folder.mkdir(mode=0o700)
        self.shadow.mkdir()

    def run(self, changes: int, lot: random.Random, synchronous: str, said: Acknowledged) -> None:
        """Until so many changes were acknowledged, or some more. 0: until somewhere in the first."""
        environ = {**SOURCES, "LD_PRELOAD": str(self._shim)}
        environ |= {"POWER_FOLDER": str(self.folder), "POWER_SHADOW": str(self.shadow)}
        command = [sys.executable, HERE / "writer.py", self.folder, str(lot.randrange(1 << 30)), synchronous]
        with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for _ in range(2 * changes or 1):
                said.heed(json.loads(writer.stdout.readline()))
            if not changes:
                sleep(lot.uniform(0, 0.03))
            writer.kill()
            for line in writer.stdout.read().splitlines(keepends=True):
                if line.endswith("\n"):
                    said.heed(json.loads(line))

    def cut_power(self, lot: random.Random, torn: bool) -> None:
        """What was not synced is lost; `torn`: or of each sector either what it holds or what it held."""
        seen = {str(path.stat().st_ino): path.read_bytes() for path in self.folder.iterdir() if path.is_file()}
        names = self.shadow / "names"
        entries = [line.split(" ", 1) for line in names.read_text().splitlines()] if names.exists() else []
        left = {}
        for inode, name in entries:
            kept = self.shadow / inode
            before = kept.read_bytes() if kept.exists() else b""
            left[name] = _torn(before, seen.get(inode, before), lot) if torn else before
        shutil.rmtree(self.folder)
        shutil.rmtree(self.shadow)
        self.folder.mkdir(mode=0o700)
        self.shadow.mkdir()
        for name, data in left.items():
            (self.folder / name).write_bytes(data)
            (self.shadow / str((self.folder / name).stat().st_ino)).write_bytes(data)
        lines = [f"{path.stat().st_ino} {path.name}\n" for path in self.folder.iterdir()]
        (self.shadow / "names").write_text("".join(lines))

    def lost(self, said: Acknowledged) -> list[str]:
        """As who starts next finds it; looked at in a copy, since looking changes it."""
        copy = self.folder.with_name("copy")
        shutil.copytree(self.folder, copy)
        try:
            return said.lost_in(copy)
        finally:
            shutil.rmtree(copy)


def _torn(before: bytes, after: bytes, lot: random.Random) -> bytes:
    size = lot.choice((len(before), len(after)))
    both = (before.ljust(size, b"\0"), after.ljust(size, b"\0"))
    return b"".join(lot.choice(both)[at : at + SECTOR] for at in range(0, size, SECTOR))[:size]


@pytest.mark.parametrize("torn", [False, True], ids=["all of it is lost", "sectors of it are lost"])
def test_what_was_acknowledged_survives_power_cuts(tmp_path: Path, shim: Path, torn: bool) -> None:
    """I32: one after the other, each from what the last has left."""
    machine, said, lot = Machine(tmp_path, shim), Acknowledged(), random.Random(CUTS)
    for number in range(CUTS):
        machine.run(lot.randint(1, 40), lot, "FULL", said)
        machine.cut_power(lot, torn)
        assert machine.lost(said) == [], f"cut {number}"
    assert len(said.keys) > CUTS


@pytest.mark.parametrize("torn", [False, True], ids=["all of it is lost", "sectors of it are lost"])
def test_a_cut_while_the_first_key_is_made_leaves_what_can_be_started(tmp_path: Path, shim: Path, torn: bool) -> None:
    """I32: with the first key come the database, its tables, the pepper and its mark."""
    lot = random.Random(CUTS)
    for number in range(CUTS):
        (tmp_path / str(number)).mkdir()
        machine, said = Machine(tmp_path / str(number), shim), Acknowledged()
        for _ in range(2):
            machine.run(0, lot, "FULL", said)
            machine.cut_power(lot, torn)
            assert machine.lost(said) == [], f"cut {number}"


@pytest.mark.parametrize("synchronous", ["NORMAL", "OFF"])
def test_without_syncing_the_same_cut_loses_what_was_acknowledged(tmp_path: Path, shim: Path, synchronous: str) -> None:
    """So the test above sees what it looks for."""
    machine, said, lot = Machine(tmp_path, shim), Acknowledged(), random.Random(1)
    machine.run(20, lot, synchronous, said)
    machine.cut_power(lot, torn=False)
    assert any("is lost" in line for line in machine.lost(said))
