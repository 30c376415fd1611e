"""What is remembered of proven tokens: by all of their bytes, bounded, and until they end (I18, I35)."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from unittest.mock import patch

import pytest

from hermes.config import Issuer
from hermes.errors import InvalidToken, TokenExpired
from hermes.oidc import issuers
from hermes.oidc.issuers import Issuers, Known
from hermes.oidc.keys import Key, KeySet
from hermes.principal import Principal
from tests.fakes import issuer
from tests.fakes.gateway import scenario
from tests.fakes.issuer import claims, key_set, public_jwk, token
from tests.support import until


class World:
    """Issuers with one of them, whose keys are here, and a clock."""

    def __init__(self) -> None:
        self.now = float(claims()["iat"])
        self.body = key_set()
        self.proofs = 0
        settings = Issuer("team", issuer.ISSUER, (issuer.AUDIENCE,), jwks_file="/k", leeway_s=30)
        self.keys = KeySet("team", self.fetch, settings.algorithms, lambda result: None)
        self.issuers = Issuers([Known(settings, self.keys)], "normal", lambda: self.now)

    async def fetch(self) -> bytes:
        return self.body

    def recognise(self, written: str) -> Principal | None:
        data = written.encode()
        return self.issuers.recognise(data, sha256(data).digest())

    @contextmanager
    def counting(self) -> Iterator[None]:
        proves = Key.proves

        def counted(key: Key, signed: bytes, signature: bytes) -> bool:
            self.proofs += 1
            return proves(key, signed, signature)

        with patch.object(Key, "proves", counted):
            yield


async def world() -> World:
    made = World()
    await made.keys._look()
    return made


@scenario
async def test_a_signature_is_proven_once() -> None:
    here, good = await world(), token()
    with here.counting():
        first = here.recognise(good)
        assert first is not None and here.recognise(good) is first
        assert here.proofs == 1
        assert here.recognise(token(jti="another")) == first
        assert here.proofs == 2


@scenario
async def test_a_token_is_remembered_by_all_of_its_bytes() -> None:
    """What differs anywhere, in the signature too, is another token."""
    here, good = await world(), token()
    assert here.recognise(good) is not None
    for at in (5, len(good) // 2, -100):
        with pytest.raises(InvalidToken):
            here.recognise(good[:at] + ("A" if good[at] != "A" else "B") + good[at + 1 :])


@scenario
async def test_what_is_remembered_ends_with_the_token() -> None:
    """I35: by the wall clock, whatever the loop's says."""
    here, good = await world(), token()
    here.now = claims()["exp"] + 29.0
    asked = here.recognise(good)
    assert asked is not None and asked.expires_at is not None and asked.expires_at > here.now
    here.now = asked.expires_at
    for _ in range(2):
        with pytest.raises(TokenExpired):
            here.recognise(good)
    assert not here.issuers._proven


@scenario
async def test_no_more_tokens_are_remembered_than_that() -> None:
    here = await world()
    with patch.object(issuers, "MAX_PROVEN", 3), here.counting():
        tokens = [token(jti=str(number)) for number in range(5)]
        for written in tokens:
            here.recognise(written)
        assert len(here.issuers._proven) == 3
        here.recognise(tokens[-1])
        assert here.proofs == 5
        assert here.recognise(tokens[0]) is not None


@scenario
async def test_a_bad_token_is_not_remembered() -> None:
    here = await world()
    for number in range(10):
        with pytest.raises(InvalidToken):
            here.recognise(token(aud=f"other{number}"))
    assert not here.issuers._proven


@scenario
async def test_tokens_signed_with_a_key_that_is_withdrawn_are_worth_nothing_at_once() -> None:
    here, good = await world(), token()
    assert here.recognise(good) is not None
    here.body = key_set(public_jwk("other RSA"))
    await here.keys._look()
    with pytest.raises(InvalidToken, match="signature"):
        here.recognise(good)


@scenario
async def test_the_tasks_end_with_the_issuers() -> None:
    here = await world()
    here.issuers.start(asyncio.get_running_loop())
    await until(lambda: here.keys._resting)
    await here.issuers.stop()
