"""Keys: who may come in, and what only an operator may (I16, I17, I19, I24)."""

import json
from pathlib import Path

import pytest

from hermes.config import Config
from hermes.config.load import load
from tests.fakes.backend import FakeOllama, ollama
from tests.fakes.gateway import CHAT, PROMPT, chat, prompt, scenario, serving

USER, OPERATOR = "sk-user-1", "sk-operator-1"
KEYS = {USER: {"user": "editor", "rate_limit": 60}, OPERATOR: {"user": "ops", "admin": True}}


def keyed(backend: FakeOllama, tmp_path: Path) -> Config:
    environ = {
        "API_KEYS_JSON": json.dumps(KEYS),
        "OLLAMA_URL": backend.url,
        "HERMES_SERVER__PORT": "0",
        "HERMES_LOGGING__ACCESS_LOG": str(tmp_path / "access.log"),
    }
    return load(None, environ, {}, tmp_path)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.mark.parametrize("headers", [bearer(USER), {"authorization": f"bearer  {USER}"}, {"x-api-key": USER}])
@scenario
async def test_a_key_is_taken_from_either_header(headers: dict[str, str], tmp_path: Path) -> None:
    async with ollama() as backend, serving(keyed(backend, tmp_path)) as gateway:
        assert (await gateway.ask(PROMPT, prompt(), headers)).status == 200
        record = await gateway.record()
        assert len(record.key_id) == 12 and USER not in str(record)


@pytest.mark.parametrize(
    "headers",
    [{}, bearer("sk-user-2"), {"x-api-key": "sk-user-"}, {"authorization": "Basic c2s6"}, {"authorization": "Bearer"}],
)
@pytest.mark.parametrize("path", [PROMPT, CHAT, PROMPT + "/pull", "/v1/models", "/v1/status", "/metrics"])
@scenario
async def test_without_a_known_key_every_door_is_closed(path: str, headers: dict[str, str], tmp_path: Path) -> None:
    async with ollama() as backend, serving(keyed(backend, tmp_path)) as gateway:
        body = {PROMPT: prompt(), CHAT: chat(), PROMPT + "/pull": {}}.get(path)
        reply = await gateway.ask(path, body, headers)
        assert (reply.status, reply.error["code"]) == (401, "invalid_api_key")
        assert reply.headers["x-request-id"]
        assert not backend.asked
        assert (await gateway.record()).outcome == "denied"


@pytest.mark.parametrize("path", ["/v1/health", "/health", "/livez", "/readyz"])
@scenario
async def test_health_needs_no_key(path: str, tmp_path: Path) -> None:
    async with ollama() as backend, serving(keyed(backend, tmp_path)) as gateway:
        assert (await gateway.ask(path)).status == 200


@scenario
async def test_two_different_keys_are_one_too_many(tmp_path: Path) -> None:
    async with ollama() as backend, serving(keyed(backend, tmp_path)) as gateway:
        reply = await gateway.ask(PROMPT, prompt(), {**bearer(USER), "x-api-key": OPERATOR})
        assert (reply.status, reply.error["code"]) == (400, "ambiguous_credentials")
        assert (await gateway.ask(PROMPT, prompt(), {**bearer(USER), "x-api-key": USER})).status == 200


@pytest.mark.parametrize(("path", "method"), [(PROMPT + "/pull", "POST"), ("/metrics", "GET")])
@scenario
async def test_what_is_the_operators_is_403_for_others(path: str, method: str, tmp_path: Path) -> None:
    async with ollama() as backend, serving(keyed(backend, tmp_path)) as gateway:
        reply = await gateway.ask(path, None, bearer(USER), method)
        assert (reply.status, reply.error["code"], reply.error["type"]) == (403, "admin_only", "permission_error")
        assert not [asked for asked in backend.managed if asked.path == "/api/pull"]
        assert (await gateway.ask("/metrics", None, bearer(OPERATOR))).status == 200


@scenario
async def test_an_unknown_path_tells_nothing_about_keys(tmp_path: Path) -> None:
    async with ollama() as backend, serving(keyed(backend, tmp_path)) as gateway:
        assert (await gateway.ask("/v1/nowhere")).status == 404


@scenario
async def test_a_key_is_seen_nowhere(tmp_path: Path) -> None:
    """I17, I26: not in the log, the status, the metrics, an error or the gateway's own values."""
    async with ollama() as backend, serving(keyed(backend, tmp_path)) as gateway:
        unknown = "sk-stranger-1"
        shown = [
            (await gateway.ask(PROMPT, prompt(), bearer(unknown))).body,
            (await gateway.ask(PROMPT, prompt(), bearer(USER))).body,
            (await gateway.ask("/v1/status", None, bearer(USER))).body,
            (await gateway.ask("/metrics", None, bearer(OPERATOR))).body,
            repr(gateway.runtime.config).encode(),
            json.dumps(backend.asked[0].headers).encode(),
        ]
    shown.append((tmp_path / "access.log").read_bytes())
    for text in shown:
        assert text and not any(key.encode() in text for key in (USER, OPERATOR, unknown))


@scenario
async def test_a_tenant_may_not_fill_the_queue_alone(tmp_path: Path) -> None:
    """I4: the queue is bounded per tenant too."""
    from msgspec.structs import replace

    from tests.fakes.backend import Then, play

    async with ollama() as backend:
        config = keyed(backend, tmp_path)
        config = replace(config, limits=replace(config.limits, per_tenant_queue=1))
        async with serving(config) as gateway:
            backend.default = play(then=Then.STALL)
            calls = [await gateway.open(PROMPT, prompt(), bearer(USER))]
            await backend.request(0)
            calls.append(await gateway.open(PROMPT, prompt(), bearer(USER)))
            await gateway.until_waiting(1)
            assert (await gateway.ask(PROMPT, prompt(), bearer(USER))).error["code"] == "queue_full"
            calls.append(await gateway.open(PROMPT, prompt(), bearer(OPERATOR)))
            await gateway.until_waiting(2)
            for call in calls:
                call.leave()
