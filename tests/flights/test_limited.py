"""Limits and rights beside answers that are given again: who pays for a run, what a hit counts as, who gets none."""

import asyncio
from typing import Any

import pytest

from hermes.errors import NotStored
from hermes.flights.flight import Flight
from hermes.storage.idempotency import Records
from tests.fakes.backend import DONE, Then, ollama, play
from tests.fakes.gateway import CHAT, Hermes, bearer, chat, greedy, hermes, key, scenario
from tests.support import until

ON: dict[str, Any] = {"defaults": {"cache": True}}
ANN, BOB = bearer("ann"), bearer("bob")
USAGE = "/v1/usage"


async def total(gateway: Hermes, headers: dict[str, str]) -> dict[str, int]:
    return dict((await gateway.ask(USAGE, headers=headers)).json["total"])


def open_holds(gateway: Hermes) -> int:
    return sum(account.open for account in gateway.runtime.meter.limiter._accounts.values())


@pytest.mark.parametrize("stream", [False, True])
@scenario
async def test_a_hit_is_a_request_and_takes_no_tokens(stream: bool) -> None:
    keys = [key("ann", rpm=3, tpm=60_000)]
    async with ollama() as backend, hermes(backend, **ON, keys=keys) as gateway:
        replies = [await gateway.ask(CHAT, greedy(stream=stream), ANN) for _ in range(4)]
        assert [reply.status for reply in replies] == [200, 200, 200, 429]
        assert [reply.headers.get("x-hermes-cache") for reply in replies[:3]] == ["miss", "hit", "hit"]
        left = [reply.headers["x-ratelimit-remaining-requests"] for reply in replies]
        assert left == ["2", "1", "0", "0"]
        assert replies[3].error["code"] == "rate_limit_exceeded"
        tokens = [int(reply.headers["x-ratelimit-remaining-tokens"]) for reply in replies]
        assert tokens[1] <= tokens[2] <= tokens[3]  # they only come back
        await gateway.settle()
        used = await total(gateway, ANN)
        assert (used["requests"], used["prompt_tokens"], used["completion_tokens"], used["refused"]) == (3, 7, 3, 1)
        assert open_holds(gateway) == 0 and len(backend.asked) == 1


@scenario
async def test_of_a_shared_run_its_first_caller_is_charged_the_tokens_and_each_a_request() -> None:
    keys = [key("ann", rpm=9), key("bob", rpm=9)]
    async with ollama() as backend, hermes(backend, **ON, keys=keys, cache={"scope": "all"}) as gateway:
        free = asyncio.Event()
        backend.scripts.append(play(free, "Hello", DONE))
        calls = [await gateway.open(CHAT, greedy(), ANN)]
        await until(lambda: len(backend.asked) == 1)
        calls.append(await gateway.open(CHAT, greedy(), BOB))
        await until(lambda: sum(len(flight.callers) for flight in gateway.runtime.runs.running) == 2)
        free.set()
        assert [(await call.reply()).status for call in calls] == [200, 200]
        await gateway.settle()
        ann, bob = await total(gateway, ANN), await total(gateway, BOB)
        assert (ann["requests"], ann["prompt_tokens"]) == (1, 7) and (bob["requests"], bob["prompt_tokens"]) == (1, 0)
        assert open_holds(gateway) == 0


@scenario
async def test_a_refusal_of_who_began_is_not_the_next_ones() -> None:
    """What ann may use no more is no reason for bob to wait for her run, or to share its end."""
    keys = [key("ann", rpm=1), key("bob", rpm=9)]
    async with ollama() as backend, hermes(backend, **ON, keys=keys, cache={"scope": "all"}) as gateway:
        assert (await gateway.ask(CHAT, chat("other", temperature=0), ANN)).status == 200
        ann, bob = await asyncio.gather(gateway.ask(CHAT, greedy(), ANN), gateway.ask(CHAT, greedy(), BOB))
        assert (ann.status, bob.status) == (429, 200)
        assert len(backend.asked) == 2 and open_holds(gateway) == 0


@scenario
async def test_who_joins_a_run_that_is_refused_later_runs_anew_and_is_one_request() -> None:
    """I6: ann's run goes on with a model that she may not use any more; that is nothing to bob."""
    keys = [key("ann", per_model={"phi*": {"rpm": 1}}), key("bob", rpm=1)]
    sections = {"models": {"gemma": {"fallback": ["phi"]}}, "keys": keys, "limits": {"max_attempts": 1}}
    async with (
        ollama("gemma:latest", "phi:latest") as backend,
        hermes(backend, **ON, **sections, cache={"scope": "all"}) as gateway,
    ):
        assert (await gateway.ask(CHAT, chat(model="phi"), ANN)).status == 200
        free = asyncio.Event()
        backend.scripts.append(play(free, {"error": "out of memory"}))
        ann = await gateway.open(CHAT, greedy(), ANN)
        await backend.request(1)
        bob = await gateway.open(CHAT, greedy(), BOB)
        await until(lambda: sum(len(flight.callers) for flight in gateway.runtime.runs.running) == 2)
        free.set()
        assert ((await ann.reply()).status, (await bob.reply()).status) == (429, 200)
        await gateway.settle()
        used = await total(gateway, BOB)
        assert (used["requests"], used["prompt_tokens"], used["refused"]) == (1, 7, 0) and open_holds(gateway) == 0


