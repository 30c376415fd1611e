"""The pepper: made once, whole, for its owner only; and the copy of the database, without it."""

import os
import sqlite3
from pathlib import Path

import pytest

from hermes.errors import StorageError
from hermes.storage import pepper
from hermes.storage.backup import backup
from hermes.storage.database import Database
from hermes.storage.schema import NAME
from hermes.storage.store import Store

TABLE = ("CREATE TABLE words (word TEXT PRIMARY KEY) STRICT",)


def test_it_is_made_once_and_is_its_owners(tmp_path: Path) -> None:
    assert pepper.read(tmp_path) is None
    made = pepper.make(tmp_path)
    assert pepper.make(tmp_path) == pepper.read(tmp_path) == made
    assert len(made) == 32 and made != pepper.make(tmp_path.parent)
    (tmp_path.parent / pepper.NAME).unlink()
    assert [path.name for path in tmp_path.iterdir()] == [pepper.NAME]
    assert oct((tmp_path / pepper.NAME).stat().st_mode)[-3:] == "600"


def test_one_that_appears_meanwhile_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def appears(*_: object) -> None:
        (tmp_path / pepper.NAME).write_bytes(b"theirs")

    monkeypatch.setattr(os, "fsync", appears)
    with pytest.raises(StorageError, match="cannot write"):
        pepper.make(tmp_path)
    assert (tmp_path / pepper.NAME).read_bytes() == b"theirs"
    assert [path.name for path in tmp_path.iterdir()] == [pepper.NAME]


def test_half_a_pepper_is_none_to_be_used(tmp_path: Path) -> None:
    (tmp_path / pepper.NAME).write_bytes(bytes(31))
    for use in (pepper.read, pepper.make):
        with pytest.raises(StorageError, match="damaged"):
            use(tmp_path)


# --- the store --------------------------------------------------------------------------------------------------------


def test_a_store_opens_the_database_when_it_is_first_asked_for_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "state")
    assert not store.exists and not (tmp_path / "state").exists()
    store.close()
    assert store.database() is store.database()
    assert store.exists
    store.close()
    Database(tmp_path / "state").close()  # nobody has it any more


def test_where_nothing_is_stored_there_is_no_database() -> None:
    nowhere = Store(None)
    assert not nowhere.exists
    with pytest.raises(StorageError, match="state_dir"):
        nowhere.database()


# --- copies -----------------------------------------------------------------------------------------------------------


def test_a_copy_is_made_while_the_database_is_in_use_and_is_whole(tmp_path: Path) -> None:
    source, target = tmp_path / "state", tmp_path / "copy.db"
    database = Database(source, TABLE)
    for word in ("one", "two"):
        database.submit(lambda connection, word=word: connection.execute("INSERT INTO words VALUES (?)", (word,)))
        database.submit(len_of_words).result(5)
        backup(source, target)
        with sqlite3.connect(target) as copy:
            assert copy.execute("SELECT word FROM words ORDER BY word").fetchall()[-1] == (word,)
        copy.close()
    database.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy.db", "state"]
    assert oct(target.stat().st_mode)[-3:] == "600"
    restored = tmp_path / "restored"
    restored.mkdir()
    target.rename(restored / NAME)
    again = Database(restored, TABLE)
    assert again.submit(len_of_words).result(5) == 2
    again.close()


def len_of_words(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM words").fetchone()[0])


def test_a_damaged_database_does_not_replace_a_good_copy(tmp_path: Path) -> None:
    source, target = tmp_path / "state", tmp_path / "copy.db"
    database = Database(source, TABLE)
    for number in range(2000):
        database.submit(
            lambda connection, number=number: connection.execute("INSERT INTO words VALUES (?)", (f"{number:060}",))
        )
    database.close()
    backup(source, target)
    before = target.read_bytes()
    with (source / NAME).open("r+b") as file:
        file.seek((source / NAME).stat().st_size // 2)
        file.write(os.urandom(4096))
    with pytest.raises(StorageError, match="cannot copy"):
        backup(source, target)
    assert target.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy.db", "state"]


def test_where_there_is_no_database_there_is_nothing_to_copy(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="there is no database"):
        backup(tmp_path, tmp_path / "copy.db")
    with pytest.raises(StorageError, match="cannot copy"):
        Database(tmp_path, TABLE).close()
        backup(tmp_path, tmp_path / "nowhere" / "copy.db")
