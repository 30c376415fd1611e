"""Reloads at the worst moments: while models load, are downloaded, are probed; while answers flow; and of processes."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from hermes.config import commands
from hermes.policy.ticket import Ticket
from tests.e2e.test_managed import command, is_alive, noted, overlaps, process, running, said
from tests.e2e.test_pulling import WANTED, pulling, pulls
from tests.fakes.backend import DONE, FakeOllama, Script, Then, ollama, play
from tests.fakes.gateway import CHAT, PROMPT, Hermes, chat, config, hermes, hold_slot, prompt, scenario, stateless
from tests.support import until


def at(fake: FakeOllama, name: str = "b0", **more: Any) -> dict[str, Any]:
    return {"name": name, "url": fake.url, **more}


def gated(gate: asyncio.Event, fake: FakeOllama) -> Script:
    """Its loads take until the gate opens."""

    async def script(asked: Any) -> None:
        await gate.wait()
        await fake._manage(asked)

    return script


# --- loads and downloads ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["b0", "other"])
@scenario
async def test_who_waits_for_a_load_on_a_backend_that_is_gone_has_it_loaded_elsewhere(name: str) -> None:
    async with ollama() as before, ollama() as after:
        before.loaded.clear()
        after.loaded.clear()
        before.management["/api/generate"] = gated(asyncio.Event(), before)
        async with hermes(before) as gateway:
            waits = await gateway.open(PROMPT, prompt())
            await until(lambda: before.orders == ["load gemma:latest"])
            await gateway.reload(backends=[at(after, name)])
            assert (await waits.reply()).status == 200
            assert after.orders[0] == "load gemma:latest"
            assert list(gateway.runtime.scheduler.changes()) == []


@scenario
async def test_a_load_goes_on_over_a_reload_that_does_not_concern_it() -> None:
    async with ollama() as backend:
        backend.loaded.clear()
        gate = asyncio.Event()
        backend.management["/api/generate"] = gated(gate, backend)
        async with hermes(backend) as gateway:
            waits = await gateway.open(PROMPT, prompt())
            await until(lambda: len(backend.orders) == 1)
            await gateway.reload(backend, limits={"queue_total": 9})
            gate.set()
            assert (await waits.reply()).status == 200
            assert backend.orders == ["load gemma:latest"]


@scenario
async def test_a_download_on_a_backend_that_is_gone_comes_to_its_end() -> None:
    async with pulling(0.5) as (_, gateway), ollama() as other:
        call = await gateway.open(f"/v1/llm/{WANTED.name}/pull", {"load": False})
        assert await call.head() == 200
        driver = gateway.runtime.fleet.backends["b0"].driver
        await gateway.reload(other)
        lines = await call.events()
        assert lines[-1]["done"] is True
        assert pulls(gateway) == {"pulled": 1.0}
        await until(lambda: driver.server is not None and not driver.server.pool.open_connections)


# --- answers ----------------------------------------------------------------------------------------------------------


@scenario
async def test_a_stream_outlives_its_backend_and_another_one_of_its_name() -> None:
    gates = [asyncio.Event() for _ in range(3)]
    async with ollama() as first, ollama() as second, hermes(backends=[at(first, slots=2)]) as gateway:
        first.scripts.append(play("one", gates[0], "two", gates[1], "three", gates[2], "four", DONE))
        stream = await gateway.open(CHAT, chat(stream=True))
        assert await stream.head() == 200
        for gate, there in zip(gates, (at(second, slots=2), at(second, "b1"), at(first, slots=2)), strict=True):
            await gateway.reload(backends=[there])
            gate.set()
            assert (await gateway.ask(PROMPT, prompt())).status == 200
        events = await stream.events()
        assert events[-1] == "[DONE]" and stream.whole
        said = "".join(event["choices"][0]["delta"].get("content") or "" for event in events[:-1] if event["choices"])
        assert said == "onetwothreefour"
        await gateway.settle()
        assert gateway.runtime.scheduler.running_on("b0") == 0


@scenario
async def test_the_slots_of_what_still_runs_on_the_last_one_of_a_name_count_until_it_ends() -> None:
    """I1: there is one cap for the name."""
    free = asyncio.Event()
    async with ollama() as first, ollama() as second, hermes(backends=[at(first)]) as gateway:
        runs = await hold_slot(gateway, first, free)
        await gateway.reload(backends=[at(second)])
        waits = await gateway.open(PROMPT, prompt())
        await gateway.until_waiting(1)
        free.set()
        assert (await runs.reply()).status == 200
        assert (await waits.reply()).status == 200
        assert len(second.asked) == 1


@scenario
async def test_what_fails_on_a_backend_that_is_gone_is_tried_where_the_model_is_now() -> None:
    gate = asyncio.Event()
    async with ollama() as first, ollama() as second, hermes(backends=[at(first)]) as gateway:

        async def dies(asked: Any) -> None:
            await gate.wait()
            asked.response.break_off()

        first.scripts.append(dies)
        call = await gateway.open(PROMPT, prompt())
        await first.request(0)
        await gateway.reload(backends=[at(second, "other")])
        gate.set()
        assert (await call.reply()).status == 200
        assert len(second.asked) == 1


@scenario
async def test_everybody_at_once_loses_nobody() -> None:
    """One slot, many who wait, and a backend that is moved again and again."""
    async with ollama() as first, ollama() as second, hermes(backends=[at(first)]) as gateway:
        calls = [await gateway.open(PROMPT, prompt(str(number))) for number in range(40)]
        for number in range(10):
            await gateway.reload(backends=[at((first, second)[number % 2], f"b{number % 3}")])
        replies = [await call.reply() for call in calls]
        assert [reply.status for reply in replies] == [200] * 40


@scenario
async def test_who_has_just_been_let_in_on_a_backend_that_is_gone_is_let_in_elsewhere() -> None:
    """Between the decision and its being heard of."""
    free = asyncio.Event()
    async with ollama() as first, ollama() as second, hermes(backends=[at(first)]) as gateway:
        runtime = gateway.runtime
        runs = await hold_slot(gateway, first, free)
        waits = await gateway.open(PROMPT, prompt())
        await gateway.until_waiting(1)
        new = runtime._compose(stateless(config(backends=[at(second, "other")])))
        await new.backends[0].look_first(1.0)
        done_with = runtime.admission.done_with

        def moves_meanwhile(ticket: Ticket) -> None:
            done_with(ticket)
            if "b0" in runtime.fleet.backends:
                assert gateway.running == 1, "the other one has been let in"
                runtime._put_in_force(new)

        runtime.admission.done_with = moves_meanwhile  # type: ignore[method-assign]
        free.set()
        assert (await runs.reply()).status == 200
        assert (await waits.reply()).status == 200
        assert (len(first.asked), len(second.asked)) == (1, 1)


@scenario
async def test_who_was_first_stays_first() -> None:
    free = asyncio.Event()
    async with ollama() as first, ollama() as second, hermes(backends=[at(first)]) as gateway:
        runs = await hold_slot(gateway, first, free)
        calls = []
        for number in range(5):
            calls.append(await gateway.open(CHAT, chat(f"turn {number}")))
            await gateway.until_waiting(number + 1)
        await gateway.reload(backends=[at(second, "other")])
        for call in calls:
            assert (await call.reply()).status == 200
        asked = [asked.body["messages"][-1]["content"] for asked in second.asked]
        assert asked == [f"turn {number}" for number in range(5)]
        free.set()
        await runs.reply()


@scenario
async def test_nobody_who_waits_is_sent_away_by_a_shorter_queue() -> None:
    free = asyncio.Event()
    async with ollama() as first, ollama() as second, hermes(backends=[at(first)]) as gateway:
        runs = await hold_slot(gateway, first, free)
        calls = [await gateway.open(PROMPT, prompt()) for _ in range(3)]
        await gateway.until_waiting(3)
        await gateway.reload(backends=[at(second, "other")], defaults={"queue_limit": 0})
        for call in calls:
            assert (await call.reply()).status == 200
        free.set()
        await runs.reply()


# --- who looks --------------------------------------------------------------------------------------------------------


@scenario
async def test_a_backend_that_answers_nothing_does_not_hold_a_reload_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hermes.runtime.LOOK_S", 0.05)
    monkeypatch.setattr("hermes.fleet.backend.PROBE_TIMEOUT_S", 0.05)
    async with ollama() as first, ollama() as deaf, hermes(backends=[at(first)]) as gateway:
        deaf.management["/api/version"] = play(then=Then.STALL)
        await gateway.reload(backends=[at(first), at(deaf, "deaf")])
        assert gateway.runtime.fleet.backends["deaf"].state == "down"
        assert (await gateway.ask(PROMPT, prompt())).status == 200
        del deaf.management["/api/version"]
        gateway.runtime.fleet.backends["deaf"].suspect()
        await until(lambda: gateway.runtime.fleet.backends["deaf"].state == "up")


@scenario
async def test_a_reload_whose_caller_has_left_leaves_nothing_behind() -> None:
    async with ollama() as first, ollama() as deaf, ollama() as well, hermes(backends=[at(first)]) as gateway:
        deaf.management["/api/version"] = play(then=Then.STALL)
        before, new = gateway.runtime.config, [at(first), at(deaf, "deaf"), at(well, "well")]
        gateway.given.config = config(backends=new, server={"state_dir": "off"})
        call = await gateway.open("/v1/reload", method="POST")
        await until(lambda: len(deaf.managed) == 1 and len(well.managed) == 4)
        call.leave()
        await until(lambda: not (deaf.open_connections or well.open_connections), "the connections stay open")
        assert gateway.runtime.config is before
        assert [*gateway.runtime.fleet.backends] == ["b0"]
        await gateway.reload(backends=[at(first)], limits={"queue_total": 9})


@scenario
async def test_what_is_drained_stays_so() -> None:
    async with ollama() as first, ollama() as second, hermes(backends=[at(first), at(second, "b1")]) as gateway:
        assert (await gateway.ask("/v1/backends/b0/drain", method="POST")).status == 200
        for more in ({"slots": 3}, {"api_key": "sk"}):
            await gateway.reload(backends=[at(first, **more), at(second, "b1")])
            assert (await gateway.ask("/v1/status")).json["backends"][0]["draining"] is True
            assert (await gateway.ask(PROMPT, prompt())).headers["x-hermes-backend"] == "b1"


# --- processes --------------------------------------------------------------------------------------------------------


async def commands_are(gateway: Hermes, *backends: dict[str, Any]) -> None:
    await gateway.reload(**commands.filled({"backends": list(backends)}))


@scenario
async def test_a_process_by_another_command_is_stopped_when_it_is_idle_and_started_anew(tmp_path: Path) -> None:
    async with running({"command": command("a", tmp_path)}) as gateway:
        assert await said(gateway) == "a"
        (pid,) = noted(tmp_path, "a", "begins")
        runs = await gateway.open(CHAT, chat("speak, and linger", "a", stream=True))
        assert await runs.head() == 200
        await commands_are(gateway, {"command": command("a", tmp_path, "--holds", "7")})
        waits = await gateway.open(CHAT, chat("Hi", "a"))
        await gateway.until_waiting(1)
        assert is_alive(pid) and process(gateway)["pid"] == pid, "what runs there ends first"
        runs.leave()
        assert (await waits.reply()).status == 200
        assert not is_alive(pid) and process(gateway)["pid"] != pid
        assert not overlaps(tmp_path, "a")


@scenario
async def test_an_idle_one_is_started_anew_though_nobody_asks(tmp_path: Path) -> None:
    async with running({"command": command("a", tmp_path)}) as gateway:
        await said(gateway)
        await commands_are(gateway, {"command": command("a", tmp_path, "--holds", "7")})
        await until(lambda: len(noted(tmp_path, "a", "begins")) == 2, "it was not started anew", 5.0)
        assert not overlaps(tmp_path, "a")


@scenario
async def test_a_process_that_is_as_it_was_is_left_alone(tmp_path: Path) -> None:
    one = {"command": command("a", tmp_path)}
    async with running(one) as gateway:
        await said(gateway)
        await commands_are(gateway, {**one, "slots": 3, "idle_ttl": 600}, {"command": command("b", tmp_path)})
        assert await said(gateway) == "a" and await said(gateway, "b") == "b"
        assert len(noted(tmp_path, "a", "begins")) == 1
        assert gateway.runtime.scheduler.slots("a", "managed") == 3


@scenario
async def test_one_that_is_no_longer_there_is_stopped(tmp_path: Path) -> None:
    one, other = ({"command": command(model, tmp_path)} for model in "ab")
    async with running(one, other, serve_unlisted=True) as gateway:
        assert await said(gateway) == "a" and await said(gateway, "b") == "b"
        (pid,) = noted(tmp_path, "a", "begins")
        await commands_are(gateway, other)
        await until(lambda: not is_alive(pid), "it runs on", 5.0)
        assert (await gateway.ask(CHAT, chat("Hi", "a"))).status == 404
        assert await said(gateway, "b") == "b" and len(noted(tmp_path, "b", "begins")) == 1


@scenario
async def test_without_any_command_their_processes_end_when_what_runs_there_has(tmp_path: Path) -> None:
    async with ollama() as backend, running({"command": command("a", tmp_path)}) as gateway:
        runs = await gateway.open(CHAT, chat("speak, and linger", "a", stream=True))
        assert await runs.head() == 200
        (pid,) = noted(tmp_path, "a", "begins")
        await gateway.reload(backend)
        assert (await gateway.ask(PROMPT, prompt())).status == 200
        assert is_alive(pid)
        runs.leave()
        await until(lambda: not is_alive(pid), "it runs on", 5.0)


@scenario
async def test_one_that_is_being_started_is_started_by_the_new_command(tmp_path: Path) -> None:
    async with running({"command": command("a", tmp_path, "--deaf")}) as gateway:
        waits = await gateway.open(CHAT, chat("Hi", "a"))
        await until(lambda: len(noted(tmp_path, "a", "begins")) == 1)
        await commands_are(gateway, {"command": command("a", tmp_path)})
        assert (await waits.reply()).status == 200
