"""An issuer's keys: which of a set are taken, how often they are fetched, and for how long they hold (I18)."""

import asyncio
import json
from base64 import urlsafe_b64decode
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from jwt.algorithms import RSAAlgorithm

from hermes.errors import BackendError, IssuerUnavailable
from hermes.oidc.keys import MAX_KEYS, KeySet, Name, Pace, read_set
from tests.fakes import issuer
from tests.fakes.issuer import base64url, key_set, private_key, public_jwk
from tests.simulation.loop import VirtualLoop

ALL = ("RS256", "PS256", "ES256", "ES384", "ES512", "EdDSA")


def names(*keys: Any, algorithms: tuple[str, ...] = ALL) -> set[tuple[str, str]]:
    return {
        (name.key_id, name.algorithm) for name in read_set(key_set(public_jwk("Ed25519", "good"), *keys), algorithms)
    }


GOOD = {("good", "EdDSA")}


@pytest.mark.parametrize(
    ("kind", "taken"),
    [
        ("RSA", {"RS256", "PS256"}), ("P-256", {"ES256"}), ("P-384", {"ES384"}), ("P-521", {"ES512"}),
        ("Ed25519", {"EdDSA"}), ("Ed448", {"EdDSA"}),
    ],
)  # fmt: skip
def test_a_key_is_for_the_algorithms_of_its_kind_alone(kind: str, taken: set[str]) -> None:
    assert names(public_jwk(kind)) == GOOD | {("k1", algorithm) for algorithm in taken}
    assert names(public_jwk(kind), algorithms=("EdDSA",)) == GOOD | {("k1", each) for each in taken & {"EdDSA"}}


def test_a_key_that_says_its_algorithm_is_for_no_other() -> None:
    assert names(public_jwk("RSA", alg="PS256", use="sig", key_ops=["verify"])) == GOOD | {("k1", "PS256")}


def off_its_curve() -> dict[str, Any]:
    y = private_key("P-256").public_key().public_numbers().y
    return public_jwk("P-256", y=base64url((y ^ 1).to_bytes(32, "big")).decode())


NOT_TAKEN: list[Any] = [
    {"kty": "oct", "k": "c2VjcmV0", "kid": "k1", "alg": "HS256"},
    {"kty": "oct", "k": "c2VjcmV0", "kid": "k1", "alg": "RS256"},
    {"kty": "oct", "k": "c2VjcmV0", "kid": "k1"},
    public_jwk("RSA", alg="HS256"),
    public_jwk("RSA", alg="RSA-OAEP"),
    public_jwk("RSA", use="enc"),
    public_jwk("RSA", key_ops=["encrypt"]),
    public_jwk("RSA", key_ops=5),
    public_jwk("RSA", kty="EC"),
    public_jwk("RSA", kty=["RSA"]),
    public_jwk("RSA", crv="P-256"),
    public_jwk("RSA", n="AQAB"),
    public_jwk("RSA", n="!"),
    public_jwk("RSA", n=5),
    public_jwk("RSA", e="AQ"),
    public_jwk("RSA", e="Ag"),
    {**RSAAlgorithm.to_jwk(private_key("RSA"), as_dict=True), "kid": "k1", "key_ops": ["verify"]},
    public_jwk("short RSA"),
    public_jwk("RSA", n=base64url(b"\xff" * 1025).decode()),
    public_jwk("P-256", crv="P-384"),
    public_jwk("P-256", crv="secp256k1"),
    public_jwk("P-256", crv=None),
    public_jwk("P-256", x="AA", y="AA"),
    public_jwk("P-256", x=base64url(bytes(32)).decode(), y=base64url(bytes(32)).decode()),
    off_its_curve(),
    public_jwk("Ed25519", crv="X25519"),
    public_jwk("Ed25519", x="AA"),
    {**public_jwk("RSA"), "kid": None},
    {**public_jwk("RSA"), "kid": 1},
    {name: value for name, value in public_jwk("RSA").items() if name != "kid"},
    {"kid": "k1"},
    {},
    [],
    None,
    5,
    "RSA",
]


@pytest.mark.parametrize("said", NOT_TAKEN)
def test_what_is_no_key_for_signatures_is_passed_over(said: Any) -> None:
    """RFC 7517 5, RFC 8725 3.4 and 3.5: the others of its set are taken all the same."""
    assert names(said) == GOOD


def test_of_two_keys_of_one_name_the_first_counts() -> None:
    first, second = public_jwk("RSA"), public_jwk("other RSA")
    (found,) = read_set(key_set(first, second), ("RS256",)).values()
    signed, signature = issuer.sign({}, {}).rsplit(".", 1)
    assert found.proves(signed.encode(), urlsafe_b64decode(signature + "=="))


def test_no_more_keys_are_read_than_an_issuer_can_have() -> None:
    many = [public_jwk("Ed25519", f"k{number}") for number in range(MAX_KEYS + 1)]
    assert len(read_set(key_set(*many), ALL)) == MAX_KEYS


@pytest.mark.parametrize(
    "body",
    [
        b'{"keys": [' + b"{}," * 80_000 + b"{}]}",
        b"",
        b"[]",
        b"{}",
        b'{"keys": {}}',
        key_set(),
        b"\xff",
        json.dumps({"keys": NOT_TAKEN}).encode(),
    ],
)
def test_a_set_without_a_key_that_can_be_used_is_none(body: bytes) -> None:
    with pytest.raises(ValueError, match="key"):
        read_set(body, ("EdDSA",))


def test_a_set_that_would_take_long_to_read_is_not_read() -> None:
    """I36: 80,000 empty keys took 130 ms."""
    with pytest.raises(ValueError, match="too long"):
        read_set(b'{"keys": [' + b"{}," * 80_000 + b"{}]}", ALL)


