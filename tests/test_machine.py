"""What is told of the machine."""

import os
from pathlib import Path

import pytest

from hermes import machine
from hermes.machine import pressure


def test_the_process_and_the_machine_are_seen() -> None:
    process, host = machine.process(), machine.machine()
    assert process["pid"] == os.getpid()
    assert host["cpus"] == os.cpu_count()


def test_of_nested_limits_the_tightest_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "slice" / "service"
    own.mkdir(parents=True)
    for path, file, text in (
        (tmp_path, "memory.max", "max"),
        (own.parent, "memory.max", "1000"),
        (own, "memory.max", "2000"),
        (own, "memory.current", "700"),
        (own.parent, "cpu.max", "max 100000"),
        (own, "cpu.max", "150000 100000"),
    ):
        (path / file).write_text(text + "\n")
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    monkeypatch.setattr(machine, "_own_cgroup", lambda: own)
    assert machine.cgroup() == {"memory_limit_bytes": 1000, "memory_used_bytes": 700, "cpu_limit": 1.5}


def test_what_cannot_be_read_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    monkeypatch.setattr(machine, "_read", lambda path: "")
    assert machine.cgroup() == {}
    assert "rss_bytes" not in machine.process()
    assert "memory_total_bytes" not in machine.machine()


MIB = 1 << 20


def meminfo(monkeypatch: pytest.MonkeyPatch, available_mib: int) -> None:
    text = f"MemTotal: {1000 << 10} kB\nMemFree: 1 kB\nMemAvailable: {available_mib << 10} kB"
    read = machine._read
    monkeypatch.setattr(machine, "_read", lambda path: text if path == "/proc/meminfo" else read(path))


def test_memory_is_scarce_when_little_of_the_machines_is_available(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_own_cgroup", lambda: tmp_path)
    meminfo(monkeypatch, 50)
    assert pressure() == ""
    meminfo(monkeypatch, 49)
    assert pressure() == "49 of 1000 MiB of the machine's memory are available"


@pytest.mark.parametrize(("used", "cached", "scarce"), [(949, 0, False), (951, 0, True), (999, 500, False)])
@pytest.mark.parametrize("level", ["slice/service", "slice"])
def test_memory_is_scarce_when_a_cgroup_has_used_its_own_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: str, used: int, cached: int, scarce: bool
) -> None:
    """What it has read from files it can do without."""
    own = tmp_path / "slice" / "service"
    own.mkdir(parents=True)
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    monkeypatch.setattr(machine, "_own_cgroup", lambda: own)
    meminfo(monkeypatch, 1000)
    (tmp_path / level / "memory.max").write_text(f"{1000 * MIB}\n")
    (tmp_path / level / "memory.current").write_text(f"{used * MIB}\n")
    (tmp_path / level / "memory.stat").write_text(f"anon 5\nfile {cached * MIB}\nfile_mapped 9999999999\n")
    assert bool(pressure()) is scarce
    assert not scarce or pressure() == "49 of the 1000 MiB that the cgroup may have are left"


def test_where_nothing_can_be_read_nothing_is_scarce(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_own_cgroup", lambda: tmp_path)
    monkeypatch.setattr(machine, "_read", lambda path: "")
    assert pressure() == ""
