"""What was used, as it is told: one's own, everybody's to operators, after a restart too, and without a disk."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from threading import Thread, current_thread
from typing import Any

import pytest

from hermes.api import usage
from hermes.composition import ADMIN_SOCKET
from hermes.errors import ConfigError, StorageError
from hermes.storage import ledger
from hermes.storage.database import Database
from hermes.storage.schema import NAME
from tests.fakes.backend import ollama
from tests.fakes.gateway import CHAT, MESSAGES, Hermes, bearer, chat, hermes, key, scenario
from tests.fakes.owner import KEYS as ADMIN_KEYS
from tests.fakes.owner import ask, kept, made, shown
from tests.support import run, until

KEYS = [key("ann", rpm=2), key("bob"), key("ops", admin=True)]
USAGE = "/v1/usage"


def id_of(user: str) -> str:
    return str(key(user)["sha256"])[:12]


async def told(gateway: Hermes, user: str, asked: str = "") -> Any:
    reply = await gateway.ask(USAGE + asked, headers=bearer(user))
    assert reply.status == 200, reply.body
    return reply.json


async def use(gateway: Hermes) -> None:
    """Two of ann's and one that is refused, one of bob's."""
    statuses = [(await gateway.ask(CHAT, chat(), bearer(user))).status for user in ("ann", "ann", "ann", "bob")]
    assert statuses == [200, 200, 429, 200]


@scenario
async def test_everybody_is_told_his_own_use_and_operators_everybodys() -> None:
    """I21"""
    async with ollama() as backend, hermes(backend, keys=KEYS) as gateway:
        await use(gateway)
        records = [record for record in gateway.records if record.outcome == "ok"]
        ann = await told(gateway, "ann")
        (row,) = ann["data"]
        assert (row["key"], row["model"]) == (id_of("ann"), "gemma:latest")
        assert (row["requests"], row["refused"]) == (2, 1)
        assert row["prompt_tokens"] == records[0].tokens_in + records[1].tokens_in
        assert row["total_tokens"] == row["prompt_tokens"] + row["completion_tokens"] == ann["total"]["total_tokens"]
        everybody = await told(gateway, "ops")
        assert {row["key"] for row in everybody["data"]} == {id_of("ann"), id_of("bob")}
        assert everybody["total"]["requests"] == 3
        assert (await told(gateway, "ops", f"?key={id_of('bob')}"))["total"]["requests"] == 1
        assert (await told(gateway, "ops", "?model=phi"))["data"] == []
        assert (await told(gateway, "ops", "?since=2999-01-01"))["data"] == []


@pytest.mark.parametrize("asked", ["?since=yesterday", "?since=2026-1-1", "?key=another", "?since=2026-11-22&since=1"])
@scenario
async def test_what_cannot_be_asked_is_refused(asked: str) -> None:
    async with ollama() as backend, hermes(backend, keys=KEYS) as gateway:
        assert (await gateway.ask(USAGE + asked, headers=bearer("ann"))).status == 400


@scenario
async def test_without_keys_nobodys_use_is_counted_and_nothing_is_opened(tmp_path: Path) -> None:
    server = {"state_dir": str(tmp_path)}
    async with ollama() as backend, hermes(backend, server=server) as gateway:
        await gateway.ask(CHAT, chat())
        assert (await gateway.ask(USAGE)).json["data"] == []
    assert not await asyncio.to_thread((tmp_path / NAME).exists)


@scenario
async def test_an_idle_gateway_opens_no_database(tmp_path: Path) -> None:
    server = {"state_dir": str(tmp_path)}
    async with ollama() as backend, hermes(backend, server=server, keys=[key("ann", rpm=9)]) as gateway:
        assert (await gateway.ask(USAGE, headers=bearer("ann"))).json["data"] == []
    assert not await asyncio.to_thread((tmp_path / NAME).exists)


@pytest.mark.parametrize(
    "sections",
    [
        {"keys": [key("ann", daily_tokens=9)]},
        {"keys": [key("ann", per_model={"*": {"monthly_tokens": 9}})]},
        {"models": {"gemma": {"daily_tokens": 9}}},
    ],
)
@scenario
async def test_where_there_are_budgets_no_request_waits_for_the_database_to_be_opened(
    tmp_path: Path, sections: dict[str, Any]
) -> None:
    async with ollama() as backend, hermes(backend, server={"state_dir": str(tmp_path)}, **sections):
        assert await asyncio.to_thread((tmp_path / NAME).exists)


@scenario
async def test_what_was_used_is_there_after_a_restart_and_budgets_go_on_from_there(tmp_path: Path) -> None:
    keys, server = [key("ann", daily_tokens=1000), key("ops", admin=True)], {"state_dir": str(tmp_path)}
    async with ollama() as backend:
        for number in (1, 2):
            async with hermes(backend, keys=keys, server=server) as gateway:
                assert (await gateway.ask(CHAT, chat(), bearer("ann"))).status == 200
                total = (await told(gateway, "ann"))["total"]
                assert total["requests"] == number
                meter = gateway.runtime.meter
                assert meter is not None
                ((_, budget),) = meter.limiter.budgets()
                assert budget.used == total["total_tokens"]


@pytest.mark.parametrize(("path", "body"), [(CHAT, chat(max_tokens=5)), (MESSAGES, chat(max_tokens=5))])
def test_while_the_disk_is_full_requests_go_on_and_a_metric_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, body: dict[str, Any]
) -> None:
    """I32"""

    async def full(self: Database, work: object) -> None:
        raise StorageError("the disk is full")

    async def go() -> None:
        usual = Database.run
        keys, server = [key("ann", daily_tokens=1000), key("ops", admin=True)], {"state_dir": str(tmp_path)}
        async with ollama() as backend, hermes(backend, keys=keys, server=server) as gateway:
            monkeypatch.setattr(Database, "run", full)
            for _ in range(3):
                assert (await gateway.ask(path, body, bearer("ann"))).status == 200
            assert gateway.counted("hermes_ledger_failures_total")[()] >= 1
            assert gateway.counted("hermes_ledger_rows_unwritten") == {(): 1.0}
            reply = await gateway.ask(USAGE, headers=bearer("ann"))
            assert (reply.status, reply.error["code"]) == (503, "not_stored")
            monkeypatch.setattr(Database, "run", usual)
            await until(lambda: gateway.counted("hermes_ledger_rows_unwritten") == {(): 0.0}, limit_s=5.0)
            assert (await told(gateway, "ann"))["total"]["requests"] == 3

    run(go(), may_log_errors=True)


@scenario
async def test_nothing_is_read_or_rendered_on_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """I36: there may be very many rows."""
    threads: list[Thread] = []

    def seen(work: Callable[..., Any]) -> Callable[..., Any]:
        def note(*args: Any) -> Any:
            threads.append(current_thread())
            return work(*args)

        return note

    monkeypatch.setattr("hermes.storage.ledger.read", seen(ledger.read))
    monkeypatch.setattr("hermes.api.usage._render", seen(usage._render))
    for folder in ("off", str(tmp_path)):
        async with ollama() as backend, hermes(backend, keys=KEYS, server={"state_dir": folder}) as gateway:
            await use(gateway)
            assert (await told(gateway, "ann"))["total"]["requests"] == 2
    assert len(threads) == 4 and current_thread() not in threads


@scenario
async def test_a_key_is_found_by_its_name_too_and_a_model_with_its_tag_or_without(tmp_path: Path) -> None:
    async with ollama() as backend, hermes(backend, **kept(tmp_path, keys=KEYS)) as gateway:
        id, secret = await made(tmp_path, "editor")
        await use(gateway)
        assert (await gateway.ask(CHAT, chat(), shown(secret))).status == 200
        (row,) = (await told(gateway, "ops", "?key=editor"))["data"]
        assert (row["key"], row["name"]) == (id, "editor")
        assert (await gateway.ask(f"{USAGE}?key=editor", headers=shown(secret))).json["data"] == [row]
        assert (await gateway.ask(f"{USAGE}?key=ann", headers=shown(secret))).status == 400
        assert (await ask(tmp_path / ADMIN_SOCKET, f"{ADMIN_KEYS}/{id}", method="DELETE")).status == 200
        assert (await told(gateway, "ops", "?key=editor"))["data"] == [row]
        assert {row["name"] for row in (await told(gateway, "ops"))["data"]} == {"ann", "bob", "editor"}
        assert (await told(gateway, "ops", "?key=ann"))["total"]["requests"] == 2
        for model in ("gemma", "gemma:latest"):
            assert (await told(gateway, "ops", f"?model={model}"))["total"]["requests"] == 4
    async with ollama() as backend, hermes(backend, **kept(tmp_path, keys=KEYS)) as gateway:
        assert (await told(gateway, "ops", "?key=editor"))["total"]["requests"] == 1


@pytest.mark.parametrize("listed", ["gemma", "gemma:latest"])
@scenario
async def test_a_model_that_is_listed_is_found_with_its_tag_or_without_too(listed: str) -> None:
    async with ollama() as backend, hermes(backend, keys=KEYS, models={listed: {}}) as gateway:
        assert (await gateway.ask(CHAT, chat(), bearer("ann"))).status == 200
        for model in ("gemma", "gemma:latest"):
            assert (await told(gateway, "ops", f"?model={model}"))["total"]["requests"] == 1


@scenario
async def test_a_damaged_file_is_a_reason_not_to_start(tmp_path: Path) -> None:
    """I32"""
    await asyncio.to_thread((tmp_path / NAME).write_bytes, b"SQLite format 3\x00" + b"garbage" * 1000)
    async with ollama() as backend:
        with pytest.raises(ConfigError, match=NAME.replace(".", "[.]")):
            async with hermes(backend, server={"state_dir": str(tmp_path)}, keys=KEYS):
                pass
