"""Credential to principal: one credential from whichever header carries it, compared in constant time."""

import hmac
from binascii import a2b_base64
from collections.abc import Mapping
from hashlib import sha256
from typing import TYPE_CHECKING

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
    found = {headers.get(b"x-api-key", b""), headers.get(b"api-key", b"")}
    if authorization := headers.get(b"authorization"):
        found.add(_authorized(authorization))
    found.discard(b"")
    if len(found) > 1:
        raise BadRequest(f"two different credentials: send one, as {_HOW}", code="ambiguous_credentials")
    given = found.pop() if found else b""
    return b"" if given is _UNREAD else given


def _authorized(value: bytes) -> bytes:
    """The key in an Authorization header; b"" if it holds none."""
    scheme, _, given = value.partition(b" ")
    scheme, given = scheme.lower(), given.strip(b" ")
    if scheme == b"bearer":
        if b" " in given or b"\t" in given:
            raise _malformed("a bearer token has no blanks in it")
        return given
    if scheme != b"basic":
        return _UNREAD
    try:
        user, colon, password = a2b_base64(given, strict_mode=True).partition(b":")
    except ValueError:
        raise _malformed("what follows Basic is not base64") from None
    if given and not colon:
        raise _malformed("what follows Basic is not user:password (RFC 7617)")
    return password or user


def _malformed(why: str) -> BadRequest:
    return BadRequest(f"the Authorization header cannot be read: {why}", code="malformed_credentials")


# A scheme that is not known here: no key, and none may stand beside it. Never equal to what was sent: it has a blank.
_UNREAD = b"no key"


class Authenticator:
    """Knows keys by their SHA-256 alone, and the issuers of tokens.

    Without any, every caller is the operator (loopback only: `runtime`).
    """

    def __init__(
        self, keys: Mapping[bytes, Principal], anonymous: Principal = ANONYMOUS, issuers: "Issuers | None" = None
    ) -> None:
        self.adopt(keys, anonymous, issuers)

    def adopt(self, keys: Mapping[bytes, Principal], anonymous: Principal, issuers: "Issuers | None") -> None:
        """These are known from now on, and no others."""
        self._keys = keys
        self._anonymous = anonymous
        self._issuers = issuers
        self._open = not self._keys and issuers is None

    def authenticate(self, headers: Mapping[bytes, bytes], now: float) -> Principal | None:
        """Who asks, at `now` in Unix seconds; None: only `look_again` can tell.

        An unknown key costs the same steps as a known one (I17).

        Raises Unauthenticated, BadRequest for a credential that can be read in two ways, and Forbidden for a token that
        may not come in.
        """
        if self._open:
            return self._anonymous
        given = credential(headers)
        if not given:
            raise Unauthenticated(f"an API key is required: send it as {_HOW}", headers=_CHALLENGE)
        digest = sha256(given).digest()
        known = digest if digest in self._keys else _NOBODY
        principal = self._keys.get(known)
        if not hmac.compare_digest(known, digest) or principal is None:
            if self._issuers is not None and is_token(given):
                return self._issuers.recognise(given, digest)
            # OpenAI's words: LiteLLM looks for them, else it makes a BadRequestError of it.
            raise Unauthenticated("Incorrect API key provided: it is not known here", headers=_CHALLENGE)
        if principal.expires_at is not None and principal.expires_at <= now:
            raise Unauthenticated("this API key has expired", code="key_expired", headers=_CHALLENGE)
        return principal

    async def look_again(self, headers: Mapping[bytes, bytes]) -> Principal:
        """Who asks, with a token whose key was not known. Raises IssuerUnavailable too, where keys cannot be had."""
        given = credential(headers)
        assert self._issuers is not None
        return await self._issuers.look_again(given, sha256(given).digest())


_NOBODY = bytes(32)
# RFC 9110 11.6.1: a 401 says how to authenticate.
_CHALLENGE = ((b"www-authenticate", b"Bearer"),)
