"""A client that leaves frees the engine within a second, whatever it speaks: so counts the simulated server (I9).

The same with real llama-servers is in `tests/real/llamacpp`.
"""

import asyncio
from typing import Any

import pytest

from hermes.simulator import SimulatedModel, Simulator, SimulatorConfig
from tests.fakes.gateway import STREAMS, WHOLE, hermes, prompt, scenario
from tests.support import until

# How fast prompts of a thousand tokens are read, by the phase that is met then. An answer takes minutes.
PREFILL_TPS = {"prefill": 3000.0, "decode": 1e6}
LONG_PROMPT = "[[tokens:9999]] " + "x" * 4000


def longer(body: dict[str, Any]) -> dict[str, Any]:
    for field in ("prompt", "input"):
        if field in body:
            return {**body, field: LONG_PROMPT}
    return {**body, "messages": [{"role": "user", "content": LONG_PROMPT}]}


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
