"""Credential to principal: one credential, from either header, and the same steps for every key (I17, I19)."""

import hmac
from base64 import b64encode
from hashlib import sha256

import pytest
from msgspec.structs import replace

from hermes import auth
from hermes.auth import Authenticator, credential
from hermes.errors import BadRequest, Outcome, Unauthenticated
from hermes.principal import ANONYMOUS, Principal

EDITOR = Principal("k1", "editor", admin=False)
OPERATOR = Principal("k2", "ops", admin=True)
NOW = 1_800_000_000.0
KEYS = {b"sk-editor": EDITOR, b"sk-operator": OPERATOR}


def authenticator() -> Authenticator:
    return Authenticator({sha256(key).digest(): principal for key, principal in KEYS.items()})


def basic(text: str) -> bytes:
    return b"Basic " + b64encode(text.encode())


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({}, b""),
        ({b"authorization": b"Bearer sk-1"}, b"sk-1"),
        ({b"authorization": b"bearer sk-1"}, b"sk-1"),
        ({b"authorization": b"BEARER   sk-1 "}, b"sk-1"),
        ({b"authorization": b""}, b""),
        ({b"authorization": b"Bearer"}, b""),
        ({b"authorization": b"Bearer "}, b""),
        ({b"authorization": b"sk-1"}, b""),
        ({b"authorization": b"Bearersk-1"}, b""),
        ({b"authorization": b'Digest username="sk-1"'}, b""),
        ({b"authorization": b"Basic"}, b""),
        ({b"authorization": basic(":")}, b""),
        ({b"authorization": basic("ann:sk-1")}, b"sk-1"),
        ({b"authorization": basic(":sk-1")}, b"sk-1"),
        ({b"authorization": basic("sk-1:")}, b"sk-1"),
        ({b"authorization": basic("ann:sk:1")}, b"sk:1"),
        ({b"authorization": b"bASIC  " + basic("ann:sk-1")[6:]}, b"sk-1"),
        ({b"x-api-key": b"sk-1"}, b"sk-1"),
        ({b"api-key": b"sk-1"}, b"sk-1"),
        ({b"authorization": b"Bearer sk-1", b"x-api-key": b"sk-1"}, b"sk-1"),
        ({b"authorization": b"Bearer", b"x-api-key": b"sk-1"}, b"sk-1"),
        ({b"authorization": basic("ann:sk-1"), b"x-api-key": b"sk-1", b"api-key": b"sk-1"}, b"sk-1"),
    ],
)
def test_the_credential_is_taken_from_whichever_header_has_it(headers: dict[bytes, bytes], found: bytes) -> None:
    """I19."""
    assert credential(headers) == found


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({b"authorization": b"Bearer sk-1", b"x-api-key": b"sk-2"}, "ambiguous_credentials"),
        ({b"authorization": b"Bearer sk-1", b"api-key": b"sk-2"}, "ambiguous_credentials"),
        ({b"api-key": b"sk-1", b"x-api-key": b"sk-2"}, "ambiguous_credentials"),
        ({b"authorization": basic("ann:sk-1"), b"api-key": b"sk-2"}, "ambiguous_credentials"),
        ({b"authorization": basic("sk-1:other"), b"api-key": b"sk-1"}, "ambiguous_credentials"),
        ({b"authorization": b"Negotiate YII=", b"api-key": b"sk-1"}, "ambiguous_credentials"),
        ({b"authorization": b"sk-1", b"x-api-key": b"sk-1"}, "ambiguous_credentials"),
        ({b"authorization": b"Bearer sk-1 sk-2"}, "malformed_credentials"),
        ({b"authorization": b"Bearer sk-1, Bearer sk-2"}, "malformed_credentials"),
        ({b"authorization": b"Bearer sk-1\tsk-2"}, "malformed_credentials"),
        ({b"authorization": b"Basic c2stMQ=="}, "malformed_credentials"),  # sk-1, without a colon
        ({b"authorization": b"Basic YW5uOnNrLTE"}, "malformed_credentials"),  # its padding is cut off
        ({b"authorization": b"Basic YW5u OnNrLTE="}, "malformed_credentials"),
        ({b"authorization": b"Basic YW5uOnNrLTE=!"}, "malformed_credentials"),
        ({b"authorization": b"Basic ann:sk-1"}, "malformed_credentials"),
    ],
)
def test_what_can_be_read_in_two_ways_is_read_in_none(headers: dict[bytes, bytes], code: str) -> None:
    """I19: which of them counts is not ours to guess."""
    with pytest.raises(BadRequest) as caught:
        authenticator().authenticate(headers, NOW)
    assert (caught.value.status, caught.value.code) == (400, code)
    assert "sk-" not in caught.value.message


