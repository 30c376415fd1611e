"""Requests that are the same and come at the same time: one run, from which each reads at a pace of his own."""

import asyncio
import gc
import json

import pytest

from hermes.flights.asked import Asked
from tests.fakes.backend import DONE, Then, ollama, play
from tests.fakes.gateway import CHAT, Call, Hermes, bearer, chat, greedy, hermes, hold_slot, key, scenario
from tests.support import run, until

ON = {"defaults": {"cache": True}}


async def until_shared(gateway: Hermes, by: int) -> None:
    flights = gateway.runtime.runs.running
    await until(lambda: sum(len(flight.callers) for flight in flights) == by, "they do not share a run")


async def text_of(call: Call) -> str:
    """All that a stream still says; it ends as it should."""
    events = await call.events()
    assert events[-1] == "[DONE]" and call.whole
    return "".join(event["choices"][0]["delta"].get("content") or "" for event in events[:-1] if event["choices"])


@scenario
async def test_whoever_asks_the_same_meanwhile_shares_the_run() -> None:
    async with ollama() as backend, hermes(backend, **ON) as gateway:
        free = asyncio.Event()
        backend.scripts.append(play(free, "Hello", DONE))
        calls = [await gateway.open(CHAT, greedy()) for _ in range(5)]
        await until_shared(gateway, 5)
        assert (gateway.running, gateway.waiting) == (1, 0)
        free.set()
        replies = [await call.reply() for call in calls]
        assert {reply.json["choices"][0]["message"]["content"] for reply in replies} == {"Hello"}
        assert sorted(reply.headers["x-hermes-cache"] for reply in replies) == ["hit"] * 4 + ["miss"]
        assert len({reply.json["id"] for reply in replies}) == 5
        assert len(backend.asked) == 1
        await gateway.settle()
        assert gateway.counted("hermes_tokens_total")["gemma:latest", "completion"] == 3.0
        assert sorted(record.attempts for record in gateway.records) == [0, 0, 0, 0, 1]


@scenario
async def test_one_who_comes_into_a_stream_hears_what_was_said_and_then_goes_on_with_it() -> None:
    async with ollama() as backend, hermes(backend, **ON) as gateway:
        more, end = asyncio.Event(), asyncio.Event()
        backend.scripts.append(play("One ", more, "two ", end, "three", DONE))
        first = await gateway.open(CHAT, greedy(stream=True))
        assert await first.head() == 200
        assert "One " in json.dumps([await first.event(), await first.event()])
        second = await gateway.open(CHAT, greedy(stream=True))
        assert await second.head() == 200
        assert "One " in json.dumps([await second.event(), await second.event()])
        more.set()
        assert "two " in json.dumps(await first.event()) and "two " in json.dumps(await second.event())
        end.set()
        assert await text_of(first) == await text_of(second) == "three"
        assert len(backend.asked) == 1


@pytest.mark.parametrize("stream", [False, True])
@scenario
async def test_one_who_leaves_does_not_end_the_run_and_the_last_one_does(stream: bool) -> None:
    """I9: wherever it is, the backend is left when nobody wants the answer any more."""
    async with ollama() as backend, hermes(backend, **ON) as gateway:
        backend.scripts.append(play("Hel", asyncio.Event(), DONE))
        first = await gateway.open(CHAT, greedy(stream=stream))
        asked = await backend.request(0)
        second = await gateway.open(CHAT, greedy(stream=stream))
        await until_shared(gateway, 2)
        first.leave()
        await until_shared(gateway, 1)
        assert gateway.running == 1 and not asked.left.is_set()
        second.leave()
        async with asyncio.timeout(1):
            await asked.left.wait()
        await gateway.settle()
        assert [record.outcome for record in gateway.records] == ["client_gone"] * 2
        assert [record.cache for record in gateway.records] == ["miss", "miss"]  # who leaves last pays


@scenario
async def test_the_last_one_to_leave_takes_the_run_out_of_the_queue() -> None:
    async with ollama() as backend, hermes(backend, **ON) as gateway:
        free = asyncio.Event()
        holder = await hold_slot(gateway, backend, free)
        calls = [await gateway.open(CHAT, greedy()) for _ in range(2)]
        await until_shared(gateway, 2)
        await gateway.until_waiting(1)
        calls[0].leave()
        await until_shared(gateway, 1)
        assert gateway.waiting == 1
        calls[1].leave()
        await gateway.until_waiting(0)
        free.set()
        await holder.reply()


