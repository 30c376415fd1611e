"""`hermes top` on a terminal, which is given back as it was; and that it shows what the server tells."""

import fcntl
import json
import signal
import struct
import termios
from typing import Any

import pytest

from hermes.api import live
from hermes.auth import Table
from hermes.cli.top.sight import LATELY_S, Tenants, see
from tests.cli.sights import GIB
from tests.cli.terminal import top
from tests.cli.verbs import Run, ask
from tests.fakes.backend import ollama
from tests.fakes.gateway import hermes, hold_slot, key, scenario


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "EVERY_S", 0.02)


# --- what is seen -----------------------------------------------------------------------------------------------------


@scenario
async def test_what_a_server_tells_is_what_is_seen() -> None:
    async with ollama("gemma3:12b", "phi:latest") as backend:
        backend.loaded = backend.loaded[:1]
        models = {"gemma": {"backend_model": "gemma3:12b"}}
        backends = [{"name": "b0", "url": backend.url, "memory": "20GiB", "slots": 1, "max_loaded": 1}]
        async with hermes(backends=backends, models=models) as gateway:
            runs = await hold_slot(gateway, backend)
            waits = await gateway.open(
                "/v1/llm/phi", {"prompt": "Hi"}, {"x-request-id": "mine", "x-hermes-class": "batch"}
            )
            await gateway.until_waiting(1)
            events = await gateway.open("/v1/events")
            assert await events.head() == 200
            told = (await events.piece()).partition(b"\ndata: ")[2]
            seen = see(json.loads(told), ["phi:latest", "gemma"])
            assert (seen.running, seen.waiting, seen.status) == (1, 1, "ok")
            (memory,) = seen.memory
            assert (memory.capacity, memory.parts) == (20 * GIB, (("gemma3:12b", 2 * GIB),))
            assert memory.notes == ("about to load phi:latest in place of gemma3:12b",)
            gemma, phi = seen.models
            assert (gemma.name, gemma.where, gemma.running, gemma.slots) == ("gemma", ("b0",), 1, 1)
            assert (phi.name, phi.state, phi.waiting) == ("phi:latest", "to load", (0, 0, 1))
            assert phi.next_ms == phi.last_ms is not None
            assert [(each.model, each.waits) for each in seen.requests] == [("gemma", False), ("phi:latest", True)]
            assert seen.requests[1].name == "mine" and seen.requests[1].words.startswith("waits as 1, ")
            for call in (runs, waits, events):
                call.leave()


def record(name: str, user: str, tokens: int, at: float) -> dict[str, Any]:
    return {
        "request_id": name,
        "user": user,
        "created_at": at,
        "duration_ms": 1000,
        "tokens_in": 1,
        "tokens_out": tokens - 1,
    }


def test_tenants_are_told_by_the_tokens_of_what_has_ended_lately_each_request_once() -> None:
    tenants = Tenants()
    tenants.add([record("a", "ann", 5, 0.0), record("b", "bob", 7, 100.0), record("c", "ann", 3, 100.0)])
    tenants.add([record("b", "bob", 7, 100.0)])
    tenants.add([{"request_id": "d", "user": "eve", "created_at": 100.0, "duration_ms": 0}])  # refused
    assert tenants.lately(101.0) == [("ann", 8), ("bob", 7)]
    assert tenants.lately(1.0 + LATELY_S + 1) == [("bob", 7), ("ann", 3)]
    assert tenants.lately(101.0 + LATELY_S + 1) == []


# --- on a terminal ----------------------------------------------------------------------------------------------------


@scenario
async def test_once_prints_how_it_is_and_json_what_is_told(verb: Run) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        result = await ask(verb, gateway, "top", "--once")
        assert result.exit_code == 0 and result.stdout.startswith("Hermes 0.1.0 at 127.0.0.1:")
        assert "\ngemma:latest " in result.stdout and "\x1b" not in result.stdout
        told = json.loads((await ask(verb, gateway, "top", "--once", "--json")).stdout)
        assert (told["status"], told["queue"]) == ("ok", {"lines": [], "requests": []})
        nowhere = await ask(verb, gateway, "top")
        assert (nowhere.exit_code, "--once" in nowhere.stderr) == (2, True)


@scenario
async def test_a_request_is_cancelled_by_keys_and_q_gives_the_terminal_back() -> None:
    async with ollama() as backend, hermes(backend) as gateway, top(gateway) as terminal:
        await terminal.shows("nothing runs or waits")
        runs = await hold_slot(gateway, backend, headers={"x-request-id": "mine"})
        await terminal.shows("runs on b0")
        terminal.press("\t")
        terminal.press("c")
        await terminal.shows("cancel mine of anonymous for gemma:latest? y: yes")
        terminal.press("\x1b")
        await terminal.shows("q: quit")  # no question any more
        terminal.press("c")
        await terminal.shows("cancel mine of anonymous for gemma:latest? y: yes")
        terminal.press("y")
        await terminal.shows("mine is cancelled")
        assert (await runs.reply()).status == 499
        terminal.press("q")
        assert await terminal.ended() == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
@scenario
async def test_a_signal_gives_the_terminal_back(number: signal.Signals, code: int) -> None:
    async with ollama() as backend, hermes(backend) as gateway, top(gateway) as terminal:
        await terminal.shows("nothing runs or waits")
        terminal.process.send_signal(number)
        assert await terminal.ended() == code


@scenario
async def test_ctrl_z_lends_the_terminal_and_fg_takes_it_back() -> None:
    async with ollama() as backend, hermes(backend) as gateway, top(gateway) as terminal:
        await terminal.shows("nothing runs or waits")
        terminal.process.send_signal(signal.SIGTSTP)
        await terminal.stopped()
        terminal.is_given_back()
        terminal.process.send_signal(signal.SIGCONT)
        await terminal.shows("nothing runs or waits")
        terminal.press("q")
        assert await terminal.ended() == 0


@scenario
async def test_who_is_no_hermes_any_more_gives_the_terminal_back_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ollama() as backend, hermes(backend) as gateway, top(gateway) as terminal:
        await terminal.shows("nothing runs or waits")
        monkeypatch.setattr(gateway.runtime.front.live, "_state", lambda principal: {"no": "state"})
        assert await terminal.ended() == 1
        assert "is no Hermes" in terminal.shown[terminal.shown.rfind("\x1b[?1049l") :]


@scenario
async def test_a_lost_connection_is_told_and_made_again_and_a_key_that_is_gone_ends_it() -> None:
    keys = {"keys": [key("ann")]}
    async with (
        ollama() as backend,
        hermes(backend, **keys) as gateway,
        top(gateway, HERMES_API_KEY="sk-ann") as terminal,
    ):
        await terminal.shows("nothing runs or waits")
        gateway.runtime.front.live.close()
        await terminal.shows("LOST at ")
        gateway.runtime.front.live._closing = False
        await terminal.shows("Hermes 0.1.0 at ")
        gateway.runtime.people.table = Table({})
        assert await terminal.ended() == 1
        assert "HERMES_API_KEY" in terminal.shown[terminal.shown.rfind("\x1b[?1049l") :]


@scenario
async def test_it_is_drawn_anew_when_the_terminal_has_another_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "EVERY_S", 60.0)
    async with ollama() as backend, hermes(backend) as gateway, top(gateway) as terminal:
        await terminal.shows("nothing runs or waits")
        fcntl.ioctl(terminal.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 132, 0, 0))
        terminal.process.send_signal(signal.SIGWINCH)
        await terminal.shows("q: quit" + " " * (132 - 77))
