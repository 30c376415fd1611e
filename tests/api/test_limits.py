"""Limits on real sockets: what is refused and how, what is told of them, and that a refusal costs nothing elsewhere."""

import asyncio
from typing import Any

import pytest

from hermes.chat import MOST_TOKENS, UNSEEN_TOKENS
from hermes.policy.limits import Moment, Window
from tests.fakes.backend import DONE, Done, Then, fail, ollama, play
from tests.fakes.gateway import (
    CHAT,
    MESSAGES,
    PROMPT,
    STREAMS,
    WHOLE,
    Hermes,
    bearer,
    chat,
    hermes,
    key,
    prompt,
    scenario,
)
from tests.support import until

ANN = bearer("ann")


def used(gateway: Hermes, name: str = "daily_tokens", user: str = "ann") -> int:
    """Of a key's budget."""
    meter = gateway.runtime.meter
    assert meter is not None
    wanted = f"key {key(user)['sha256'][:12]}"
    (budget,) = [budget for account, budget in meter.limiter.budgets() if account == wanted]
    return budget.used


def limited(gateway: Hermes) -> dict[tuple[str, ...], float]:
    return gateway.counted("hermes_limited_total")


@pytest.mark.parametrize(("path", "body"), WHOLE + STREAMS)
@scenario
async def test_a_request_too_many_is_refused_in_its_own_dialect_and_told_when_to_come_again(
    path: str, body: dict[str, Any]
) -> None:
    async with ollama() as backend, hermes(backend, keys=[key("ann", rpm=1)]) as gateway:
        assert (await gateway.ask(path, body, ANN)).status == 200
        reply = await gateway.ask(path, body, ANN)
        assert (reply.status, reply.error["code"], reply.error["message"]) == (
            429,
            "rate_limit_exceeded",
            "Rate limit reached, of requests per minute of this key: the limit is 1"
            f"; again in {reply.headers['retry-after']} s",
        )
        assert 59 <= int(reply.headers["retry-after"]) <= 60
        assert 59_000 < int(reply.headers["retry-after-ms"]) <= 60_000
        assert len(backend.asked) == 1
        assert (await gateway.record(1)).outcome == "limited"
        assert limited(gateway) == {("rpm", "key", "enforce"): 1}


@pytest.mark.parametrize(("path", "body"), WHOLE + STREAMS)
@scenario
async def test_what_is_left_is_told_with_every_answer(path: str, body: dict[str, Any]) -> None:
    async with ollama() as backend, hermes(backend, keys=[key("ann", rpm=2, tpm=60_000), key("bob")]) as gateway:
        first, second, third = [await gateway.ask(path, body, ANN) for _ in range(3)]
        free = await gateway.ask(path, body, bearer("bob"))
    assert not [name for name in free.headers if "ratelimit" in name]
    if path == MESSAGES:
        assert [each.headers["anthropic-ratelimit-requests-remaining"] for each in (first, second, third)] == list(
            "100"
        )
        assert first.headers["anthropic-ratelimit-tokens-limit"] == "60000"
        assert first.headers["anthropic-ratelimit-requests-reset"].endswith("Z")
        return
    assert [each.headers["x-ratelimit-remaining-requests"] for each in (first, second, third)] == ["1", "0", "0"]
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-reset-requests"] == "1m0s"
    assert first.headers["x-ratelimit-limit-tokens"] == "60000"
    assert 59_000 < int(first.headers["x-ratelimit-remaining-tokens"]) < 60_000


@scenario
async def test_a_budget_is_charged_what_was_really_used_and_then_refused_until_the_next_day() -> None:
    async with ollama() as backend, hermes(backend, keys=[key("ann", daily_tokens=40)]) as gateway:
        for _ in range(2):
            assert (await gateway.ask(CHAT, chat(max_tokens=5), ANN)).status == 200
        record = await gateway.record()
        assert used(gateway) == 2 * (record.tokens_in + record.tokens_out) > 0
        while (reply := await gateway.ask(CHAT, chat(max_tokens=5), ANN)).status == 200:
            assert used(gateway) <= 40
        assert (reply.status, reply.error["code"], reply.error["type"]) == (
            429,
            "insufficient_quota",
            "insufficient_quota",
        )
        assert reply.error["message"].endswith(f": the limit is 40; again in {reply.headers['retry-after']} s")
        assert reply.headers["x-should-retry"] == "false" and 60 < int(reply.headers["retry-after"]) <= 86_400


