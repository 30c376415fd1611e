"""The verbs by which operators see and change what runs: what they print, and with which code they exit."""

import asyncio
import json
import socket
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest

from hermes.cli.ps import processor
from hermes.cli.ps import until as until_when
from tests.cli.verbs import Run, ask
from tests.fakes.backend import fail, ollama
from tests.fakes.gateway import hermes, hold_slot, key, scenario
from tests.fakes.process import COMMAND, SOURCES
from tests.support import until

# --- load, unload, ps, cancel -----------------------------------------------------------------------------------------


@scenario
async def test_load_and_unload_say_where_and_ps_shows_what_is_in_memory(verb: Run) -> None:
    async with ollama() as backend, hermes(backends=[{"name": "b0", "url": backend.url, "slots": 2}]) as gateway:
        assert (await ask(verb, gateway, "load", "gemma")).stdout == "gemma is loaded on b0\n"
        free = asyncio.Event()
        runs = await hold_slot(gateway, backend, free)
        rows = [line.split("  ") for line in (await ask(verb, gateway, "ps")).stdout.splitlines()]
        assert [[cell.strip() for cell in row if cell] for row in rows] == [
            ["MODEL", "BACKEND", "MEMORY", "PROCESSOR", "SLOTS", "UNTIL"],
            ["gemma:latest", "b0", "2.00 GiB", "50%/50% CPU/GPU", "1 of 2", "in use"],
        ]
        (told,) = json.loads((await ask(verb, gateway, "ps", "--json")).stdout)
        assert (told["model"], told["running"], told["slots"]) == ("gemma:latest", 1, 2)
        told = (await ask(verb, gateway, "unload", "gemma")).stdout
        assert told == "gemma is let go from b0, 1 running on it end first\n"
        free.set()
        assert (await runs.reply()).status == 200
        await until(lambda: not gateway.runtime.scheduler.where("gemma:latest"))
        assert (await ask(verb, gateway, "unload", "gemma")).stdout == "gemma is not loaded\n"
        assert json.loads((await ask(verb, gateway, "unload", "gemma", "--json")).stdout)["unloading"] == []


NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ({"running": 1, "expires_at": "2026-11-22T12:05:00Z"}, "in use"),
        ({"expires_at": "2026-11-22T12:05:00Z"}, "in 5 min"),
        ({"expires_at": "2026-11-22T14:00:30.5+02:00"}, "in 30 s"),
        ({"expires_at": "2026-11-22T11:59:00Z"}, "in 0 s"),
        ({"expires_at": "2318-11-22T12:00:00Z"}, "for ever"),
        ({"expires_at": ""}, "-"),
        ({"expires_at": "2026-11-22T12:05:00"}, "-"),
    ],
)
def test_ps_tells_when_a_backend_lets_a_model_go(model: dict[str, object], told: str) -> None:
    assert until_when(model, NOW) == told


@pytest.mark.parametrize(("on_gpu", "told"), [(4, "100% GPU"), (0, "100% CPU"), (3, "25%/75% CPU/GPU")])
def test_ps_tells_how_much_of_a_model_is_on_the_gpu(on_gpu: int, told: str) -> None:
    assert processor({"size_bytes": 4, "vram_bytes": on_gpu}) == told


@scenario
async def test_cancel_sends_a_request_away_and_says_whose_it_was(verb: Run) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        runs = await hold_slot(gateway, backend, headers={"x-request-id": "job-1"})
        result = await ask(verb, gateway, "cancel", "job-1")
        assert (result.exit_code, result.stdout) == (0, "job-1 of anonymous for gemma:latest is cancelled\n")
        assert (await runs.reply()).status == 499
        again = await ask(verb, gateway, "cancel", "job-1")
        assert (again.exit_code, "job-1 is over already: cancelled after" in again.stderr) == (1, True)


@scenario
async def test_the_end_of_an_id_is_enough_while_one_request_has_it(verb: Run) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        runs = await hold_slot(gateway, backend, headers={"x-request-id": "first-job-1"})
        for id in ("…job-1", "job-1"):
            assert (await ask(verb, gateway, "why", id)).stdout.startswith("first-job-1: ")
        waits = await gateway.open("/v1/llm/gemma", {"prompt": "Hi"}, {"x-request-id": "second-job-1"})
        await gateway.until_waiting(1)
        for name in ("why", "cancel"):
            told = await ask(verb, gateway, name, "…job-1")
            assert (told.exit_code, "2 requests have an id that ends in job-1" in told.stderr) == (1, True)
        for id in ("cond-job-1", "first-job-1"):
            assert (await ask(verb, gateway, "cancel", id)).exit_code == 0
        assert [(await call.reply()).status for call in (waits, runs)] == [499, 499]
        assert "cancelled after" in (await ask(verb, gateway, "why", "first-job-1")).stdout
        nobody = await ask(verb, gateway, "why", "…")
        assert (nobody.exit_code, "there is no request '…'" in nobody.stderr) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["load", "gemma"], "Set HERMES_API_KEY to an operator's key; hermes keys create NAME --admin makes one"),
        (["cancel", "nobody"], "See what runs with: hermes queue"),
        (["ask", "nobody", "Hi"], "See what there is with: hermes models"),
    ],
)
@scenario
async def test_a_no_says_what_to_do_next(verb: Run, arguments: list[str], hint: str) -> None:
    async with ollama() as backend, hermes(backend, keys=[key("ann")]) as gateway:
        refused = await ask(verb, gateway, *arguments, HERMES_API_KEY="sk-ann")
        assert (refused.exit_code, refused.stderr.rstrip().endswith(hint)) == (1, True), refused.stderr


