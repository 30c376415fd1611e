"""Credential to principal: one credential from whichever header carries it, compared in constant time."""

import hmac
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from time import time

from msgspec import Struct

from hermes.errors import BadRequest, Unauthenticated
from hermes.principal import ANONYMOUS, Principal


def credential(headers: Mapping[bytes, bytes]) -> bytes:
    """The one credential of a request, b"" when it carries none. Raises BadRequest for two that differ (I19)."""
    found = {value for value in (_bearer(headers.get(b"authorization", b"")), headers.get(b"x-api-key", b"")) if value}
    if len(found) > 1:
        raise BadRequest(
            "two different credentials: send either Authorization: Bearer or x-api-key", code="ambiguous_credentials"
        )
    return found.pop() if found else b""


def _bearer(authorization: bytes) -> bytes:
    scheme, _, token = authorization.partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else b""


class Table(Struct, frozen=True):
    """Who is let in, by what `digest` makes of the key under the `pepper`. Not `closed`: anybody, as the operator."""

    principals: Mapping[bytes, Principal]
    pepper: bytes = b""
    closed: bool = True


def digest(credential: bytes, pepper: bytes) -> bytes:
    return under(pepper, sha256(credential).digest())


def under(pepper: bytes, sha256_digest: bytes) -> bytes:
    """HMAC-SHA-256 of a key's SHA-256, so that keys of which only that is known have a place in the same table."""
    return hmac.digest(pepper, sha256_digest, "sha256") if pepper else sha256_digest


class Authenticator:
    """Knows keys by their digests alone: those given by their SHA-256 and, where it is told a `table`, those in it.

    The table is replaced as a whole. Without any key every caller is the operator (loopback only: `runtime`).
    """

    def __init__(
        self,
        keys: Iterable[tuple[bytes, Principal]],
        anonymous: Principal = ANONYMOUS,
        wall_clock: Callable[[], float] = time,
    ) -> None:
        known = dict(keys)
        self.table = Table(known, closed=bool(known))
        self._anonymous = anonymous
        self._wall_clock = wall_clock

    def authenticate(self, headers: Mapping[bytes, bytes]) -> Principal:
        """Who asks. Raises Unauthenticated; an unknown key costs the same steps as a known one (I17)."""
        table = self.table
        if not table.closed:
            return self._anonymous
        given = credential(headers)
        if not given:
            raise Unauthenticated(
                "an API key is required: send it as Authorization: Bearer KEY or x-api-key: KEY", headers=_CHALLENGE
            )
        asked = digest(given, table.pepper)
        known = asked if asked in table.principals else _NOBODY
        principal = table.principals.get(known)
        if not hmac.compare_digest(known, asked) or principal is None:
            # OpenAI's words: LiteLLM looks for them, else it makes a BadRequestError of it.
            raise Unauthenticated("Incorrect API key provided: it is not known here", headers=_CHALLENGE)
        if principal.expires_at is not None and principal.expires_at <= self._wall_clock():
            raise Unauthenticated("this API key has expired", code="key_expired", headers=_CHALLENGE)
        return principal


_NOBODY = bytes(32)
# RFC 9110 11.6.1: a 401 says how to authenticate.
_CHALLENGE = ((b"www-authenticate", b"Bearer"),)
