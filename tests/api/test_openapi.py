"""docs/openapi.json against the code: every route and no other, and what a running Hermes answers, member by member."""

import json
from pathlib import Path
from typing import Any

import pytest

from docs.make import DOCS, openapi, pages
from hermes.composition import ADMIN_SOCKET
from tests.api.test_docs import rows
from tests.e2e.test_ollama_sdk import simulated
from tests.fakes.backend import ollama
from tests.fakes.gateway import PROMPT, Hermes, hermes, hold_slot, prompt, scenario
from tests.fakes.owner import ask, kept
from tests.json_schema import faults
from tests.support import until

TEXT = (DOCS / "openapi.json").read_text()
DOCUMENT: dict[str, Any] = json.loads(TEXT)
ERRORS = {"Error": "/v1/nothing", "OllamaError": "/api/nothing", "AnthropicError": "/v1/messages/nothing"}


def test_the_file_is_what_the_code_makes() -> None:
    """Made by `make reference`."""
    assert pages()[DOCS / "openapi.json"] == TEXT


def test_every_route_is_in_it_and_no_other() -> None:
    told = {(method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert told == {(route.method, route.path) for route, _ in openapi.routes()}
    assert told == {tuple(each.split(" ")) for each in openapi.TOLD["routes"]}


def test_every_status_of_an_error_is_in_it_with_its_codes() -> None:
    for statuses, codes, *_ in rows("Errors"):
        for status in statuses.split(", "):
            for form in ERRORS:
                described = DOCUMENT["components"]["responses"][f"{form}{status}"]["description"]
                assert set(codes.split(", ")) <= set(described.split(", "))


def test_every_reference_leads_somewhere() -> None:
    def follow(told: Any) -> None:
        if isinstance(told, dict):
            if isinstance(path := told.get("$ref"), str):
                found = DOCUMENT
                for step in path.removeprefix("#/").split("/"):
                    found = found[step]
            told = list(told.values())
        if isinstance(told, list):
            for each in told:
                follow(each)

    follow(DOCUMENT)


# --- what is answered -------------------------------------------------------------------------------------------------


def closed(told: Any) -> Any:
    """The schema of an answer, in which nothing may stand that is not told. (Clients should take what is new.)"""
    if isinstance(told, list):
        return [closed(each) for each in told]
    if not isinstance(told, dict):
        return told
    told = {name: closed(each) for name, each in told.items()}
    if told.get("type") == "object" and "properties" in told:
        told.setdefault("additionalProperties", False)
    return told


CLOSED = {"components": closed(DOCUMENT["components"])}


def wrong(method: str, path: str, status: int, told: Any) -> list[str]:
    """Where an answer is not what the document says of it."""
    response = DOCUMENT["paths"][path][method.lower()]["responses"][str(status)]
    return [*faults(closed(response["content"]["application/json"]["schema"]), told, CLOSED)]


def asked(told: Any) -> dict[str, Any] | None:
    """The example of a body, in the document."""
    example = told.get("requestBody", {}).get("content", {}).get("application/json", {}).get("example")
    return dict(example) if example else None


EXAMPLES = [
    (path, body)
    for path, methods in DOCUMENT["paths"].items()
    if not path.startswith("/admin")
    for method, told in methods.items()
    if method == "post" and (body := asked(told)) is not None
]


@pytest.mark.parametrize(("path", "body"), EXAMPLES, ids=[path for path, _ in EXAMPLES])
@scenario
async def test_an_example_is_answered_as_the_document_says(path: str, body: dict[str, Any]) -> None:
    async with simulated() as (_, gateway):
        reply = await gateway.ask(path.replace("{model}", "gemma"), body)
        assert reply.status == 200
        assert wrong("post", path, 200, reply.json) == []


RICH: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"logprobs": True, "top_logprobs": 2, "model": "qwen3", "reasoning_effort": "high"}),
    ("/v1/completions", {"logprobs": 2}),
    ("/v1/responses", {"reasoning": {"effort": "high"}, "model": "qwen3"}),
    ("/v1/embeddings", {"encoding_format": "base64"}),
    ("/v1/messages", {"thinking": {"type": "adaptive"}, "model": "qwen3", "max_tokens": 500}),
    ("/v1/llm", {"options": {"think": True}, "model": "qwen3"}),
    ("/api/chat", {"think": True, "model": "qwen3", "logprobs": True}),
    ("/api/generate", {"think": True, "model": "qwen3"}),
    ("/api/embed", {"input": []}),
]


