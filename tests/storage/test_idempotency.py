"""What is kept of idempotency keys: until when, for whom, and how much (I30)."""

import asyncio
from pathlib import Path

import pytest

from hermes.errors import NotStored, StorageError
from hermes.storage import idempotency
from hermes.storage.database import NAME, Database
from hermes.storage.idempotency import MAX_ANSWER_BYTES, TTL_S, Kept, Name, Record, Records
from hermes.storage.schema import MIGRATIONS
from tests.fakes.gateway import scenario
from tests.support import run

NOW = 1_800_000_000.0
ANSWER = Kept(b"Hello", 7, 3)


def name(number: int = 0, owner: str = "ann") -> Name:
    return Name(owner, number.to_bytes(32, "big"))


class Opened:
    """A folder's records, as often as they are opened."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.databases: list[Database] = []
        self.records = Records(self.open)

    def open(self) -> Database:
        self.databases.append(Database(self.folder))
        return self.databases[-1]

    async def held(self) -> tuple[int, int]:
        def read(connection: object) -> tuple[int, int]:
            question = "SELECT coalesce(sum(records), 0), coalesce(sum(bytes), 0) FROM idempotency_held"
            return connection.execute(question).fetchone()  # type: ignore

        return await self.databases[-1].run(read)

    def close(self) -> None:
        self.databases[-1].close()


@scenario
async def test_what_was_answered_is_there_after_a_restart_and_for_a_day(tmp_path: Path) -> None:
    opened = Opened(tmp_path)
    assert not (tmp_path / NAME).exists()  # nobody has needed it yet
    assert await opened.records.begin(name(), b"asked", NOW) == Record(b"asked")
    assert await opened.records.begin(name(), b"asked", NOW) == Record(b"asked")
    await opened.records.keep(name(), b"asked", ANSWER, NOW)
    opened.close()
    opened = Opened(tmp_path)
    assert await opened.records.begin(name(), b"other", NOW + TTL_S - 1) == Record(b"asked", ANSWER)
    assert await opened.records.begin(name(), b"other", NOW + TTL_S) == Record(b"other")
    assert await opened.held() == (1, 0)
    opened.close()


@scenario
async def test_each_owner_has_records_of_his_own(tmp_path: Path) -> None:
    """I21"""
    opened = Opened(tmp_path)
    for owner in ("ann", "bob"):
        assert await opened.records.begin(name(owner=owner), owner.encode(), NOW) == Record(owner.encode())
    await opened.records.keep(name(owner="ann"), b"ann", ANSWER, NOW)
    assert (await opened.records.begin(name(owner="bob"), b"bob", NOW)).kept is None
    opened.close()


@scenario
async def test_an_answer_to_what_is_not_asked_any_more_is_nobodys(tmp_path: Path) -> None:
    opened = Opened(tmp_path)
    await opened.records.begin(name(), b"asked", NOW)
    await opened.records.keep(name(), b"something else", ANSWER, NOW)
    assert await opened.records.begin(name(), b"asked", NOW) == Record(b"asked")
    assert await opened.held() == (1, 0)
    opened.close()


@scenario
async def test_an_answer_whose_record_has_made_room_is_kept_all_the_same(tmp_path: Path) -> None:
    opened = Opened(tmp_path)
    await opened.records.begin(name(), b"asked", NOW)
    opened.records.drop(name(), b"asked")
    await opened.records.keep(name(), b"asked", ANSWER, NOW)
    assert await opened.records.begin(name(), b"asked", NOW) == Record(b"asked", ANSWER)
    opened.close()


@scenario
async def test_what_has_no_outcome_leaves_no_record_and_what_has_one_is_not_dropped(tmp_path: Path) -> None:
    opened = Opened(tmp_path)
    for number in range(3):
        await opened.records.begin(name(number), b"asked", NOW)
    await opened.records.keep(name(1), b"asked", ANSWER, NOW)
    for number, asked in enumerate((b"asked", b"asked", b"something else")):
        opened.records.drop(name(number), asked)
    assert await opened.held() == (2, len(ANSWER.body))
    assert await opened.records.begin(name(), b"another", NOW) == Record(b"another")
    opened.close()


@scenario
async def test_records_are_bounded_in_number_and_bytes_and_the_oldest_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I4"""
    monkeypatch.setattr(idempotency, "MAX_RECORDS", 5)
    monkeypatch.setattr(idempotency, "MAX_BYTES", 250)
    opened = Opened(tmp_path)
    for number in range(20):
        await opened.records.begin(name(number), b"asked", NOW + number)
        assert (await opened.held())[0] <= 5
    for number in range(15, 20):
        await opened.records.keep(name(number), b"asked", Kept(bytes(100), 0, 0), NOW)
        assert (await opened.held())[1] <= 250
    assert await opened.held() == (2, 200)
    there = [(await opened.records.begin(name(number), b"again", NOW + 20)).asked for number in (19, 18, 17)]
    assert there == [b"asked", b"asked", b"again"]
    opened.close()


