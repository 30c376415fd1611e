"""What must not be lost: one SQLite file, spoken to by one thread alone.

What `run` was given is on the disk when it returns (WAL, `synchronous=FULL`). Works that come together are committed
together: one fsync for all of them. A commit that fails fails all of its works, and the connection is not trusted any
more: the next work opens the file anew (invariant I32). What an unclean end leaves behind, SQLite repairs from the WAL.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from msgspec import Struct

from hermes.errors import StorageError
from hermes.storage.schema import MIGRATIONS, NAME

log = logging.getLogger(__name__)

# Somebody has the file when somebody holds a lock (flock(2)) on this one; the kernel lets go of it when he dies.
LOCK = "hermes.lock"
# Of what is committed together: more would let the first wait for the last.
_GROUP = 256

_STRICT = (3, 37)  # STRICT tables

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], Any]


class _Job(Struct, frozen=True):
    work: Work
    done: "Future[Any]"


class Database:
    """Open from the beginning until `close`. Times are Unix seconds, numbers of tokens are whole."""

    def __init__(self, folder: Path, migrations: Sequence[str] = MIGRATIONS, lock: int | None = None) -> None:
        """Makes folder and file where there are none. `lock`: as `locked` gives it, where we have it.

        Raises StorageError: in use, damaged, of a later version.
        """
        if sqlite3.sqlite_version_info < _STRICT:
            raise StorageError(f"what is stored needs SQLite 3.37 or newer, this Python has {sqlite3.sqlite_version}")
        self.path = folder / NAME
        self._migrations = migrations
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self.lock = locked(folder) if lock is None else lock
        _sign(self.lock)
        try:
            self._connection: sqlite3.Connection | None = self._open()
        except BaseException:
            os.close(self.lock)
            raise
        self._thread = Thread(target=self._serve, name="database", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[sqlite3.Connection], T]) -> "Future[T]":
        """Have `work` done and committed. Its own exceptions undo it alone; StorageError tells that nothing is kept."""
        done: Future[T] = Future()
        self._jobs.put(_Job(work, done))
        return done

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """The same, waited for. Who is cancelled while waiting does not know whether it was done."""
        return await asyncio.wrap_future(self.submit(work))

    def close(self) -> None:
        """Do what was submitted, and let go of the file."""
        self._jobs.put(None)
        self._thread.join()
        with contextlib.suppress(sqlite3.Error):
            if self._connection is not None:
                self._connection.close()
        os.close(self.lock)

    # --- in the thread ----------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        for jobs in self._groups():
            try:
                results = self._commit(jobs)
            except (sqlite3.Error, StorageError) as error:
                log.error("nothing could be written to %s: %s", self.path, error)
                self._forsake()
                for job in jobs:
                    job.done.set_exception(StorageError(f"nothing could be written to {self.path}: {error}"))
            else:
                for job, (value, failure) in zip(jobs, results, strict=True):
                    job.done.set_exception(failure) if failure else job.done.set_result(value)

    def _groups(self) -> Iterator[list[_Job]]:
        """What is there to be done, each time that something is; until the end."""
        while (job := self._jobs.get()) is not None:
            jobs: list[_Job | None] = [job]
            with contextlib.suppress(Empty):
                while jobs[-1] is not None and len(jobs) < _GROUP:
                    jobs.append(self._jobs.get_nowait())
            wanted = [job for job in jobs if job is not None and job.done.set_running_or_notify_cancel()]
            if wanted:
                yield wanted
            if jobs[-1] is None:
                return

    def _commit(self, jobs: list[_Job]) -> list[tuple[Any, BaseException | None]]:
        if self._connection is None:
            self._connection = self._open()
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        results = [_attempt(connection, job.work) for job in jobs]
        connection.execute("COMMIT")
        return results

    def _forsake(self) -> None:
        """After a failed fsync nobody knows what is on the disk: begin anew from what is."""
        with contextlib.suppress(sqlite3.Error):
            if self._connection is not None:
                self._connection.close()
        self._connection = None

    def _open(self) -> sqlite3.Connection:
        try:
            connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
            try:
                self.path.chmod(0o600)
                _prepare(connection)
                _migrate(connection, self.path, self._migrations)
            except BaseException:
                connection.close()
                raise
        except (OSError, sqlite3.Error) as error:
            # What SQLite calls operational is the disk's fault, or one of rights.
            advice = _MAY_WRITE if isinstance(error, OSError | sqlite3.OperationalError) else _RESTORE
            raise StorageError(f"cannot use {self.path}: {error}. {advice}") from error
        return connection


_RESTORE = "docs/keys.md tells how to restore it from a backup"
_MAY_WRITE = "Who runs Hermes has to be able to write there; server.state_dir names another folder"


def locked(folder: Path) -> int:
    """A descriptor that nobody else has one like. Raises StorageError."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageError(f"cannot write to {folder}: {error.strerror}. {_MAY_WRITE}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise StorageError(f"{folder} is in use by another Hermes{_holder(folder / LOCK)}", in_use=True) from None
    return lock


def _sign(lock: int) -> None:
    with contextlib.suppress(OSError):  # it holds all the same
        os.ftruncate(lock, 0)
        os.pwrite(lock, b"%d" % os.getpid(), 0)


def _holder(lock: Path) -> str:
    """The process, where one has signed that is still there."""
    try:
        pid = int(lock.read_bytes())
    except (OSError, ValueError):
        return ""
    with contextlib.suppress(PermissionError):  # another user's
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return ""
    return f" (process {pid})"


def _prepare(connection: sqlite3.Connection) -> None:
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "trusted_schema=OFF", "cache_size=-512"):
        connection.execute(f"PRAGMA {pragma}")
    if (found := connection.execute("PRAGMA quick_check").fetchone()[0]) != "ok":
        raise sqlite3.DatabaseError(f"it is damaged: {found}")


def _migrate(connection: sqlite3.Connection, path: Path, migrations: Sequence[str]) -> None:
    """Each step in a transaction of its own; `user_version` counts those that were taken."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(migrations):
        raise StorageError(f"{path} is of a later version of Hermes: {version}, this one knows {len(migrations)}")
    for number, script in enumerate(migrations[version:], version + 1):
        connection.executescript(f"BEGIN IMMEDIATE;\n{script};\nPRAGMA user_version = {number};\nCOMMIT;")


def _attempt(connection: sqlite3.Connection, work: Work) -> tuple[Any, BaseException | None]:
    """What one of a group comes to; what it has begun and not ended is undone."""
    connection.execute("SAVEPOINT work")
    try:
        value = work(connection)
    except sqlite3.OperationalError:  # the disk, not the work
        raise
    except Exception as error:
        connection.execute("ROLLBACK TO work")
        connection.execute("RELEASE work")
        return None, error
    connection.execute("RELEASE work")
    return value, None
