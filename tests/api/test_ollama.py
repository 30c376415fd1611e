"""Ollama's own routes: what its clients look for is where they look for it, of all backends together."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from hermes.dialects import ollama_answer, ollama_request
from tests.fakes.backend import (
    CREATED_AT,
    DONE,
    FOR_EVER,
    Asked,
    FakeOllama,
    Then,
    answer,
    fail,
    loaded,
    model,
    ollama,
    play,
)
from tests.fakes.gateway import OLLAMA, PROMPT, Hermes, bearer, chat, hermes, hold_slot, key, prompt, scenario
from tests.support import until

ALIAS = {"fast": {"backend_model": "gemma3:12b", "backends": ["b0"]}}


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@scenario
async def test_who_knocks_hears_what_ollama_says(method: str) -> None:
    """Ollama's clients look there for a server, and have no key to show."""
    async with ollama() as backend, hermes(backend, keys=[key("ann")]) as gateway:
        reply = await gateway.ask("/", method=method)
        assert (reply.status, reply.headers["content-type"]) == (200, "text/plain; charset=utf-8")
        assert reply.body == (b"Ollama is running" if method == "GET" else b"")
        assert (await gateway.ask("/api/version")).status == 401
        version = (await gateway.ask("/api/version", headers=bearer("ann"))).json["version"]
        assert tuple(map(int, version.split("."))) >= (0, 33, 0)


# --- what there is ----------------------------------------------------------------------------------------------------


@scenario
async def test_the_models_of_all_backends_are_listed_by_their_public_names() -> None:
    async with ollama("gemma3:12b") as first, ollama("gemma3:12b", "phi:latest") as second:
        second.models[1] |= {"modified_at": "2026-11-21T10:00:00Z"}
        second.models[1]["details"] |= {"context_length": 4096, "embedding_length": 64}
        async with hermes(first, second, models=ALIAS) as gateway:
            listed = (await gateway.ask("/api/tags")).json["models"]
            assert [item["name"] for item in listed] == ["phi:latest", "gemma3:12b", "fast"]
            assert listed[0] == {
                "name": "phi:latest",
                "model": "phi:latest",
                "digest": "digest-of-phi:latest",
                "modified_at": "2026-11-21T10:00:00Z",
                "size": 1_700_000,
                "details": {
                    "parent_model": "",
                    "format": "gguf",
                    "family": "llama",
                    "families": ["llama"],
                    "parameter_size": "1.0B",
                    "quantization_level": "F32",
                    "context_length": 4096,
                    "embedding_length": 64,
                },
                "capabilities": ["completion", "tools"],
            }
        async with hermes(first, second, models=ALIAS, serve_unlisted=False) as gateway:
            assert [item["model"] for item in (await gateway.ask("/api/tags")).json["models"]] == ["fast"]


@scenario
async def test_what_is_in_memory_is_told_by_every_name_that_it_is_served_by() -> None:
    async with ollama("gemma3:12b") as first, ollama("gemma3:12b") as second:
        second.loaded = [loaded("gemma3:12b", context=8192) | {"expires_at": "2026-11-21T10:00:00Z"}]
        async with hermes(first, second, models=ALIAS) as gateway:
            running = (await gateway.ask("/api/ps")).json["models"]
            told = [(item["model"], item["expires_at"]) for item in running]
            assert told == [("gemma3:12b", FOR_EVER), ("fast", FOR_EVER), ("gemma3:12b", "2026-11-21T10:00:00Z")]
            assert (running[2]["size"], running[2]["size_vram"]) == (2 << 30, 1 << 30)
            second.loaded = []
            gateway.runtime.fleet.backends["b1"].seen_at = 0.0  # as if that were long ago
            assert len((await gateway.ask("/api/ps")).json["models"]) == 2
            assert running[2]["context_length"] == 8192 and running[2]["details"]["family"] == "llama"


