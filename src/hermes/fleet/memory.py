"""How much memory a backend has for models, where its operator has not said so: asked of the machine, once.

1. Only for a backend on this machine. Of another nothing is known; then what was loaded at once is learned from.
2. RAM is never taken for a GPU's memory: it counts only where there is no sign of a GPU, or where they are the same.
3. Of several GPUs it is the sum: an upper bound, since not every model can be spread, and a backend may have been given
   some of them only. The same for two backends on one GPU. `backends[].memory` says it exactly.
"""

import asyncio
import contextlib
import glob
import ipaddress
import json
import os
import platform
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from msgspec import Struct

from hermes import machine

# A driver that has to wake its GPUs first takes seconds.
TOOL_TIMEOUT_S = 15.0

_NVIDIA = ("nvidia-smi", "--query-gpu=memory.total,memory.used", "--format=csv,noheader,nounits")
_NVIDIA_PROCESSES = ("nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits")
_AMD = ("rocm-smi", "--showmeminfo", "vram", "--json")
_MIB = 1 << 20

# Of the memory that it shares with everything else Ollama puts models into four fifths (server/sched.go, where it has
# a GPU; without one it looks at nothing but their number, and would go on into swap).
OF_SHARED_MEMORY = 0.8

# Beside others it loads a model only if that takes at most so much of what they leave of a GPU's memory (the same). It
# goes by an estimate of its own, which nobody is told: the file, and a context of 16 bits a value in every layer.
OF_FREE_MEMORY = 0.8

# macOS lets a GPU have about two thirds of a small machine's memory, three quarters of a big one's
# (Metal's recommendedMaxWorkingSetSize), unless iogpu.wired_limit_mb says otherwise.
_APPLE_SMALL_BYTES = 36 << 30

# llama.cpp's name for one of several: `model-00001-of-00003.gguf`.
_PART = re.compile(r"-\d{5}-of-(\d{5}\.gguf)$")

# Where there is one of these there is a GPU, though no tool may tell of it: Vulkan, Intel, WSL, a lean container.
_DEVICES = Path("/dev")
_GPU_NAMES = ("nvidia[0-9]*", "kfd", "dxg", "dri/renderD*")


class Room(Struct, frozen=True):
    """How many bytes, and who says so. `kind`: of a GPU, shared with one, or of a machine that has none."""

    capacity_bytes: int | None
    source: str
    kind: Literal["unknown", "said", "gpu", "shared", "ram"]

    @property
    def is_found(self) -> bool:
        return self.kind not in ("unknown", "said")


UNKNOWN = Room(None, "unknown", "unknown")


def said(capacity_bytes: int | None) -> Room:
    """What the operator says."""
    return UNKNOWN if capacity_bytes is None else Room(capacity_bytes, "configured", "said")


def is_here(url: str) -> bool:
    """Whether a backend's address is of this machine."""
    parts = urlsplit(url)
    if parts.scheme == "unix" or parts.hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False


async def find(loaded_bytes: int = 0) -> Room:
    """What this machine has for models; `loaded_bytes` of its GPUs' memory hold the backend's own already."""
    for ask, read, source in ((_NVIDIA, read_nvidia, "nvidia-smi"), (_AMD, read_rocm, "rocm-smi")):
        told = await _run(*ask)
        if told is None:
            continue
        gpus = list(read(told))
        if gpus:
            total, used = map(sum, zip(*gpus, strict=True))
            names = source if len(gpus) == 1 else f"{source}, the sum of {len(gpus)} GPUs"
            return Room(total - max(0, used - loaded_bytes), names, "gpu")
        if source == "nvidia-smi" and "N/A" in told:  # a GPU without memory of its own: Jetson, GB10
            return _part_of("unified memory", "shared")
    if platform.system() == "Darwin":
        return _apple()
    if _has_gpu():
        return UNKNOWN
    return _part_of("memory of the machine", "ram")


def read_nvidia(told: str) -> Iterator[tuple[int, int]]:
    """Total and used bytes of each GPU: `24564, 1234` in MiB."""
    for line in told.splitlines():
        total, _, used = line.partition(",")
        with contextlib.suppress(ValueError):
            yield int(total) * _MIB, int(used) * _MIB


def read_rocm(told: str) -> Iterator[tuple[int, int]]:
    """The same: `{"card0": {"VRAM Total Memory (B)": "17163091968", "VRAM Total Used Memory (B)": "10850304"}}`."""
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
        for card in json.loads(told).values():
            yield int(card["VRAM Total Memory (B)"]), int(card["VRAM Total Used Memory (B)"])


async def of_processes() -> dict[int, int]:
    """What each process has of the GPUs' memory, by its number; none where nobody tells."""
    found: dict[int, int] = {}
    for line in (await _run(*_NVIDIA_PROCESSES) or "").splitlines():
        pid, _, mib = line.partition(",")
        with contextlib.suppress(ValueError):  # one on two GPUs is told twice
            found[int(pid)] = found.get(int(pid), 0) + int(mib) * _MIB
    return found


def of_files(names: Iterable[str]) -> int:
    """What files take, with all their parts where a model comes in several. Of what is not there: nothing."""
    total = 0
    for file in map(Path, names):
        part = _PART.search(file.name)
        parts = file.parent.glob(f"{glob.escape(file.name[: part.start()])}-*-of-{part[1]}") if part else (file,)
        with contextlib.suppress(OSError):
            total += sum(each.stat().st_size for each in parts)
    return total


def _has_gpu() -> bool:
    return any(any(_DEVICES.glob(pattern)) for pattern in _GPU_NAMES)


def _part_of(name: str, kind: Literal["shared", "ram"]) -> Room:
    total, limit = machine.memory_bytes(), machine.cgroup().get("memory_limit_bytes")
    if total is None:
        return UNKNOWN
    if isinstance(limit, int) and limit < total:
        total, name = limit, f"{name}, as limited by the cgroup"
    return Room(int(total * OF_SHARED_MEMORY), f"{OF_SHARED_MEMORY:.0%} of the {name}", kind)


def _apple() -> Room:
    total = machine.memory_bytes()
    if total is None or platform.machine() != "arm64":  # a GPU of its own, which nobody tells of
        return UNKNOWN
    part = 2 / 3 if total <= _APPLE_SMALL_BYTES else 3 / 4
    return Room(int(total * part), f"{part:.0%} of the unified memory", "shared")


async def _run(*command: str) -> str | None:
    """What a tool says; None if it is not there, fails, or takes too long."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C"},
        )
    except OSError:
        return None
    try:
        async with asyncio.timeout(TOOL_TIMEOUT_S):
            told, _ = await process.communicate()
    except TimeoutError:
        return None
    finally:
        if process.returncode is None:
            process.kill()
            with contextlib.suppress(TimeoutError):  # one that hangs in its driver outlives that
                async with asyncio.timeout(1.0):
                    await process.wait()
    return told.decode("utf-8", "replace") if process.returncode == 0 else None
