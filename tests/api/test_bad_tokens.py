"""Every token that lets nobody in, on real sockets, each with its answer (I18, RFC 8725)."""

import hmac
import json
from base64 import urlsafe_b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.fakes import issuer
from tests.fakes.backend import ollama
from tests.fakes.gateway import PROMPT, prompt, scenario, serving
from tests.fakes.issuer import base64url, claims, header, key_set, now, public_jwk, shown, sign, token, tokens_of


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
