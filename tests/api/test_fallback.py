"""Another model answers where the one that was asked for cannot be served, and only before the first content (I5)."""

import asyncio
import re
from typing import Any

import pytest

from tests.e2e.test_heartbeat import OFTEN
from tests.fakes.backend import Script, Then, fail, ollama, play
from tests.fakes.gateway import CHAT, PROMPT, RESPONSES, STREAMS, WHOLE, chat, hermes, hold_slot, prompt, scenario

SERVED = "x-hermes-model-served"
FAILURE = fail(500, "CUDA error: an illegal memory access was encountered")
OTHERS = {"gemma": {"backends": ["b0"], "fallback": ["absent", "phi"]}, "phi": {"backends": ["b1"]}}


@pytest.mark.parametrize(("path", "body"), [*WHOLE, *STREAMS])
@scenario
async def test_a_model_whose_backend_fails_is_answered_for_by_the_next_that_can_be_served(
    path: str, body: dict[str, Any]
) -> None:
    async with (
        ollama("gemma:latest") as bad,
        ollama("phi:latest") as good,
        hermes(bad, good, models=OTHERS) as gateway,
    ):
        bad.default = FAILURE
        reply = await gateway.ask(path, body)
        assert (reply.status, reply.whole, reply.headers[SERVED]) == (200, True, "phi")
        assert reply.headers["x-hermes-backend"] == "b1"
        assert (len(bad.asked), len(good.asked)) == (3, 1)
        record = await gateway.record()
        assert (record.asked, record.model, record.outcome, record.attempts) == ("gemma", "phi", "ok", 4)
        assert good.asked[0].body["model"] == "phi:latest"
        assert b"gemma" not in reply.body, "the answer names the model that gave it"


@scenario
async def test_another_models_first_attempt_is_no_retry_and_all_beyond_keeps_to_the_budget() -> None:
    """I8: where nothing works, each model is asked once for each request, and ten times more in all."""
    limits, models = {"max_attempts": 2, "retry_ratio": 0}, {"gemma": {"fallback": ["phi"]}}
    async with ollama("gemma:latest", "phi:latest") as bad:
        own = {"name": "b0", "url": bad.url, "slots": 30}
        async with hermes(backends=[own], models=models, limits=limits, health={"pause_s": 0.001}) as gateway:
            bad.default = FAILURE
            calls = [await gateway.open(PROMPT, prompt()) for _ in range(25)]
            assert {(await call.reply()).status for call in calls} == {502}
            asked = [each.body["model"] for each in bad.asked]
            assert (asked.count("phi:latest"), len(asked)) == (25, 2 * 25 + 10)


@scenario
async def test_who_is_served_as_asked_is_told_of_no_other_model() -> None:
    async with ollama() as backend, hermes(backend, models={"gemma": {"fallback": ["phi"]}}) as gateway:
        assert SERVED not in (await gateway.ask(PROMPT, prompt())).headers


@scenario
async def test_a_model_that_no_backend_has_is_answered_for() -> None:
    models = {"gone": {"fallback": ["gemma"]}}
    async with ollama() as backend, hermes(backend, models=models) as gateway:
        reply = await gateway.ask(CHAT, chat(model="gone"))
        assert (reply.status, reply.headers[SERVED], reply.json["model"]) == (200,) + ("gemma:latest",) * 2


@scenario
async def test_a_model_whose_backend_is_down_is_answered_for() -> None:
    async with ollama() as down, ollama("phi:latest") as up, hermes(down, up, models=OTHERS) as gateway:
        await down.vanish()
        for _ in range(2):
            await gateway.runtime.fleet.backends["b0"].look(1.0)
            await asyncio.sleep(0)
        reply = await gateway.ask(PROMPT, prompt())
        assert (reply.status, reply.headers[SERVED]) == (200, "phi")


