"""Waiting here rather than there: bounded, in order, and no longer than it makes sense (I1, I2, I4)."""

import asyncio
from typing import Any

import pytest

from hermes.errors import Outcome
from tests.fakes.backend import DONE, FakeOllama, Then, ollama, play
from tests.fakes.gateway import CHAT, PROMPT, Call, Hermes, chat, hermes, prompt, scenario


def texts(backend: FakeOllama) -> list[str]:
    return [asked.body["prompt"] for asked in backend.asked]


async def in_turn(gateway: Hermes, backend: FakeOllama, *prompts: str) -> list[Call]:
    """Send these, each after the one before has its place: the first runs, the others wait."""
    calls = []
    for number, text in enumerate(prompts):
        calls.append(await gateway.open(PROMPT, prompt(text)))
        await (backend.request(0) if number == 0 else gateway.until_waiting(number))
    return calls


@pytest.mark.parametrize("cap", [1, 3])
@scenario
async def test_no_more_run_at_once_than_the_cap_allows(cap: int) -> None:
    """I1."""
    async with ollama() as backend, hermes(backend, models={"gemma": {"max_concurrency": cap}}) as gateway:
        free = asyncio.Event()
        backend.default = play(free, "Hel", DONE)
        calls = [await gateway.open(PROMPT, prompt(stream=number % 2 == 0)) for number in range(12)]
        await gateway.until_waiting(12 - cap)
        assert (backend.running, gateway.running) == (cap, cap)
        free.set()
        assert {(await call.reply()).status for call in calls} == {200}
        assert backend.most_running == cap


@scenario
async def test_first_come_first_served() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        free = asyncio.Event()
        backend.default = play(free, "Hel", DONE)
        order = [f"number {number}" for number in range(8)]
        calls = await in_turn(gateway, backend, *order)
        free.set()
        for call in calls:
            assert (await call.reply()).status == 200
        assert texts(backend) == order


@scenario
async def test_a_full_queue_says_when_to_come_back() -> None:
    async with ollama() as backend, hermes(backend, models={"gemma": {"queue_limit": 2}}) as gateway:
        free = asyncio.Event()
        backend.default = play(free, "Hel", DONE)
        calls = await in_turn(gateway, backend, "runs", "waits", "waits too")
        for path, body in ((PROMPT, prompt()), (CHAT, chat(stream=True))):
            reply = await gateway.ask(path, body)
            assert (reply.status, reply.error["code"], reply.error["type"]) == (429, "queue_full", "rate_limit_error")
            assert 1 <= int(reply.headers["retry-after"]) <= 60
            assert int(reply.headers["retry-after-ms"]) >= 1000
        free.set()
        assert {(await call.reply()).status for call in calls} == {200}
        assert len(backend.asked) == 3
        assert [record.outcome for record in gateway.records].count(Outcome.QUEUE_FULL) == 2


@scenario
async def test_without_a_queue_what_cannot_start_at_once_is_refused() -> None:
    async with ollama() as backend, hermes(backend, models={"gemma": {"queue_limit": 0}}) as gateway:
        backend.default = play(then=Then.STALL)
        (call,) = await in_turn(gateway, backend, "runs")
        assert (await gateway.ask(PROMPT, prompt())).status == 429
        call.leave()


@pytest.mark.parametrize("limits", [{"queue_total": 1}, {"queue_bytes": 3000}])
@scenario
async def test_the_queue_of_the_process_is_bounded_by_count_and_bytes(limits: dict[str, Any]) -> None:
    """I4."""
    async with ollama("gemma:latest", "phi:latest") as backend, hermes(backend, limits=limits) as gateway:
        backend.default = play(then=Then.STALL)
        calls = await in_turn(gateway, backend, "runs", "x" * 2000)
        calls.append(await gateway.open("/v1/llm/phi", prompt("runs")))
        await backend.request(1)
        assert (await gateway.ask("/v1/llm/phi", prompt("x" * 2000))).error["code"] == "queue_full"
        for call in calls:
            call.leave()


@scenario
async def test_who_waits_past_its_deadline_gets_504_and_never_starts() -> None:
    models = {"gemma": {}, "quick": {"backend_model": "gemma", "timeout_s": 0.2}}
    async with ollama() as backend, hermes(backend, models=models) as gateway:
        backend.default = play(then=Then.STALL)
        (first,) = await in_turn(gateway, backend, "runs")
        reply = await gateway.ask("/v1/llm/quick", prompt())
        assert (reply.status, reply.error["code"]) == (504, "queue_timeout")
        assert (await gateway.record()).outcome == "queue_timeout"
        first.leave()
        assert len(backend.asked) == 1


