"""What is wrong with a request is told in one shape, names the field, costs the backend nothing and breaks nothing."""

import json
import re
from typing import Any

import pytest

from tests.fakes.backend import ollama
from tests.fakes.gateway import CHAT, PROMPT, chat, hermes, prompt, scenario

USER = {"role": "user", "content": "Hi"}

# path, body, status, param, words in the message
WRONG: list[tuple[str, Any, int, str | None, str]] = [
    (PROMPT, b"", 400, None, "empty"),
    (PROMPT, b"{", 400, None, "JSON"),
    (PROMPT, b"[]", 400, None, "object"),
    (PROMPT, b'{"prompt": NaN}', 400, None, "JSON"),
    (PROMPT, b'{"prompt": "\xff"}', 400, None, "UTF-8"),
    (PROMPT, b'{"prompt": "a", "prompt": "b"}', 400, "prompt", "twice"),
    (PROMPT, b'{"Prompt": "a"}', 400, "Prompt", "prompt"),
    (PROMPT, b'{"prompt": ' + b"[" * 100 + b"]" * 100 + b"}", 400, None, "deeper"),
    (PROMPT, {}, 400, "prompt", "missing"),
    (PROMPT, {"prompt": " "}, 400, "prompt", "empty"),
    (PROMPT, {"prompt": 5}, 400, "prompt", "string"),
    (PROMPT, {"prompt": "Hi", "system": []}, 400, "system", "string"),
    (PROMPT, {"prompt": "Hi", "stream": "yes"}, 400, "stream", "boolean"),
    (PROMPT, {"prompt": "Hi", "temperature": 1}, 400, "temperature", "options.temperature"),
    (PROMPT, {"prompt": "Hi", "options": {"temperature": 9}}, 400, "options.temperature", "<= 2"),
    (PROMPT, {"prompt": "Hi", "options": {"num_ctx": 0}}, 400, "options.num_ctx", ">= 1"),
    (PROMPT, {"prompt": "Hi", "options": {"num_ctx": "9"}}, 400, "options.num_ctx", "integer"),
    (PROMPT, {"prompt": "Hi", "keep_alive": "5 minutes"}, 400, "keep_alive", "5m"),
    (CHAT, {"model": "gemma", "messages": [USER], "options": []}, 400, "options", "object"),
    (CHAT, {"model": "gemma", "messages": [USER], "options": {"num_gpu": -2}}, 400, "options.num_gpu", ">= -1"),
    (PROMPT, {"prompt": "Hi", "model": 5}, 400, "model", "string"),
    ("/v1/llm/nobody", {"prompt": "Hi"}, 404, "model", "nobody"),
    (CHAT, b"nonsense", 400, None, "JSON"),
    (CHAT, {"messages": [USER]}, 400, "model", "missing"),
    (CHAT, {"model": "", "messages": [USER]}, 400, "model", "missing"),
    (CHAT, {"model": None, "messages": [USER]}, 400, "model", "missing"),
    (CHAT, {"model": "../gemma", "messages": [USER]}, 400, "model", "model name"),
    (CHAT, {"model": ["gemma"], "messages": [USER]}, 400, "model", "string"),
    (CHAT, b'{"model":"gemma","Model":"phi","messages":[]}', 400, "Model", "model"),
    (CHAT, {"model": "gemma"}, 400, "messages", "missing"),
    (CHAT, {"model": "gemma", "messages": "Hi"}, 400, "messages", "array"),
    (CHAT, {"model": "gemma", "messages": []}, 400, "messages", "at least one"),
    (CHAT, {"model": "gemma", "messages": [{"content": "Hi"}]}, 400, "messages[0].role", "missing"),
    (CHAT, {"model": "gemma", "messages": [{"role": "user", "content": 1}]}, 400, "messages[0].content", ""),
    (CHAT, chat(temperature="hot"), 400, "temperature", "number"),
    (CHAT, chat(max_tokens=0), 400, "max_tokens", ">= 1"),
    (CHAT, chat(n=2), 400, "n", "1"),
    (CHAT, chat(stream_options=1, stream=True), 400, "stream_options", "object"),
    (CHAT, chat(model="nobody"), 404, "model", "nobody"),
]


@pytest.mark.parametrize(("path", "body", "status", "param", "words"), WRONG)
@scenario
async def test_a_wrong_request_is_told_what_is_wrong(
    path: str, body: Any, status: int, param: str | None, words: str
) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        peer = await gateway.connect()
        reply = await gateway.ask(path, body, on=peer)
        assert (reply.status, reply.error["param"], reply.error["type"]) == (status, param, "invalid_request_error")
        assert words in reply.error["message"]
        assert reply.headers["x-request-id"]
        assert not backend.asked
        assert (await gateway.ask(PROMPT, prompt(), on=peer)).status == 200
        assert (await gateway.record()).outcome == "bad_request"


