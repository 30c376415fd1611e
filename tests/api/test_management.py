"""Ollama's own management: off, and then an operator's alone."""

import asyncio
import json
from typing import Any

import pytest

from tests.fakes.backend import Asked, FakeOllama, Script, Then, fail, model, ollama, play
from tests.fakes.gateway import Hermes, bearer, hermes, key, scenario
from tests.support import until

ON = {"ollama_management": True}
BLOB = "/api/blobs/sha256:" + "0123456789abcdef" * 4
CREATE = {"model": "mine", "from": "gemma", "system": "Be brief."}
CALLS: list[tuple[str, str, Any]] = [
    ("POST", "/api/create", CREATE),
    ("POST", "/api/copy", {"source": "gemma", "destination": "mine"}),
    ("POST", "/api/push", {"model": "mine"}),
    ("DELETE", "/api/delete", {"model": "gemma"}),
    ("HEAD", BLOB, None),
    ("POST", BLOB, b"1234"),
]
KEYS = [key("ann"), key("ops", admin=True), key("half", admin=True, models=["gemma*"])]
LINES = play({"status": "reading"}, {"status": "success"})


def told(backend: FakeOllama, path: str) -> list[Asked]:
    return [asked for asked in backend.managed if asked.path == path]


async def names(gateway: Hermes) -> list[str]:
    return [item["id"] for item in (await gateway.ask("/v1/models")).json["data"]]


@pytest.mark.parametrize(("method", "path", "body"), CALLS)
@scenario
async def test_it_is_off_unless_it_is_turned_on(method: str, path: str, body: Any) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        refused = await gateway.ask(path, body, {}, method)
        assert refused.status == 404 and (method == "HEAD" or b"server.ollama_management" in refused.body)
        assert not told(backend, path)


@pytest.mark.parametrize(("method", "path", "body"), CALLS)
@scenario
async def test_it_is_for_operators_who_are_answered_as_the_backend_does(method: str, path: str, body: Any) -> None:
    async def done(asked: Asked) -> None:
        asked.response.send(201 if asked.method == "POST" and path == BLOB else 200, b"", b"")

    async with ollama() as backend, hermes(backend, server=ON, keys=KEYS) as gateway:
        backend.management[path] = done
        assert (await gateway.ask(path, body, bearer("ann"), method)).status == 403
        assert not told(backend, path)
        reply = await gateway.ask(path, body, bearer("ops"), method)
        assert (reply.status, reply.body) == (201 if (method, path) == ("POST", BLOB) else 200, b"")
        (asked,) = told(backend, path)
        assert (asked.method, asked.body) == (method, json.loads(body) if isinstance(body, bytes) else body)
        assert "authorization" not in asked.headers and asked.headers["x-hermes-hop"]


@scenario
async def test_what_is_told_of_it_comes_line_by_line_and_its_end_once_it_is_seen_here() -> None:
    go = asyncio.Event()
    async with ollama() as backend, hermes(backend, server=ON) as gateway:

        async def create(asked: Asked) -> None:
            backend.models.append(model("mine:latest"))
            await play({"status": "reading"}, {"status": "writing"}, go, {"status": "success"})(asked)

        backend.management["/api/create"] = create
        call = await gateway.open("/api/create", CREATE)
        assert await call.head() == 200
        assert await call.event() == {"status": "reading"}
        go.set()
        assert await call.events() == [{"status": "writing"}, {"status": "success"}]
        assert call.whole and "mine:latest" in await names(gateway)


@scenario
async def test_a_model_that_is_deleted_is_gone_here_too() -> None:
    async with ollama("gemma:latest", "phi:latest") as backend, hermes(backend, server=ON) as gateway:

        async def delete(asked: Asked) -> None:
            backend.models[:] = backend.models[1:]
            asked.response.send(200, b"", b"")

        backend.management["/api/delete"] = delete
        assert "gemma:latest" in await names(gateway)
        assert (await gateway.ask("/api/delete", {"model": "gemma"}, {}, "DELETE")).status == 200
        assert await names(gateway) == ["phi:latest"]


@scenario
async def test_one_that_is_not_streamed_is_answered_whole() -> None:
    async with ollama() as backend, hermes(backend, server=ON) as gateway:
        backend.management["/api/create"] = play({"status": "success"}, content_type=b"application/json")
        reply = await gateway.ask("/api/create", {**CREATE, "stream": False})
        assert (reply.status, reply.json) == (200, {"status": "success"})


@pytest.mark.parametrize(
    ("script", "status"),
    [
        (fail(404, "model 'gemma' not found"), 404),
        (fail(400, "invalid model name"), 400),
        (play({"error": "disk full"}), 502),
        (play(b"no JSON\n"), 502),
        (play(b'"a text"\n'), 502),
        (play(b'{"status":"half'), 502),
        (play({"status": "reading"}, b'{"status":"half'), 502),
        (play(b""), 502),
        (play({"status": "reading"}, then=Then.CUT), 502),
        (play(b"x" * (1 << 20) + b"x\n"), 502),
        (play(b"[]", content_type=b"application/json"), 502),
    ],
)
@scenario
async def test_what_goes_wrong_is_told_as_an_error_and_never_as_success(script: Script, status: int) -> None:
    """I15."""
    async with ollama() as backend, hermes(backend, server=ON) as gateway:
        backend.management["/api/create"] = script
        reply = await gateway.ask("/api/create", CREATE)
        assert (reply.status, bool(reply.error)) == (status, True)


