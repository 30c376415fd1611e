"""What a real Ollama refuses, holds and is spared: through Hermes it gets one request at a time, and none in vain."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.gateway import Reply
from tests.real.house import MODEL, OLLAMA_URL, House, house, scenario
from tests.real.relay import relay
from tests.support import until

# Any model has to go on for a while to satisfy this.
LONG: dict[str, Any] = {
    "format": {"type": "array", "minItems": 500, "items": {"type": "integer"}},
    "think": False,
    "temperature": 1,
}
SHORT: dict[str, Any] = {"max_tokens": 2, "think": False}


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
async def test_the_status_shows_what_is_loaded_and_how_large_it_is(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        await home.prompt("Hi", options=SHORT)
        status = (await home.ask("/v1/status")).json
        (backend,) = status["backends"]
        assert (backend["state"], backend["url"], backend["simulated"]) == ("up", OLLAMA_URL, False)
        assert backend["version"] and backend["hint"]
        loaded = {model["name"].removesuffix(":latest"): model for model in backend["loaded"]}
        assert loaded[MODEL.removesuffix(":latest")]["size_bytes"] > 1_000_000
        assert loaded[MODEL.removesuffix(":latest")]["context_length"] > 0


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
        assert (between.asked, between.most, between.now) == (8, 1, 0)
