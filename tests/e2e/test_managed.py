"""Backends that are processes of Hermes's own: started, seen, swapped, started again, and never left behind."""

import asyncio
import json
import os
import shlex
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from hermes.cli.stand_in import stand_in
from hermes.config import commands
from hermes.errors import BackendTimeout
from hermes.fleet import managed, unit
from hermes.fleet.managed import Managed
from tests.fakes import llm_server
from tests.fakes.backend import ollama
from tests.fakes.gateway import CHAT, Hermes, Reply, bearer, chat, config, hermes, key, scenario
from tests.fakes.process import Served, serve
from tests.support import run, until


def command(model: str, folder: Path, *options: str) -> str:
    words = (sys.executable, "-I", "-S", llm_server.__file__, "--port", "${PORT}", "--model", model)
    return shlex.join((*words, "--notes", str(notes(folder, model)), *options))


def notes(folder: Path, model: str) -> Path:
    path = folder / f"{model}.notes"
    path.touch()
    return path


def noted(folder: Path, model: str, word: str) -> list[int]:
    lines = (line.split() for line in notes(folder, model).read_text().splitlines())
    return [int(line[1]) for line in lines if line[0] == word]


def overlaps(folder: Path, model: str) -> bool:
    return "overlaps" in notes(folder, model).read_text()