@pytest.mark.parametrize("named", [{"model": "gemma"}, {"name": "gemma:latest", "verbose": True}])
@scenario
async def test_a_model_is_shown_with_what_clients_decide_by(named: dict[str, Any]) -> None:
    async with ollama() as backend:
        metadata = {"general.architecture": "llama", "llama.context_length": 8192, "general.parameter_count": 9}
        told = {"template": "{{ .Tools }}", "parameters": "num_ctx 512", "model_info": metadata, "modelfile": "FROM /x"}
        backend.management["/api/show"] = play({"capabilities": ["completion", "thinking"], **told})
        async with hermes(backend) as gateway:
            shown = (await gateway.ask("/api/show", named)).json
            assert shown["capabilities"] == ["completion", "thinking"]
            assert {key: shown[key] for key in told} == told | {"modelfile": ""}, "it would tell of paths"
            assert shown["modified_at"] == CREATED_AT
            assert shown["details"]["parameter_size"] == "1.0B"


@scenario
async def test_of_a_model_whose_backend_tells_little_there_is_what_clients_look_for() -> None:
    async with ollama() as backend:
        backend.models[0]["details"] |= {"context_length": 8192, "embedding_length": 64}
        async with hermes(backend) as gateway:
            shown = (await gateway.ask("/api/show", {"model": "gemma"})).json
            assert shown["model_info"] == {
                "general.architecture": "llama",
                "llama.context_length": 8192,
                "llama.embedding_length": 64,
            }
            assert (shown["template"], shown["modelfile"], shown["parameters"]) == ("", "", "")


@scenario
async def test_a_model_that_nobody_has_is_not_found() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        for path, body in (
            ("/api/show", {"model": "phi"}),
            (OLLAMA, chat(model="phi")),
            (OLLAMA, {"model": "phi"}),
            ("/api/generate", {"model": "phi", "keep_alive": 0}),
            ("/api/embed", {"model": "phi", "input": "Hi"}),
        ):
            reply = await gateway.ask(path, body)
            assert (reply.status, reply.error["code"]) == (404, "model_not_found")
            assert "not found" in reply.error["message"]  # what clients match


@scenario
async def test_a_listed_name_may_be_said_with_the_usual_tag_and_means_the_same() -> None:
    """Ollama's clients add it by themselves, and no other model is reached that way."""
    models = {"gemma": {"backend_model": "gemma3:12b"}}
    async with ollama("gemma3:12b", "gemma:latest") as backend, hermes(backend, models=models) as gateway:
        listed = [item["name"] for item in (await gateway.ask("/api/tags")).json["models"]]
        assert sorted(listed) == ["gemma", "gemma3:12b"]
        for name in ("gemma", "gemma:latest"):
            reply = await gateway.ask(OLLAMA, chat(model=name, stream=False))
            assert (reply.status, reply.json["model"]) == (200, name)
        assert [asked.body["model"] for asked in backend.asked] == ["gemma3:12b"] * 2
        assert [(await gateway.record(number)).model for number in (1, 2)] == ["gemma", "gemma"]


# --- nothing but the model --------------------------------------------------------------------------------------------

EMPTY: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (OLLAMA, {"messages": []}, {"message": {"role": "assistant", "content": ""}}),
    (OLLAMA, {"stream": False}, {"message": {"role": "assistant", "content": ""}}),
    ("/api/generate", {"prompt": ""}, {"response": ""}),
]


@pytest.mark.parametrize(("path", "body", "said"), EMPTY)
@scenario
async def test_who_asks_for_nothing_but_the_model_has_it_loaded(
    path: str, body: dict[str, Any], said: dict[str, Any]
) -> None:
    async with ollama("gemma:latest", "phi:latest") as backend:
        backend.loaded = []
        async with hermes(backend, keys=[key("ann")]) as gateway:
            reply = await gateway.ask(path, {"model": "gemma", "keep_alive": "5m", **body}, bearer("ann"))
            told = reply.json
            assert told.pop("created_at").endswith("Z")
            assert told == {"model": "gemma", **said, "done": True, "done_reason": "load"}
            assert backend.orders == ["load gemma:latest"] and backend.asked == []
            assert (await gateway.ask(path, {"model": "gemma", **body}, bearer("ann"))).status == 200
            assert backend.orders == ["load gemma:latest"], "it is there"


