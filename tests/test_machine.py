"""What is told of the machine."""

import os
from pathlib import Path

import pytest

from hermes import machine


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
