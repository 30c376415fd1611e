"""The official OpenAI SDK's `client.responses`: it gets what it expects, whole and by its own accumulator."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from openai.types.responses import FunctionToolParam, ResponseInputItemParam
from pydantic import BaseModel

from hermes.simulator import SimulatedModel, Simulator, SimulatorConfig
from tests.dialects.cases import PIXEL
from tests.e2e.test_openai_sdk import sdk
from tests.fakes.backend import Done, Then, fail, ollama, play
from tests.fakes.gateway import hermes, hold_slot, scenario

LEAST: dict[str, Any] = {"model": "gemma", "input": "Hi"}
LOOK: FunctionToolParam = {
    "type": "function",
    "name": "look",
    "parameters": {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]},
    "strict": False,
}


@scenario
async def test_a_whole_response() -> None:
    async with ollama() as backend, hermes(backend) as gateway, sdk(gateway) as client:
        said = await client.responses.create(**LEAST, instructions="Be brief", temperature=0.1, max_output_tokens=50)
        assert (said.output_text, said.status, said.model, said.error) == ("Hello", "completed", "gemma", None)
        assert said.usage is not None and (said.usage.input_tokens, said.usage.total_tokens) == (7, 10)
        assert said.usage.output_tokens_details.reasoning_tokens == said.usage.input_tokens_details.cached_tokens == 0
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
        async with client.responses.stream(**LEAST, tools=[LOOK]) as stream:
            snapshots = [event.snapshot async for event in stream if event.type == "response.output_text.delta"]
            said = await stream.get_final_response()
        assert snapshots == ["Let me ", "Let me see"]
        assert [item.type for item in said.output] == ["reasoning", "message", "function_call", "function_call"]
        assert said.output_text == "Let me see"
        made = [json.loads(item.arguments) for item in said.output if item.type == "function_call"]
        assert made == [{"at": "sky"}, {"at": "sea"}]
        assert [item.summary[0].text for item in said.output if item.type == "reasoning"] == ["I must look"]


class Weather(BaseModel):
    city: str
    degrees: int


@pytest.mark.parametrize("stream", [False, True])
@scenario
async def test_an_answer_is_parsed_by_its_schema(stream: bool) -> None:
    async with ollama() as backend, hermes(backend) as gateway, sdk(gateway) as client:
        backend.default = play('{"city":"Oslo",', '"degrees":7}', Done())
        if stream:
            async with client.responses.stream(**LEAST, text_format=Weather) as streamed:
                parsed = (await streamed.get_final_response()).output_parsed
        else:
            parsed = (await client.responses.parse(**LEAST, text_format=Weather)).output_parsed
        assert parsed == Weather(city="Oslo", degrees=7)
        assert backend.asked[0].body["format"]["required"] == ["city", "degrees"]


@scenario
async def test_logprobs() -> None:
    async with ollama() as backend, hermes(backend) as gateway, sdk(gateway) as client:
        token = {"token": "Hi", "logprob": -0.25, "top_logprobs": [{"token": "Hi", "logprob": -0.25}]}
        message = {"message": {"role": "assistant", "content": "Hi"}, "logprobs": [token]}
        backend.default = play({**message, **Done().told()})
        said = await client.responses.create(**LEAST, include=["message.output_text.logprobs"], top_logprobs=1)
        (part,) = said.output[0].content  # type: ignore[union-attr]
        assert part.type == "output_text" and part.logprobs is not None
        assert [(each.token, each.logprob, each.top_logprobs[0].token) for each in part.logprobs] == [
            ("Hi", -0.25, "Hi")
        ]


@scenario
async def test_a_stream_that_waits_is_told_so_and_then_has_its_answer() -> None:
    async with (
        ollama() as backend,
        hermes(backend, scheduling={"queue_heartbeat_s": 0.02}) as gateway,
        sdk(gateway) as client,
    ):
        free = asyncio.Event()
        await hold_slot(gateway, backend, free)
        async with client.responses.stream(**LEAST) as stream:
            kinds = []
            async for event in stream:
                kinds.append(event.type)
                if event.type == "response.queued":
                    free.set()
            assert (await stream.get_final_response()).output_text == "Hello"
        assert kinds[:2] == ["response.created", "response.queued"] and kinds.count("response.in_progress") == 1


# --- a simulated server, which refuses what Ollama refuses ------------------------------------------------------------


@asynccontextmanager
async def simulated(*capabilities: str) -> AsyncIterator[AsyncOpenAI]:
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
async def test_a_tool_is_called_and_its_output_read() -> None:
    async with simulated("tools", "thinking") as client:
        asked: list[ResponseInputItemParam] = [{"role": "user", "content": "Please look at the sky"}]
        first = await client.responses.create(model="gemma", input=asked, tools=[LOOK])
        (call,) = [item for item in first.output if item.type == "function_call"]
        assert (first.status, call.name) == ("completed", "look") and "at" in json.loads(call.arguments)
        assert [item.type for item in first.output] == ["reasoning", "function_call"]
        asked += [item.to_dict() for item in first.output]  # type: ignore[misc]
        asked += [{"type": "function_call_output", "call_id": call.call_id, "output": "It is blue"}]
        async with client.responses.stream(model="gemma", input=asked, tools=[LOOK]) as stream:
            assert "According to look: It is blue" in (await stream.get_final_response()).output_text


@pytest.mark.parametrize("stream", [False, True])
@scenario
async def test_an_image_is_refused_clearly_where_the_model_takes_none(stream: bool) -> None:
    picture = {"type": "input_image", "image_url": f"data:image/png;base64,{PIXEL}", "detail": "auto"}
    asked: Any = [{"role": "user", "content": [{"type": "input_text", "text": "What is this?"}, picture]}]
    async with simulated() as client:
        with pytest.raises(openai.BadRequestError, match=r"image|vision") as refused:
            await client.responses.create(model="gemma", input=asked, stream=stream)
        assert refused.value.code == "unsupported_by_model"
    async with simulated("vision") as client:
        assert (await client.responses.create(model="gemma", input=asked)).output_text


# --- what goes wrong --------------------------------------------------------------------------------------------------


@scenario
async def test_each_error_is_of_its_class() -> None:
    async with (
        ollama() as backend,
        hermes(backend, defaults={"queue_limit": 0}, limits={"max_attempts": 1}) as gateway,
        sdk(gateway) as client,
    ):
        with pytest.raises(openai.NotFoundError) as missing:
            await client.responses.create(**LEAST | {"model": "nobody"})
        assert missing.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError, match="whole conversation") as wrong:
            await client.responses.create(**LEAST, previous_response_id="resp_1")
        assert (wrong.value.code, wrong.value.param) == ("unsupported_parameter", "previous_response_id")
        for asking in (client.responses.retrieve("resp_1"), client.responses.delete("resp_1")):
            with pytest.raises(openai.NotFoundError, match="resp_1"):
                await asking
        with pytest.raises(openai.NotFoundError):
            await client.responses.cancel("resp_1")
        await hold_slot(gateway, backend)
        with pytest.raises(openai.RateLimitError):
            await client.responses.create(**LEAST)


@scenario
async def test_an_overlong_prompt_is_told_as_such() -> None:
    async with ollama() as backend, hermes(backend) as gateway, sdk(gateway) as client:
        backend.default = fail(400, "the input length exceeds the context length")
        with pytest.raises(openai.BadRequestError, match="maximum context length") as overlong:
            await client.responses.create(**LEAST, stream=True)
        assert overlong.value.code == "context_length_exceeded"


@scenario
async def test_a_stream_that_fails_is_never_taken_for_a_whole_one() -> None:
    async with ollama() as backend, hermes(backend) as gateway, sdk(gateway) as client:
        for script in (("Hel", {"error": "out of memory"}), ("Hel",)):
            go = asyncio.Event()
            backend.default = play(script[0], go, *script[1:], then=Then.CUT)
            events = []
            with pytest.raises(openai.APIError):  # the body never ends
                async for event in await client.responses.create(**LEAST, stream=True):
                    events.append(event)
                    go.set()
            assert events[-1].type == "response.failed" and events[-1].response.error is not None
            assert events[-1].response.error.code == "backend_error"


@pytest.mark.parametrize("stream", [False, True])
@scenario
async def test_who_cancels_frees_the_backend(stream: bool) -> None:
    async with ollama() as backend, hermes(backend) as gateway, sdk(gateway) as client:
        backend.default = play("Hel", then=Then.STALL)

        async def ask() -> None:
            answer: Any = await client.responses.create(**LEAST, stream=stream)
            async for _ in answer:
                pass

        asking = asyncio.get_running_loop().create_task(ask())
        await backend.request(0)
        asking.cancel()
        await asyncio.wait([asking])
        async with asyncio.timeout(1.0):
            await backend.asked[0].left.wait()
        assert (await gateway.record()).outcome == "client_gone"
