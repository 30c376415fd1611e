"""Tokens on real sockets: who comes in with one, and every one that does not (I18, RFC 8725)."""

import asyncio
import hashlib
import hmac
import json
import shutil
from base64 import urlsafe_b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hermes.config import Config
from hermes.oidc import source
from tests.fakes import issuer
from tests.fakes.backend import FakeOllama, ollama
from tests.fakes.gateway import PROMPT, Hermes, key, prompt, scenario, serving
from tests.fakes.gateway import config as gateway_config
from tests.fakes.issuer import base64url, claims, header, key_server, key_set, public_jwk, sign, token
from tests.http.test_origin import Authority
from tests.support import until


def tokens_of(backend: FakeOllama, jwks: Path | str, **more: Any) -> Config:
    """Who takes tokens of one issuer, with keys in a file or at a url."""
    where = {"jwks_url": jwks} if isinstance(jwks, str) else {"jwks_file": str(jwks)}
    return gateway_config(backend, jwt=[issuer.config(**where, **more)])


def shown(written: str) -> dict[str, str]:
    return {"authorization": f"Bearer {written}"}


@pytest.fixture
def jwks(tmp_path: Path) -> Path:
    (tmp_path / "jwks.json").write_bytes(key_set())
    return tmp_path / "jwks.json"


# --- good ones --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [{}, {"x-api-key": ""}])
@scenario
async def test_a_good_token_comes_in_as_its_subject(headers: dict[str, str], jwks: Path) -> None:
    async with ollama() as backend, serving(tokens_of(backend, jwks)) as gateway:
        for _ in range(2):
            assert (await gateway.ask(PROMPT, prompt(), {**shown(token()), **headers})).status == 200
        record = await gateway.record()
        assert record.key_id == "jwt:team:" + hashlib.sha256(b"alice").hexdigest()[:12]
        assert record.user == "team:alice"
        assert "authorization" not in backend.asked[0].headers


@pytest.mark.parametrize("headers", [{}, shown("sk-unknown"), {"x-api-key": "a.b"}, shown("sk-a.b.c")])
@scenario
async def test_with_issuers_nobody_comes_in_without_a_token(headers: dict[str, str], jwks: Path) -> None:
    async with ollama() as backend, serving(tokens_of(backend, jwks)) as gateway:
        reply = await gateway.ask(PROMPT, prompt(), headers)
        assert (reply.status, reply.error["code"]) == (401, "invalid_api_key")
        assert not backend.asked


@scenario
async def test_keys_and_tokens_go_side_by_side(jwks: Path) -> None:
    async with ollama() as backend:
        section = issuer.config(jwks_file=str(jwks))
        async with serving(gateway_config(backend, jwt=[section], keys=[key("editor")])) as gateway:
            for headers in (shown(token()), shown("sk-editor"), {"x-api-key": token()}):
                assert (await gateway.ask(PROMPT, prompt(), headers)).status == 200


@pytest.mark.parametrize(
    "algorithm", ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
)
@scenario
async def test_every_asymmetric_algorithm_is_one(algorithm: str, tmp_path: Path) -> None:
    kind = issuer.kind_for(algorithm)
    (jwks := tmp_path / "jwks.json").write_bytes(key_set(public_jwk(kind)))
    async with ollama() as backend, serving(tokens_of(backend, jwks, algorithms=[algorithm])) as gateway:
        good = sign(header(alg=algorithm), claims(), kind, algorithm)
        assert (await gateway.ask(PROMPT, prompt(), shown(good))).status == 200


@scenario
async def test_a_role_says_what_its_holders_may_do(jwks: Path) -> None:
    roles = {"ops": {"admin": True}, "people": {}}
    async with (
        ollama() as backend,
        serving(tokens_of(backend, jwks, claims={"roles": "groups"}, roles=roles)) as gateway,
    ):
        for groups, status in ((["people", "ops"], 200), (["people"], 403)):
            assert (await gateway.ask("/metrics", None, shown(token(groups=groups)))).status == status
        reply = await gateway.ask(PROMPT, prompt(), shown(token(groups=["strangers"])))
        assert (reply.status, reply.error["code"]) == (403, "role_required")
        assert not backend.asked


# --- bad ones ---------------------------------------------------------------------------------------------------------


def now() -> int:
    return int(claims()["iat"])


def unsigned(alg: str) -> str:
    return ".".join(base64url(json.dumps(part).encode()).decode() for part in (header(alg=alg), claims())) + "."


