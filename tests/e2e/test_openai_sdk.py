"""The official OpenAI SDK: it gets what it expects, and raises the errors that its users catch."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import openai
import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

from hermes.config.load import load
from tests.fakes.backend import DONE, Done, Then, answer, fail, ollama, play
from tests.fakes.gateway import Hermes, hermes, scenario, serving

HI: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hi"}]
LOOK: ChatCompletionToolParam = {
    "type": "function",
    "function": {"name": "look", "parameters": {"type": "object", "properties": {"at": {"type": "string"}}}},
}


@asynccontextmanager
async def sdk(gateway: Hermes, key: str = "unused", retries: int = 0) -> AsyncIterator[AsyncOpenAI]:
    url = f"http://127.0.0.1:{gateway.port}/v1"
    async with AsyncOpenAI(base_url=url, api_key=key, max_retries=retries, timeout=10.0) as client:
        yield client


@scenario
async def test_a_whole_chat() -> None:
    async with ollama() as backend, hermes(backend) as gateway, sdk(gateway) as client:
        said = await client.chat.completions.create(model="gemma", messages=HI, temperature=0.1, max_tokens=5, seed=1)
        assert (said.choices[0].message.content, said.choices[0].finish_reason) == ("Hello", "stop")
        assert said.usage is not None and said.usage.total_tokens == 10
        assert said._request_id and said.id.endswith(said._request_id)


@scenario
async def test_a_streamed_chat_with_usage() -> None:
    async with ollama() as backend, hermes(backend) as gateway, sdk(gateway) as client:
        stream = await client.chat.completions.create(
            model="gemma", messages=HI, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "Hello"
        assert [chunk.usage.total_tokens for chunk in chunks if chunk.usage] == [10]


@scenario
async def test_the_sdks_own_accumulator_with_a_tool_call() -> None:
    async with ollama() as backend, hermes(backend) as gateway, sdk(gateway) as client:
        called = [{"function": {"name": "look", "arguments": {"at": "sky"}}}]
        backend.default = play(
            "Let me ", {"message": {"role": "assistant", "content": "see", "tool_calls": called}, **Done().told()}
        )
        async with client.chat.completions.stream(model="gemma", messages=HI, tools=[LOOK]) as stream:
            async for _ in stream:
                pass
            choice = (await stream.get_final_completion()).choices[0]
        assert (choice.message.content, choice.finish_reason) == ("Let me see", "tool_calls")
        assert choice.message.tool_calls is not None
        call = choice.message.tool_calls[0].function
        assert (call.name, json.loads(call.arguments)) == ("look", {"at": "sky"})


@scenario
async def test_a_text_goes_on_whole_and_streamed() -> None:
    async with ollama() as backend, hermes(backend) as gateway, sdk(gateway) as client:
        whole = await client.completions.create(model="gemma", prompt="Hi, ", echo=True)
        assert (whole.choices[0].text, whole.choices[0].finish_reason) == ("Hi, Hello", "stop")
        assert whole.usage is not None and whole.usage.total_tokens == 10
        stream = await client.completions.create(
            model="gemma", prompt="Hi, ", suffix="!", stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == "Hello"
        assert [choice.finish_reason for chunk in chunks for choice in chunk.choices][-1] == "stop"
        assert [chunk.usage.total_tokens for chunk in chunks if chunk.usage] == [10]
        raw, filled_in = (asked.body for asked in backend.asked)
        assert (raw["raw"], raw["prompt"], raw["options"]["num_predict"]) == (True, "Hi, ", 16)
        assert raw["think"] is filled_in["think"] is False
        assert ("raw" in filled_in, filled_in["suffix"]) == (False, "!")


@scenario
async def test_embeddings_as_the_sdk_wants_them_and_as_numbers() -> None:
    """It asks for base64 by itself."""
    async with ollama() as backend, hermes(backend) as gateway, sdk(gateway) as client:
        backend.management["/api/embed"] = answer(200, b'{"embeddings":[[0.5,-1],[0,2]],"prompt_eval_count":5}')
        for formats in ({}, {"encoding_format": "float"}):
            made = await client.embeddings.create(model="gemma", input=["a", "b"], dimensions=2, **formats)  # type: ignore[arg-type]
            assert [item.embedding for item in made.data] == [[0.5, -1.0], [0.0, 2.0]]
            assert (made.model, made.usage.total_tokens) == ("gemma", 5)
        assert backend.managed[-1].body["dimensions"] == 2
        with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length"):
            await client.embeddings.create(model="gemma", input=[[1, 2, 3]])


@scenario
async def test_models() -> None:
    name = "hf.co/unsloth/gemma-3:Q4_K_M"
    async with ollama(name) as backend, hermes(backend) as gateway, sdk(gateway) as client:
        assert [model.id async for model in client.models.list()] == [name]
        assert (await client.models.retrieve(name)).owned_by == "hf.co/unsloth"


@scenario
async def test_each_error_is_of_its_class(tmp_path: Path) -> None:
    async with ollama() as backend:
        environ = {
            "API_KEYS_JSON": '{"sk-good": {"user": "me"}}',
            "OLLAMA_URL": backend.url,
            "HERMES_SERVER__PORT": "0",
            "HERMES_DEFAULTS__QUEUE_LIMIT": "0",
            "HERMES_LIMITS__MAX_ATTEMPTS": "1",
            "HERMES_LOGGING__ACCESS_LOG": "off",
        }
        async with serving(load(None, environ, {}, tmp_path)) as gateway:
            async with sdk(gateway, key="sk-bad") as stranger:
                with pytest.raises(openai.AuthenticationError, match="Incorrect API key provided"):
                    await stranger.chat.completions.create(model="gemma", messages=HI)
            async with sdk(gateway, key="sk-good") as client:
                with pytest.raises(openai.NotFoundError) as missing:
                    await client.chat.completions.create(model="nobody", messages=HI)
                assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
                with pytest.raises(openai.BadRequestError) as wrong:
                    await client.chat.completions.create(model="gemma", messages=HI, temperature=9)
                assert wrong.value.param == "temperature" and wrong.value.request_id
                backend.default = play(then=Then.STALL)
                running = asyncio.get_running_loop().create_task(
                    client.chat.completions.create(model="gemma", messages=HI)
                )
                await backend.request(0)
                with pytest.raises(openai.RateLimitError):
                    await client.chat.completions.create(model="gemma", messages=HI)
                running.cancel()
                await asyncio.wait([running])
                await backend.asked[0].left.wait()
                backend.default = fail(500, "out of memory")
                with pytest.raises(openai.InternalServerError):
                    await client.chat.completions.create(model="gemma", messages=HI)
                backend.default = fail(400, "the input length exceeds the context length")
                with pytest.raises(openai.BadRequestError, match="maximum context length") as overlong:
                    await client.chat.completions.create(model="gemma", messages=HI)
                assert overlong.value.code == "context_length_exceeded"


@scenario
async def test_an_error_in_a_stream_is_raised_and_no_success_is_seen() -> None:
    async with ollama() as backend, hermes(backend) as gateway, sdk(gateway) as client:
        go = asyncio.Event()
        backend.default = play("Hel", go, {"error": "out of memory"})
        seen = []
        with pytest.raises(openai.APIError, match="out of memory"):
            async for chunk in await client.chat.completions.create(model="gemma", messages=HI, stream=True):
                seen.append(chunk)
                go.set()
        assert "".join(chunk.choices[0].delta.content or "" for chunk in seen) == "Hel"
        assert not any(chunk.choices[0].finish_reason for chunk in seen)


@scenario
async def test_a_stream_that_is_cut_off_is_never_taken_for_a_whole_one() -> None:
    async with ollama() as backend, hermes(backend) as gateway, sdk(gateway) as client:
        go = asyncio.Event()
        backend.default = play("Hel", go, then=Then.CUT)
        with pytest.raises(openai.APIError):
            async for _ in await client.chat.completions.create(model="gemma", messages=HI, stream=True):
                go.set()


@scenario
async def test_what_hermes_has_retried_the_sdk_does_not_retry_again() -> None:
    """I8: attempts do not multiply across layers."""
    async with (
        ollama() as backend,
        hermes(backend, limits={"max_attempts": 2}) as gateway,
        sdk(gateway, retries=2) as client,
    ):
        backend.default = fail(500, "out of memory")
        with pytest.raises(openai.InternalServerError):
            await client.chat.completions.create(model="gemma", messages=HI)
        assert len(backend.asked) == 2


@scenario
async def test_the_sdks_own_timeout_is_the_deadline_of_a_whole_answer_and_not_of_a_stream() -> None:
    async with ollama() as backend, hermes(backend) as gateway, sdk(gateway) as client:
        backend.default = play(then=Then.STALL)
        for stream, within_ms in ((False, 10_000), (True, 120_000)):
            asking = asyncio.get_running_loop().create_task(
                client.chat.completions.create(model="gemma", messages=HI, stream=stream)
            )
            await backend.request(int(stream))
            (told,) = (await gateway.ask("/v1/queue")).json["data"]
            assert within_ms - 5000 < told["deadline_ms"] <= within_ms
            asking.cancel()
            await asyncio.wait([asking])
            await backend.asked[int(stream)].left.wait()


@scenario
async def test_who_is_sent_away_is_not_tried_again_by_the_sdk() -> None:
    async with ollama() as backend, hermes(backend) as gateway, sdk(gateway, retries=2) as client:
        backend.default = play(then=Then.STALL)
        asking = asyncio.get_running_loop().create_task(client.chat.completions.create(model="gemma", messages=HI))
        await backend.request(0)
        (told,) = (await gateway.ask("/v1/queue")).json["data"]
        assert (await gateway.ask(f"/v1/queue/{told['request_id']}", method="DELETE")).status == 200
        with pytest.raises(openai.APIStatusError, match="sent away") as raised:
            await asking
        assert (raised.value.status_code, len(backend.asked)) == (499, 1)


@scenario
async def test_a_full_queue_is_waited_out_by_the_sdk() -> None:
    async with (
        ollama() as backend,
        hermes(backend, defaults={"queue_limit": 0}) as gateway,
        sdk(gateway, retries=1) as client,
    ):
        free = asyncio.Event()
        backend.default = play(free, "Hel", DONE)
        loop = asyncio.get_running_loop()
        first = loop.create_task(client.chat.completions.create(model="gemma", messages=HI))
        await backend.request(0)
        second = loop.create_task(client.chat.completions.create(model="gemma", messages=HI))
        assert (await gateway.record()).outcome == "queue_full"
        free.set()
        assert (await first).choices[0].message.content == (await second).choices[0].message.content == "Hel"
