"""A client that leaves is noticed in every phase, and leaves nothing behind but a record (I2, I9 seen from below)."""

import asyncio
from typing import Any

import pytest
import uvloop

from hermes.http.client import PoolLimits
from hermes.http.origin import Origin
from hermes.http.pool import Pool
from hermes.http.wire import NEVER, Deadlines
from hermes.simulator import SimulatedModel, Simulator
from tests.simulator.harness import Client, chat_body, config, run, settle, simulating


async def leave_after(client: Client, seconds: float, **fields: Any) -> None:
    task = client.spawn(client.post("/api/chat", chat_body(**fields)))
    await asyncio.sleep(seconds)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await settle()


@pytest.mark.parametrize(
    ("phase", "after_s", "loaded"), [("load", 2.0, False), ("prefill", 0.5, True), ("decode", 2.0, True)]
)
@pytest.mark.parametrize("stream", [True, False])
def test_leaving_is_noticed_at_once_in_every_phase(phase: str, after_s: float, loaded: bool, stream: bool) -> None:
    async def main() -> None:
        async with simulating() as client:
            stats = client.simulator.stats
            if loaded:
                await client.post("/api/generate", {"model": "chat"})
            await leave_after(client, after_s, prompt=f"[[tag:seven]] [[tokens:99]] {'x' * 3960}", stream=stream)
            (abort,) = stats.aborts
            assert (abort.phase, abort.model, abort.tag, abort.at) == (phase, "chat", "seven", client.now())
            assert (stats.aborted, stats.in_flight, stats.model("chat").requests.now) == (1, 0, 0)

    run(main)


def test_leaving_while_waiting_for_a_slot_frees_the_place() -> None:
    async def main() -> None:
        async with simulating() as client:
            await client.post("/api/generate", {"model": "plain"})
            running = client.spawn(client.chat("[[tokens:100]]", model="plain"))
            await asyncio.sleep(1.0)
            await leave_after(client, 1.0, model="plain")
            assert client.simulator.stats.aborts[0].phase == "slot"
            began = client.now()
            await client.chat("[[tokens:1]]", model="plain")
            assert client.now() - began < 10.0
            await running

    run(main)


def test_leaving_while_a_token_is_due_frees_the_slot_at_once_but_a_prompt_is_read_to_its_end() -> None:
    async def main() -> None:
        async with simulating() as client:
            running = client.simulator.stats.model("chat").running
            await client.post("/api/generate", {"model": "chat"})
            await leave_after(client, 2.0, prompt="x" * 3984, stream=True)
            assert running.now == 0
            await leave_after(client, 0.4, prompt="x" * 3984, stream=True)
            assert running.now == 1
            await asyncio.sleep(0.5)
            assert running.now == 1
            await asyncio.sleep(0.2)
            assert running.now == 0

    run(main)


def test_started_is_finished_aborted_or_in_flight() -> None:
    async def main() -> None:
        async with simulating() as client:
            stats = client.simulator.stats
            await client.chat()
            await client.chat("[[fault:cut after=0]]", model="nope")
            await client.chat("[[fault:busy]]")
            await leave_after(client, 0.2)
            waiting = client.spawn(client.chat())
            await settle()
            seen = (await client.get("/sim/stats")).json
            assert (stats.started, stats.finished, stats.aborted, stats.in_flight) == (4, 2, 1, 1)
            assert (seen["started"], seen["in_flight"]) == (4, 1)
            assert seen["models"]["chat"] == {"requests": 1, "max_requests": 1, "running": 1, "max_running": 1}
            assert seen["aborts"][0]["phase"] in ("prefill", "decode")
            assert seen["statuses"]["503"] == 1
            await waiting

    run(main)


def test_stopping_cuts_what_runs() -> None:
    async def main() -> None:
        async with simulating() as client:
            task = client.spawn(client.chat())
            await asyncio.sleep(1.0)
            await client.simulator.stop()
            (result,) = await asyncio.gather(task, return_exceptions=True)
            assert isinstance(result, Exception)
            await settle()
            assert client.simulator.stats.in_flight == 0

    run(main)


async def idle(simulator: Simulator) -> None:
    """A reset is on its way for a moment, and a prompt is read to its end."""
    for _ in range(500):
        if not simulator.stats.in_flight and not simulator.stats.model("chat").running.now:
            return
        await asyncio.sleep(0.01)


def test_two_hundred_and_fifty_streams_and_as_many_leavers_end_at_nothing() -> None:
    """On TCP and uvloop, without a jumping clock: what the other tests reckon with holds on real sockets."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        model = SimulatedModel("chat", load_s=0.01, decode_tps=500.0, slots=250)
        simulator = Simulator(config(models=(model,)))
        pool = Pool(Origin.parse(f"http://127.0.0.1:{await simulator.start()}"), PoolLimits(), Deadlines(loop), loop)

        async def stream(number: int) -> int:
            body = b'{"model":"chat","messages":[{"role":"user","content":"[[tokens:40]] %d"}]}' % number
            lines = 0
            async with pool.exchange("POST", "/api/chat", body, deadline=loop.time() + 20) as answer:
                while data := await answer.read(NEVER):
                    lines += data.count(b"\n")
                    if number % 2 and lines > number % 20:
                        return -1
            return lines

        lines = await asyncio.gather(*map(stream, range(500)))
        pool.close()
        await idle(simulator)
        assert (simulator.stats.in_flight, simulator.stats.model("chat").running.now) == (0, 0)
        assert [count for count in lines if count >= 0] == [41] * 250
        assert (simulator.stats.finished, simulator.stats.aborted) == (250, 250)
        assert simulator.stats.model("chat").running.most <= 250
        await simulator.stop()

    uvloop.run(main())
