"""A real Ollama answers through Hermes: in both dialects, whole and streamed, with all that a model can do."""

import base64
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.real.house import MODEL, House, house, ollama, scenario

QUESTION = "Explain relativity"
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 40}, "people": {"type": "integer"}},
    "required": ["city", "people"],
    "additionalProperties": False,
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def check_usage(usage: dict[str, int]) -> None:
    assert usage["prompt_tokens"] > 0 and usage["completion_tokens"] > 0
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def check_end(end: dict[str, Any]) -> None:
    assert end["model"] == MODEL
    assert end["reason"] in ("stop", "length")
    check_usage(end["usage"])
    assert end["timings"].keys() >= {"queue_ms", "total_ms", "prefill_ms", "decode_ms"}


@scenario
async def test_a_prompt_gets_a_whole_answer(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        reply = await home.prompt(QUESTION, options={"max_tokens": 50})
        assert reply.status == 200 and reply.whole
        assert reply.json["result"] or reply.json["reasoning"]
        check_end(reply.json)


@scenario
async def test_a_prompt_gets_a_streamed_answer(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        reply = await home.prompt(QUESTION, stream=True, options={"max_tokens": 50})
        *pieces, end = reply.events
        assert reply.status == 200 and reply.whole
        assert len(pieces) > 1
        assert {key for piece in pieces for key in piece} <= {"delta", "reasoning"}
        assert end["done"] is True
        check_end(end)


@scenario
async def test_the_sdk_gets_a_whole_answer(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        answer = await home.sdk.chat.completions.create(model=MODEL, messages=[user(QUESTION)], max_tokens=50)
        assert answer.model == MODEL and answer.object == "chat.completion"
        assert answer.choices[0].finish_reason in ("stop", "length")
        message = answer.choices[0].message.model_dump()
        assert message["content"] or message["reasoning_content"]
        assert answer.usage is not None
        check_usage(answer.usage.model_dump())


@scenario
async def test_the_sdk_gets_a_streamed_answer(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        stream = await home.sdk.chat.completions.create(
            model=MODEL,
            messages=[user(QUESTION)],
            max_tokens=50,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
        deltas = [chunk.choices[0].delta.model_dump() for chunk in chunks if chunk.choices]
        assert sum(bool(delta.get("content") or delta.get("reasoning_content")) for delta in deltas) > 1
        reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
        assert reasons[-1] in ("stop", "length") and not any(reasons[:-1])
        assert chunks[-1].usage is not None
        check_usage(chunks[-1].usage.model_dump())


@scenario
async def test_what_curl_sends_needs_no_content_type(tmp_path: Path) -> None:
    """`curl -d` calls every body a form."""
    async with house(tmp_path) as home:
        form = {"content-type": "application/x-www-form-urlencoded", "user-agent": "curl/8.5.0", "accept": "*/*"}
        reply = await home.ask(f"/v1/llm/{MODEL}", {"prompt": QUESTION, "options": {"max_tokens": 5}}, form)
        assert reply.status == 200
        check_end(reply.json)


# The same each time: what is counted and said can be compared.
SAME: dict[str, Any] = {"temperature": 0, "seed": 7}


@pytest.mark.parametrize("stream", [False, True])
@scenario
async def test_a_prompts_answer_and_usage_are_ollamas_own(tmp_path: Path, stream: bool) -> None:
    async with house(tmp_path) as home:
        asked = {"model": MODEL, "messages": [user(QUESTION)], "stream": False, "options": {**SAME, "num_predict": 30}}
        _, own = await ollama("/api/chat", asked)
        reply = await home.prompt(QUESTION, stream=stream, options={**SAME, "max_tokens": 30})
        end = reply.events[-1]
        said = "".join(event.get("delta", "") for event in reply.events) if stream else end["result"]
        assert said == own["message"]["content"]
        check_same(end["usage"], own)


@pytest.mark.parametrize("stream", [False, True])
@scenario
async def test_the_sdks_answer_and_usage_are_ollamas_own(tmp_path: Path, stream: bool) -> None:
    async with house(tmp_path) as home:
        said = [{"role": "system", "content": "Be brief."}, user(QUESTION)]
        asked = {"model": MODEL, "messages": said, "stream": False, "options": {**SAME, "num_predict": 30}}
        _, own = await ollama("/api/chat", asked)
        messages: Any = said
        if stream:
            async with home.sdk.chat.completions.stream(
                model=MODEL, messages=messages, **SAME, max_tokens=30, stream_options={"include_usage": True}
            ) as chunks:
                answer: Any = await chunks.get_final_completion()
        else:
            answer = await home.sdk.chat.completions.create(model=MODEL, messages=messages, **SAME, max_tokens=30)
        assert (answer.choices[0].message.content or "") == own["message"]["content"]
        assert answer.choices[0].finish_reason == own["done_reason"]
        check_same(answer.usage.model_dump(), own)


def check_same(usage: dict[str, int], own: dict[str, Any]) -> None:
    check_usage(usage)
    assert usage["prompt_tokens"] == own["prompt_eval_count"]
    assert usage["completion_tokens"] == own["eval_count"]


@scenario
async def test_an_answer_ends_at_its_token_limit(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        told = (await home.prompt(QUESTION, options={"max_tokens": 3})).json
        assert (told["reason"], told["usage"]["completion_tokens"]) == ("length", 3)


@scenario
async def test_a_seed_gives_the_same_answer_again(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        options = {"temperature": 1, "seed": 5, "max_tokens": 30}
        first, second = [(await home.prompt(QUESTION, options=options)).json for _ in range(2)]
        assert first["result"] == second["result"]
        assert first["usage"] == second["usage"]


@scenario
async def test_an_answer_keeps_to_its_schema(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        schema: Any = {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA}}
        answer = await home.sdk.chat.completions.create(
            model=MODEL, messages=[user("The largest city?")], response_format=schema, reasoning_effort="none"
        )
        check_city(answer.choices[0].message.content)
        told = await home.prompt("The largest city?", options={"format": SCHEMA, "think": False})
        check_city(told.json["result"])


def check_city(text: str | None) -> None:
    city = json.loads(text or "")
    assert city.keys() == {"city", "people"}
    assert isinstance(city["city"], str) and isinstance(city["people"], int)


@pytest.mark.parametrize("stream", [False, True])
@scenario
async def test_a_model_that_cannot_see_refuses_images_clearly(tmp_path: Path, stream: bool) -> None:
    async with house(tmp_path) as home:
        blind = [name for name, can in (await home.models()).items() if "completion" in can and "vision" not in can]
        if not blind:
            pytest.skip("every model here can see")
        model = next((name for name in blind if name.startswith(MODEL)), blind[0])
        with pytest.raises(openai.BadRequestError) as caught:
            await home.sdk.chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": [{"type": "text", "text": "What is it?"}, IMAGE]}],
                stream=stream,
            )
        assert caught.value.code == "unsupported_by_model"
        assert "image" in str(caught.value)


@pytest.mark.parametrize("stream", [False, True])
@scenario
async def test_a_model_that_only_embeds_refuses_to_answer(tmp_path: Path, stream: bool) -> None:
    async with house(tmp_path) as home:
        models = await home.models()
        mute = next((name for name, can in models.items() if "embedding" in can and "completion" not in can), None)
        if mute is None:
            pytest.skip("no model here only embeds")
        reply = await home.prompt("Hi", mute, stream=stream)
        assert (reply.status, reply.error["code"]) == (400, "unsupported_by_model")


def user(text: str) -> Any:
    return {"role": "user", "content": text}


def _png() -> bytes:
    """32 x 32 white points."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    rows = (b"\0" + b"\xff" * 3 * 32) * 32
    head = struct.pack(">IIBBBBB", 32, 32, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


IMAGE: Any = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(_png()).decode()}"}}


@scenario
async def test_thoughts_are_kept_apart_from_the_answer(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        thinker = await home.model_that_can("thinking")
        for think in ({}, {"options": {"think": True}}):
            told = (await home.prompt("Is 7 a prime?", thinker, **think)).json
            assert told["reasoning"] and "</think>" not in told["result"]
        streamed = (await home.prompt("Is 7 a prime?", thinker, stream=True)).events
        assert streamed[0].keys() == {"reasoning"}
        assert "</think>" not in "".join(event.get("delta", "") for event in streamed)
        answer = await home.sdk.chat.completions.create(model=thinker, messages=[user("Is 7 a prime?")])
        assert answer.choices[0].message.model_dump()["reasoning_content"]


@scenario
async def test_a_thinker_can_be_told_not_to_think(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        thinker = await home.model_that_can("thinking")
        told = (await home.prompt("Is 7 a prime?", thinker, options={"think": False})).json
        assert told["result"] and "reasoning" not in told
        answer = await home.sdk.chat.completions.create(
            model=thinker, messages=[user("Is 7 a prime?")], reasoning_effort="none"
        )
        assert answer.choices[0].message.content
        assert not answer.choices[0].message.model_dump().get("reasoning_content")


@pytest.mark.parametrize("stream", [False, True])
@scenario
async def test_a_tool_is_called_and_its_result_answered(tmp_path: Path, stream: bool) -> None:
    async with house(tmp_path) as home:
        model = await home.model_that_can("tools")
        asked = user("What is the weather in Paris? Use the tool get_weather.")
        call = await _called(home, model, asked, stream)
        assert call["function"]["name"] == "get_weather"
        assert isinstance(json.loads(call["function"]["arguments"]), dict)
        spoken: Any = {"role": "assistant", "content": None, "tool_calls": [call]}
        result: Any = {"role": "tool", "tool_call_id": call["id"], "content": "12 degrees, rain"}
        tools: Any = [WEATHER]
        answer = await home.sdk.chat.completions.create(
            model=model, messages=[asked, spoken, result], tools=tools, reasoning_effort="none", temperature=0
        )
        assert answer.choices[0].finish_reason == "stop" and answer.choices[0].message.content


async def _called(home: House, model: str, asked: Any, stream: bool) -> dict[str, Any]:
    """The one call that the model makes. A model may choose to speak instead: then there is nothing to test."""
    tools: Any = [WEATHER]
    if not stream:
        answer = await home.sdk.chat.completions.create(
            model=model, messages=[asked], tools=tools, reasoning_effort="none", temperature=0
        )
        choice = answer.choices[0]
        calls: list[Any] = choice.message.tool_calls or []
        reason: str | None = choice.finish_reason
    else:
        chunks = await home.sdk.chat.completions.create(
            model=model, messages=[asked], tools=tools, reasoning_effort="none", temperature=0, stream=True
        )
        choices = [chunk.choices[0] async for chunk in chunks if chunk.choices]
        calls = [call for each in choices for call in each.delta.tool_calls or ()]
        reason = choices[-1].finish_reason
    if not calls:
        pytest.skip(f"{model} answered in words")
    assert reason == "tool_calls"
    call = calls[0].model_dump(exclude={"index"})
    return dict(call)
