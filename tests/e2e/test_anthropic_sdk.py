"""The official Anthropic SDK: it gets what it expects, and raises the errors that its users catch."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anthropic
import pytest
from anthropic import AsyncAnthropic
from anthropic.types import MessageParam, ToolParam

from hermes.config.load import load
from hermes.simulator import SimulatedModel, Simulator, SimulatorConfig
from tests.dialects.cases import PIXEL
from tests.fakes.backend import DONE, Done, Then, fail, ollama, play
from tests.fakes.gateway import Hermes, hermes, hold_slot, scenario, serving

HI: list[MessageParam] = [{"role": "user", "content": "Hi"}]
LEAST: dict[str, Any] = {"model": "gemma", "max_tokens": 50, "messages": HI}
LOOK: ToolParam = {
    "name": "look",
    "input_schema": {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]},
}


@asynccontextmanager
async def sdk(gateway: Hermes, key: str = "unused", retries: int = 0) -> AsyncIterator[AsyncAnthropic]:
    url = f"http://127.0.0.1:{gateway.port}"
    async with AsyncAnthropic(base_url=url, api_key=key, max_retries=retries, timeout=10.0) as client:
        yield client


@scenario
async def test_a_whole_message() -> None:
    async with ollama() as backend, hermes(backend) as gateway, sdk(gateway) as client:
        said = await client.messages.create(**LEAST)
        assert [(block.type, block.text) for block in said.content if block.type == "text"] == [("text", "Hello")]
        assert (said.stop_reason, said.stop_sequence, said.model) == ("end_turn", None, "gemma")
        assert (said.usage.input_tokens, said.usage.output_tokens) == (7, 3)
        assert said._request_id and said.id.endswith(said._request_id)


@scenario
async def test_the_sdks_own_accumulator_with_thoughts_text_and_calls() -> None:
    async with ollama() as backend, hermes(backend) as gateway, sdk(gateway) as client:
        called = [{"function": {"name": "look", "arguments": {"at": at}}} for at in ("sky", "sea")]
        backend.default = play(
            {"message": {"role": "assistant", "content": "", "thinking": "I must"}, "done": False},
            {"message": {"role": "assistant", "content": "", "thinking": " look"}, "done": False},
            "Let me ",
            "see",
            {"message": {"role": "assistant", "content": "", "tool_calls": called}, **Done().told()},
        )
        async with client.messages.stream(**LEAST, tools=[LOOK], thinking={"type": "adaptive"}) as stream:
            texts = [event.text async for event in stream if event.type == "text"]
            said = await stream.get_final_message()
        assert texts == ["Let me ", "see"]
        blocks = [block.to_dict() for block in said.content]
        assert [block["type"] for block in blocks] == ["thinking", "text", "tool_use", "tool_use"]
        assert blocks[0]["thinking"] == "I must look" and blocks[0]["signature"]
        assert blocks[1]["text"] == "Let me see"
        assert [block["input"] for block in blocks[2:]] == [{"at": "sky"}, {"at": "sea"}]
        assert (said.stop_reason, said.usage.input_tokens, said.usage.output_tokens) == ("tool_use", 7, 3)


@scenario
async def test_a_stream_that_waits_is_pinged_and_then_has_its_answer() -> None:
    async with (
        ollama() as backend,
        hermes(backend, scheduling={"queue_heartbeat_s": 0.02}) as gateway,
        sdk(gateway) as client,
    ):
        free = asyncio.Event()
        await hold_slot(gateway, backend, free)
        async with client.messages.stream(**LEAST) as stream:
            free.set()
            assert await stream.get_final_text() == "Hello"


@scenario
async def test_models_and_tokens() -> None:
    name = "hf.co/unsloth/gemma-3:Q4_K_M"
    async with ollama(name) as backend, hermes(backend) as gateway, sdk(gateway) as client:
        assert [model.id async for model in client.models.list(limit=1)] == [name, f"claude-local-{name}"]
        assert (await client.models.retrieve(name)).created_at.year == 2026
        assert (await client.messages.count_tokens(model=name, messages=HI)).input_tokens > 0
        assert (
            await client.beta.messages.count_tokens(model=name, messages=[{"role": "user", "content": "Hi"}])
        ).input_tokens


# --- a simulated server, which refuses what Ollama refuses ------------------------------------------------------------


@asynccontextmanager
async def simulated(*capabilities: str) -> AsyncIterator[AsyncAnthropic]:
    """A model that has these."""
    model = SimulatedModel("gemma", load_s=0.0, capabilities=("completion", *capabilities), built_in_parser=True)
    simulator = Simulator(SimulatorConfig(models=(model,), speed=100.0))
    port = await simulator.start()
    try:
        async with (
            hermes(backends=[{"name": "b0", "url": f"http://127.0.0.1:{port}"}]) as gateway,
            sdk(gateway) as client,
        ):
            yield client
    finally:
        await simulator.stop()


@scenario
async def test_a_tool_is_called_and_its_result_read() -> None:
    async with simulated("tools") as client:
        asked: list[MessageParam] = [{"role": "user", "content": "Please look at the sky"}]
        first = await client.messages.create(model="gemma", max_tokens=200, messages=asked, tools=[LOOK])
        (call,) = [block for block in first.content if block.type == "tool_use"]
        assert (
            (first.stop_reason, call.name) == ("tool_use", "look")
            and isinstance(call.input, dict)
            and "at" in call.input
        )
        asked += [
            {"role": "assistant", "content": [block.to_dict() for block in first.content]},  # type: ignore[misc]
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "It is blue"}]}
                ],
            },
        ]
        async with client.messages.stream(model="gemma", max_tokens=200, messages=asked, tools=[LOOK]) as stream:
            assert "According to look: It is blue" in await stream.get_final_text()


@pytest.mark.parametrize("stream", [False, True])
@scenario
async def test_an_image_is_refused_clearly_where_the_model_takes_none(stream: bool) -> None:
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}
    asked: Any = [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, picture]}]
    async with simulated() as client:
        with pytest.raises(anthropic.BadRequestError, match=r"image|vision") as refused:
            await client.messages.create(model="gemma", max_tokens=9, messages=asked, stream=stream)
        assert (refused.value.error_code, refused.value.type) == ("unsupported_by_model", "invalid_request_error")
    async with simulated("vision") as client:
        assert (await client.messages.create(model="gemma", max_tokens=9, messages=asked)).content


@pytest.mark.parametrize(
    ("capabilities", "thinking", "kinds"),
    [
        (("thinking",), {"type": "enabled", "budget_tokens": 1024}, ["thinking", "text"]),
        (("thinking",), {"type": "adaptive"}, ["thinking", "text"]),
        (("thinking",), {"type": "disabled"}, ["text"]),
        (("thinking",), None, ["text"]),
        ((), {"type": "enabled", "budget_tokens": 1024}, ["text"]),
        ((), {"type": "adaptive"}, ["text"]),
    ],
)
@scenario
async def test_a_model_thinks_if_it_can_and_is_asked_to(
    capabilities: tuple[str, ...], thinking: Any, kinds: list[str]
) -> None:
    async with simulated(*capabilities) as client:
        more = {"thinking": thinking} if thinking else {}
        whole = await client.messages.create(**LEAST | {"max_tokens": 2000}, **more)
        async with client.messages.stream(**LEAST | {"max_tokens": 2000}, **more) as stream:
            streamed = await stream.get_final_message()
        assert [block.type for block in whole.content] == [block.type for block in streamed.content] == kinds
        assert not any(
            hasattr(block, "signature") and not block.signature for block in (*whole.content, *streamed.content)
        )


# --- what goes wrong --------------------------------------------------------------------------------------------------


@scenario
async def test_each_error_is_of_its_class(tmp_path: Path) -> None:
    async with ollama() as backend:
        environ = {
            "API_KEYS_JSON": '{"sk-good": {"user": "me"}}',
            "OLLAMA_URL": backend.url,
            "HERMES_SERVER__PORT": "0",
            "HERMES_DEFAULTS__QUEUE_LIMIT": "0",
            "HERMES_LIMITS__MAX_ATTEMPTS": "1",
            "HERMES_HEALTH__PAUSE_S": "0.001",  # nobody waits for a busy backend where nobody may
            "HERMES_LOGGING__ACCESS_LOG": "off",
        }
        async with serving(load(None, environ, {}, tmp_path)) as gateway:
            async with sdk(gateway, key="sk-bad") as stranger:
                with pytest.raises(anthropic.AuthenticationError):
                    await stranger.messages.create(**LEAST)
            async with sdk(gateway, key="sk-good") as client:
                with pytest.raises(anthropic.NotFoundError) as missing:
                    await client.messages.create(**LEAST | {"model": "nobody"})
                assert (missing.value.type, missing.value.error_code) == ("not_found_error", "model_not_found")
                with pytest.raises(anthropic.BadRequestError) as wrong:
                    await client.messages.create(**LEAST | {"max_tokens": 0})
                assert "max_tokens" in str(wrong.value.api_message) and wrong.value.request_id
                backend.default = play(then=Then.STALL)
                running = asyncio.get_running_loop().create_task(client.messages.create(**LEAST))
                await backend.request(0)
                with pytest.raises(anthropic.RateLimitError):
                    await client.messages.create(**LEAST)
                running.cancel()
                await asyncio.wait([running])
                await backend.asked[0].left.wait()
                backend.default = fail(503, "server busy, please try again.  maximum pending requests exceeded")
                with pytest.raises(anthropic.InternalServerError) as busy:
                    await client.messages.create(**LEAST)
                assert (busy.value.status_code, busy.value.type) == (503, "overloaded_error")
                backend.default = fail(500, "out of memory")
                with pytest.raises(anthropic.InternalServerError) as broken:
                    await client.messages.create(**LEAST)
                assert (broken.value.status_code, broken.value.type) == (502, "api_error")
                backend.default = fail(400, "the input length exceeds the context length")
                with pytest.raises(anthropic.BadRequestError, match="prompt is too long") as overlong:
                    await client.messages.create(**LEAST)
                assert overlong.value.error_code == "context_length_exceeded"


@scenario
async def test_an_error_in_a_stream_is_raised_and_no_success_is_seen() -> None:
    async with ollama() as backend, hermes(backend) as gateway, sdk(gateway) as client:
        go = asyncio.Event()
        backend.default = play("Hel", go, {"error": "out of memory"})
        seen = []
        with pytest.raises(anthropic.APIStatusError, match="out of memory") as raised:
            async for event in await client.messages.create(**LEAST, stream=True):
                seen.append(event.type)
                go.set()
        assert raised.value.type == "api_error"
        assert seen == ["message_start", "content_block_start", "content_block_delta"]


@scenario
async def test_a_stream_that_is_cut_off_is_never_taken_for_a_whole_one() -> None:
    async with ollama() as backend, hermes(backend) as gateway, sdk(gateway) as client:
        go = asyncio.Event()
        backend.default = play("Hel", go, then=Then.CUT)
        with pytest.raises(anthropic.APIError):
            async for _ in await client.messages.create(**LEAST, stream=True):
                go.set()


@pytest.mark.parametrize("stream", [False, True])
@scenario
async def test_who_cancels_frees_the_backend(stream: bool) -> None:
    async with ollama() as backend, hermes(backend) as gateway, sdk(gateway) as client:
        backend.default = play("Hel", then=Then.STALL)

        async def ask() -> None:
            answer: Any = await client.messages.create(**LEAST, stream=stream)
            async for _ in answer:
                pass

        asking = asyncio.get_running_loop().create_task(ask())
        await backend.request(0)
        asking.cancel()
        await asyncio.wait([asking])
        async with asyncio.timeout(1.0):
            await backend.asked[0].left.wait()
        assert (await gateway.record()).outcome == "client_gone"


@scenario
async def test_what_hermes_has_retried_the_sdk_does_not_retry_again() -> None:
    """I8: attempts do not multiply across layers."""
    async with (
        ollama() as backend,
        hermes(backend, limits={"max_attempts": 2}) as gateway,
        sdk(gateway, retries=2) as client,
    ):
        backend.default = fail(500, "out of memory")
        with pytest.raises(anthropic.InternalServerError):
            await client.messages.create(**LEAST)
        assert len(backend.asked) == 2


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
        first = loop.create_task(client.messages.create(**LEAST))
        await backend.request(0)
        second = loop.create_task(client.messages.create(**LEAST))
        assert (await gateway.record()).outcome == "queue_full"
        free.set()
        assert (await first).usage == (await second).usage
