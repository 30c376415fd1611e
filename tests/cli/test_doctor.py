"""`hermes doctor`: what it finds, what it says to do, and that it is quick and changes nothing."""

import asyncio
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hermes import machine
from hermes.cli import checkup, nearby
from hermes.fleet.process import free_port
from tests.cli.verbs import Run
from tests.fakes.backend import FakeOllama, Then, listening, ollama, play
from tests.fakes.gateway import hermes, scenario
from tests.fakes.openai_backend import FakeOpenAI
from tests.fakes.process import serve

Doctor = Callable[..., Any]


@pytest.fixture
def doctor(verb: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Doctor:
    """Runs it on a machine where nothing is wrong; by subject, what it says, and the exit code under "code"."""
    monkeypatch.setattr(nearby, "USUAL", ())
    monkeypatch.setattr(checkup, "in_container", lambda: False)
    monkeypatch.setattr(checkup, "_is_free_running", lambda: False)
    monkeypatch.setattr(machine, "listens_everywhere", lambda port: False)
    unset = dict.fromkeys(("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"))

    async def run(backend: FakeOllama | None = None, **environ: str) -> dict[str, Any]:
        own: dict[str, Any] = {"PORT": str(free_port()), "OLLAMA_NUM_PARALLEL": "2", "PATH": "/nowhere", **unset}
        own["HERMES_SERVER__STATE_DIR"] = str(tmp_path / "state")
        if backend is not None:
            own |= {"LLM_BACKEND": backend.kind, "LLM_BACKEND_URL": backend.url}
        result = await asyncio.to_thread(verb, "doctor", "--json", **own | environ)
        told = json.loads(result.stdout)
        assert told["healthy"] is (result.exit_code == 0)
        return {finding["what"]: finding for finding in told["findings"]} | {"code": result.exit_code}

    return run


def states(told: dict[str, Any]) -> dict[str, str]:
    """Of what is not well."""
    return {what: each["state"] for what, each in told.items() if what != "code" and each["state"] != "ok"}


@scenario
async def test_where_all_is_well_it_says_so_and_has_changed_nothing(doctor: Doctor, verb: Run, tmp_path: Path) -> None:
    async with ollama() as backend:
        told = await doctor(backend)
        assert (told["code"], states(told).keys() - {"GPU"}) == (0, set())
        assert told["backend ollama"]["told"] == f"ollama 0.33.0 at {backend.url}: 1 model, 1 loaded"
        assert {asked.path for asked in backend.managed} <= {"/api/version", "/api/tags", "/api/ps", "/api/show"}
        assert os.listdir(tmp_path) == []  # noqa: PTH208 - names are enough


@scenario
async def test_a_line_says_what_is_and_the_next_one_what_to_do(verb: Run, tmp_path: Path) -> None:
    port = free_port()
    environ = {"OLLAMA_URL": f"http://127.0.0.1:{port}", "PORT": str(free_port()), "HOME": str(tmp_path)}
    result = await asyncio.to_thread(verb, "doctor", **environ)
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    at = next(index for index, line in enumerate(lines) if line.startswith("x PROBLEM  backend ollama"))
    assert lines[at].endswith("the backend cannot be reached") and lines[at + 1].strip().startswith("-> ")
    assert lines[-1].startswith("1 problem")


@pytest.mark.parametrize(
    ("container", "url", "todo"),
    [
        (False, "http://127.0.0.1:9", "ollama serve, mend its url"),
        (True, "http://127.0.0.1:9", "host.docker.internal"),
        (False, "http://192.0.2.1:9", "does it listen on more than its own 127.0.0.1?"),
    ],
)
def test_what_to_do_about_a_backend_that_is_not_there_depends_on_where_it_is(
    monkeypatch: pytest.MonkeyPatch, container: bool, url: str, todo: str
) -> None:
    monkeypatch.setattr(nearby, "in_container", lambda: container)
    assert todo in nearby._what_to_start(nearby.Backend("b0", url))


@scenario
async def test_a_backend_that_hangs_is_a_problem_soon(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearby, "PATIENCE_S", 0.05)
    async with ollama() as backend:
        backend.management = dict.fromkeys(("/api/version", "/api/tags", "/api/ps"), play(then=Then.STALL))
        begun = time.monotonic()
        told = await doctor(backend)
        assert (told["code"], told["backend ollama"]["state"]) == (1, "problem")
        assert time.monotonic() - begun < 2.0


@scenario
async def test_a_backend_without_models_has_nothing_to_ask(doctor: Doctor) -> None:
    async with ollama() as backend:
        backend.models = []
        told = await doctor(backend)
        assert (told["backend ollama"]["state"], told["backend ollama"]["todo"]) == ("warning", "hermes pull gemma3")


@scenario
async def test_slots_that_nobody_tells_are_asked_for(doctor: Doctor) -> None:
    async with ollama() as backend:
        told = await doctor(backend, OLLAMA_NUM_PARALLEL="")
        assert (
            "one at a time" in told["backend ollama"]["told"]
            and "OLLAMA_NUM_PARALLEL" in told["backend ollama"]["todo"]
        )


@scenario
async def test_a_backend_that_other_machines_reach_is_noted(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "listens_everywhere", lambda port: True)
    async with ollama() as backend:
        assert "can go past Hermes" in (await doctor(backend))["backend ollama"]["told"]


def test_who_listens_on_every_address_is_told_from_who_does_not() -> None:
    for host, everywhere in (("127.0.0.1", False), ("0.0.0.0", True)):
        with socket.create_server((host, 0)) as server:
            assert machine.listens_everywhere(server.getsockname()[1]) is everywhere


# --- who is there -----------------------------------------------------------------------------------------------------


@scenario
async def test_another_program_on_the_port_is_a_problem_and_a_hermes_is_none(doctor: Doctor) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        told = await doctor(backend, PORT=str(gateway.port))
        assert (told["code"], told["address"]["state"]) == (0, "ok")
        assert "a Hermes listens on" in told["address"]["told"]
        told = await doctor(backend, PORT=str(backend.port))
        assert (told["code"], told["address"]["state"]) == (1, "problem")
        assert f"sport = :{backend.port}" in told["address"]["todo"]


@scenario
async def test_a_backend_in_whose_place_models_are_simulated_is_noted(doctor: Doctor, tmp_path: Path) -> None:
    """The first look around after `make run`, without an Ollama."""
    away = {"OLLAMA_URL": f"http://127.0.0.1:{free_port()}"}
    async with serve(tmp_path, "--or-simulate", **away, API_KEYS_JSON='{"sk-1": {"user": "me"}}') as running:
        told = await doctor(PORT=str(running.port), HERMES_API_KEY="sk-1", **away)
        assert (told["code"], told["backend ollama"]["state"]) == (0, "note")
        assert "serves simulated models in its place" in told["backend ollama"]["told"]
        assert (await doctor(PORT=str(running.port), **away))["backend ollama"]["state"] == "problem"
    assert (await doctor(**away))["code"] == 1


@scenario
async def test_a_backend_that_is_away_while_others_serve_is_a_problem(doctor: Doctor) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        told = await doctor(PORT=str(gateway.port), OLLAMA_URL=f"http://127.0.0.1:{free_port()}")
        assert (told["code"], told["backend ollama"]["state"]) == (1, "problem")
        assert told["backend ollama"]["told"].endswith(f"the Hermes that listens asks {backend.url} instead")
        assert told["backend ollama"]["todo"].startswith("look with its --config and variables; else ")


@pytest.mark.parametrize(("usual", "kind"), [("vllm", "vllm"), ("llamacpp", "llamacpp"), ("vllm", "openai")])
@scenario
async def test_what_serves_models_at_a_usual_port_is_told_with_how_to_configure_it(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, usual: str, kind: str
) -> None:
    async with ollama() as backend, listening(FakeOpenAI(kind, "phi")) as other:
        monkeypatch.setattr(nearby, "USUAL", (("It", other.port, usual), ("Ollama", backend.port, "ollama")))
        told = await doctor(backend)
        assert f"port {backend.port}" not in told  # which is configured
        found = told[f"port {other.port}"]
        assert (told["code"], found["state"]) == (0, "note")
        assert f'kind: {kind}, url: "{other.url}"' in found["todo"]


@scenario
async def test_a_hermes_at_a_usual_port_is_no_backend(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        monkeypatch.setattr(nearby, "USUAL", (("Ollama", gateway.port, "ollama"),))
        assert f"port {gateway.port}" not in await doctor(backend)


# --- this machine -----------------------------------------------------------------------------------------------------


@scenario
async def test_a_configuration_that_cannot_be_used_is_told_and_all_else_is_looked_at(
    doctor: Doctor, tmp_path: Path
) -> None:
    (tmp_path / "hermes.yaml").write_text("server: {prot: 1}\n")
    told = await doctor()
    assert told["code"] == 1 and "did you mean port?" in told["configuration"]["told"]
    assert {"backend ollama", "clock", "state"} <= told.keys()


@scenario
async def test_an_open_door_is_a_problem_or_where_it_was_asked_for_a_warning(doctor: Doctor) -> None:
    """I24."""
    told = await doctor(HERMES_SERVER__HOST="0.0.0.0")
    assert told["configuration"]["state"] == "problem" and "no keys" in told["configuration"]["told"]
    told = await doctor(HERMES_SERVER__HOST="0.0.0.0", HERMES_SERVER__INSECURE="true")
    assert (told["configuration"]["state"], told["keys"]["state"]) == ("ok", "warning")


@scenario
async def test_a_state_dir_that_cannot_be_written_is_a_problem(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    told = await doctor(HERMES_SERVER__STATE_DIR=str(tmp_path / "file" / "state"))
    assert told["state"]["state"] == "problem" and "set server.state_dir" in told["state"]["todo"]
    assert (await doctor(HERMES_SERVER__STATE_DIR="off"))["state"]["state"] == "note"


def test_a_state_dir_that_may_not_be_looked_into_is_a_problem_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path, *_: object, **__: object) -> os.stat_result:
        if path == tmp_path / "state":
            raise PermissionError(13, "Permission denied")
        return original(path)

    original = os.stat
    monkeypatch.setattr(os, "stat", refused)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert [finding.state for finding in checkup._state(tmp_path / "state")] == ["problem"]


@pytest.mark.parametrize(
    ("environ", "warned"),
    [
        ({"HTTP_PROXY": "http://proxy:3128"}, True),
        ({"ALL_PROXY": "http://proxy:3128", "NO_PROXY": "example.org"}, True),
        ({"http_proxy": "http://proxy:3128", "no_proxy": "example.org, localhost"}, False),
        ({"HTTPS_PROXY": "http://proxy:3128"}, False),
        ({}, False),
    ],
)
def test_a_proxy_that_would_be_asked_for_hermes_is_warned_of(environ: dict[str, str], warned: bool) -> None:
    assert bool([*checkup._proxies(environ)]) is warned


def test_two_programs_called_hermes_are_told_and_one_under_two_names_is_not(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder in folders:
        folder.mkdir()
    for folder in folders[:2]:
        (folder / "hermes").touch(0o755)
    (folders[2] / "hermes").symlink_to(folders[0] / "hermes")
    assert not [*checkup._path(f"{folders[0]}:{folders[2]}::{folders[0]}")]
    (told,) = checkup._path(":".join(map(str, folders)))
    assert told.told.startswith(f"there are several on PATH, {folders[0]}/hermes is the first")


def test_a_clock_that_cannot_be_right_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert [finding.state for finding in checkup._clock(tokens=False)] == ["problem"]


@pytest.mark.parametrize(("tokens", "state"), [(False, "note"), (True, "warning")])
def test_a_clock_that_nobody_keeps_right_matters_more_to_tokens(
    monkeypatch: pytest.MonkeyPatch, tokens: bool, state: str
) -> None:
    monkeypatch.setattr(checkup, "_is_free_running", lambda: True)
    assert [finding.state for finding in checkup._clock(tokens)] == [state]


@pytest.mark.parametrize(("hard", "state"), [(256, "warning"), (4096, "ok"), (-1, "ok")])
def test_few_files_are_warned_of(monkeypatch: pytest.MonkeyPatch, hard: int, state: str) -> None:
    monkeypatch.setattr(checkup.resource, "getrlimit", lambda _: (64, hard))
    found = checkup._files()
    assert found.state == state and ("96 clients" in found.told) is (hard == 256)


@pytest.mark.parametrize(
    ("limits", "state"),
    [
        ({}, "ok"),
        ({"memory_limit_bytes": 1 << 30, "cpu_limit": 2.0}, "ok"),
        ({"memory_limit_bytes": 64 << 20}, "warning"),
        ({"cpu_limit": 0.1}, "warning"),
    ],
)
def test_a_tight_cgroup_is_warned_of(monkeypatch: pytest.MonkeyPatch, limits: dict[str, float], state: str) -> None:
    monkeypatch.setattr(machine, "cgroup", lambda: limits)
    monkeypatch.setattr(machine, "pressure", lambda: "")
    assert [finding.state for finding in checkup._cgroup()] == [state]
