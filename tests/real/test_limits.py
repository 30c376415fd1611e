"""What a real Ollama refuses, holds and is spared: through Hermes it gets one request at a time, and none in vain."""

import asyncio
import time
from pathlib import Path

import pytest

from tests.fakes.gateway import Reply
from tests.real.house import LONG, MODEL, OLLAMA_URL, RESIDENT, SHORT, House, house, ollama, scenario
from tests.real.relay import relay
from tests.support import until


@scenario
async def test_models_are_listed_and_found(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        listed = await home.sdk.models.list()
        names = [model.id async for model in listed]
        assert any(name.removesuffix(":latest") == MODEL.removesuffix(":latest") for name in names)
        one = (await home.sdk.models.retrieve(MODEL)).model_dump()
        assert one["object"] == "model" and one["created"] > 0 and "completion" in one["capabilities"]
        missing = await home.ask("/v1/models/no-such-model")
        assert (missing.status, missing.error["code"]) == (404, "model_not_found")


@scenario
async def test_a_models_capabilities_are_those_that_ollama_shows(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        for name, capabilities in (await home.models()).items():
            _, shown = await ollama("/api/show", {"model": name})
            assert capabilities == shown["capabilities"]


@scenario
async def test_the_status_shows_what_is_loaded_and_how_large_it_is(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        await home.prompt("Hi", options=SHORT)
        status = (await home.ask("/v1/status")).json
        (backend,) = status["backends"]
        assert (backend["state"], backend["url"], backend["simulated"]) == ("up", OLLAMA_URL, False)
        assert backend["version"] and backend["hint"]
        told = next(model for model in backend["loaded"] if model["name"] == RESIDENT)
        _, running = await ollama("/api/ps")
        own = next(model for model in running["models"] if model["name"] == RESIDENT)
        assert told["size_bytes"] == own["size"] > 0 and told["vram_bytes"] == own["size_vram"]
        assert told["context_length"] == own["context_length"] > 0


@scenario
async def test_a_pull_that_fails_says_so(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        reply = await home.ask("/v1/llm/no-such-namespace-here/no-such-model/pull", {})
        assert reply.events[-1]["error"]["code"] == "pull_failed"
        assert not any(event.get("done") for event in reply.events)
        assert reply.whole == (reply.status != 200)


@pytest.mark.parametrize("stream", [False, True])
@scenario
async def test_an_unknown_model_is_not_found(tmp_path: Path, stream: bool) -> None:
    async with house(tmp_path) as home:
        for reply in await _both(home, "Hi", stream, "no-such-model"):
            assert (reply.status, reply.error["code"], reply.error["param"]) == (404, "model_not_found", "model")


@pytest.mark.parametrize("stream", [False, True])
@scenario
async def test_an_overlong_prompt_is_refused_and_not_cut(tmp_path: Path, stream: bool) -> None:
    async with house(tmp_path) as home:
        for reply in await _both(home, "tide " * 400_000, stream):
            assert (reply.status, reply.error["code"]) == (400, "context_length_exceeded")


async def _both(home: House, text: str, stream: bool, model: str = MODEL) -> list[Reply]:
    """In both dialects."""
    chat = {"model": model, "messages": [{"role": "user", "content": text}], "stream": stream}
    return [await home.prompt(text, model, stream=stream), await home.ask("/v1/chat/completions", chat)]


@pytest.mark.parametrize("stream", [False, True])
@scenario
async def test_a_client_that_leaves_frees_the_slot_at_once(tmp_path: Path, stream: bool) -> None:
    """I9: Ollama stops working for it, and the next request has the model to itself."""
    async with relay() as between, house(tmp_path, between.url) as home:
        usual_s = await _short(home)
        call = await home.hermes.open(f"/v1/llm/{MODEL}", {"prompt": "Count", "stream": stream, "options": LONG})
        if stream:
            assert await call.head() == 200
            await call.piece()
        else:
            await until(lambda: between.now, "Ollama was not asked", 10.0)
        left_at = time.monotonic()
        call.leave()
        next_one = asyncio.get_running_loop().create_task(_short(home))
        async with asyncio.timeout(1.0):
            await between.left.wait()
        print(f"Ollama's client was gone after {1000 * (time.monotonic() - left_at):.1f} ms")
        took_s = await next_one
        print(f"the next request took {took_s:.3f} s, alone {usual_s:.3f} s")
        assert took_s < usual_s + 1.0


async def _short(home: House) -> float:
    """How long a short answer takes, once the model is loaded."""
    await home.prompt("Hi", options=SHORT)
    began_at = time.monotonic()
    assert (await home.prompt("Hi", options=SHORT)).status == 200
    return time.monotonic() - began_at


@scenario
async def test_of_many_at_once_ollama_never_has_more_than_one(tmp_path: Path) -> None:
    """I1: the queue is Hermes's."""
    async with relay() as between, house(tmp_path, between.url) as home:
        asked = [
            home.prompt(f"Number {number}", options={"max_tokens": 20}, stream=number % 2 == 0) for number in range(8)
        ]
        replies = await asyncio.gather(*asked)
        assert {reply.status for reply in replies} == {200} and all(reply.whole for reply in replies)
        assert (between.asked, between.most) == (8, 1)
        await until(lambda: between.now == 0, "Ollama still works")


@scenario
async def test_who_comes_second_waits_here_and_then_gets_its_answer(tmp_path: Path) -> None:
    async with relay() as between, house(tmp_path, between.url) as home:
        await home.prompt("Hi", options=SHORT)
        first = await home.hermes.open(f"/v1/llm/{MODEL}", {"prompt": "Count", "stream": True, "options": LONG})
        assert await first.head() == 200
        second = await home.hermes.open(f"/v1/llm/{MODEL}", {"prompt": "Hi", "options": SHORT})
        async with asyncio.timeout(10.0):
            while await home.hermes.queued() != 1:
                pass
        assert await home.metric(f'hermes_requests_queued{{class="normal",model="{RESIDENT}"}}') == 1
        assert await home.metric(f'hermes_requests_active{{model="{RESIDENT}"}}') == 1
        assert (between.now, between.asked) == (1, 2)
        first.leave()
        reply = await second.reply()
        assert reply.status == 200 and reply.json["timings"]["queue_ms"] > 0
        assert await home.metric(f'hermes_requests_queued{{class="normal",model="{RESIDENT}"}}') == 0
