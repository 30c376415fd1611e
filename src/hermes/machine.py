"""The machine and our place on it, read from /proc and cgroup v2. What cannot be read is left out."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")

# Below this part of the memory a machine is about to swap, or to kill somebody.
SCARCE = 0.05


def process() -> dict[str, float | int]:
    """This process: memory in bytes, processor seconds, open files."""
    fields = _fields("/proc/self/status")
    usage = os.times()
    found: dict[str, float | int] = {"pid": os.getpid(), "cpu_s": round(usage.user + usage.system, 3)}
    if "VmRSS" in fields:
        found["rss_bytes"] = _kib(fields["VmRSS"])
        found["threads"] = int(fields["Threads"])
    with suppress(OSError):
        found["open_files"] = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 -- names are enough
    return found


def groups(leaders: Iterable[int]) -> dict[int, dict[int, int]]:
    """The processes of each of these process groups, and what they have of the memory, in bytes."""
    found: dict[int, dict[int, int]] = {leader: {} for leader in leaders}
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    for entry in Path("/proc").glob("[0-9]*"):
        # proc(5): the name, in parentheses, may have any character in it; state, parent and group follow
        fields = _read(entry / "stat").rpartition(")")[2].split()
        if len(fields) > 21 and int(fields[2]) in found:
            found[int(fields[2])][int(entry.name)] = int(fields[21]) * page_bytes
    return found


def machine() -> dict[str, object]:
    """Processors, load over 1, 5 and 15 minutes, and memory in bytes."""
    found: dict[str, object] = {"cpus": os.cpu_count()}
    with suppress(OSError, AttributeError):  # not everywhere
        found["load"] = [round(load, 2) for load in os.getloadavg()]
        found["cpus_allowed"] = len(os.sched_getaffinity(0))
    fields = _fields("/proc/meminfo")
    for key, name in (("MemTotal", "memory_total_bytes"), ("MemAvailable", "memory_available_bytes")):
        if key in fields:
            found[name] = _kib(fields[key])
    return found


def listens_everywhere(port: int) -> bool:
    """Whether somebody here listens at this TCP port on every address, and so for other machines."""
    for table in ("tcp", "tcp6"):
        # proc(5): number, local address:port in hexadecimal, remote, state; 0A is LISTEN
        for line in _read(f"/proc/self/net/{table}").splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            address, _, its = local.partition(":")
            if state == "0A" and int(its, 16) == port and not address.strip("0"):
                return True
    return False


def memory_bytes() -> int | None:
    """All of the machine's; None if that cannot be told."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None


def cgroup() -> dict[str, float | int]:
    """Our cgroup's limits, the tightest from here up: memory in bytes, processors as a number of them."""
    found: dict[str, float | int] = {}
    here = _own_cgroup()
    levels = [level for level in (here, *here.parents) if level.is_relative_to(_CGROUP)]
    if memory := [int(text) for level in levels if (text := _read(level / "memory.max")).isdigit()]:
        found["memory_limit_bytes"] = min(memory)
    if (used := _read(here / "memory.current")).isdigit():
        found["memory_used_bytes"] = int(used)
    if cpus := [cpu for level in levels if (cpu := _cpus(_read(level / "cpu.max")))]:
        found["cpu_limit"] = round(min(cpus), 3)
    return found


def pressure() -> str:
    """Why nothing large should be loaded now; "" if nothing speaks against it."""
    fields = _fields("/proc/meminfo")
    if "MemAvailable" in fields and "MemTotal" in fields:
        available, total = _kib(fields["MemAvailable"]), _kib(fields["MemTotal"])
        if available < SCARCE * total:
            return f"{available >> 20} of {total >> 20} MiB of the machine's memory are available"
    here = _own_cgroup()
    for level in (here, *here.parents):
        limit, used = _read(level / "memory.max"), _read(level / "memory.current")
        if level.is_relative_to(_CGROUP) and limit.isdigit() and used.isdigit():
            left = int(limit) - int(used) + _cached(level)
            if left < SCARCE * int(limit):
                return f"{left >> 20} of the {int(limit) >> 20} MiB that the cgroup may have are left"
    return ""


def _cached(cgroup: Path) -> int:
    """Of what a cgroup uses: files' pages, which it can do without."""
    for line in _read(cgroup / "memory.stat").splitlines():
        key, _, value = line.partition(" ")
        if key == "file":
            return int(value)
    return 0


def _cpus(cpu_max: str) -> float:
    """`$QUOTA $PERIOD`, or `max $PERIOD` for no limit: 0.0."""
    quota, _, period = cpu_max.partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else 0.0


def _own_cgroup() -> Path:
    """The directory of this process in the unified hierarchy (cgroups(7))."""
    for line in _read("/proc/self/cgroup").splitlines():
        hierarchy, _, path = line.split(":", 2)
        if hierarchy == "0":
            return _CGROUP / path.lstrip("/")
    return _CGROUP


def _fields(path: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in _read(path).splitlines())
    return {key: value.strip() for key, _, value in pairs}


def _kib(text: str) -> int:
    return int(text.split()[0]) * 1024


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text("ascii", errors="replace").strip()
    except OSError:
        return ""
