"""A key that is for some models only: it learns of no other, by whatever way it asks (issue 5, model access)."""

import asyncio
from typing import Any

import pytest

from tests.fakes.backend import DONE, fail, loaded, ollama, play
from tests.fakes.gateway import CHAT, PROMPT, WHOLE, bearer, chat, hermes, hold_slot, key, prompt, scenario

SOME, ALL, OPERATOR = key("ann", models=["gemma*"]), key("bob"), key("ops", admin=True, models=["gemma*"])
KEYS = [SOME, ALL, OPERATOR]

# Every way to name a model, with one that the key may not use and nobody has; NAME stands for the model.
NAME = "%"
ASKING: list[tuple[str, str, Any]] = [
    *(("POST", path.replace("gemma", NAME), {**body, "model": NAME}) for path, body in WHOLE),
    ("POST", "/v1/llm", prompt(model=NAME)),
    ("POST", "/v1/embeddings", {"model": NAME, "input": "Hi"}),
    ("POST", "/v1/messages/count_tokens", chat(model=NAME)),
    ("POST", "/api/generate", {"model": NAME, "prompt": "Hi"}),
    ("POST", "/api/generate", {"model": NAME}),
    ("POST", "/api/chat", {"model": NAME, "messages": []}),
    ("POST", "/api/embed", {"model": NAME, "input": "Hi"}),
    ("POST", "/api/embeddings", {"model": NAME, "prompt": "Hi"}),
    ("POST", "/api/show", {"model": NAME}),
    ("GET", f"/v1/models/{NAME}", None),
]
MANAGING: list[tuple[str, str, Any]] = [
    *(("POST", f"/v1/llm/{NAME}/{what}", {}) for what in ("pull", "load", "unload")),
    ("POST", "/api/pull", {"model": NAME}),
    ("POST", "/api/generate", {"model": NAME, "keep_alive": 0}),
]


def named(text: Any, name: str) -> Any:
    if isinstance(text, dict):
        return {key: named(value, name) for key, value in text.items()}
    return text.replace(NAME, name) if isinstance(text, str) else text


@scenario
async def test_a_model_that_a_key_may_not_use_is_403_whether_there_is_one_or_not() -> None:
    async with ollama("gemma:latest", "phi:latest") as backend, hermes(backend, keys=KEYS) as gateway:
        for user, ways in (("ann", ASKING), ("ops", ASKING + MANAGING)):
            for method, path, body in ways:
                told = set()
                for name in ("phi", "phi:latest", "claude-local-phi", "nobody"):
                    reply = await gateway.ask(named(path, name), named(body, name), bearer(user), method)
                    error = reply.error
                    assert (reply.status, error["code"]) == (403, "model_not_allowed"), (path, body, reply.body)
                    told.add(error["message"].replace(name, NAME))
                assert told == {f"this key may not use the model '{NAME}'"}
        assert (backend.asked, backend.orders) == ([], [])
        assert "/api/pull" not in [asked.path for asked in backend.managed]


@scenario
async def test_every_route_that_takes_a_model_is_among_these_ways() -> None:
    """So that no route is added and forgotten here."""
    async with ollama() as backend, hermes(backend) as gateway:
        table = gateway.runtime.api.table
        takes = {table.match(method, named(path, "gemma").encode()).route for method, path, _ in ASKING + MANAGING}
        assert not [
            route.path for route in table.routes if route.queues or "{model}" in route.path if route not in takes
        ]


@pytest.mark.parametrize("name", ["gemma", "gemma:latest", "claude-local-gemma"])
@scenario
async def test_a_model_that_it_may_use_is_answered_by_whatever_name(name: str) -> None:
    async with ollama("gemma:latest", "phi:latest") as backend, hermes(backend, keys=KEYS) as gateway:
        for method, path, body in ASKING:
            reply = await gateway.ask(named(path, name), named(body, name), bearer("ann"), method)
            assert reply.status != 403, (path, reply.body)
        assert (await gateway.ask(CHAT, chat(model="phi"), bearer("bob"))).status == 200