@scenario
async def test_a_full_queue_is_a_reason() -> None:
    models = {"gemma": {"queue_limit": 0, "fallback": ["phi"], "backends": ["b0"]}}
    async with ollama() as full, ollama("phi:latest") as other, hermes(full, other, models=models) as gateway:
        holding = await hold_slot(gateway, full)
        assert (await gateway.ask(PROMPT, prompt())).headers[SERVED] == "phi:latest"
        holding.leave()


@scenario
async def test_a_model_that_its_backend_has_lost_is_answered_for() -> None:
    async with ollama() as bad, ollama("phi:latest") as good, hermes(bad, good, models=OTHERS) as gateway:
        bad.default = fail(404, "model 'gemma:latest' not found")
        reply = await gateway.ask(CHAT, chat(stream=True))
        assert (reply.status, reply.whole, reply.headers[SERVED]) == (200, True, "phi")


@scenario
async def test_a_model_that_cannot_be_loaded_is_answered_for() -> None:
    async with ollama() as bad, ollama("phi:latest") as good:
        bad.loaded = []
        async with hermes(bad, good, models=OTHERS) as gateway:
            bad.management["/api/generate"] = fail(500, "out of memory")
            reply = await gateway.ask(PROMPT, prompt())
            assert (reply.status, reply.headers[SERVED]) == (200, "phi")


@pytest.mark.parametrize(
    ("script", "status"),
    [
        (fail(400, "the prompt is nonsense"), 400),
        (fail(401, "who are you?"), 502),
        (play(then=Then.STALL), 504),
        (play(then=Then.RESET), 502),
        (play("Hel", then=Then.CUT), 200),
    ],
    ids=["its own fault", "a wrong key", "its time is over", "backends die of it", "content has gone out"],
)
@scenario
async def test_what_is_no_reason(script: Script, status: int) -> None:
    async with (
        ollama() as bad,
        ollama("phi:latest") as good,
        hermes(bad, good, models=OTHERS, defaults={"timeout_s": 0.2}) as gateway,
    ):
        bad.default = script
        reply = await gateway.ask(CHAT, chat(stream=True))
        assert (reply.status, reply.whole, SERVED in reply.headers) == (status, status != 200, False)
        assert good.asked == []


@scenario
async def test_when_none_can_be_served_the_client_hears_of_its_own() -> None:
    models = {**OTHERS, "gemma": {"backends": ["b0"], "fallback": ["absent", "lost"]}}
    async with ollama() as bad, ollama("phi:latest") as other, hermes(bad, other, models=models) as gateway:
        bad.default = FAILURE
        reply = await gateway.ask(PROMPT, prompt())
        assert (reply.status, reply.error["code"]) == (502, "backend_error")
        assert "CUDA error" in reply.error["message"]


@scenario
async def test_the_second_of_two_answers_where_the_first_fails_too() -> None:
    models = {"gemma": {"backends": ["b0"], "fallback": ["phi", "tiny"]}, "phi": {"fallback": ["absent"]}}
    async with (
        ollama() as bad,
        ollama("phi:latest", "tiny:latest") as good,
        hermes(bad, good, models=models) as gateway,
    ):
        bad.default = fail(503, "server busy, please try again.  maximum pending requests exceeded")
        good.scripts += [bad.default]
        reply = await gateway.ask(PROMPT, prompt())
        assert (reply.status, reply.headers[SERVED]) == (200, "tiny:latest")


@scenario
async def test_a_stream_that_waited_with_signs_of_life_goes_on_with_another_model() -> None:
    models = {"gemma": {"backends": ["b0"], "fallback": ["phi"]}}
    async with (
        ollama() as bad,
        ollama("phi:latest") as good,
        hermes(bad, good, models=models, scheduling=OFTEN) as gateway,
    ):
        free = asyncio.Event()
        await hold_slot(gateway, bad, free)
        bad.default = FAILURE
        call = await gateway.open(CHAT, chat(stream=True))
        assert await call.head() == 200
        assert (await call.piece()).startswith(b": queued")
        free.set()
        rest = b"".join([piece async for piece in _pieces(call)])
        assert call.whole and b"model-served=phi" in rest and rest.endswith(b"[DONE]\n\n")


