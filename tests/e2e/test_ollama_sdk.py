"""The official Ollama client for Python, in front of the simulated server: it notices nothing."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from ollama import AsyncClient, ResponseError

from hermes.config.load import load
from hermes.simulator import DEFAULT_MODELS, Simulator, SimulatorConfig
from tests.fakes.backend import ollama
from tests.fakes.gateway import Hermes, bearer, hermes, hold_slot, key, scenario, serving
from tests.support import until

HI = [{"role": "user", "content": "Hi"}]
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
LOOK = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Look somewhere",
        "parameters": {"type": "object", "required": ["at"], "properties": {"at": {"type": "string"}}},
    },
}


@asynccontextmanager
async def simulated(**sections: Any) -> AsyncIterator[tuple[Simulator, Hermes]]:
    """The simulated models, a thousand times as fast as usual."""
    simulator = Simulator(SimulatorConfig(models=DEFAULT_MODELS, speed=1000.0))
    port = await simulator.start()
    try:
        backends = [{"name": "b0", "url": f"http://127.0.0.1:{port}", "slots": 4}]
        async with hermes(backends=backends, **sections) as gateway:
            yield simulator, gateway
    finally:
        await simulator.stop()


@asynccontextmanager
async def sdk(gateway: Hermes, user: str = "") -> AsyncIterator[AsyncClient]:
    headers = bearer(user) if user else {}
    async with AsyncClient(f"http://127.0.0.1:{gateway.port}", headers=headers, timeout=10.0) as client:
        yield client


@asynccontextmanager
async def asking(**sections: Any) -> AsyncIterator[AsyncClient]:
    async with simulated(**sections) as (_, gateway), sdk(gateway) as client:
        yield client


@scenario
async def test_a_whole_chat() -> None:
    async with asking() as client:
        said = await client.chat("gemma", HI, options={"num_predict": 5, "num_ctx": 4096}, keep_alive="5m")
        assert said.done and said.message.content and (said.model, said.done_reason) == ("gemma", "length")
        assert said.eval_count == 5 and said.prompt_eval_count
        assert said.total_duration and said.eval_duration and said.created_at


@scenario
async def test_a_streamed_chat() -> None:
    async with asking() as client:
        pieces = [piece async for piece in await client.chat("gemma", HI, stream=True)]
        assert len(pieces) > 3 and [piece.done for piece in pieces] == [False] * (len(pieces) - 1) + [True]
        assert "".join(piece.message.content or "" for piece in pieces)
        assert pieces[-1].done_reason == "stop" and pieces[-1].eval_count


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["gemma", "qwen3"])
@scenario
async def test_a_tools_round_trip(model: str, stream: bool) -> None:
    """Calls come in the last line from the one, in a middle one from the other."""
    async with asking() as client:
        messages: list[Any] = [{"role": "user", "content": "Look at the sky"}]
        if stream:
            pieces = [piece.message async for piece in await client.chat(model, messages, tools=[LOOK], stream=True)]
        else:
            pieces = [(await client.chat(model, messages, tools=[LOOK])).message]
        (said,) = [piece for piece in pieces if piece.tool_calls]
        assert said.tool_calls is not None
        assert said.tool_calls[0].function.name == "look" and "at" in said.tool_calls[0].function.arguments
        messages += [said, {"role": "tool", "tool_name": "look", "content": "blue"}]
        assert (await client.chat(model, messages, tools=[LOOK], think=False)).message.content


@scenario
async def test_a_schema_is_kept_to() -> None:
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
    async with asking() as client:
        said = await client.chat("gemma", HI, format=schema)
        assert isinstance(json.loads(said.message.content or "")["age"], int)
        assert json.loads((await client.generate("mistral", "Hi", format="json")).response or "") is not None


@scenario
async def test_an_image_goes_to_who_can_see_and_is_refused_for_who_cannot() -> None:
    messages = [{"role": "user", "content": "What is it?", "images": [PIXEL]}]
    async with asking() as client:
        assert (await client.chat("gemma", messages)).message.content
        with pytest.raises(ResponseError) as refused:
            await client.chat("llama3.2", messages)
        assert refused.value.status_code == 400


@scenario
async def test_thoughts_are_apart_and_can_be_switched_off() -> None:
    async with asking() as client:
        said = (await client.chat("qwen3", HI, think=True)).message
        assert said.thinking and said.content
        assert not (await client.chat("qwen3", HI, think=False)).message.thinking
        pieces = [piece.message async for piece in await client.chat("qwen3", HI, think=True, stream=True)]
        assert any(piece.thinking for piece in pieces) and any(piece.content for piece in pieces)
        with pytest.raises(ResponseError, match="does not support thinking") as refused:
            await client.chat("gemma", HI, think=True)
        assert refused.value.status_code == 400


@scenario
async def test_logprobs_come_with_their_tokens() -> None:
    async with asking() as client:
        said = await client.chat("gemma", HI, logprobs=True, top_logprobs=2, options={"num_predict": 3})
        assert said.logprobs is not None and len(said.logprobs) == 3
        assert len(said.logprobs[0].top_logprobs or ()) == 2


@scenario
async def test_prompts_whole_streamed_raw_and_to_be_filled_in() -> None:
    async with asking() as client:
        whole = await client.generate("mistral", "Hi", system="Be brief")
        assert whole.response and whole.done
        pieces = [piece async for piece in await client.generate("mistral", "Hi", stream=True)]
        assert "".join(piece.response or "" for piece in pieces) and pieces[-1].done
        assert (await client.generate("mistral", "def f(", suffix="return 1")).response
        assert (await client.generate("mistral", "[INST]Hi[/INST]", raw=True)).response
        with pytest.raises(ResponseError, match="does not support insert"):
            await client.generate("gemma", "def f(", suffix="return 1")
        with pytest.raises(ResponseError, match="`context`"):
            await client.generate("mistral", "Hi", context=[1, 2])


@scenario
async def test_embeddings() -> None:
    async with asking() as client:
        made = await client.embed("nomic-embed-text", ["a cat", "a dog"])
        assert [len(vector) for vector in made.embeddings] == [768, 768] and made.prompt_eval_count
        (short,) = (await client.embed("nomic-embed-text", "a cat", dimensions=64)).embeddings
        assert len(short) == 64 and sum(value * value for value in short) == pytest.approx(1.0)
        assert len((await client.embeddings("nomic-embed-text", "a cat")).embedding) == 768
        long = "word " * 5000
        assert len((await client.embed("nomic-embed-text", long)).embeddings) == 1
        with pytest.raises(ResponseError, match="exceeds the context length"):
            await client.embed("nomic-embed-text", long, truncate=False)
        with pytest.raises(ResponseError, match="does not support embeddings"):
            await client.embed("gemma", "a cat")


@scenario
async def test_what_there_is() -> None:
    async with asking(models={"best": {"backend_model": "gemma"}}) as client:
        listed = {model.model: model for model in (await client.list()).models}
        assert {"best", "gemma:latest", "nomic-embed-text:latest"} <= listed.keys()
        assert listed["best"].details is not None and listed["best"].details.parameter_size == "12.2B"
        shown = await client.show("best")
        assert shown.modelinfo and shown.modelinfo["gemma3.context_length"] == 32768
        assert shown.capabilities == ["completion", "tools", "vision"]


@scenario
async def test_a_model_is_loaded_and_unloaded_by_asking_for_nothing_else() -> None:
    async with simulated(models={"best": {"backend_model": "gemma"}}) as (_, gateway), sdk(gateway) as client:
        assert (await client.ps()).models == []
        assert (await client.generate("best")).done_reason == "load"
        await gateway.runtime.fleet.backends["b0"].look(20.0)
        assert {model.model for model in (await client.ps()).models} == {"best", "gemma:latest"}
        assert (await client.chat("best", [], keep_alive=0)).done_reason == "unload"
        await gateway.runtime.fleet.backends["b0"].look(20.0)
        assert (await client.ps()).models == []


@scenario
async def test_an_operator_pulls_and_nobody_else() -> None:
    async with (
        simulated(keys=[key("ann"), key("root", admin=True)]) as (_, gateway),
        sdk(gateway, "root") as operator,
        sdk(gateway, "ann") as user,
    ):
        lines = [line async for line in await operator.pull("phi4-mini", stream=True)]
        assert lines[-1].status == "success" and any(line.completed for line in lines)
        assert (await operator.pull("all-minilm")).status == "success"
        assert (await user.chat("phi4-mini", HI)).message.content
        with pytest.raises(ResponseError, match="operator") as refused:
            await user.pull("gemma:27b")
        assert refused.value.status_code == 403


@scenario
async def test_each_error_has_its_status(tmp_path: Path) -> None:
    async with ollama() as backend:
        environ = {
            "API_KEYS_JSON": '{"sk-ann": {"user": "ann"}}',
            "OLLAMA_URL": backend.url,
            "HERMES_SERVER__PORT": "0",
            "HERMES_DEFAULTS__QUEUE_LIMIT": "0",
            "HERMES_LOGGING__ACCESS_LOG": "off",
        }
        async with serving(load(None, environ, {}, tmp_path)) as gateway:
            await hold_slot(gateway, backend, headers=bearer("ann"))
            for user, asked, status in (
                ("stranger", {"model": "gemma"}, 401),
                ("ann", {"model": "nobody"}, 404),
                ("ann", {"model": "gemma", "options": {"temperature": 9}}, 400),
                ("ann", {"model": "gemma"}, 429),
            ):
                for stream in (False, True):
                    async with sdk(gateway, user) as client:
                        with pytest.raises(ResponseError) as raised:
                            await _chat(client, stream, **asked)
                    assert raised.value.status_code == status and raised.value.error


@scenario
async def test_an_error_in_a_stream_is_raised_and_no_success_is_seen() -> None:
    async with simulated(limits={"max_attempts": 1}) as (_, gateway), sdk(gateway) as client:
        seen = []
        ask: Any = [{"role": "user", "content": "[[fault:error-line]]"}]
        with pytest.raises(ResponseError):
            async for piece in await client.chat("gemma", ask, stream=True):
                seen.append(piece)
        assert seen and not any(piece.done for piece in seen)


@scenario
async def test_who_leaves_frees_the_model() -> None:
    async with simulated() as (_, gateway), sdk(gateway) as client:
        for stream in (False, True):
            asked = asyncio.get_running_loop().create_task(_chat(client, stream, model="gemma", text="[[fault:stall]]"))
            await until(lambda: gateway.running == 1, "it does not run")
            asked.cancel()
            await asyncio.wait([asked])
            await until(lambda: gateway.runtime.journal.open == 0, "it was not noticed")
        assert [record.outcome for record in gateway.records[-2:]] == ["client_gone", "client_gone"]


async def _chat(client: AsyncClient, stream: bool, model: str, text: str = "Hi", **more: Any) -> None:
    said: Any = await client.chat(model, [{"role": "user", "content": text}], stream=stream, **more)
    if stream:
        async for _ in said:
            pass