# --- how often, and for how long --------------------------------------------------------------------------------------

PACE = Pace(refresh_s=300, pause_s=10, stale_s=3600)
OLD, NEW = Name("old", "EdDSA"), Name("new", "EdDSA")


class Server:
    """Gives a set, or fails where there is none, and takes its time."""

    def __init__(self, *kids: str) -> None:
        self.kids = kids
        self.takes_s = 0.0
        self.asked_at: list[float] = []
        self.changes = 0
        self.counted: Counter[str] = Counter()

    async def fetch(self) -> bytes:
        self.asked_at.append(asyncio.get_running_loop().time())
        await asyncio.sleep(self.takes_s)
        if not self.kids:
            raise BackendError("the backend cannot be reached")
        return key_set(*(public_jwk("Ed25519", kid) for kid in self.kids))

    def changed(self) -> None:
        self.changes += 1


def played(scene: Callable[[KeySet, Server], Awaitable[None]], server: Server) -> None:
    """A scene, with the keys kept meanwhile, in virtual time."""

    async def play() -> None:
        keys = KeySet("team", server.fetch, ("EdDSA",), lambda result: server.counted.update((result,)), PACE)
        keys.changed = server.changed
        keeping = asyncio.get_running_loop().create_task(keys.keep())
        try:
            await asyncio.sleep(1)
            await scene(keys, server)
        finally:
            keeping.cancel()
            with suppress(asyncio.CancelledError):
                await keeping

    VirtualLoop(seed=7).run(play())


def test_keys_are_fetched_at_the_start_and_every_five_minutes() -> None:
    async def scene(keys: KeySet, server: Server) -> None:
        assert keys.find(OLD) is not None and keys.find(NEW) is None
        await asyncio.sleep(900)
        assert [at - server.asked_at[0] for at in server.asked_at] == [0, 300, 600, 900]
        assert server.changes == 1  # the same set again is no change

    played(scene, Server("old"))


def test_a_key_that_is_new_is_found_at_once_and_one_that_is_gone_is_gone() -> None:
    async def scene(keys: KeySet, server: Server) -> None:
        await asyncio.sleep(60)
        server.kids = ("new",)
        await keys.look_again()
        assert keys.find(NEW) is not None and keys.find(OLD) is None
        assert server.changes == 2

    played(scene, Server("old"))


def test_however_many_unknown_keys_are_named_fetches_are_apart() -> None:
    """I18: bounded by time, and those who wait share one."""

    async def scene(keys: KeySet, server: Server) -> None:
        server.takes_s = 3
        end = asyncio.get_running_loop().time() + 100
        while asyncio.get_running_loop().time() < end:
            await asyncio.gather(*(keys.look_again() for _ in range(50)))
            await asyncio.sleep(0.5)
        gaps = [later - earlier for earlier, later in zip(server.asked_at, server.asked_at[1:], strict=False)]
        assert len(gaps) > 5 and min(gaps) >= PACE.pause_s

    played(scene, Server("old"))


def test_keys_that_cannot_be_fetched_again_hold_for_an_hour() -> None:
    """I18: stale if error, bounded; meanwhile it is tried every pause."""

    async def scene(keys: KeySet, server: Server) -> None:
        server.kids = ()
        await asyncio.sleep(PACE.stale_s - 2)
        assert keys.find(OLD) is not None and keys.failing
        await asyncio.sleep(2 * PACE.pause_s)
        assert keys.find(OLD) is None
        assert server.changes == 2
        assert server.counted["failed"] > 300
        server.kids = ("old",)
        await asyncio.sleep(PACE.pause_s)
        assert keys.find(OLD) is not None and not keys.failing

    played(scene, Server("old"))


def test_a_garbled_set_does_not_replace_a_good_one() -> None:
    async def scene(keys: KeySet, server: Server) -> None:
        async def garbage() -> bytes:
            return b"<html>"

        keys._fetch = garbage
        await asyncio.sleep(PACE.refresh_s)
        assert keys.failing and keys.find(OLD) is not None

    played(scene, Server("old"))


def test_a_bug_in_fetching_ends_no_keeping(caplog: pytest.LogCaptureFixture) -> None:
    async def scene(keys: KeySet, server: Server) -> None:
        fetch = server.fetch

        async def buggy() -> bytes:
            raise RuntimeError

        keys._fetch = buggy
        await asyncio.sleep(PACE.refresh_s + 5 * PACE.pause_s)
        assert keys.failing and "met a bug" in caplog.text
        assert caplog.text.count("cannot be fetched") == 1  # not once in ten seconds
        keys._fetch = fetch
        await asyncio.sleep(PACE.pause_s)
        assert not keys.failing

    played(scene, Server("old"))


def test_who_waits_when_keys_are_kept_no_longer_is_told_at_once() -> None:
    async def scene() -> None:
        server, loop = Server("old"), asyncio.get_running_loop()
        keys = KeySet("team", server.fetch, ("EdDSA",), lambda result: None, PACE)
        keeping = loop.create_task(keys.keep())
        await asyncio.sleep(60)
        server.takes_s = 5
        waiting = loop.create_task(keys.look_again())
        await asyncio.sleep(1)
        assert not keys.failing
        keeping.cancel()
        began = loop.time()
        await waiting
        assert loop.time() == began and keys.failing

    VirtualLoop(seed=7).run(scene())


def test_who_waits_for_keys_never_waits_for_ever() -> None:
    async def scene(keys: KeySet, server: Server) -> None:
        await asyncio.sleep(60)
        server.takes_s = 1e6
        with pytest.raises(IssuerUnavailable):
            await keys.look_again()

    played(scene, Server("old"))
