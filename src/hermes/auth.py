"""Credential to principal: one credential from whichever header carries it, compared in constant time."""

import hmac
from binascii import a2b_base64
from collections.abc import Mapping
from hashlib import sha256
from typing import TYPE_CHECKING

from msgspec import Struct

from hermes.errors import BadRequest, Unauthenticated
from hermes.oidc.token import is_token
from hermes.principal import ANONYMOUS, Principal

if TYPE_CHECKING:
    from hermes.oidc.issuers import Issuers  # 22 MiB, for those who have tokens

# How a key can be sent, for errors.
_HOW = "Authorization: Bearer KEY, x-api-key: KEY, api-key: KEY, or Basic with the key as its password"


def credential(headers: Mapping[bytes, bytes]) -> bytes:
    """The one credential of a request, b"" when it carries none. One may stand in several headers, as SDKs send it.

    Raises BadRequest for two that differ, beside one that is not read too, and for one that is malformed (I19).
    """
    found: set[bytes | None] = {headers.get(b"x-api-key", b""), headers.get(b"api-key", b"")}
    if authorization := headers.get(b"authorization"):
        found.add(_authorized(authorization))
    found.discard(b"")
    if len(found) > 1:
        raise BadRequest(f"two different credentials: send one, as {_HOW}", code="ambiguous_credentials")
    return (found.pop() if found else None) or b""


def _authorized(value: bytes) -> bytes | None:
    """The key in an Authorization header, b"" where its place is empty; None: of a scheme that is not read."""
    scheme, _, given = value.partition(b" ")
    scheme, given = scheme.lower(), given.strip(b" ")
    if scheme == b"bearer":
        if b" " in given or b"\t" in given:
            raise _malformed("a bearer token has no blanks in it")
        return given
    if scheme != b"basic":
        return None
    try:
        user, colon, password = a2b_base64(given, strict_mode=True).partition(b":")
    except ValueError:
        raise _malformed("what follows Basic is not base64") from None
    if given and not colon:
        raise _malformed("what follows Basic is not user:password (RFC 7617)")
    return password or user


def _malformed(why: str) -> BadRequest:
    return BadRequest(f"the Authorization header cannot be read: {why}", code="malformed_credentials")


class Table(Struct, frozen=True):
    """Who is let in, by what `digest` makes of the key under the `pepper`. `closed`: nobody else is."""

    principals: Mapping[bytes, Principal]
    pepper: bytes = b""
    closed: bool = True

    def ids(self) -> set[str]:
        """Of the keys that let somebody in."""
        return {principal.key_id for principal in self.principals.values()}


def digest(credential: bytes, pepper: bytes) -> bytes:
    return under(pepper, sha256(credential).digest())


def under(pepper: bytes, sha256_digest: bytes) -> bytes:
    """HMAC-SHA-256 of a key's SHA-256, so that keys of which only that is known have a place in the same table."""
    return hmac.digest(pepper, sha256_digest, "sha256") if pepper else sha256_digest


class Authenticator:
    """Knows keys by their digests alone, and the issuers of tokens. The `table` is replaced as a whole.

    Without any, every caller is the `anonymous` operator (loopback only: `runtime`).
    """

    def __init__(
        self, keys: Mapping[bytes, Principal], anonymous: Principal = ANONYMOUS, issuers: "Issuers | None" = None
    ) -> None:
        self.table = Table(keys, closed=bool(keys))
        self.anonymous = anonymous
        self.issuers = issuers

    @property
    def open(self) -> bool:
        """Whether anybody is let in."""
        return not self.table.closed and self.issuers is None

    def authenticate(self, headers: Mapping[bytes, bytes], now: float) -> Principal | None:
        """Who asks, at `now` in Unix seconds; None: only `look_again` can tell.

        An unknown key costs the same steps as a known one (I17).

        Raises Unauthenticated, BadRequest for a credential that can be read in two ways, and Forbidden for a token that
        may not come in.
        """
        table, issuers = self.table, self.issuers
        if not table.closed and issuers is None:
            return self.anonymous
        given = credential(headers)
        if not given:
            raise Unauthenticated(f"an API key is required: send it as {_HOW}", headers=_CHALLENGE)
        asked = digest(given, table.pepper)
        known = asked if asked in table.principals else _NOBODY
        principal = table.principals.get(known)
        if not hmac.compare_digest(known, asked) or principal is None:
            if issuers is not None and is_token(given):
                return issuers.recognise(given, sha256(given).digest())
            # OpenAI's words: LiteLLM looks for them, else it makes a BadRequestError of it.
            raise Unauthenticated("Incorrect API key provided: it is not known here", headers=_CHALLENGE)
        if principal.expires_at is not None and principal.expires_at <= now:
            raise Unauthenticated("this API key has expired", code="key_expired", headers=_CHALLENGE)
        return principal

    async def look_again(self, headers: Mapping[bytes, bytes]) -> Principal:
        """Who asks, with a token whose key was not known. Raises IssuerUnavailable too, where keys cannot be had."""
        given = credential(headers)
        assert self.issuers is not None
        return await self.issuers.look_again(given, sha256(given).digest())


_NOBODY = bytes(32)
# RFC 9110 11.6.1: a 401 says how to authenticate.
_CHALLENGE = ((b"www-authenticate", b"Bearer"),)
