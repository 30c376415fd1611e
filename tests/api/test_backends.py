"""Several backends: conversations stay where they are, and an operator has one of them drained."""

import asyncio
from typing import Any

import pytest

from tests.fakes.backend import DONE, ollama, play
from tests.fakes.gateway import (
    CHAT,
    MESSAGES,
    OLLAMA,
    PROMPT,
    bearer,
    chat,
    hermes,
    hold_slot,
    key,
    prompt,
    scenario,
    session,
)

DRAIN, RESUME = "/v1/backends/b0/drain", "/v1/backends/b0/resume"


def turns(*said: str) -> list[dict[str, str]]:
    """What is asked, turn by turn: all that was said so far."""
    return [{"role": "user" if place % 2 == 0 else "assistant", "content": text} for place, text in enumerate(said)]


@pytest.mark.parametrize("path", [CHAT, MESSAGES, OLLAMA])
@scenario
async def test_a_conversation_stays_on_one_backend(path: str) -> None:
    async with ollama() as one, ollama() as two, hermes(one, two) as gateway:
        for number in range(8):
            said = [f"Tell me about {number}."]
            for _ in range(3):
                body = {"model": "gemma", "messages": turns(*said), "stream": False, "max_tokens": 9}
                assert (await gateway.ask(path, body)).status == 200
                said += ["Hello", "And then?"]
        asked = [[turn.body["messages"][0]["content"] for turn in backend.asked] for backend in (one, two)]
        assert not set(asked[0]) & set(asked[1]) and len(asked[0]) + len(asked[1]) == 24
        assert min(len(set(each)) for each in asked) >= 3


NAMES = [
    "x-hermes-session",
    "x-claude-code-session-id",
    "x-session-affinity",
    "x-session-id",
    "x-litellm-session-id",
    "x-conversation-id",
]


@pytest.mark.parametrize("name", [*NAMES, "prompt_cache_key"])
@scenario
async def test_what_a_client_says_belongs_together_stays_together(name: str) -> None:
    async with ollama() as one, ollama() as two, hermes(one, two) as gateway:
        for number in range(10):
            where = {name: "the same"}
            body, head = (where, {}) if name == "prompt_cache_key" else ({}, where)
            assert (await gateway.ask(CHAT, chat(f"Something else: {number}", **body), head)).status == 200
        assert sorted((len(one.asked), len(two.asked))) == [0, 10]


@scenario
async def test_codex_says_so_in_the_body_of_its_responses() -> None:
    async with ollama() as one, ollama() as two, hermes(one, two) as gateway:
        for number in range(10):
            body = {"model": "gemma", "input": f"Something else: {number}", "prompt_cache_key": "the same"}
            assert (await gateway.ask("/v1/responses", body)).status == 200
        assert sorted((len(one.asked), len(two.asked))) == [0, 10]


@scenario
async def test_the_users_own_word_for_a_session_is_no_other_users() -> None:
    people = [f"u{number}" for number in range(8)]
    async with ollama() as one, ollama() as two, hermes(one, two, keys=[key(name) for name in people]) as gateway:
        for name in people:
            assert (await gateway.ask(PROMPT, prompt(), {**bearer(name), "x-session-id": "default"})).status == 200
        assert min(len(one.asked), len(two.asked)) >= 3


@scenario
async def test_a_busy_home_holds_nobody_up() -> None:
    async with ollama() as one, ollama() as two, hermes(one, two) as gateway:
        home = session("b0")
        holding = await gateway.open(PROMPT, prompt(), home)
        one.scripts.append(play(gate := asyncio.Event(), "Hel", DONE))
        await one.request(0)
        reply = await gateway.ask(PROMPT, prompt(), home)
        assert reply.headers["x-hermes-backend"] == "b1"
        gate.set()
        assert (await holding.reply()).status == 200


# --- weights ----------------------------------------------------------------------------------------------------------


@scenario
async def test_a_backend_of_more_weight_gets_more_conversations() -> None:
    async with ollama() as one, ollama() as two:
        backends: list[dict[str, Any]] = [
            {"name": "b0", "url": one.url},
            {"name": "b1", "url": two.url, "weight": 3},
        ]
        async with hermes(backends=backends) as gateway:
            for number in range(40):
                await gateway.ask(PROMPT, prompt(f"Number {number}"))
            assert len(one.asked) <= 12 and len(two.asked) >= 28


# --- draining ---------------------------------------------------------------------------------------------------------


@scenario
async def test_on_a_drained_backend_nothing_starts_and_what_runs_ends() -> None:
    async with ollama() as one, ollama() as two, hermes(one, two) as gateway:
        one.scripts.append(play(gate := asyncio.Event(), "Hel", DONE))
        call = await gateway.open(PROMPT, prompt(), session("b0"))
        await one.request(0)
        reply = await gateway.ask(DRAIN, method="POST")
        assert (reply.status, reply.json) == (200, {"backend": "b0", "draining": True, "active": 1})
        for number in range(4):
            reply = await gateway.ask(PROMPT, prompt(), session("b0", number=number))
            assert reply.headers["x-hermes-backend"] == "b1"
        gate.set()
        assert (await call.reply()).json["result"] == "Hel"
        told = {each["name"]: each.get("draining") for each in (await gateway.ask("/v1/status")).json["backends"]}
        assert told == {"b0": True, "b1": None}
        assert (await gateway.ask(RESUME, method="POST")).json == {"backend": "b0", "draining": False, "active": 0}
        reply = await gateway.ask(PROMPT, prompt(), session("b0", number=9))
        assert reply.headers["x-hermes-backend"] == "b0"


@scenario
async def test_what_only_a_drained_backend_could_serve_hears_so_at_once_also_if_it_waits() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        holding = await hold_slot(gateway, backend)
        waiting = await gateway.open(PROMPT, prompt())
        await gateway.until_waiting(1)
        await gateway.ask(DRAIN, method="POST")
        async with asyncio.timeout(2.0):
            for reply in (await waiting.reply(), await gateway.ask(PROMPT, prompt())):
                assert (reply.status, reply.error["code"]) == (503, "no_backend")
        assert (await gateway.ask("/readyz")).status == 503
        holding.leave()


@scenario
async def test_draining_is_for_operators_and_of_backends_there_are() -> None:
    keys = [key("boss", admin=True), key("ann")]
    async with ollama() as backend, hermes(backend, keys=keys) as gateway:
        assert (await gateway.ask(DRAIN, None, bearer("ann"), "POST")).status == 403
        reply = await gateway.ask("/v1/backends/b7/drain", None, bearer("boss"), "POST")
        assert (reply.status, reply.error["code"]) == (404, "backend_not_found")
        assert "b0" in reply.error["message"]
        assert (await gateway.ask(PROMPT, prompt(), bearer("ann"))).status == 200
