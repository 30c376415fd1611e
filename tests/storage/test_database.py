"""The file that must not be lost (I32): durable when told so, committed in groups, and honest when it cannot be."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest

from hermes.errors import StorageError
from hermes.storage.database import LOCK, NAME, Database, locked
from tests.fakes.gateway import scenario

TABLE = ("CREATE TABLE words (word TEXT PRIMARY KEY) STRICT",)


def add(word: str, connection: sqlite3.Connection) -> None:
    connection.execute("INSERT INTO words VALUES (?)", (word,))


def words(connection: sqlite3.Connection) -> list[str]:
    return [word for (word,) in connection.execute("SELECT word FROM words ORDER BY word")]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path, TABLE)
    yield database
    database.close()


def put(database: Database, word: str) -> None:
    database.submit(lambda connection: add(word, connection)).result(5)


@scenario
async def test_what_was_committed_is_there_after_the_next_start(tmp_path: Path) -> None:
    first = Database(tmp_path, TABLE)
    await first.run(lambda connection: add("kept", connection))
    first.close()
    second = Database(tmp_path, TABLE)
    assert await second.run(words) == ["kept"]
    second.close()


def test_only_its_owner_may_read_it(database: Database, tmp_path: Path) -> None:
    put(database, "secret")
    modes = {path.name: oct(path.stat().st_mode)[-3:] for path in tmp_path.iterdir()}
    assert modes == dict.fromkeys((LOCK, NAME, f"{NAME}-wal", f"{NAME}-shm"), "600")


def test_what_comes_together_is_committed_together_and_fails_alone(database: Database) -> None:
    statements: list[str] = []
    database.submit(lambda connection: connection.set_trace_callback(statements.append)).result(5)
    began, goes_on = Event(), Event()
    first = database.submit(lambda _: began.set() or goes_on.wait(5))
    assert began.wait(5)  # while it is at this, the others come
    others = [database.submit(lambda connection, word=word: add(word, connection)) for word in ("a", "b", "a", "c")]
    goes_on.set()
    assert first.result(5) and [type(each.exception(5)) for each in others] == [
        type(None),
        type(None),
        sqlite3.IntegrityError,
        type(None),
    ]
    assert database.submit(words).result(5) == ["a", "b", "c"]
    # the first, all of the others, and the question
    assert statements.count("COMMIT") - statements.count("BEGIN IMMEDIATE") == 1  # the trace began within one
    assert statements.count("BEGIN IMMEDIATE") == 3


def test_a_full_disk_keeps_nothing_says_so_and_is_tried_again(database: Database) -> None:
    put(database, "before")
    database.submit(lambda connection: connection.execute("PRAGMA max_page_count = 1")).result(5)
    with pytest.raises(StorageError, match="full"):
        put(database, "x" * 100_000)
    assert database.submit(words).result(5) == ["before"]
    put(database, "after")  # the limit was the connection's, which is another one now
    assert database.submit(words).result(5) == ["after", "before"]


def test_a_work_that_was_given_up_before_its_turn_is_not_done(database: Database) -> None:
    began, goes_on = Event(), Event()
    database.submit(lambda _: began.set() or goes_on.wait(5))
    assert began.wait(5)
    given_up = database.submit(lambda connection: add("never", connection))
    assert given_up.cancel()
    goes_on.set()
    assert database.submit(words).result(5) == []


def test_it_is_one_process_s(database: Database, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=rf"in use by another Hermes \(process {os.getpid()}\)") as caught:
        Database(tmp_path, TABLE)
    assert caught.value.in_use


@pytest.mark.parametrize("signed", ["", "words", "999999999"])
def test_a_process_that_is_not_there_is_not_named(database: Database, tmp_path: Path, signed: str) -> None:
    (tmp_path / LOCK).write_text(signed)
    with pytest.raises(StorageError, match=r"in use by another Hermes$"):
        Database(tmp_path, TABLE)


def test_who_is_given_the_lock_is_named_from_then_on(tmp_path: Path) -> None:
    given = locked(tmp_path)
    (tmp_path / LOCK).write_text("1")
    Database(tmp_path, TABLE, lock=given).close()
    assert (tmp_path / LOCK).read_text() == str(os.getpid())


@pytest.mark.parametrize("migrations", [(*TABLE, "SELECT nonsense"), (*TABLE, "CREATE TABLE words (word)")])
def test_a_step_that_fails_changes_nothing(tmp_path: Path, migrations: tuple[str, ...]) -> None:
    first = Database(tmp_path, TABLE)
    put(first, "kept")
    first.close()
    with pytest.raises(StorageError):
        Database(tmp_path, migrations)
    again = Database(tmp_path, (*TABLE, "CREATE TABLE more (word TEXT) STRICT"))
    assert again.submit(words).result(5) == ["kept"]
    assert again.submit(lambda connection: connection.execute("PRAGMA user_version").fetchone()).result(5) == (2,)
    again.close()


def test_a_file_that_cannot_be_written_is_not_taken_for_a_damaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise sqlite3.OperationalError("attempt to write a readonly database")

    monkeypatch.setattr("hermes.storage.database._prepare", refuse)
    with pytest.raises(StorageError, match=r"readonly database[.] Who runs Hermes .* server[.]state_dir"):
        Database(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"Not a directory[.] Who runs Hermes"):
        Database(tmp_path / "file" / "state")


def test_a_file_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    Database(tmp_path, (*TABLE, "CREATE TABLE more (word TEXT) STRICT")).close()
    with pytest.raises(StorageError, match="later version"):
        Database(tmp_path, TABLE)


def test_a_damaged_file_is_refused_with_what_to_do(tmp_path: Path) -> None:
    database = Database(tmp_path, TABLE)
    for number in range(2000):
        database.submit(lambda connection, number=number: add(f"{number:060}", connection))
    database.close()
    size = (tmp_path / NAME).stat().st_size
    with (tmp_path / NAME).open("r+b") as file:
        file.seek(size // 2)
        file.write(os.urandom(4096))
    with pytest.raises(StorageError, match="restore it from a backup"):
        Database(tmp_path, TABLE)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write to"):
        Database(tmp_path / "file" / "folder", TABLE)


@scenario
async def test_waiting_for_it_does_not_hold_the_loop_up(tmp_path: Path) -> None:
    database = Database(tmp_path, TABLE)
    goes_on = Event()
    slow = asyncio.get_running_loop().create_task(database.run(lambda _: goes_on.wait(5)))
    await asyncio.sleep(0)
    assert not slow.done()
    goes_on.set()
    assert await slow
    database.close()


WRITER = """
import sys
from pathlib import Path
from hermes.storage.database import Database
database = Database(Path(sys.argv[1]), ("CREATE TABLE words (word TEXT PRIMARY KEY) STRICT",))
number = database.submit(lambda connection: connection.execute("SELECT count(*) FROM words").fetchone()[0]).result()
while True:
    database.submit(lambda connection: connection.execute("INSERT INTO words VALUES (?)", (f"{number:09}",))).result()
    print(number, flush=True)
    number += 1
"""


def test_whatever_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    told = -1
    for lines in (1, 7, 30):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            for _ in range(lines):
                told = int(writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
            if rest := writer.stdout.read().splitlines():
                told = int(rest[-1])
        database = Database(tmp_path, TABLE)
        found = database.submit(words).result(5)
        database.close()
        assert found[: told + 1] == [f"{number:09}" for number in range(told + 1)]
        assert len(found) <= told + 2  # one may have been committed, and not told any more
