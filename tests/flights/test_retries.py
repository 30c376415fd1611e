"""Who gives up and comes again stands where he stood."""

import asyncio
from typing import Any

import anthropic
import openai
import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from tests.fakes.backend import DONE, ollama, play
from tests.fakes.gateway import CHAT, Hermes, bearer, chat, hermes, hold_slot, key, scenario
from tests.support import until

AGAIN = {"x-stainless-retry-count": "1"}


def asked_for(backend: Any) -> list[str]:
    """Who was served, in their order."""
    return [asked.body["messages"][-1]["content"] for asked in backend.asked[1:]]


async def wait_for(gateway: Hermes, text: str, waiting: int, headers: dict[str, str] | None = None, **more: Any) -> Any:
    call = await gateway.open(CHAT, chat(text, **more), headers)
    await gateway.until_waiting(waiting)
    return call


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("text", ["first", "first" + "x" * 300_000])
@pytest.mark.parametrize(("again", "order"), [(AGAIN, ["first", "second"]), ({}, ["second", "first"])])
@scenario
async def test_another_try_stands_where_the_one_before_stood(
    again: dict[str, str], order: list[str], text: str, stream: bool
) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        free = asyncio.Event()
        holder = await hold_slot(gateway, backend, free)
        first = await wait_for(gateway, text, 1, stream=stream)
        second = await wait_for(gateway, "second", 2)
        first.leave()
        await gateway.until_waiting(1)
        retry = await wait_for(gateway, text, 2, again, stream=stream)
        free.set()
        for call in (holder, second, retry):
            assert (await call.reply()).status == 200
        # of what came as one HTTP chat, its first word
        assert [said.split("x")[0] for said in asked_for(backend)] == order


@scenario
async def test_nobody_stands_where_another_stood() -> None:
    """I21"""
    async with ollama() as backend, hermes(backend, keys=[key("ann"), {**key("cid"), "user": "ann"}]) as gateway:
        free = asyncio.Event()
        holder = await hold_slot(gateway, backend, free, bearer("ann"))
        first = await wait_for(gateway, "first", 1, bearer("ann"))
        second = await wait_for(gateway, "second", 2, bearer("ann"))
        first.leave()
        await gateway.until_waiting(1)
        retry = await wait_for(gateway, "first", 2, {**AGAIN, **bearer("cid")})
        free.set()
        for call in (holder, second, retry):
            await call.reply()
        assert asked_for(backend) == ["second", "first"]


@scenario
async def test_a_try_that_was_given_up_and_still_waits_makes_way() -> None:
    """Its connection is open, as behind a proxy that goes on waiting: it is not paid for twice."""
    async with ollama() as backend, hermes(backend) as gateway:
        free = asyncio.Event()
        holder = await hold_slot(gateway, backend, free)
        first = await wait_for(gateway, "first", 1)
        second = await wait_for(gateway, "second", 2)
        retry = await gateway.open(CHAT, chat("first"), AGAIN)
        assert (await first.reply()).status == 499
        await gateway.until_waiting(2)
        free.set()
        for call in (holder, second, retry):
            assert (await call.reply()).status == 200
        assert asked_for(backend) == ["first", "second"]


@scenario
async def test_a_try_that_was_given_up_and_runs_is_not_paid_for_twice() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        free = asyncio.Event()
        backend.scripts.append(play(free, "Hello", DONE))
        first = await gateway.open(CHAT, chat())
        await backend.request(0)
        retry = await gateway.open(CHAT, chat(), AGAIN)
        await until(lambda: any(each.over for each in gateway.runtime.journal.exchanges))
        free.set()
        replies = [await call.reply() for call in (first, retry)]
        assert [reply.json["choices"][0]["message"]["content"] for reply in replies] == ["Hello", "Hello"]
        assert len(backend.asked) == 1
        record = await gateway.record(1)
        assert (record.attempts, record.tokens_out, record.user) == (0, 3, "anonymous")
        assert gateway.counted("hermes_tokens_total")["gemma:latest", "completion"] == 3.0


@pytest.mark.parametrize("stream", [False, True])
@scenario
async def test_a_try_that_comes_to_nothing_after_all_leaves_the_next_to_itself(stream: bool) -> None:
    async with ollama() as backend, hermes(backend, defaults={"max_concurrency": 2}) as gateway:
        backend.scripts.append(play(asyncio.Event(), "Hello", DONE))
        first = await gateway.open(CHAT, chat(stream=stream))
        await backend.request(0)
        retry = await gateway.open(CHAT, chat(stream=stream), AGAIN)
        if not stream:
            await until(lambda: any(each.over for each in gateway.runtime.journal.exchanges))
        first.leave()
        assert (await retry.reply()).status == 200
        assert len(backend.asked) == 2


