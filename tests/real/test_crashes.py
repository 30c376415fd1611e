"""The process that runs the model dies: no client takes a broken answer for a whole one, and the next one is served."""

from pathlib import Path
from typing import Any

import pytest

from tests.fakes.gateway import Call
from tests.real.house import LONG, MODEL, ROWS, SHORT, House, house, scenario
from tests.real.relay import relay
from tests.real.runner import kill_runner, until_busy

PATH = f"/v1/llm/{MODEL}"
PROMPT = {"prompt": "Count", "stream": True, "options": LONG}
CHAT = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Count"}],
    "stream": True,
    "response_format": {"type": "json_schema", "json_schema": {"name": "rows", "schema": ROWS}},
    "reasoning_effort": "none",
}


async def renew_runner(home: House) -> None:
    """Ollama tells what a runner said last when it dies: have one that has said nothing."""
    await home.prompt("Hi", options=SHORT)
    await kill_runner()
    assert (await home.prompt("Hi", options=SHORT)).status == 200


async def flowing(home: House, path: str, body: Any) -> Call:
    """A stream that has begun."""
    call = await home.hermes.open(path, body)
    assert await call.head() == 200
    assert "error" not in await call.event()
    return call


@pytest.mark.parametrize(("path", "body"), [(PATH, PROMPT), ("/v1/chat/completions", CHAT)])
@scenario
async def test_a_stream_ends_with_an_error_and_the_next_one_works(tmp_path: Path, path: str, body: Any) -> None:
    """I5."""
    async with house(tmp_path) as home:
        await renew_runner(home)
        call = await flowing(home, path, body)
        await kill_runner()
        events = await call.events()
        assert events[-1]["error"]["code"] == "backend_error"
        assert not call.whole and "[DONE]" not in events and not any(event.get("done") for event in events)
        assert (await home.prompt("Hi", options=SHORT)).status == 200


@scenario
async def test_a_whole_answer_is_asked_for_again(tmp_path: Path) -> None:
    async with relay() as between, house(tmp_path, between.url) as home:
        await renew_runner(home)
        before = between.asked
        call = await home.hermes.open(PATH, {"prompt": "Count", "options": {**LONG, "max_tokens": 1500}})
        await until_busy()
        await kill_runner()
        reply = await call.reply()
        assert (reply.status, reply.json["reason"]) == (200, "length")
        assert between.asked - before == 2


@scenario
async def test_an_earlier_overlong_prompt_is_not_blamed(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        await renew_runner(home)
        assert (await home.prompt("tide " * 400_000)).error["code"] == "context_length_exceeded"
        call = await flowing(home, PATH, PROMPT)
        await kill_runner()
        assert (await call.events())[-1]["error"]["code"] == "backend_error"