def with_public_key_as_secret(alg: str = "HS256") -> str:
    """RFC 8725 2.1: where the verifier lets the token say how it is signed, everybody has the secret."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    pem = issuer.private_key("RSA").public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    signed = b".".join(base64url(json.dumps(part).encode()) for part in (header(alg=alg), claims()))
    return (signed + b"." + base64url(hmac.digest(pem, signed, "sha256"))).decode()


def tampered(written: str) -> str:
    head, _, signature = written.split(".")
    return f"{head}.{base64url(json.dumps(claims(sub='bob')).encode()).decode()}.{signature}"


def respelled(written: str) -> str:
    """The same bytes, with other bits where base64url has some that mean nothing."""
    head, body, signature = written.split(".")
    assert len(base64url(b"x" * 256)) % 4  # of 256 bytes it has
    return f"{head}.{body}.{signature[:-1]}{chr(ord(signature[-1]) + 1)}"


def shortened(written: str) -> str:
    signed, _, signature = written.rpartition(".")
    return f"{signed}.{base64url(urlsafe_b64decode(signature + '==')[:-8]).decode()}"


def twice(members: dict[str, Any], again: str) -> bytes:
    return json.dumps(members).encode()[:-1] + b", " + again.encode() + b"}"


def signed_by_der() -> str:
    """ECDSA as everybody but JOSE writes it."""
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
    from cryptography.hazmat.primitives.hashes import SHA256

    signed = b".".join(base64url(json.dumps(part).encode()) for part in (header(alg="ES256", kid="ec"), claims()))
    return (signed + b"." + base64url(issuer.private_key("P-256").sign(signed, ECDSA(SHA256())))).decode()


def psychic(numbers: bytes) -> str:
    signed = b".".join(base64url(json.dumps(part).encode()) for part in (header(alg="ES256", kid="ec"), claims()))
    return (signed + b"." + base64url(numbers)).decode()


# What is wrong, the token, and what is said of it.
BAD: list[tuple[str, Callable[[], str], str]] = [
    ("alg none", lambda: unsigned("none"), "malformed"),
    ("alg none with a signature", lambda: unsigned("none") + "AAAA", "not signed in a way"),
    ("alg None", lambda: unsigned("None") + "AAAA", "not signed in a way"),
    ("alg nOnE", lambda: unsigned("nOnE") + "AAAA", "not signed in a way"),
    ("alg empty", lambda: unsigned("") + "AAAA", "names no algorithm"),
    ("no alg", lambda: sign(header(alg=None), claims()), "names no algorithm"),
    ("alg is a list", lambda: sign(header(alg=["RS256"]), claims()), "names no algorithm"),
    ("alg in small letters", lambda: sign(header(alg="rs256"), claims()), "not signed in a way"),
    ("HS256 with the public key as secret", with_public_key_as_secret, "not signed in a way"),
    ("HS256 in the RS256 header", lambda: with_public_key_as_secret("RS256"), "wrong signature"),
    ("an algorithm that is not listed", lambda: sign(header(alg="RS384"), claims(), "RSA", "RS384"), "not signed in"),
    ("another algorithm than its header's", lambda: sign(header(), claims(), "RSA", "PS256"), "wrong signature"),
    ("an unknown kid", lambda: sign(header(kid="k2"), claims()), "key that its issuer does not have"),
    ("no kid", lambda: sign(header(kid=None), claims()), "(kid)"),
    ("an empty kid", lambda: sign(header(kid=""), claims()), "(kid)"),
    ("a kid that is a number", lambda: sign(header(kid=1), claims()), "(kid)"),
    ("a kid that is a path", lambda: sign(header(kid="../../../../dev/null"), claims()), "issuer does not have"),
    ("a kid that is SQL", lambda: sign(header(kid="k1' UNION SELECT 'a"), claims()), "issuer does not have"),
    ("a kid with a NUL", lambda: sign(header(kid="k1\0"), claims()), "issuer does not have"),
    ("a kid in capitals", lambda: sign(header(kid="K1"), claims()), "issuer does not have"),
    ("a kid of 300 characters", lambda: sign(header(kid="k" * 300), claims()), "(kid)"),
    ("the kid of a key of another type", lambda: sign(header(kid="ec"), claims()), "issuer does not have"),
    ("another's key", lambda: sign(header(), claims(), "other RSA"), "wrong signature"),
    ("crit", lambda: sign(header(crit=["exp"]), claims()), "not allowed: crit"),
    ("crit, empty", lambda: sign(header(crit=[]), claims()), "not allowed: crit"),
    ("b64 false", lambda: sign(header(b64=False), claims()), "not allowed: b64"),
    ("b64 true", lambda: sign(header(b64=True), claims()), "not allowed: b64"),
    ("jku", lambda: sign(header(jku="https://evil.test/keys"), claims()), "not allowed: jku"),
    ("x5u", lambda: sign(header(x5u="https://evil.test/cert"), claims()), "not allowed: x5u"),
    ("jwk", lambda: sign(header(jwk=public_jwk("other RSA")), claims(), "other RSA"), "not allowed: jwk"),
    ("zip", lambda: sign(header(zip="DEF"), claims()), "not allowed: zip"),
    ("a logout token", lambda: sign(header(typ="logout+jwt"), claims()), "type"),
    ("a proof of possession", lambda: sign(header(typ="dpop+jwt"), claims()), "type"),
    ("a typ that is a number", lambda: sign(header(typ=1), claims()), "type"),
    ("alg twice", lambda: sign(twice(header(), '"alg": "RS256"'), claims()), "member twice"),
    ("alg twice, once with an escape", lambda: sign(twice(header(), r'"\u0061lg": "none"'), claims()), "member twice"),
    ("sub twice", lambda: sign(header(), twice(claims(), '"sub": "root"')), "member twice"),
    ("a member twice inside", lambda: sign(header(), twice(claims(), '"a": {"b": 1, "b": 2}')), "member twice"),
    ("a header that is a list", lambda: sign([header()], claims()), "malformed"),
    ("claims that are a list", lambda: sign(header(), [claims()]), "malformed"),
    ("claims that are no JSON", lambda: sign(header(), b"{"), "malformed"),
    ("claims with something behind", lambda: sign(header(), json.dumps(claims()).encode() + b"{}"), "malformed"),
    ("claims that are not UTF-8", lambda: sign(header(), twice(claims(), '"a": "')[:-1] + b'\xff"}'), "malformed"),
    ("claims in UTF-16", lambda: sign(header(), json.dumps(claims()).encode("utf-16")), "malformed"),
    ("NaN", lambda: sign(header(), twice(claims(exp=None), '"exp": NaN')), "malformed"),
    ("half a surrogate pair", lambda: sign(header(), twice(claims(sub=None), r'"sub": "\ud800"')), "malformed"),
    ("nested 100 deep", lambda: sign(header(), twice(claims(), '"a": ' + "[" * 100 + "]" * 100)), "malformed"),
    ("longer than 8 KiB", lambda: token(a="x" * 6200), "longer than 8192"),
    ("tampered with", lambda: tampered(token()), "wrong signature"),
    ("no signature", lambda: token().rpartition(".")[0] + ".", "malformed"),
    ("a short signature", lambda: shortened(token()), "wrong signature"),
    ("a second spelling", lambda: respelled(token()), "not base64url"),
    ("padding", lambda: token() + "==", "malformed"),
    ("plain base64", lambda: token().replace(".", "+.", 1), "malformed"),
    ("one character too many", lambda: "A" + token(), "malformed"),
    ("two dots alone", lambda: "..", "malformed"),
    ("expired", lambda: token(exp=now() - 31), "has expired"),
    ("expired long ago", lambda: token(iat=1, exp=2), "has expired"),
    ("no exp", lambda: token(exp=None), "no time in exp"),
    ("exp is a text", lambda: token(exp=str(now() + 300)), "no time in exp"),
    ("exp is true", lambda: token(exp=True), "no time in exp"),
    ("exp below zero", lambda: token(exp=-1), "has expired"),
    ("nbf in the future", lambda: token(nbf=now() + 90), "not hold yet"),
    ("iat in the future", lambda: token(iat=now() + 90), "not hold yet"),
    ("nbf in the future, iat not", lambda: token(iat=now() - 90, nbf=now() + 90), "not hold yet"),
    ("neither iat nor nbf", lambda: token(iat=None), "since when"),
    ("iat is a text", lambda: token(iat="yesterday"), "no time in iat"),
    ("no aud", lambda: token(aud=None), "(aud)"),
    ("another aud", lambda: token(aud="grafana"), "(aud)"),
    ("an aud that begins so", lambda: token(aud="hermes2"), "(aud)"),
    ("a list of others", lambda: token(aud=["grafana", "hermes "]), "(aud)"),
    ("an empty list", lambda: token(aud=[]), "(aud)"),
    ("an aud that is a mapping", lambda: token(aud={"hermes": 1}), "(aud)"),
    ("a list with a number", lambda: token(aud=["hermes", 1]), "(aud)"),
    ("no iss", lambda: token(iss=None), "(iss)"),
    ("an iss with a slash more", lambda: token(iss=issuer.ISSUER + "/"), "issuer that is not known"),
    ("an iss in capitals", lambda: token(iss=issuer.ISSUER.upper()), "issuer that is not known"),
    ("another iss", lambda: token(iss="https://evil.test"), "issuer that is not known"),
    ("an iss that is a list", lambda: token(iss=[issuer.ISSUER]), "(iss)"),
    ("no sub", lambda: token(sub=None), "in sub"),
    ("an empty sub", lambda: token(sub=""), "in sub"),
    ("a sub that is a number", lambda: token(sub=7), "in sub"),
    ("a sub with a line break", lambda: token(sub="alice\nbob"), "in sub"),
    ("a sub of 300 characters", lambda: token(sub="a" * 300), "in sub"),
    ("bound to a key", lambda: token(cnf={"jkt": "a"}), "(cnf)"),
    ("ES256 in DER", signed_by_der, "wrong signature"),
    ("ES256 of nothing but zeros", lambda: psychic(bytes(64)), "wrong signature"),
    ("ES256 of no bytes", lambda: psychic(b"\0"), "wrong signature"),
    ("ES256 with the group's order", lambda: psychic(bytes.fromhex(ORDER) * 2), "wrong signature"),
    ("ES256 with the key of another curve", lambda: sign(header(alg="ES256", kid="ec"), claims(), "P-384", "ES384"),
     "wrong signature"),
]  # fmt: skip
ORDER = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551"


@scenario
async def test_no_bad_token_comes_in(tmp_path: Path) -> None:
    """I18: each is told what is wrong, without anything of it; none reaches the backend."""
    (jwks := tmp_path / "jwks.json").write_bytes(key_set(public_jwk("RSA"), public_jwk("P-256", "ec")))
    async with ollama() as backend, serving(tokens_of(backend, jwks, algorithms=["RS256", "ES256"])) as gateway:
        peer = await gateway.connect()
        for what, make, why in BAD:
            reply = await gateway.ask(PROMPT, prompt(), shown(make()), on=peer)
            code = "token_expired" if "expired" in why else "invalid_token"
            assert (reply.status, reply.error["code"]) == (401, code), what
            assert why in reply.error["message"], (what, reply.error["message"])
            assert reply.headers["www-authenticate"] == 'Bearer error="invalid_token"', what
        assert not backend.asked
        assert (await gateway.ask(PROMPT, prompt(), shown(token()), on=peer)).status == 200


@pytest.mark.parametrize("leeway_s", [0, 60])
@scenario
async def test_clocks_may_differ_by_the_leeway(leeway_s: int, jwks: Path) -> None:
    async with ollama() as backend, serving(tokens_of(backend, jwks, leeway_s=leeway_s)) as gateway:
        for early in (token(exp=now() - 30), token(nbf=now() + 30)):
            assert (await gateway.ask(PROMPT, prompt(), shown(early))).status == (200 if leeway_s else 401)


# --- where the keys come from -----------------------------------------------------------------------------------------


@scenario
async def test_keys_are_fetched_once_and_not_for_each_request() -> None:
    async with key_server() as keys, ollama() as backend, serving(tokens_of(backend, keys.url)) as gateway:
        for number in range(3):
            assert (await gateway.ask(PROMPT, prompt(), shown(token(sub=f"user{number}")))).status == 200
        assert keys.asked == [issuer.JWKS_PATH.encode()]
        assert gateway.counted("hermes_jwt_key_fetches_total") == {("team", "ok"): 1}


@scenario
async def test_who_comes_before_the_keys_waits_for_them_and_the_others_do_not() -> None:
    """The first fetch hangs: a key of our own comes in at once, tokens when the keys are here, by one fetch."""
    async with key_server() as keys, ollama() as backend:
        keys.gate = asyncio.Event()
        section = issuer.config(jwks_url=keys.url)
        async with serving(gateway_config(backend, jwt=[section], keys=[key("editor")])) as gateway:
            early = [await gateway.open(PROMPT, prompt(), shown(token(sub=f"user{number}"))) for number in range(3)]
            assert (await gateway.ask(PROMPT, prompt(), shown("sk-editor"))).status == 200
            await until(lambda: keys.asked, "nobody asks for the keys")
            leaver = await gateway.open(PROMPT, prompt(), shown(token()))
            await until(lambda: gateway.runtime.journal.open == 4)
            leaver.leave()
            await until(lambda: gateway.runtime.journal.open == 3)
            keys.gate.set()
            assert [(await call.reply()).status for call in early] == [200, 200, 200]
            assert len(keys.asked) == 1


@scenario
async def test_made_up_key_ids_fetch_nothing() -> None:
    """I18: whoever sends them by the dozen is answered at once, and the issuer's server not bothered."""
    async with key_server() as keys, ollama() as backend, serving(tokens_of(backend, keys.url)) as gateway:
        assert (await gateway.ask(PROMPT, prompt(), shown(token()))).status == 200
        for number in range(12):
            made_up = sign(header(kid=f"k{number + 2}"), claims())
            assert (await gateway.ask(PROMPT, prompt(), shown(made_up))).status == 401
        assert len(keys.asked) == 1 and len(backend.asked) == 1


