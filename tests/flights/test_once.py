"""Idempotency keys (I30): one outcome, whatever becomes of connections and processes."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from hermes.errors import StorageError
from hermes.storage import idempotency
from hermes.storage.database import NAME
from tests.fakes.backend import DONE, FakeOllama, Then, ollama, play
from tests.fakes.gateway import CHAT, WHOLE, Hermes, bearer, chat, hermes, hold_slot, key, scenario
from tests.support import run, until

AGAIN = {"x-stainless-retry-count": "1"}


def once(named: str = "abc", **more: str) -> dict[str, str]:
    return {"Idempotency-Key": named, **more}


@asynccontextmanager
async def kept(folder: Path, **sections: Any) -> AsyncIterator[tuple[FakeOllama, Hermes]]:
    """A gateway with a place for what must not be lost."""
    async with ollama() as backend, hermes(backend, server={"state_dir": str(folder)}, **sections) as gateway:
        yield backend, gateway


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def copied(folder: Path) -> Path:
    """What would be left of it if its process were killed now."""
    copy = folder / "after"
    found = files_in(folder)
    copy.mkdir()
    for name, data in found.items():
        (copy / name).write_bytes(data)
    return copy


@pytest.mark.parametrize(("path", "body"), WHOLE)
@scenario
async def test_the_same_key_gets_the_same_answer_also_after_a_restart(
    tmp_path: Path, path: str, body: dict[str, Any]
) -> None:
    async with kept(tmp_path) as (backend, gateway):
        first, second = await gateway.ask(path, body, once()), await gateway.ask(path, body, once())
        assert (first.status, second.status) == (200, 200) and first.body == second.body
        assert ["idempotent-replayed" in reply.headers for reply in (first, second)] == [False, True]
        assert first.headers["x-request-id"] != second.headers["x-request-id"]
        assert len(backend.asked) == 1
        record = await gateway.record(1)
        assert (record.attempts, record.tokens_in, record.tokens_out) == (0, 7, 3)
        assert gateway.counted("hermes_tokens_total")["gemma:latest", "prompt"] == 7.0
    async with kept(tmp_path) as (backend, gateway):
        third = await gateway.ask(path, body, once())
        assert third.body == first.body and not backend.asked


@scenario
async def test_a_key_stands_for_one_request_of_one_owner(tmp_path: Path) -> None:
    async with kept(tmp_path, keys=[key("ann"), key("bob")]) as (backend, gateway):
        assert (await gateway.ask(CHAT, chat(), once(**bearer("ann")))).status == 200
        other = await gateway.ask(CHAT, chat("Ho"), once(**bearer("ann")))
        assert (other.status, other.error["code"]) == (422, "idempotency_key_reused")
        assert (await gateway.ask(CHAT, chat("Ho"), once(**bearer("bob")))).status == 200  # I21
        assert (await gateway.ask(CHAT, chat("Ho"), once("def", **bearer("ann")))).status == 200
        assert len(backend.asked) == 3


@scenario
async def test_while_it_runs_another_try_takes_it_over_and_nobody_else(tmp_path: Path) -> None:
    async with kept(tmp_path) as (backend, gateway):
        free = asyncio.Event()
        backend.scripts.append(play(free, "Hello", DONE))
        first = await gateway.open(CHAT, chat(), once())
        await backend.request(0)
        stranger = await gateway.ask(CHAT, chat(), once())
        assert (stranger.status, stranger.error["code"]) == (409, "idempotency_key_in_use")
        assert (await gateway.ask(CHAT, chat("Ho"), once(**AGAIN))).status == 422
        retry = await gateway.open(CHAT, chat(), once(**AGAIN))
        (flight,) = gateway.runtime.runs.running
        await until(lambda: len(flight.callers) == 2)
        first.leave()
        await until(lambda: len(flight.callers) == 1)
        free.set()
        assert (await retry.reply()).status == 200
        assert len(backend.asked) == 1


@scenario
async def test_once_its_caller_is_gone_the_run_waits_for_another_and_then_ends(tmp_path: Path) -> None:
    """I9: within a second."""
    async with kept(tmp_path) as (backend, gateway):
        free = asyncio.Event()
        backend.scripts += [play(free, "Hello", DONE), play("Hel", then=Then.STALL)]
        first = await gateway.open(CHAT, chat(), once())
        await backend.request(0)
        (flight,) = gateway.runtime.runs.running
        first.leave()
        await until(lambda: not flight.callers)
        retry = await gateway.open(CHAT, chat(), once())
        await until(lambda: flight.callers)
        free.set()
        assert (await retry.reply()).status == 200 and len(backend.asked) == 1
        left = await gateway.open(CHAT, chat(), once("def"))
        asked = await backend.request(1)
        left.leave()
        async with asyncio.timeout(1):
            await asked.left.wait()


@scenario
async def test_what_failed_has_no_outcome_and_leaves_no_record(tmp_path: Path) -> None:
    async with kept(tmp_path, limits={"max_attempts": 1}) as (backend, gateway):
        backend.scripts.append(play("Hel", then=Then.CUT))
        assert (await gateway.ask(CHAT, chat(), once())).status == 502
        assert (await gateway.ask(CHAT, chat(), once())).status == 200
        assert len(backend.asked) == 2
        backend.scripts.append(play("Hel", then=Then.CUT))
        assert (await gateway.ask(CHAT, chat(), once("def"))).status == 502
        assert (await gateway.ask(CHAT, chat("Ho"), once("def"))).status == 200  # the key was not used up


@scenario
async def test_who_is_refused_pushes_out_nobodys_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """I21, I6: a refusal leaves nothing behind."""
    monkeypatch.setattr(idempotency, "MAX_RECORDS", 5)
    keys = [key("ann"), key("bob", rpm=1)]
    async with kept(tmp_path, keys=keys) as (_, gateway):
        for number in range(3):
            assert (await gateway.ask(CHAT, chat(), once(f"a{number}", **bearer("ann")))).status == 200
        statuses = [
            (await gateway.ask(CHAT, chat(), once(f"b{number}", **bearer("bob")))).status for number in range(9)
        ]
        assert statuses == [200] + [429] * 8
        again = [await gateway.ask(CHAT, chat(), once(f"a{number}", **bearer("ann"))) for number in range(3)]
        assert ["idempotent-replayed" in reply.headers for reply in again] == [True] * 3
        stored = sqlite3.connect(tmp_path / NAME).execute("SELECT count(*) FROM idempotency").fetchone()
        assert stored == (4,)


@scenario
async def test_a_run_that_a_crash_has_cut_runs_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record is on the disk before the run begins: what a process that was killed leaves is that."""
    monkeypatch.setattr("hermes.flights.once.LINGER_S", 0.01)
    async with kept(tmp_path) as (backend, gateway):
        backend.scripts.append(play("Hel", then=Then.STALL))
        call = await gateway.open(CHAT, chat(), once())
        await backend.request(0)
        folder = copied(tmp_path)
        call.leave()
    async with kept(folder) as (backend, gateway):
        assert (await gateway.ask(CHAT, chat("Ho"), once())).status == 422  # it is there
        assert (await gateway.ask(CHAT, chat(), once())).status == 200
        assert (await gateway.ask(CHAT, chat(), once())).status == 200
        assert len(backend.asked) == 1