@scenario
async def test_nobodys_records_make_room_for_a_flood_of_anothers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I21: neither by their number nor by their bytes."""
    monkeypatch.setattr(idempotency, "MAX_RECORDS", 9)
    monkeypatch.setattr(idempotency, "MAX_BYTES", 1000)
    opened = Opened(tmp_path)

    async def keep(number: int, owner: str, size_bytes: int) -> None:
        await opened.records.begin(name(number, owner), b"asked", NOW)
        await opened.records.keep(name(number, owner), b"asked", Kept(bytes(size_bytes), 0, 0), NOW)

    for number in range(3):
        await keep(number, "ann", 100)
    for number in range(20):
        await opened.records.begin(name(number, "bob"), b"asked", NOW)
    for number in range(20, 30):
        await keep(number, "bob", 300)
    for number in range(3):
        assert (await opened.records.begin(name(number, "ann"), b"asked", NOW)).kept is not None
    assert (await opened.held())[0] <= 9
    opened.close()


@scenario
async def test_an_answer_that_would_put_out_many_others_is_not_kept(tmp_path: Path) -> None:
    opened = Opened(tmp_path)
    await opened.records.begin(name(), b"asked", NOW)
    await opened.records.keep(name(), b"asked", Kept(bytes(MAX_ANSWER_BYTES + 1), 0, 0), NOW)
    assert await opened.held() == (0, 0)
    await opened.records.keep(name(), b"asked", Kept(bytes(MAX_ANSWER_BYTES), 0, 0), NOW)
    assert await opened.held() == (1, MAX_ANSWER_BYTES)
    opened.close()


def test_who_cannot_be_promised_anything_is_told_so_and_the_file_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """I32: the log tells it once, until it is well again."""

    async def ask() -> None:
        opened = Opened(tmp_path)
        missing = [1, 2]

        def refuse() -> Database:
            if missing:
                raise StorageError(f"no room for {missing.pop(0)}")
            return opened.open()

        records = Records(refuse)
        for _ in range(2):
            with pytest.raises(NotStored):
                await records.begin(name(), b"asked", NOW)
        await records.begin(name(), b"asked", NOW)
        opened.close()

    run(ask(), may_log_errors=True)
    assert "no room for 1" in caplog.text and "no room for 2" not in caplog.text


@scenario
async def test_many_at_once_open_the_file_once(tmp_path: Path) -> None:
    opened = Opened(tmp_path)
    await asyncio.gather(*(opened.records.begin(name(number), b"asked", NOW) for number in range(50)))
    assert len(opened.databases) == 1 and (await opened.held())[0] == 50
    opened.close()


@scenario
async def test_what_was_kept_before_it_was_known_by_owner_counts_as_its_owners(tmp_path: Path) -> None:
    before = Database(tmp_path, MIGRATIONS[:3])
    rows = [("ann", bytes(32), b"asked", NOW, b"Hello"), ("ann", bytes(31) + b"1", b"asked", NOW, None)]
    insert = "INSERT INTO idempotency (owner, key, asked, created_at, answer) VALUES (?, ?, ?, ?, ?)"
    await before.run(lambda connection: connection.executemany(insert, rows) and None)
    before.close()
    opened = Opened(tmp_path)
    await opened.records.begin(name(owner="bob"), b"asked", NOW)
    assert await opened.held() == (3, 5)
    opened.close()