@pytest.mark.parametrize(
    ("path", "answered"), [("/api/embed", {"embeddings": []}), ("/api/embeddings", {"embedding": []})]
)
@scenario
async def test_nothing_to_embed_loads_the_model_too(path: str, answered: dict[str, Any]) -> None:
    async with ollama() as backend:
        backend.loaded = []
        async with hermes(backend) as gateway:
            told = (await gateway.ask(path, {"model": "gemma"})).json
            assert {key: value for key, value in told.items() if key != "model"} == answered
            assert backend.orders == ["load gemma:latest"]


@pytest.mark.parametrize(
    ("path", "body"), [*((path, body) for path, body, _ in EMPTY), ("/api/embed", {}), ("/api/embeddings", {})]
)
@pytest.mark.parametrize("limit", [{"rpm": 1}, {"daily_tokens": 10}])
@scenario
async def test_to_load_a_model_is_a_request_that_limits_count(
    path: str, body: dict[str, Any], limit: dict[str, int]
) -> None:
    """Who has used up what he may does not swap models for others."""
    async with ollama("gemma:latest", "phi:latest") as backend:
        backend.loaded = []
        async with hermes(backend, keys=[key("ann", **limit), key("bob")]) as gateway:
            reply = await gateway.ask(path, {"model": "gemma", **body}, bearer("bob"))
            assert reply.status == 200
            assert (await gateway.ask("/v1/usage", headers=bearer("bob"))).json["total"]["requests"] == 1
            assert (await gateway.ask(PROMPT, prompt(), bearer("ann"))).status == 200  # 10 tokens
            reply = await gateway.ask(path, {"model": "phi", **body}, bearer("ann"))
            assert (reply.status, reply.json["code"]) in {
                (429, "rate_limit_exceeded"),
                (429, "insufficient_quota"),
            }
            assert backend.orders == ["load gemma:latest"]


@scenario
async def test_a_load_that_fails_is_no_request() -> None:
    """I6"""
    async with ollama() as backend:
        backend.loaded = []
        async with hermes(backend, keys=[key("ann", rpm=1)]) as gateway:
            backend.management["/api/generate"] = fail(500, "CUDA error")
            assert (await gateway.ask(OLLAMA, {"model": "gemma"}, bearer("ann"))).status == 503
            assert (await gateway.ask("/v1/usage", headers=bearer("ann"))).json["total"]["requests"] == 0


@pytest.mark.parametrize(("path", "body", "said"), EMPTY)
@scenario
async def test_only_an_operator_takes_a_model_away_from_the_others(
    path: str, body: dict[str, Any], said: dict[str, Any]
) -> None:
    keys = [key("ann"), key("root", admin=True)]
    async with ollama() as backend, hermes(backend, keys=keys) as gateway:
        body = {"model": "gemma", "keep_alive": 0, **body}
        reply = await gateway.ask(path, body, bearer("ann"))
        assert (reply.status, reply.error["code"], backend.orders) == (403, "admin_only", [])
        told = (await gateway.ask(path, body, bearer("root"))).json
        assert (told["done"], told["done_reason"]) == (True, "unload")
        await gateway.runtime.fleet.backends["b0"].look(20.0)
        assert backend.orders == ["unload gemma:latest"]


# --- pulling ----------------------------------------------------------------------------------------------------------

LAYER = {"status": "pulling 0123456789ab", "digest": "sha256:0123456789ab", "total": 1000}
SUCCESS = {"status": "success"}


@scenario
async def test_a_pull_tells_ollamas_progress_and_loads_nothing() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        half = asyncio.Event()
        backend.management["/api/pull"] = play({"status": "pulling manifest"}, LAYER, half, SUCCESS)
        call = await gateway.open("/api/pull", {"model": "phi"})
        assert await call.head() == 200
        assert [await call.event(), await call.event()] == [{"status": "pulling manifest"}, LAYER]
        half.set()
        backend.models.append(model("phi:latest"))
        assert await call.events() == [SUCCESS] and call.whole
        assert backend.orders == []
        backend.management["/api/pull"] = play(LAYER, SUCCESS)
        assert (await gateway.ask("/api/pull", {"name": "phi", "stream": False})).json == SUCCESS


