"""Somebody who issues tokens: keys of every kind, tokens with whatever is wrong in them, and a server of key sets."""

import asyncio
import json
import ssl
import time
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from jwt.algorithms import get_default_algorithms

from hermes.api.routes import content_line
from hermes.config import Config
from hermes.http.request import Request
from hermes.http.response import Response
from tests.fakes import gateway
from tests.fakes.backend import FakeOllama
from tests.http.peers import Served, serving

ISSUER = "https://sso.test/realms/team"
AUDIENCE = "hermes"
JWKS_PATH = "/realms/team/certs/?v=1"

_MAKE: dict[str, Any] = {
    "RSA": lambda: rsa.generate_private_key(65537, 2048),
    "other RSA": lambda: rsa.generate_private_key(65537, 2048),
    "short RSA": lambda: rsa.generate_private_key(65537, 1024),
    "P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "P-521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
    "Ed448": ed448.Ed448PrivateKey.generate,
}
KIND = {"RS": "RSA", "PS": "RSA", "ES256": "P-256", "ES384": "P-384", "ES512": "P-521", "EdDSA": "Ed25519"}


@cache
def private_key(kind: str) -> Any:
    """The same for every test: an RSA key takes 100 ms to make."""
    return _MAKE[kind]()


def kind_for(algorithm: str) -> str:
    return KIND.get(algorithm) or KIND[algorithm[:2]]


def public_jwk(kind: str, kid: str = "k1", **more: Any) -> dict[str, Any]:
    algorithm = {"R": "RS256", "P": "ES256", "E": "EdDSA"}[kind.split()[-1][0]]
    told = get_default_algorithms()[algorithm].to_jwk(private_key(kind).public_key(), as_dict=True)
    told.pop("key_ops", None)
    return {**told, "kid": kid, **more}


def key_set(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": keys or [public_jwk("RSA")]}).encode()


def base64url(data: bytes) -> bytes:
    return urlsafe_b64encode(data).rstrip(b"=")


def now() -> int:
    return int(time.time())  # noqa: TID251 - what tokens say


def claims(**more: Any) -> dict[str, Any]:
    """Of a good token, with something else in them; None: without that."""
    told = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "iat": now(), "exp": now() + 300, **more}
    return {name: value for name, value in told.items() if value is not None}


def header(**more: Any) -> dict[str, Any]:
    told = {"alg": "RS256", "kid": "k1", "typ": "JWT", **more}
    return {name: value for name, value in told.items() if value is not None}


def sign(head: Any, body: Any, kind: str = "RSA", algorithm: str = "RS256") -> str:
    """Both may be bytes already. However wrong they are, the signature is right."""
    parts = (part if isinstance(part, bytes) else json.dumps(part).encode() for part in (head, body))
    signed = b".".join(map(base64url, parts))
    signature = get_default_algorithms()[algorithm].sign(signed, private_key(kind))
    return (signed + b"." + base64url(signature)).decode()


def token(**more: Any) -> str:
    """A good one, but for these claims."""
    return sign(header(), claims(**more))


def config(**more: Any) -> dict[str, Any]:
    """An issuer as the configuration has it."""
    return {"name": "team", "issuer": ISSUER, "audience": [AUDIENCE], **more}


def tokens_of(backend: FakeOllama, jwks: Path | str, **more: Any) -> Config:
    """Who takes tokens of one issuer, with keys in a file or at a url."""
    where = {"jwks_url": jwks} if isinstance(jwks, str) else {"jwks_file": str(jwks)}
    return gateway.config(backend, jwt=[config(**where, **more)])


def shown(written: str) -> dict[str, str]:
    return {"authorization": f"Bearer {written}"}


class Keys:
    """A server of one key set. `answer`: what it gives; `gate`: it waits for that first."""

    def __init__(self) -> None:
        self.status = 200
        self.answer = key_set()
        self.gate: asyncio.Event | None = None
        self.asked: list[bytes] = []
        self.url = ""

    async def handle(self, request: Request, response: Response) -> None:
        self.asked.append(request.path + b"?" + request.head.query)
        if self.gate is not None:
            await self.gate.wait()
        response.send(self.status, content_line(b"application/json"), self.answer)


@asynccontextmanager
async def key_server(tls: ssl.SSLContext | None = None) -> AsyncIterator[Keys]:
    keys = Keys()
    served: Served
    async with serving(keys.handle, tls=tls) as served:
        keys.url = f"{'https' if tls else 'http'}://127.0.0.1:{served.port}{JWKS_PATH}"
        yield keys
