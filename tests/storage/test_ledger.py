"""The ledger: what was counted is soon on the disk, and once, or kept until it can be; budgets are ahead of use."""

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hermes.errors import StorageError
from hermes.policy.limits import BLOCKS, Budget, Moment
from hermes.storage import ledger as module
from hermes.storage.database import Database
from hermes.storage.ledger import OTHER, Batch, Ledger
from hermes.storage.schema import NAME
from hermes.storage.store import Store
from hermes.storage.usage import Key, Use, Used, Wanted
from tests.fakes.gateway import scenario
from tests.support import run, until

DAY = "2026-11-22"
ANN, GEMMA = frozenset(["ann"]), frozenset(["gemma", "gemma:latest"])
NOON = Moment(0.0, 1795348800.0)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WRITE_AFTER_S", "RETRY_AFTER_S"):
        monkeypatch.setattr(module, name, 0.02)


def opened(folder: Path | None) -> tuple[Ledger, Store]:
    store = Store(folder)
    return Ledger(store, asyncio.get_running_loop()), store


async def told(ledger: Ledger, since: str, **more: Any) -> dict[Key, Use]:
    """All rows, which add up."""
    used = await ledger.usage(Wanted(since, **more))
    total = Use()
    for use in used.rows.values():
        total.add(use)
    assert used.total == total and not used.has_more
    return used.rows


def on_disk(folder: Path) -> dict[tuple[str, str, str], tuple[int, ...]]:
    """What another process would find."""
    with sqlite3.connect(folder / NAME) as connection:
        rows = connection.execute("SELECT * FROM usage").fetchall()
    connection.close()
    return {(day, key, model): tuple(numbers) for day, key, model, *numbers in rows}


class Disk:
    """Stands before a database; `state` is well, full, torn (full once the commit is on the disk), or hanging."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.state = "well"
        self.tries = 0
        self.goes_on = asyncio.Event()
        usual = Database.run

        async def run(database: Database, work: Callable[[sqlite3.Connection], Any]) -> Any:
            self.tries += 1
            if self.state == "hanging":
                await self.goes_on.wait()
            if self.state == "full":
                raise StorageError("the disk is full")
            result = await usual(database, work)
            if self.state == "torn":
                raise StorageError("the disk is full")
            return result

        monkeypatch.setattr(Database, "run", run)


@scenario
async def test_nothing_is_opened_before_there_is_something_to_write(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    ledger, store = opened(folder)
    assert await told(ledger, DAY) == {} == await ledger.earlier(DAY)
    await ledger.close()
    store.close()
    assert not store.exists and not await asyncio.to_thread(folder.exists)


def test_what_was_counted_is_on_the_disk_soon_and_there_after_a_restart(tmp_path: Path) -> None:
    @scenario
    async def count() -> None:
        ledger, store = opened(tmp_path)
        for number in range(3):
            ledger.row(DAY, "ann", "gemma").add(Use(1, 10, 5, number))
        assert ledger.unwritten == 1
        await until(lambda: not ledger.unwritten)
        assert on_disk(tmp_path) == {(DAY, "ann", "gemma"): (3, 30, 15, 3)}
        ledger.row(DAY, "ann", "gemma").add(Use(1, 1, 1))
        ledger.row("2026-11-23", "bob", "phi").add(Use(refused=1))
        await ledger.close()
        store.close()

    @scenario
    async def read() -> None:
        ledger, store = opened(tmp_path)
        ledger.row("2026-11-23", "ann", "phi").add(Use(1, 2, 3))
        found = await told(ledger, DAY)
        assert found == {
            (DAY, "ann", "gemma"): Use(4, 31, 16, 3),
            ("2026-11-23", "ann", "phi"): Use(1, 2, 3),
            ("2026-11-23", "bob", "phi"): Use(refused=1),
        }
        assert list(found) == sorted(found)
        assert (await told(ledger, "2026-11-23")).keys() == found.keys() - {(DAY, "ann", "gemma")}
        assert (await told(ledger, DAY, keys=frozenset(["bob", "cid"]))).keys() == {("2026-11-23", "bob", "phi")}
        assert (await told(ledger, DAY, keys=ANN, models=GEMMA)).keys() == {(DAY, "ann", "gemma")}
        await ledger.close()
        store.close()

    count()
    read()


def test_while_the_disk_is_full_all_is_kept_and_written_once_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I32"""

    async def fill() -> None:
        ledger, store = opened(tmp_path)
        disk = Disk(monkeypatch)
        for disk.state in ("full", "torn"):
            ledger.row(DAY, "ann", "gemma").add(Use(1, 10, 5))
            before = disk.tries
            await until(lambda before=before: disk.tries > before + 1)  # type: ignore[misc]
            ledger.row(DAY, "ann", "gemma").add(Use(1, 10, 5))
        assert ledger.unwritten and ledger.failures
        disk.state = "well"
        await until(lambda: not ledger.unwritten)
        assert on_disk(tmp_path) == {(DAY, "ann", "gemma"): (4, 40, 20, 0)}
        await ledger.close()
        store.close()

    run(fill(), may_log_errors=True)