@scenario
async def test_events_go_on_being_counted_where_another_model_goes_on() -> None:
    """A second `created`, or a number that comes again, is no stream of responses any more."""
    models = {"gemma": {"backends": ["b0"], "fallback": ["phi"]}}
    async with (
        ollama() as bad,
        ollama("phi:latest") as good,
        hermes(bad, good, models=models, scheduling=OFTEN) as gateway,
    ):
        free = asyncio.Event()
        await hold_slot(gateway, bad, free)
        bad.default = FAILURE
        call = await gateway.open("/v1/responses", {"model": "gemma", "input": "Hi", "stream": True})
        assert await call.head() == 200
        told = await call.piece()
        free.set()
        told += b"".join([piece async for piece in _pieces(call)])
        assert told.count(b'"type":"response.created"') == 1
        numbers = [int(number) for number in re.findall(rb'"sequence_number":(\d+)', told)]
        assert numbers == [*range(len(numbers))] and b'"response.completed"' in told


@scenario
async def test_a_stream_that_waited_ends_with_the_error_where_nobody_else_answers() -> None:
    models = {"gemma": {"backends": ["b0"], "fallback": ["phi"]}, "phi": {"backends": ["b1"]}}
    async with (
        ollama() as bad,
        ollama("phi:latest") as good,
        hermes(bad, good, models=models, scheduling=OFTEN) as gateway,
    ):
        free = asyncio.Event()
        await hold_slot(gateway, bad, free)
        bad.default = good.default = FAILURE
        call = await gateway.open(CHAT, chat(stream=True))
        assert await call.head() == 200
        free.set()
        events = await call.events()
        assert events[-1]["error"]["code"] == "backend_error" and not call.whole


async def _pieces(call: Any) -> Any:
    while piece := await call.piece():
        yield piece


@scenario
async def test_embeddings_of_another_model_are_no_substitute() -> None:
    models = {"gone": {"fallback": ["gemma"]}}
    async with ollama() as backend, hermes(backend, models=models) as gateway:
        reply = await gateway.ask("/v1/embeddings", {"model": "gone", "input": "Hi"})
        assert (reply.status, reply.error["code"]) == (404, "model_not_found")


@scenario
async def test_who_comes_from_another_model_whose_backend_failed_finds_a_full_queue_full() -> None:
    models = {"gemma": {"backends": ["b0"], "fallback": ["phi"]}, "phi": {"backends": ["b1"], "queue_limit": 1}}
    async with ollama("gemma:latest") as bad, ollama("phi:latest") as good, hermes(bad, good, models=models) as gateway:
        bad.default = FAILURE
        good.scripts.append(play(then=Then.STALL))
        calls = [await gateway.open(CHAT, chat(model="phi"))]
        await good.request(0)
        calls.append(await gateway.open(CHAT, chat(model="phi")))
        await gateway.until_waiting(1)
        reply = await gateway.ask(CHAT, chat())
        assert (reply.status, reply.error["code"]) == (429, "queue_full"), reply.body
        for call in calls:
            call.leave()


@scenario
async def test_events_are_counted_on_where_another_model_answers_a_stream_that_waited() -> None:
    models = {"gemma": {"backends": ["b0"], "fallback": ["phi"]}}
    async with (
        ollama() as bad,
        ollama("phi:latest") as good,
        hermes(bad, good, models=models, scheduling=OFTEN) as gateway,
    ):
        free = asyncio.Event()
        await hold_slot(gateway, bad, free)
        bad.default = FAILURE
        call = await gateway.open(RESPONSES, {"model": "gemma", "input": "Hi", "stream": True})
        assert await call.head() == 200
        first = await call.event()
        free.set()
        events = [first, *await call.events()]
        assert [event["sequence_number"] for event in events] == [*range(len(events))]
        assert [event["type"] for event in events].count("response.created") == 1
