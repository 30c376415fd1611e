"""The machine: which core runs what, and what a process costs in CPU time and memory."""

import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

MEASURED_CORE, HELPERS_CORE = 0, 1
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def pin(core: int) -> None:
    """Keep this process, and what it starts, on one core."""
    os.sched_setaffinity(0, {core})


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    children = " ".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children"))
    return [pid, *(one for child in children.split() for one in family(int(child)))]


def cpu_ns(pid: int) -> int:
    """CPU time of a process: all its threads, those that ended too (clock_getcpuclockid(3)). 0: it is gone."""
    try:
        return time.clock_gettime_ns((~pid << 3) | 2)
    except OSError:  # Hermes asks other programs for the machine's memory as it starts
        return 0


def memory_kib(pids: list[int]) -> dict[str, int]:
    """`rss`, and `pss`: the same with each shared page divided among those who share it."""
    sums = {"rss": 0, "pss": 0}
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.lower() in sums:
                sums[name.lower()] += int(value.split()[0])
    return sums


def busy_share(seconds: float = 1.0) -> float:
    """How much of the two cores is in use right now, from 0 to 1."""

    def busy_and_all() -> tuple[int, int]:
        rows = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
        times = [list(map(int, row[1:9])) for row in rows if row[0] in (f"cpu{MEASURED_CORE}", f"cpu{HELPERS_CORE}")]
        idle = sum(row[3] + row[4] for row in times)
        return sum(map(sum, times)) - idle, sum(map(sum, times))

    before = busy_and_all()
    time.sleep(seconds)
    after = busy_and_all()
    return (after[0] - before[0]) / max(1, after[1] - before[1])


def description() -> dict[str, Any]:
    cpu_info = Path("/proc/cpuinfo").read_text()
    names = [line.split(":", 1)[1].strip() for line in cpu_info.splitlines() if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "virtual": "hypervisor" in cpu_info,
        "kernel": platform.release(),
    }


def version_of(*command: str, environment: dict[str, str] | None = None) -> str:
    """The first line that a program says about itself."""
    answer = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return (answer.stdout + answer.stderr).strip().splitlines()[0]
