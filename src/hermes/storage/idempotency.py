"""What was answered under which idempotency key (I30): a record before the run, its outcome before the answer is sent.

Of what was asked only a hash is kept, of the key too. Answers are kept, in the column `answer` and nowhere else. Where
there is no room for all, it is whoever has most of them who loses his oldest: nobody can push out what is another's.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from msgspec import Struct

from hermes.errors import NotStored, StorageError

if TYPE_CHECKING:
    import sqlite3

    from hermes.storage.database import Database

log = logging.getLogger(__name__)

TTL_S = 24 * 3600.0
MAX_RECORDS = 10_000
MAX_BYTES = 64 << 20
# What is longer is not kept: it would put out a sixteenth of all others.
MAX_ANSWER_BYTES = 4 << 20

T = TypeVar("T")


class Name(Struct, frozen=True):
    """A record's: whose it is (I21), and the hash of its key."""

    owner: str
    key: bytes


class Kept(Struct, frozen=True):
    """An answer as it was sent, and what it took."""

    body: bytes
    prompt_tokens: int
    completion_tokens: int


class Record(Struct, frozen=True):
    """`asked` is the hash of the request that the key was first used for; no `kept`: it has no outcome so far."""

    asked: bytes
    kept: Kept | None = None


class Records:
    """`database` opens the file, when there is the first record. Times are Unix seconds."""

    def __init__(self, database: "Callable[[], Database]") -> None:
        self._open = database
        self._database: Database | None = None
        self._opening = asyncio.Lock()
        self._is_well = True  # so far as is known

    async def begin(self, name: Name, asked: bytes, now: float) -> Record:
        """The record of this name, made where there is none. Raises NotStored."""
        return await self._run(lambda connection: _begin(connection, name, asked, now))

    async def keep(self, name: Name, asked: bytes, kept: Kept, now: float) -> None:
        """Its outcome, unless the name stands for something else by now. Raises NotStored."""
        if len(kept.body) <= MAX_ANSWER_BYTES:
            await self._run(lambda connection: _keep(connection, name, asked, kept, now))
        else:
            self.drop(name, asked)

    def drop(self, name: Name, asked: bytes) -> None:
        """There is no outcome: the name is free again, for whoever asks after this."""
        if self._database is not None:
            self._database.submit(lambda connection: _drop(connection, name, asked))

    async def _run(self, work: "Callable[[sqlite3.Connection], T]") -> T:
        try:
            async with self._opening:
                if self._database is None:
                    self._database = await asyncio.to_thread(self._open)
            done = await self._database.run(work)
        except StorageError as error:
            if self._is_well:  # else it was told before
                log.error("requests with an idempotency key are refused until answers can be kept: %s", error)
            self._is_well = False
            raise NotStored("what an idempotency key promises cannot be kept now; try again") from error
        self._is_well = True
        return done


# --- in the database's thread -----------------------------------------------------------------------------------------


def _begin(connection: "sqlite3.Connection", name: Name, asked: bytes, now: float) -> Record:
    connection.execute("DELETE FROM idempotency WHERE created_at <= ?", (now - TTL_S,))
    found = connection.execute(
        "SELECT asked, answer, prompt_tokens, completion_tokens FROM idempotency WHERE owner = ? AND key = ?",
        (name.owner, name.key),
    ).fetchone()
    if found is not None:
        was_asked, *kept = found
        return Record(was_asked, None if kept[0] is None else Kept(*kept))
    connection.execute(
        "INSERT INTO idempotency (owner, key, asked, created_at) VALUES (?, ?, ?, ?)",
        (name.owner, name.key, asked, now),
    )
    _make_room(connection)
    return Record(asked)


def _keep(connection: "sqlite3.Connection", name: Name, asked: bytes, kept: Kept, now: float) -> None:
    connection.execute(
        "INSERT INTO idempotency (owner, key, asked, created_at, answer, prompt_tokens, completion_tokens)"
        " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (owner, key) DO UPDATE SET answer = excluded.answer,"
        " prompt_tokens = excluded.prompt_tokens, completion_tokens = excluded.completion_tokens"
        " WHERE asked = excluded.asked",
        (name.owner, name.key, asked, now, kept.body, kept.prompt_tokens, kept.completion_tokens),
    )
    _make_room(connection)


def _drop(connection: "sqlite3.Connection", name: Name, asked: bytes) -> None:
    connection.execute(
        "DELETE FROM idempotency WHERE owner = ? AND key = ? AND asked = ? AND answer IS NULL",
        (name.owner, name.key, asked),
    )


def _make_room(connection: "sqlite3.Connection") -> None:
    while True:
        records, size_bytes = connection.execute("SELECT sum(records), sum(bytes) FROM idempotency_held").fetchone()
        if records <= MAX_RECORDS and size_bytes <= MAX_BYTES:
            return
        connection.execute(_OLDEST_OF_MOST, {"by_bytes": size_bytes > MAX_BYTES})


_OLDEST_OF_MOST = """
DELETE FROM idempotency WHERE id = (
  SELECT min(id) FROM idempotency WHERE owner = (
    SELECT owner FROM idempotency_held ORDER BY iif(:by_bytes, bytes, records) DESC LIMIT 1
  )
)
"""