@scenario
async def test_a_queue_that_nobody_can_serve_any_more_is_sent_away_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hermes.fleet.backend.HICCUP_S", 0.0)
    async with ollama() as backend, hermes(backend) as gateway:
        backend.default = play(then=Then.STALL)
        _, waiting = await in_turn(gateway, backend, "runs", "waits")
        await backend.vanish()
        seen = gateway.runtime.fleet.backends["b0"]
        await seen.look(20.0)
        await seen.look(20.0)
        reply = await waiting.reply()
        assert (reply.status, reply.error["code"]) == (503, "no_backend")
        assert reply.headers["retry-after"]


@scenario
async def test_a_client_that_leaves_the_queue_frees_its_place() -> None:
    async with ollama() as backend, hermes(backend, models={"gemma": {"queue_limit": 2}}) as gateway:
        free = asyncio.Event()
        backend.default = play(free, "Hel", DONE)
        runs, leaves, stays = await in_turn(gateway, backend, "runs", "leaves", "stays")
        leaves.leave()
        await gateway.until_waiting(1)
        record = await gateway.record()
        assert (record.outcome, record.status, record.attempts) == ("client_gone", 0, 0)
        comes = await gateway.open(PROMPT, prompt("comes"))
        await gateway.until_waiting(2)
        free.set()
        for call in (runs, stays, comes):
            assert (await call.reply()).status == 200
        assert texts(backend) == ["runs", "stays", "comes"]


@scenario
async def test_max_concurrent_holds_across_models() -> None:
    async with (
        ollama("gemma:latest", "phi:latest", "llama:latest") as backend,
        hermes(backend, limits={"max_concurrent": 2}) as gateway,
    ):
        free = asyncio.Event()
        backend.default = play(free, "Hel", DONE)
        calls = [await gateway.open(f"/v1/llm/{name}", prompt(name)) for name in ("gemma", "phi")]
        await backend.request(1)
        for number, name in enumerate(("llama", "gemma", "phi")):
            calls.append(await gateway.open(f"/v1/llm/{name}", prompt(name)))
            await gateway.until_waiting(number + 1)
        assert backend.running == 2
        free.set()
        assert {(await call.reply()).status for call in calls} == {200}
        assert backend.most_running == 2


@scenario
async def test_a_busy_model_does_not_hold_up_another() -> None:
    async with ollama("gemma:latest", "phi:latest") as backend, hermes(backend) as gateway:
        backend.scripts.append(play(then=Then.STALL))
        calls = await in_turn(gateway, backend, "runs", "waits")
        assert (await gateway.ask("/v1/llm/phi", prompt())).status == 200
        for call in calls:
            call.leave()


@scenario
async def test_two_names_of_one_model_share_its_slots() -> None:
    models = {"fast": {"backend_model": "gemma"}, "careful": {"backend_model": "gemma:latest"}}
    async with ollama() as backend, hermes(backend, models=models) as gateway:
        free = asyncio.Event()
        backend.default = play(free, "Hel", DONE)
        calls = [await gateway.open("/v1/llm/fast", prompt())]
        await backend.request(0)
        calls.append(await gateway.open("/v1/llm/careful", prompt()))
        await gateway.until_waiting(1)
        free.set()
        assert [(await call.reply()).json["model"] for call in calls] == ["fast", "careful"]
        assert backend.most_running == 1


@scenario
async def test_two_backends_are_filled_evenly() -> None:
    async with ollama() as one, ollama() as two, hermes(one, two, defaults={"max_concurrency": 4}) as gateway:
        for backend in (one, two):
            backend.default = play(then=Then.STALL)
        calls = [await gateway.open(PROMPT, prompt(str(number))) for number in range(4)]
        await one.request(1)
        await two.request(1)
        for call in calls:
            call.leave()


@scenario
async def test_the_time_in_the_queue_is_told_and_recorded() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        free = asyncio.Event()
        backend.default = play(free, "Hel", DONE)
        first, second = await in_turn(gateway, backend, "runs", "waits")
        asyncio.get_running_loop().call_later(0.1, free.set)
        await first.reply()
        assert (await second.reply()).json["timings"]["queue_ms"] >= 90
        record = await gateway.record(1)
        assert record.queue_ms is not None and record.queue_ms >= 90