@scenario
async def test_lists_show_what_may_be_used_and_no_more() -> None:
    async with ollama("gemma:latest", "phi:latest") as backend:
        backend.loaded += [loaded("gemma:latest"), loaded("phi:latest")]
        models = {"gemma": {}, "phi": {}, "gemma-too": {"backend_model": "phi"}}
        async with hermes(backend, keys=KEYS, models=models) as gateway:
            await gateway.ask(CHAT, chat(model="phi"), bearer("bob"))  # known to the scheduler from now on
            for path in ("/v1/models", "/api/tags", "/api/ps", "/v1/status", "/v1/queue"):
                shown = (await gateway.ask(path, None, bearer("ann"))).body
                everything = (await gateway.ask(path, None, bearer("bob"))).body
                assert b'"phi"' not in shown and (b'"phi"' in everything or path == "/v1/queue"), path
                assert b'"gemma"' in shown or path == "/v1/queue", path
            anthropics = await gateway.ask("/v1/models", None, {**bearer("ann"), "anthropic-version": "2023-06-01"})
            assert {item["id"].removeprefix("claude-local-") for item in anthropics.json["data"]} == {
                "gemma",
                "gemma-too",
                "gemma:latest",
            }
            (told,) = (await gateway.ask("/v1/status", None, bearer("ann"))).json["backends"]
            # What is behind `gemma-too` may be told of: it is what that is.
            assert {model["name"] for model in told["loaded"]} == {"gemma:latest", "phi:latest"}


@scenario
async def test_status_tells_of_no_backends_model_that_may_not_be_used() -> None:
    async with ollama("gemma:latest", "phi:latest") as backend, hermes(backend, keys=KEYS) as gateway:
        backend.loaded += [loaded("gemma:latest"), loaded("phi:latest")]
        backend.default = fail(500, "CUDA error")
        for name in ("phi", "gemma"):
            for _ in range(3):
                await gateway.ask(CHAT, chat(model=name), bearer("bob"))
        for user, names in (("ann", {"gemma:latest"}), ("bob", {"gemma:latest", "phi:latest"})):
            (told,) = (await gateway.ask("/v1/status", None, bearer(user))).json["backends"]
            assert {model["name"] for model in told["loaded"]} == names
            assert {each["model"] for each in told["health"]} == names
            assert told["models"] == len(names)


@scenario
async def test_who_is_no_operator_is_told_neither_of_all_that_runs_nor_of_the_machine_nor_where_backends_are() -> None:
    """I21: what others run counts where it is in his way."""
    async with ollama("gemma:latest", "phi:latest") as backend, hermes(backend, keys=KEYS) as gateway:
        calls = [await hold_slot(gateway, backend, headers=bearer("bob"))]
        backend.scripts.append(play(asyncio.Event(), DONE))
        for _ in range(2):
            calls.append(await gateway.open(PROMPT.replace("gemma", "phi"), prompt(), bearer("bob")))
        await gateway.until_waiting(1)
        status: dict[str, Any] = {
            user: (await gateway.ask("/v1/status", None, bearer(user))).json for user in ("ann", "bob", "ops")
        }
        counts = {user: (told["requests"]["active"], told["requests"]["queued"]) for user, told in status.items()}
        assert counts == {"ann": (1, 0), "bob": (2, 1), "ops": (2, 1)}
        for user in ("ann", "bob"):
            mine, every = status[user], status["ops"]
            assert every.keys() - mine.keys() == {"process", "machine", "cgroup"}
            assert every["requests"].keys() - mine["requests"].keys() == {"connections", "queued_bytes"}
            assert every["backends"][0].keys() - mine["backends"][0].keys() == {"url"}
        for call in calls:
            call.leave()


@scenario
async def test_what_a_backend_said_to_somebodys_request_is_told_to_operators_alone() -> None:
    """I21: his prompt may be in it."""
    async with ollama("gemma:latest") as backend, hermes(backend, keys=KEYS) as gateway:
        backend.default = fail(500, "cannot make tokens of: my diary")
        for _ in range(6):
            await gateway.ask(CHAT, chat("my diary"), {**bearer("bob"), "x-hermes-deadline-ms": "50"})
        told = {user: await gateway.ask("/v1/status", None, bearer(user)) for user in ("ann", "ops")}
        assert {user: b"diary" in reply.body for user, reply in told.items()} == {"ann": False, "ops": True}
        assert told["ann"].json["backends"][0]["health"][0]["state"] == "open"


