"""Stopping: what runs may finish, what waits is sent away, and a second signal means now (I33)."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.fakes.backend import DONE, FakeOllama, Then, ollama, play
from tests.fakes.gateway import CHAT, PROMPT, Call, chat, prompt, scenario
from tests.fakes.process import Served, serve
from tests.support import until


async def occupied(hermes: Served, backend: FakeOllama) -> tuple[Call, Call]:
    """One stream that has begun, and one request that waits behind it."""
    runs = await hermes.open(CHAT, chat(stream=True))
    assert await runs.head() == 200
    waits = await hermes.open(PROMPT, prompt())
    await eventually(lambda: _waits(hermes))
    return runs, waits


async def _waits(hermes: Served) -> bool:
    return await hermes.queued() == 1


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(3.0):
        while not await condition():
            pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@scenario
async def test_what_runs_finishes_and_what_waits_is_sent_away(number: signal.Signals, tmp_path: Path) -> None:
    async with ollama() as backend, serve(tmp_path, backend=backend) as hermes:
        free = asyncio.Event()
        backend.default = play("Hel", free, "lo", DONE)
        runs, waits = await occupied(hermes, backend)
        hermes.signal(number)
        refused = await waits.reply()
        assert (refused.status, refused.error["code"]) == (503, "draining")
        assert (refused.headers["retry-after"], refused.headers["connection"]) == ("1", "close")
        waits.peer.close()
        free.set()
        assert (await runs.events())[-1] == "[DONE]"
        assert runs.whole
        runs.peer.close()
        code, log = await hermes.end()
        assert code == 0
        assert len(backend.asked) == 1
        assert {line.get("outcome") for line in log if "route" in line} == {"ok", "drained"}


async def _is_open_to_operators_and_to_nobody_new(hermes: Served) -> None:
    ready = await (await hermes.open("/readyz")).reply()
    assert (ready.status, ready.error["code"], ready.headers["connection"]) == (503, "draining", "close")
    for path in ("/livez", "/health", "/v1/health"):
        assert (await (await hermes.open(path)).reply()).json == {"status": "ok", "ready": False}
    assert (await (await hermes.open("/v1/status")).reply()).json["status"] == "draining"
    assert b"hermes_requests_in_flight" in (await (await hermes.open("/metrics")).reply()).body
    assert (await (await hermes.open("/v1/models")).reply()).status == 200
    for path, body in ((PROMPT, prompt()), (CHAT, chat()), ("/v1/llm/gemma/pull", {})):
        refused = await (await hermes.open(path, body)).reply()
        assert (refused.status, refused.error["code"]) == (503, "draining")
        assert refused.headers["retry-after"] == "1"


@scenario
async def test_while_something_runs_readiness_fails_and_operators_still_see(tmp_path: Path) -> None:
    """I33: readiness fails first, so that whoever balances load learns of it."""
    async with ollama() as backend, serve(tmp_path, backend=backend) as hermes:
        free = asyncio.Event()
        backend.default = play("Hel", free, "lo", DONE)
        runs = await hermes.open(CHAT, chat(stream=True))
        assert await runs.head() == 200
        hermes.signal()
        await hermes.told("draining")
        await _is_open_to_operators_and_to_nobody_new(hermes)
        free.set()
        assert (await runs.events())[-1] == "[DONE]"
        runs.peer.close()
        assert (await hermes.end())[0] == 0
        assert len(backend.asked) == 1


@scenario
async def test_the_grace_is_kept_where_nothing_runs_and_a_second_signal_ends_it(tmp_path: Path) -> None:
    async with ollama() as backend, serve(tmp_path, backend=backend, HERMES_SERVER__DRAIN_GRACE_S="20") as hermes:
        hermes.signal()
        await hermes.told("draining")
        await _is_open_to_operators_and_to_nobody_new(hermes)
        began_at = time.monotonic()
        hermes.signal()
        assert (await hermes.end())[0] == 0, "nothing was cut"
        assert time.monotonic() - began_at < 2.0


@scenario
async def test_the_grace_ends(tmp_path: Path) -> None:
    async with ollama() as backend, serve(tmp_path, backend=backend, HERMES_SERVER__DRAIN_GRACE_S="300ms") as hermes:
        began_at = time.monotonic()
        hermes.signal()
        assert (await hermes.end())[0] == 0
        assert 0.3 <= time.monotonic() - began_at < 2.0


@scenario
async def test_an_idle_hermes_stops_at_once(tmp_path: Path) -> None:
    async with ollama() as backend, serve(tmp_path, backend=backend) as hermes:
        idle = await hermes.open("/health")
        await idle.reply()
        began_at = time.monotonic()
        hermes.signal()
        code, _ = await hermes.end()
        assert code == 0
        assert time.monotonic() - began_at < 2.0
        await until(lambda: backend.open_connections == 0)


@scenario
async def test_a_second_signal_stops_now_and_says_that_it_cut_something(tmp_path: Path) -> None:
    async with ollama() as backend, serve(tmp_path, backend=backend) as hermes:
        backend.default = play("Hel", then=Then.STALL)
        runs, waits = await occupied(hermes, backend)
        hermes.signal()
        assert (await waits.reply()).status == 503
        hermes.signal()
        code, log = await hermes.end()
        assert code == 1
        events = await runs.events()
        assert events[-1]["error"]["code"] == "draining" and not runs.whole
        async with asyncio.timeout(1.0):
            await backend.asked[0].left.wait()
        outcomes = [line["outcome"] for line in log if line.get("route") == CHAT]
        assert outcomes == ["drained"]


@scenario
async def test_what_does_not_finish_in_time_is_cut(tmp_path: Path) -> None:
    async with ollama() as backend, serve(tmp_path, backend=backend, HERMES_SERVER__DRAIN_TIMEOUT_S="0.2") as hermes:
        backend.default = play("Hel", then=Then.STALL)
        runs = await hermes.open(CHAT, chat(stream=True))
        await runs.head()
        hermes.signal()
        assert (await hermes.end())[0] == 1
        assert (await runs.events())[-1]["error"]["code"] == "draining" and not runs.whole


@scenario
async def test_who_follows_a_pull_that_is_cut_is_told_why(tmp_path: Path) -> None:
    async with ollama() as backend, serve(tmp_path, backend=backend, HERMES_SERVER__DRAIN_TIMEOUT_S="0.2") as hermes:
        backend.management["/api/pull"] = play({"status": "pulling manifest"}, then=Then.STALL)
        follows = await hermes.open("/v1/llm/phi/pull", {})
        assert await follows.head() == 200
        hermes.signal()
        assert (await hermes.end())[0] == 1
        assert (await follows.events())[-1]["error"]["code"] == "draining" and not follows.whole


@scenario
async def test_a_whole_answer_that_does_not_come_in_time_is_an_error(tmp_path: Path) -> None:
    async with ollama() as backend, serve(tmp_path, backend=backend, HERMES_SERVER__DRAIN_TIMEOUT_S="0.2") as hermes:
        backend.default = play(then=Then.STALL)
        runs = await hermes.open(CHAT, chat())
        await backend.request(0)
        hermes.signal()
        reply = await runs.reply()
        assert (reply.status, reply.error["code"]) == (503, "draining")
        assert (await hermes.end())[0] == 1


@scenario
async def test_a_client_that_leaves_while_we_drain_has_left(tmp_path: Path) -> None:
    async with ollama() as backend, serve(tmp_path, backend=backend) as hermes:
        backend.default = play("Hel", then=Then.STALL)
        runs, waits = await occupied(hermes, backend)
        hermes.signal()
        await waits.reply()
        waits.peer.close()
        runs.leave()
        code, log = await hermes.end()
        assert code == 0
        assert [line["outcome"] for line in log if line.get("route") == CHAT] == ["client_gone"]
