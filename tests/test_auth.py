"""Credential to principal: one credential, from either header, and the same steps for every key (I17, I19)."""

import hmac
from hashlib import sha256

import pytest
from msgspec.structs import replace

from hermes import auth
from hermes.auth import Authenticator, Table, credential, digest, under
from hermes.errors import BadRequest, Outcome, Unauthenticated
from hermes.principal import ANONYMOUS, Principal

EDITOR = Principal("k1", "editor", admin=False)
OPERATOR = Principal("k2", "ops", admin=True)
KEYS = {b"sk-editor": EDITOR, b"sk-operator": OPERATOR}


def authenticator() -> Authenticator:
    return Authenticator((sha256(key).digest(), principal) for key, principal in KEYS.items())


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({}, b""),
        ({b"authorization": b"Bearer sk-1"}, b"sk-1"),
        ({b"authorization": b"bearer sk-1"}, b"sk-1"),
        ({b"authorization": b"BEARER   sk-1 "}, b"sk-1"),
        ({b"authorization": b"Bearer"}, b""),
        ({b"authorization": b"Bearer "}, b""),
        ({b"authorization": b"sk-1"}, b""),
        ({b"authorization": b"Basic c2stMQ=="}, b""),
        ({b"authorization": b"Bearersk-1"}, b""),
        ({b"x-api-key": b"sk-1"}, b"sk-1"),
        ({b"authorization": b"Bearer sk-1", b"x-api-key": b"sk-1"}, b"sk-1"),
        ({b"authorization": b"Basic c2stMQ==", b"x-api-key": b"sk-1"}, b"sk-1"),
    ],
)
def test_the_credential_is_taken_from_either_header(headers: dict[bytes, bytes], found: bytes) -> None:
    assert credential(headers) == found


def test_two_different_credentials_are_one_too_many() -> None:
    """I19: which of them counts is not ours to guess."""
    with pytest.raises(BadRequest) as caught:
        authenticator().authenticate({b"authorization": b"Bearer sk-editor", b"x-api-key": b"sk-operator"})
    assert (caught.value.status, caught.value.code) == (400, "ambiguous_credentials")


@pytest.mark.parametrize(("key", "principal"), KEYS.items())
def test_a_known_key_is_its_principal(key: bytes, principal: Principal) -> None:
    assert authenticator().authenticate({b"x-api-key": key}) is principal


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
        authenticator().authenticate(headers)
    error = caught.value
    assert (error.status, error.code, error.outcome) == (401, "invalid_api_key", Outcome.DENIED)
    assert not [value for value in headers.values() if value and value.decode("latin-1") in error.message]


def test_no_key_is_nobody_even_where_the_empty_one_is_listed() -> None:
    listed = Authenticator([(sha256(b"").digest(), OPERATOR)])
    with pytest.raises(Unauthenticated):
        listed.authenticate({})


def test_the_place_of_nobody_cannot_be_taken() -> None:
    listed = Authenticator([(bytes(32), OPERATOR)])
    with pytest.raises(Unauthenticated):
        listed.authenticate({b"x-api-key": b"sk-nobody"})


def test_without_keys_every_caller_is_the_operator() -> None:
    nobody_listed = Authenticator(())
    for headers in ({}, {b"x-api-key": b"anything"}):
        assert nobody_listed.authenticate(headers) is ANONYMOUS


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
    guarded.authenticate({b"x-api-key": b"sk-editor"})
    known, steps[:] = list(steps), []
    with pytest.raises(Unauthenticated):
        guarded.authenticate({b"x-api-key": b"sk-nobody"})
    assert steps == known == [("sha256", 0), ("compare", 64)]


def test_the_authenticator_knows_no_key_in_clear() -> None:
    assert b"sk-" not in repr(vars(authenticator())).encode()


# --- the table --------------------------------------------------------------------------------------------------------

PEPPER = bytes(range(32))


def peppered(*principals: Principal) -> Authenticator:
    """One key for each, `sk-0` and so on, known by their digests under the pepper."""
    made = authenticator()
    known = {digest(f"sk-{number}".encode(), PEPPER): each for number, each in enumerate(principals)}
    made.table = Table({**known, under(PEPPER, sha256(b"sk-editor").digest()): EDITOR}, PEPPER)
    return made


def test_under_a_pepper_static_keys_are_known_beside_stored_ones() -> None:
    assert peppered(OPERATOR).authenticate({b"x-api-key": b"sk-0"}) is OPERATOR
    assert peppered(OPERATOR).authenticate({b"x-api-key": b"sk-editor"}) is EDITOR
    for other in (b"sk-1", b"sk-operator", sha256(b"sk-editor").digest()):
        with pytest.raises(Unauthenticated):
            peppered(OPERATOR).authenticate({b"x-api-key": other})


def test_the_digest_is_the_hmac_of_the_sha256() -> None:
    """I17: RFC 2104, by hand."""
    block = PEPPER.ljust(64, b"\0")
    inner = sha256(bytes(byte ^ 0x36 for byte in block) + sha256(b"sk-0").digest()).digest()
    assert digest(b"sk-0", PEPPER) == sha256(bytes(byte ^ 0x5C for byte in block) + inner).digest()


def test_a_closed_door_without_a_key_lets_nobody_in() -> None:
    """Who had keys once is not open again."""
    closed = Authenticator(())
    closed.table = Table({}, PEPPER)
    for headers in ({}, {b"x-api-key": b"sk-0"}):
        with pytest.raises(Unauthenticated):
            closed.authenticate(headers)


@pytest.mark.parametrize(("left_s", "lets_in"), [(0.5, True), (0.0, False), (-1e6, False)])
def test_a_key_that_has_ended_lets_nobody_in(left_s: float, lets_in: bool) -> None:
    """I35: by the wall clock, at each request."""
    clock = [1000.0]
    guarded = Authenticator(
        [(sha256(b"sk-0").digest(), replace(EDITOR, expires_at=2000.0))], ANONYMOUS, lambda: clock[0]
    )
    assert guarded.authenticate({b"x-api-key": b"sk-0"}).key_id == "k1"
    clock[0] = 2000.0 - left_s
    if lets_in:
        guarded.authenticate({b"x-api-key": b"sk-0"})
        return
    with pytest.raises(Unauthenticated) as caught:
        guarded.authenticate({b"x-api-key": b"sk-0"})
    assert caught.value.code == "key_expired"


def test_a_known_and_an_unknown_key_take_the_same_steps_under_a_pepper(monkeypatch: pytest.MonkeyPatch) -> None:
    """I17"""
    steps: list[tuple[str, int]] = []

    def hashed(key: bytes, data: bytes, algorithm: str) -> bytes:
        steps.append((algorithm, len(data)))
        return hmac.digest(key, data, algorithm)

    def compared(one: bytes, other: bytes) -> bool:
        steps.append(("compare", len(one) + len(other)))
        return hmac.compare_digest(one, other)

    guarded = peppered(OPERATOR)
    watched = {"digest": staticmethod(hashed), "compare_digest": staticmethod(compared)}
    monkeypatch.setattr(auth, "hmac", type("Watched", (), watched))
    guarded.authenticate({b"x-api-key": b"sk-0"})
    known, steps[:] = list(steps), []
    with pytest.raises(Unauthenticated):
        guarded.authenticate({b"x-api-key": b"sk-nobody"})
    assert steps == known == [("sha256", 32), ("compare", 64)]