@scenario
async def test_who_waits_for_a_model_without_a_cache_holds_nothing_of_what_others_have() -> None:
    models = {"gemma": {"cache": False}, "mistral": {"cache": True}}
    async with ollama() as backend, hermes(backend, models=models) as gateway:
        holder = await hold_slot(gateway, backend)
        call = await gateway.open(CHAT, chat(), {"x-request-id": "waits"})
        await gateway.until_waiting(1)
        held = [each.exchange.request_id for each in gc.get_objects() if isinstance(each, Asked)]
        assert "waits" not in held
        call.leave()
        holder.leave()


@scenario
async def test_a_run_that_fails_fails_for_all_and_the_next_one_is_anew() -> None:
    async with ollama() as backend, hermes(backend, **ON, limits={"max_attempts": 1}) as gateway:
        free = asyncio.Event()
        backend.scripts.append(play(free, "Hel", then=Then.CUT))
        calls = [await gateway.open(CHAT, greedy()) for _ in range(3)]
        await until_shared(gateway, 3)
        free.set()
        assert [(await call.reply()).status for call in calls] == [502] * 3
        assert (await gateway.ask(CHAT, greedy())).status == 200


@scenario
async def test_a_stream_that_breaks_breaks_for_all_and_never_looks_whole() -> None:
    """I5"""
    async with ollama() as backend, hermes(backend, **ON) as gateway:
        free = asyncio.Event()
        backend.scripts.append(play("Hel", free, then=Then.RESET))
        calls = [await gateway.open(CHAT, greedy(stream=True)) for _ in range(2)]
        await until_shared(gateway, 2)
        for call in calls:
            assert await call.head() == 200
        free.set()
        for call in calls:
            events = await call.events()
            assert "error" in events[-1] and not call.whole
        await gateway.settle()
        assert [record.outcome for record in gateway.records] == ["upstream_error"] * 2


@scenario
async def test_who_joined_a_run_that_was_begun_with_less_time_has_his_own() -> None:
    async with ollama() as backend, hermes(backend, **ON) as gateway:
        backend.scripts.append(play("Hel", then=Then.STALL))
        hasty = await gateway.open(CHAT, greedy(), {"x-hermes-deadline-ms": "100"})
        await backend.request(0)
        patient = await gateway.open(CHAT, greedy())
        await until_shared(gateway, 2)
        assert (await hasty.reply()).status == 504
        reply = await patient.reply()
        assert (reply.status, reply.headers["x-hermes-cache"]) == (200, "miss")
        assert len(backend.asked) == 2


@scenario
async def test_other_keys_have_runs_of_their_own() -> None:
    """I21"""
    async with (
        ollama() as backend,
        hermes(backend, defaults={"cache": True, "max_concurrency": 2}, keys=[key("ann"), key("bob")]) as gateway,
    ):
        free = asyncio.Event()
        backend.scripts += [play(free, "a", DONE), play(free, "b", DONE)]
        calls = [await gateway.open(CHAT, greedy(), bearer(user)) for user in ("ann", "bob")]
        await backend.request(1)
        free.set()
        assert [(await call.reply()).headers["x-hermes-cache"] for call in calls] == ["miss", "miss"]


@scenario
async def test_a_slow_reader_holds_up_nobody_and_gets_all_of_it() -> None:
    """I13: what waits for him is what was said anyway."""
    text = "x" * 1000
    async with ollama() as backend, hermes(backend, **ON) as gateway:
        free = asyncio.Event()
        backend.scripts.append(play("a", free, *[text] * 2000, DONE))
        slow = await gateway.open(CHAT, greedy(stream=True))
        await backend.request(0)
        quick = await gateway.open(CHAT, greedy(stream=True))
        await until_shared(gateway, 2)
        free.set()
        assert await quick.head() == 200
        assert len(await text_of(quick)) == 2_000_001
        await until(lambda: gateway.running == 0)  # the slot is free, whatever he does
        assert await slow.head() == 200
        assert len(await text_of(slow)) == 2_000_001