@scenario
async def test_another_try_waits_for_the_one_before_no_longer_than_its_client_does() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        free = asyncio.Event()
        backend.scripts.append(play(free, "Hello", DONE))
        first = await gateway.open(CHAT, chat("first"))
        await until(lambda: len(backend.asked) == 1)
        reply = await gateway.ask(CHAT, chat("first"), AGAIN | {"x-hermes-deadline-ms": "50"})
        assert reply.status in (503, 504)
        free.set()
        assert (await first.reply()).status == 200


@scenario
async def test_one_alone_waits_for_the_try_before_and_others_where_they_are_counted() -> None:
    """I4"""
    async with ollama() as backend, hermes(backend, defaults={"queue_limit": 2}) as gateway:
        free = asyncio.Event()
        backend.scripts.append(play(free, "Hello", DONE))
        calls = [await gateway.open(CHAT, chat("first"))]
        await until(lambda: len(backend.asked) == 1)
        calls += [await gateway.open(CHAT, chat("first"), AGAIN) for _ in range(6)]
        await gateway.until_waiting(2)
        await until(lambda: len(gateway.records) == 3)  # there was no room for them
        free.set()
        told = sorted([(await call.reply()).status for call in calls])
        assert told == [200] * 4 + [429] * 3 and len(backend.asked) == 3


@scenario
async def test_a_shared_run_that_all_have_left_leaves_its_place() -> None:
    async with ollama() as backend, hermes(backend, defaults={"cache": True}) as gateway:
        free = asyncio.Event()
        holder = await hold_slot(gateway, backend, free)
        first = await wait_for(gateway, "first", 1, temperature=0)
        second = await wait_for(gateway, "second", 2)
        first.leave()
        await gateway.until_waiting(1)
        retry = await wait_for(gateway, "first", 2, AGAIN, temperature=0)
        free.set()
        for call in (holder, second, retry):
            assert (await call.reply()).status == 200
        assert asked_for(backend) == ["first", "second"]


@scenario
async def test_a_stream_with_an_idempotency_key_stands_where_it_stood() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        free = asyncio.Event()
        holder = await hold_slot(gateway, backend, free)
        named = {"idempotency-key": "abc"}
        first = await wait_for(gateway, "first", 1, named, stream=True)
        second = await wait_for(gateway, "second", 2)
        first.leave()
        await gateway.until_waiting(1)
        retry = await wait_for(gateway, "first", 2, named, stream=True)
        free.set()
        for call in (holder, second, retry):
            assert (await call.reply()).status == 200
        assert asked_for(backend) == ["first", "second"]


# A whole answer is due when they give up, as they tell: they get an error then. Of a stream they hear nothing.


async def openai_asks(port: int) -> str:
    hasty = openai.Timeout(10.0, read=0.3)
    async with AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="x", timeout=hasty, max_retries=5) as sdk:
        messages: Any = [{"role": "user", "content": "first"}]
        stream = await sdk.chat.completions.create(model="gemma", messages=messages, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])


async def anthropic_asks(port: int) -> str:
    hasty = anthropic.Timeout(10.0, read=0.3)
    async with AsyncAnthropic(base_url=f"http://127.0.0.1:{port}", api_key="x", timeout=hasty, max_retries=5) as sdk:
        messages: Any = [{"role": "user", "content": "first"}]
        async with sdk.messages.stream(model="gemma", max_tokens=9, messages=messages) as stream:
            return "".join([text async for text in stream.text_stream])


@pytest.mark.parametrize("ask", [openai_asks, anthropic_asks])
@scenario
async def test_the_sdks_come_again_by_themselves_and_have_lost_nothing(ask: Any) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        free = asyncio.Event()
        holder = await hold_slot(gateway, backend, free)
        sdk = asyncio.get_running_loop().create_task(ask(gateway.port))
        await gateway.until_waiting(1)
        second = await wait_for(gateway, "second", 2)
        await gateway.until_waiting(1)  # it has given up
        await until(lambda: gateway.waiting == 2, "it does not come again", 3.0)
        backend.scripts.append(play("Hello", DONE))
        free.set()
        assert await sdk == "Hello"
        for call in (holder, second):
            assert (await call.reply()).status == 200
        assert asked_for(backend) == ["first", "second"]
