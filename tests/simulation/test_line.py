"""One outcome for every request, and everything back, whatever fails, whoever leaves (I1-I3, I5, I8, I9, I15)."""

import asyncio
import random
from collections import Counter
from functools import partial

import pytest

from hermes.errors import Outcome
from hermes.policy.breaker import BUSY, OPEN, STUCK
from hermes.policy.scheduler import Bounds
from tests.simulation import SEEDS, STRIDE
from tests.simulation.backend import Connecting, Script, SimulatedBackend
from tests.simulation.line import Line, draw
from tests.simulation.loop import VirtualLoop


def play_drawn(seed: int) -> Line:
    loop = VirtualLoop(seed)
    line = draw(random.Random(seed), loop)

    async def main() -> None:
        async with line.watched():
            await asyncio.sleep(7.0)  # all have come by then
            await line.rest()
            if not line.scheduler._closed:
                await line.recover()

    loop.run(main())
    line.check_end()
    return line


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_leaks_and_every_request_has_one_outcome(seed: int) -> None:
    play_drawn(seed)


def test_the_seeds_see_every_outcome() -> None:
    """Else they would prove little."""
    lines = [play_drawn(seed) for seed in range(110)]
    seen = Counter(record.outcome for line in lines for record in line.records)
    wanted = {
        Outcome.OK,
        Outcome.QUEUE_FULL,
        Outcome.QUEUE_TIMEOUT,
        Outcome.NO_BACKEND,
        Outcome.UPSTREAM_ERROR,
        Outcome.UPSTREAM_TIMEOUT,
        Outcome.CLIENT_GONE,
        Outcome.CANCELLED,
        Outcome.DRAINED,
    }
    assert seen.keys() == wanted, seen
    assert all(count > 1 for count in seen.values()), seen
    rested: Counter[str] = Counter()
    for line in lines:
        for (_, _, state), count in line.metrics.ejections.read().items():
            rested[state] += count
    assert rested.keys() == {OPEN, BUSY, STUCK} and all(count > 1 for count in rested.values()), rested
    assert any(backend.crashed.total() > 1 for line in lines for backend in line.backends.values())
    assert {result for line in lines for _, _, result in line.metrics.probes.read()} >= {"ok", "timeout"}


# --- one scene, and every step of it ----------------------------------------------------------------------------------

# One slot for three clients. The first is tried three times; the second finds the connection refused, comes again, and
# is cut off in the middle of its stream; the third finds the connection dead, comes again, and has its answer whole.
SCRIPTS = {
    "client-0": [Script(ending="busy", keeps_alive=False), Script(ending="crash"), Script()],
    "client-1": [Script(ending="cut")],
    "client-2": [Script(pieces=1)],
}
CONNECTING = [Connecting(), Connecting(ending="refused"), Connecting(ending="dead")]
CLIENTS = range(3)
# Without signs of life for streams that wait, and with them.
PACES = (0.0, 0.05)
# A second cancellation comes at most this many steps after the first: by then the request is over.
WINDOW = 3


def play(
    *leaving: tuple[int, int],
    sent_away: tuple[tuple[int, int], ...] = (),
    seed: int | None = None,
    heartbeat_s: float = 0.0,
) -> Line:
    """The scene, in which who leaves, or is sent away, before which step."""
    loop = VirtualLoop(seed)
    scripts = {client: iter(each) for client, each in SCRIPTS.items()}
    connecting = iter(CONNECTING)
    backend = SimulatedBackend(loop, lambda: next(connecting, Connecting()), lambda client: next(scripts[client]))
    line = Line(loop, Bounds(), {"x": backend}, slots=1, heartbeat_s=heartbeat_s)
    line.ask(stream=True)
    line.ask(stream=True, slow_s=0.3, openai=True)
    line.ask(stream=False)
    for who, step in leaving:
        loop.at_step(step, line.clients[who].leave)
    for who, step in sent_away:
        loop.at_step(step, partial(line.send_away, line.clients[who]))
    loop.run(line.rest())
    line.check_end()
    return line


@pytest.mark.parametrize("heartbeat_s", PACES)
def test_the_scene_is_as_told(heartbeat_s: float) -> None:
    line = play(heartbeat_s=heartbeat_s)
    told = {record.request_id: (record.outcome, record.attempts) for record in line.records}
    assert (b"queued" in line.clients[1].received) == bool(heartbeat_s)
    assert told == {
        "client-0": (Outcome.OK, 3),
        "client-1": (Outcome.UPSTREAM_ERROR, 2),
        "client-2": (Outcome.OK, 2),
    }


@pytest.mark.parametrize("heartbeat_s", PACES)
@pytest.mark.parametrize("seed", [None, 1])
def test_a_client_that_leaves_at_any_step_leaves_nothing_behind(seed: int | None, heartbeat_s: float) -> None:
    steps = play(seed=seed, heartbeat_s=heartbeat_s).loop.steps
    leaving = [(who, step) for who in CLIENTS for step in range(steps)]
    lines = [play(each, seed=seed, heartbeat_s=heartbeat_s) for each in leaving]
    gone = [record for line in lines for record in line.records if record.outcome is Outcome.CLIENT_GONE]
    assert {record.attempts for record in gone} == {0, 1, 2, 3}
    assert (200 in {record.status for record in gone if not record.attempts}) == bool(heartbeat_s)


@pytest.mark.parametrize("heartbeat_s", PACES)
def test_who_is_sent_away_at_any_step_leaves_nothing_behind(heartbeat_s: float) -> None:
    steps = play(heartbeat_s=heartbeat_s).loop.steps
    sent = [((who, step),) for who in CLIENTS for step in range(steps)]
    lines = [play(sent_away=each, heartbeat_s=heartbeat_s) for each in sent]
    gone = [record for line in lines for record in line.records if record.outcome is Outcome.CANCELLED]
    assert {record.attempts for record in gone} == {0, 1, 2, 3}
    assert {record.status for record in gone} == {200, 499}


def test_who_leaves_as_it_is_sent_away_leaves_nothing_behind() -> None:
    steps = play(heartbeat_s=PACES[1]).loop.steps
    for who in CLIENTS:
        for step in range(0, steps, STRIDE):
            play((who, step), sent_away=((who, step),), heartbeat_s=PACES[1])
            play((who, step + 1), sent_away=((who, step), (who, step + 1)), heartbeat_s=PACES[1])


def test_a_client_that_is_cancelled_twice_at_any_steps_leaves_nothing_behind() -> None:
    steps = play().loop.steps
    for who in CLIENTS:
        for first in range(0, steps, STRIDE):
            for second in range(first, first + WINDOW):
                play((who, first), (who, second))


def test_two_clients_that_leave_at_any_steps_leave_nothing_behind() -> None:
    steps = play().loop.steps
    for who in CLIENTS:
        for first in range(0, steps, STRIDE):
            for second in range(first, first + WINDOW):
                play((who, first), ((who + 1) % len(CLIENTS), second))
