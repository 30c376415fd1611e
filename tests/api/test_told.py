"""What the head of an answer tells of how long it took, and where it ran."""

import asyncio
import re
from typing import Any

import pytest

from tests.fakes.backend import DONE, Asked, FakeOllama, Script, Then, fail, ollama, play
from tests.fakes.gateway import (
    CHAT,
    PROMPT,
    STREAMS,
    WHOLE,
    Call,
    Reply,
    chat,
    hermes,
    hold_slot,
    prompt,
    request_bytes,
    scenario,
)

TELLING = {"x-hermes-queue-ms", "x-hermes-queue-position", "x-hermes-eta-ms", "x-hermes-backend", "x-hermes-loaded"}
ASKED = WHOLE + STREAMS


def told(headers: dict[str, str]) -> dict[str, str]:
    """What is told, all of it or nothing."""
    found = {name: value for name, value in headers.items() if name.startswith("x-hermes-")}
    assert found.keys() in (set(), TELLING)
    assert bool(found) == ("server-timing" in headers)
    return {name.removeprefix("x-hermes-"): value for name, value in found.items()}


def timings(reply: Reply) -> dict[str, int]:
    """Milliseconds by what took them."""
    timing = reply.headers["server-timing"]
    assert re.fullmatch(r"queue;dur=\d+, load;dur=\d+, ttft;dur=\d+", timing)
    return {name: int(took) for name, took in re.findall(r"(\w+);dur=(\d+)", timing)}


@pytest.mark.parametrize(("path", "body"), ASKED)
@scenario
async def test_an_answer_tells_where_it_came_from_and_that_nothing_was_waited_for(
    path: str, body: dict[str, Any]
) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        reply = await gateway.ask(path, body)
        wait = told(reply.headers)
        assert int(wait.pop("queue-ms")) < 50
        assert wait == {"queue-position": "0", "eta-ms": "0", "backend": "b0", "loaded": "hit"}
        assert timings(reply).keys() == {"queue", "load", "ttft"}


@pytest.mark.parametrize(("path", "body"), ASKED)
@scenario
async def test_who_waited_is_told_how_long_and_how_long_it_was_thought_to(path: str, body: dict[str, Any]) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        free, go = asyncio.Event(), asyncio.Event()
        backend.default = play(go, "Hel", DONE)
        runs = await hold_slot(gateway, backend, free)
        first = await gateway.open(PROMPT, prompt())
        await gateway.until_waiting(1)
        waits = await gateway.open(path, body)
        await gateway.until_waiting(2)
        asyncio.get_running_loop().call_later(0.1, free.set)
        await backend.request(1)
        asyncio.get_running_loop().call_later(0.1, go.set)
        reply = await waits.reply()
        wait = told(reply.headers)
        assert (wait["queue-position"], wait["backend"], wait["loaded"]) == ("2", "b0", "hit")
        assert 180 <= int(wait["queue-ms"]) < 2000
        assert int(wait["eta-ms"]) > 0
        took = timings(reply)
        assert (took["queue"], took["load"]) == (int(wait["queue-ms"]), 0)
        assert took["ttft"] >= took["queue"]
        for call in (runs, first):
            assert (await call.reply()).status == 200


@scenario
async def test_the_head_of_a_stream_tells_how_long_its_first_bytes_took() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        go = asyncio.Event()
        backend.default = play(b"\n", go, "Hel", DONE)
        call = await gateway.open(PROMPT, prompt(stream=True))
        await backend.request(0)
        asyncio.get_running_loop().call_later(0.1, go.set)
        assert timings(await call.reply())["ttft"] >= 95


def slow_load(backend: FakeOllama) -> Script:
    async def script(asked: Asked) -> None:
        await asyncio.sleep(0.02)
        await backend._manage(asked)

    return script


@scenario
async def test_a_load_is_told_and_a_swap_as_one() -> None:
    async with ollama("gemma:latest", "phi:latest") as backend:
        backend.loaded.clear()
        backend.management["/api/generate"] = slow_load(backend)
        own = {"name": "b0", "url": backend.url, "max_loaded": 1}
        async with hermes(backends=[own]) as gateway:
            found = []
            for name in ("gemma", "gemma", "phi"):
                reply = await gateway.ask(f"/v1/llm/{name}", prompt())
                assert reply.status == 200
                wait = told(reply.headers)
                found.append(wait["loaded"])
                took = timings(reply)
                assert wait["queue-position"] == ("0" if wait["loaded"] == "hit" else "1")
                assert took["queue"] >= took["load"] >= (0 if wait["loaded"] == "hit" else 15)
            assert found == ["load", "hit", "swap"]