def test_what_is_kept_is_bounded_and_no_count_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """I4"""
    monkeypatch.setattr(module, "MOST_ROWS", 3)

    async def flood() -> None:
        ledger, store = opened(tmp_path)
        Disk(monkeypatch).state = "full"
        for number in range(10):
            ledger.row(DAY, f"key{number}", "gemma").add(Use(1, 2, 3))
        assert ledger.unwritten == 4
        assert (await told(ledger, DAY))[DAY, OTHER, OTHER] == Use(7, 14, 21)
        await ledger.close()
        store.close()

    run(flood(), may_log_errors=True)


def take(budget: Budget, tokens: int) -> None:
    assert not budget.wait_s(tokens, 0, NOON)
    budget.take(tokens, 0, NOON)


@scenario
async def test_without_a_folder_it_is_in_memory() -> None:
    ledger, store = opened(None)
    ledger.row(DAY, "ann", "gemma").add(Use(1, 10, 5))
    budget = Budget(1000, "day", lambda period: 0)
    take(budget, 10)
    ledger.claim("key ann", budget.period, budget.claim(), budget)
    assert budget.written >= budget.used
    await ledger.written()
    assert await told(ledger, DAY) == {(DAY, "ann", "gemma"): Use(1, 10, 5)}
    await ledger.close()
    store.close()


def test_what_is_on_its_way_to_the_disk_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @scenario
    async def ask() -> None:
        ledger, store = opened(tmp_path)
        disk = Disk(monkeypatch)
        disk.state = "hanging"
        ledger.row(DAY, "ann", "gemma").add(Use(1, 10, 5))
        await until(lambda: disk.tries)
        asking = asyncio.get_running_loop().create_task(told(ledger, DAY))
        await asyncio.sleep(0)
        ledger.row(DAY, "ann", "gemma").add(Use(1, 1, 1))
        disk.state = "well"
        disk.goes_on.set()
        assert await asking == {(DAY, "ann", "gemma"): Use(2, 11, 6)}
        await ledger.close()
        store.close()

    ask()


@pytest.mark.parametrize("kept", [True, False])
def test_of_very_many_rows_the_last_are_told_and_all_are_in_the_sum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    monkeypatch.setattr("hermes.storage.usage.MOST_ROWS", 4)

    @scenario
    async def ask() -> None:
        ledger, store = opened(tmp_path if kept else None)
        for number in range(8):
            ledger.row(DAY, f"key{number}", "gemma").add(Use(1, 2, 3))
        if kept:
            await until(lambda: not ledger.unwritten)
        for number in (0, 6, 9):  # before the last, one of them, and after
            ledger.row(DAY, f"key{number}", "gemma").add(Use(1, 2, 3))
        used = await ledger.usage(Wanted(DAY))
        once, twice = Use(1, 2, 3), Use(2, 4, 6)
        last = {"key5": once, "key6": twice, "key7": once, "key9": once}
        assert used == Used(Use(11, 22, 33), {(DAY, key, "gemma"): use for key, use in last.items()}, has_more=True)
        assert list(used.rows) == sorted(used.rows)
        await ledger.close()
        store.close()

    ask()


