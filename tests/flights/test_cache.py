"""Answers that are given again: to whom, in which form, and which never are."""

import asyncio
from typing import Any

import pytest

from tests.fakes.backend import DONE, Then, answer, fail, ollama, play
from tests.fakes.gateway import (
    CHAT,
    OLLAMA,
    RESPONSES,
    STREAMS,
    WHOLE,
    Hermes,
    bearer,
    chat,
    greedy,
    hermes,
    key,
    scenario,
)

ON = {"defaults": {"cache": True}}
EMBED = "/v1/embeddings"


def said(gateway: Hermes) -> dict[str, float]:
    return {result: count for (_, result), count in gateway.counted("hermes_cache_requests_total").items()}


@scenario
async def test_the_second_answer_is_the_first_and_costs_no_run() -> None:
    async with ollama() as backend, hermes(backend, **ON) as gateway:
        first, second = [await gateway.ask(CHAT, greedy()) for _ in range(2)]
        assert [first.headers["x-hermes-cache"], second.headers["x-hermes-cache"]] == ["miss", "hit"]
        assert first.headers["x-hermes-backend"] == "b0"
        assert first.json["choices"] == second.json["choices"] and first.json["usage"] == second.json["usage"]
        assert first.json["id"] != second.json["id"] and second.json["id"].endswith(second.headers["x-request-id"])
        assert len(backend.asked) == 1
        missed, hit = await gateway.record(0), await gateway.record(1)
        assert (missed.cache, missed.attempts, missed.backend, missed.tokens_in) == ("miss", 1, "b0", 7)
        assert (hit.cache, hit.attempts, hit.backend, hit.tokens_in, hit.tokens_out) == ("hit", 0, "", 7, 3)
        assert (hit.model, hit.user, hit.urgency) == ("gemma:latest", "anonymous", "normal")
        assert said(gateway) == {"miss": 1.0, "hit": 1.0}
        assert gateway.counted("hermes_tokens_total")["gemma:latest", "prompt"] == 7.0  # spent once
        assert gateway.counted("hermes_cache_answers") == {(): 1.0}
        assert gateway.counted("hermes_cache_bytes")[()] > 300


@scenario
async def test_an_error_says_nothing_of_the_cache() -> None:
    sections = {"keys": [key("ann", rpm=2)], "limits": {"max_attempts": 1}}
    async with ollama() as backend, hermes(backend, **ON, **sections) as gateway:
        backend.scripts.append(fail(500, "CUDA error"))
        replies = [await gateway.ask(CHAT, greedy(), bearer("ann")) for _ in range(3)]
        replies += [await gateway.ask(CHAT, chat(text), bearer("ann")) for text in ("Ho", "He")]
        assert [reply.status for reply in replies] == [502, 200, 200, 429, 429]
        told = [reply.headers.get("x-hermes-cache", "") for reply in replies]
        assert told == [record.cache for record in gateway.records] == ["", "miss", "hit", "", ""]
        assert said(gateway) == {"miss": 1.0, "hit": 1.0}


@pytest.mark.parametrize(("path", "body"), [*WHOLE, *STREAMS])
@scenario
async def test_every_dialect_gives_an_answer_again_as_it_gave_it(path: str, body: dict[str, Any]) -> None:
    body = {**body, "options": {"temperature": 0}} if path in (OLLAMA, "/v1/llm/gemma") else {**body, "temperature": 0}
    async with ollama() as backend, hermes(backend, **ON) as gateway:
        plain = await gateway.ask(path, body, {"cache-control": "no-store"})
        missed, hit = await gateway.ask(path, body), await gateway.ask(path, body)
        assert [each.headers["x-hermes-cache"] for each in (plain, missed, hit)] == ["bypass", "miss", "hit"]
        assert plain.status == missed.status == hit.status == 200 and hit.whole
        assert missed.headers["content-type"] == hit.headers["content-type"] == plain.headers["content-type"]
        assert _text(plain.events) == _text(missed.events) == _text(hit.events)
        assert [event for event in plain.events if event == "[DONE]"] == [
            event for event in hit.events if event == "[DONE]"
        ]
        assert len(backend.asked) == 2


