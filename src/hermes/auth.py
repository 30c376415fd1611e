"""Credential to principal: one credential from whichever header carries it, compared in constant time."""

import hmac
from collections.abc import Iterable, Mapping
from hashlib import sha256

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


class Authenticator:
    """Knows keys by their SHA-256 alone. Without any, every caller is the operator (loopback only: `runtime`)."""

    def __init__(
        self, keys: Mapping[bytes, Principal] | Iterable[tuple[bytes, Principal]], anonymous: Principal = ANONYMOUS
    ) -> None:
        self.adopt(keys, anonymous)

    def adopt(
        self, keys: Mapping[bytes, Principal] | Iterable[tuple[bytes, Principal]], anonymous: Principal = ANONYMOUS
    ) -> None:
        """These are known from now on, and no others."""
        self._keys = dict(keys)
        self._anonymous = anonymous

    def authenticate(self, headers: Mapping[bytes, bytes]) -> Principal:
        """Who asks. Raises Unauthenticated; an unknown key costs the same steps as a known one (I17)."""
        if not self._keys:
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
            # OpenAI's words: LiteLLM looks for them, else it makes a BadRequestError of it.
            raise Unauthenticated("Incorrect API key provided: it is not known here", headers=_CHALLENGE)
        return principal


_NOBODY = bytes(32)
# RFC 9110 11.6.1: a 401 says how to authenticate.
_CHALLENGE = ((b"www-authenticate", b"Bearer"),)