def is_alive(pid: int) -> bool:
    """Zombies are not: nobody may be there to bury them."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def told_by_proc(pid: int, what: str) -> list[str]:
    return Path(f"/proc/{pid}/{what}").read_text().removesuffix("\0").split("\0")


@asynccontextmanager
async def running(*backends: dict[str, Any], **sections: Any) -> AsyncIterator[Hermes]:
    async with hermes(**commands.filled({"backends": list(backends)}), **sections) as gateway:
        yield gateway


def process(gateway: Hermes, model: str = "a") -> dict[str, Any]:
    driver = gateway.runtime.fleet.backends["managed"].driver
    assert isinstance(driver, Managed)
    (told,) = (each for each in driver.told(True) if each["model"] == model)
    return told


async def seen(gateway: Hermes, model: str = "a") -> int:
    """What it takes, once that was looked at."""
    backend = gateway.runtime.fleet.backends["managed"]
    await until(lambda: model in backend.weights)
    return backend.weights[model]


async def said(gateway: Hermes, model: str = "a", text: str = "Hi") -> str:
    reply = await gateway.ask(CHAT, chat(text, model))
    assert reply.status == 200, reply.body
    return str(reply.json["choices"][0]["message"]["content"])


# --- starting and stopping ------------------------------------------------------------------------------------------


@scenario
async def test_a_process_is_started_for_the_first_who_asks(tmp_path: Path) -> None:
    async with running({"command": command("a", tmp_path)}) as gateway:
        assert process(gateway) == {
            "model": "a", "state": "stopped", "pid": None, "port": None, "slots": None, "restarts": 0,
        }  # fmt: skip
        assert [model["id"] for model in (await gateway.ask("/v1/models")).json["data"]] == ["a"]
        assert await said(gateway) == await said(gateway) == "a"
        (pid,) = noted(tmp_path, "a", "begins")
        size_bytes = await seen(gateway)
        (backend,) = (await gateway.ask("/v1/status")).json["backends"]
        (told,) = backend["processes"]
        assert (told["state"], told["pid"]) == ("running", pid) and is_alive(pid)
        assert [(each["name"], each["size_bytes"]) for each in backend["loaded"]] == [("a", size_bytes)]
    assert not is_alive(pid)


@scenario
async def test_what_is_to_be_there_from_the_start_is(tmp_path: Path) -> None:
    async with running({"command": command("a", tmp_path), "preload": True}) as gateway:
        await until(lambda: process(gateway)["state"] == "running")


@scenario
async def test_the_command_is_read_by_no_shell(tmp_path: Path) -> None:
    told = command("a", tmp_path) + " '$(touch x)' $HOME '; touch y' `touch z`"
    async with running({"command": told}) as gateway:
        await said(gateway)
        line = told_by_proc(process(gateway)["pid"], "cmdline")
        assert line[-5:] == ["$(touch x)", "$HOME", "; touch y", "`touch", "z`"]


@scenario
async def test_it_has_the_variables_that_are_told_and_none_of_our_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"API_KEYS_JSON": "sk-ours", "HERMES_KEYS": "sk-ours", "OTHER": "other", "PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    async with running({"command": command("a", tmp_path), "env": {"HF_TOKEN": "t", "AT": "at-${PORT}"}}) as gateway:
        await said(gateway)
        told, port = process(gateway), process(gateway)["port"]
        environ = told_by_proc(told["pid"], "environ")
        assert {"HF_TOKEN=t", f"AT=at-{port}", f"PORT={port}", "OTHER=other"} <= set(environ)
        assert "sk-ours" not in "".join(environ)


@scenario
async def test_what_is_unloaded_is_stopped_with_all_that_it_has_started(tmp_path: Path) -> None:
    async with running({"command": command("a", tmp_path, "--child")}) as gateway:
        await said(gateway)
        pids = noted(tmp_path, "a", "begins") + noted(tmp_path, "a", "child")
        assert len(pids) == 2 and all(map(is_alive, pids))
        assert (await gateway.ask("/v1/llm/a/unload", {})).status == 202
        await until(lambda: process(gateway)["state"] == "stopped")
        assert not any(map(is_alive, pids))
        assert await said(gateway) == "a"  # a request starts it again
        assert process(gateway)["restarts"] == 0


@scenario
async def test_nothing_is_downloaded_for_it(tmp_path: Path) -> None:
    async with running({"command": command("a", tmp_path)}) as gateway:
        refused = await gateway.ask("/v1/llm/a/pull", {})
        assert (refused.status, refused.error["code"]) == (400, "unsupported_by_backend")


@scenario
async def test_nothing_is_simulated_where_a_process_can_be_started(tmp_path: Path) -> None:
    settings = config(**commands.filled({"backends": [{"command": command("a", tmp_path)}]}))
    assert await stand_in(settings, only_if_needed=True) is None


@scenario
async def test_a_next_one_is_not_started_before_a_stubborn_one_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unit, "STOP_GRACE_S", 0.1)
    async with running({"command": command("a", tmp_path, "--stubborn")}) as gateway:
        for _ in range(2):
            await said(gateway)
            await gateway.ask("/v1/llm/a/unload", {})
        await said(gateway)
        assert len(noted(tmp_path, "a", "begins")) == 3 and not overlaps(tmp_path, "a")


@scenario
async def test_what_nobody_asks_for_any_more_is_stopped(tmp_path: Path) -> None:
    told = {"command": command("a", tmp_path), "idle_ttl": 0.1, "probe_interval_s": 0.02}
    async with running(told) as gateway:
        assert await said(gateway, text="wait") == "a"  # for longer than that
        assert process(gateway)["state"] == "running"
        await until(lambda: process(gateway)["state"] == "stopped")
        assert await said(gateway) == "a"


# --- one memory -----------------------------------------------------------------------------------------------------


@scenario
async def test_two_take_turns_in_a_memory_for_one(tmp_path: Path) -> None:
    """What they take is seen: the first time nobody knows, and each has the memory for itself."""
    large = ("--holds", str(40 << 20))
    first = {"command": command("a", tmp_path, *large), "memory": 80 << 20}
    async with running(first, {"command": command("b", tmp_path, *large)}) as gateway:
        for model in "abab":
            assert await said(gateway, model) == model
            other = "ab".replace(model, "")
            assert (process(gateway, model)["state"], process(gateway, other)["state"]) == ("running", "stopped")
            assert 40 << 20 < await seen(gateway, model) < 80 << 20
        assert [len(noted(tmp_path, model, "begins")) for model in "ab"] == [2, 2]


@scenario
async def test_two_that_are_larger_than_their_files_do_not_stay_together(tmp_path: Path) -> None:
    file = tmp_path / "some.gguf"
    file.write_bytes(b"x")
    large = ("--holds", str(40 << 20), "--lora", str(file))
    first = {"command": command("a", tmp_path, *large), "memory": 80 << 20}
    async with running(first, {"command": command("b", tmp_path, *large)}) as gateway:
        for model, other in ("ab", "ba"):
            assert await said(gateway, model) == model
            await until(lambda other=other: process(gateway, other)["state"] == "stopped")  # type: ignore[misc]
            assert process(gateway, model)["state"] == "running"


@scenario
async def test_two_stay_together_where_both_have_room(tmp_path: Path) -> None:
    first = {"command": command("a", tmp_path), "memory": 1 << 30}
    sizes = {model: {"memory_cost": 20 << 20} for model in "ab"}
    async with running(first, {"command": command("b", tmp_path)}, models=sizes) as gateway:
        for model in "abab":
            assert await said(gateway, model) == model
            await seen(gateway, model)
        assert [len(noted(tmp_path, model, "begins")) for model in "ab"] == [1, 1]


@scenario
async def test_where_the_memory_is_not_known_one_runs_at_a_time(tmp_path: Path) -> None:
    async with running({"command": command("a", tmp_path)}, {"command": command("b", tmp_path)}) as gateway:
        for model in "ab":
            await said(gateway, model)
        assert process(gateway, "a")["state"] == "stopped"


@scenario
async def test_those_of_another_name_have_a_memory_of_their_own(tmp_path: Path) -> None:
    other = {"name": "gpu1", "command": command("b", tmp_path)}
    async with running({"command": command("a", tmp_path)}, other) as gateway:
        for model in "ab":
            await said(gateway, model)
        assert process(gateway, "a")["state"] == "running"


# --- going down -----------------------------------------------------------------------------------------------------


@scenario
async def test_one_that_goes_down_is_started_again_whether_anybody_asks_or_not(tmp_path: Path) -> None:
    async with running({"command": command("a", tmp_path, "--child")}) as gateway:
        await said(gateway)
        await seen(gateway)  # or that look would see that it is gone
        os.kill(process(gateway)["pid"], signal.SIGKILL)
        await until(lambda: process(gateway)["restarts"] == 1)
        assert not is_alive(noted(tmp_path, "a", "child")[0])
        assert await said(gateway) == "a" and not overlaps(tmp_path, "a")
        assert gateway.counted("hermes_process_restarts_total") == {("managed", "a"): 1.0}


@scenario
async def test_one_that_went_down_and_was_unloaded_stays_down(tmp_path: Path) -> None:
    async with running({"command": command("a", tmp_path)}) as gateway:
        for _ in range(2):
            await said(gateway)
            os.kill(process(gateway)["pid"], signal.SIGKILL)
        backend, now = gateway.runtime.fleet.backends["managed"], asyncio.get_running_loop().time
        await until(lambda: any(each.until > now() for each in backend.facts.fallen.values()))
        assert (await gateway.ask("/v1/llm/a/unload", {})).status == 200
        assert not backend.facts.fallen
        await until(lambda: process(gateway)["state"] == "stopped")


@scenario
async def test_one_that_could_not_come_back_for_long_waits_for_who_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(managed, "MISSED_S", -60.0)  # however long ago the look began
    async with running({"command": command("a", tmp_path), "probe_interval_s": 0.02}) as gateway:
        await said(gateway)
        await seen(gateway)
        os.kill(process(gateway)["pid"], signal.SIGKILL)
        await until(lambda: process(gateway)["state"] == "down")
        for _ in range(2):
            await gateway.runtime.fleet.backends["managed"].look(1.0)
        assert process(gateway)["state"] == "down"
        assert await said(gateway) == "a"


@scenario
async def test_a_request_that_finds_it_gone_is_answered_by_the_next_one(tmp_path: Path) -> None:
    async with running({"command": command("a", tmp_path)}) as gateway:
        await said(gateway)
        os.kill(process(gateway)["pid"], signal.SIGKILL)
        assert await said(gateway) == "a"
        assert len(noted(tmp_path, "a", "begins")) == 2


@scenario
async def test_one_that_hangs_is_killed_and_started_again(tmp_path: Path) -> None:
    soon = {"silence_s": 0.05, "probe_timeout_s": 0.05, "pause_s": 0.02}
    async with running({"command": command("a", tmp_path)}, health=soon) as gateway:
        await said(gateway)
        await seen(gateway)
        os.kill(process(gateway)["pid"], signal.SIGSTOP)
        await gateway.ask(CHAT, chat(model="a"))  # it finds that out, whatever becomes of it
        await until(lambda: process(gateway)["restarts"] == 1)
        assert await said(gateway) == "a" and not overlaps(tmp_path, "a")


@pytest.mark.parametrize(
    ("trouble", "given_up"), [(KeyError("bug"), []), (BackendTimeout("late"), ["a"])], ids=["ours", "its"]
)
def test_only_silence_is_a_reason_to_kill_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: Exception, given_up: list[str]
) -> None:
    async def probe(*about: object) -> None:
        raise trouble

    async def probed() -> None:
        async with running({"command": command("a", tmp_path)}) as gateway:
            await said(gateway)
            (health,) = gateway.runtime.fleet.health.values()
            killed: list[str] = []
            monkeypatch.setattr("hermes.fleet.health.generate", probe)
            monkeypatch.setattr(health.backend.driver, "give_up", killed.append)
            monkeypatch.setattr(health, "is_silent", lambda model, since: True)
            health._stick("a", "it says nothing")
            health.probe("a")
            await until(lambda: gateway.counted("hermes_backend_probes_total"))
            assert killed == given_up

    run(probed(), may_log_errors=True)


@scenario
async def test_one_that_goes_down_again_and_again_rests_longer_and_longer(tmp_path: Path) -> None:
    async with running({"command": command("a", tmp_path)}) as gateway:
        await said(gateway)
        refused = await gateway.ask(CHAT, chat("die", "a"))  # it takes three with it
        assert refused.status in (502, 503)
        await until(lambda: process(gateway)["state"] == "down")
        refused = await gateway.ask(CHAT, chat(model="a"))
        assert (refused.status, refused.error["code"]) == (503, "load_failed")
        assert "went down (exit status 3)" in refused.error["message"]
        assert int(refused.headers["retry-after"]) >= 1
        assert process(gateway)["restarts"] == 1  # at once, after the first time only


# --- what cannot be started -----------------------------------------------------------------------------------------


@scenario
async def test_one_that_ends_at_its_start_fails_its_requests_and_operators_see_its_last_words(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = [key("ann"), key("root", admin=True)]
    async with running({"command": command("a", tmp_path, "--dies", "CUDA out of memory")}, keys=keys) as gateway:
        refused = await gateway.ask(CHAT, chat(model="a"), bearer("ann"))
        assert (refused.status, refused.error["code"]) == (503, "load_failed")
        assert "ended before it was ready (exit status 1)" in refused.error["message"]
        for user, words in (("ann", None), ("root", ["CUDA out of memory"])):
            ((told,),) = (
                each["processes"] for each in (await gateway.ask("/v1/status", None, bearer(user))).json["backends"]
            )
            assert (told["state"], told.get("last_words")) == ("failed", words)
        assert b"CUDA" not in refused.body and "CUDA out of memory" in caplog.text


@scenario
async def test_a_program_that_is_not_there_is_told_of(tmp_path: Path) -> None:
    async with running({"command": "no-such-program --port ${PORT}", "model": "a"}) as gateway:
        refused = await gateway.ask(CHAT, chat(model="a"))
        assert (refused.status, refused.error["code"]) == (503, "load_failed")
        assert "not found" in process(gateway)["last_words"][-1]


@scenario
async def test_one_that_never_gets_ready_is_given_up_and_stopped(tmp_path: Path) -> None:
    async with running({"command": command("a", tmp_path, "--deaf"), "start_timeout_s": 0.2}) as gateway:
        refused = await gateway.ask(CHAT, chat(model="a"))
        assert (refused.status, refused.error["code"]) == (503, "load_failed")
        assert "was not ready within 0.2 s" in refused.error["message"]
        assert not any(map(is_alive, noted(tmp_path, "a", "begins")))


@pytest.mark.parametrize("learned", [{}, {"b": 1}])
@scenario
async def test_one_that_cannot_start_beside_others_is_tried_alone(tmp_path: Path, learned: dict[str, int]) -> None:
    """It may have been for want of memory, of which its file tells too little, or what it took when it was another."""
    weights = tmp_path / "b.gguf"
    weights.write_bytes(b"x")
    first = {"command": command("a", tmp_path), "memory": 1 << 30}
    second = {"command": command("b", tmp_path, "--dies", "x", "--lora", str(weights)), "model": "b"}
    async with running(first, second) as gateway:
        await said(gateway)
        await seen(gateway)
        backend = gateway.runtime.fleet.backends["managed"]
        backend.learn(learned)
        assert backend.facts.sizes["b"] == 1
        assert (await gateway.ask(CHAT, chat(model="b"))).status == 503
        await until(lambda: backend.facts.sizes["b"] == 1 << 30)


# --- our own end ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def served(folder: Path) -> AsyncIterator[tuple[Served, list[int]]]:
    """Hermes as a process, and all that it has started: the server, and what that has."""
    told = {"backends": [{"command": command("a", folder, "--child")}], "server": {"state_dir": "off"}}
    (folder / "hermes.yaml").write_text(json.dumps(told))
    async with serve(folder, PATH=os.environ["PATH"]) as gateway:
        assert (await asked(gateway, CHAT, chat(model="a"))).status == 200
        pids = noted(folder, "a", "begins") + noted(folder, "a", "child")
        assert len(pids) == 2 and all(map(is_alive, pids))
        yield gateway, pids


async def asked(gateway: Served, path: str, body: Any = None) -> Reply:
    call = await gateway.open(path, body)
    reply = await call.reply()
    call.peer.close()
    return reply


@scenario
async def test_nothing_is_left_when_we_are_killed(tmp_path: Path) -> None:
    async with served(tmp_path) as (gateway, pids):
        gateway.signal(signal.SIGKILL)
        await gateway.end()
        await until(lambda: not any(map(is_alive, pids)))


@scenario
async def test_at_our_end_requests_end_before_their_process_does(tmp_path: Path) -> None:
    async with served(tmp_path) as (gateway, pids):
        runs = await gateway.open(CHAT, chat("wait", "a"))
        async with asyncio.timeout(3.0):
            while (await asked(gateway, "/v1/status")).json["requests"]["active"] != 1:
                pass
        gateway.signal(signal.SIGTERM)
        assert (await runs.reply()).status == 200
        runs.peer.close()
        code, _ = await gateway.end()
        assert code == 0 and not any(map(is_alive, pids))


@scenario
async def test_one_model_is_served_by_a_process_and_by_an_ollama_that_gives_it_a_tag(tmp_path: Path) -> None:
    async with ollama("a:latest") as other:
        told = {"name": "there", "url": other.url}
        process = {"command": command("a", tmp_path), "preload": True}
        async with running(process, told, limits={"max_attempts": 1}) as gateway:
            other.loaded = []
            await gateway.runtime.fleet.backends["there"].look(1.0)
            gateway.runtime.fleet.drain("there", True)
            assert await said(gateway) == "a"
            assert len(noted(tmp_path, "a", "begins")) == 1
            for _ in range(2):
                await gateway.runtime.fleet.backends["managed"].look(1.0)
                assert await said(gateway) == "a"
            gateway.runtime.fleet.drain("there", False)
            gateway.runtime.fleet.drain("managed", True)
            assert await said(gateway) != "a"
            assert len(noted(tmp_path, "a", "begins")) == 1
