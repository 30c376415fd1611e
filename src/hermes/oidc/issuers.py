"""All issuers: whose token is it, is it proven, and who is that?"""

import asyncio
from collections.abc import Callable, Iterable

from msgspec import Struct

from hermes.config import Issuer
from hermes.oidc import rights
from hermes.oidc.keys import KeySet, Name
from hermes.oidc.token import Token, expired, refused
from hermes.principal import Principal

# Of proven tokens, half a KiB each: 2 MiB.
MAX_PROVEN = 4096


class Known(Struct, frozen=True):
    """An issuer, and its keys."""

    settings: Issuer
    keys: KeySet


class Issuers:
    """`wall`: Unix time, for when tokens end (I35). `usual_class`: as for keys."""

    def __init__(self, known: Iterable[Known], usual_class: str, wall: Callable[[], float]) -> None:
        self._issuers = {each.settings.issuer: each for each in known}
        self._usual_class = usual_class
        self._wall = wall
        self._proven: dict[bytes, Principal] = {}  # by the SHA-256 of the whole token
        self._tasks: list[asyncio.Task[None]] = []
        for each in self._issuers.values():
            each.keys.changed = self._proven.clear

    def adopt(self, usual_class: str) -> None:
        """This is usual from now on. What keys there are stays known."""
        self._usual_class = usual_class
        self._proven.clear()

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to fetch keys."""
        self._tasks = [
            loop.create_task(each.keys.keep(), name=f"jwt {each.settings.name}") for each in self._issuers.values()
        ]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def recognise(self, written: bytes, digest: bytes) -> Principal | None:
        """Whose token this is; None: its issuer's keys are to be looked at again. Raises InvalidToken, Forbidden."""
        now = self._wall()
        principal = self._proven.get(digest)
        if principal is None:
            return self._prove(Token(written), digest, now)
        assert principal.expires_at is not None
        if principal.expires_at <= now:
            del self._proven[digest]
            raise expired()
        return principal

    async def look_again(self, written: bytes, digest: bytes) -> Principal:
        """As `recognise`, after that. Raises IssuerUnavailable too, where the keys cannot be had."""
        keys = self._issuer(Token(written)).keys
        await keys.look_again()
        if (principal := self.recognise(written, digest)) is not None:
            return principal
        if keys.failing:
            raise keys.unavailable()
        raise refused("is signed with a key that its issuer does not have")

    def _issuer(self, token: Token) -> Known:
        """Whose it says it is, to the letter (RFC 8725 3.8), and signed in one of that issuer's ways."""
        known = self._issuers.get(token.issuer)
        if known is None:
            raise refused("is of an issuer that is not known here (iss)")
        if token.algorithm not in known.settings.algorithms:
            raise refused("is not signed in a way that is allowed here (alg)")
        return known

    def _prove(self, token: Token, digest: bytes, now: float) -> Principal | None:
        known = self._issuer(token)
        key = known.keys.find(Name(token.key_id, token.algorithm))
        if key is None:
            return None
        if not key.proves(token.signed, token.signature):
            raise refused("has a wrong signature")
        issuer = known.settings
        until = token.valid_until(frozenset(issuer.audience), issuer.leeway_s, now)
        principal = rights.principal(token, issuer, self._usual_class, until)
        if len(self._proven) >= MAX_PROVEN:
            del self._proven[next(iter(self._proven))]
        self._proven[digest] = principal
        return principal
