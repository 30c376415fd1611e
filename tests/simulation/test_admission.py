"""No slot leaks, whatever is cancelled where, in whatever order (invariants I1, I2, I3, I9)."""

import random
from collections import Counter

import pytest

from hermes.policy.ticket import Bounds, ModelBounds
from tests.simulation import SEEDS, STRIDE
from tests.simulation.crowd import Crowd, Visit, draw
from tests.simulation.loop import VirtualLoop

# A second cancellation comes at most this many steps after the first.
WINDOW = 4


@pytest.mark.parametrize("seed", SEEDS)
def test_no_slot_leaks_in_any_crowd(seed: int) -> None:
    loop = VirtualLoop(seed)
    crowd = draw(random.Random(seed), loop)
    loop.run(crowd.rest())
    crowd.check_end()


def test_the_crowds_see_every_outcome() -> None:
    """Else the seeds would prove little."""
    seen: Counter[str] = Counter()
    for seed in range(200):
        loop = VirtualLoop(seed)
        crowd = draw(random.Random(seed), loop)
        loop.run(crowd.rest())
        seen.update(crowd.outcomes)
        seen.update(outcome for _, outcomes in crowd.tickets for outcome in outcomes)
        seen.update(type(order).__name__ for order in crowd.orders)
    assert {
        "ok", "upstream_error", "queue_full", "queue_timeout", "no_backend", "drained", "cancelled", "cancelled inside",
        "LoadFailed", "Load", "Unload",
    } <= seen.keys()  # fmt: skip
    assert all(number > 5 for number in seen.values()), seen


def test_the_same_seed_plays_the_same() -> None:
    def play() -> tuple[int, list[str]]:
        loop = VirtualLoop(3)
        crowd = draw(random.Random(3), loop)
        loop.run(crowd.rest())
        return loop.steps, crowd.outcomes

    assert play() == play()


def scene(loop: VirtualLoop) -> Crowd:
    """One slot on `x`, later one on `y`: who runs, waits, fails and comes again, expires, is refused, is sent away."""
    crowd = Crowd(loop, Bounds(max_concurrent=2), {"m": ModelBounds(queue_limit=3)}, {"x": 1, "y": 1})
    crowd.switch("y", False)
    crowd.send(Visit(0.0, "m", (1.0,)))
    crowd.send(Visit(0.0, "m", (-1.0, 1.0)))
    crowd.send(Visit(0.0, "m", (1.0,), patience_s=0.9))
    crowd.send(Visit(0.5, "m", (0.5,), on="y"))
    crowd.send(Visit(0.5, "m", (1.0,)))
    crowd.send(Visit(0.5, "m", (1.0,)))
    loop.call_later(2.5, crowd.switch, "y", True)
    loop.call_later(4.0, crowd.switch, "x", False)
    return crowd


def play(*leaving: tuple[int, int], seed: int | None = None) -> tuple[int, Crowd]:
    """The scene, in which who leaves before which step. Returns the number of steps, and the crowd afterwards."""
    loop = VirtualLoop(seed)
    crowd = scene(loop)
    for who, step in leaving:
        loop.at_step(step, crowd.visits[who].cancel)
    loop.run(crowd.rest())
    crowd.check_end()
    return loop.steps, crowd


VISITORS = range(6)


def test_the_scene_has_all_that_can_happen() -> None:
    _, crowd = play()
    assert sorted(crowd.outcomes) == ["no_backend", "ok", "ok", "ok", "queue_full", "queue_timeout"]


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_a_client_that_leaves_at_any_step_leaks_nothing(seed: int | None) -> None:
    steps, _ = play(seed=seed)
    told: set[str] = set()
    for who in VISITORS:
        for step in range(steps):
            _, crowd = play((who, step), seed=seed)
            told.update(outcome for _, outcomes in crowd.tickets for outcome in outcomes)
    assert {"cancelled", "cancelled inside"} <= told


def test_a_client_that_is_cancelled_twice_at_any_steps_leaks_nothing() -> None:
    steps, _ = play()
    for who in VISITORS:
        for first in range(0, steps, STRIDE):
            for second in range(first, first + WINDOW):
                play((who, first), (who, second))


def test_two_clients_that_leave_at_any_steps_leak_nothing() -> None:
    steps, _ = play()
    for who in VISITORS:
        for first in range(0, steps, STRIDE):
            for second in range(first, first + WINDOW):
                play((who, first), ((who + 1) % len(VISITORS), second))