def test_a_disk_that_does_not_answer_holds_up_no_reader_and_no_end_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I32, I33"""
    monkeypatch.setattr(module, "LAST_WRITE_S", 0.05)

    async def wait() -> None:
        ledger, store = opened(tmp_path)
        disk = Disk(monkeypatch)
        disk.state = "hanging"
        ledger.row(DAY, "ann", "gemma").add(Use(1, 10, 5))
        await until(lambda: disk.tries)
        async with asyncio.timeout(1):
            with pytest.raises(StorageError, match="does not answer"):
                await ledger.usage(Wanted(DAY))
            await ledger.close()
        disk.goes_on.set()
        assert ledger._writing is not None
        await ledger._writing
        store.close()

    run(wait(), may_log_errors=True)


# --- budgets ----------------------------------------------------------------------------------------------------------


def claimed(ledger: Ledger, budget: Budget) -> None:
    ledger.claim("key ann", budget.period, budget.claim(), budget)


def test_what_is_used_of_a_budget_was_written_before(tmp_path: Path) -> None:
    """I31"""

    @scenario
    async def use() -> None:
        ledger, store = opened(tmp_path)
        budget = Budget(6400, "day", lambda period: 0)
        take(budget, 30)
        claimed(ledger, budget)
        assert budget.written == 0
        await ledger.written()
        assert budget.written == 30 + 6400 // BLOCKS
        take(budget, 20)
        assert budget.used <= budget.claims_above
        store.close()  # not the ledger: it was killed

    @scenario
    async def restart() -> None:
        ledger, store = opened(tmp_path)
        assert await ledger.earlier(DAY) == {("key ann", DAY): 130}
        assert await ledger.earlier("2026-11-23") == {} == await ledger.earlier(DAY), "what is over is forgotten"
        store.close()

    use()
    restart()


@pytest.mark.parametrize("state", ["full", "hanging"])
def test_a_disk_that_does_not_take_it_holds_nobody_up_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    """I32"""
    monkeypatch.setattr(module, "MOST_WAIT_S", 0.02)

    async def use() -> None:
        ledger, store = opened(tmp_path)
        disk = Disk(monkeypatch)
        disk.state = state
        first, second = Budget(6400, "day", lambda period: 0), Budget(6400, "month", lambda period: 0)
        for budget in (first, second):
            take(budget, 30)
            claimed(ledger, budget)
            await ledger.written()
            assert budget.written >= budget.used
        assert ledger.failures
        disk.state = "well"
        disk.goes_on.set()
        third = Budget(640, "day", lambda period: 0)
        take(third, 1)
        await until(lambda: ledger._is_well)
        claimed(ledger, third)
        assert not third.written
        await ledger.close()
        assert third.written
        store.close()

    run(use(), may_log_errors=True)


def test_a_batch_that_is_tried_again_is_added_once(tmp_path: Path) -> None:
    @scenario
    async def twice() -> None:
        database = Database(tmp_path)
        batch = Batch("b1", asyncio.get_running_loop())
        batch.rows[DAY, "ann", "gemma"] = Use(1, 2, 3)
        await database.run(batch.put)
        await database.run(batch.put)
        database.close()
        assert on_disk(tmp_path) == {(DAY, "ann", "gemma"): (1, 2, 3, 0)}

    twice()


def test_what_another_process_claims_is_not_overwritten_by_what_could_not_be_written_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I31: after a restart budgets are the new one's to write; what was counted here is written by us."""

    async def hand_over() -> None:
        ledger, store = opened(tmp_path)
        disk = Disk(monkeypatch)
        disk.state = "full"
        budget = Budget(6400, "day", lambda period: 0)
        take(budget, 30)
        ledger.row(DAY, "ann", "gemma").add(Use(1, 2, 3))
        claimed(ledger, budget)
        await until(lambda: ledger.failures)
        ledger.disclaim()
        disk.state = "well"
        await until(lambda: not ledger.unwritten)
        assert await ledger.earlier(DAY) == {}
        await ledger.close()
        store.close()
        assert on_disk(tmp_path) == {(DAY, "ann", "gemma"): (1, 2, 3, 0)}

    run(hand_over(), may_log_errors=True)
