"""Keys as they are stored: pure functions over a connection, each one step of a transaction.

Of a secret only its digest is known here. A key is found by its id, which it keeps for ever, or by its name, which is
its own until it is revoked. Times are whole Unix seconds.
"""

import json
import secrets
from base64 import b32encode
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta, Struct
from msgspec.structs import asdict

from hermes.config.kinds import ClassName, Count, User, Weight
from hermes.errors import KeyNotFound, KeyRevoked, NameTaken

if TYPE_CHECKING:
    from sqlite3 import Connection, Cursor

Name = Annotated[
    str,
    Meta(
        pattern=r"\A(?!k_)[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}\Z",
        description="a name of letters, digits and . _ @ + -, which does not begin with k_",
    ),
]
Pattern = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9*?][A-Za-z0-9._:/@*?-]{0,199}\Z")]
Patterns = Annotated[
    tuple[Pattern, ...],
    Meta(max_length=100, description="one of at most 100 model names, with * for any characters and ? for one"),
]
Tokens = Annotated[int, Meta(ge=1, le=2**53, description="a whole number above 0")]
Moment = Annotated[int, Meta(ge=1, le=2**40, description="a time in Unix seconds")]


class Fields(Struct, frozen=True):
    """What can be said of a key, and changed: all that can. `user` is the tenant it acts for, `models` are globs."""

    name: Name
    user: User
    admin: bool = False
    metrics: bool = False
    models: Patterns = ()
    rpm: Count | None = None
    tpm: Count | None = None
    concurrency: Count | None = None
    daily_tokens: Tokens | None = None
    monthly_tokens: Tokens | None = None
    max_class: ClassName | None = None
    usual_class: ClassName | None = None
    weight: Weight = 1.0
    expires_at: Moment | None = None


class Key(Struct, frozen=True):
    """One row. `old_until`: until then secrets before the current one are good, the last of them."""

    id: str
    fields: Fields
    created_at: int
    revoked_at: int | None = None
    old_until: int | None = None


def create(connection: "Connection", fields: Fields, digest: bytes, now: int) -> Key:
    """Raises NameTaken."""
    _check_name(connection, fields.name, "")
    id = f"k_{b32encode(secrets.token_bytes(8)).decode().lower()[:12]}"
    connection.execute(
        "INSERT INTO keys (id, name, user, admin, metrics, models, rpm, tpm, concurrency, daily_tokens, monthly_tokens,"
        " max_class, usual_class, weight, expires_at, created_at) VALUES (:id, :name, :user, :admin, :metrics, :models,"
        " :rpm, :tpm, :concurrency, :daily_tokens, :monthly_tokens, :max_class, :usual_class, :weight, :expires_at,"
        " :created_at)",
        {**_columns(fields), "id": id, "created_at": now},
    )
    connection.execute("INSERT INTO secrets (digest, key) VALUES (?, ?)", (digest, id))
    return Key(id, fields, now)


def update(connection: "Connection", id: str, fields: Fields) -> Key:
    """Raises NameTaken, KeyNotFound, KeyRevoked."""
    _unrevoked(connection, id)
    _check_name(connection, fields.name, id)
    connection.execute(
        "UPDATE keys SET name = :name, user = :user, admin = :admin, metrics = :metrics, models = :models, rpm = :rpm,"
        " tpm = :tpm, concurrency = :concurrency, daily_tokens = :daily_tokens, monthly_tokens = :monthly_tokens,"
        " max_class = :max_class, usual_class = :usual_class, weight = :weight, expires_at = :expires_at"
        " WHERE id = :id",
        {**_columns(fields), "id": id},
    )
    return find(connection, id)


def rotate(connection: "Connection", named: str, digest: bytes, until: int, now: int) -> Key:
    """A new secret; all before it are good for the grace that they were given, and none after `until`.

    Raises KeyNotFound, KeyRevoked.
    """
    id = _unrevoked(connection, named).id
    ends = {"key": id, "until": until}
    connection.execute("UPDATE secrets SET until = min(coalesce(until, :until), :until) WHERE key = :key", ends)
    connection.execute("DELETE FROM secrets WHERE key = ? AND until <= ?", (id, now))
    connection.execute("INSERT INTO secrets (digest, key) VALUES (?, ?)", (digest, id))
    return find(connection, id)


def revoke(connection: "Connection", named: str, now: int) -> Key:
    """It has no secret any more. Once more is the same as once. Raises KeyNotFound."""
    key = find(connection, named)
    if key.revoked_at is None:
        connection.execute("UPDATE keys SET revoked_at = ? WHERE id = ?", (now, key.id))
    return find(connection, key.id)


# --- reading ----------------------------------------------------------------------------------------------------------

# Fields first, in their order.
_ALL = (
    "SELECT name, user, admin, metrics, models, rpm, tpm, concurrency, daily_tokens, monthly_tokens, max_class,"
    " usual_class, weight, expires_at, id, created_at, revoked_at,"
    " (SELECT max(until) FROM secrets WHERE key = id) FROM keys"
)


def find(connection: "Connection", named: str) -> Key:
    """By its id or, unless it is revoked, by its name. Raises KeyNotFound."""
    question = f"{_ALL} WHERE id = :named OR (name = :named AND revoked_at IS NULL)"
    for key in _keys(connection.execute(question, {"named": named})):
        return key
    raise KeyNotFound(f"there is no key {named!r}", param="key")


def list_all(connection: "Connection") -> list[Key]:
    """In the order of their making, those that were revoked too."""
    return list(_keys(connection.execute(f"{_ALL} ORDER BY created_at, keys.rowid")))


def digests(connection: "Connection", id: str = "") -> list[tuple[bytes, str, int | None]]:
    """Of each secret, or each of one key: its digest, its key's id, and until when it is good."""
    return connection.execute("SELECT digest, key, until FROM secrets WHERE ? IN ('', key)", (id,)).fetchall()


def mark(connection: "Connection") -> bytes | None:
    """Of the pepper that the digests are made with; None: there never was a key."""
    found = connection.execute("SELECT mark FROM peppered").fetchone()
    return None if found is None else bytes(found[0])


def set_mark(connection: "Connection", mark: bytes) -> None:
    connection.execute("INSERT OR IGNORE INTO peppered (one, mark) VALUES (1, ?)", (mark,))


def _unrevoked(connection: "Connection", named: str) -> Key:
    key = find(connection, named)
    if key.revoked_at is not None:
        raise KeyRevoked(f"the key {named!r} is revoked: make a new one", param="key")
    return key


def _check_name(connection: "Connection", name: str, id: str) -> None:
    taken = connection.execute("SELECT 1 FROM keys WHERE name = ? AND id <> ? AND revoked_at IS NULL", (name, id))
    if taken.fetchone() is not None:
        raise NameTaken(f"there is a key named {name!r} already", param="name")


def _columns(fields: Fields) -> Mapping[str, Any]:
    return {**asdict(fields), "models": json.dumps(fields.models)}


def _keys(rows: "Cursor") -> Iterator[Key]:
    for name, user, admin, metrics, models, *bounds, id, created_at, revoked_at, until in rows:
        fields = Fields(name, user, bool(admin), bool(metrics), tuple(json.loads(models)), *bounds)
        yield Key(id, fields, created_at, revoked_at, until)