@scenario
async def test_a_request_of_ones_own_tenant_for_another_model_is_as_if_there_were_none() -> None:
    """I21: two keys of one tenant are two."""
    other = key("bob") | {"user": "ann"}
    async with ollama("gemma:latest", "phi:latest") as backend, hermes(backend, keys=[SOME, other]) as gateway:
        held = await hold_slot(gateway, backend, headers=bearer("bob"))
        backend.scripts.append(play(asyncio.Event(), DONE))
        waits = await gateway.open(PROMPT.replace("gemma", "phi"), prompt(), {**bearer("bob"), "x-request-id": "r1"})
        await backend.request(1)
        assert [item["model"] for item in (await gateway.ask("/v1/queue", None, bearer("ann"))).json["data"]] == [
            "gemma:latest"
        ]
        for path in ("/v1/queue/r1", "/v1/requests/r1"):
            assert (await gateway.ask(path, None, bearer("ann"))).status == 404
            assert (await gateway.ask(path, None, bearer("bob"))).status == 200
        assert (await gateway.ask("/v1/queue/r1", None, bearer("ann"), "DELETE")).status == 404
        for call in (held, waits):
            call.leave()


@scenario
async def test_another_model_answers_only_if_it_is_allowed_too() -> None:
    models = {"gemma": {"backends": ["b0"], "fallback": ["phi", "gemma2"]}, "phi": {}, "gemma2": {}}
    async with (
        ollama("gemma:latest") as bad,
        ollama("phi:latest", "gemma2:latest") as good,
        hermes(bad, good, models=models, keys=KEYS) as gateway,
    ):
        bad.default = fail(500, "CUDA error")
        served = {user: await gateway.ask(CHAT, chat(), bearer(user)) for user in ("ann", "bob")}
        assert {user: reply.headers["x-hermes-model-served"] for user, reply in served.items()} == {
            "ann": "gemma2",
            "bob": "phi",
        }


@scenario
async def test_a_key_for_metrics_may_read_them_and_is_no_operators() -> None:
    """I24."""
    async with ollama() as backend, hermes(backend, keys=[key("prom", metrics=True), key("ann")]) as gateway:
        assert (await gateway.ask("/metrics", None, bearer("prom"))).status == 200
        for user, path in (("ann", "/metrics"), ("prom", PROMPT + "/load")):
            reply = await gateway.ask(path, None, bearer(user), "GET" if path == "/metrics" else "POST")
            assert (reply.status, reply.error["code"]) == (403, "admin_only")


@scenario
async def test_an_expired_key_is_told_so_on_every_path() -> None:
    keys = [key("ann", expires="2026-01-31"), key("bob", expires="9999-12-31T23:59:59Z")]
    async with ollama() as backend, hermes(backend, keys=keys) as gateway:
        for path, body in WHOLE:
            reply = await gateway.ask(path, body, bearer("ann"))
            assert (reply.status, reply.error["code"]) == (401, "key_expired")
            assert (await gateway.ask(path, body, bearer("bob"))).status == 200


@scenario
async def test_a_wrong_name_is_told_with_the_nearest_that_who_asks_may_see() -> None:
    """I21"""
    keys = [key("ops", admin=True), key("ann", models=["pho", "gemma"])]
    async with ollama("gemma:latest", "phi:latest") as backend, hermes(backend, keys=keys) as gateway:
        for user, hint in (("ops", "; did you mean 'phi'?"), ("ann", "; there are: gemma")):
            reply = await gateway.ask(CHAT, chat(model="pho"), bearer(user))
            assert (reply.status, reply.error["code"]) == (404, "model_not_found")
            assert reply.error["message"] == "no backend has the model 'pho'" + hint
        reply = await gateway.ask(CHAT, chat(model="nothing-like-it"), bearer("ops"))
        assert reply.error["message"].endswith("; there are: gemma, phi")
