"""Very many at once against limits for few, and kill -9: none is ever exceeded, and nobody refused for nothing.

HERMES_AT_ONCE and HERMES_KILLS say how many; `make chaos` sends a thousand.
"""

import asyncio
import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from hermes.policy.limiter import Hold, Limiter, Party, Refusal
from hermes.policy.limits import BLOCKS, Budget, Moment, Window
from tests.fakes.backend import DONE, Asked, FakeOllama, ollama, play
from tests.fakes.gateway import CHAT, Hermes, Reply, bearer, chat, hermes, key, scenario
from tests.fakes.process import serve

ANN = bearer("ann")
AT_ONCE = int(os.environ.get("HERMES_AT_ONCE", "250"))
KILLS = int(os.environ.get("HERMES_KILLS", "2"))
# What the fake backend says of an answer, which is no more than what is reserved for it.
TOKENS = 10
ASKED = chat("Tell me more.", max_tokens=3)


class Watch:
    """Looks at each reservation as it is made: what was there for whom, and what was refused in spite of room."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.most_used = 0
        self.refused: Counter[str] = Counter()
        self.wrong: list[str] = []
        reserve, settle = Limiter.reserve, Hold.settle

        def watched(limiter: Limiter, party: Party, prompt: int, most: int | None, at: Moment) -> Hold | Refusal:
            found = reserve(limiter, party, prompt, most, at)
            (budget,) = [budget for _, budget in party.budgets]
            self.look(budget)
            if isinstance(found, Refusal):
                self.refused[found.limit] += 1
                if found.limit == "daily_tokens" and budget.used + prompt + (most or 0) <= budget.most:
                    self.wrong.append(f"{found} though {budget.used} were used")
            return found

        def settled(hold: Hold, used: tuple[int, int] | None, at: Moment) -> None:
            settle(hold, used, at)
            self.look(hold.party.budgets[0][1])

        monkeypatch.setattr(Limiter, "reserve", watched)
        monkeypatch.setattr(Hold, "settle", settled)

    def look(self, budget: Budget) -> None:
        self.most_used = max(self.most_used, budget.used)
        if budget.used > budget.most:
            self.wrong.append(f"{budget.used} of {budget.most} were used")


class Crowd:
    """What the backend sees at once."""

    def __init__(self, backend: FakeOllama) -> None:
        self.now = self.most = 0
        self._play = play("Hello", DONE)
        backend.default = self.answer

    async def answer(self, asked: Asked) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.001)
        self.now -= 1
        await self._play(asked)


async def storm(gateway: Hermes) -> Counter[str]:
    """All of them at once; how many fared how."""
    replies: list[Reply] = await asyncio.gather(*(gateway.ask(CHAT, ASKED, ANN) for _ in range(AT_ONCE)))
    return Counter(reply.error["code"] if reply.status != 200 else "ok" for reply in replies)


def books(gateway: Hermes) -> tuple[Window, Budget]:
    meter = gateway.runtime.meter
    assert meter is not None
    (account,) = meter.limiter._accounts.values()
    window, budget = account.limits["rpm"], account.limits["daily_tokens"]
    assert isinstance(window, Window) and isinstance(budget, Budget)
    return window, budget


def left(window: Window) -> int:
    return window.quota(Moment(asyncio.get_running_loop().time(), 0.0)).remaining


def test_of_very_many_at_once_as_many_are_served_as_a_limit_on_requests_lets_and_no_more_run_than_may(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """I6: who is refused by it takes nothing of the budget."""
    watch = Watch(monkeypatch)

    @scenario
    async def go() -> None:
        mine = key("ann", rpm=60, concurrency=3, daily_tokens=1_000_000)
        async with ollama() as backend, hermes(backend, keys=[mine], defaults={"max_concurrency": 50}) as gateway:
            crowd = Crowd(backend)
            assert await storm(gateway) == {"ok": 60, "rate_limit_exceeded": AT_ONCE - 60}
            window, budget = books(gateway)
            assert (crowd.most, left(window), budget.used) == (3, 0, 60 * TOKENS)
            assert gateway.counted("hermes_limited_total") == {("rpm", "key", "enforce"): AT_ONCE - 60}

    go()
    assert watch.refused == {"rpm": AT_ONCE - 60} and not watch.wrong


def test_of_very_many_at_once_none_is_over_a_budget_for_a_hundred_and_all_of_it_can_be_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """I31; I6: who is refused by it takes nothing of the limit on requests."""
    watch = Watch(monkeypatch)

    @scenario
    async def go() -> None:
        mine = key("ann", rpm=100_000, daily_tokens=100 * TOKENS)
        async with ollama() as backend, hermes(backend, keys=[mine], defaults={"max_concurrency": 50}) as gateway:
            Crowd(backend)
            served = (await storm(gateway))["ok"]
            while (await gateway.ask(CHAT, ASKED, ANN)).status == 200:
                served += 1
            window, budget = books(gateway)
            assert budget.used == served * TOKENS <= 1000 == budget.most
            assert served >= 95, "a request reserves more than it takes: so much may be left"
            assert left(window) == 100_000 - served

    go()
    assert watch.refused["daily_tokens"] == sum(watch.refused.values()) > AT_ONCE - 100
    assert not watch.wrong and 900 < watch.most_used <= 1000


def test_of_very_many_at_once_no_more_than_may_are_let_in_where_more_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watch = Watch(monkeypatch)

    @scenario
    async def go() -> None:
        mine, limits = key("ann", rpm=100_000, concurrency=3, daily_tokens=10**9), {"modes": {"concurrency": "reject"}}
        models = {"max_concurrency": 50}
        async with ollama() as backend, hermes(backend, keys=[mine], limits=limits, defaults=models) as gateway:
            crowd = Crowd(backend)
            fared = await storm(gateway)
            window, budget = books(gateway)
            assert crowd.most == 3 <= fared["ok"]
            assert (left(window), budget.used) == (100_000 - fared["ok"], fared["ok"] * TOKENS)

    go()
    assert not watch.wrong and watch.refused.keys() == {"concurrency"}


# --- kill -9 ----------------------------------------------------------------------------------------------------------


@scenario
async def test_a_budget_holds_over_kill_9_and_little_of_it_is_lost(tmp_path: Path) -> None:
    """I31: whatever the moment, what was used before counts afterwards."""
    most = 64 * TOKENS
    (tmp_path / "state").mkdir()
    environ: dict[str, Any] = {
        "HERMES_SERVER__STATE_DIR": str(tmp_path / "state"),
        "HERMES_KEYS": json.dumps([key("ann", daily_tokens=most)]),
    }
    served = 0
    async with ollama() as backend:
        for _ in range(KILLS):
            async with serve(tmp_path, backend=backend, **environ) as process:
                for _ in range(9):
                    served += (await (await process.open(CHAT, ASKED, ANN)).reply()).status == 200
                process.signal(signal.SIGKILL)
                await process.end()
        assert served == 9 * KILLS, "there was room"
        async with serve(tmp_path, backend=backend, **environ) as process:
            while (await (await process.open(CHAT, ASKED, ANN)).reply()).status == 200:
                served += 1
            used = (await (await process.open("/v1/usage", headers=ANN)).reply()).json["total"]
    assert served * TOKENS <= most
    # Of each start a block, and what was reserved then; in the end what is less than a request.
    assert served * TOKENS >= most - KILLS * (most // BLOCKS + 3 * TOKENS) - 3 * TOKENS
    assert used["total_tokens"] <= served * TOKENS
