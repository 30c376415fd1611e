"""What /metrics tells of requests, as they really went."""

import asyncio
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from hermes import exposition
from hermes.series import Taken
from tests.fakes.backend import DONE, FakeOllama, Then, listening, ollama, play
from tests.fakes.gateway import (
    CHAT,
    COMPLETIONS,
    PROMPT,
    Hermes,
    bearer,
    chat,
    hermes,
    hold_slot,
    key,
    prompt,
    scenario,
)
from tests.fakes.openai_backend import FakeOpenAI
from tests.support import until

HELD_S = 0.1


@scenario
async def test_what_makes_text_of_many_series_is_done_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """I36: 200 models have 38,000 lines."""
    where: list[int] = []
    told = exposition.told

    def watched(taken: Iterable[Taken]) -> Iterator[Any]:
        where.append(threading.get_ident())
        return told(taken)

    async with ollama() as backend, hermes(backend) as gateway:
        monkeypatch.setattr(exposition, "told", watched)
        assert (await gateway.ask("/metrics")).status == 200
        assert where and threading.get_ident() not in where
        monkeypatch.undo()


@scenario
async def test_what_is_refused_is_counted_by_why() -> None:
    async with (
        ollama() as backend,
        hermes(backend, keys=[key("ann", rpm=1), key("bob")], models={"gemma": {"queue_limit": 0}}) as gateway,
    ):
        call = await hold_slot(gateway, backend, headers=bearer("ann"))
        for headers in (bearer("ann"), bearer("bob"), bearer("nobody")):
            assert (await gateway.ask(PROMPT, prompt(), headers)).status in (401, 429)
        call.leave()
        assert gateway.counted("hermes_requests_refused_total") == {
            ("gemma", "queue_full"): 1,
            ("gemma", "rate_limit_exceeded"): 1,
            ("", "invalid_api_key"): 1,
        }


@scenario
async def test_what_is_cancelled_is_counted_by_how_far_it_had_got() -> None:
    """I9."""
    async with ollama() as backend, hermes(backend, models={"gemma": {"max_concurrency": 1}}) as gateway:
        backend.default = play(then=Then.STALL)
        running = await gateway.open(PROMPT, prompt())
        await backend.request(0)
        queued = await gateway.open(PROMPT, prompt())
        await gateway.until_waiting(1)
        queued.leave()
        await until(lambda: gateway.waiting == 0)
        running.leave()
        await until(lambda: gateway.running == 0)
        backend.default = play("Hel", then=Then.STALL)
        streaming = await gateway.open(PROMPT, prompt(stream=True))
        assert await streaming.head() == 200 and await streaming.event()
        streaming.leave()
        await gateway.settle()
        told = gateway.counted("hermes_requests_cancelled_total")
        assert told == {("gemma", "queued"): 1, ("gemma", "running"): 1, ("gemma", "streaming"): 1}


@scenario
async def test_what_waits_and_has_waited_is_told_by_class() -> None:
    async with ollama() as backend, hermes(backend, models={"gemma": {"max_concurrency": 1}}) as gateway:
        free = asyncio.Event()
        first = await hold_slot(gateway, backend, free)
        second = await gateway.open(PROMPT, prompt(), {"x-hermes-class": "batch"})
        await gateway.until_waiting(1)
        told = gateway.counted("hermes_requests_queued")
        assert told == {("gemma", "interactive"): 0, ("gemma", "normal"): 0, ("gemma", "batch"): 1}
        assert (
            gateway.counted("vllm:num_requests_waiting")
            == gateway.counted("vllm:num_requests_running")
            == {("gemma",): 1}
        )
        free.set()
        await first.reply()
        await second.reply()
        await gateway.settle()
        assert gateway.counted("hermes_queue_wait_seconds_count") == {("gemma", "normal"): 1, ("gemma", "batch"): 1}


def _sum(gateway: Hermes, name: str) -> float:
    return sum(gateway.counted(f"{name}_sum").values())


@pytest.mark.parametrize("body", [chat(), chat(stream=True)], ids=["whole", "streamed"])
@pytest.mark.parametrize("fake", [FakeOllama, lambda: FakeOpenAI("openai")], ids=["ollama", "openai"])
@scenario
async def test_overhead_is_neither_the_wait_nor_the_backends_time(
    fake: Callable[[], FakeOllama], body: dict[str, Any]
) -> None:
    async with listening(fake()) as backend, hermes(backend, models={"gemma": {"max_concurrency": 1}}) as gateway:
        free = asyncio.Event()
        backend.scripts.append(play("Hel", free, "lo", DONE))
        calls = [await gateway.open(CHAT, body)]
        await backend.request(0)
        calls.append(await gateway.open(CHAT, body))
        await gateway.until_waiting(1)
        await asyncio.sleep(HELD_S)
        free.set()
        for call in calls:
            assert (await call.reply()).status == 200
        await gateway.settle()
        assert gateway.counted("hermes_overhead_seconds_count") == {(): 2}
        assert _sum(gateway, "hermes_request_duration_seconds") > 2 * HELD_S
        assert 0 < _sum(gateway, "hermes_overhead_seconds") < HELD_S


