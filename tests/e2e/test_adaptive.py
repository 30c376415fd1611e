"""A backend that does not say how many it runs at once: that is found out, and told."""

import asyncio
from typing import Any

import pytest

from hermes.policy import concurrency
from hermes.simulator import SimulatedModel, Simulator, SimulatorConfig
from tests.fakes.gateway import PROMPT, Hermes, hermes, prompt, scenario

GEMMA = SimulatedModel("gemma", load_s=1.0, slots=2, decode_tps=10.0)  # answers take 30 ms at this speed
CAP = 12


async def _told(gateway: Hermes) -> dict[str, Any]:
    """By status; the metric says the same."""
    told: dict[str, Any] = (await gateway.ask("/v1/status")).json["models"]["gemma"]["adaptive"]["b0"]
    assert gateway.counted("hermes_model_concurrency_limit") == {("b0", "gemma:latest"): told["limit"]}
    return told


@pytest.mark.parametrize("stream", [False, True])
def test_a_flood_shows_that_the_backend_has_two_slots(monkeypatch: pytest.MonkeyPatch, stream: bool) -> None:
    monkeypatch.setattr(concurrency, "LEAST_S", 0.0)  # seconds here are minutes there

    @scenario
    async def flood() -> None:
        simulator = Simulator(SimulatorConfig(models=(GEMMA,), speed=100.0))
        backends = [{"name": "b0", "url": f"http://127.0.0.1:{await simulator.start()}"}]
        model = {"max_concurrency": CAP, "adaptive_concurrency": True}
        try:
            async with hermes(backends=backends, models={"gemma": model}) as gateway:
                asked = prompt(stream=stream, options={"max_tokens": 30})
                most = 0

                async def client() -> None:
                    nonlocal most
                    while True:
                        found = gateway.runtime.scheduler.concurrency("gemma").get("b0")
                        if found is not None and found.settled == 2 and "2, not" in found.found:
                            return
                        most = max(most, gateway.running)
                        assert (await gateway.ask(PROMPT, asked)).status == 200

                await asyncio.gather(*(client() for _ in range(CAP + 2)))
                told = await _told(gateway)
                assert told["cap"] == CAP and 1 <= told["limit"] <= 3 and most <= CAP
                assert "at once instead of" in told["why"] and "% tokens a second" in told["why"]
                assert ("% time to first byte" in told["why"]) == stream
        finally:
            await simulator.stop()

    flood()