@scenario
async def test_tokens_come_in_without_the_issuers_server_once_its_keys_are_here() -> None:
    async with key_server() as keys, ollama() as backend, serving(tokens_of(backend, keys.url)) as gateway:
        assert (await gateway.ask(PROMPT, prompt(), shown(token(sub="early")))).status == 200
        keys.status, keys.gate = 500, asyncio.Event()
        assert (await gateway.ask(PROMPT, prompt(), shown(token(sub="late")))).status == 200
        assert len(keys.asked) == 1


@scenario
async def test_a_slow_issuer_is_waited_for_so_long_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "FETCH_S", 0.05)
    async with key_server() as keys, ollama() as backend:
        keys.gate = asyncio.Event()
        async with serving(tokens_of(backend, keys.url)) as gateway:
            await refused_for_want_of_keys(gateway)
            assert not backend.asked


async def refused_for_want_of_keys(gateway: Hermes) -> None:
    reply = await gateway.ask(PROMPT, prompt(), shown(token()))
    assert (reply.status, reply.error["code"], reply.headers["retry-after"]) == (503, "issuer_unavailable", "10")


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (200, b"<html>Welcome</html>"),
        (200, b"{}"),
        (200, b'{"keys": 5}'),
        (200, b'{"keys": []}'),
        (200, b'{"keys": [], "keys": [{}]}'),
        (200, b"[" * 200_000),
        (200, b" " * 300_000 + key_set()),
        (500, key_set()),
        (302, key_set()),
    ],
    ids=["html", "empty", "number", "no keys", "twice", "deep", "huge", "500", "redirect"],
)
@scenario
async def test_what_is_no_key_set_lets_nobody_in(status: int, answer: bytes) -> None:
    async with key_server() as keys, ollama() as backend:
        keys.status, keys.answer = status, answer
        async with serving(tokens_of(backend, keys.url)) as gateway:
            await refused_for_want_of_keys(gateway)
            assert not backend.asked
            assert gateway.counted("hermes_jwt_key_fetches_total") == {("team", "failed"): 1}


