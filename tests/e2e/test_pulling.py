"""A model is pulled for who asks, by a simulated server whose downloads take their time, and fail on demand."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from hermes.simulator import SimulatedModel, Simulator, SimulatorConfig, parse_fault
from hermes.simulator.models import GIB
from tests.fakes.gateway import Hermes, hermes, prompt, scenario
from tests.support import until

WANTED = SimulatedModel("wanted:7b", memory_bytes=4 * GIB, load_s=1.0, decode_tps=50.0)
ASKED = "/v1/llm/wanted:7b"
SHORT = prompt(options={"max_tokens": 5})


@asynccontextmanager
async def pulling(
    seconds: float, registry: tuple[SimulatedModel, ...] = (WANTED,), **more: object
) -> AsyncIterator[tuple[Simulator, Hermes]]:
    """A server that has to download the model first, which takes so long."""
    speed = 100.0
    own = SimulatorConfig(
        models=(), registry=registry, speed=speed, pull_bytes_per_s=WANTED.file_bytes / seconds / speed
    )
    simulator = Simulator(own)
    port = await simulator.start()
    try:
        backends = [{"name": "b0", "url": f"http://127.0.0.1:{port}", "slots": 4}]
        models = {"wanted:7b": {"pull": "on_demand", **more}}
        async with hermes(backends=backends, models=models) as gateway:
            yield simulator, gateway
    finally:
        await simulator.stop()


def percent(gateway: Hermes) -> int:
    download = gateway.runtime.fleet.download("wanted:7b", ["b0"])
    return download.percent if download else 0


def pulls(gateway: Hermes) -> dict[str, float]:
    counted = gateway.counted("hermes_model_pulls_total")
    return {outcome: count for (_, _, outcome), count in counted.items()}


@scenario
async def test_a_model_is_downloaded_loaded_and_answers_all_who_asked() -> None:
    async with pulling(0.5) as (simulator, gateway):
        calls = [await gateway.open(ASKED, SHORT) for _ in range(4)]
        seen = set[int]()
        await until(lambda: seen.add(percent(gateway)) or max(seen) > 70)  # type: ignore[func-returns-value]
        assert len(seen) > 3, "its progress is seen"
        for call in calls:
            reply = await call.reply()
            assert (reply.status, reply.headers["x-hermes-loaded"]) == (200, "load")
        assert (pulls(gateway), simulator.stats.loads) == ({"pulled": 1.0}, 1)


@scenario
async def test_clients_that_leave_do_not_stop_a_download() -> None:
    async with pulling(0.5) as (simulator, gateway):
        calls = [await gateway.open(ASKED, SHORT) for _ in range(2)]
        await until(lambda: percent(gateway) > 10)
        for call in calls:
            call.leave()
        await gateway.settle()
        assert percent(gateway) > 10
        await until(lambda: pulls(gateway) == {"pulled": 1.0})
        assert simulator.stats.loads == 0, "nobody wants it any more"
        assert (await gateway.ask(ASKED, SHORT)).status == 200
        assert pulls(gateway) == {"pulled": 1.0}


@scenario
async def test_the_wait_that_is_predicted_falls_as_the_download_gets_on() -> None:
    async with pulling(2.0) as (_, gateway):
        call = await gateway.open(ASKED, SHORT)

        async def eta_ms() -> int:
            await gateway.runtime.fleet.backends["b0"].look(20.0)
            (waiting,) = (await gateway.ask("/v1/queue")).json["data"]
            return int(waiting["eta_ms"])

        await until(lambda: percent(gateway) > 20)
        first = await eta_ms()
        await until(lambda: percent(gateway) > 80)
        assert await eta_ms() < first - 300
        assert (await call.reply()).status == 200


@scenario
async def test_who_cannot_wait_for_the_whole_download_comes_back_and_finds_it_further_on() -> None:
    async with pulling(1.5, timeout_s=0.25) as (simulator, gateway):
        first = await gateway.ask(ASKED, SHORT)
        assert (first.status, first.error["code"]) == (503, "model_pulling")
        before = percent(gateway)
        second = await gateway.ask(ASKED, SHORT)
        assert (second.error["code"], percent(gateway) > before) == ("model_pulling", True)
        await until(lambda: pulls(gateway) == {"pulled": 1.0})
        assert (await gateway.ask(ASKED, SHORT)).status == 200
        assert simulator.stats.loads == 1


@pytest.mark.parametrize("kind", ["cut", "reset", "error-line", "garbage", "html"])
@scenario
async def test_a_download_that_fails_in_the_middle_goes_on_later_where_it_was(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hermes.policy.site.BACK_OFF_S", 0.2)
    async with pulling(1.0) as (simulator, gateway):
        simulator.machine.pull_fault = parse_fault(f"{kind};after=9")
        for reply in await asyncio.gather(*(gateway.ask(ASKED, SHORT) for _ in range(3))):
            assert (reply.status, reply.error["code"]) == (503, "pull_failed")
        simulator.machine.pull_fault = None
        assert (await gateway.ask(ASKED, SHORT)).error["code"] == "pull_failed"
        failure = gateway.runtime.fleet.pulls["b0"].failure
        await until(lambda: failure("wanted:7b") is None)
        call = await gateway.open(ASKED, SHORT)
        await until(lambda: percent(gateway) > 0)
        assert kind == "html" or percent(gateway) > 30, "what was there is not downloaded again"
        assert (await call.reply()).status == 200
        assert pulls(gateway) == {"failed": 1.0, "pulled": 1.0}


@scenario
async def test_a_server_that_dies_while_it_downloads_is_heard_of_and_asked_again_when_it_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hermes.policy.site.BACK_OFF_S", 0.05)
    async with pulling(0.5) as (simulator, gateway):
        port = int(gateway.runtime.config.backends[0].url.rpartition(":")[2])
        call = await gateway.open(ASKED, SHORT)
        await until(lambda: percent(gateway) > 20)
        await simulator.stop()
        reply = await call.reply()
        assert reply.status == 503
        assert reply.error["code"] in ("pull_failed", "no_backend")
        await simulator.start(port=port)
        failure = gateway.runtime.fleet.pulls["b0"].failure
        await gateway.runtime.fleet.backends["b0"].look(20.0)
        await until(lambda: gateway.runtime.fleet.ready and failure("wanted:7b") is None)
        assert (await gateway.ask(ASKED, SHORT)).status == 200
        assert pulls(gateway) == {"failed": 1.0, "pulled": 1.0}


@scenario
async def test_what_the_registry_does_not_have_is_404() -> None:
    async with pulling(1.0, registry=()) as (_, gateway):
        for _ in range(2):
            reply = await gateway.ask(ASKED, SHORT)
            assert (reply.status, reply.error["code"]) == (404, "model_not_found")
        assert pulls(gateway) == {"failed": 1.0}
