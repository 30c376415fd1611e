"""What a key had begun when it was taken away: what waits is sent away, what runs ends as it would (I17)."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from hermes.composition import ADMIN_SOCKET
from tests.fakes.backend import DONE, FakeOllama, ollama, play
from tests.fakes.gateway import CHAT, STREAMS, WHOLE, Hermes, bearer, chat, hermes, hold_slot, key, scenario
from tests.fakes.owner import KEYS, ask, kept, made, shown
from tests.support import until

STATIC = [key("ops", admin=True), key("ann"), key("bob")]


async def take_away(gateway: Hermes, backend: FakeOllama, folder: Path, id: str) -> None:
    """A stored key, or, without an id, ann's of the configuration."""
    if id:
        assert (await ask(folder / ADMIN_SOCKET, f"{KEYS}/{id}", method="DELETE")).status == 200
    else:
        await gateway.reload(backend, **kept(folder, keys=[each for each in STATIC if each["user"] != "ann"]))


@pytest.mark.parametrize(("path", "body"), WHOLE + STREAMS)
@pytest.mark.parametrize("stored", [True, False])
@scenario
async def test_what_waits_by_a_key_that_is_taken_away_does_not_start(
    tmp_path: Path, path: str, body: dict[str, Any], stored: bool
) -> None:
    async with ollama() as backend, hermes(backend, **kept(tmp_path, keys=STATIC)) as gateway:
        id, secret = await made(tmp_path) if stored else ("", "sk-ann")
        free = asyncio.Event()
        holder = await hold_slot(gateway, backend, free, bearer("ops"))
        call = await gateway.open(path, body, shown(secret))
        other = await gateway.open(path, body, bearer("bob"))
        await gateway.until_waiting(2)
        await take_away(gateway, backend, tmp_path, id)
        reply = await call.reply()
        assert (reply.status, reply.error["code"]) == (401, "invalid_api_key")
        await until(lambda: "denied" in [record.outcome for record in gateway.records])
        free.set()
        assert ((await holder.reply()).status, (await other.reply()).status) == (200, 200)
        assert len(backend.asked) == 2


@scenario
async def test_a_stream_that_has_had_signs_of_life_is_told_so_and_cut(tmp_path: Path) -> None:
    sections = kept(tmp_path, keys=STATIC, scheduling={"queue_heartbeat_s": 0.02})
    async with ollama() as backend, hermes(backend, **sections) as gateway:
        id, secret = await made(tmp_path)
        holder = await hold_slot(gateway, backend, headers=bearer("ops"))
        call = await gateway.open(CHAT, chat(stream=True), shown(secret))
        assert await call.head() == 200
        await take_away(gateway, backend, tmp_path, id)
        events = await call.events()
        assert events[-1]["error"]["code"] == "invalid_api_key" and not call.whole
        holder.leave()


@scenario
async def test_what_runs_may_end(tmp_path: Path) -> None:
    async with ollama() as backend, hermes(backend, **kept(tmp_path, keys=STATIC)) as gateway:
        id, secret = await made(tmp_path)
        free = asyncio.Event()
        backend.scripts.append(play("Hel", free, "lo", DONE))
        call = await gateway.open(CHAT, chat(), shown(secret))
        await backend.request(0)
        await take_away(gateway, backend, tmp_path, id)
        free.set()
        assert (await call.reply()).status == 200


@scenario
async def test_of_those_who_wait_for_a_shared_run_only_his_own_leaves(tmp_path: Path) -> None:
    sections = kept(tmp_path, keys=STATIC, defaults={"cache": True}, cache={"scope": "all"})
    async with ollama() as backend, hermes(backend, **sections) as gateway:
        id, secret = await made(tmp_path)
        free = asyncio.Event()
        holder = await hold_slot(gateway, backend, free, bearer("ops"))
        same = chat(temperature=0)
        call = await gateway.open(CHAT, same, shown(secret))
        await gateway.until_waiting(1)
        other = await gateway.open(CHAT, same, bearer("bob"))
        (flight,) = gateway.runtime.runs.running
        await until(lambda: len(flight.callers) == 2)
        await take_away(gateway, backend, tmp_path, id)
        assert (await call.reply()).status == 401
        free.set()
        assert ((await holder.reply()).status, (await other.reply()).status) == (200, 200)
        assert len(backend.asked) == 2