@pytest.mark.parametrize(("path", "more"), RICH, ids=[path for path, _ in RICH])
@scenario
async def test_thoughts_and_probabilities_are_in_the_document_too(path: str, more: dict[str, Any]) -> None:
    async with simulated() as (_, gateway):
        reply = await gateway.ask(path, dict(EXAMPLES)[path] | more)
        assert (reply.status, wrong("post", path, 200, reply.json)) == (200, [])


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/chat"])
@scenario
async def test_calls_of_tools_are_in_the_document_too(path: str) -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
    body = dict(EXAMPLES)[path] | {"tools": [tool], "max_tokens": 500, "options": {}}
    async with simulated() as (_, gateway):
        said = [{"role": "user", "content": "Use the tool look now"}]
        reply = await gateway.ask(path, body | {"messages": said})
        assert reply.status == 200 and b"tool_calls" in reply.body
        assert wrong("post", path, 200, reply.json) == []


LISTS = [
    *("/v1/models", "/v1/models/{model}", "/api/tags", "/api/ps", "/api/version", "/v1/queue", "/v1/usage"),
    *("/v1/requests", "/v1/history"),
    *("/v1/status", "/v1/health", "/health", "/livez", "/readyz"),
]


@scenario
async def test_what_there_is_and_goes_on_is_told_as_the_document_says() -> None:
    async with simulated(models={"gemma": {"max_concurrency": 2}}) as (_, gateway):
        await gateway.ask("/v1/llm/gemma", {"prompt": "Hi"})
        for path in LISTS:
            for headers in ({}, {"anthropic-version": "2023-06-01"}):
                reply = await gateway.ask(path.replace("{model}", "gemma"), None, headers)
                assert (path, reply.status, wrong("get", path, 200, reply.json)) == (path, 200, [])
        for path in ("load", "unload"):
            reply = await gateway.ask(f"/v1/llm/gemma/{path}", {})
            assert wrong("post", f"/v1/llm/{{model}}/{path}", reply.status, reply.json) == []
        for path in ("drain", "resume"):
            reply = await gateway.ask(f"/v1/backends/b0/{path}", {})
            assert wrong("post", f"/v1/backends/{{backend}}/{path}", 200, reply.json) == []
        reply = await gateway.ask("/v1/reload", {})
        assert wrong("post", "/v1/reload", 200, reply.json) == []


@scenario
async def test_a_request_is_told_as_the_document_says_while_it_waits_while_it_runs_and_when_it_is_over() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        first = await hold_slot(gateway, backend, headers={"x-request-id": "r0"})
        second = await gateway.open(PROMPT, prompt(), {"x-request-id": "r1"})
        await until(lambda: gateway.waiting == 1)
        await _each_is_as_told(gateway, "/v1/queue/{request_id}")
        await _each_is_as_told(gateway, "/v1/requests/{request_id}")
        reply = await gateway.ask("/v1/queue")
        assert reply.json["running"] == 1 and wrong("get", "/v1/queue", 200, reply.json) == []
        for id in ("r1", "r0"):
            reply = await gateway.ask(f"/v1/queue/{id}", method="DELETE")
            assert wrong("delete", "/v1/queue/{request_id}", 200, reply.json) == []
        for call in (first, second):
            await call.reply()
        await until(lambda: {"r0", "r1"} <= {each.request_id for each in gateway.records if each.method == "POST"})
        await _each_is_as_told(gateway, "/v1/requests/{request_id}")


async def _each_is_as_told(gateway: Hermes, path: str) -> None:
    for id in ("r0", "r1"):
        reply = await gateway.ask(path.replace("{request_id}", id))
        assert (reply.status, wrong("get", path, 200, reply.json)) == (200, [])


@scenario
async def test_keys_are_told_as_the_document_says(tmp_path: Path) -> None:
    async with simulated(**kept(tmp_path)):
        socket = tmp_path / ADMIN_SOCKET
        named = "/admin/keys/{key}"
        for method, path, status, body in (
            ("POST", "/admin/keys", 201, {"name": "editor", "rpm": 60, "max_class": "normal"}),
            ("GET", "/admin/keys", 200, None),
            ("GET", named, 200, None),
            ("PATCH", named, 200, {"rpm": None, "expires_at": 4_000_000_000}),
            ("POST", f"{named}/rotate", 200, {"grace_s": 60}),
            ("DELETE", named, 200, None),
        ):
            reply = await ask(socket, path.replace("{key}", "editor"), body, method=method)
            assert (path, reply.status, wrong(method, path, status, reply.json)) == (path, status, [])


@pytest.mark.parametrize("form", ERRORS)
@scenario
async def test_an_error_has_the_form_that_the_document_says(form: str) -> None:
    async with simulated() as (_, gateway):
        reply = await gateway.ask(ERRORS[form])
        content = DOCUMENT["components"]["responses"][f"{form}404"]["content"]["application/json"]
        assert [*faults(closed(content["schema"]), reply.json, CLOSED)] == []


def test_what_the_document_does_not_say_is_found() -> None:
    told = {"status": "ok", "ready": True}
    assert wrong("get", "/livez", 200, told) == []
    assert wrong("get", "/livez", 200, told | {"mood": "good"}) == ["$: unknown mood"]
    assert wrong("get", "/livez", 200, {"status": "ok"}) == ["$: without ready"]