def _text(events: list[Any]) -> str:
    """All that was said, in whichever form."""

    def texts(told: Any) -> list[str]:
        if isinstance(told, dict):
            own = [
                told[name]
                for name in ("content", "text", "result", "delta", "response", "output_text")
                if isinstance(told.get(name), str)
            ]
            return own + [text for each in told.values() for text in texts(each)]
        return [text for each in told for text in texts(each)] if isinstance(told, list) else []

    found = "".join(text for event in events for text in texts(event))
    assert "Hello" in found
    return found.replace("Hello", "", found.count("Hello") - 1)


@scenario
async def test_what_was_said_in_one_dialect_serves_the_others_whole_and_streamed() -> None:
    async with ollama() as backend, hermes(backend, **ON) as gateway:
        await gateway.ask(CHAT, greedy(max_tokens=9, stream=True))
        for path, body in (
            (CHAT, greedy(max_tokens=9)),
            (OLLAMA, chat(stream=False, options={"temperature": 0, "num_predict": 9})),
            (OLLAMA, chat(options={"temperature": 0, "num_predict": 9})),
            (RESPONSES, {"model": "gemma", "input": "Hi", "temperature": 0, "max_output_tokens": 9}),
        ):
            reply = await gateway.ask(path, body)
            assert (reply.status, reply.headers["x-hermes-cache"]) == (200, "hit"), (path, body)
            assert b"Hello" in reply.body
        assert len(backend.asked) == 1


@scenario
async def test_vectors_are_given_again_as_numbers_and_base64() -> None:
    async with ollama() as backend, hermes(backend, **ON) as gateway:
        body = {"model": "gemma", "input": ["a", "b"]}
        backend.management["/api/embed"] = answer(200, b'{"embeddings":[[0.5,1],[-2,0.25]],"prompt_eval_count":2}')
        first, again = await gateway.ask(EMBED, body), await gateway.ask(EMBED, body)
        coded = await gateway.ask(EMBED, {**body, "encoding_format": "base64"})
        assert first.json["data"] == again.json["data"] and first.status == 200
        assert [again.headers["x-hermes-cache"], coded.headers["x-hermes-cache"]] == ["hit", "hit"]
        assert len(coded.json["data"]) == 2 and isinstance(coded.json["data"][0]["embedding"], str)
        assert [asked.path for asked in backend.managed].count("/api/embed") == 1


@pytest.mark.parametrize("setting", [False, True, "forced"])
@scenario
async def test_what_is_drawn_by_chance_is_kept_only_where_that_is_forced(setting: bool | str) -> None:
    async with ollama() as backend, hermes(backend, models={"gemma": {"cache": setting}}) as gateway:
        replies = [await gateway.ask(CHAT, chat()) for _ in range(2)]
        told = [reply.headers.get("x-hermes-cache") for reply in replies]
        assert told == {False: [None, None], True: ["bypass", "bypass"], "forced": ["miss", "hit"]}[setting]
        assert len(backend.asked) == (1 if setting == "forced" else 2)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("no-store", "bypass"),
        ("no-cache", "miss"),
        ("max-age=0", "miss"),
        ("max-age=60", "hit"),
        ("no-transform", "hit"),
    ],
)
@scenario
async def test_a_request_may_want_less_than_is_kept(said: str, told: str) -> None:
    async with ollama() as backend, hermes(backend, **ON) as gateway:
        await gateway.ask(CHAT, greedy())
        reply = await gateway.ask(CHAT, greedy(), {"cache-control": said})
        assert (reply.status, reply.headers["x-hermes-cache"]) == (200, told)


@scenario
async def test_no_store_keeps_nothing_and_no_cache_keeps_the_new_answer() -> None:
    async with ollama() as backend, hermes(backend, **ON) as gateway:
        backend.scripts += [play("one", DONE), play("two", DONE)]
        await gateway.ask(CHAT, greedy(), {"cache-control": "no-store"})
        assert gateway.counted("hermes_cache_answers") == {(): 0.0}
        await gateway.ask(CHAT, greedy(), {"cache-control": "no-cache"})
        assert "two" in (await gateway.ask(CHAT, greedy())).body.decode()