@scenario
async def test_how_long_a_backend_takes_to_end_what_is_answered_is_its_own_time() -> None:
    async with listening(FakeOpenAI("openai")) as backend, hermes(backend) as gateway:
        late = asyncio.Event()
        backend.scripts.append(play("Hello", DONE, late))
        assert (await gateway.ask(CHAT, chat())).status == 200
        await asyncio.sleep(HELD_S)
        late.set()
        await gateway.settle()
        assert gateway.counted("hermes_overhead_seconds_count") == {(): 1}
        assert 0 < _sum(gateway, "hermes_overhead_seconds") < HELD_S / 2


@scenario
async def test_only_streams_have_a_first_token_and_a_time_to_the_next() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        free = asyncio.Event()
        backend.scripts += [play("Hel", "lo", DONE), play("Hel", free, "lo", DONE)]
        await gateway.ask(CHAT, chat())
        assert gateway.counted("hermes_time_to_first_token_seconds_count") == {}
        call = await gateway.open(CHAT, chat(stream=True))
        assert await call.head() == 200 and await call.event()
        await asyncio.sleep(HELD_S)
        free.set()
        await call.events()
        await gateway.settle()
        assert gateway.counted("hermes_time_to_first_token_seconds_count") == {(CHAT, "gemma:latest"): 1}
        # Three tokens in all, so two of them after the first. The loop's clock has milliseconds.
        assert HELD_S / 2 - 0.002 <= _sum(gateway, "hermes_time_per_output_token_seconds") < 10 * HELD_S


@scenario
async def test_others_names_tell_the_same_numbers() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        first, second = asyncio.Event(), asyncio.Event()
        backend.scripts.append(play(first, "Hel", second, "lo", DONE))
        call = await gateway.open(CHAT, chat(stream=True))
        await asyncio.sleep(0.01)
        first.set()
        await call.head()
        await asyncio.sleep(0.01)
        second.set()
        await call.events()
        await gateway.ask(PROMPT, prompt(stream=True))
        await gateway.ask(COMPLETIONS, {"model": "gemma", "prompt": "Hi", "stream": True})
        backend.default = play(b"no json", DONE)
        await gateway.ask(CHAT, chat())
        await gateway.settle()
        model = "gemma:latest"
        assert gateway.counted("gen_ai_server_request_duration_seconds_count") == {
            ("chat", "hermes", model, ""): 1,
            ("text_completion", "hermes", model, ""): 2,
            ("chat", "hermes", model, "upstream_error"): 1,
        }
        for ours, theirs in (
            ("hermes_request_duration_seconds", "gen_ai_server_request_duration_seconds"),
            ("hermes_time_to_first_token_seconds", "gen_ai_server_time_to_first_token_seconds"),
            ("hermes_time_per_output_token_seconds", "gen_ai_server_time_per_output_token_seconds"),
        ):
            assert _sum(gateway, ours) == pytest.approx(_sum(gateway, theirs)) != 0
        used = gateway.counted("gen_ai_client_token_usage_count")
        assert used == {  # of what failed nothing was told
            ("chat", "hermes", model, "input"): 1,
            ("chat", "hermes", model, "output"): 1,
            ("text_completion", "hermes", model, "input"): 2,
            ("text_completion", "hermes", model, "output"): 2,
        }
        assert gateway.counted("gen_ai_client_token_usage_sum")["chat", "hermes", model, "output"] == 3


@scenario
async def test_tokens_are_told_by_tenant() -> None:
    async with ollama() as backend, hermes(backend, keys=[key("ann"), key("bob")]) as gateway:
        await gateway.ask(CHAT, chat(), bearer("ann"))
        await gateway.ask(CHAT, chat(), bearer("ann"))
        await gateway.ask(CHAT, chat(), bearer("bob"))
        await gateway.settle()
        assert gateway.counted("hermes_tenant_tokens_total") == {
            ("ann", "prompt"): 14,
            ("ann", "completion"): 6,
            ("bob", "prompt"): 7,
            ("bob", "completion"): 3,
        }
