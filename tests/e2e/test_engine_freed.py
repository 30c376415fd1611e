"""A client that leaves frees the engine within a second, whatever it speaks: so counts the simulated server (I9), and
so do imitations of other kinds, and a process of Hermes's own.

The same with real llama-servers is in `tests/real/llamacpp`.
"""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from hermes.simulator import SimulatedModel, Simulator, SimulatorConfig
from tests.e2e.test_managed import command, noted, running, said
from tests.fakes.backend import Asked, FakeOllama, Then, listening, play
from tests.fakes.gateway import STREAMS, WHOLE, hermes, prompt, scenario
from tests.fakes.openai_backend import FakeOpenAI
from tests.fakes.tgi import FakeTgi
from tests.support import until

# How fast prompts of a thousand tokens are read, by the phase that is met then. An answer takes minutes.
PREFILL_TPS = {"prefill": 3000.0, "decode": 1e6}
LONG_PROMPT = "[[tokens:9999]] " + "x" * 4000


def longer(body: dict[str, Any], text: str = LONG_PROMPT) -> dict[str, Any]:
    for field in ("prompt", "input"):
        if field in body:
            return {**body, field: text}
    return {**body, "messages": [{"role": "user", "content": text}]}


@pytest.mark.parametrize("phase", PREFILL_TPS)
@pytest.mark.parametrize(("path", "body"), WHOLE + STREAMS, ids=lambda value: str(value)[:60])
@scenario
async def test_a_client_that_leaves_frees_the_engine(path: str, body: dict[str, Any], phase: str) -> None:
    model = SimulatedModel("gemma", load_s=0.0, prefill_tps=PREFILL_TPS[phase], decode_tps=50.0)
    simulator = Simulator(SimulatorConfig(models=(model,)))
    port = await simulator.start()
    try:
        async with hermes(backends=[{"name": "b0", "url": f"http://127.0.0.1:{port}"}]) as gateway:
            assert (await gateway.ask("/v1/llm/gemma", prompt("[[tokens:1]]"))).status == 200  # it is loaded
            stats, running = simulator.stats, simulator.stats.model("gemma").running
            call = await gateway.open(path, longer(body))
            await until(lambda: running.now == 1)
            await asyncio.sleep(0.05)  # a few tokens, or a part of the prompt
            call.leave()
            await until(lambda: running.now == 0, limit_s=1.0)
            assert [abort.phase for abort in stats.aborts] == [phase]
            await gateway.settle()
            assert gateway.records[-1].outcome == "client_gone"
    finally:
        await simulator.stop()


def imitation(kind: str) -> FakeOllama:
    return FakeTgi() if kind == "tgi" else FakeOpenAI(kind)


async def silent(asked: Asked) -> None:
    await asked.left.wait()


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize("kind", ["vllm", "llamacpp", "openai", "tgi"])
@pytest.mark.parametrize(("path", "body"), WHOLE + STREAMS, ids=lambda value: str(value)[:60])
@scenario
async def test_a_client_that_leaves_is_gone_from_every_kind_of_backend(
    path: str, body: dict[str, Any], kind: str, phase: str
) -> None:
    async with listening(imitation(kind)) as backend, hermes(backend) as gateway:
        backend.default = play("Hel", then=Then.STALL) if phase == "decode" else silent
        call = await gateway.open(path, body)
        asked = await backend.request(0)
        if phase == "decode" and body.get("stream"):
            assert await call.head() == 200
        call.leave()
        async with asyncio.timeout(1.0):
            await asked.left.wait()
        assert (await gateway.record()).outcome == "client_gone"
        await gateway.settle()


@pytest.mark.parametrize("words", ["linger", "linger, but speak"])
@scenario
async def test_a_client_that_leaves_frees_a_process_of_ours(tmp_path: Path, words: str) -> None:
    async with running({"command": command("gemma", tmp_path)}) as gateway:
        assert await said(gateway, "gemma") == "gemma"
        for number, (path, body) in enumerate(WHOLE + STREAMS, 1):
            call = await gateway.open(path, longer(body, words))
            await until(lambda number=number: len(noted(tmp_path, "gemma", "lingers")) == number)
            call.leave()
            await until(lambda number=number: len(noted(tmp_path, "gemma", "left")) == number, limit_s=1.0)
        await gateway.settle()
        assert {record.outcome for record in gateway.records[1:]} == {"client_gone"}
        assert await said(gateway, "gemma") == "gemma", "it serves on"