@pytest.mark.parametrize(
    "path", ["//", "/v1", "/v1/llm/", "/v1/models/", "/V1/models", "/v1//models", "/metrics/", "*"]
)
@scenario
async def test_an_unknown_path_is_404(path: str) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        reply = await gateway.ask(path, method="OPTIONS" if path == "*" else "GET")
        assert (reply.status, reply.error["code"]) == (404, "not_found")
        assert reply.headers["x-request-id"]


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", CHAT, "POST"),
        ("GET", PROMPT, "POST"),
        ("DELETE", PROMPT + "/pull", "POST"),
        ("POST", "/v1/models", "GET, HEAD"),
        ("PUT", "/v1/models/gemma", "GET, HEAD"),
        ("POST", "/metrics", "GET, HEAD"),
        ("OPTIONS", "/v1/status", "GET, HEAD"),
    ],
)
@scenario
async def test_a_wrong_method_is_405_and_says_which_are_right(method: str, path: str, allow: str) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        reply = await gateway.ask(path, method=method)
        assert (reply.status, reply.headers["allow"], reply.error["code"]) == (405, allow, "method_not_allowed")
        assert reply.headers["x-request-id"]


@pytest.mark.parametrize("refused", ["no such path", "a wrong method", "a foreign host"])
@pytest.mark.parametrize("area", ["/api/", "/v1/messages/"])
@scenario
async def test_what_has_no_route_is_refused_in_the_form_of_who_would_ask_there(area: str, refused: str) -> None:
    known = {"/api/": "chat", "/v1/messages/": "count_tokens"}[area]
    path, host = area + ("nothing" if refused == "no such path" else known), "evil.example" if "host" in refused else ""
    async with ollama() as backend, hermes(backend) as gateway:
        reply = await gateway.ask(path, method="GET", headers={"host": host} if host else {})
        status = {"no such path": 404, "a wrong method": 405, "a foreign host": 403}[refused]
        assert reply.status == status
        if area == "/api/":
            assert isinstance(reply.json["error"], str)
        else:
            assert (reply.json["type"], reply.json["request_id"]) == ("error", reply.headers["x-request-id"])
            assert reply.json["error"]["type"].endswith("_error")


@scenario
async def test_head_is_get_without_the_body() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        peer = await gateway.connect()
        assert (await gateway.ask("/v1/models", method="HEAD", on=peer)).status == 200
        assert (await gateway.ask("/v1/models", on=peer)).json["object"] == "list"


@scenario
async def test_an_oversized_body_is_413_whether_its_length_is_told_or_not() -> None:
    async with ollama() as backend, hermes(backend, server={"max_body_bytes": 1000}) as gateway:
        told = await gateway.ask(PROMPT, prompt("x" * 2000))
        chunks = b"7d0\r\n" + b"x" * 2000 + b"\r\n0\r\n\r\n"
        call = await gateway.open(PROMPT, None, {"transfer-encoding": "chunked"}, "POST")
        await call.peer.send(chunks)
        for reply in (told, await call.reply()):
            assert (reply.status, reply.error["code"]) == (413, "request_too_large")
            assert "1000 bytes" in reply.error["message"]
            assert reply.headers["x-request-id"]
        assert not backend.asked


@scenario
async def test_what_is_no_http_is_told_so_with_an_id_of_its_own() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        ids = set()
        for _ in range(2):
            peer = await gateway.connect()
            await peer.send(b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n")
            answer = await peer.answer()
            assert (answer.status, json.loads(answer.body)["error"]["code"]) == (400, "duplicate_header")
            ids.add(answer.headers["x-request-id"])
        assert len(ids) == 2


# --- the request's id ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [PROMPT, "/v1/models", "/metrics", "/nowhere", "/readyz"])
@scenario
async def test_a_clean_id_of_the_clients_comes_back(path: str) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        body = prompt() if path == PROMPT else None
        reply = await gateway.ask(path, body, {"x-request-id": "job-7/step:3"})
        assert reply.headers["x-request-id"] == "job-7/step:3"


@pytest.mark.parametrize("dirty", ["a b", "x" * 129, "", 'a"b', "<script>", "\xe9", ".", ".."])
@scenario
async def test_a_dirty_id_is_replaced(dirty: str) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        reply = await gateway.ask(PROMPT, prompt(), {"x-request-id": dirty})
        assert re.fullmatch("[0-9a-f]{28}", reply.headers["x-request-id"])
        assert (await gateway.record()).request_id == reply.headers["x-request-id"]


@scenario
async def test_ids_are_told_in_streams_and_differ() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        replies = [await gateway.ask(CHAT, chat(stream=True)) for _ in range(3)]
        assert len({reply.headers["x-request-id"] for reply in replies}) == 3
