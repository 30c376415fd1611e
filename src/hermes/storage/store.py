"""The database of one folder, for all who need it: opened by the first, or at the start where there is one already.

An idle gateway that stores nothing has none: no file, no thread, no SQLite in memory.
"""

import os
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from hermes.errors import StorageError
from hermes.storage.schema import NAME

if TYPE_CHECKING:
    from hermes.storage.database import Database


class Store:
    """`folder`: None: nothing is stored. `lock`: a descriptor that has the folder's lock already."""

    def __init__(self, folder: Path | None, lock: int | None = None) -> None:
        self.folder = folder
        self._lock = lock
        self._opening = Lock()
        self._database: Database | None = None

    @property
    def exists(self) -> bool:
        """A file of no bytes is none: it was never written, or lost all that it had."""
        return self.folder is not None and (file := self.folder / NAME).exists() and file.stat().st_size > 0

    @property
    def is_open(self) -> bool:
        """Nobody else can have it then."""
        return self._database is not None

    def database(self) -> "Database":
        """From any thread; may take a while. Raises StorageError."""
        if self.folder is None:
            raise StorageError("nothing is stored: server.state_dir is off, or there is no HOME to have it in")
        with self._opening:
            if self._database is None:
                from hermes.storage.database import Database

                lock, self._lock = self._lock, None
                self._database = Database(self.folder, lock=lock)
            return self._database

    def lock(self) -> int | None:
        """A descriptor that has the folder's lock, as every copy of it has, in whatever process. None: no folder.

        Raises StorageError where another process has it.
        """
        if self.folder is None:
            return None
        with self._opening:
            if self._database is not None:
                return self._database.lock
            if self._lock is None:
                from hermes.storage.database import locked

                self._lock = locked(self.folder)
            return self._lock

    def close(self) -> None:
        with self._opening:
            if self._database is not None:
                self._database.close()
                self._database = None
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None
