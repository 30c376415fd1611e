"""A real llama-server answers through Hermes, is never given more than it runs, and is freed when a client leaves."""

import asyncio
import json
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.fakes.gateway import COMPLETIONS, PROMPT, STREAMS, WHOLE
from tests.real.house import LONG, scenario
from tests.real.llamacpp.engine import GGUF, MODEL, THINKER_GGUF, engine, house, until_queued
from tests.real.test_answers import QUESTION, SCHEMA, WEATHER, user

SAME: dict[str, Any] = {"temperature": 0, "seed": 7, "max_tokens": 30}
CHAT = "/v1/chat/completions"


def chat(**more: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [user(QUESTION)], **SAME, **more}


@pytest.mark.parametrize("stream", [False, True])
@scenario
async def test_text_and_counts_are_its_own(tmp_path: Path, stream: bool) -> None:
    async with engine() as server, house(tmp_path, server) as home:
        _, own = await server.ask(CHAT, chat())
        reply = await home.ask(CHAT, chat(stream=stream, stream_options={"include_usage": True} if stream else None))
        assert reply.status == 200 and reply.whole
        if stream:
            *chunks, counted, done = reply.events
            text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
            told = (text, chunks[-1]["choices"][0]["finish_reason"], counts_in(counted))
            assert done == "[DONE]"
        else:
            (choice,) = reply.json["choices"]
            told = (choice["message"]["content"], choice["finish_reason"], counts_in(reply.json))
        (choice,) = own["choices"]
        assert told == (choice["message"]["content"], choice["finish_reason"], counts_in(own))


def counts_in(answer: Any) -> dict[str, int]:
    """How many it had read before differs: it has been asked the same twice."""
    return {key: answer["usage"][key] for key in ("prompt_tokens", "completion_tokens", "total_tokens")}


@pytest.mark.parametrize("stream", [False, True])
@scenario
async def test_a_prompt_is_answered_and_timed(tmp_path: Path, stream: bool) -> None:
    async with engine() as server, house(tmp_path, server) as home:
        reply = await home.prompt(QUESTION, MODEL, stream=stream, options={"max_tokens": 30})
        end = reply.events[-1]
        assert reply.whole and end["model"] == MODEL and end["usage"]["completion_tokens"] > 0
        assert end["timings"]["prefill_ms"] > 0 and end["timings"]["decode_ms"] > 0


@scenario
async def test_a_tool_is_called_whole_and_streamed(tmp_path: Path) -> None:
    """With tiny models: what a template or grammar enforces, not that a model knows when to call."""
    async with engine() as server, house(tmp_path, server) as home:
        asked: dict[str, Any] = {"model": MODEL, "messages": [user("Weather?")], "tools": [WEATHER], "temperature": 0}
        whole = (await home.sdk.chat.completions.create(**asked, max_tokens=400)).choices[0]
        if not whole.message.tool_calls:
            pytest.skip("the model did not call the tool")
        (called,) = whole.message.tool_calls
        assert whole.finish_reason == "tool_calls" and called.id
        assert isinstance(json.loads(called.function.arguments)["city"], str)  # type: ignore[union-attr]
        async with home.sdk.chat.completions.stream(**asked, max_tokens=400) as stream:
            (streamed,) = (await stream.get_final_completion()).choices
        assert streamed.message.tool_calls
        assert streamed.message.tool_calls[0].function.arguments == called.function.arguments  # type: ignore[union-attr]
        answered = [*asked["messages"], whole.message.model_dump(exclude_none=True)]
        answered.append({"role": "tool", "tool_call_id": called.id, "content": "cold"})
        after = await home.sdk.chat.completions.create(**asked | {"messages": answered, "max_tokens": 30})
        assert after.choices[0].finish_reason in ("stop", "length", "tool_calls")


@scenario
async def test_a_call_can_be_demanded(tmp_path: Path) -> None:
    async with engine() as server, house(tmp_path, server) as home:
        other = json.loads(json.dumps(WEATHER).replace("get_weather", "get_time"))
        for stream in (False, True):
            for choice in ("required", {"type": "function", "function": {"name": "get_time"}}):
                asked = chat(tools=[WEATHER, other], tool_choice=choice, max_tokens=400, stream=stream)
                reply = await home.ask(CHAT, asked)
                assert reply.status == 200 and b'"tool_calls":[' in reply.body
                assert choice == "required" or b"get_weather" not in reply.body


@scenario
async def test_a_schema_and_probabilities_are_heeded(tmp_path: Path) -> None:
    async with engine() as server, house(tmp_path, server) as home:
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
        answer = (await home.ask(CHAT, chat(response_format=form, max_tokens=400))).json["choices"][0]
        assert json.loads(answer["message"]["content"]).keys() == {"city", "people"}
        told = (await home.ask(CHAT, chat(logprobs=True, top_logprobs=2))).json["choices"][0]["logprobs"]["content"]
        assert "".join(item["token"] for item in told) and all(len(item["top_logprobs"]) == 2 for item in told)