# --- logs -------------------------------------------------------------------------------------------------------------


@scenario
async def test_logs_shows_the_last_requests_the_newest_one_last(verb: Run) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        for number in range(3):
            await gateway.ask("/v1/llm/gemma", {"prompt": "Hi"}, {"x-request-id": f"r{number}"})
        result = await ask(verb, gateway, "logs", "--last", "2", "--model", "gemma:latest")
        assert result.exit_code == 0
        assert [line.split()[-1] for line in result.stdout.splitlines()] == ["r1", "r2"]
        first = result.stdout.splitlines()[0]
        assert "  ok  200  POST  /v1/llm/{model}  gemma:latest@b0  " in first and "  7+3 tokens  " in first
        backend.default = fail(500, "out of memory")
        await gateway.ask("/v1/llm/gemma", {"prompt": "Hi"}, {"x-request-id": "failed"})
        told = (await ask(verb, gateway, "logs", "--outcome", "upstream_error", "--json")).stdout.splitlines()
        assert [json.loads(line)["request_id"] for line in told] == ["failed"]
        assert (await ask(verb, gateway, "logs", "--last", "0")).stdout == ""


@asynccontextmanager
async def following(port: int, *arguments: str) -> AsyncIterator[Process]:
    command = [*COMMAND, "logs", "--follow", "--url", f"127.0.0.1:{port}", *arguments]
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE, env=SOURCES)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


async def line_of(stream: asyncio.StreamReader | None) -> str:
    assert stream is not None
    async with asyncio.timeout(10):
        return (await stream.readline()).decode().strip()


@scenario
async def test_followed_logs_go_on_after_the_connection_was_lost_and_miss_nothing() -> None:
    async with ollama() as backend, hermes(backend) as gateway:

        async def done(name: str) -> None:
            await gateway.ask("/v1/llm/gemma", {"prompt": "Hi"}, {"x-request-id": name})

        await done("before")
        await done("last")
        async with following(gateway.port, "--last", "1") as process:
            assert (await line_of(process.stdout)).endswith("last")
            await done("one")
            assert (await line_of(process.stdout)).endswith("one")
            gateway.runtime.front.live.close()
            assert "has ended the stream. Trying again" in await line_of(process.stderr)
            await done("meanwhile")
            gateway.runtime.front.live._closing = False
            assert (await line_of(process.stdout)).endswith("meanwhile")
            await gateway.ask("/v1/models")
            await gateway.ask("/v1/llm/nobody", {"prompt": "Hi"}, {"x-request-id": "lost"})
            assert (await line_of(process.stdout)).endswith("lost")
            await done("two")
            assert (await line_of(process.stdout)).endswith("two")


def test_what_ends_while_the_last_ones_are_listed_is_told_once(verb: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = ({**OVER, "request_id": name} for name in ("r0", "r1"))
    monkeypatch.setattr(
        "hermes.cli.logs.follow", lambda url, shapes: [("state", {}), ("request", first), ("request", second)]
    )
    monkeypatch.setattr("hermes.cli.logs.get", lambda url, path, shape: {"data": [first]})
    told = verb("logs", "--follow").stdout.splitlines()
    assert [line.split()[-1] for line in told] == ["r0", "r1"]


OVER = {"created_at": 0.0, "duration_ms": 1, "outcome": "ok", "status": 200, "class": "normal", "model": "gemma"}
OVER |= {"method": "POST", "route": "/v1/llm"}


@scenario
async def test_following_nobody_ends_with_3_and_following_without_a_key_with_1(verb: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"127.0.0.1:{free.getsockname()[1]}"
    assert (await asyncio.to_thread(verb, "logs", "-f", "--url", url)).exit_code == 3
    async with ollama() as backend, hermes(backend, keys=[key("ann")]) as gateway:
        refused = await ask(verb, gateway, "logs", "--follow")
        assert (refused.exit_code, "HERMES_API_KEY" in refused.stderr) == (1, True)
