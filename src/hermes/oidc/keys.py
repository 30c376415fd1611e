"""An issuer's keys: read from a JSON Web Key Set (RFC 7517), kept fresh, and proving signatures."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt import PyJWK
from msgspec import Struct

from hermes.dialects.strict import marks, parse_object
from hermes.errors import GatewayError, IssuerUnavailable

log = logging.getLogger(__name__)

MAX_KEYS = 100
# Objects, lists and members, as `strict.marks` counts: of 100 honest keys 2000; more would take the loop's time (I36).
MAX_MARKS = 5000
# More than a fetch may take: who waits never waits for ever.
PATIENCE_S = 10.0
# RFC 7518 3.3 wants 2048; more than 8192 would take longer than the loop has (0.2 ms with that).
_RSA_BITS = range(2048, 8193)
# RFC 7518 3.4, RFC 8037: the one curve of each; EdDSA has two.
_CURVES = {"ES256": ("P-256",), "ES384": ("P-384",), "ES512": ("P-521",), "EdDSA": ("Ed25519", "Ed448")}


class Name(NamedTuple):
    """How a token names a key: an opaque text, never a path or a query. With the algorithm, it is one key."""

    key_id: str
    algorithm: str


class Key:
    """One public key for one algorithm. To prove a signature takes 0.03 (RSA) to 0.5 ms (P-521): no thread needed."""

    __slots__ = ("_jwk",)

    def __init__(self, jwk: PyJWK) -> None:
        self._jwk = jwk

    def proves(self, signed: bytes, signature: bytes) -> bool:
        return bool(self._jwk.Algorithm.verify(signed, self._jwk.key, signature))


def read_set(body: bytes, algorithms: tuple[str, ...]) -> dict[Name, Key]:
    """The keys that can be used with these algorithms. What is none is passed over. Raises ValueError for no set."""
    if marks(body) > MAX_MARKS:
        raise ValueError("what it gives is too long for a key set")
    try:
        listed = parse_object(body, frozenset()).get("keys")
    except GatewayError:
        listed = None
    if not isinstance(listed, list):
        raise ValueError("what it gives is no key set")
    found: dict[Name, Key] = {}
    for said in listed[:MAX_KEYS]:
        for algorithm in algorithms:
            if isinstance(said, dict) and (key := _key(said, algorithm)) is not None:
                found.setdefault(Name(said["kid"], algorithm), key)
    if not found:
        raise ValueError(f"it has no key with a kid for {', '.join(algorithms)}")
    return found


def _key(said: dict[str, Any], algorithm: str) -> Key | None:
    """None: not made for this."""
    try:
        if not _is_meant_for(said, algorithm):
            return None
        jwk = PyJWK(said, algorithm)
    except Exception:  # whatever two libraries make of what is no key, such as a point beside its curve
        return None
    weak = isinstance(jwk.key, RSAPublicKey) and jwk.key.key_size not in _RSA_BITS
    return None if weak else Key(jwk)


def _is_meant_for(said: dict[str, Any], algorithm: str) -> bool:
    kind = "OKP" if algorithm == "EdDSA" else "EC" if algorithm.startswith("ES") else "RSA"
    return (
        isinstance(said["kid"], str)
        and said["kty"] == kind
        and said.get("alg", algorithm) == algorithm
        and said.get("use", "sig") == "sig"
        and "verify" in said.get("key_ops", ("verify",))
        and said.get("crv") in _CURVES.get(algorithm, (None,))
        and "d" not in said  # a private key that lies about: nothing signed with it proves anything
    )


class Pace(Struct, frozen=True):
    """How often keys are fetched, and until when those are used that cannot be fetched again.

    `pause_s`: two fetches are at least so far apart, whoever wants one.
    """

    refresh_s: float = 300.0
    pause_s: float = 10.0
    stale_s: float = 3600.0


PACE = Pace()


class KeySet:
    """The keys of one issuer. `keep` fetches them as long as it runs; `changed` is called when they are others."""

    def __init__(
        self,
        issuer: str,
        fetch: Callable[[], Awaitable[bytes]],
        algorithms: tuple[str, ...],
        counted: Callable[[str], None],
        pace: Pace = PACE,
    ) -> None:
        self.failing = True
        self.changed: Callable[[], None] = lambda: None
        self._issuer = issuer
        self._fetch = fetch
        self._algorithms = algorithms
        self._counted = counted
        self._pace = pace
        self._keys: Mapping[Name, Key] = {}
        self._body = b""
        self._fetched_at = 0.0
        self._told = False
        self._resting = False
        self._wanted = asyncio.Event()
        self._looked = asyncio.Event()

    def find(self, name: Name) -> Key | None:
        return self._keys.get(name)

    async def look_again(self) -> None:
        """Wait for the fetch that runs or is due; not at all soon after one. Raises IssuerUnavailable if it is long."""
        if self._resting:
            return
        self._wanted.set()
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._looked.wait()
        except TimeoutError:
            raise self.unavailable() from None

    def unavailable(self) -> IssuerUnavailable:
        words = "the keys of the token's issuer cannot be had at present"
        return IssuerUnavailable(words, retry_after_s=self._pace.pause_s)

    async def keep(self) -> None:
        """Fetch them, again and again, until this is cancelled."""
        try:
            while True:
                await self._look()
                self._wanted.clear()
                self._looked.set()
                self._looked = asyncio.Event()
                self._resting = True
                await asyncio.sleep(self._pace.pause_s)
                self._resting = False
                if not self.failing:
                    await self._until_wanted(self._pace.refresh_s - self._pace.pause_s)
        finally:
            self.failing = True
            self._looked.set()  # nobody waits for what does not come any more

    async def _until_wanted(self, limit_s: float) -> None:
        try:
            async with asyncio.timeout(limit_s):
                await self._wanted.wait()
        except TimeoutError:
            pass

    async def _look(self) -> None:
        now = asyncio.get_running_loop().time()
        try:
            body = await self._fetch()
            if body != self._body:
                self._use(read_set(body, self._algorithms), body)
        except (GatewayError, OSError, ValueError) as error:
            self._failed(str(error).replace("the backend", "their server"), now)
        except Exception:
            log.exception("fetching the keys of jwt %s met a bug", self._issuer)
            self._failed("a bug", now)
        else:
            if self.failing:
                log.info("jwt %s: its keys are here: %d", self._issuer, len(self._keys))
            self.failing, self._fetched_at = False, now
            self._counted("ok")

    def _failed(self, why: str, now: float) -> None:
        if not (self.failing and self._told):
            self._told = True
            log.warning("jwt %s: its keys cannot be fetched: %s", self._issuer, why)
        self.failing = True
        self._counted("failed")
        if self._keys and now - self._fetched_at > self._pace.stale_s:
            log.error("jwt %s: its keys are too old by now: tokens are refused until new ones can be had", self._issuer)
            self._use({}, b"")

    def _use(self, keys: Mapping[Name, Key], body: bytes) -> None:
        self._keys, self._body = keys, body
        self.changed()
