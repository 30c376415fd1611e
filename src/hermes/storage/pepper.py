"""The pepper: what the digests of secrets are keyed with, in a file of its own beside the database.

Whoever has the database alone, a backup of it for instance, can do nothing with what stands there. It is made once.
"""

import contextlib
import os
import secrets
from pathlib import Path

from hermes.errors import StorageError

NAME = "pepper"
BYTES = 32


def read(folder: Path) -> bytes | None:
    """None: there is none. Raises StorageError for one that cannot be used."""
    path = folder / NAME
    try:
        pepper = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    if len(pepper) != BYTES:
        raise StorageError(f"{path} is damaged: it has {len(pepper)} bytes, not {BYTES}. Put it back from a backup")
    return pepper


def make(folder: Path) -> bytes:
    """The one that is there, else a new one: whole and on the disk, or not there at all. Raises StorageError."""
    if (found := read(folder)) is not None:
        return found
    pepper, draft = secrets.token_bytes(BYTES), folder / f"{NAME}.{os.getpid()}"
    try:
        file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(file, pepper)
            os.fsync(file)
        finally:
            os.close(file)
        os.link(draft, folder / NAME)  # fails where there is one, as `rename` would not
        draft.unlink()
        _sync_folder(folder)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise StorageError(f"cannot write {folder / NAME}: {error.strerror}") from error
    return pepper


def _sync_folder(folder: Path) -> None:
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
