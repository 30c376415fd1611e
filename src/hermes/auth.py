"""Credential to principal: one credential from whichever header carries it, compared in constant time."""

import hmac
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import TYPE_CHECKING

from hermes.errors import BadRequest, Unauthenticated
from hermes.oidc.token import is_token
from hermes.principal import ANONYMOUS, Principal

if TYPE_CHECKING:
    from hermes.oidc.issuers import Issuers  # 22 MiB, for those who have tokens


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


class Authenticator:
    """Knows keys by their SHA-256 alone, and the issuers of tokens.

    Without any, every caller is the operator (loopback only: `runtime`).
    """

    def __init__(
        self,
        keys: Iterable[tuple[bytes, Principal]],
        anonymous: Principal = ANONYMOUS,
        issuers: "Issuers | None" = None,
    ) -> None:
        self._keys = dict(keys)
        self._anonymous = anonymous
        self._issuers = issuers
        self._open = not self._keys and issuers is None

    def authenticate(self, headers: Mapping[bytes, bytes]) -> Principal | None:
        """Who asks; None: only `look_again` can tell. An unknown key costs the same steps as a known one (I17).

        Raises Unauthenticated, and Forbidden for a token that may not come in.
        """
        if self._open:
            return self._anonymous
        given = credential(headers)
        if not given:
            raise Unauthenticated(
                "an API key is required: send it as Authorization: Bearer KEY or x-api-key: KEY", headers=_CHALLENGE
            )
        digest = sha256(given).digest()
        known = digest if digest in self._keys else _NOBODY
        principal = self._keys.get(known)
        if not hmac.compare_digest(known, digest) or principal is None:
            if self._issuers is not None and is_token(given):
                return self._issuers.recognise(given, digest)
            # OpenAI's words: LiteLLM looks for them, else it makes a BadRequestError of it.
            raise Unauthenticated("Incorrect API key provided: it is not known here", headers=_CHALLENGE)
        return principal

    async def look_again(self, headers: Mapping[bytes, bytes]) -> Principal:
        """Who asks, with a token whose key was not known. Raises IssuerUnavailable too, where keys cannot be had."""
        given = credential(headers)
        assert self._issuers is not None
        return await self._issuers.look_again(given, sha256(given).digest())


_NOBODY = bytes(32)
# RFC 9110 11.6.1: a 401 says how to authenticate.
_CHALLENGE = ((b"www-authenticate", b"Bearer"),)