@scenario
async def test_the_answer_is_on_the_disk_before_it_is_sent(tmp_path: Path) -> None:
    async with kept(tmp_path) as (_, gateway):
        reply = await gateway.ask(CHAT, chat("a prompt of mine"), once("a-key-of-mine"))
        stored = sqlite3.connect(tmp_path / NAME).execute("SELECT * FROM idempotency").fetchall()
        assert len(stored) == 1 and reply.body in stored[0]
        everything = b"".join(files_in(tmp_path).values())
        assert b"a prompt of mine" not in everything and b"a-key-of-mine" not in everything


def test_what_cannot_be_kept_is_not_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """I32"""

    async def fail(work: object) -> None:
        raise StorageError("the disk is full")

    async def ask() -> None:
        async with kept(tmp_path) as (backend, gateway):
            assert (await gateway.ask(CHAT, chat(), once("first"))).status == 200
            monkeypatch.setattr(gateway.runtime.store.database(), "run", fail)
            reply = await gateway.ask(CHAT, chat(), once())
            assert (reply.status, reply.error["code"]) == (503, "not_stored")
            assert len(backend.asked) == 1  # nothing was begun that could not be promised
            assert (await gateway.ask(CHAT, chat())).status == 200

    run(ask(), may_log_errors=True)


@scenario
async def test_who_waits_in_the_queue_holds_the_key_too(tmp_path: Path) -> None:
    async with kept(tmp_path) as (backend, gateway):
        free = asyncio.Event()
        holder = await hold_slot(gateway, backend, free)
        call = await gateway.open(CHAT, chat(), once())
        await gateway.until_waiting(1)
        assert (await gateway.ask(CHAT, chat(), once())).status == 409
        assert gateway.waiting == 1
        free.set()
        assert ((await holder.reply()).status, (await call.reply()).status) == (200, 200)


@scenario
async def test_many_first_tries_at_once_are_one_run(tmp_path: Path) -> None:
    async with kept(tmp_path) as (backend, gateway):
        free = asyncio.Event()
        backend.scripts.append(play(free, "Hello", DONE))
        calls = [await gateway.open(CHAT, chat(), once()) for _ in range(10)]
        await backend.request(0)
        await until(lambda: len(gateway.records) == 9)
        free.set()
        replies = [await call.reply() for call in calls]
        assert sorted(reply.status for reply in replies) == [200] + [409] * 9
        assert len(backend.asked) == 1


@scenario
async def test_streams_and_gateways_that_keep_nothing_take_no_notice_of_a_key(tmp_path: Path) -> None:
    async with kept(tmp_path) as (backend, gateway):
        replies = [await gateway.ask(CHAT, chat(stream=True), once()) for _ in range(2)]
        assert [reply.status for reply in replies] == [200, 200] and len(backend.asked) == 2
        assert not (tmp_path / NAME).exists()
    async with ollama() as backend, hermes(backend) as gateway:
        replies = [await gateway.ask(CHAT, chat(), once()) for _ in range(2)]
        assert [reply.status for reply in replies] == [200, 200] and len(backend.asked) == 2