@pytest.mark.parametrize(
    ("scope", "told"),
    [("key", ["miss", "miss", "miss"]), ("tenant", ["miss", "hit", "miss"]), ("all", ["miss", "hit", "hit"])],
)
@scenario
async def test_nobody_is_given_what_another_was_unless_that_is_opted_for(scope: str, told: list[str]) -> None:
    """I21"""
    keys = [key("ann"), key("bob"), {**key("cid"), "user": "ann"}]
    async with ollama() as backend, hermes(backend, **ON, keys=keys, cache={"scope": scope}) as gateway:
        replies = [await gateway.ask(CHAT, greedy(), bearer(user)) for user in ("ann", "cid", "bob")]
        assert [reply.headers["x-hermes-cache"] for reply in replies] == told
        assert [record.user for record in gateway.records] == ["ann", "ann", "bob"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("then", [Then.CUT, Then.RESET, Then.END])
@scenario
async def test_an_answer_that_was_not_whole_is_never_given_again(then: Then, stream: bool) -> None:
    """I15"""
    async with ollama() as backend, hermes(backend, **ON, limits={"max_attempts": 1}) as gateway:
        backend.scripts.append(play("Hel", *([{"done": False}] if then is Then.END else []), then=then))
        broken = await gateway.ask(CHAT, greedy(stream=stream))
        assert broken.status == 502 or not broken.whole
        assert gateway.counted("hermes_cache_answers") == {(): 0.0}
        reply = await gateway.ask(CHAT, greedy(stream=stream))
        assert (reply.status, reply.headers["x-hermes-cache"], reply.whole) == (200, "miss", True)


@scenario
async def test_an_error_is_never_given_again_and_is_told_as_ever() -> None:
    async with ollama() as backend, hermes(backend, **ON, limits={"max_attempts": 1}) as gateway:
        backend.scripts.append(fail(500, "no"))
        assert (await gateway.ask(CHAT, greedy())).error["code"] == "backend_error"
        assert (await gateway.ask(CHAT, greedy())).status == 200
        assert (await gateway.record(0)).attempts == 1


@scenario
async def test_what_another_model_said_instead_is_not_kept_as_this_ones() -> None:
    models = {"gemma": {"fallback": ["phi"]}, "phi": {}}
    async with (
        ollama("gemma", "phi") as backend,
        hermes(backend, **ON, models=models, limits={"max_attempts": 1}) as gateway,
    ):
        backend.scripts.append(fail(500, "no"))
        first, second = await gateway.ask(CHAT, greedy()), await gateway.ask(CHAT, greedy())
        assert first.headers["x-hermes-model-served"] == "phi"
        assert (first.status, second.status, second.headers["x-hermes-cache"]) == (200, 200, "miss")
        assert [asked.body["model"] for asked in backend.asked] == ["gemma", "phi", "gemma"]


@scenario
async def test_a_hit_needs_no_slot() -> None:
    async with ollama() as backend, hermes(backend, defaults={"cache": True, "queue_limit": 0}) as gateway:
        await gateway.ask(CHAT, greedy())
        free = asyncio.Event()
        backend.scripts.append(play(free, "slow", DONE))
        slow = await gateway.open(CHAT, greedy("slow"))
        await backend.request(1)
        assert (await gateway.ask(CHAT, greedy("other"))).error["code"] == "queue_full"
        assert (await gateway.ask(CHAT, greedy())).headers["x-hermes-cache"] == "hit"
        free.set()
        assert (await slow.reply()).status == 200


@scenario
async def test_a_large_request_is_the_same_as_itself() -> None:
    async with ollama() as backend, hermes(backend, **ON) as gateway:
        told = [(await gateway.ask(CHAT, greedy("x" * 300_000))).headers["x-hermes-cache"] for _ in range(2)]
        assert told == ["miss", "hit"]


@scenario
async def test_a_line_that_changes_with_every_request_makes_no_other_request() -> None:
    async with ollama() as backend, hermes(backend, **ON, volatile_lines=["Now: "]) as gateway:
        told = []
        for now in ("1", "2"):
            messages = [{"role": "system", "content": f"Be brief.\nNow: {now}"}, {"role": "user", "content": "Hi"}]
            reply = await gateway.ask(CHAT, {"model": "gemma", "temperature": 0, "messages": messages})
            told.append(reply.headers["x-hermes-cache"])
        assert told == ["miss", "hit"]