@pytest.mark.parametrize("stream", [False, True])
@scenario
async def test_who_joins_a_run_that_comes_to_nothing_is_not_counted(stream: bool) -> None:
    """I6: as one who runs by himself is not."""
    keys = [key("ann"), key("bob", rpm=1)]
    sections = {"keys": keys, "limits": {"max_attempts": 1}, "cache": {"scope": "all"}}
    async with ollama() as backend, hermes(backend, **ON, **sections) as gateway:
        free = asyncio.Event()
        backend.scripts.append(play(free, {"error": "out of memory"}))
        calls = [await gateway.open(CHAT, greedy(stream=stream), ANN)]
        await backend.request(0)
        calls.append(await gateway.open(CHAT, greedy(stream=stream), BOB))
        await until(lambda: sum(len(flight.callers) for flight in gateway.runtime.runs.running) == 2)
        free.set()
        assert [(await call.reply()).status for call in calls] == [502, 502]
        assert (await gateway.ask(CHAT, greedy(stream=stream), BOB)).status == 200


@pytest.mark.parametrize("then", [Then.CUT, Then.STALL])
@scenario
async def test_what_a_run_has_reserved_is_settled_however_it_ends(then: Then) -> None:
    """I6: also where its last caller has left."""
    keys = [key("ann", concurrency=1, daily_tokens=10_000)]
    sections = {"keys": keys, "limits": {"max_attempts": 1, "modes": {"concurrency": "reject"}}}
    async with ollama() as backend, hermes(backend, **ON, **sections) as gateway:
        backend.scripts.append(play("Hel", then=then))
        call = await gateway.open(CHAT, greedy(), ANN)
        await until(lambda: len(backend.asked) == 1)
        if then is Then.STALL:
            assert (await gateway.ask(CHAT, chat("more", temperature=0), ANN)).status == 429
            call.leave()
        else:
            assert (await call.reply()).status == 502
        await until(lambda: open_holds(gateway) == 0)


@scenario
async def test_nobody_is_given_an_answer_of_a_model_that_he_may_not_use() -> None:
    """Whether it is kept, on its way, or under an idempotency key."""
    keys = [key("ann"), key("bob", models=["other*"])]
    async with ollama() as backend, hermes(backend, **ON, keys=keys, cache={"scope": "all"}) as gateway:
        assert (await gateway.ask(CHAT, greedy(), ANN)).status == 200
        assert (await gateway.ask(CHAT, greedy(), ANN)).headers["x-hermes-cache"] == "hit"
        for more in ({}, {"idempotency-key": "x"}, {"x-stainless-retry-count": "1"}):
            reply = await gateway.ask(CHAT, greedy(), BOB | more)
            assert (reply.status, reply.error["code"]) == (403, "model_not_allowed")
        assert len(backend.asked) == 1


@scenario
async def test_nobody_shares_a_run_that_may_end_with_a_model_he_may_not_use() -> None:
    models = {"gemma": {"fallback": ["phi"], "max_concurrency": 2}}
    keys = [key("ann"), key("bob", models=["gemma*"]), key("cid", models=["gemma*"])]
    sections = {"models": models, "keys": keys, "limits": {"max_attempts": 1}}
    async with (
        ollama("gemma:latest", "phi:latest") as backend,
        hermes(backend, **ON, **sections, cache={"scope": "all"}) as gateway,
    ):
        free = asyncio.Event()
        broken = play(free, {"error": "out of memory"})
        backend.scripts += [broken, broken, play("Hello", DONE)]
        calls = [await gateway.open(CHAT, greedy(stream=True), bearer(user)) for user in ("ann", "bob", "cid")]
        await until(lambda: sum(len(flight.callers) for flight in gateway.runtime.runs.running) == 3)
        await until(lambda: len(backend.asked) == 2)  # bob and cid share one
        free.set()
        ann, bob, cid = [await call.reply() for call in calls]
        assert (ann.status, ann.headers["x-hermes-model-served"]) == (200, "phi:latest")
        assert (bob.status, cid.status) == (502, 502)
        assert len(backend.asked) == 3


