"""The keys of a running Hermes: those of the configuration, those that are stored, and who is let in by them.

Each change is on the disk, and the table by which everybody is let in is another one, before it is acknowledged. The
same operations serve the admin API and, where no Hermes runs, the command line.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from time import time
from typing import TYPE_CHECKING, TypeVar

from msgspec import Struct
from msgspec.structs import asdict

from hermes.auth import Authenticator, Table, digest, under
from hermes.errors import BadRequest, Forbidden, KeyNotFound, NotStored, StorageError
from hermes.keyring.words import Rotation, Told, new_secret, read_as, tell
from hermes.policy import rights
from hermes.principal import Principal
from hermes.storage import keys, pepper
from hermes.storage.keys import Fields, Key
from hermes.storage.store import Store

if TYPE_CHECKING:
    from sqlite3 import Connection

    from hermes.storage.database import Database

log = logging.getLogger(__name__)

WATCH_EVERY_S = 2.0

T = TypeVar("T")
Made = Callable[[Key, int | None], Principal]
"""From a key, and until when the secret is good, to whom it lets in."""


class Entry(Struct, frozen=True):
    """A key, and the digests of its secrets, each with its own end."""

    key: Key
    secrets: list[tuple[bytes, int | None]]


class Keyring:
    """Operations take what the path names, what the body says, and who asks; they return what is answered.

    `send_away` is told of keys that let in nobody any more, by their ids.
    """

    def __init__(
        self,
        people: Authenticator,
        store: Store,
        wall_clock: Callable[[], float] = time,
        send_away: Callable[[Collection[str]], None] | None = None,
    ) -> None:
        self._people = people
        self._store = store
        self._send_away = send_away
        self._wall_clock = wall_clock
        self._static: Mapping[bytes, Principal] = {}
        self._principal: Made = _nobody
        self._stored: dict[str, Entry] = {}
        self._let_in: dict[str, dict[bytes, Principal]] = {}  # by stored key
        self._names: dict[str, str] = {}  # of all that were ever stored
        self._pepper = b""
        self._found = False  # a key that somebody else has made

    def adopt(self, static: Mapping[bytes, Principal], principal: Made) -> None:
        """These are the keys of the configuration, by their SHA-256, and so stored ones are read, from now on."""
        self._static, self._principal = static, principal
        self._read_anew()

    @property
    def used(self) -> bool:
        """Whether a key is stored, or ever was."""
        return bool(self._pepper)

    def names(self) -> Mapping[str, str]:
        """What people call keys, by their ids: those of the configuration by whom they act for."""
        return {key.key_id: key.tenant for key in self._static.values()} | self._names

    def load(self) -> None:
        """Read what is stored, before anybody is let in. Raises StorageError."""
        if self._store.folder is None:
            return
        seasoning = pepper.read(self._store.folder)
        if self._store.exists:
            self._pepper, entries, self._names = self._store.database().submit(self._all).result()
            self._stored = {entry.key.id: entry for entry in entries}
            self._read_anew()
        elif seasoning is not None:
            raise StorageError(
                f"there are no keys in {self._store.folder}, but their pepper: put the database back from a backup, or"
                f" remove {self._store.folder / pepper.NAME} to begin without any (docs/keys.md)"
            )

    def _read_anew(self) -> None:
        self._let_in = {id: self._by(entry) for id, entry in self._stored.items()}
        self._publish()

    def _by(self, entry: Entry) -> dict[bytes, Principal]:
        return {known: self._principal(entry.key, until) for known, until in entry.secrets}

    def _publish(self) -> None:
        """Once there was a stored key, the door is closed for good: revoking the last opens nothing."""
        principals = {under(self._pepper, known): principal for known, principal in self._static.items()}
        for stored in self._let_in.values():
            principals |= stored
        before = self._people.table
        self._people.table = Table(principals, self._pepper, closed=bool(self._static or self._pepper or self._found))
        if self._send_away is not None and (gone := before.ids() - self._people.table.ids()):
            self._send_away(gone)

    async def watch(self) -> None:
        """While everybody is let in: whether somebody else makes the first key in this folder, which closes the door.

        The command line does where no admin socket answers it. Another Hermes may, and then holds the database: its
        keys cannot be read here, so nobody is let in any more.
        """
        while self._people.open and (folder := self._store.folder) is not None:
            await asyncio.sleep(WATCH_EVERY_S)
            if self._store.is_open or not (folder / pepper.NAME).exists():
                continue
            self._found = True
            self._publish()
            await asyncio.sleep(WATCH_EVERY_S)  # whoever makes it is done by then
            try:
                await asyncio.to_thread(self._store.database)
                self.load()
            except StorageError as error:
                log.error("somebody else has made a key in %s: from now on nobody is let in here. %s", folder, error)
            else:
                log.info(_CLOSED)

    # --- operations -------------------------------------------------------------------------------------------------

    async def create(self, named: str, asked: Told, by: Principal) -> Told:
        given = read_as(Fields, asked, {"name": asked["name"], "user": asked["name"]} if "name" in asked else {})
        self._check(given, by)
        secret = new_secret()

        def work(connection: "Connection") -> Key:
            return keys.create(connection, given, digest(secret.encode(), self._seasoning(connection)), self._now())

        is_first = self._people.open
        told = await self._change("made", "", work, by, secret)
        return {**told, "first": True} if is_first else told

    async def list(self, named: str, asked: Told, by: Principal) -> Told:
        found: list[Told] = []
        if self._store.exists:
            found = await self._read("", lambda connection: [tell(key) for key in keys.list_all(connection)])
        return {"object": "list", "data": found}

    async def show(self, named: str, asked: Told, by: Principal) -> Told:
        return tell(await self._read(named, lambda connection: keys.find(connection, named)))

    async def update(self, named: str, asked: Told, by: Principal) -> Told:
        def work(connection: "Connection") -> Key:
            key = keys.find(connection, named)
            given = read_as(Fields, asked, asdict(key.fields))
            self._check(given, by, anew="expires_at" in asked)
            return keys.update(connection, key.id, given)

        return await self._change("changed", named, work, by)

    async def rotate(self, named: str, asked: Told, by: Principal) -> Told:
        grace_s, secret = read_as(Rotation, asked).grace_s, new_secret()

        def work(connection: "Connection") -> Key:
            now = self._now()
            self._check(keys.find(connection, named).fields, by, anew=False)
            hidden = digest(secret.encode(), self._seasoning(connection))
            return keys.rotate(connection, named, hidden, now + grace_s, now)

        return await self._change("rotated", named, work, by, secret)

    async def revoke(self, named: str, asked: Told, by: Principal) -> Told:
        def work(connection: "Connection") -> Key:
            return keys.revoke(connection, named, self._now())

        told = await self._change("revoked", named, work, by)
        return told if self._people.table.principals else {**told, "last": True}

    # --- how --------------------------------------------------------------------------------------------------------

    def _now(self) -> int:
        return int(self._wall_clock())

    def _check(self, given: Fields, by: Principal, anew: bool = True) -> None:
        """`anew`: when it ends is said now."""
        if anew and given.expires_at is not None and given.expires_at <= self._now():
            raise BadRequest("`expires_at` is over already", param="expires_at")
        if beyond := rights.beyond(self._principal(Key("", given, 0), None), by):
            words = f"a key can give no more than it has itself: {beyond}"
            raise Forbidden(words, code="beyond_own_rights", param=beyond)

    async def _read(self, named: str, work: Callable[["Connection"], T]) -> T:
        with _honestly():
            return await (await self._database(named)).run(work)

    async def _change(
        self, verb: str, named: str, work: Callable[["Connection"], Key], by: Principal, secret: str | None = None
    ) -> Told:
        """Who asked may leave meanwhile: what was committed counts from then on all the same."""
        loop = asyncio.get_running_loop()

        def change(connection: "Connection") -> tuple[Entry, bytes]:
            key = work(connection)
            return _entry(connection, key), self._seasoning(connection)

        def committed(done: "Future[tuple[Entry, bytes]]") -> None:
            if not done.cancelled() and done.exception() is None:
                loop.call_soon_threadsafe(self._replace, *done.result())

        with _honestly():
            done = (await self._database(named)).submit(change)
            done.add_done_callback(committed)
            key = (await asyncio.wrap_future(done))[0].key
        log.info("key %s (%s) %s by %s", key.id, key.fields.name, verb, by.key_id)
        return tell(key) | ({"key": secret} if secret else {})

    async def _database(self, named: str) -> "Database":
        """None is made only to look for a key in it."""
        if named and not self._store.exists:
            raise KeyNotFound(f"there is no key {named!r}", param="key")
        return await asyncio.to_thread(self._store.database)

    def _replace(self, entry: Entry, seasoning: bytes) -> None:
        """Changes come here in the order in which they were committed."""
        was_open = self._people.open
        self._pepper = seasoning
        self._stored[entry.key.id] = entry
        self._names[entry.key.id] = entry.key.fields.name
        self._let_in[entry.key.id] = self._by(entry)
        self._publish()
        if was_open:
            log.info(_CLOSED)

    # --- in the database's thread -----------------------------------------------------------------------------------

    def _seasoning(self, connection: "Connection") -> bytes:
        """The pepper, as it is in use; the first key makes it. Raises StorageError for one that is missing or wrong."""
        assert self._store.folder is not None
        if known := self._pepper:
            return known
        if (mark := keys.mark(connection)) is not None:
            return self._checked(mark)
        found = pepper.make(self._store.folder)
        keys.set_mark(connection, digest(b"", found))
        return found

    def _checked(self, mark: bytes) -> bytes:
        assert self._store.folder is not None
        path = self._store.folder / pepper.NAME
        if (found := pepper.read(self._store.folder)) is None:
            raise StorageError(f"{path} is missing: without it no stored key can be known. {_PUT_BACK}")
        if digest(b"", found) != mark:
            raise StorageError(f"{path} is not the one that the stored keys were made with. {_PUT_BACK}")
        return found

    def _all(self, connection: "Connection") -> tuple[bytes, tuple[Entry, ...], dict[str, str]]:
        """The pepper, none where there never was a key; what is known of those that are not revoked; all names."""
        if (mark := keys.mark(connection)) is None:
            return b"", (), {}
        found = keys.list_all(connection)
        valid = tuple(_entry(connection, key) for key in found if key.revoked_at is None)
        return self._checked(mark), valid, {key.id: key.fields.name for key in found}


_CLOSED = "there is a key: from now on every request needs one"


def _entry(connection: "Connection", key: Key) -> Entry:
    return Entry(key, [(known, until) for known, _, until in keys.digests(connection, key.id)])


def _nobody(key: Key, until: int | None) -> Principal:
    raise AssertionError("keys are read before it is known what they come to")


@contextmanager
def _honestly() -> Iterator[None]:
    """What could not be stored is told so."""
    try:
        yield
    except StorageError as error:
        raise NotStored(str(error)) from error


_PUT_BACK = "Put it back from a backup (docs/keys.md)"


# Whoever may open the admin socket, or the file itself.
OPERATOR = Principal(key_id="operator", tenant="operator", admin=True)
