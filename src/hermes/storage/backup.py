"""A copy of the database, whole and of one moment, while it is in use."""

import contextlib
import os
import sqlite3
from contextlib import closing
from pathlib import Path

from hermes.errors import StorageError
from hermes.storage.schema import NAME


def backup(folder: Path, target: Path) -> None:
    """To a file; one that is there is replaced only by a good one. The pepper is not in it. Raises StorageError."""
    source = folder / NAME
    if not source.exists():
        raise StorageError(f"there is no database in {folder}")
    if target.resolve().parent == folder.resolve():
        raise StorageError(f"{target} is among the files that are in use: name one elsewhere")
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        try:
            _copy(source, draft)
            _sync(draft)
            draft.replace(target)
            _sync(target.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                draft.unlink()
            raise
    except (OSError, sqlite3.Error) as error:
        raise StorageError(f"cannot copy {source} to {target}: {error}") from error


def _copy(source: Path, target: Path) -> None:
    with (
        closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=rw", uri=True)) as original,
        closing(sqlite3.connect(target, isolation_level=None)) as copy,
    ):
        original.backup(copy)
        copy.execute("PRAGMA journal_mode=DELETE")  # one file, with nothing beside it
        if (found := copy.execute("PRAGMA quick_check").fetchone()[0]) != "ok":
            raise sqlite3.DatabaseError(f"it is damaged: {found}")


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
