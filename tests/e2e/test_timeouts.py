"""Every wait has its limit, counted from where the configuration says."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.fakes.backend import DONE, Asked, Then, endless, ollama, play
from tests.fakes.gateway import CHAT, PROMPT, chat, hermes, prompt, scenario

# Deadlines are looked at four times a second.
LATE_S = 0.5


@contextmanager
def lasts(at_least_s: float) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    began_at = loop.time()
    yield
    assert at_least_s - 0.02 <= loop.time() - began_at <= at_least_s + LATE_S


@pytest.mark.parametrize("body", [prompt(), prompt(stream=True)], ids=["whole", "stream"])
@scenario
async def test_timeout_s_counts_from_arrival_the_queue_included(body: dict[str, Any]) -> None:
    async with ollama() as backend, hermes(backend, defaults={"timeout_s": 0.6}) as gateway:
        free = asyncio.Event()
        backend.scripts += [play(free, "Hel", DONE), play(then=Then.STALL)]
        first = await gateway.open(PROMPT, prompt())
        await backend.request(0)
        with lasts(0.6):
            second = await gateway.open(PROMPT, body)
            await gateway.until_waiting(1)
            asyncio.get_running_loop().call_later(0.4, free.set)
            assert (await second.reply()).error["code"] == "backend_timeout"
        assert (await first.reply()).status == 200
        record = await gateway.record(1)
        assert record.queue_ms is not None and record.queue_ms >= 380


async def slowly(asked: Asked) -> None:
    """Six pieces, 0.1 s apart."""
    await play(*[step for _ in range(6) for step in ("x", _after(0.1))], DONE)(asked)


def _after(delay_s: float) -> asyncio.Event:
    return _Lazily(delay_s)


class _Lazily(asyncio.Event):
    def __init__(self, delay_s: float) -> None:
        super().__init__()
        self._delay_s = delay_s

    async def wait(self) -> Any:
        asyncio.get_running_loop().call_later(self._delay_s, self.set)
        return await super().wait()


@scenario
async def test_a_stream_may_last_longer_than_timeout_s_once_it_has_begun() -> None:
    async with ollama() as backend, hermes(backend, defaults={"timeout_s": 0.3, "stall_timeout_s": 0.4}) as gateway:
        backend.default = slowly
        with lasts(0.6):
            reply = await gateway.ask(CHAT, chat(stream=True))
        assert reply.events[-1] == "[DONE]"


@scenario
async def test_a_whole_answer_may_not() -> None:
    async with ollama() as backend, hermes(backend, defaults={"timeout_s": 0.3}) as gateway:
        backend.default = slowly
        with lasts(0.3):
            assert (await gateway.ask(CHAT, chat())).status == 504


@scenario
async def test_thinking_is_content_too() -> None:
    async with ollama() as backend, hermes(backend, defaults={"timeout_s": 0.3, "stall_timeout_s": 1.5}) as gateway:
        thought = b'{"message":{"content":"","thinking":"Hm"},"done":false}\n'
        backend.default = play(thought, _after(0.7), "Yes", DONE)
        assert (await gateway.ask(CHAT, chat(stream=True))).events[-1] == "[DONE]"


@pytest.mark.parametrize("settings", [{"stall_timeout_s": 0.3}, {"max_stream_s": 0.3}])
@scenario
async def test_a_silent_stream_ends_in_an_error(settings: dict[str, float]) -> None:
    async with ollama() as backend, hermes(backend, defaults=settings) as gateway:
        backend.default = play("Hel", then=Then.STALL)
        with lasts(0.3):
            reply = await gateway.ask(PROMPT, prompt(stream=True))
        assert (reply.events[-1]["error"]["code"], reply.whole) == ("backend_timeout", False)
        async with asyncio.timeout(1.0):
            await backend.asked[0].left.wait()


@scenario
async def test_a_stream_without_end_is_ended() -> None:
    """I15: however fast it is, and though bytes never cease to come."""
    async with ollama() as backend, hermes(backend, defaults={"timeout_s": 0.5, "max_stream_s": 0.5}) as gateway:
        backend.default = endless(b'{"message":{"content":"x"},"done":false}\n')
        with lasts(0.5):
            call = await gateway.open(PROMPT, prompt(stream=True))
            await call.head()
            while await call.piece():
                pass
        assert not call.whole
        async with asyncio.timeout(1.0):
            await backend.asked[0].left.wait()


@scenario
async def test_a_slow_reader_does_not_prolong_a_stream() -> None:
    async with ollama() as backend, hermes(backend, defaults={"max_stream_s": 0.3}) as gateway:
        backend.default = endless(b'{"message":{"content":"%s"},"done":false}\n' % (b"x" * 8000))
        call = await gateway.open(PROMPT, prompt(stream=True))
        assert await call.head() == 200
        await asyncio.sleep(0.6)  # the time that is over
        while await call.piece():
            pass
        assert (await gateway.record()).outcome == "upstream_timeout"
        assert not call.whole


@scenario
async def test_a_model_may_have_times_of_its_own() -> None:
    models = {"quick": {"backend_model": "gemma", "timeout_s": 0.2}}
    async with ollama() as backend, hermes(backend, models=models) as gateway:
        backend.default = play(then=Then.STALL)
        with lasts(0.2):
            assert (await gateway.ask("/v1/llm/quick", prompt())).status == 504
