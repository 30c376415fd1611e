"""A real Ollama answers Anthropic's clients through Hermes: whole and streamed, tools, and what it refuses."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anthropic
import pytest
from anthropic import AsyncAnthropic
from anthropic.types import MessageParam, ToolParam

from tests.dialects.cases import PIXEL
from tests.real.house import MODEL, RESIDENT, House, house, scenario

ASKED: list[MessageParam] = [{"role": "user", "content": "Explain relativity"}]
WEATHER: ToolParam = {
    "name": "get_weather",
    "description": "The weather in a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


@asynccontextmanager
async def claude(folder: Path) -> AsyncIterator[tuple[House, AsyncAnthropic]]:
    async with house(folder) as home:
        url = f"http://127.0.0.1:{home.hermes.port}"
        async with AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as client:
            yield home, client


@scenario
async def test_a_message_whole_and_streamed(tmp_path: Path) -> None:
    async with claude(tmp_path) as (_, client):
        whole = await client.messages.create(model=MODEL, max_tokens=50, messages=ASKED)
        async with client.messages.stream(model=MODEL, max_tokens=50, messages=ASKED, system="Be brief") as stream:
            texts = [text async for text in stream.text_stream]
            streamed = await stream.get_final_message()
        assert len(texts) > 1
        for said in (whole, streamed):
            assert said.content and said.stop_reason in ("end_turn", "max_tokens")
            assert said.usage.input_tokens > 0 and said.usage.output_tokens > 0
        counted = await client.messages.count_tokens(model=MODEL, messages=ASKED)
        assert 0 < counted.input_tokens < 10 * whole.usage.input_tokens


@pytest.mark.parametrize("thinking", [{"type": "adaptive"}, {"type": "enabled", "budget_tokens": 1024}])
@scenario
async def test_no_model_refuses_to_answer_who_wishes_it_to_think(tmp_path: Path, thinking: Any) -> None:
    async with claude(tmp_path) as (home, client):
        for name, capabilities in (await home.models()).items():
            if "completion" in capabilities:
                more: Any = {"thinking": thinking, "output_config": {"effort": "low"}}
                said = await client.messages.create(model=name, max_tokens=20, messages=ASKED, **more)
                assert said.content and all(block.type in ("thinking", "text") for block in said.content)


@scenario
async def test_a_tool_is_called_and_its_result_read(tmp_path: Path) -> None:
    async with claude(tmp_path) as (_, client):
        said: list[Any] = [{"role": "user", "content": "What is the weather in Oslo?"}]
        first = await client.messages.create(model=MODEL, max_tokens=500, messages=said, tools=[WEATHER])
        calls = [block for block in first.content if block.type == "tool_use"]
        if not calls:
            pytest.skip(f"{MODEL} calls no tool")
        assert first.stop_reason == "tool_use" and isinstance(calls[0].input, dict)
        results = [{"type": "tool_result", "tool_use_id": call.id, "content": "Sunny, 21 degrees"} for call in calls]
        said += [
            {"role": "assistant", "content": [block.to_dict() for block in first.content]},
            {"role": "user", "content": results},
            {"role": "system", "content": "Be brief"},
        ]
        async with client.messages.stream(model=MODEL, max_tokens=500, messages=said, tools=[WEATHER]) as stream:
            assert (await stream.get_final_message()).content


@scenario
async def test_what_it_cannot_take_is_refused_in_words_that_clients_match(tmp_path: Path) -> None:
    async with claude(tmp_path) as (home, client):
        with pytest.raises(anthropic.BadRequestError, match="prompt is too long") as overlong:
            await client.messages.create(
                model=MODEL, max_tokens=5, messages=[{"role": "user", "content": "word " * 400_000}]
            )
        assert overlong.value.error_code == "context_length_exceeded"
        if "vision" not in (await home.models())[RESIDENT]:
            picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}
            seen: Any = [{"role": "user", "content": [picture]}]
            with pytest.raises(anthropic.BadRequestError) as refused:
                await client.messages.create(model=MODEL, max_tokens=5, messages=seen)
            assert refused.value.error_code == "unsupported_by_model"
