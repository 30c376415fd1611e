"""A server with memory for one of two models: it is asked for what was decided, and decides nothing itself."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest

from hermes.fleet import memory
from hermes.policy.ticket import Load, Unload
from hermes.simulator import SimulatedModel, Simulator, SimulatorConfig
from hermes.simulator.models import GIB
from tests.fakes.gateway import Hermes, hermes, prompt, scenario
from tests.support import until


@asynccontextmanager
async def simulated(size_bytes: int = 6 * GIB) -> AsyncIterator[tuple[Simulator, Hermes, list[Load | Unload]]]:
    """A simulated server behind Hermes, and what Hermes decides about its memory. Only what is idle is unloaded."""
    one, two = (
        SimulatedModel(name, memory_bytes=size_bytes, load_s=2.0, slots=2, decode_tps=10.0) for name in ("one", "two")
    )
    simulator = Simulator(SimulatorConfig(models=(one, two), memory_bytes=8 * GIB, speed=100.0))
    port = await simulator.start()
    own = {"name": "b0", "url": f"http://127.0.0.1:{port}", "memory": "8GiB", "slots": 2}
    try:
        async with hermes(backends=[own]) as gateway:
            orders, decided, running = gateway.runtime.fleet.orders["b0"], list[Load | Unload](), list[int]()
            carry_out = orders.give

            def order(order: Load | Unload) -> None:
                decided.append(order)
                running.append(gateway.running)
                carry_out(order)

            orders.give = order  # type: ignore[method-assign]
            yield simulator, gateway, decided
            assert not any(running)
    finally:
        await simulator.stop()


@pytest.mark.parametrize("size_bytes", [6 * GIB, 39 * GIB // 10], ids=["no room", "not enough room to be free"])
@scenario
async def test_what_is_loaded_is_what_was_decided_and_nothing_is_evicted_besides(size_bytes: int) -> None:
    async with simulated(size_bytes) as (simulator, gateway, decided):
        for _ in range(3):
            calls = [
                await gateway.open(f"/v1/llm/{name}", prompt(options={"max_tokens": 20})) for name in ("one", "two") * 4
            ]
            for call in calls:
                assert (await call.reply()).status == 200
        loads = [order for order in decided if isinstance(order, Load)]
        assert {order.model for order in loads} == {"one:latest", "two:latest"}
        assert simulator.stats.loads == len(loads)
        assert simulator.stats.unloads == len(decided) - len(loads) == len(loads) - 1
        assert simulator.stats.aborted_loads == 0
        assert all(simulator.stats.model(name).running.most <= 2 for name in ("one", "two"))
        swaps, took_s = (gateway.counted(f"hermes_model_{name}_total") for name in ("swaps", "swap_seconds"))
        assert sum(swaps.values()) == len(loads) - 1  # the first took nobody's place
        loading_s = 2.0 / 100.0
        assert all(took_s[model] >= loading_s * count for model, count in swaps.items())


@scenario
async def test_a_load_is_not_held_up_by_who_asks_for_what_is_in_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server has less room than its machine has memory, and waits for an idle moment that never comes: each request
    has what is loaded stay for half an hour. Seen for five minutes, until the load's own time was over.
    """
    monkeypatch.setattr("hermes.policy.residency.BEGUN_WITHIN_S", 0.2)
    big = SimulatedModel("big", memory_bytes=8 * GIB, load_s=1.0, slots=2, decode_tps=10.0)
    small = SimulatedModel("small", memory_bytes=2 * GIB, load_s=1.0, slots=2)
    simulator = Simulator(SimulatorConfig(models=(big, small), memory_bytes=9 * GIB, speed=100.0))
    own = {"name": "b0", "url": f"http://127.0.0.1:{await simulator.start()}", "slots": 2}
    monkeypatch.setattr("hermes.fleet.memory.find", partial(_memory, 64 * GIB))
    try:
        async with hermes(backends=[own]) as gateway:
            running = [await gateway.open("/v1/llm/big", prompt(options={"max_tokens": n})) for n in (20, 70)]
            await until(lambda: gateway.running == 2)
            waiting = await gateway.open("/v1/llm/small", prompt())
            await until(lambda: simulator.machine.scheduler.loaded[0].keep_alive_s == 0)  # it is to make room
            again = await gateway.open("/v1/llm/big", prompt())
            for call in (*running, again, waiting):
                assert (await call.reply()).status == 200
    finally:
        await simulator.stop()


async def _memory(size_bytes: int, loaded_bytes: int = 0) -> memory.Room:
    return memory.Room(size_bytes, "memory of the machine", "ram")


@scenario
async def test_a_model_that_runs_is_never_taken_away() -> None:
    async with simulated() as (simulator, gateway, decided):
        first = await gateway.open("/v1/llm/one", prompt(stream=True, options={"max_tokens": 300}))
        assert await first.head() == 200
        other = await gateway.open("/v1/llm/two", prompt(options={"max_tokens": 5}))
        await gateway.until_waiting(1)
        await first.events()
        assert first.whole
        assert (await other.reply()).status == 200
        assert decided == [Load("b0", "one:latest"), Unload("b0", "one:latest"), Load("b0", "two:latest")]
        assert simulator.stats.aborted == 0


@scenario
async def test_who_leaves_while_its_model_is_loaded_leaves_a_loaded_model_behind() -> None:
    async with simulated() as (simulator, gateway, decided):
        call = await gateway.open("/v1/llm/one", prompt())
        await gateway.until_waiting(1)
        call.leave()
        await gateway.until_waiting(0)
        assert (await gateway.ask("/v1/llm/one", prompt(options={"max_tokens": 5}))).status == 200
        assert decided == [Load("b0", "one:latest")]
        assert simulator.stats.loads == 1