@scenario
async def test_a_pull_that_fails_says_so_and_never_success() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        backend.management["/api/pull"] = play({"error": "pull model manifest: file does not exist"})
        for stream in (True, False):
            reply = await gateway.ask("/api/pull", {"model": "phi", "stream": stream})
            assert (reply.status, reply.error["code"]) == (502, "pull_failed")
        backend.management["/api/pull"] = play(LAYER, then=Then.CUT)
        call = await gateway.open("/api/pull", {"model": "phi"})
        assert await call.head() == 200
        *_, last = await call.events()
        assert last["error"]["message"] and not call.whole


@scenario
async def test_only_an_operator_pulls() -> None:
    async with ollama() as backend, hermes(backend, keys=[key("ann")]) as gateway:
        reply = await gateway.ask("/api/pull", {"model": "phi"}, bearer("ann"))
        assert (reply.status, reply.error["code"]) == (403, "admin_only")
        assert "/api/pull" not in [asked.path for asked in backend.managed]


# --- asking -----------------------------------------------------------------------------------------------------------


@scenario
async def test_a_chat_is_streamed_unless_it_says_otherwise() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        call = await gateway.open(OLLAMA, chat())
        head = await call.peer.until(b"\r\n\r\n")
        assert b"content-type: application/x-ndjson\r\n" in head and b"x-hermes-backend: b0" in head
        pieces = await call.events()
        assert [piece["message"]["content"] for piece in pieces] == ["Hel", "lo", ""]
        assert (pieces[-1]["done_reason"], pieces[-1]["prompt_eval_count"]) == ("stop", 7)
        assert pieces[-1]["total_duration"] >= pieces[-1]["load_duration"] + pieces[-1]["eval_duration"]
        whole = (await gateway.ask(OLLAMA, chat(stream=False))).json
        assert (whole["message"], whole["done"]) == ({"role": "assistant", "content": "Hello"}, True)


@scenario
async def test_a_prompt_is_answered_as_ollama_would() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        pieces = (await gateway.ask("/api/generate", {"model": "gemma", "prompt": "Hi", "raw": True})).events
        assert [piece["response"] for piece in pieces] == ["Hel", "lo", ""]
        (asked,) = backend.asked
        assert (asked.path, asked.body["raw"]) == ("/api/generate", True)


@scenario
async def test_a_call_that_no_client_could_make_is_an_error_whole_and_streamed() -> None:
    """I5: also where text has gone out before it."""
    made = {"function": {"name": "look", "arguments": "[1]"}}
    broken = {"message": {"role": "assistant", "content": "", "tool_calls": [made]}, **DONE.told()}
    async with ollama() as backend, hermes(backend, limits={"max_attempts": 1}) as gateway:
        backend.default = play(broken)
        for body in (chat(stream=False), chat()):
            reply = await gateway.ask(OLLAMA, body)
            assert (reply.status, reply.error["code"]) == (502, "backend_error")
            assert "arguments" in reply.error["message"]
        go = asyncio.Event()
        backend.default = play("Hel", go, broken)
        call = await gateway.open(OLLAMA, chat())
        assert await call.head() == 200
        assert (await call.event())["message"]["content"] == "Hel"
        go.set()
        (last,) = await call.events()
        assert last["error"]["code"] == "backend_error" and not call.whole
        assert {(await gateway.record(number)).outcome for number in range(3)} == {"upstream_error"}


# --- embeddings -------------------------------------------------------------------------------------------------------

V1 = "/v1/embeddings"
EMBEDDED = answer(200, b'{"embeddings":[[1,0],[0,1]],"prompt_eval_count":5,"total_duration":3000,"load_duration":1000}')
TEXTS = {"model": "gemma", "input": ["a", "b"]}


