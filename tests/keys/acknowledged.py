"""What was acknowledged of keys, and whether a folder still has it."""

from pathlib import Path
from typing import Any

from msgspec import Struct

from hermes.auth import Authenticator
from hermes.errors import Unauthenticated
from hermes.keyring import Keyring
from hermes.principal import Principal
from hermes.storage.keys import Key
from hermes.storage.store import Store


class Known(Struct):
    """`secret`: None: it was revoked; "", as an `rpm` of None: nobody has been told since it was in doubt."""

    secret: str | None = ""
    rpm: int | None = None


class Acknowledged:
    """`in_doubt`: the key, or the name of one, that a change was under way of; it may have been made or not."""

    def __init__(self) -> None:
        self.keys: dict[str, Known] = {}
        self.void: set[str] = set()
        self.in_doubt = ""

    def heed(self, told: dict[str, Any]) -> None:
        """A change begins (`about`), or is acknowledged."""
        self.in_doubt = told.get("about", "")
        if self.in_doubt:
            return
        known = self.keys.setdefault(told["id"], Known())
        known.rpm = told.get("rpm", known.rpm)
        if "key" in told:
            if known.secret:
                self.void.add(known.secret)
            known.secret = told["key"]

    def lost_in(self, folder: Path) -> list[str]:
        """Where what is stored there differs. What was in doubt is decided by it."""
        people, store = Authenticator(()), Store(folder)
        keyring = Keyring(people, store)
        keyring.adopt({}, _principal)
        try:
            keyring.load()
            rows = store.database().submit(_rows).result(10) if store.exists else {}
        finally:
            store.close()
        if doubtful := self.keys.pop(self.in_doubt, None):
            self.void.discard(doubtful.secret or "")
        self.in_doubt = ""
        return [
            *(f"{id}: {why}" for id, known in self.keys.items() if (why := _differs(id, known, rows.get(id), people))),
            *(f"void, and lets in: {secret}" for secret in self.void if _who(people, secret)),
        ]


def _principal(key: Key, until: int | None) -> Principal:
    return Principal(key.id, key.fields.user, admin=False)


def _rows(connection: Any) -> dict[str, Key]:
    from hermes.storage import keys

    return {key.id: key for key in keys.list_all(connection)}


def _differs(id: str, known: Known, row: Key | None, people: Authenticator) -> str:
    if row is None:
        return "is lost"
    if (row.revoked_at is not None) != (known.secret is None):
        return "is revoked" if row.revoked_at else "is not revoked any more"
    if known.rpm not in (None, row.fields.rpm):
        return f"has {row.fields.rpm}, not {known.rpm}"
    return "" if not known.secret or _who(people, known.secret) == id else "does not let in"


def _who(people: Authenticator, secret: str) -> str:
    try:
        return people.authenticate({b"x-api-key": secret.encode()}, 0.0).key_id
    except Unauthenticated:
        return ""
