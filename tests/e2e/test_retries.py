"""Trying again: only before the first content byte, within a budget, elsewhere where there is an elsewhere (I5, I8)."""

import asyncio
from typing import Any

import pytest

from tests.fakes.backend import DONE, Script, Then, answer, fail, ollama, play, speak
from tests.fakes.gateway import CHAT, COMPLETIONS, PROMPT, chat, hermes, prompt, scenario, session
from tests.support import until

BUSY = fail(503, "server busy, please try again.  maximum pending requests exceeded")
CRASH = fail(500, "llama-server process no longer running: exit status 2")
FAILURE = fail(500, "CUDA error: an illegal memory access was encountered")

PASSING = {
    "a crash": CRASH,
    "busy": BUSY,
    "a reset": play(b"\n", then=Then.RESET),
    "a cut": play(b"\n", then=Then.CUT),
    "an error line": play({"error": "no"}),
    "an error line with content": play(b'{"message":{"content":"Hel"},"done":false}\n{"error":"no"}\n'),
    "garbage": answer(200, b"}{"),
}


@pytest.fixture(autouse=True)
def a_retry_does_not_wait_long() -> None:
    """Here it waits as long as it does."""


@pytest.mark.parametrize("script", PASSING.values(), ids=PASSING)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@scenario
async def test_what_fails_once_is_not_noticed(stream: bool, script: Script) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        backend.scripts.append(script)
        reply = await gateway.ask(CHAT, chat(stream=stream))
        assert (reply.status, reply.whole) == (200, True)
        assert "x-should-retry" not in reply.headers
        record = await gateway.record()
        assert (record.outcome, record.attempts, record.code) == ("ok", 2, "")
        assert record.ttft_ms is not None and record.ttft_ms >= 90, "the first attempt had no content to show"
        assert sum(gateway.attempts().values()) == 2


@scenario
async def test_what_came_of_an_attempt_that_failed_is_no_first_byte_of_the_next() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        go_on = asyncio.Event()
        thought = {"model": "gemma", "message": {"role": "assistant", "content": "", "thinking": "Hm"}, "done": False}
        backend.scripts += [play(thought, then=Then.CUT), play(go_on, "Hel", DONE)]
        call = await gateway.open(COMPLETIONS, {"model": "gemma", "prompt": "Hi", "stream": True})
        await backend.request(1)
        (exchange,) = gateway.runtime.journal.exchanges
        assert exchange.ttft_s is None
        go_on.set()
        assert (await call.reply()).whole


@scenario
async def test_three_attempts_are_all_and_then_nobody_else_shall_retry() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        backend.default = FAILURE
        reply = await gateway.ask(PROMPT, prompt())
        assert (reply.status, reply.headers["x-should-retry"]) == (502, "false")
        assert "CUDA error" in reply.error["message"]
        assert len(backend.asked) == (await gateway.record()).attempts == 3