REFUSED: list[tuple[str, Any, dict[str, str], int]] = [
    (PROMPT, prompt(options={"temperature": 9}), {}, 400),
    (PROMPT, b"{", {}, 400),
    (PROMPT, prompt(), {"x-hermes-class": "urgent"}, 400),
    ("/v1/llm/nobody", prompt(), {}, 404),
    (PROMPT, prompt(), {}, 429),
    (CHAT, chat(stream=True), {}, 429),
]


@pytest.mark.parametrize(("path", "body", "headers", "status"), REFUSED)
@scenario
async def test_who_never_ran_is_told_nothing_of_it(path: str, body: Any, headers: dict[str, str], status: int) -> None:
    async with ollama() as backend, hermes(backend, defaults={"queue_limit": 0}) as gateway:
        backend.default = play(then=Then.STALL)
        runs = await gateway.open(PROMPT, prompt())
        await backend.request(0)
        reply = await gateway.ask(path, body, headers)
        assert (reply.status, told(reply.headers)) == (status, {})
        runs.leave()


@pytest.mark.parametrize(("path", "body"), STREAMS)
@pytest.mark.parametrize("before", [(), (b"\n",), ("",)], ids=["nothing", "a blank line", "an empty piece"])
@scenario
async def test_a_stream_that_fails_before_its_first_byte_has_the_status_of_its_error(
    path: str, body: dict[str, Any], before: tuple[Any, ...]
) -> None:
    """`before`: what came and gave nothing to send."""
    async with ollama() as backend, hermes(backend, limits={"max_attempts": 1}) as gateway:
        backend.default = play(*before, {"error": "out of memory"})
        reply = await gateway.ask(path, body)
        assert (reply.status, reply.error["code"]) == (502, "backend_error")
        assert reply.headers["content-type"] == "application/json"
        assert told(reply.headers) == {}


@pytest.mark.parametrize(("path", "body"), ASKED)
@scenario
async def test_a_client_of_http_1_0_is_told_the_same(path: str, body: dict[str, Any]) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        peer = await gateway.connect()
        await peer.send(request_bytes("POST", path, body, {}).replace(b"HTTP/1.1", b"HTTP/1.0"))
        reply = await Call(peer).reply()
        assert (reply.status, told(reply.headers)["backend"]) == (200, "b0")
        assert b"Hel" in reply.body and "transfer-encoding" not in reply.headers


@scenario
async def test_after_a_failed_attempt_it_tells_of_the_one_that_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hermes.fleet.backend.HICCUP_S", 0.0)
    async with ollama() as one, ollama() as two, hermes(one, two) as gateway:
        one.default = two.default = play("Hel", DONE)
        one.scripts.append(fail(500, "out of memory"))
        two.scripts.append(fail(500, "out of memory"))
        reply = await gateway.ask(PROMPT, prompt())
        assert reply.status == 200
        record = await gateway.record()
        assert told(reply.headers)["backend"] == record.backend


@scenario
async def test_who_waited_and_was_tried_again_is_told_of_its_first_wait() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        free = asyncio.Event()
        runs = await hold_slot(gateway, backend, free)
        backend.scripts.append(fail(500, "out of memory"))
        waits = await gateway.open(PROMPT, prompt())
        await gateway.until_waiting(1)
        asyncio.get_running_loop().call_later(0.1, free.set)
        reply = await waits.reply()
        wait = told(reply.headers)
        assert (reply.status, wait["queue-position"]) == (200, "1")
        assert int(wait["queue-ms"]) >= 95 and int(wait["eta-ms"]) > 0
        assert (await runs.reply()).status == 200
        assert (await gateway.record(1)).attempts == 2


@pytest.mark.parametrize("waits_first", [True, False])
@scenario
async def test_who_was_tried_again_and_had_to_wait_anew_is_told_what_it_was_told_when_it_came(
    waits_first: bool,
) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        free, go, gone = asyncio.Event(), asyncio.Event(), asyncio.Event()
        ahead = 0
        if waits_first:
            await hold_slot(gateway, backend, free)
            backend.scripts.append(play("Hel", DONE))
            await gateway.open(PROMPT, prompt())
            await gateway.until_waiting(1)
            ahead = 2
        backend.scripts += [play(go, {"error": "out of memory"}), play(gone, "Hel", DONE)]
        tried_twice = await gateway.open(PROMPT, prompt(), {"x-request-id": "tried-twice"})
        await (gateway.until_waiting(2) if waits_first else backend.request(0))
        await gateway.open(PROMPT, prompt())  # takes the slot when that fails
        await gateway.until_waiting(ahead + 1)
        free.set()
        await backend.request(ahead)
        go.set()
        await backend.request(ahead + 1)
        await gateway.until_waiting(1)
        past = (await gateway.ask("/v1/requests/tried-twice")).json
        gone.set()
        reply = await tried_twice.reply()
        wait = told(reply.headers)
        assert (reply.status, wait["queue-position"], wait["eta-ms"] != "0") == (200, str(ahead), waits_first)
        assert past["why"]["position"] == (ahead or 1)
