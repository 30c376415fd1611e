"""Requests that come again byte for byte: given unread what is on the shelf, where reading them would give that."""

import sys
from typing import Any

import pytest
from msgspec import Struct, structs

from hermes.flights import flights, repeats
from tests.fakes.backend import DONE, ollama, play
from tests.fakes.gateway import (
    CHAT,
    OLLAMA,
    PROMPT,
    STREAMS,
    WHOLE,
    Hermes,
    bearer,
    chat,
    greedy,
    hermes,
    key,
    prompt,
    scenario,
)

ON = {"defaults": {"cache": True}}


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models of those that were given their answers so."""
    found, give_unread = [], flights.give_unread

    def told(asked: Any, *rest: Any) -> None:
        found.append(asked.request.model)
        give_unread(asked, *rest)

    monkeypatch.setattr(flights, "give_unread", told)
    return found


async def told(gateway: Hermes, times: int, path: str, body: Any, headers: dict[str, str] | None = None) -> list[str]:
    """What the cache had for each of some that are the same."""
    return [(await gateway.ask(path, body, headers or {})).headers.get("x-hermes-cache", "") for _ in range(times)]


@pytest.mark.parametrize(("path", "body"), [*WHOLE, *STREAMS])
@scenario
async def test_every_dialect_gives_unread_what_it_gave_to_what_it_had_read(
    path: str, body: dict[str, Any], unread: list[str]
) -> None:
    body = {**body, "options": {"temperature": 0}} if path in (OLLAMA, PROMPT) else {**body, "temperature": 0}
    async with ollama() as backend, hermes(backend, **ON, keys=[key("ann", rpm=9, tpm=1000)]) as gateway:
        _, read, given = [await gateway.ask(path, body, bearer("ann")) for _ in range(3)]
        assert unread == ["gemma"] and len(backend.asked) == 1
        assert (read.status, read.whole) == (given.status, given.whole) == (200, True)
        assert read.headers.keys() == given.headers.keys()
        assert read.headers["x-request-id"] != given.headers["x-request-id"]
        assert [_lasting(event) for event in read.events] == [_lasting(event) for event in given.events]
        one, other = await gateway.record(1), await gateway.record(2)
        for name in one.__struct_fields__:
            if name not in ("created_at", "request_id", "duration_ms", "ttft_ms"):
                assert getattr(one, name) == getattr(other, name), name
        assert gateway.counted("hermes_cache_requests_total") == {
            ("gemma:latest", "miss"): 1,
            ("gemma:latest", "hit"): 2,
        }


def _lasting(event: Any) -> Any:
    """Without ids and times."""
    if isinstance(event, dict):
        passing = ("id", "item_id", "created", "created_at", "completed_at", "timings", "request_id")
        own = {name: _lasting(part) for name, part in event.items() if name not in passing}
        return {name: part for name, part in own.items() if not name.endswith("_duration")}
    return [_lasting(part) for part in event] if isinstance(event, list) else event


@scenario
async def test_another_key_is_given_nothing_of_it(unread: list[str]) -> None:
    """I21"""
    async with ollama() as backend, hermes(backend, **ON, keys=[key("ann"), key("bob")]) as gateway:
        assert await told(gateway, 3, CHAT, greedy(), bearer("ann")) == ["miss", "hit", "hit"]
        assert await told(gateway, 3, CHAT, greedy(), bearer("bob")) == ["miss", "hit", "hit"]
        assert len(unread) == 2 and len(backend.asked) == 2


@scenario
async def test_one_body_in_two_apis_or_for_two_models_of_a_path_are_two(unread: list[str]) -> None:
    async with ollama("gemma", "phi") as backend, hermes(backend, **ON) as gateway:
        body = prompt(options={"temperature": 0})
        for model in ("gemma", "phi"):
            assert await told(gateway, 3, f"/v1/llm/{model}", body) == ["miss", "hit", "hit"]
        for path in (CHAT, "/v1/messages"):
            reply = [await gateway.ask(path, greedy(max_tokens=9)) for _ in range(3)][-1]
            assert ("choices" in reply.json) == (path == CHAT)
        assert unread == ["gemma", "phi", "gemma", "gemma"]


@pytest.mark.parametrize("control", ["no-store", "no-cache", "max-age=0"])
@scenario
async def test_what_a_request_says_of_the_cache_holds(control: str, unread: list[str]) -> None:
    async with ollama() as backend, hermes(backend, **ON) as gateway:
        await told(gateway, 3, CHAT, greedy())
        assert "hit" not in await told(gateway, 1, CHAT, greedy(), {"cache-control": control})
        assert len(backend.asked) == 2 and len(unread) == 1


@scenario
async def test_a_new_answer_is_given_from_then_on(unread: list[str]) -> None:
    async with ollama() as backend, hermes(backend, **ON) as gateway:
        await told(gateway, 3, CHAT, greedy())
        backend.scripts.append(play("new", DONE))
        await told(gateway, 1, CHAT, greedy(), {"cache-control": "no-cache"})
        replies = [await gateway.ask(CHAT, greedy()) for _ in range(2)]
        assert all(b"new" in reply.body for reply in replies)
        assert len(unread) == 2


@scenario
async def test_after_a_change_of_the_configuration_it_is_read_again(unread: list[str]) -> None:
    hot = {"gemma": {"params": {"temperature": 0}}}
    async with ollama() as backend, hermes(backend, **ON, models=hot) as gateway:
        assert await told(gateway, 3, CHAT, chat()) == ["miss", "hit", "hit"]
        assert not (await gateway.reload(backend, **ON, models=hot, volatile_lines=["Now: "])).error
        assert await told(gateway, 1, CHAT, chat()) == ["hit"] and len(unread) == 1
        assert await told(gateway, 1, CHAT, chat()) == ["hit"] and len(unread) == 2
        await gateway.reload(backend, **ON)
        assert not gateway.runtime.serving.flights.repeats.size_bytes, "nothing is held for who would be read anyway"
        assert await told(gateway, 2, CHAT, chat()) == ["bypass", "bypass"]
        assert len(unread) == 2 and len(backend.asked) == 3


@scenario
async def test_it_counts_as_a_request_and_may_be_refused_as_one(unread: list[str]) -> None:
    async with ollama() as backend, hermes(backend, **ON, keys=[key("ann", rpm=3)]) as gateway:
        assert await told(gateway, 4, CHAT, greedy(), bearer("ann")) == ["miss", "hit", "hit", ""]
        assert [record.status for record in gateway.records] == [200, 200, 200, 429]
        assert gateway.records[3].cache == "" and len(unread) == 1


@scenario
async def test_what_is_gone_from_the_shelf_runs_anew(unread: list[str]) -> None:
    async with ollama() as backend, hermes(backend, **ON, cache={"max_bytes": 500}) as gateway:
        await told(gateway, 3, CHAT, greedy())
        await told(gateway, 1, CHAT, greedy("something else"))
        assert await told(gateway, 1, CHAT, greedy()) == ["miss"]
        assert len(unread) == 1
        assert not gateway.runtime.serving.flights.repeats.size_bytes, "what cannot be given is not held"


@scenario
async def test_they_take_no_more_memory_than_they_may(monkeypatch: pytest.MonkeyPatch, unread: list[str]) -> None:
    """I4"""
    monkeypatch.setattr(repeats, "MOST_BYTES", 5 * 2600)
    async with ollama() as backend, hermes(backend, **ON) as gateway:
        known = gateway.runtime.serving.flights.repeats
        for number in range(20):
            await told(gateway, 2, CHAT, greedy("x" * number))
            assert known.size_bytes <= 5 * 2600
            assert sum(known.lengths.values()) == len(known._known)
        assert 4 <= len(known._known) <= 6
        await told(gateway, 1, CHAT, greedy(""))
        await told(gateway, 1, CHAT, greedy("x" * 19))
        assert len(unread) == 1
        await told(gateway, 3, CHAT, greedy("x" * repeats.SHORT_BYTES))
        assert len(unread) == 1, "too long"


@pytest.mark.parametrize(
    ("more", "text"),
    [({}, "x" * 15_000), ({}, "\N{PILE OF POO}" + "x" * 15_000), ({"vllm_xargs": {"a": [[]] * 4000}}, "x")],
)
@scenario
async def test_none_takes_more_memory_than_is_counted(more: dict[str, Any], text: str) -> None:
    """I4"""
    async with ollama() as backend, hermes(backend, **ON) as gateway:
        backend.scripts.append(play(text, DONE))
        assert await told(gateway, 2, CHAT, greedy(text, **more)) == ["miss", "hit"]
        known = gateway.runtime.serving.flights.repeats
        [repeat] = known._known.values()
        taken = _memory(repeat.request) + _memory(repeat.answer) + len(repeat.packed)
        assert taken <= known.size_bytes == repeat.takes_bytes


def _memory(value: Any) -> int:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    if isinstance(value, Struct):
        parts = structs.astuple(value)
    return sys.getsizeof(value) + sum(map(_memory, parts))


@scenario
async def test_what_is_told_token_by_token_is_read_each_time(unread: list[str]) -> None:
    """I4"""
    told_so = {"response": "Hi", "logprobs": [{"token": "Hi", "logprob": -0.5, "bytes": [72, 105]}], **DONE.told()}
    async with ollama() as backend, hermes(backend, **ON) as gateway:
        backend.scripts.append(play(told_so))
        assert await told(gateway, 3, CHAT, greedy(logprobs=True)) == ["miss", "hit", "hit"]
        assert not unread