@pytest.mark.parametrize("crash", [CRASH, play(then=Then.RESET), play(then=Then.CUT)], ids=["told", "reset", "cut"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@scenario
async def test_a_prompt_that_two_backends_have_died_of_is_not_tried_on_a_third(stream: bool, crash: Script) -> None:
    async with ollama() as first, ollama() as second, ollama() as third, hermes(first, second, third) as gateway:
        for backend in (first, second, third):
            backend.default = crash
        reply = await gateway.ask(CHAT, chat(stream=stream))
        assert (reply.status, reply.error["code"]) == (502, "request_crashes_backends")
        assert reply.headers["x-should-retry"] == "false"
        assert sorted(bool(backend.asked) for backend in (first, second, third)) == [False, True, True]


@scenario
async def test_after_a_retry_of_ours_even_a_timeout_shall_not_be_retried() -> None:
    async with ollama() as backend, hermes(backend, defaults={"timeout_s": 0.4}) as gateway:
        backend.scripts += [CRASH, play(then=Then.STALL)]
        reply = await gateway.ask(PROMPT, prompt())
        assert (reply.status, reply.headers["x-should-retry"]) == (504, "false")


@scenario
async def test_busy_is_told_as_busy_with_a_time_to_come_back() -> None:
    async with ollama() as backend, hermes(backend, limits={"max_attempts": 1}) as gateway:
        backend.default = BUSY
        reply = await gateway.ask(PROMPT, prompt())
        assert (reply.status, reply.error["code"], reply.headers["retry-after"]) == (503, "backend_busy", "1")
        assert reply.headers["retry-after-ms"] == "1000"
        assert "x-should-retry" not in reply.headers


@scenario
async def test_over_all_requests_retries_keep_to_a_budget() -> None:
    """I8: attempts <= (1 + ratio) x requests + the reserve of 10."""
    limits = {"max_attempts": 2, "retry_ratio": 0}
    async with ollama() as backend:
        own = {"name": "b0", "url": backend.url, "slots": 30}
        async with hermes(backends=[own], limits=limits, health={"pause_s": 0.001}) as gateway:
            backend.default = FAILURE
            calls = [await gateway.open(PROMPT, prompt()) for _ in range(25)]
            replies = [await call.reply() for call in calls]
            assert {reply.status for reply in replies} == {502}
            assert len(backend.asked) == 25 + 10


@scenario
async def test_another_backend_is_tried_where_there_is_one() -> None:
    async with ollama() as bad, ollama() as good, hermes(bad, good, limits={"max_attempts": 2}) as gateway:
        bad.default = FAILURE
        assert (await gateway.ask(PROMPT, prompt(), session("b0"))).status == 200
        record = await gateway.record()
        assert (record.backend, record.attempts) == ("b1", 2)


@scenario
async def test_whoever_fails_at_once_is_not_the_least_busy() -> None:
    """A failure takes a slot as long as a run does, or a second."""
    async with ollama() as bad, ollama() as good, hermes(bad, good) as gateway:
        bad.default = FAILURE
        for number in range(9):
            assert (await gateway.ask(PROMPT, prompt(), session("b0", number=number))).status == 200
            record = await gateway.record(number)
            assert (record.backend, record.attempts) == ("b1", 1 if number else 2)
        assert (len(bad.asked), len(good.asked)) == (1, 9)


@scenario
async def test_a_backend_that_is_gone_is_passed_over_and_then_not_even_tried() -> None:
    async with ollama() as gone, ollama() as good, hermes(gone, good) as gateway:
        await gone.vanish()
        assert (await gateway.ask(PROMPT, prompt(), session("b0"))).status == 200
        first = gateway.runtime.fleet.backends["b0"]
        await until(lambda: first.state == "down", limit_s=3.0)
        assert (await gateway.ask(PROMPT, prompt())).status == 200
        record = await gateway.record(1)
        assert (record.backend, record.attempts) == ("b1", 1)


@scenario
async def test_a_lone_backend_that_is_gone_is_502_then_503() -> None:
    async with ollama() as backend, hermes(backend, limits={"max_attempts": 2}) as gateway:
        await backend.vanish()
        reply = await gateway.ask(PROMPT, prompt())
        assert (reply.status, reply.error["code"]) == (502, "backend_unreachable")
        await until(lambda: not gateway.runtime.fleet.ready, limit_s=3.0)
        reply = await gateway.ask(PROMPT, prompt())
        assert (reply.status, reply.error["code"]) == (503, "no_backend")
        assert int(reply.headers["retry-after"]) >= 1
        assert (await gateway.record(1)).outcome == "no_backend"


@scenario
async def test_a_retry_waits_without_holding_a_slot() -> None:
    async with ollama() as backend, hermes(backend, defaults={"max_concurrency": 1}) as gateway:
        backend.scripts.append(CRASH)
        first = await gateway.open(PROMPT, prompt("first"))
        await backend.request(0)
        await until(lambda: gateway.running == 0)
        assert (await gateway.ask(PROMPT, prompt("second"))).status == 200
        assert (await first.reply()).status == 200
        asked = [asked.body["prompt"] for asked in backend.asked]
        assert asked == ["first", "second", "first"]


@scenario
async def test_no_retry_begins_after_the_deadline() -> None:
    async with ollama() as backend, hermes(backend, defaults={"timeout_s": 0.09}) as gateway:
        backend.default = CRASH
        reply = await gateway.ask(PROMPT, prompt())
        assert (reply.status, len(backend.asked)) == (502, 1)


@scenario
async def test_a_pooled_connection_that_has_died_costs_no_attempt() -> None:
    async with ollama() as backend, hermes(backend, limits={"max_attempts": 1}) as gateway:
        assert (await gateway.ask(PROMPT, prompt())).status == 200
        await backend.vanish()
        await backend.listen()
        assert (await gateway.ask(PROMPT, prompt())).status == 200
        assert (await gateway.record(1)).attempts == 1


@pytest.mark.parametrize("body", [prompt(), prompt(stream=True)], ids=["whole", "stream"])
@scenario
async def test_the_answer_of_a_retry_is_the_whole_answer(body: dict[str, Any]) -> None:
    """Nothing of the failed attempt is in it."""
    async with ollama() as backend, hermes(backend) as gateway:
        backend.scripts += [play(b'{"message":{"content":"WRONG"},"done":false}\n{"error":"no"}\n'), speak("right")]
        assert b"WRONG" not in (await gateway.ask(PROMPT, body)).body


@scenario
async def test_who_leaves_between_two_attempts_ends_them() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        backend.default = CRASH
        call = await gateway.open(PROMPT, prompt())
        await (await backend.request(0)).ended.wait()
        await until(lambda: gateway.running == 0)
        call.leave()
        record = await gateway.record()
        assert (record.outcome, record.attempts, len(backend.asked)) == ("client_gone", 1, 1)