@scenario
async def test_of_a_prompt_that_was_read_before_so_much_is_reserved_as_it_took() -> None:
    """I31: a token less each time would let one request too many into a budget."""
    async with ollama() as backend, hermes(backend, keys=[key("ann", daily_tokens=1000)]) as gateway:
        free = asyncio.Event()
        for _ in range(8):
            assert (await gateway.ask(CHAT, chat("Tell me more.", max_tokens=3), ANN)).status == 200
        before = used(gateway)
        backend.scripts.append(play(free, "Hel", DONE))
        call = await gateway.open(CHAT, chat("Tell me more.", max_tokens=3), ANN)
        await backend.request(8)
        assert used(gateway) - before == 10 == before / 8
        free.set()
        assert (await call.reply()).status == 200


@scenario
async def test_what_is_given_nothing_is_charged_nothing() -> None:
    """I6, I31"""
    mine = key("ann", rpm=5, daily_tokens=1000, tpm=1000)
    models = {"gemma": {"queue_limit": 0, "max_concurrency": 1}}
    async with ollama() as backend, hermes(backend, keys=[mine, key("bob")], models=models) as gateway:
        backend.default = play(then=Then.STALL)
        call = await gateway.open(PROMPT, prompt(), bearer("bob"))
        await backend.request(0)
        for _ in range(9):
            reply = await gateway.ask(PROMPT, prompt(), ANN)
            assert (reply.status, reply.error["code"]) == (429, "queue_full")
            assert reply.headers["x-ratelimit-remaining-requests"] == "4"
        assert used(gateway) == 0
        call.leave()


@scenario
async def test_a_client_that_leaves_the_queue_is_charged_nothing_and_one_that_leaves_a_backend_what_was_reserved() -> (
    None
):
    models = {"gemma": {"max_concurrency": 1}}
    async with ollama() as backend, hermes(backend, keys=[key("ann", daily_tokens=1000)], models=models) as gateway:
        backend.default = play(then=Then.STALL)
        runs = await gateway.open(CHAT, chat(max_tokens=30), ANN)
        await backend.request(0)
        reserved = used(gateway)
        assert reserved > 30
        waits = await gateway.open(CHAT, chat(max_tokens=30), ANN)
        await gateway.until_waiting(1)
        assert used(gateway) == 2 * reserved
        waits.leave()
        await until(lambda: used(gateway) == reserved)
        runs.leave()
        record = await gateway.record(1)
        assert record.tokens_in + record.tokens_out == used(gateway) == reserved


@pytest.mark.parametrize(("within_s", "headers"), [(100, {"x-hermes-deadline-ms": "150"}), (0.15, {})])
@scenario
async def test_who_gives_a_backend_too_little_time_is_charged_and_whose_backend_is_too_slow_is_not(
    within_s: float, headers: dict[str, str]
) -> None:
    models = {"gemma": {"timeout_s": within_s}}
    async with ollama() as backend, hermes(backend, keys=[key("ann", daily_tokens=1000)], models=models) as gateway:
        backend.default = play(then=Then.STALL)
        reply = await gateway.ask(CHAT, chat(max_tokens=30), ANN | headers)
        assert reply.error["code"] == "backend_timeout"
        assert (used(gateway) > 30) == bool(headers)


@scenario
async def test_requests_over_a_keys_concurrency_wait_and_are_served() -> None:
    keys = [key("ann", concurrency=3), key("bob")]
    async with ollama() as backend, hermes(backend, keys=keys, defaults={"max_concurrency": 9}) as gateway:
        free = asyncio.Event()
        backend.default = play(free, "Hel", DONE)
        calls = [await gateway.open(PROMPT, prompt(), ANN) for _ in range(8)]
        await gateway.until_waiting(5)
        assert gateway.running == 3
        free.set()
        assert {(await call.reply()).status for call in calls} == {200}