@scenario
async def test_an_issuer_whose_server_is_dead_lets_nobody_in() -> None:
    async with ollama() as backend, serving(tokens_of(backend, "http://127.0.0.1:9/keys")) as gateway:
        await refused_for_want_of_keys(gateway)


@scenario
async def test_keys_over_https_are_believed_with_the_right_authority_only(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    trusted = Authority(tmp_path, "good")
    async with key_server(trusted.server_context()) as keys, ollama() as backend:
        async with serving(tokens_of(backend, keys.url, ca_file=str(trusted.ca_file))) as gateway:
            assert (await gateway.ask(PROMPT, prompt(), shown(token()))).status == 200
        async with serving(tokens_of(backend, keys.url)) as gateway:
            await refused_for_want_of_keys(gateway)


@scenario
async def test_tokens_of_two_issuers_are_of_two_tenants(jwks: Path) -> None:
    """One may not sign for the other, and the same name means two people."""
    other = issuer.config(name="guests", issuer="https://guests.test", jwks_file=str(jwks.with_name("guests.json")))
    jwks.with_name("guests.json").write_bytes(key_set(public_jwk("other RSA")))
    async with ollama() as backend:
        both = [issuer.config(jwks_file=str(jwks)), other]
        async with serving(gateway_config(backend, jwt=both)) as gateway:
            guest = sign(header(), claims(iss="https://guests.test"), "other RSA")
            for good in (token(), guest):
                assert (await gateway.ask(PROMPT, prompt(), shown(good))).status == 200
            assert {(await gateway.record(number)).user for number in range(2)} == {"team:alice", "guests:alice"}
            forged = (sign(header(), claims(), "other RSA"), sign(header(), claims(iss="https://guests.test")))
            for bad in forged:
                assert (await gateway.ask(PROMPT, prompt(), shown(bad))).status == 401