@scenario
async def test_an_error_after_the_first_line_ends_the_answer_uncleanly() -> None:
    async with ollama() as backend, hermes(backend, server=ON) as gateway:
        backend.management["/api/push"] = play({"status": "a"}, {"status": "b"}, {"error": "no such host"})
        reply = await gateway.ask("/api/push", {"model": "mine"})
        assert (reply.status, reply.whole) == (200, False)
        assert reply.events[-1]["error"]["message"]


@scenario
async def test_whether_there_is_a_blob_is_told_by_the_status_alone() -> None:
    async with ollama() as backend, hermes(backend, server=ON) as gateway:
        peer = await gateway.connect()
        for status in (200, 404, 200):
            backend.management[BLOB] = fail(status, "announces a body, which HEAD has none of")
            assert (await gateway.ask(BLOB, None, {}, "HEAD", on=peer)).status == status
        assert (await gateway.ask(BLOB, None)).status == 405


@pytest.mark.parametrize("status", [400, 404])
@scenario
async def test_a_blob_that_is_not_taken_is_an_error(status: int) -> None:
    async with ollama() as backend, hermes(backend, server=ON) as gateway:
        backend.management[BLOB] = fail(status, "digest mismatch")
        reply = await gateway.ask(BLOB, b"1")
        assert (reply.status, bool(reply.error)) == (status, True)


@pytest.mark.parametrize(
    "digest", ["sha256:0", "md5:" + "0" * 64, "sha256:" + "G" * 64, "..%2f..%2fx", "sha256:" + "A" * 64]
)
@scenario
async def test_what_is_no_digest_reaches_nobody(digest: str) -> None:
    async with ollama() as backend, hermes(backend, server=ON) as gateway:
        looks = len(backend.managed)
        reply = await gateway.ask(f"/api/blobs/{digest}", b"1")
        assert (reply.status, reply.error["param"]) == (400, "digest")
        assert [asked.path for asked in backend.managed[looks:] if "blobs" in asked.path] == []


@scenario
async def test_a_blob_is_bounded_as_all_bodies_are() -> None:
    async with ollama() as backend, hermes(backend, server={**ON, "max_body_bytes": 1000}) as gateway:
        assert (await gateway.ask(BLOB, b"1" * 1001)).status == 413
        assert not told(backend, BLOB)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/create", {"model": "mine", "from": "gemma"}),
        ("/api/create", {"model": "gemma2", "from": "phi"}),
        ("/api/copy", {"source": "phi", "destination": "gemma2"}),
        ("/api/copy", {"source": "gemma", "destination": "mine"}),
        ("/api/push", {"name": "mine"}),
    ],
)
@scenario
async def test_an_operators_key_for_some_models_is_for_those_here_too(path: str, body: dict[str, str]) -> None:
    async with ollama() as backend, hermes(backend, server=ON, keys=KEYS) as gateway:
        reply = await gateway.ask(path, body, bearer("half"))
        assert (reply.status, reply.error["code"]) == (403, "model_not_allowed")
        assert not told(backend, path)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"model":"a","model":"b"}', "duplicate_key"),
        (b'{"model":"a","Model":"b"}', "ambiguous_key"),
        (b'{"model":"../a"}', "invalid_value"),
        (b'{"model":5}', "invalid_type"),
        (b"[]", "invalid_json"),
    ],
)
@scenario
async def test_a_body_is_read_as_strictly_as_any(body: bytes, code: str) -> None:
    """I14, I25."""
    async with ollama() as backend, hermes(backend, server=ON) as gateway:
        reply = await gateway.ask("/api/create", body)
        assert (reply.status, reply.error["code"]) == (400, code)
        assert not told(backend, "/api/create")


@scenario
async def test_a_client_that_leaves_ends_it() -> None:
    """I9."""
    async with ollama() as backend, hermes(backend, server=ON) as gateway:
        backend.management["/api/create"] = play({"status": "a"}, {"status": "b"}, then=Then.STALL)
        call = await gateway.open("/api/create", CREATE)
        await call.head()
        assert await call.event() == {"status": "a"}
        call.leave()
        (asked,) = told(backend, "/api/create")
        await until(asked.left.is_set, "the backend goes on")


@scenario
async def test_a_reload_turns_it_on_and_off_and_it_goes_to_the_ollama_that_there_is_then() -> None:
    """I34."""
    delete = {"model": "gemma"}

    async def done(asked: Asked) -> None:
        asked.response.send(200, b"", b"")

    async with ollama() as one, ollama() as other, hermes(one) as gateway:
        peer = await gateway.connect()
        for backend, server, status in ((one, {}, 404), (one, ON, 200), (other, ON, 200), (other, {}, 404)):
            await gateway.reload(backend, server=server)
            backend.management["/api/delete"] = done
            for _ in range(3):  # so that the head is known
                assert (await gateway.ask("/api/delete", delete, {}, "DELETE", on=peer)).status == status
        assert (len(told(one, "/api/delete")), len(told(other, "/api/delete"))) == (3, 3)
