"""Who has used what: by day, key and model; and what counts as used of each budget.

What is counted is in memory first, and on the disk at most a second later, in one commit for all: so much is what a
crash can lose. What cannot be written (a full disk) is kept, bounded, and written when that is possible again; nobody
waits for it meanwhile (invariant I32). A batch whose commit failed may be on the disk all the same: it bears a name,
and is added once. Without a folder nothing is ever written.
"""

import asyncio
import contextlib
import logging
import os
from functools import partial
from typing import TYPE_CHECKING

from msgspec.structs import astuple

from hermes.errors import StorageError
from hermes.policy.limits import Budget
from hermes.storage.store import Store
from hermes.storage.usage import Key, Use, Used, Wanted, read

if TYPE_CHECKING:
    from sqlite3 import Connection

    from hermes.storage.database import Database

log = logging.getLogger(__name__)

# From the first count to the beginning of its commit.
WRITE_AFTER_S = 0.5
RETRY_AFTER_S = 1.0
# A disk that does not answer holds up nobody longer.
MOST_WAIT_S = 1.0
LAST_WRITE_S = 5.0  # and no reader
# Of rows that are not written; what is more is counted in one row of each day.
MOST_ROWS = 10_000
OTHER = "other"


class Batch:
    """What is written in one commit. `done` when that has been tried; `budgets` are then told that they are written."""

    __slots__ = ("budgets", "claims", "done", "name", "rows")

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop) -> None:
        self.name = name
        self.rows: dict[Key, Use] = {}
        self.claims: dict[tuple[str, str], int] = {}
        self.budgets: list[tuple[Budget, str, int]] = []
        self.done: asyncio.Future[None] = loop.create_future()

    def tell(self) -> None:
        for budget, period, tokens in self.budgets:
            if budget.period == period:
                budget.note_written(tokens)
        self.budgets.clear()
        if not self.done.done():
            self.done.set_result(None)

    def put(self, connection: "Connection") -> None:
        """In the database's thread."""
        if connection.execute("SELECT name FROM usage_batch").fetchone() == (self.name,):
            return
        connection.execute("INSERT OR REPLACE INTO usage_batch VALUES (1, ?)", (self.name,))
        connection.executemany(_ADD, [(*key, *astuple(use)) for key, use in self.rows.items()])
        connection.executemany(
            "INSERT OR REPLACE INTO budgets VALUES (?, ?, ?)", [(*key, tokens) for key, tokens in self.claims.items()]
        )


_ADD = """
INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
  requests = requests + excluded.requests, prompt_tokens = prompt_tokens + excluded.prompt_tokens,
  completion_tokens = completion_tokens + excluded.completion_tokens, refused = refused + excluded.refused
"""