@scenario
async def test_an_answer_that_was_kept_under_an_idempotency_key_is_a_request_too(tmp_path: Any) -> None:
    sections = {"keys": [key("ann", rpm=2)], "server": {"state_dir": str(tmp_path)}}
    async with ollama() as backend, hermes(backend, **sections) as gateway:
        replies = [await gateway.ask(CHAT, chat(), ANN | {"idempotency-key": "x"}) for _ in range(3)]
        assert [reply.status for reply in replies] == [200, 200, 429] and len(backend.asked) == 1
        assert [reply.headers.get("idempotent-replayed") for reply in replies] == [None, "true", None]
        await gateway.settle()
        used = await total(gateway, ANN)
        assert (used["requests"], used["prompt_tokens"], used["refused"]) == (2, 7, 1)


@scenario
async def test_a_reload_is_heard_of_where_answers_are_given_again() -> None:
    """I34: whether there is a cache, which lines are left out, how much there is room for, how long, and for whom."""
    keys = [key("ann"), key("bob")]
    async with ollama() as backend, hermes(backend, keys=keys) as gateway:

        async def said(user: str = "ann", time: str = "") -> str:
            messages = [{"role": "system", "content": f"Time: {time}\nHi"}, {"role": "user", "content": "Hi"}]
            reply = await gateway.ask(CHAT, greedy(messages=messages), bearer(user))
            return reply.headers.get("x-hermes-cache", "")

        assert await said() == ""
        for cache, told in (
            ({}, ["miss", "hit", "miss"]),  # bob's own
            ({"scope": "all"}, ["miss", "hit", "hit"]),
            ({"scope": "key"}, ["hit", "hit", "hit"]),
            ({"ttl_s": 0.001}, ["miss", "miss", "miss"]),
            ({"max_bytes": 1}, ["miss", "miss", "miss"]),
            ({}, ["miss", "hit", "miss"]),
        ):
            attempt = await gateway.reload(backend, **ON, keys=keys, volatile_lines=["Time:"], cache=cache)
            assert attempt.needs_restart == ()
            heard = []
            for user, time in (("ann", "1"), ("ann", "2"), ("bob", "3")):
                heard.append(await said(user, time))
                await asyncio.sleep(0.002)
            assert heard == told, cache
        await gateway.reload(backend, keys=keys)
        assert await said() == ""


@scenario
async def test_two_models_that_backends_call_by_one_name_are_two() -> None:
    small = {"backend_model": "gemma", "backends": ["b0"]}
    async with ollama() as one, ollama() as other:
        one.default, other.default = play("small", DONE), play("large", DONE)
        models = {"small": small, "large": {**small, "backends": ["b1"]}}
        async with hermes(one, other, **ON, models=models) as gateway:
            told = [(await gateway.ask(CHAT, greedy(model=name))).body.decode() for name in ("small", "large")]
            assert "small" in told[0] and '"content":"large"' in told[1]


@scenario
async def test_nobody_joins_a_run_that_was_left() -> None:
    async with ollama() as backend, hermes(backend, **ON) as gateway:
        backend.scripts.append(play("Hel", then=Then.STALL))
        call = await gateway.open(CHAT, greedy(stream=True))
        await until(lambda: len(backend.asked) == 1)
        (flight,) = gateway.runtime.runs.running
        flight.stop()  # as its last caller's leaving does, a turn of the loop before it ends
        assert not flight.can_be_joined and (await gateway.ask(CHAT, greedy(stream=True))).status == 200
        call.leave()


@scenario
async def test_a_run_is_charged_also_where_its_answer_cannot_be_kept(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I32: else whoever fills the disk has his answers for nothing."""

    async def full(*what: Any) -> None:
        raise NotStored("the disk is full")

    sections = {"keys": [key("ann", daily_tokens=10_000)], "server": {"state_dir": str(tmp_path)}}
    async with ollama() as backend, hermes(backend, **sections) as gateway:
        monkeypatch.setattr(Records, "keep", full)
        assert (await gateway.ask(CHAT, chat(), ANN | {"idempotency-key": "x"})).status == 503
        await gateway.settle()
        used = await total(gateway, ANN)
        assert (used["requests"], used["prompt_tokens"]) == (1, 7) and open_holds(gateway) == 0


@scenario
async def test_what_is_left_before_it_has_begun_ends_as_what_has() -> None:
    """I2, I9: of a task that is cancelled before its first step nothing is run, nor what its end needs."""
    async with ollama() as backend, hermes(backend, **ON) as gateway:
        runs = gateway.runtime.runs
        begin = runs.begin

        def begin_and_leave(*args: Any, **kwargs: Any) -> Flight:
            flight = begin(*args, **kwargs)
            flight.stop()
            assert not flight.can_be_joined
            return flight

        runs.begin = begin_and_leave  # type: ignore[method-assign]
        assert (await gateway.ask(CHAT, greedy())).status == 503
        await until(lambda: not (runs.running or gateway.runtime.journal.runs), "it is there for ever")