def test_who_sends_no_key_is_told_all_the_ways_to_send_one() -> None:
    with pytest.raises(Unauthenticated, match="Bearer KEY, x-api-key: KEY, api-key: KEY, or Basic"):
        authenticator().authenticate({}, NOW)


def test_a_key_is_good_until_it_expires_by_the_clock_on_the_wall() -> None:
    """I35: expiry is one of the few things that are."""
    until_1001 = replace(EDITOR, expires_at=1001.0)
    guarded = Authenticator({sha256(b"sk-editor").digest(): until_1001})
    assert guarded.authenticate({b"api-key": b"sk-editor"}, 1000.9) is until_1001
    with pytest.raises(Unauthenticated) as caught:
        guarded.authenticate({b"api-key": b"sk-editor"}, 1001.0)
    assert (caught.value.status, caught.value.code) == (401, "key_expired")


@pytest.mark.parametrize(("key", "principal"), KEYS.items())
def test_a_known_key_is_its_principal(key: bytes, principal: Principal) -> None:
    assert authenticator().authenticate({b"x-api-key": key}, NOW) is principal


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {b"x-api-key": b""},
        {b"x-api-key": b"sk-nobody"},
        {b"x-api-key": b"sk-edito"},
        {b"x-api-key": b"sk-editor "},
        {b"x-api-key": b"SK-EDITOR"},
        {b"x-api-key": sha256(b"sk-editor").digest()},
        {b"authorization": b"Bearer sk-editor,sk-operator"},
    ],
)
def test_anything_else_is_nobody(headers: dict[bytes, bytes]) -> None:
    with pytest.raises(Unauthenticated) as caught:
        authenticator().authenticate(headers, NOW)
    error = caught.value
    assert (error.status, error.code, error.outcome) == (401, "invalid_api_key", Outcome.DENIED)
    assert not [value for value in headers.values() if value and value.decode("latin-1") in error.message]


def test_no_key_is_nobody_even_where_the_empty_one_is_listed() -> None:
    listed = Authenticator({sha256(b"").digest(): OPERATOR})
    with pytest.raises(Unauthenticated):
        listed.authenticate({}, NOW)


def test_the_place_of_nobody_cannot_be_taken() -> None:
    listed = Authenticator({bytes(32): OPERATOR})
    with pytest.raises(Unauthenticated):
        listed.authenticate({b"x-api-key": b"sk-nobody"}, NOW)


def test_without_keys_every_caller_is_the_operator() -> None:
    nobody_listed = Authenticator({})
    for headers in ({}, {b"x-api-key": b"anything"}):
        assert nobody_listed.authenticate(headers, NOW) is ANONYMOUS


def test_a_known_and_an_unknown_key_take_the_same_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """I17: one hash and one comparison of two digests in constant time, whoever asks."""
    steps: list[tuple[str, int]] = []

    def hashed(data: bytes) -> object:
        steps.append(("sha256", 0))
        return sha256(data)

    def compared(one: bytes, other: bytes) -> bool:
        steps.append(("compare", len(one) + len(other)))
        return hmac.compare_digest(one, other)

    guarded = authenticator()
    monkeypatch.setattr(auth, "sha256", hashed)
    monkeypatch.setattr(auth, "hmac", type("Watched", (), {"compare_digest": staticmethod(compared)}))
    guarded.authenticate({b"x-api-key": b"sk-editor"}, NOW)
    known, steps[:] = list(steps), []
    with pytest.raises(Unauthenticated):
        guarded.authenticate({b"x-api-key": b"sk-nobody"}, NOW)
    assert steps == known == [("sha256", 0), ("compare", 64)]


def test_the_authenticator_knows_no_key_in_clear() -> None:
    assert b"sk-" not in repr(vars(authenticator())).encode()