@pytest.mark.skipif(not THINKER_GGUF, reason="needs a model that thinks: THINKER_GGUF")
@scenario
async def test_thoughts_are_told_apart_and_can_be_switched_off(tmp_path: Path) -> None:
    async with engine("-m", THINKER_GGUF, "--alias", MODEL, "-c", "4096") as server, house(tmp_path, server) as home:
        for stream in (False, True):
            thinking = await home.prompt(QUESTION, MODEL, stream=stream, options={"max_tokens": 200})
            silent = await home.prompt(QUESTION, MODEL, stream=stream, options={"max_tokens": 200, "think": False})
            assert [any(event.get("reasoning") for event in reply.events) for reply in (thinking, silent)] == [
                True,
                False,
            ]


# --- what it refuses ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@scenario
async def test_what_it_refuses_is_refused_in_our_words(tmp_path: Path, stream: bool) -> None:
    async with engine() as server, house(tmp_path, server) as home:
        overlong = await home.ask(CHAT, chat(messages=[user("x " * 60_000)], stream=stream))
        assert (overlong.status, overlong.error["code"]) == (400, "context_length_exceeded")
        assert "maximum context length" in overlong.error["message"]
        url = "data:image/png;base64,iVBORw0KGgo="
        seen = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}
        image = await home.ask(CHAT, chat(messages=[seen], stream=stream))
        assert (image.status, image.error["type"]) == (400, "invalid_request_error")
        with pytest.raises(openai.NotFoundError):
            await home.sdk.chat.completions.create(model="no-such-model", messages=[user("Hi")])


@scenario
async def test_it_tells_its_slots_and_is_told_nothing(tmp_path: Path) -> None:
    async with engine(slots=3) as server, house(tmp_path, server) as home:
        status = (await home.ask("/v1/status")).json
        (backend,) = status["backends"]
        assert (backend["kind"], backend["state"]) == ("llamacpp", "up") and backend["version"]
        await home.ask(CHAT, chat())
        assert (await home.ask("/v1/status")).json["models"][MODEL]["slots"] == {"llamacpp": 3}
        told = await home.ask(f"/v1/llm/{MODEL}/unload", {})
        assert (told.status, told.error["code"]) == (400, "unsupported_by_backend")


# --- who leaves, who waits, what dies -------------------------------------------------------------------------------


def endless(path: str, body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The same to this model, without an end that is near."""
    if path == PROMPT:
        return f"/v1/llm/{MODEL}", {**body, "options": LONG}
    is_short = "max_tokens" in body or path == COMPLETIONS
    return path, {**body, "model": MODEL} | ({"max_tokens": 60_000} if is_short else {})


# It is small and quick: it must not come to an end by itself.
ENDLESS = ("-m", GGUF, "--alias", MODEL, "-c", str(2 * 65536), "--ignore-eos")


@pytest.mark.parametrize(("path", "body"), WHOLE + STREAMS, ids=lambda value: str(value)[:60])
@scenario
async def test_a_client_that_leaves_frees_its_slot_within_a_second(
    tmp_path: Path, path: str, body: dict[str, Any]
) -> None:
    """Of a whole answer llama-server may never notice by itself: so it is asked to stream that too."""
    async with engine(*ENDLESS) as server, house(tmp_path, server) as home:
        leaving, staying = [await home.hermes.open(*endless(path, body)) for _ in range(2)]
        await server.until_busy(2)
        leaving.leave()
        await server.until_busy(1, within_s=1.0)
        staying.leave()
        await server.until_busy(0, within_s=1.0)


@scenario
async def test_who_comes_second_waits_in_hermes(tmp_path: Path) -> None:
    async with engine(slots=1) as server, house(tmp_path, server) as home:
        first = await home.hermes.open(f"/v1/llm/{MODEL}", {"prompt": QUESTION, "stream": True, "options": LONG})
        await server.until_busy(1)
        second = await home.hermes.open(CHAT, chat())
        await until_queued(home, 1)
        assert await server.busy() == 1
        first.leave()
        assert (await second.reply()).status == 200


@scenario
async def test_a_server_that_dies_ends_the_stream_with_an_error_and_is_found_again(tmp_path: Path) -> None:
    async with engine() as server, house(tmp_path, server) as home:
        body = {"prompt": QUESTION, "stream": True, "options": LONG}
        call = await home.hermes.open(f"/v1/llm/{MODEL}", body)
        assert await call.head() == 200
        await call.event()
        await server.kill()
        events = await call.events()
        assert events[-1]["error"]["code"] == "backend_error" and not call.whole
        refused = await home.ask(CHAT, chat())
        assert refused.status in (502, 503)
        await server.start()
        async with asyncio.timeout(10.0):
            while (await home.ask(CHAT, chat())).status != 200:
                pass


@scenario
async def test_a_router_serves_all_its_models(tmp_path: Path) -> None:
    """llama-server without a model starts one server for each that is asked for."""
    models = tmp_path / "models"
    models.mkdir()
    for name in ("one", "two"):
        (models / f"{name}.gguf").symlink_to(GGUF)
    try:
        async with engine("--models-dir", str(models), "-c", "4096") as server, house(tmp_path, server) as home:
            assert {"one", "two"} <= (await home.models()).keys()
            for stream in (False, True):
                for name in ("one", "two"):
                    assert (await home.ask(CHAT, chat(model=name, stream=stream))).status == 200
    except RuntimeError:
        pytest.skip("this llama-server was built without its router")