@scenario
async def test_requests_over_a_keys_concurrency_are_refused_where_that_is_asked_for() -> None:
    keys, limits = [key("ann", concurrency=1)], {"modes": {"concurrency": "reject"}}
    async with ollama() as backend, hermes(backend, keys=keys, limits=limits) as gateway:
        free = asyncio.Event()
        backend.default = play(free, "Hel", DONE)
        call = await gateway.open(PROMPT, prompt(), ANN)
        await backend.request(0)
        reply = await gateway.ask(PROMPT, prompt(), ANN)
        assert (reply.status, reply.error["code"]) == (429, "rate_limit_exceeded")
        free.set()
        assert (await call.reply()).status == 200
        assert (await gateway.ask(PROMPT, prompt(), ANN)).status == 200


@scenario
async def test_a_limit_in_the_shadow_refuses_nobody_and_counts_whom_it_would_have() -> None:
    keys, limits = [key("ann", rpm=2)], {"modes": {"rpm": "shadow"}}
    async with ollama() as backend, hermes(backend, keys=keys, limits=limits) as gateway:
        replies = [await gateway.ask(PROMPT, prompt(), ANN) for _ in range(5)]
        assert {reply.status for reply in replies} == {200}
        assert "x-ratelimit-limit-requests" not in replies[0].headers
        assert limited(gateway) == {("rpm", "key", "shadow"): 3}


@scenario
async def test_a_models_limit_holds_for_all_keys_together_by_whatever_name_they_ask() -> None:
    models = {"gemma": {"rpm": 2}}
    async with ollama() as backend, hermes(backend, keys=[key("ann"), key("bob")], models=models) as gateway:
        assert (await gateway.ask(CHAT, chat(), ANN)).status == 200
        assert (await gateway.ask(CHAT, chat(model="gemma:latest"), bearer("bob"))).status == 200
        reply = await gateway.ask(CHAT, chat(model="gemma:latest"), bearer("bob"))
        assert reply.error["message"] == (
            "Rate limit reached, of requests per minute of this model, by all keys: the limit is 2"
            f"; again in {reply.headers['retry-after']} s"
        )


@scenario
async def test_a_key_may_use_some_models_less_than_others() -> None:
    mine = key("ann", per_model={"gem*": {"rpm": 1}, "*": {"rpm": 5}})
    async with ollama() as backend, hermes(backend, keys=[mine]) as gateway:
        assert (await gateway.ask(CHAT, chat(), ANN)).status == 200
        reply = await gateway.ask(CHAT, chat(), ANN)
        assert "this key with this model: the limit is 1" in reply.error["message"]


@scenario
async def test_retries_and_fallbacks_are_one_request() -> None:
    models = {
        "gemma": {"backends": ["b0"], "fallback": ["phi"], "rpm": 1},
        "phi": {"backends": ["b1"], "rpm": 1},
    }
    async with (
        ollama("gemma:latest") as bad,
        ollama("phi:latest") as good,
        hermes(bad, good, keys=[key("ann", rpm=3)], models=models) as gateway,
    ):
        bad.scripts += [fail(500, "CUDA error")] * 3
        reply = await gateway.ask(CHAT, chat(), ANN)
        assert reply.headers["x-hermes-model-served"] == "phi"
        assert (len(bad.asked), len(good.asked)) == (3, 1)
        refused = await gateway.ask(CHAT, chat(model="phi"), ANN)
        assert refused.error["code"] == "rate_limit_exceeded"
        assert (await gateway.ask(CHAT, chat(), ANN)).status == 200  # gemma's was given back
        meter = gateway.runtime.meter
        assert meter is not None
        (own,) = [each for each in meter.limiter._accounts.values() if each.scope == "key"]
        window = own.limits["rpm"]
        assert isinstance(window, Window)
        assert window.quota(Moment(asyncio.get_running_loop().time(), 0.0)).remaining == 1


@scenario
async def test_a_bound_for_one_model_holds_whether_or_not_its_tag_is_said() -> None:
    bounded = key("ann", per_model={"gemma": {"rpm": 1}})
    async with ollama() as backend, hermes(backend, keys=[bounded]) as gateway:
        names = ("gemma", "gemma:latest", "gemma")
        assert [(await gateway.ask(CHAT, chat(model=name), ANN)).status for name in names] == [200, 429, 429]


