"""Health means: it can generate. What hangs, fails or has enough to do gets no requests until it is well again."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from hermes.http.origin import Origin
from hermes.record import Record
from hermes.simulator import SimulatedModel, Simulator, SimulatorConfig, parse_fault
from tests.fakes.backend import (
    DONE,
    Asked,
    FakeOllama,
    Script,
    Then,
    answer,
    endless,
    fail,
    listening,
    ollama,
    play,
    speak,
)
from tests.fakes.gateway import CHAT, PROMPT, Hermes, chat, hermes, prompt, scenario, session
from tests.fakes.openai_backend import FakeOpenAI
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


async def status(gateway: Hermes) -> dict[str, Any]:
    """What /v1/status says of the first backend."""
    told: Any = (await gateway.ask("/v1/status")).json
    first: dict[str, Any] = told["backends"][0]
    return first


async def health(gateway: Hermes) -> dict[str, Any]:
    """And of gemma there."""
    told = (await status(gateway)).get("health", ())
    return next((each for each in told if each["model"] == "gemma:latest"), {"state": "closed"})


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
async def test_a_stream_that_goes_on_shows_that_its_model_is_not_stuck_any_more() -> None:
    async with ollama() as backend, hermes(backend, health=HASTY) as gateway:
        steps = [asyncio.Event() for _ in range(2)]
        backend.scripts.append(play("Hel", steps[0], "lo", steps[1], DONE))
        backend.default = play(then=Then.STALL)
        call = await gateway.open(PROMPT, prompt(stream=True))
        await backend.request(2)  # the second probe
        assert breaker(gateway) == "stuck"
        steps[0].set()
        await until(lambda: breaker(gateway) == "recovering")
        steps[1].set()
        assert (await call.reply()).whole


@scenario
async def test_what_is_not_in_memory_any_more_is_not_stuck_there() -> None:
    """Whoever ends the process that hangs has mended it."""
    async with ollama() as backend, hermes(backend, health=HASTY | {"pause_s": 20}) as gateway:
        backend.default = play(then=Then.STALL)
        assert (await gateway.ask(PROMPT, prompt(stream=True))).status == 503
        assert breaker(gateway) == "stuck"
        backend.loaded.clear()
        backend.default = speak("Hel", "lo")
        await gateway.runtime.fleet.backends["b0"].look(20.0)
        assert breaker(gateway) == "recovering"
        assert (await gateway.ask(PROMPT, prompt(stream=True))).status == 200
        assert backend.orders == ["load gemma:latest"]


@pytest.mark.parametrize(("tools", "probes"), [(False, 1), (True, 0)])
@scenario
async def test_before_a_call_of_a_tool_there_may_be_nothing_for_long(tools: bool, probes: int) -> None:
    more = {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]} if tools else {}
    async with ollama() as backend, hermes(backend, health=HASTY) as gateway:
        go_on = asyncio.Event()
        backend.scripts.append(play(go_on, "Hel", DONE))
        call = await gateway.open(CHAT, chat(stream=True, **more))
        await backend.request(0)
        await asyncio.sleep(1.5 * HASTY["silence_s"])
        assert len(backend.asked) == 1 + probes
        go_on.set()
        assert (await call.reply()).whole


@scenario
async def test_of_a_whole_answer_that_comes_as_a_stream_each_piece_is_a_sign_of_life() -> None:
    async with listening(FakeOpenAI("llamacpp")) as backend, hermes(backend, health=HASTY) as gateway:
        gates = [asyncio.Event() for _ in range(9)]
        pieces = [step for gate in gates[:-1] for step in (gate, "la ")]
        backend.scripts.append(play(*pieces, gates[-1], DONE))
        call = await gateway.open(CHAT, chat())
        await backend.request(0)
        for gate in gates[:-1]:
            await asyncio.sleep(HASTY["silence_s"] / 2)
            gate.set()
        assert len(backend.asked) == 1
        await backend.request(1)  # the probe
        gates[-1].set()
        assert (await call.reply()).status == 200


@scenario
async def test_a_router_that_loads_a_model_is_not_silent() -> None:
    async with listening(FakeOpenAI("llamacpp")) as backend:
        backend.models[0]["status"] = {"value": "loading"}
        async with hermes(backend, health=HASTY) as gateway:
            go_on = asyncio.Event()
            backend.scripts.append(play(go_on, "Hel", DONE))
            call = await gateway.open(CHAT, chat(stream=True))
            await backend.request(0)
            await asyncio.sleep(2 * HASTY["silence_s"])
            assert len(backend.asked) == 1
            backend.models[0]["status"] = {"value": "loaded"}
            await gateway.runtime.fleet.backends["b0"].look(20.0)
            await backend.request(1)  # the probe
            go_on.set()
            assert (await call.reply()).whole


@scenario
async def test_a_client_that_reads_slowly_is_no_silence_of_the_backends() -> None:
    async with ollama() as backend, hermes(backend, health=HASTY) as gateway:
        backend.scripts.append(endless(b'{"message":{"content":"%b"},"done":false}\n' % (b"la " * 1000)))
        call = await gateway.open(CHAT, chat(stream=True))
        await call.head()
        await asyncio.sleep(3 * HASTY["silence_s"])
        assert len(backend.asked) == 1
        call.leave()


@scenario
async def test_a_load_under_way_is_no_stall() -> None:
    async with ollama() as backend, hermes(backend, health=HASTY) as gateway:
        go_on = asyncio.Event()
        backend.scripts.append(play(go_on, "Hel", DONE))
        call = await gateway.open(PROMPT, prompt(stream=True))
        await backend.request(0)
        backend.loaded.clear()  # another's doing: it is loaded anew
        await gateway.runtime.fleet.backends["b0"].look(20.0)
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
    async with ollama() as backend, hermes(backend, health=HASTY | {"silence_s": 60}) as gateway:
        backend.default = play(then=Then.STALL)
        call = await gateway.open(PROMPT, prompt(), {"x-hermes-deadline-ms": "100"})
        await backend.request(0)
        watchdog, clock = gateway.runtime.serving.watchdog, asyncio.get_running_loop().time
        watchdog.look(clock())
        assert (await call.reply()).status == 504
        watchdog.look(clock())
        assert not gateway.runtime.fleet.health["b0"]._probing


# --- failures ---------------------------------------------------------------------------------------------------------


@scenario
async def test_what_failed_gets_one_request_after_a_pause_and_then_its_slots_back_one_by_one() -> None:
    async with ollama() as backend:
        own = {"name": "b0", "url": backend.url, "slots": 3}
        async with hermes(backends=[own], health={"pause_s": 0.05}, limits={"max_attempts": 1}) as gateway:
            backend.default = FAILURE
            for _ in range(5):
                assert (await gateway.ask(PROMPT, prompt())).status == 502
            assert (await health(gateway))["state"] == "open"
            gates = [asyncio.Event() for _ in range(6)]
            backend.scripts += [play(gate, "Hel", DONE) for gate in gates]
            calls = [await gateway.open(PROMPT, prompt()) for _ in gates]
            for ended, at_once in enumerate((1, 2, 3)):
                await until(lambda ended=ended, at_once=at_once: len(backend.asked) == 5 + ended + at_once)
                assert (backend.running, gateway.running) == (at_once, at_once)
                assert (await health(gateway)).get("limit") == (at_once if at_once < 3 else None)
                gates[ended].set()
            for gate in gates:
                gate.set()
            assert [(await call.reply()).status for call in calls] == [200] * 6
            assert gateway.counted("hermes_backend_ejections_total") == {("b0", "gemma:latest", "open"): 1}
            assert backend.most_running == 3


@scenario
async def test_an_answer_that_has_begun_is_enough_for_the_next_to_be_tried() -> None:
    async with ollama() as backend:
        own = {"name": "b0", "url": backend.url, "slots": 3}
        async with hermes(backends=[own], health=HASTY, limits={"max_attempts": 1}) as gateway:
            backend.default = FAILURE
            for _ in range(5):
                await gateway.ask(PROMPT, prompt())
            over = asyncio.Event()
            backend.default = play("Hel", over, DONE)
            calls = [await gateway.open(PROMPT, prompt(stream=True)) for _ in range(3)]
            await until(lambda: gateway.running == 3)
            assert breaker(gateway) == "recovering", "none has ended"
            over.set()
            assert [(await call.reply()).whole for call in calls] == [True] * 3


@scenario
async def test_who_cannot_wait_for_the_end_of_a_pause_hears_so_at_once() -> None:
    async with ollama() as backend, hermes(backend, health={"pause_s": 20}, limits={"max_attempts": 1}) as gateway:
        backend.default = FAILURE
        for _ in range(5):
            await gateway.ask(PROMPT, prompt())
        reply = await gateway.ask(PROMPT, prompt(), {"x-hermes-deadline-ms": "9000"})
        assert (reply.status, reply.error["code"]) == (503, "no_backend")
        assert 9 < int(reply.headers["retry-after"]) <= 25
        assert len(backend.asked) == 5


@scenario
async def test_a_backend_that_comes_and_goes_is_asked_less_and_nobody_notices() -> None:
    async with ollama() as bad, ollama() as good, hermes(bad, good, health={"pause_s": 0.02}) as gateway:
        bad.default = fail(500, "CUDA error")
        good.default = speak("Hel", "lo")
        for number in range(20):
            bad.scripts.clear()
            if number % 10 < 3:
                bad.scripts.append(speak("Hel", "lo"))
            calls = [await gateway.open(PROMPT, prompt()) for _ in range(3)]
            assert [(await call.reply()).status for call in calls] == [200] * 3
        assert len(bad.asked) < 20 < len(good.asked)


CLIENTS_OWN: list[Script] = [
    fail(400, "invalid options"),
    fail(404, "model 'gemma' not found"),
    fail(413, "too large"),
    fail(500, 'option "top_k" must be of type integer'),
    answer(403, b"no", b"text/plain"),
]


@pytest.mark.parametrize("script", CLIENTS_OWN)
@scenario
async def test_what_the_client_or_the_operator_is_to_blame_for_never_stops_a_backend(script: Script) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        backend.default = script
        for _ in range(20):
            assert (await gateway.ask(PROMPT, prompt())).status in (400, 404, 413, 502)
        assert gateway.runtime.fleet.backends["b0"].breakers == {}
        backend.default = speak("Hel", "lo")
        assert (await gateway.ask(PROMPT, prompt())).status == 200


@scenario
async def test_a_name_that_does_not_resolve_any_more_costs_its_backend_only() -> None:
    async with ollama() as first, ollama() as second, hermes(first, second) as gateway:
        pool = gateway.runtime.fleet.backends["b0"].driver.pool
        pool.close()
        pool.origin = Origin.parse("http://no-such-host.invalid:11434")
        for _ in range(3):
            assert (await gateway.ask(PROMPT, prompt())).status == 200
        assert gateway.runtime.fleet.backends["b1"].breakers == {}
        assert (len(first.asked), len(second.asked)) == (0, 3)


@scenario
async def test_a_backend_that_was_down_begins_slowly() -> None:
    async with ollama() as backend:
        own = {"name": "b0", "url": backend.url, "slots": 3}
        async with hermes(backends=[own]) as gateway:
            watched = gateway.runtime.fleet.backends["b0"]
            watched.failures, watched.state = 2, "down"
            gateway.runtime.fleet.health["b0"].looked()
            await watched.look(20.0)
            assert (await status(gateway))["health"] == [{"model": "*", "state": "recovering", "limit": 1}]
            gates = [asyncio.Event() for _ in range(5)]
            backend.scripts += [play(gate, "Hel", DONE) for gate in gates]
            calls = [await gateway.open(PROMPT, prompt()) for _ in gates]
            for ended, at_once in enumerate((1, 2, 3)):
                await until(lambda ended=ended, at_once=at_once: len(backend.asked) == ended + at_once)
                assert gateway.running == at_once
                gates[ended].set()
            for gate in gates:
                gate.set()
            assert [(await call.reply()).status for call in calls] == [200] * 5
            await watched.look(20.0)
            assert "health" not in await status(gateway)


# --- back-pressure ----------------------------------------------------------------------------------------------------


def takes(backend: FakeOllama, most: int, opened: asyncio.Event) -> Script:
    """A server that answers 503 to more than so many at once."""
    busy, works = BUSY, play(opened, "Hel", DONE)

    async def script(asked: Asked) -> None:
        await (works if backend.running <= most else busy)(asked)

    return script


@scenario
async def test_who_is_busy_is_given_no_more_than_it_takes_and_all_are_answered() -> None:
    async with ollama() as backend:
        own = {"name": "b0", "url": backend.url, "slots": 6}
        async with hermes(backends=[own]) as gateway:
            opened = asyncio.Event()
            backend.default = takes(backend, 2, opened)
            calls = [await gateway.open(PROMPT, prompt()) for _ in range(12)]
            await until(lambda: (gateway.running, gateway.waiting) == (2, 10))
            told = await health(gateway)
            assert (told["state"], told["limit"], told["why"]) == ("recovering", 2, "it was busy with 2")
            opened.set()
            assert [(await call.reply()).status for call in calls] == [200] * 12
            assert gateway.counted("hermes_backend_ejections_total") == {}, "it was never without any"


@scenario
async def test_who_says_for_how_long_it_is_busy_is_left_alone_for_that_long_and_requests_wait() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        backend.scripts.append(answer(429, b'{"error":"too many"}', headers=b"retry-after: 30\r\n"))
        call = await gateway.open(PROMPT, prompt())
        await until(lambda: gateway.waiting == 1)
        told = await health(gateway)
        assert told["state"] == "busy" and 29 <= told["retry_in_s"] <= 38
        (waits,) = (each for each in gateway.runtime.journal.exchanges if each.attempts)
        assert waits.asking is None, "its connection may be another's by now"
        assert gateway.counted("hermes_backend_ejections_total") == {("b0", "gemma:latest", "busy"): 1}
        call.leave()


@scenario
async def test_while_one_is_busy_another_has_its_requests() -> None:
    async with ollama() as busy, ollama() as good, hermes(busy, good) as gateway:
        busy.default = answer(503, b'{"error":"server busy"}', headers=b"retry-after: 30\r\n")
        for number in range(5):
            assert (await gateway.ask(PROMPT, prompt(), session("b0", number=number))).status == 200
        assert (len(busy.asked), len(good.asked)) == (1, 5)


@scenario
async def test_who_is_busy_for_a_moment_is_asked_again_in_a_moment() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        backend.scripts.append(BUSY)
        assert (await gateway.ask(PROMPT, prompt())).status == 200
        assert (await gateway.record()).attempts == 2
        assert breaker(gateway) == "closed"
