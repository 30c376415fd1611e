"""What verbs make of servers and backends that tell more than they should, or something else."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from hermes.cli.feed import LOST
from hermes.fleet.process import free_port
from tests.cli.verbs import Run, ask
from tests.fakes.backend import answer, ollama
from tests.fakes.gateway import hermes, scenario

FAKE = "\nbackend fake (ollama): up"
CHANGE = {"loading": False, "model": "m" + FAKE, "victims": [], "for_ms": 0}
BACKEND = {"name": "b0", "kind": "", "version": "", "state": "", "simulated": False, "memory": {"bytes": None}}
STATUS = {"version": "", "status": "", "uptime_s": 1, "requests": {"active": 0, "queued": 0}, "models": {}}
USED = {"requests": 1, "prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2, "refused": 0}

# By the path that a verb asks: its arguments, and an answer with others' words in it.
TOLD: dict[str, tuple[list[str], dict[str, Any]]] = {
    "/v1/status": (["ps"], STATUS | {"backends": [BACKEND | {"loaded": [], "changes": [CHANGE]}]}),
    "/v1/usage": (
        ["usage"],
        {
            "since": "2026-11-01",
            "total": USED,
            "has_more": False,
            "keys": [],
            "data": [{"day": "2026-11-22", "key": "k", "name": "ann" + FAKE, "model": "m", **USED}],
        },
    ),
    "/v1/requests/r1": (
        ["why", "r1"],
        {"request_id": "r1", "model": "m" + FAKE, "class": "batch", "state": "done", "outcome": "ok", "duration_ms": 1},
    ),
    "/v1/queue/r1": (["cancel", "r1"], {"request_id": "r1", "user": "ann" + FAKE, "model": "m"}),
    "/v1/backends/b0/drain": (["drain", "b0"], {"backend": "b0" + FAKE, "draining": True, "active": 0}),
    "/v1/reload": (["reload"], {"needs_restart": ["server.port" + FAKE]}),
}


@pytest.mark.parametrize("path", TOLD)
@scenario
async def test_no_name_can_pretend_to_be_a_line(verb: Run, path: str) -> None:
    arguments, told = TOLD[path]
    async with ollama() as server:
        server.management[path] = answer(200, json.dumps(told).encode())
        result = await asyncio.to_thread(verb, *arguments, "--url", server.url)
    assert result.exit_code == 0 and FAKE[1:] in result.stdout
    assert FAKE not in result.stdout


@scenario
async def test_no_backend_can_tell_lines_of_its_own_by_its_version(verb: Run, tmp_path: Path) -> None:
    async with ollama() as backend:
        backend.management["/api/version"] = answer(200, json.dumps({"version": "1.0" + FAKE}).encode())
        async with hermes(backend) as gateway:
            status = (await ask(verb, gateway, "status")).stdout
        environ = {"OLLAMA_URL": backend.url, "PORT": str(free_port()), "HOME": str(tmp_path)}
        doctor = (await asyncio.to_thread(verb, "doctor", **environ)).stdout
    for shown in (status, doctor):
        assert r"1.0\nbackend fake" in shown and FAKE not in shown


def test_what_followed_logs_were_told_is_one_line(verb: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    told = [("state", {}), ("missed", {"requests": "1" + FAKE}), (LOST, "gone" + FAKE)]
    monkeypatch.setattr("hermes.cli.logs.follow", lambda url, shapes: told)
    monkeypatch.setattr("hermes.cli.logs.get", lambda url, path, shape: {"data": []})
    lines = verb("logs", "--follow").stderr.splitlines()
    assert len(lines) == 2 and all(line.startswith("hermes: ") for line in lines)


@pytest.mark.parametrize("told", [[], {}, {"data": [{"id": "m", "created": 1e300, "capabilities": []}]}])
@pytest.mark.parametrize(
    ("path", "arguments"),
    [
        ("/v1/models", ["models"]),
        *((path, told[0]) for path, told in TOLD.items() if told[0][0] in ("cancel", "drain", "reload")),
    ],
)
@scenario
async def test_an_answer_of_another_shape_is_told_in_a_line(
    verb: Run, path: str, arguments: list[str], told: Any
) -> None:
    async with ollama() as server:
        server.management[path] = answer(200, json.dumps(told).encode())
        result = await asyncio.to_thread(verb, *arguments, "--url", server.url)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"hermes: what answers at {server.url} is no Hermes")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("arguments", [["logs", "--follow"], ["top", "--json"], ["top", "--once"]])
@scenario
async def test_who_tells_no_events_is_not_asked_again(
    verb: Run, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setattr("hermes.cli.feed.AGAIN_S", -1.0)  # no time to sleep for
    async with ollama() as server:
        server.management["/v1/events"] = answer(200, b"<html>It works!</html>")
        result = await asyncio.to_thread(verb, *arguments, "--url", server.url)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"hermes: what answers at {server.url} is no Hermes: it tells no events")