@scenario
async def test_what_was_used_is_remembered_while_a_limit_is_off() -> None:
    """I31: a reload that turns it off and on gives nobody a new day."""
    keys = [key("ann", daily_tokens=10_000)]
    async with ollama() as backend, hermes(backend, keys=keys) as gateway:
        await gateway.ask(CHAT, chat(), ANN)
        await gateway.settle()
        before = used(gateway)
        await gateway.reload(backend, keys=keys, limits={"modes": {"daily_tokens": "off"}})
        await gateway.ask(CHAT, chat(), ANN)
        await gateway.reload(backend, keys=keys)
        await gateway.ask(CHAT, chat(), ANN)
        await gateway.settle()
        assert used(gateway) == 2 * before == 20


@scenario
async def test_who_leaves_a_long_stream_is_charged_what_came_of_it() -> None:
    """I31: short answers before it teach nothing that would make it cheap."""
    async with ollama() as backend, hermes(backend, keys=[key("ann", daily_tokens=10_000)]) as gateway:
        backend.scripts.append(play(*["word "] * 400, then=Then.STALL))
        call = await gateway.open(CHAT, chat(stream=True, max_tokens=1), ANN)
        assert await call.head() == 200
        for _ in range(401):
            await call.event()
        call.leave()
        await gateway.settle()
        assert 500 <= used(gateway) < 600


CLAIM = Done(prompt_eval_count=MOST_TOKENS, eval_count=MOST_TOKENS)


@pytest.mark.parametrize("stream", [True, False])
@scenario
async def test_of_tokens_that_cannot_have_been_no_more_are_charged_than_can(
    stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """I15, I31: it is what a backend says, and it may say anything."""
    async with ollama() as backend, hermes(backend, keys=[key("ann", daily_tokens=10**9)]) as gateway:
        backend.default = play("Hello", CLAIM)
        assert (await gateway.ask(CHAT, chat(stream=stream), ANN)).status == 200
        await gateway.settle()
        record = await gateway.record(0)
        assert used(gateway) == record.tokens_in + record.tokens_out
        assert UNSEEN_TOKENS < record.tokens_in < UNSEEN_TOKENS + 500
        assert record.tokens_out == UNSEEN_TOKENS + 4 * len("Hello")
        assert f"claims {MOST_TOKENS} + {MOST_TOKENS} tokens" in caplog.text


@scenario
async def test_nor_are_they_told_of_who_shares_a_run_that_its_backend_has_not_ended() -> None:
    """I15"""
    keys, models = [key("ann", daily_tokens=10**9)], {"gemma": {"cache": "forced"}}
    async with ollama() as backend, hermes(backend, keys=keys, models=models) as gateway:
        ends = asyncio.Event()
        backend.default = play("Hello", CLAIM, ends)
        call = await gateway.open(CHAT, chat(stream=True), ANN)
        await call.head()
        assert (await call.events())[-1] == "[DONE]"
        record = await gateway.record()
        assert record.tokens_out == UNSEEN_TOKENS + 4 * len("Hello")
        ends.set()
        await gateway.settle()


LONG = "x" * UNSEEN_TOKENS
HONEST = Done(prompt_eval_count=2 * UNSEEN_TOKENS, eval_count=2 * UNSEEN_TOKENS)
CALL = {"content": "", "tool_calls": [{"function": {"name": "write", "arguments": {"text": LONG}}}]}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("steps", [(LONG, HONEST), ({"message": CALL, **HONEST.told()},)], ids=["text", "call"])
@scenario
async def test_a_long_answer_to_a_long_prompt_is_charged_in_full(steps: Any, stream: bool) -> None:
    """I31"""
    async with ollama() as backend, hermes(backend, keys=[key("ann", daily_tokens=10**9)]) as gateway:
        backend.default = play(*steps)
        assert (await gateway.ask(CHAT, chat(LONG, stream=stream), ANN)).status == 200
        await gateway.settle()
        assert used(gateway) == HONEST.prompt_eval_count + HONEST.eval_count