class Ledger:
    """On one event loop."""

    def __init__(self, store: Store, loop: asyncio.AbstractEventLoop) -> None:
        self.failures = 0
        self._store = store
        self._loop = loop
        self._prefix = os.urandom(8).hex()
        self._count = 0
        self._next = self._new()
        self._batch: Batch | None = None  # on its way, or to be tried again
        self._is_well = store.folder is not None  # so far as is known
        self._database: Database | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None

    @property
    def unwritten(self) -> int:
        """Rows."""
        return len(self._next.rows) + (len(self._batch.rows) if self._batch is not None else 0)

    def row(self, day: str, key: str, model: str) -> Use:
        """Where to add what was used, at once."""
        rows = self._next.rows
        row = rows.get((day, key, model))
        if row is None:
            if len(rows) >= MOST_ROWS:
                return rows.setdefault((day, OTHER, OTHER), Use())
            row = rows[day, key, model] = Use()
            self._write_in(WRITE_AFTER_S)
        return row

    def claim(self, account: str, period: str, tokens: int, budget: Budget | None = None) -> None:
        """So much of a budget is to count as used from the next start on; `budget` is told when that is so."""
        batch = self._next
        if self._store.folder is not None:
            batch.claims[account, period] = tokens
        if budget is not None:
            batch.budgets.append((budget, period, tokens))
        if not self._is_well:
            batch.tell()
            batch.done = self._loop.create_future()
        self._write_in(0.0)

    def disclaim(self) -> None:
        """What counts as used of budgets is another's to write."""
        for batch in (self._next, self._batch):
            if batch is not None:  # not emptied: another thread may be at it
                batch.claims = {}

    async def written(self) -> None:
        """Wait until what was claimed is on the disk, or is known not to get there soon."""
        batch = self._next if self._next.budgets else self._batch
        if batch is None or (await asyncio.wait((batch.done,), timeout=MOST_WAIT_S))[0]:
            return
        self._fail("it does not answer")
        batch.tell()

    async def usage(self, wanted: Wanted) -> Used:
        """Raises StorageError."""
        try:
            async with asyncio.timeout(LAST_WRITE_S):
                return await self._usage(wanted)
        except TimeoutError:
            raise StorageError("the ledger's disk does not answer") from None

    async def _usage(self, wanted: Wanted) -> Used:
        database = await self._open() if self._database is not None or self._store.exists else None
        while self._writing is not None:
            await asyncio.wait((self._writing,))
        # What is written later was not written when this is read, and is told once.
        batches = (self._batch, self._next) if self._batch is not None else (self._next,)
        work = partial(read, wanted, [dict(batch.rows) for batch in batches])
        return await (asyncio.to_thread(work) if database is None else database.run(work))

    async def earlier(self, day: str, *, open_anew: bool = False) -> dict[tuple[str, str], int]:
        """What counts as used of the budgets of this day and its month. Raises StorageError.

        `open_anew`: so that no request waits for that, even if nothing was ever written.
        """
        if not self._store.exists and not (open_anew and self._store.folder is not None):
            return {}
        database = await self._open()
        rows = await database.run(lambda connection: _current(connection, day))
        return {(account, period): tokens for account, period, tokens in rows}

    async def close(self) -> None:
        """Write what there is, if that is possible."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WRITE_S):
                while self._writing is not None:
                    await asyncio.wait((self._writing,))
                for _ in range(2):  # what was tried before, and the rest
                    if self._batch is not None or self._next.rows or self._next.claims:
                        await self._commit()
        if self._timer is not None:
            self._timer.cancel()
        self._store = Store(None)

    # --- writing ----------------------------------------------------------------------------------------------------

    def _new(self) -> Batch:
        self._count += 1
        return Batch(f"{self._prefix}{self._count}", self._loop)

    def _write_in(self, seconds: float) -> None:
        if self._store.folder is None or self._writing is not None:
            return
        if self._timer is not None:
            if seconds or not self._is_well:
                return
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._write)

    def _write(self) -> None:
        self._timer = None
        self._writing = self._loop.create_task(self._commit(), name="ledger")
        self._writing.add_done_callback(self._wrote)

    def _wrote(self, task: "asyncio.Task[None]") -> None:
        self._writing = None
        if self._batch is not None:
            self._write_in(RETRY_AFTER_S)
        elif self._next.claims:
            self._write_in(0.0)
        elif self._next.rows:
            self._write_in(WRITE_AFTER_S)

    async def _commit(self) -> None:
        if self._batch is None:
            self._batch, self._next = self._next, self._new()
        batch = self._batch
        try:
            database = await self._open()
            await database.run(batch.put)
        except StorageError as error:
            self._fail(str(error))
            self._next.tell()
            self._next.done = self._loop.create_future()
        else:
            self._is_well, self._batch = True, None
        batch.tell()

    def _fail(self, why: str) -> None:
        self.failures += 1
        if self._is_well:  # else it was told before
            log.error("usage is counted in memory until it can be written: %s", why)
        self._is_well = False

    async def _open(self) -> "Database":
        if self._database is None:
            self._database = await asyncio.to_thread(self._store.database)
        return self._database


def _current(connection: "Connection", day: str) -> list[tuple[str, str, int]]:
    connection.execute("DELETE FROM budgets WHERE period NOT IN (?, ?)", (day, day[:7]))
    return connection.execute("SELECT account, period, tokens FROM budgets").fetchall()
