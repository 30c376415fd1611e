"""Health means: it can generate. What hangs, fails or has enough to do gets no requests until it is well again."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from hermes.exchange import Record
from hermes.simulator import SimulatedModel, Simulator, SimulatorConfig, parse_fault
from tests.fakes.backend import DONE, Then, fail, ollama, play
from tests.fakes.gateway import CHAT, PROMPT, Hermes, chat, hermes, prompt, scenario
from tests.support import until

HASTY = {"silence_s": 0.1, "probe_timeout_s": 0.1, "pause_s": 0.05}
FAILURE = fail(500, "CUDA error: an illegal memory access was encountered")
BUSY = fail(503, "server busy, please try again.  maximum pending requests exceeded")


@asynccontextmanager
async def simulators(count: int) -> AsyncIterator[list[tuple[Simulator, dict[str, Any]]]]:
    """Each with what the configuration says of it as a backend."""
    made = [Simulator(SimulatorConfig((SimulatedModel("gemma", slots=4),), speed=1000.0)) for _ in range(count)]
    try:
        yield [
            (each, {"name": f"b{number}", "url": f"http://127.0.0.1:{await each.start()}", "slots": 2})
            for number, each in enumerate(made)
        ]
    finally:
        for each in made:
            await each.stop()


def hang(simulator: Simulator, hangs: bool = True) -> None:
    """Whatever is asked to generate, from now on; lists are answered."""
    simulator.machine.outage = parse_fault("hang") if hangs else None
    for runner in simulator.machine.scheduler.loaded:
        runner.hangs_until = 1e9 if hangs else 0.0


async def health(gateway: Hermes, backend: str = "b0") -> dict[str, Any]:
    """What /v1/status says of gemma there."""
    status: Any = (await gateway.ask("/v1/status")).json
    (told,) = (each for each in status["backends"] if each["name"] == backend)
    return next((each for each in told.get("health", ()) if each["model"] == "gemma:latest"), {"state": "closed"})


def breaker(gateway: Hermes, backend: str = "b0") -> str:
    known = gateway.runtime.fleet.backends[backend].breakers.get("gemma:latest")
    return known.state if known is not None else "closed"


def runs(gateway: Hermes) -> list[Record]:
    """Those that asked for tokens and have ended."""
    return [record for record in gateway.records if record.model]


# --- stuck ------------------------------------------------------------------------------------------------------------


@scenario
async def test_who_hangs_with_its_lists_green_gets_nothing_and_what_it_had_goes_elsewhere() -> None:
    async with simulators(2) as ((first, told), (_, other)), hermes(backends=[told, other], health=HASTY) as gateway:
        assert (await gateway.ask(CHAT, chat())).status == 200
        assert (await gateway.record()).backend == "b0"
        hang(first)
        reply = await gateway.ask(CHAT, chat(stream=True))
        assert (reply.status, reply.whole) == (200, True)
        record = await gateway.record(1)
        assert (record.backend, record.attempts) == ("b1", 2)
        assert gateway.runtime.fleet.backends["b0"].state == "up", "its lists are green"
        assert (await health(gateway))["state"] == "stuck"
        assert gateway.counted("hermes_backend_ejections_total") == {("b0", "gemma:latest", "stuck"): 1}
        assert gateway.counted("hermes_backend_breaker_state")["b0", "gemma:latest"] == 2
        for _ in range(4):
            assert (await gateway.ask(CHAT, chat())).status == 200
        assert [(record.backend, record.attempts) for record in runs(gateway)[-4:]] == [("b1", 1)] * 4
        assert (await gateway.ask("/readyz")).status == 200
        hang(first, False)
        await until(lambda: breaker(gateway) != "stuck", limit_s=5.0)
        assert gateway.counted("hermes_backend_probes_total")["b0", "gemma:latest", "ok"] == 1


@scenario
async def test_where_there_is_no_other_clients_hear_so_until_it_generates_again() -> None:
    async with simulators(1) as ((simulator, told),), hermes(backends=[told], health=HASTY) as gateway:
        assert (await gateway.ask(CHAT, chat())).status == 200
        hang(simulator)
        replies = [await gateway.open(CHAT, chat(stream=True)) for _ in range(3)]  # one of them waits
        for call in replies:
            reply = await call.reply()
            assert (reply.status, reply.error["code"]) == (503, "no_backend")
            assert int(reply.headers["retry-after"]) >= 1
        assert (await gateway.ask(CHAT, chat())).status == 503
        assert (await gateway.ask("/readyz")).status == 503
        assert (await gateway.ask("/v1/status")).json["status"] == "no_backend"
        hang(simulator, False)
        await until(lambda: gateway.runtime.fleet.ready, limit_s=5.0)
        assert (await gateway.ask(CHAT, chat())).status == 200


@scenario
async def test_a_stream_that_has_begun_stays_where_it_hangs() -> None:
    async with ollama() as backend, hermes(backend, health=HASTY) as gateway:
        go_on = asyncio.Event()
        backend.scripts.append(play("Hel", go_on, "lo", DONE))
        backend.default = play(then=Then.STALL)
        call = await gateway.open(PROMPT, prompt(stream=True))
        await until(lambda: breaker(gateway) == "stuck")
        go_on.set()
        assert (await call.reply()).whole
        assert (await gateway.record()).attempts == 1


@scenario
async def test_silence_is_usual_for_who_answers_a_probe() -> None:
    async with ollama() as backend, hermes(backend, health=HASTY) as gateway:
        go_on = asyncio.Event()
        backend.scripts.append(play(go_on, "Hel", DONE))
        call = await gateway.open(PROMPT, prompt(stream=True))
        await until(lambda: gateway.counted("hermes_backend_probes_total").get(("b0", "gemma:latest", "ok")) == 2)
        assert breaker(gateway) == "closed"
        go_on.set()
        assert (await call.reply()).whole


@scenario
async def test_what_others_get_while_a_probe_waits_is_a_sign_of_life() -> None:
    async with ollama() as backend, hermes(backend, health=HASTY) as gateway:
        steps = [asyncio.Event() for _ in range(2)]
        backend.scripts.append(play(steps[0], "Hel", steps[1], "lo", DONE))
        backend.default = play(then=Then.STALL)
        call = await gateway.open(PROMPT, prompt(stream=True))
        await backend.request(1)  # the probe
        steps[0].set()
        await until(lambda: gateway.counted("hermes_backend_probes_total"))
        assert breaker(gateway) == "closed"
        steps[1].set()
        assert (await call.reply()).whole


@scenario
async def test_a_load_under_way_is_no_stall() -> None:
    async with ollama() as backend, hermes(backend, health=HASTY) as gateway:
        go_on = asyncio.Event()
        backend.scripts.append(play(go_on, "Hel", DONE))
        call = await gateway.open(PROMPT, prompt(stream=True))
        await backend.request(0)
        backend.loaded.clear()  # another's doing: it is loaded anew
        await gateway.runtime.fleet.backends["b0"].look(2.0)
        await asyncio.sleep(3 * HASTY["silence_s"])
        assert gateway.counted("hermes_backend_probes_total") == {}
        go_on.set()
        assert (await call.reply()).whole


@scenario
async def test_a_whole_answer_that_never_came_is_followed_by_a_probe() -> None:
    async with ollama() as backend, hermes(backend, health=HASTY, defaults={"timeout_s": 0.3}) as gateway:
        backend.default = play(then=Then.STALL)
        assert (await gateway.ask(PROMPT, prompt())).status == 504
        await until(lambda: breaker(gateway) == "stuck")


@scenario
async def test_who_was_in_no_time_proves_nothing() -> None:
    async with ollama() as backend, hermes(backend, health=HASTY | {"silence_s": 5}) as gateway:
        backend.default = play(then=Then.STALL)
        reply = await gateway.ask(PROMPT, prompt(), {"x-hermes-deadline-ms": "50"})
        assert reply.status == 504
        gateway.runtime._watchdog.look(asyncio.get_running_loop().time())
        assert gateway.counted("hermes_backend_probes_total") == {}
