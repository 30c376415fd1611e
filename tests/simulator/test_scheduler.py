"""The rules at the top of scheduler.py, one by one, and a storm of random requests that must leave nothing behind."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hermes.simulator import SimulatedModel, Stats
from hermes.simulator.clock import Clock
from hermes.simulator.gojson import Refusal
from hermes.simulator.requests import FOREVER_S, Options
from hermes.simulator.scheduler import LoadOptions, Runner, Scheduler
from tests.simulator.harness import config, run, settle

GIB = 1024**3
A, B, C, D = (SimulatedModel(name, memory_bytes=8 * GIB, load_s=5.0, slots=2) for name in "abcd")


class Bench:
    """A scheduler at work, with what tests say to it all the time."""

    def __init__(self, **changes: Any) -> None:
        self.loop = asyncio.get_running_loop()
        self.stats = Stats()
        self.config = config(**changes)
        self.scheduler = Scheduler(self.config, Clock(self.loop, self.config.speed), self.stats, self.loop)
        self.began = self.loop.time()
        self._task = self.loop.create_task(self.scheduler.run())

    def ask(self, model: SimulatedModel, keep_alive_s: float | None = None, **options: Any) -> "asyncio.Task[Runner]":
        shift = options.pop("shift", True)
        wanted = LoadOptions(model, Options(**options), shift, self.config.num_ctx)
        return self.loop.create_task(self.scheduler.acquire(model, wanted, keep_alive_s))

    async def load(self, *models: SimulatedModel, keep_alive_s: float | None = None) -> None:
        for model in models:
            self.scheduler.release(await self.ask(model, keep_alive_s))

    @property
    def loaded(self) -> str:
        return "".join(sorted(runner.model.name for runner in self.scheduler.loaded))

    @property
    def elapsed(self) -> float:
        return round(self.loop.time() - self.began, 6)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self.scheduler.stop()


def bench(**changes: Any) -> Callable[[Callable[[Bench], Coroutine[Any, Any, None]]], Callable[[], None]]:
    """Run a test inside a jumping loop, with a bench."""

    def decorate(test: Callable[[Bench], Coroutine[Any, Any, None]]) -> Callable[[], None]:
        def started() -> None:
            async def main() -> None:
                made = Bench(**changes)
                await test(made)
                await made.close()

            run(main)

        started.__name__ = test.__name__
        return started

    return decorate


async def refused(asked: Awaitable[Runner]) -> tuple[int, str]:
    with pytest.raises(Refusal) as caught:
        await asked
    return caught.value.status, caught.value.text


@bench()
async def test_a_load_takes_its_time_and_happens_once(at: Bench) -> None:
    runners = await asyncio.gather(at.ask(A), at.ask(A), at.ask(A))
    assert at.elapsed == 5.0
    assert (len(set(runners)), at.stats.loads) == (1, 1)
    await at.ask(A)
    assert at.elapsed == 5.0


@bench(speed=10.0)
async def test_a_faster_machine_loads_faster(at: Bench) -> None:
    await at.ask(A)
    assert at.elapsed == 0.5


@bench(max_queue=2)
async def test_only_requests_that_need_a_load_find_the_queue_full(at: Bench) -> None:
    first = at.ask(A)
    await settle()  # the head is being served, and is in the queue no more
    waiting = [at.ask(B), at.ask(C)]
    await settle()
    assert at.scheduler.pending == 2
    expected = (503, "server busy, please try again.  maximum pending requests exceeded")
    assert await refused(at.ask(D)) == expected
    await first
    waiting.append(at.ask(A))  # loaded by now: no queue at all
    await settle()
    assert waiting[-1].done()
    assert not waiting[-1].exception()
    for task in waiting:
        task.cancel()


@bench()
async def test_the_head_of_the_queue_blocks_what_is_behind(at: Bench) -> None:
    tasks = [at.ask(A), at.ask(B), at.ask(A)]
    await tasks[1]
    assert at.elapsed == 10.0
    assert tasks[2].done()  # it was behind b, though a has been loaded since 5.0


@bench(memory_bytes=24 * GIB)
async def test_a_model_that_would_fill_the_memory_evicts_the_idle_one_by_keep_alive_then_name(at: Bench) -> None:
    await at.load(C, keep_alive_s=60)
    await at.load(B, keep_alive_s=60)
    assert at.loaded == "bc"
    await at.load(D)  # 8 GiB are free, of which a load may take 80 %
    assert at.loaded == "cd"
    await at.load(A)
    assert at.loaded == "ad"


@bench(memory_bytes=24 * GIB)
async def test_the_shortest_keep_alive_goes_first_whatever_its_name(at: Bench) -> None:
    await at.load(B, keep_alive_s=60)
    await at.load(C, keep_alive_s=50)
    await at.load(D)
    assert at.loaded == "bd"


@bench(memory_bytes=100 * GIB, max_loaded_models=2)
async def test_no_more_models_are_loaded_than_allowed(at: Bench) -> None:
    await at.load(A, B, C)
    assert at.loaded == "bc"


@bench(memory_bytes=12 * GIB)
async def test_a_busy_model_is_never_evicted_but_waited_for(at: Bench) -> None:
    runner = await at.ask(A)
    waiting = at.ask(B)
    await asyncio.sleep(100)
    assert (at.loaded, waiting.done()) == ("a", False)
    at.scheduler.release(runner)
    await waiting
    assert (at.loaded, at.elapsed) == ("b", 110.0)


@bench(memory_bytes=24 * GIB)
async def test_an_idle_model_goes_before_a_busy_one_with_less_keep_alive(at: Bench) -> None:
    await at.ask(A, keep_alive_s=1)
    await at.load(B, keep_alive_s=1000)
    await at.load(C)
    assert at.loaded == "ac"


@bench()
async def test_keep_alive_runs_from_when_the_model_falls_idle(at: Bench) -> None:
    runner = await at.ask(A, keep_alive_s=30)
    await asyncio.sleep(100)
    assert at.loaded == "a"
    at.scheduler.release(runner)
    await asyncio.sleep(29.9)
    assert at.loaded == "a"
    await asyncio.sleep(0.2)
    assert (at.loaded, at.stats.unloads) == ("", 1)


@bench()
async def test_the_last_request_s_keep_alive_holds(at: Bench) -> None:
    await at.load(A, keep_alive_s=10)
    await at.load(A, keep_alive_s=1000)
    await at.load(A)  # says nothing
    await asyncio.sleep(900)
    assert at.loaded == "a"
    await at.load(A, keep_alive_s=0)
    assert at.loaded == ""


@bench()
async def test_a_model_may_stay_for_ever(at: Bench) -> None:
    await at.load(A, keep_alive_s=FOREVER_S)
    await asyncio.sleep(1e7)
    assert at.loaded == "a"


@bench()
async def test_an_unload_waits_for_what_is_running(at: Bench) -> None:
    runner = await at.ask(A)
    at.scheduler.expire(A)
    assert at.loaded == "a"
    at.scheduler.release(runner)
    assert at.loaded == ""
    at.scheduler.expire(A)


@bench()
async def test_another_context_length_makes_a_model_load_again(at: Bench) -> None:
    first = await at.ask(A)
    waiting = at.ask(A, num_ctx=8192)
    await asyncio.sleep(50)
    assert not waiting.done()  # the first request is still there
    at.scheduler.release(first)
    second = await waiting
    assert (second.options.num_ctx, at.stats.loads, at.elapsed) == (8192, 2, 60.0)


@pytest.mark.parametrize(
    ("options", "reloads"),
    [
        ({}, False),
        ({"num_ctx": 4096}, False),  # what it has already
        ({"num_ctx": 5000}, True),
        ({"num_predict": 7, "seed": 3}, False),
        ({"load": (("num_gpu", -1),)}, False),
        ({"load": (("num_gpu", 20),)}, True),
        ({"load": (("use_mmap", False),)}, True),
        ({"shift": False}, True),
    ],
)
def test_only_what_a_runner_is_started_with_makes_it_start_anew(options: dict[str, Any], reloads: bool) -> None:
    @bench()
    async def check(at: Bench) -> None:
        await at.load(A)
        await at.ask(A, **options)
        assert at.stats.loads == 1 + reloads

    check()


@bench()
async def test_a_context_is_not_longer_than_the_model_s(at: Bench) -> None:
    runner = await at.ask(A, num_ctx=10**6)
    assert runner.options.num_ctx == A.context_length


@bench()
async def test_a_load_that_nobody_waits_for_is_given_up(at: Bench) -> None:
    leaving, staying = at.ask(A), at.ask(A)
    await asyncio.sleep(4.0)
    leaving.cancel()
    await staying
    assert at.elapsed == 9.0  # the load began anew
    assert (at.stats.loads, at.stats.aborted_loads) == (1, 1)


@bench()
async def test_a_client_that_leaves_the_queue_is_never_served(at: Bench) -> None:
    loading, leaving, behind = at.ask(A), at.ask(B), at.ask(C)
    await asyncio.sleep(1.0)
    leaving.cancel()
    await behind
    assert (at.elapsed, at.loaded, loading.done()) == (10.0, "ac", True)


@bench()
async def test_a_client_that_leaves_as_it_is_granted_gives_the_runner_back(at: Bench) -> None:
    task = at.ask(A, keep_alive_s=7)
    await asyncio.sleep(5.0)
    for _ in range(10):
        if not at.loaded:
            await asyncio.sleep(0)
    task.cancel()  # it holds the runner, and does not know yet
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    await asyncio.sleep(8)
    assert at.loaded == ""


@bench(memory_bytes=4 * GIB)
async def test_a_model_larger_than_the_memory_fails_to_load(at: Bench) -> None:
    text = "model requires more system memory (8.0 GiB) than is available (4.0 GiB)"
    assert await refused(at.ask(A)) == (500, text)
    assert await refused(at.ask(A)) == (500, text)


@bench()
async def test_a_crash_takes_the_runner_away_and_the_next_request_loads_it_again(at: Bench) -> None:
    runner = await at.ask(A)
    at.scheduler.crash(runner)
    at.scheduler.crash(runner)
    assert (at.loaded, runner.crashed) == ("", True)
    fresh = await at.ask(A)
    at.scheduler.release(runner)  # late: it is not the one that is loaded
    assert (fresh is runner, fresh.users, at.loaded) == (False, 1, "a")


# --- slots ----------------------------------------------------------------------------------------------------------


@bench()
async def test_slots_are_given_in_order_and_bound_what_runs(at: Bench) -> None:
    runner = await at.ask(A)
    order: list[int] = []

    async def use(number: int) -> None:
        async with at.scheduler.slot(runner):
            order.append(number)
            await asyncio.sleep(1.0)

    await asyncio.gather(*map(use, range(5)))
    assert order == [0, 1, 2, 3, 4]
    assert at.elapsed == 5.0 + 3.0
    assert (at.stats.model("a").running.most, at.stats.model("a").running.now) == (2, 0)


@bench()
async def test_an_abandoned_prompt_keeps_its_slot_until_it_is_read(at: Bench) -> None:
    runner = await at.ask(A)
    began = at.loop.time()

    async def leave() -> None:
        async with at.scheduler.slot(runner) as slot:
            slot.busy_until = began + 10.0
            await asyncio.sleep(1.0)

    await asyncio.gather(leave(), leave())
    async with at.scheduler.slot(runner):
        assert at.loop.time() - began == pytest.approx(10.0)


@bench()
async def test_a_slot_whose_prompt_has_been_read_is_free_at_once(at: Bench) -> None:
    runner = await at.ask(A)
    async with at.scheduler.slot(runner) as slot:
        slot.busy_until = at.loop.time() - 1.0
    assert at.stats.model("a").running.now == 0


@bench()
async def test_a_prompt_read_for_nobody_dies_with_its_model(at: Bench) -> None:
    runner = await at.ask(A, keep_alive_s=0)
    async with at.scheduler.slot(runner) as slot:
        slot.busy_until = at.loop.time() + 100.0
    assert at.stats.model("a").running.now == 1
    at.scheduler.release(runner)
    assert at.stats.model("a").running.now == 0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.booleans())
def test_whatever_comes_and_leaves_when_it_likes_nothing_is_left_behind(seed: int, crashes: bool) -> None:
    rng = random.Random(seed)

    async def visit(at: Bench) -> None:
        await asyncio.sleep(rng.uniform(0, 60))
        try:
            async with asyncio.timeout(rng.choice([1, 7, 30, 200])):
                runner = await at.ask(rng.choice([A, B, C, D]), rng.choice([None, 0, 5]), num_ctx=rng.choice([None, 9]))
                try:
                    assert sum(each.model.memory_bytes for each in at.scheduler.loaded) <= at.config.memory_bytes
                    assert len(at.scheduler.loaded) <= 2
                    async with at.scheduler.slot(runner) as slot:
                        slot.busy_until = at.loop.time() + rng.uniform(0, 5)
                        await asyncio.sleep(rng.uniform(0, 10))
                        if crashes and rng.random() < 0.1:
                            at.scheduler.crash(runner)
                finally:
                    at.scheduler.release(runner)
        except TimeoutError:
            pass

    @bench(memory_bytes=20 * GIB, max_loaded_models=2, keep_alive_s=20.0)
    async def storm(at: Bench) -> None:
        await asyncio.gather(*(visit(at) for _ in range(40)))
        await asyncio.sleep(300)
        assert (at.loaded, at.scheduler.pending, at.scheduler.loading) == ("", 0, None)
        for model in at.stats.models.values():
            assert model.running.now == 0
            assert crashes or model.running.most <= 2  # who has not noticed a crash yet is counted still
        assert at.stats.loads == at.stats.unloads

    storm()