@scenario
async def test_who_is_too_far_behind_is_cut_and_nobody_joins_an_answer_without_its_beginning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """I13"""
    monkeypatch.setattr("hermes.flights.flight.MAX_BYTES", 300_000)  # the kernel holds some more for him
    async with ollama() as backend, hermes(backend, **ON) as gateway:
        free, end = asyncio.Event(), asyncio.Event()
        backend.scripts.append(play("a", free, *["x" * 1000] * 6000, end, DONE))
        peer = await gateway.connect(receive_buffer_bytes=4096)
        slow = await gateway.open(CHAT, greedy(stream=True), on=peer)
        await backend.request(0)
        quick = await gateway.open(CHAT, greedy(stream=True))
        await until_shared(gateway, 2)
        free.set()
        assert await quick.head() == 200
        read = 0
        while read < 6_000_000:
            read += len(await quick.piece())
        flight = next(iter(gateway.runtime.runs.running))
        assert flight._kept_bytes <= 300_000 and not flight.can_be_joined
        end.set()
        await quick.events()
        assert quick.whole
        assert await slow.head() == 200
        events = await slow.events()
        assert "reads too slowly" in events[-1]["error"]["message"] and not slow.whole
        await gateway.settle()
        assert gateway.counted("hermes_cache_answers") == {(): 0.0}


@pytest.mark.parametrize("stream", [False, True])
def test_a_bug_in_a_shared_run_is_told_to_all_and_logged(
    stream: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def ask() -> None:
        async with ollama() as backend, hermes(backend, **ON) as gateway:
            monkeypatch.setattr("hermes.flights.recorder._Pen.encode", _bug)
            monkeypatch.setattr("hermes.flights.recorder.Recorder.render_answer", _bug)
            call = await gateway.open(CHAT, greedy(stream=stream))
            assert (await call.reply()).error["code"] == "internal_error"
            await gateway.settle()
            assert [record.outcome for record in gateway.records] == ["internal_error"]

    run(ask(), may_log_errors=True)
    assert "a bug of the test's" in caplog.text


def test_a_bug_in_what_is_done_with_an_answer_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def ask() -> None:
        async with ollama() as backend, hermes(backend, **ON) as gateway:
            monkeypatch.setattr("hermes.policy.cache.pack", _bug)
            assert (await gateway.ask(CHAT, greedy())).status == 200

    run(ask(), may_log_errors=True)
    assert "a bug of the test's" in caplog.text


def _bug(*_: object) -> None:
    raise ZeroDivisionError("a bug of the test's")


@scenario
async def test_an_operator_sees_a_shared_run_and_sends_it_away_for_all() -> None:
    async with ollama() as backend, hermes(backend, **ON) as gateway:
        holder = await hold_slot(gateway, backend)
        calls = [await gateway.open(CHAT, greedy(), {"x-request-id": f"r{number}"}) for number in range(2)]
        await until_shared(gateway, 2)
        await gateway.until_waiting(1)
        listed = (await gateway.ask("/v1/queue")).json
        assert [each["request_id"] for each in listed["data"] if each["state"] == "waiting"] == ["r0"]
        assert (await gateway.ask("/v1/queue/r0", method="DELETE")).status == 200
        assert [(await call.reply()).status for call in calls] == [499, 499]
        holder.leave()


@scenario
async def test_a_shared_stream_that_waits_tells_each_of_its_place() -> None:
    async with ollama() as backend, hermes(backend, **ON, scheduling={"queue_heartbeat_s": 0.02}) as gateway:
        free = asyncio.Event()
        holder = await hold_slot(gateway, backend, free)
        calls = [await gateway.open(CHAT, greedy(stream=True)) for _ in range(2)]
        for call in calls:
            assert await call.head() == 200
            assert (await call.piece()).startswith(b": queued position=1")
        free.set()
        assert [await text_of(call) for call in calls] == ["Hello", "Hello"]
        await holder.reply()


@scenario
async def test_at_the_end_of_a_drain_a_shared_run_is_cut_with_its_callers() -> None:
    """I33"""
    async with ollama() as backend, hermes(backend, **ON) as gateway:
        backend.scripts.append(play("Hel", then=Then.STALL))
        call = await gateway.open(CHAT, greedy(stream=True))
        assert await call.head() == 200
        now = asyncio.Event()
        now.set()
        drain = asyncio.get_running_loop().create_task(gateway.runtime.drain(now))
        events = await call.events()
        call.leave()
        assert not await drain
        assert events[-1]["error"]["code"] == "draining" and not call.whole
