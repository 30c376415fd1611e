"""Requests with load-time options of their own, in front of a simulated server that loads anew as Ollama does."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from hermes.simulator import SimulatedModel, Simulator, SimulatorConfig
from tests.fakes.backend import DONE, Asked, FakeOllama, fail, loaded, ollama, play, speak
from tests.fakes.gateway import CHAT, PROMPT, Hermes, chat, hermes, prompt, scenario

GEMMA = SimulatedModel("gemma", load_s=2.0, slots=2, decode_tps=10.0, context_length=32768)
GIB = 1 << 30


class Stage:
    def __init__(self, simulator: Simulator, gateway: Hermes) -> None:
        self.simulator = simulator
        self.gateway = gateway

    async def ask(self, **options: Any) -> int:
        """One request with these options. How often the model was loaded for it."""
        before = self.simulator.stats.loads
        keep_alive = {"keep_alive": options.pop("keep_alive")} if "keep_alive" in options else {}
        reply = await self.gateway.ask(PROMPT, prompt(options={"max_tokens": 2, **options}, **keep_alive))
        assert reply.status == 200
        return self.simulator.stats.loads - before

    async def context(self) -> int:
        """What status tells after another look."""
        await self.gateway.runtime.fleet.backends["b0"].look(20.0)
        (model,) = (await self.gateway.ask("/v1/status")).json["backends"][0]["loaded"]
        return int(model["context_length"])

    async def reloads_avoided(self) -> int:
        status = (await self.gateway.ask("/v1/status")).json["models"]["gemma"]["reloads_avoided"]
        series = 'hermes_model_reloads_avoided_total{backend="b0",model="gemma:latest"}'
        lines = (await self.gateway.ask("/metrics")).body.decode().splitlines()
        assert f"{series} {float(status)}" in lines
        return int(status)


@asynccontextmanager
async def staged(**model: Any) -> AsyncIterator[Stage]:
    """Hermes with this configuration of `gemma`, in front of a simulated server that has it, not loaded."""
    simulator = Simulator(SimulatorConfig(models=(GEMMA,), speed=100.0))
    port = await simulator.start()
    try:
        own = [{"name": "b0", "url": f"http://127.0.0.1:{port}", "slots": 2}]
        async with hermes(backends=own, models={"gemma": model}) as gateway:
            yield Stage(simulator, gateway)
    finally:
        await simulator.stop()


@scenario
async def test_pinned_no_option_of_a_request_makes_a_reload_and_each_that_would_is_counted() -> None:
    async with staged() as stage:
        assert [await stage.ask(num_ctx=context) for context in (8192, 2048, 4096, 16384)] == [1, 0, 0, 0]
        assert await stage.ask() == await stage.ask(num_gpu=1) == 0
        reply = await stage.gateway.ask(CHAT, chat(options={"num_ctx": 8192}, keep_alive=0))
        assert reply.status == 200
        assert stage.simulator.stats.loads == 1
        assert await stage.reloads_avoided() == 5
        assert await stage.context() == 4096


@scenario
async def test_the_longest_context_asked_for_is_loaded_once_and_kept() -> None:
    async with staged(options_policy="max", max_num_ctx=12000) as stage:
        assert [await stage.ask(num_ctx=context) for context in (8192, 2048, 8192, 16384, 32768)] == [2, 0, 0, 1, 0]
        assert await stage.ask() == await stage.ask(num_gpu=1) == 0
        assert await stage.reloads_avoided() == 3
        assert await stage.context() == 12000
        assert (await stage.gateway.ask(f"{PROMPT}/unload", b"")).status == 202
        assert await stage.ask(num_ctx=2048) == 1
        assert await stage.context() == 12000


@scenario
async def test_passed_through_each_other_option_is_a_reload_and_who_asks_for_none_makes_none() -> None:
    async with staged(options_policy="passthrough") as stage:
        assert [await stage.ask(num_ctx=context) for context in (8192, 8192, 2048)] == [2, 0, 1]
        assert await stage.ask() == 0
        assert await stage.context() == 2048
        assert [await stage.ask(num_gpu=1), await stage.ask(), await stage.reloads_avoided()] == [1, 0, 0]


@pytest.mark.parametrize("policy", ["max", "passthrough"])
@scenario
async def test_requests_at_once_with_contexts_of_their_own_are_all_answered(policy: str) -> None:
    async with staged(options_policy=policy) as stage:
        await asyncio.gather(*(stage.ask(num_ctx=context) for context in (8192, 2048, 16384, 6000) * 3))
        assert stage.simulator.stats.aborted == stage.simulator.stats.aborted_loads == 0


@scenario
async def test_passed_through_a_model_goes_when_the_request_says_so_and_is_loaded_when_it_is_wanted_again() -> None:
    async with staged(options_policy="passthrough") as stage:
        await stage.ask(keep_alive=0)
        assert stage.simulator.stats.unloads == 1
        await stage.gateway.runtime.fleet.backends["b0"].look(20.0)
        assert stage.gateway.runtime.scheduler.where("gemma:latest") == {}
        assert [await stage.ask(), await stage.ask()] == [1, 0]


@scenario
async def test_models_that_are_not_listed_have_the_policy_of_the_defaults() -> None:
    async with staged(options_policy="pin") as stage, hermes(
        backends=[{"name": "b0", "url": stage.gateway.runtime.fleet.backends["b0"].url}],
        defaults={"options_policy": "max", "max_num_ctx": 6000},
    ) as other:  # fmt: skip
        await other.ask(PROMPT, prompt(options={"max_tokens": 2, "num_ctx": 9999}))
        assert await stage.context() == 6000


@scenario
async def test_what_a_longer_context_takes_and_whom_it_drives_out_is_seen() -> None:
    models = {"gemma": {"options_policy": "max"}}
    async with ollama("gemma:latest", "phi:latest") as server:
        server.loaded = [loaded(item["name"], 3 * GIB, 3 * GIB, 4096) for item in server.models]
        backends = [{"name": "b0", "url": server.url, "memory": "8GiB"}]
        async with hermes(backends=backends, models=models) as gateway:
            server.scripts.append(loads_anew(server, 6 * GIB))
            assert (await gateway.ask(PROMPT, prompt(options={"num_ctx": 8192}))).status == 200
            await gateway.runtime.fleet.backends["b0"].look(20.0)
            assert gateway.runtime.scheduler.where("phi:latest") == {}
            assert (await gateway.ask("/v1/llm/phi", prompt())).status == 200
            assert server.orders == ["unload gemma:latest", "load phi:latest"]


@pytest.mark.parametrize("policy", ["max", "passthrough"])
@scenario
async def test_a_context_that_cannot_be_loaded_is_nobody_elses_trouble(policy: str) -> None:
    async with ollama() as server, hermes(server, models={"gemma": {"options_policy": policy}}) as gateway:
        server.loaded = [loaded("gemma:latest", context=4096)]
        await gateway.runtime.fleet.backends["b0"].look(20.0)
        server.scripts.append(fail(400, "out of memory"))
        assert (await gateway.ask(PROMPT, prompt(options={"num_ctx": 32768}))).status == 400
        server.loaded = []
        await gateway.runtime.fleet.backends["b0"].look(20.0)
        loads: list[Any] = []

        async def load(asked: Asked) -> None:
            loads.append(asked.body.get("options"))
            await (fail(500, "out of memory") if loads[-1] else play(DONE))(asked)

        server.management["/api/generate"] = load
        assert (await gateway.ask(PROMPT, prompt())).status == 200
        assert loads == [{"num_ctx": 32768}, None]
        assert "options" not in server.asked[-1].body


def loads_anew(server: FakeOllama, size: int) -> Any:
    """An answer before which the model takes so much memory that nothing else is left."""

    async def script(asked: Asked) -> None:
        server.loaded = [loaded("gemma:latest", size, size, asked.body["options"]["num_ctx"])]
        await speak("Hi")(asked)

    return script
