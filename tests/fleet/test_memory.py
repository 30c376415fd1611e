"""How much memory a backend has for models: configured, asked of this machine, or unknown."""

import os
import time
from pathlib import Path
from typing import Any

import pytest

from hermes import machine
from hermes.fleet import memory
from hermes.fleet.memory import Room, find, is_here, read_nvidia, read_rocm
from hermes.policy.ticket import BackendFacts
from tests.fakes.backend import FakeOllama, loaded, model, ollama, play
from tests.fakes.gateway import PROMPT, Hermes, hermes, prompt, scenario
from tests.support import run, until

GIB = 1 << 30
MIB = 1 << 20

ROCM = '{"card0": {"VRAM Total Memory (B)": "17163091968", "VRAM Total Used Memory (B)": "10850304"}}'


class Bench:
    """A made-up machine: its tools, its devices, its memory."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tools, self.devices, self._patch = path / "bin", path / "dev", monkeypatch
        self.tools.mkdir()
        self.devices.mkdir()
        monkeypatch.setenv("PATH", f"{self.tools}:/usr/bin:/bin")
        monkeypatch.setattr(memory, "_DEVICES", self.devices)
        monkeypatch.setattr(machine, "cgroup", dict)
        self.runs("Linux", 100 * GIB)

    def runs(self, system: str, memory_bytes: int | None, processor: str = "x86_64") -> None:
        self._patch.setattr(memory.platform, "system", lambda: system)
        self._patch.setattr(memory.platform, "machine", lambda: processor)
        self._patch.setattr(machine, "memory_bytes", lambda: memory_bytes)

    def limits(self, memory_bytes: int) -> None:
        self._patch.setattr(machine, "cgroup", lambda: {"memory_limit_bytes": memory_bytes})

    def has(self, tool: str, says: str = "", *, does: str = "") -> None:
        script = self.tools / tool
        script.write_text(f"#!/bin/sh\n{does}\ncat <<'END'\n{says}\nEND\n")
        script.chmod(0o755)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


# --- what the tools say -----------------------------------------------------------------------------------------------


def test_a_gpus_memory_is_what_others_leave_of_it(bench: Bench) -> None:
    """What the backend has loaded already is its own."""
    bench.has("nvidia-smi", "24564, 6000")
    assert run(find(4000 * MIB)) == Room((24564 - 2000) * MIB, "nvidia-smi", "gpu")
    assert run(find(9000 * MIB)) == Room(24564 * MIB, "nvidia-smi", "gpu")


def test_of_several_gpus_it_is_the_sum_and_said_to_be(bench: Bench) -> None:
    bench.has("nvidia-smi", "24564, 0\n12288, 100")
    assert run(find()) == Room((24564 + 12288 - 100) * MIB, "nvidia-smi, the sum of 2 GPUs", "gpu")


def test_an_amd_gpu_is_seen_where_there_is_no_other(bench: Bench) -> None:
    bench.has("nvidia-smi", "No devices were found", does="exit 6")
    bench.has("rocm-smi", ROCM)
    assert run(find()) == Room(17163091968 - 10850304, "rocm-smi", "gpu")


def test_a_gpu_without_memory_of_its_own_has_a_part_of_the_machines(bench: Bench) -> None:
    bench.has("nvidia-smi", "[N/A], [N/A]")
    assert run(find()) == Room(80 * GIB, "80% of the unified memory", "shared")


@pytest.mark.parametrize(
    ("said", "read"), [("", []), ("24564", []), ("a, b", []), ("Failed\n24564, 1", [(24564 * MIB, MIB)])]
)
def test_what_is_no_figure_is_left_out(said: str, read: list[tuple[int, int]]) -> None:
    assert list(read_nvidia(said)) == read


@pytest.mark.parametrize("said", ["", "[]", "5", '{"card0": 5}', '{"card0": {}}', "WARNING\n{}", ROCM[:-9]])
def test_garbled_json_is_no_gpu(said: str) -> None:
    assert list(read_rocm(said)) == []


# --- without a GPU's memory -------------------------------------------------------------------------------------------


def test_without_a_gpu_it_is_a_part_of_the_machines_memory(bench: Bench) -> None:
    assert run(find()) == Room(80 * GIB, "80% of the memory of the machine", "ram")


def test_a_cgroups_limit_counts_if_it_is_less(bench: Bench) -> None:
    bench.limits(10 * GIB)
    assert run(find()) == Room(8 * GIB, "80% of the memory of the machine, as limited by the cgroup", "ram")
    bench.limits(200 * GIB)
    assert run(find()).capacity_bytes == 80 * GIB


@pytest.mark.parametrize("device", ["nvidia0", "kfd", "dxg", "dri/renderD128"])
def test_ram_is_not_taken_for_the_memory_of_a_gpu_of_which_no_tool_tells(bench: Bench, device: str) -> None:
    (bench.devices / device).parent.mkdir(exist_ok=True)
    (bench.devices / device).touch()
    assert run(find()) == memory.UNKNOWN


@pytest.mark.parametrize(("has", "part"), [(24, 2 / 3), (96, 3 / 4)])
def test_apple_lets_its_gpu_have_most_of_the_memory(bench: Bench, has: int, part: float) -> None:
    bench.runs("Darwin", has * GIB, "arm64")
    found = run(find())
    assert (found.capacity_bytes, found.kind) == (int(has * GIB * part), "shared")


@pytest.mark.parametrize(("system", "has", "processor"), [("Darwin", 64 * GIB, "x86_64"), ("Linux", None, "x86_64")])
def test_what_cannot_be_told_is_unknown(bench: Bench, system: str, has: int | None, processor: str) -> None:
    bench.runs(system, has, processor)
    assert run(find()) == memory.UNKNOWN


def test_a_tool_that_hangs_is_given_up_and_ended(bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "TOOL_TIMEOUT_S", 0.2)
    bench.has("nvidia-smi", does=f"echo $$ > {tmp_path}/pid; exec sleep 60")
    began = time.monotonic()
    assert run(find()).kind == "ram"
    assert time.monotonic() - began < 5
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


# --- whose memory -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("unix:///run/ollama.sock", True),
        ("http://localhost:11434", True),
        ("http://127.0.0.1:11434", True),
        ("https://127.8.9.1", True),
        ("http://[::1]:11434", True),
        ("http://192.168.0.5:11434", False),
        ("http://gpu-box:11434", False),
        ("http://localhost.example.org:11434", False),
    ],
)
def test_only_a_backend_on_this_machine_has_its_memory(url: str, here: bool) -> None:
    assert is_here(url) is here


def told(gateway: Hermes) -> BackendFacts:
    return gateway.runtime.fleet.backends["b0"].facts


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[Room]:
    """What the machine tells: the last of these."""
    rooms = [Room(8 * GIB, "nvidia-smi", "gpu")]

    async def find(loaded_bytes: int = 0) -> Room:
        return rooms[-1]

    monkeypatch.setattr(memory, "find", find)
    return rooms


async def status(gateway: Hermes) -> Any:
    return (await gateway.ask("/v1/status")).json["backends"][0]["memory"]


@scenario
async def test_what_is_configured_holds(found: list[Room]) -> None:
    async with ollama() as backend:
        own = {"name": "b0", "url": backend.url, "memory": "24GiB", "max_loaded": 2}
        async with hermes(backends=[own]) as gateway:
            assert await status(gateway) == {"bytes": 24 * GIB, "source": "configured"}
            facts = told(gateway)
            assert (facts.memory_bytes, facts.may_be_less, facts.max_loaded) == (24 * GIB, False, 2)


@scenario
async def test_what_was_found_is_told_with_where_it_comes_from(found: list[Room]) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        await until(lambda: told(gateway).memory_bytes == 8 * GIB)
        assert told(gateway).may_be_less
        assert await status(gateway) == {"bytes": 8 * GIB, "source": "nvidia-smi"}


@scenario
async def test_where_nothing_is_known_that_is_told(found: list[Room]) -> None:
    found.append(memory.UNKNOWN)
    async with ollama() as backend, hermes(backend) as gateway:
        assert await status(gateway) == {"bytes": None, "source": "unknown"}
        assert told(gateway).memory_bytes is None


@scenario
async def test_the_memory_of_a_simulated_machine_is_not_ours(found: list[Room]) -> None:
    async with ollama() as backend:
        backend.management["/api/version"] = play({"version": "0.33.0", "simulated": True})
        async with hermes(backend) as gateway:
            await gateway.runtime.fleet.backends["b0"].look(20.0)
            assert told(gateway).memory_bytes is None


async def with_loaded(gateway: Hermes, backend: FakeOllama, size: int, vram: int) -> BackendFacts:
    backend.loaded = [loaded("gemma:latest", size, vram)]
    await gateway.runtime.fleet.backends["b0"].look(20.0)
    return told(gateway)


@scenario
async def test_a_model_takes_of_a_gpu_what_it_has_there(found: list[Room]) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        await until(lambda: told(gateway).memory_bytes)
        assert (await with_loaded(gateway, backend, 5 * GIB, 3 * GIB)).loaded == {"gemma:latest": 3 * GIB}
        assert (await with_loaded(gateway, backend, 5 * GIB, 0)).loaded == {"gemma:latest": 0}


@scenario
async def test_without_a_gpu_a_model_takes_its_whole_size(found: list[Room]) -> None:
    found.append(Room(8 * GIB, "80% of the memory of the machine", "ram"))
    async with ollama() as backend:
        backend.loaded = []
        async with hermes(backend) as gateway:
            await until(lambda: told(gateway).memory_bytes)
            assert (await with_loaded(gateway, backend, 5 * GIB, 0)).loaded == {"gemma:latest": 5 * GIB}


@pytest.mark.parametrize("when", ["before", "later"])
@scenario
async def test_a_model_on_a_gpu_tells_that_ram_is_not_the_room(found: list[Room], when: str) -> None:
    found.append(Room(8 * GIB, "80% of the memory of the machine", "ram"))
    async with ollama() as backend:
        backend.loaded = [] if when == "later" else [loaded("gemma:latest", 5 * GIB, 3 * GIB)]
        async with hermes(backend) as gateway:
            await with_loaded(gateway, backend, 5 * GIB, 3 * GIB)
            assert await status(gateway) == {"bytes": None, "source": "unknown"}


@scenario
async def test_a_model_larger_than_what_was_found_takes_all_of_it_and_is_refused_to_nobody(found: list[Room]) -> None:
    """Ollama runs the rest of it by the processors."""
    async with ollama() as backend:
        backend.models, backend.loaded = [model("gemma:latest", size=20 * GIB)], []
        async with hermes(backend) as gateway:
            await until(lambda: told(gateway).memory_bytes)
            assert told(gateway).sizes == {"gemma:latest": 8 * GIB}
            assert (await gateway.ask(PROMPT, prompt())).status == 200


@scenario
async def test_a_model_larger_than_what_is_configured_is_refused() -> None:
    async with ollama() as backend:
        backend.models, backend.loaded = [model("gemma:latest", size=20 * GIB)], []
        async with hermes(backends=[{"name": "b0", "url": backend.url, "memory": "8GiB"}]) as gateway:
            reply = await gateway.ask(PROMPT, prompt())
            assert (reply.status, reply.error["code"]) == (503, "insufficient_memory")
            assert reply.headers["x-should-retry"] == "false" and "retry-after" not in reply.headers


@pytest.mark.parametrize(
    ("room", "vram_bytes", "part"),
    [
        (Room(8 * GIB, "nvidia-smi", "gpu"), GIB, 0.8),
        (Room(8 * GIB, "configured", "said"), GIB, 0.8),
        (Room(8 * GIB, "configured", "said"), 0, 1.0),
        (Room(8 * GIB, "80% of the unified memory", "shared"), GIB, 1.0),
    ],
    ids=lambda value: value.kind if isinstance(value, Room) else str(value),
)
@scenario
async def test_of_a_gpus_memory_a_model_gets_a_part_of_what_others_leave(
    room: Room, vram_bytes: int, part: float, found: list[Room]
) -> None:
    found.append(room)
    async with ollama() as backend:
        backend.loaded = [loaded("gemma:latest", GIB, vram_bytes)]
        async with hermes(backend) as gateway:
            await until(lambda: told(gateway).memory_bytes == 8 * GIB)
            assert told(gateway).of_free == part
