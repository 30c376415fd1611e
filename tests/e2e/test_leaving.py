"""A client that leaves, in whatever phase: the backend sees it within a second, and nothing is held then (I2, I9)."""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest

from hermes.http.origin import Origin
from tests.fakes.backend import FakeOllama, Script, Then, endless, ollama, play
from tests.fakes.gateway import CHAT, PROMPT, Call, Hermes, chat, hermes, prompt, scenario
from tests.http.peers import Peer

PIECE = b'{"message":{"content":"Hel"},"done":false}\n'

# script, whether the answer streams, the status that the client has got when it leaves (-1: or none)
PHASES: dict[str, tuple[Script, bool, int]] = {
    "whole, before the head": (play(then=Then.STALL), False, 0),
    "whole, in the body": (play("Hel", then=Then.STALL), False, 0),
    "stream, before the head": (play(then=Then.STALL), True, 0),
    "stream, before content": (play(b"\n", then=Then.STALL), True, 0),
    "stream, in a pause": (play("Hel", then=Then.STALL), True, 200),
    "stream, while it flows": (endless(PIECE), True, 200),
    "stream, unread": (endless(PIECE * 100), True, -1),
}

WAYS: dict[str, Callable[[Peer], None]] = {"reset": Peer.reset, "close": Peer.close, "half": Peer.finish}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize(("script", "stream", "status"), PHASES.values(), ids=PHASES)
@pytest.mark.parametrize("path", [PROMPT, CHAT], ids=["prompt", "openai"])
@scenario
async def test_the_backend_sees_a_client_leave(
    path: str, script: Script, stream: bool, status: int, way: Callable[[Peer], None]
) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        backend.default = script
        body = prompt(stream=stream) if path == PROMPT else chat(stream=stream)
        call = await gateway.open(path, body)
        asked = await backend.request(0)
        if status == 200:
            await call.head()
            await call.piece()
        way(call.peer)
        await check_gone(gateway, asked.left)
        record = await gateway.record()
        assert (record.outcome, record.attempts, record.backend) == ("client_gone", 1, "b0")
        assert record.status == status or status == -1
        assert gateway.attempts() == {("b0", "cancelled"): 1}


async def check_gone(gateway: Hermes, left: asyncio.Event) -> None:
    async with asyncio.timeout(1.0):
        await left.wait()
    await gateway.settle()


@scenario
async def test_a_client_that_leaves_the_queue_never_reaches_the_backend() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        backend.default = play(then=Then.STALL)
        runs = await gateway.open(PROMPT, prompt())
        await backend.request(0)
        waits = [await gateway.open(PROMPT, prompt(stream=number % 2 == 0)) for number in range(4)]
        await gateway.until_waiting(4)
        for call in waits:
            call.leave()
        await gateway.until_waiting(0)
        runs.leave()
        await gateway.settle()
        assert len(backend.asked) == 1
        assert {record.outcome for record in gateway.records} == {"client_gone"}


@scenario
async def test_a_client_that_leaves_while_we_connect_ends_the_connecting() -> None:
    """The backend accepts and then says nothing to the TLS greeting."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.setblocking(False)
        async with ollama() as backend, hermes(backend) as gateway:
            watched = gateway.runtime.fleet.backends["b0"]
            await watched.look(20.0)  # and then not for seconds: who connects is the client's request
            pool = watched.driver.pool
            for connection in list(pool._open):
                connection.abort()
            pool.origin = Origin.parse(f"https://127.0.0.1:{silent.getsockname()[1]}")
            call = await gateway.open(PROMPT, prompt())
            sock, _ = await asyncio.get_running_loop().sock_accept(silent)
            greeted = Peer(sock)
            assert await greeted.receive()
            call.leave()
            async with asyncio.timeout(1.0):
                await greeted.gone()
            greeted.close()
            assert (await gateway.record()).outcome == "client_gone"


@scenario
async def test_a_slot_goes_to_the_next_when_its_holder_leaves() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        backend.scripts += [play("Hel", then=Then.STALL)]
        first = await gateway.open(PROMPT, prompt(stream=True))
        await first.head()
        second = await gateway.open(PROMPT, prompt())
        await gateway.until_waiting(1)
        first.leave()
        assert (await second.reply()).status == 200


@scenario
async def test_who_leaves_after_the_last_byte_has_had_its_answer() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        call = await gateway.open(PROMPT, prompt())
        await call.reply()
        call.leave()
        assert (await gateway.record()).outcome == "ok"


@scenario
async def test_a_pipelined_request_goes_with_its_connection() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        backend.default = play(then=Then.STALL)
        call = await gateway.open(PROMPT, prompt())
        await backend.request(0)
        await gateway.open(PROMPT, prompt(), on=call.peer)
        call.leave()
        await check_gone(gateway, backend.asked[0].left)
        assert len(backend.asked) == len(gateway.records) == 1


async def flood(gateway: Hermes, backend: FakeOllama, count: int) -> list[Call]:
    bodies: list[Any] = [prompt(stream=number % 2 == 0) for number in range(count)]
    return [await gateway.open(PROMPT, body) for body in bodies]


@scenario
async def test_of_a_hundred_that_leave_at_any_moment_none_leaves_a_trace() -> None:
    """I2, I3: while slots are given, used and freed."""
    async with ollama() as backend, hermes(backend, defaults={"max_concurrency": 3}) as gateway:
        for turn in range(5):
            calls = await flood(gateway, backend, 20)
            for step, call in enumerate(calls):
                for _ in range(step % 7 + turn):
                    await asyncio.sleep(0)
                if step % 3:
                    call.leave()
            for step, call in enumerate(calls):
                if step % 3 == 0:
                    assert (await call.reply()).status == 200
        await gateway.settle()
        assert len(gateway.records) == 100
        assert backend.most_running <= 3