@pytest.mark.parametrize("path", ["/api/embed", V1])
@scenario
async def test_embeddings_wait_their_turn_and_are_counted_as_all_requests_are(path: str) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        backend.management["/api/embed"] = EMBEDDED
        free = asyncio.Event()
        first = await hold_slot(gateway, backend, free)
        call = await gateway.open(path, TEXTS)
        await gateway.until_waiting(1)
        assert "/api/embed" not in [asked.path for asked in backend.managed]
        free.set()
        reply = await call.reply()
        assert (reply.status, reply.headers["x-hermes-queue-position"]) == (200, "1")
        assert (await first.reply()).status == 200
        record = await gateway.record(1)
        assert (record.route, record.tokens_in, record.tokens_out, record.stream) == (path, 5, 0, False)


@scenario
async def test_a_model_is_asked_for_vectors_with_what_is_agreed_on_for_it() -> None:
    models = {"gemma": {"options": {"num_ctx": 512}}}
    async with ollama() as backend, hermes(backend, models=models) as gateway:
        backend.management["/api/embed"] = EMBEDDED
        reply = await gateway.ask("/api/embed", {**TEXTS, "options": {"num_ctx": 8192}})
        assert reply.json["embeddings"] == [[1.0, 0.0], [0.0, 1.0]]
        (asked,) = [asked for asked in backend.managed if asked.path == "/api/embed"]
        assert asked.body["options"] == {"num_ctx": 512}
        assert (asked.body["model"], asked.body["truncate"]) == ("gemma:latest", True)
        await gateway.ask(V1, TEXTS)
        assert backend.managed[-1].body["truncate"] is False


@pytest.mark.parametrize("path", ["/api/embed", V1])
@pytest.mark.parametrize(
    ("script", "status", "code", "attempts"),
    [
        (fail(500, "out of memory"), 502, "backend_error", 2),
        (answer(200, b'{"embeddings":[[1]]}'), 502, "backend_error", 2),
        (answer(200, b"<html>"), 502, "backend_error", 2),
        (play(b'{"embeddings":', then=Then.CUT), 502, "backend_error", 2),
        (fail(400, "the input length exceeds the context length"), 400, "context_length_exceeded", 1),
        (fail(501, "This server does not support embeddings."), 400, "unsupported_by_model", 1),
    ],
)
@scenario
async def test_vectors_that_cannot_be_had_are_an_error(
    path: str, script: Any, status: int, code: str, attempts: int
) -> None:
    async with ollama() as backend, hermes(backend, limits={"max_attempts": 2}) as gateway:
        backend.management["/api/embed"] = script
        reply = await gateway.ask(path, TEXTS)
        assert (reply.status, reply.error["code"]) == (status, code)
        assert (await gateway.record()).attempts == attempts


@scenario
async def test_who_leaves_while_vectors_are_made_frees_the_backend() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        backend.management["/api/embed"] = play(then=Then.STALL)
        call = await gateway.open("/api/embed", TEXTS)
        asked = await _embedding(gateway, backend)
        call.peer.close()
        async with asyncio.timeout(1.0):
            await asked.left.wait()
        assert (await gateway.record()).outcome == "client_gone"


async def _embedding(gateway: Hermes, backend: FakeOllama) -> Any:
    def asked() -> list[Asked]:
        return [each for each in backend.managed if each.path == "/api/embed"]  # there may have been a look since

    await until(asked, "it was not asked")
    return asked()[-1]


@pytest.mark.parametrize("count", [1, 10])
def test_many_texts_and_vectors_are_read_and_written_beside_the_event_loop(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I36."""
    beside: list[bool] = []

    def watched(work: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any) -> Any:
            beside.append(threading.current_thread() is not threading.main_thread())
            return work(*args)

        return wrapped

    monkeypatch.setattr(ollama_answer, "embeddings", watched(ollama_answer.embeddings))
    monkeypatch.setattr(ollama_request, "parse_embed", watched(ollama_request.parse_embed))
    vector = b"[" + b",".join([b"0.123456789"] * 4000) + b"]"

    @scenario
    async def ask() -> None:
        async with ollama() as backend, hermes(backend) as gateway:
            backend.management["/api/embed"] = answer(200, b'{"embeddings":[%b]}' % b",".join([vector] * count))
            reply = await gateway.ask("/api/embed", {"model": "gemma", "input": ["x" * 30_000] * count})
            assert [len(made) for made in reply.json["embeddings"]] == [4000] * count

    ask()
    assert beside == [count > 1] * 2
