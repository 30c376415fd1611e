"""Keys as rows: what the functions do, and what the schema itself refuses whoever writes it."""

import sqlite3
from collections.abc import Iterator

import pytest

from hermes.errors import KeyNotFound, KeyRevoked, NameTaken
from hermes.storage import keys
from hermes.storage.keys import Fields, Key
from hermes.storage.schema import MIGRATIONS

DIGESTS = [bytes([number]) * 32 for number in range(9)]
FULL = Fields(
    "full", "team", True, True, ("gemma*", "qwen3:8b"), 1, 2, 3, 4, 5, "normal", "batch", 2.5, 4_000_000_000
)  # fmt: skip


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    made = sqlite3.connect(":memory:", isolation_level=None)
    made.execute("PRAGMA foreign_keys=ON")
    for step in MIGRATIONS:
        made.executescript(step)
    yield made
    made.close()


def create(connection: sqlite3.Connection, name: str = "editor", digest: bytes = DIGESTS[0]) -> Key:
    return keys.create(connection, Fields(name, name), digest, 100)


def good(connection: sqlite3.Connection) -> set[tuple[bytes, int | None]]:
    return {(digest, until) for digest, _, until in keys.digests(connection)}


def test_what_was_said_of_a_key_is_what_is_read(connection: sqlite3.Connection) -> None:
    made = keys.create(connection, FULL, DIGESTS[0], 100)
    assert keys.find(connection, made.id) == keys.find(connection, "full") == Key(made.id, FULL, 100) == made
    other = create(connection, "other", DIGESTS[1])
    assert keys.list_all(connection) == [made, other]


def test_every_field_can_be_changed(connection: sqlite3.Connection) -> None:
    id = create(connection).id
    assert keys.update(connection, id, FULL) == keys.find(connection, id) == Key(id, FULL, 100)


def test_a_name_is_its_keys_until_that_is_revoked(connection: sqlite3.Connection) -> None:
    first = create(connection)
    other = create(connection, "other", DIGESTS[1])
    for taken in (
        lambda: create(connection, "editor", DIGESTS[2]),
        lambda: keys.update(connection, other.id, Fields("editor", "x")),
    ):
        with pytest.raises(NameTaken):
            taken()
    keys.revoke(connection, "editor", 200)
    second = create(connection, "editor", DIGESTS[3])
    assert keys.find(connection, "editor").id == second.id != first.id
    assert keys.find(connection, first.id).revoked_at == 200


def test_rotating_keeps_old_secrets_until_the_grace_of_each_is_over(connection: sqlite3.Connection) -> None:
    id = create(connection).id
    assert keys.rotate(connection, "editor", DIGESTS[1], 300, 200).old_until == 300
    assert good(connection) == {(DIGESTS[0], 300), (DIGESTS[1], None)}
    assert keys.rotate(connection, id, DIGESTS[2], 400, 250).old_until == 400
    assert good(connection) == {(DIGESTS[0], 300), (DIGESTS[1], 400), (DIGESTS[2], None)}
    assert [key.old_until for key in keys.list_all(connection)] == [400]
    assert keys.rotate(connection, id, DIGESTS[3], 390, 300).old_until == 390, "none is good longer than is said now"
    assert good(connection) == {(DIGESTS[1], 390), (DIGESTS[2], 390), (DIGESTS[3], None)}
    assert keys.rotate(connection, id, DIGESTS[4], 301, 301).old_until is None
    assert good(connection) == {(DIGESTS[4], None)}


def test_a_revoked_key_has_no_secret_and_changes_no_more(connection: sqlite3.Connection) -> None:
    id = create(connection).id
    keys.rotate(connection, id, DIGESTS[1], 300, 200)
    gone = keys.revoke(connection, id, 250)
    assert (gone.revoked_at, good(connection)) == (250, set())
    assert keys.revoke(connection, id, 999) == gone
    for change in (
        lambda: keys.update(connection, id, FULL),
        lambda: keys.rotate(connection, id, DIGESTS[2], 300, 260),
    ):
        with pytest.raises(KeyRevoked):
            change()


def test_what_there_is_not_is_not_found(connection: sqlite3.Connection) -> None:
    for look in (
        lambda: keys.find(connection, "nobody"),
        lambda: keys.update(connection, "k_aaaaaaaaaaaa", FULL),
        lambda: keys.rotate(connection, "nobody", DIGESTS[0], 300, 200),
        lambda: keys.revoke(connection, "nobody", 200),
    ):
        with pytest.raises(KeyNotFound):
            look()


def test_the_mark_of_the_pepper_is_set_once(connection: sqlite3.Connection) -> None:
    assert keys.mark(connection) is None
    keys.set_mark(connection, DIGESTS[0])
    keys.set_mark(connection, DIGESTS[1])
    assert keys.mark(connection) == DIGESTS[0]


IMPOSSIBLE = [
    "UPDATE keys SET id = 'k_short'",
    "UPDATE keys SET id = 'k_AAAAAAAAAAAA'",
    "UPDATE keys SET name = ''",
    "UPDATE keys SET name = 'other'",
    "UPDATE keys SET name = 'k_like_an_id' WHERE name = 'other'",
    "UPDATE keys SET admin = 2",
    "UPDATE keys SET metrics = NULL",
    "UPDATE keys SET models = 'gemma'",
    "UPDATE keys SET rpm = 0",
    "UPDATE keys SET tpm = 'many'",
    "UPDATE keys SET max_class = 'first'",
    "UPDATE keys SET weight = 0",
    "UPDATE keys SET created_at = NULL",
    "UPDATE keys SET revoked_at = NULL WHERE name = 'gone'",
    "UPDATE keys SET rpm = 1 WHERE name = 'gone'",
    "DELETE FROM keys WHERE name = 'gone'",
    "INSERT INTO secrets SELECT randomblob(31), id, NULL FROM keys WHERE name = 'editor'",
    "INSERT INTO secrets SELECT randomblob(32), id, NULL FROM keys WHERE name = 'editor'",
    "INSERT INTO secrets SELECT randomblob(32), id, 300 FROM keys WHERE name = 'gone'",
    "INSERT INTO secrets VALUES (randomblob(32), 'k_nobody', NULL)",
    "INSERT INTO secrets SELECT digest, 'k_nobody', NULL FROM secrets",
    "UPDATE peppered SET mark = randomblob(32)",
    "INSERT INTO peppered VALUES (2, randomblob(32))",
]


@pytest.mark.parametrize("statement", IMPOSSIBLE)
def test_the_schema_refuses_what_cannot_be(connection: sqlite3.Connection, statement: str) -> None:
    for name, digest in (("editor", DIGESTS[0]), ("other", DIGESTS[1]), ("gone", DIGESTS[2])):
        create(connection, name, digest)
    keys.rotate(connection, "editor", DIGESTS[3], 300, 200)
    keys.revoke(connection, "gone", 200)
    keys.set_mark(connection, DIGESTS[4])
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute(statement)
