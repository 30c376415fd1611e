"""Tokens on real sockets: who comes in with one, and how the keys get here that prove it (I18)."""

import asyncio
import hashlib
import shutil
from pathlib import Path

import pytest

from hermes.oidc import source
from tests.fakes import issuer
from tests.fakes.backend import ollama
from tests.fakes.gateway import PROMPT, Hermes, key, prompt, scenario, serving
from tests.fakes.gateway import config as gateway_config
from tests.fakes.issuer import claims, header, key_server, key_set, now, public_jwk, shown, sign, token, tokens_of
from tests.http.test_origin import Authority
from tests.support import until


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
    roles = {"ops": {"admin": True}, "prometheus": {"metrics": True}, "people": {}}
    async with (
        ollama() as backend,
        serving(tokens_of(backend, jwks, claims={"roles": "groups"}, roles=roles)) as gateway,
    ):
        for groups, status in ((["people", "ops"], 200), (["prometheus"], 200), (["people"], 403)):
            assert (await gateway.ask("/metrics", None, shown(token(groups=groups)))).status == status
        pull = f"{PROMPT}/pull"
        assert (await gateway.ask(pull, {}, shown(token(groups=["prometheus"])))).status == 403
        reply = await gateway.ask(PROMPT, prompt(), shown(token(groups=["strangers"])))
        assert (reply.status, reply.error["code"]) == (403, "role_required")
        assert not backend.asked


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
async def test_a_reload_of_other_things_forgets_no_key_of_an_issuer() -> None:
    """I34: also while the issuer's server is away."""
    async with key_server() as keys, ollama() as backend, serving(tokens_of(backend, keys.url)) as gateway:
        assert (await gateway.ask(PROMPT, prompt(), shown(token(sub="early")))).status == 200
        keys.status = 500
        scheduling = {"usual_class": "batch"}
        await gateway.reload(backend, jwt=[issuer.config(jwks_url=keys.url)], scheduling=scheduling)
        for user in ("early", "late"):
            assert (await gateway.ask(PROMPT, prompt(), shown(token(sub=user)))).status == 200
        assert [record.urgency for record in gateway.records] == ["normal", "batch", "batch"]
        assert len(keys.asked) == 1


@scenario
async def test_a_slow_issuer_is_waited_for_so_long_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "FETCH_S", 0.05)
    async with key_server() as keys, ollama() as backend:
        keys.gate = asyncio.Event()
        async with serving(tokens_of(backend, keys.url)) as gateway:
            await refused_for_want_of_keys(gateway)
            assert not backend.asked
            assert gateway.counted("hermes_jwt_key_fetches_total") == {("team", "failed"): 1}


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
