"""Whatever stands in a token, it is refused or it is somebody: nothing else ever happens (I18)."""

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from hermes.config import Claims, Issuer, Rights
from hermes.errors import Forbidden, InvalidToken
from hermes.oidc.issuers import Issuers, Known
from hermes.oidc.keys import KeySet
from hermes.principal import Principal
from tests.fakes import issuer
from tests.fakes.issuer import base64url, claims, header, key_set, public_jwk, sign

PATHS = {name: f"own.{name}" for name in Rights.__struct_fields__}
SETTINGS = Issuer(
    "team",
    issuer.ISSUER,
    (issuer.AUDIENCE,),
    ("EdDSA",),
    jwks_file="/k",
    claims=Claims(roles="groups", **PATHS),
    roles={"ops": Rights(admin=True), "*": Rights()},
)


async def _keys() -> KeySet:
    async def fetch() -> bytes:
        return key_set(public_jwk("Ed25519"))

    keys = KeySet("team", fetch, SETTINGS.algorithms, lambda result: None)
    await keys._look()
    return keys


ISSUERS = Issuers([Known(SETTINGS, asyncio.run(_keys()))], "normal", lambda: float(claims()["iat"]))


def outcome(written: bytes) -> Principal | None:
    """None: it is not let in, or its key is not known."""
    try:
        return ISSUERS.recognise(written, written)
    except (InvalidToken, Forbidden) as error:
        assert error.status in (401, 403) and error.message
        return None


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def members(*names: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(names), VALUES, max_size=3)


@given(st.binary(max_size=300) | st.lists(st.binary(max_size=40).map(base64url), min_size=3, max_size=3).map(b".".join))
def test_bytes_are_refused(written: bytes) -> None:
    assert outcome(written) is None


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_what_is_signed_and_says_nothing_is_refused(head: bytes, body: bytes) -> None:
    assert outcome(sign(head, body, "Ed25519", "EdDSA").encode()) is None


@given(members(*header(), "crit", "b64", "x5t", "enc"), members(*claims(), "nbf", "cnf", "groups", "own", "a.b"))
def test_any_value_in_any_member_comes_to_somebody_or_to_a_refusal(head: dict[str, Any], body: dict[str, Any]) -> None:
    """Who comes in although something is changed has changed nothing that counts."""
    head, body = {**header(alg="EdDSA"), **head}, {**claims(), **body}
    asked = outcome(sign(head, body, "Ed25519", "EdDSA").encode())
    if asked is not None:
        assert (head["alg"], head["kid"], body["iss"]) == ("EdDSA", "k1", issuer.ISSUER)
        assert issuer.AUDIENCE in body["aud"] and asked.tenant == f"team:{body['sub']}"
        assert asked.admin is False or "ops" in str(body.get("groups")) or body["own"]["admin"] is True
