"""The virtual loop itself: what the simulations stand on."""

import asyncio

import pytest

from tests.simulation.loop import Stuck, VirtualLoop


async def sleepers(*seconds: float) -> list[float]:
    loop = asyncio.get_running_loop()
    woken: list[float] = []

    async def sleep(duration_s: float) -> None:
        await asyncio.sleep(duration_s)
        woken.append(loop.time() - 1000.0)

    await asyncio.gather(*map(sleep, seconds))
    return woken


def test_time_jumps_from_timer_to_timer() -> None:
    assert VirtualLoop().run(sleepers(3600.0, 0.5, 7.0)) == [0.5, 7.0, 3600.0]


def test_a_timeout_ends_a_wait() -> None:
    async def wait() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5.0):
                await asyncio.Event().wait()
        return asyncio.get_running_loop().time()

    assert VirtualLoop().run(wait()) == 1005.0


def test_a_wait_without_an_end_is_found() -> None:
    loop = VirtualLoop()

    async def wait() -> None:
        await loop.create_future()

    with pytest.raises(Stuck):
        loop.run(wait())


def order(seed: int | None) -> list[int]:
    loop = VirtualLoop(seed)
    done: list[int] = []

    async def main() -> None:
        await asyncio.gather(*(note(number) for number in range(8)))

    async def note(number: int) -> None:
        await asyncio.sleep(0)
        done.append(number)

    loop.run(main())
    return done


def test_the_seed_draws_the_order_and_the_same_seed_draws_the_same() -> None:
    assert order(None) == sorted(order(1)) == list(range(8))
    assert order(1) == order(1)
    assert len({tuple(order(seed)) for seed in range(20)}) > 15


def test_an_action_happens_between_two_steps() -> None:
    loop = VirtualLoop()
    seen: list[int] = []
    loop.at_step(3, lambda: seen.append(loop.steps))
    loop.run(sleepers(1.0, 2.0))
    assert seen == [3]


def test_what_a_callback_raises_is_not_lost() -> None:
    loop = VirtualLoop()

    async def main() -> None:
        loop.call_soon(lambda: 1 // 0)

    with pytest.raises(ZeroDivisionError):
        loop.run(main())
