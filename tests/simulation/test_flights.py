"""Clients that ask the same, share runs, leave at any step and come again: nothing leaks, and nobody is told a lie."""

import asyncio
import random
from collections import Counter

import pytest

from hermes.errors import Outcome
from hermes.policy.scheduler import Bounds
from tests.simulation import SEEDS
from tests.simulation.backend import ENDINGS, Connecting, Script, SimulatedBackend
from tests.simulation.line import Line, check_answer
from tests.simulation.loop import VirtualLoop

PROMPTS = ("client-0", "client-1", "client-2")


class Shared(Line):
    """One in which what backends are asked is nobody's own."""

    def check(self) -> None:
        for backend in self.backends.values():
            load = Counter(asked.model for asked in backend.working)
            assert all(count <= self.slots for count in load.values()), f"over the slots (I1): {load}"
        if all(client.task.done() for client in self.clients):
            self.left_alone += 1
            working = [asked for backend in self.backends.values() for asked in backend.working]
            assert not working or self.left_alone < 10, "nobody is there, and a backend still at work (I9)"
        else:
            self.left_alone = 0
        finished = sum(self.metrics.finished.read().values())
        assert self.metrics.accepted.read()[()] == finished + self.journal.open, "the outcomes do not add up (I3)"

    left_alone = 0


def play(seed: int, reuse: str) -> Shared:
    dice, loop = random.Random(seed), VirtualLoop(seed)
    fails = dice.choice((0.0, 0.2, 0.5))

    def script(client: str) -> Script:
        ending = dice.choice(ENDINGS) if dice.random() < fails else "done"
        return Script(dice.choice((0.0, 0.2, 1.0)), dice.randint(0, 5), dice.choice((0.01, 0.3)), ending)

    backends = {name: SimulatedBackend(loop, Connecting, script) for name in ("x", "y")[: dice.randint(1, 2)]}
    line = Shared(loop, Bounds(), backends, dice.randint(1, 2), dice.choice((0.0, 0.05)), pause_s=0.1, reuse=reuse)
    leaves = dice.choice((0.2, 0.6))

    def come() -> None:
        client = line.ask(
            stream=dice.random() < 0.6,
            openai=dice.random() < 0.5,
            slow_s=dice.choice((0.0, 0.0, 0.5)),
            as_of=dice.choice(PROMPTS),
            again=dice.random() < 0.3,
        )
        for action in (client.leave, lambda: line.send_away(client)):
            if dice.random() < leaves:
                loop.at_step(loop.steps + dice.choice((1, 3, 10, 30, 80)) + dice.randrange(10), action)

    for _ in range(dice.randint(4, 16)):
        loop.call_later(dice.random() * 4, come)

    async def main() -> None:
        async with line.watched():
            await asyncio.sleep(5.0)
            await line.rest()
            await asyncio.sleep(2.0)
            await line.runs.close()

    loop.run(main())
    return line


@pytest.mark.parametrize("reuse", ["forced", "off"])
@pytest.mark.parametrize("seed", SEEDS[: max(60, len(SEEDS) // 4)])
def test_nothing_leaks_and_every_request_has_one_outcome(seed: int, reuse: str) -> None:
    """I1, I2, I3, I5, I9, I15"""
    line = play(seed, reuse)
    scheduler, admission = line.scheduler, line.admission
    assert (scheduler.running, scheduler.waiting, scheduler.waiting_bytes, admission._waiters) == (0, 0, 0, {})
    assert (line.runs.running, line.flights._flights, line.journal.runs, line.journal.open) == (set(), {}, {}, 0)
    assert not any(recorder.runs for recorder in line.runs._recorders.values())
    assert line.metrics.double_close.read()[()] == 0
    records = {record.request_id: record for record in line.records}
    assert len(records) == len(line.records) == line.metrics.accepted.read()[()]
    for client in line.clients:
        check_answer(client, records.get(client.name))


def test_the_seeds_see_what_they_are_for() -> None:
    """Else they would prove little."""
    lines = [play(seed, "forced") for seed in range(40)]
    outcomes = Counter(record.outcome for line in lines for record in line.records)
    assert outcomes.keys() >= {Outcome.OK, Outcome.CLIENT_GONE, Outcome.UPSTREAM_ERROR, Outcome.CANCELLED}, outcomes
    assert Counter(record.cache for line in lines for record in line.records).keys() >= {"hit", "miss"}
