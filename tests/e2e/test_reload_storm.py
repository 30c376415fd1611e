"""Reload after reload under load, half of them of no use: nothing fails because of one, and nothing grows (I34).

`make reloads` does a thousand; HERMES_RELOADS says how many, and with it the figures are printed.
"""

import asyncio
import gc
import logging
import os
import resource
import time
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from hermes.config import Config
from hermes.errors import InvalidConfig
from tests.fakes.backend import DONE, FakeOllama, ollama, play
from tests.fakes.gateway import CHAT, PROMPT, Hermes, bearer, chat, config, hermes, key, prompt, scenario

RELOADS = int(os.environ.get("HERMES_RELOADS", "60"))
CLIENTS = 8
WARM_UP = 20
PAGE = os.sysconf("SC_PAGE_SIZE")


def variant(number: int, first: FakeOllama, second: FakeOllama) -> Config:
    """One of many, each unlike the last: backends come, go, and change places; so do caps, keys, models and rules."""
    urls = [(first.url, second.url), (second.url, first.url), (second.url,), (first.url,)][number % 4]
    backends = [
        {"name": f"b{index + number % 3}", "url": url, "slots": 1 + number % 5, "weight": 1 + number % 2}
        for index, url in enumerate(urls)
    ]
    models: dict[str, Any] = {"gemma": {"max_concurrency": 1 + number % 7}}
    if number % 5:
        models[f"other{number}"] = {"backend_model": "gemma", "options": {"num_ctx": 4096}}
    else:
        models["gemma"]["options"] = {"num_ctx": 1024 * (1 + number % 2)}
    return config(
        backends=backends,
        models=models,
        keys=[key("ann"), key("root", admin=True), key(f"user{number}")],
        limits={"max_concurrent": [None, 6][number // 2 % 2], "queue_total": 1000 + number},
        scheduling={"model_floor": 0.25 * (number % 3), "interactive": {"weight": 1 + number % 9}},
        health={"silence_s": [0, 30][number % 2]},
        server={"allowed_hosts": [f"host{number}"]},
    )


class Unkept(list[Any]):
    """What the test's own side would keep of each request."""

    def append(self, one: Any) -> None:
        pass


class Load:
    """Clients that ask for as long as they are let: whole and streamed, on connections that are kept."""

    def __init__(self, gateway: Hermes) -> None:
        self.gateway = gateway
        self.over = False
        self.answers = 0
        self.failed: list[tuple[int, Any]] = []

    async def ask(self, number: int) -> None:
        peer = await self.gateway.connect()
        for turn in count(number):
            if self.over:
                break
            body = chat(stream=True) if turn % 2 else prompt()
            reply = await self.gateway.ask(CHAT if turn % 2 else PROMPT, body, bearer("ann"), on=peer)
            self.answers += 1
            if reply.status != 200 or not reply.whole or (turn % 2 and reply.events[-1] != "[DONE]"):
                self.failed.append((reply.status, reply.body))
        peer.close()


def held_bytes() -> int:
    """Of memory, by this process: all of the test's own included."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE if Path("/proc/self/statm").exists() else 0


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture(autouse=True)
def unhurried_and_unheard(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """What is logged is kept by pytest, with all that it names."""
    monkeypatch.setattr("tests.support._LIMIT_S", 20.0 + RELOADS / 5)
    caplog.set_level(logging.ERROR)


@scenario
async def test_no_request_fails_by_a_reload_and_nothing_grows() -> None:
    async with ollama() as first, ollama() as second:
        for fake in (first, second):
            fake.default, fake.asked, fake.managed = slowly(), Unkept(), Unkept()
        async with hermes(first, second, keys=[key("ann")]) as gateway:
            gateway.runtime.journal.sinks.clear()
            load = Load(gateway)
            clients = [asyncio.get_running_loop().create_task(load.ask(number)) for number in range(CLIENTS)]
            took_s: list[float] = []
            await reload(gateway, first, second, 0, WARM_UP, took_s)
            gc.collect()
            before = held_bytes(), len(gc.get_objects()), open_files()
            await reload(gateway, first, second, WARM_UP, WARM_UP + RELOADS, took_s)
            gc.collect()
            after = held_bytes(), len(gc.get_objects()), open_files()
            load.over = True
            await asyncio.gather(*clients)
            assert load.failed == []
            assert load.answers > RELOADS / 4
            counted = gateway.counted("hermes_config_reloads_total")
            assert counted == {("ok",): (RELOADS + WARM_UP) / 2, ("refused",): (RELOADS + WARM_UP) / 2}
            gateway.given.problem = ""
            await gateway.take(variant(0, first, second))
            await gateway.settle()
            fleet, scheduler = gateway.runtime.fleet, gateway.runtime.scheduler
            assert set(scheduler._residency.sites) == set(fleet.backends)
            if "HERMES_RELOADS" in os.environ:
                took_s.sort()
                print(
                    f"\n{RELOADS} reloads, half of them refused, under {load.answers} answers, none of which failed;"
                    f" each took {1000 * took_s[len(took_s) // 2]:.1f} ms (median), {1000 * took_s[-1]:.1f} ms at most;"
                    f" memory {before[0] >> 10} -> {after[0] >> 10} KiB, objects {before[1]} -> {after[1]},"
                    f" open files {before[2]} -> {after[2]}; at most {resource.getrusage(0).ru_maxrss} KiB"
                )
            assert after[1] - before[1] < 5000 + 10 * CLIENTS, "objects that nobody lets go"
            assert after[2] - before[2] < 2 * CLIENTS + 8, "connections that nobody closes"
            assert after[0] - before[0] < 8 << 20


def slowly() -> Any:
    """An answer that takes some turns of the loop, so that reloads fall into every part of it."""

    async def script(asked: Any) -> None:
        await asyncio.sleep(0.004)
        await play("Hel", "lo", DONE)(asked)

    return script


async def reload(
    gateway: Hermes, first: FakeOllama, second: FakeOllama, begin: int, end: int, took_s: list[float]
) -> None:
    for number in range(begin, end):
        began_at = time.perf_counter()
        gateway.given.problem = "no good" if number % 2 else ""
        if number % 2:
            with pytest.raises(InvalidConfig):
                await gateway.runtime.reload("a test")
        else:
            await gateway.take(variant(number // 2, first, second))
        took_s.append(time.perf_counter() - began_at)
