"""One token, from its bytes: what it says, strictly read, and whether that holds now. Nothing here is proven yet."""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any

from hermes.dialects.strict import parse_object
from hermes.errors import BadRequest, InvalidToken, TokenExpired

MAX_BYTES = 8192
MAX_NAME = 255  # OpenID Connect Core 2: `sub` has no more; nor has any honest `kid`

_parts = re.compile(rb"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)").fullmatch
# Extensions we do not have, and keys that a token would bring along or have us fetch (RFC 7515 4.1, RFC 7797).
_REFUSED = frozenset(("crit", "jku", "x5u", "jwk", "zip", "b64"))
# RFC 8725 3.11: no other kind of token stands in for one that lets somebody in (RFC 9068: at+jwt).
_TYPES = frozenset(("jwt", "at+jwt", "application/jwt", "application/at+jwt"))
_CHALLENGE = ((b"www-authenticate", b'Bearer error="invalid_token"'),)  # RFC 6750 3.1


def refused(why: str, kind: type[InvalidToken] = InvalidToken) -> InvalidToken:
    """For the answer: in no case with anything of the token in it."""
    return kind(f"the token {why}", headers=_CHALLENGE)


def is_token(credential: bytes) -> bool:
    """By its form: three parts with dots between. No key of ours has a dot, and those of others begin with sk-."""
    return credential.count(b".") == 2 and not credential.startswith(b"sk-")


class Token:
    """What a token says of itself. It shows nothing of that when printed (I26)."""

    __slots__ = ("algorithm", "claims", "issuer", "key_id", "signature", "signed")

    def __init__(self, written: bytes) -> None:
        """Raises InvalidToken for what is no token, or none that can be good."""
        if len(written) > MAX_BYTES:
            raise refused(f"is longer than {MAX_BYTES} bytes")
        if (parts := _parts(written)) is None:
            raise refused("is malformed: three parts in base64url were expected")
        header, self.claims = _object(parts[1]), _object(parts[2])
        self.signature = _bytes(parts[3])
        self.signed = written[: parts.end(2)]
        if not _REFUSED.isdisjoint(header):
            raise refused("has a header that is not allowed: " + ", ".join(sorted(_REFUSED & header.keys())))
        kind = header.get("typ", "JWT")
        if not isinstance(kind, str) or kind.lower() not in _TYPES:
            raise refused("is of a type that lets nobody in")
        self.algorithm = _name(header.get("alg"), "names no algorithm")
        self.key_id = _name(header.get("kid"), "does not say with which key it is signed (kid)")
        self.issuer = _name(self.claims.get("iss"), "names no issuer (iss)")

    def __repr__(self) -> str:
        return "Token(***)"

    @property
    def subject(self) -> str:
        return _name(self.claims.get("sub"), "names no subject (sub)")

    def valid_until(self, audience: frozenset[str], leeway_s: float, now: float) -> float:
        """When it ends. `now` and that are Unix time. Raises InvalidToken where it does not hold at all."""
        meant = self.claims.get("aud")
        if not isinstance(meant, list):
            meant = [meant]
        if not all(isinstance(each, str) for each in meant) or audience.isdisjoint(meant):
            raise refused("is meant for somebody else (aud)")
        if "cnf" in self.claims:
            raise refused("is bound to a key of its holder's (cnf), of which a bearer shows nothing")
        begins = [self._time(name) for name in ("iat", "nbf") if name in self.claims]
        if not begins:
            raise refused("does not say since when it holds (iat, nbf)")
        if max(begins) > now + leeway_s:
            raise refused("does not hold yet")
        until = self._time("exp") + leeway_s
        if until <= now:
            raise expired()
        return until

    def _time(self, name: str) -> float:
        value = self.claims.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise refused(f"has no time in {name}")
        return value


def expired() -> InvalidToken:
    return refused("has expired", TokenExpired)


def _name(value: Any, else_it: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME:
        raise refused(else_it)
    return value


def _object(part: bytes) -> dict[str, Any]:
    try:
        return parse_object(_bytes(part), frozenset())
    except BadRequest:
        raise refused("is malformed: JSON objects without a member twice were expected") from None


def _bytes(part: bytes) -> bytes:
    try:
        data = urlsafe_b64decode(part + b"=" * (-len(part) % 4))
    except ValueError:
        data = b""
    if urlsafe_b64encode(data).rstrip(b"=") != part:  # bits that mean nothing: a second spelling of the same
        raise refused("is malformed: not base64url")
    return data
