"""Breakers, drains, processes that go down, and conversations at home, all at once: the rules hold in any order."""

import random
from math import inf
from typing import Any

import pytest

from hermes.policy.scheduler import Scheduler
from hermes.policy.ticket import (
    Admit,
    BackendFacts,
    Bounds,
    Decision,
    Expire,
    Fallen,
    Load,
    ModelBounds,
    Phase,
    Ticket,
    Unload,
)
from tests.policy.box import PATIENT, ticket

MODELS, SLOTS = "ab", 3


class Troubles:
    """Processes on `x`, in memory for one of them; one server `y`, and one `z` that settles."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.now = 0.0
        self.core = Scheduler(Bounds(), ModelBounds(adaptive=self.dice.random() < 0.3, queue_limit=99), PATIENT)
        self.held: list[Ticket] = []
        self.loaded: set[str] = set()
        self.loads: list[Load] = []
        self.tried: list[Load] = []  # which may be tried once more
        self.facts: dict[str, BackendFacts] = {}
        for name in "xyz":
            self.see(name)

    def some(self, chance: float, value: Any) -> dict[str, Any]:
        return {model: value() for model in (*MODELS, "*") if self.dice.random() < chance}

    def see(self, name: str) -> None:
        dice, is_ours = self.dice, name == "x"
        if is_ours and dice.random() < 0.2:
            self.loaded.discard(dice.choice(MODELS))
        resting = self.some(0.2, lambda: dice.choice((self.now + dice.random() * 9, inf)))
        fallen = self.some(0.3, lambda: Fallen(self.now + dice.choice((0, 3)), "it went down")) if is_ours else {}
        self.facts[name] = BackendFacts(
            name, dice.random() < 0.85, SLOTS, dict.fromkeys(self.loaded, 1) if is_ours else None,
            dict.fromkeys(MODELS, 1), 1 if is_ours else None, self.now, settles=name == "z",
            limits=dict.fromkeys(resting, 0) | self.some(0.3, lambda: dice.randint(1, 4)),
            resting={model: until for model, until in resting.items() if model != "*"},
            fallen={model: each for model, each in fallen.items() if model in MODELS and model not in self.loaded},
            makes_room=False, idle_ttls_s={"a": 2.0}, weight=dice.choice((1.0, 0.5)),
        )  # fmt: skip
        self.check(self.core.observe(self.facts[name], self.now))

    def step(self) -> None:
        dice = self.dice
        self.now += dice.choice((0.0, 0.01, 0.3, 2.0))
        while (due := self.core.next_deadline()) is not None and due <= self.now:
            self.check(self.core.expire(self.now))
            assert (again := self.core.next_deadline()) is None or again > self.now or again > due, "again and again"
        what = dice.random()
        over = [each for each in self.held if each.phase is Phase.DONE]
        self.held = [each for each in self.held if each not in over]
        if what < 0.4:
            self.offer(dice.choice(MODELS))
        elif what < 0.65 and self.held:
            self.leave(dice.choice(self.held))
        elif what < 0.8 and self.loads:
            self.end_a_load(self.loads.pop(0))
        elif what < 0.83:
            self.check(self.core.unload(dice.choice(MODELS), self.now))
        else:
            self.see(dice.choice("xyz"))

    def offer(self, model: str) -> None:
        asked = ticket(
            model, self.now, on=self.dice.choice(("xyz", "yz", "xy", "x")), prefix=self.dice.randint(0, 5),
            deadline=self.now + self.dice.choice((1.0, 5.0, 60.0)), prompt_tokens=50,
        )  # fmt: skip
        self.held.append(asked)
        self.check(self.core.offer(asked, self.now))

    def leave(self, held: Ticket) -> None:
        """Its end, in one way or another; perhaps it comes again."""
        was_running, way = held.phase is Phase.RUNNING, self.dice.choice(("finish", "left", "failed"))
        if way == "finish" and was_running:
            self.check(self.core.finish(held, self.now))
            return
        failed = way == "failed" and was_running
        self.check(self.core.cancel(held, self.now, broken_off=not failed, failed=failed))
        if failed:
            self.held.append(again := held.again())
            self.check(self.core.offer(again, self.now, again=True))

    def end_a_load(self, load: Load) -> None:
        if self.dice.random() < 0.7:
            self.loaded.add(load.model)
            self.check(self.core.loaded(load.backend, load.model, self.now))
        else:
            self.tried = [load]
            self.check(self.core.failed(load.backend, load.model, "no memory", self.now))
            self.tried = []

    # --- the rules --------------------------------------------------------------------------------------------------

    def check(self, decisions: list[Decision]) -> None:
        for each in decisions:
            match each:
                case Admit():
                    self.check_admission(each.ticket, self.facts[each.backend])
                case Expire():
                    assert min(each.ticket.start_by, each.ticket.deadline) <= self.now
                case Load():
                    assert each in self.tried or each.model not in self.facts[each.backend].resting
                    self.loads.append(each)
                case Unload():
                    self.loaded.discard(each.model)
        for each in self.held:
            if each.phase is Phase.WAITING:
                self.check_waiting(each)

    def check_admission(self, admitted: Ticket, facts: BackendFacts) -> None:
        there = [
            each
            for each in self.held
            if each.phase is Phase.RUNNING and (each.backend, each.resident) == (facts.name, admitted.resident)
        ]
        limit = facts.limits.get(admitted.resident) or facts.limits.get("*") or SLOTS
        began_now = [each for each in there if each.started_at == self.now]
        assert len(there) <= min(SLOTS, limit) or len(began_now) < len(there) <= SLOTS, "I1"
        assert facts.up and admitted.resident not in facts.resting and facts.name in admitted.candidates

    def check_waiting(self, waiting: Ticket) -> None:
        station = self.core._stations[waiting.resident]
        assert not self.core._slots.place(waiting, self.core._slots.lanes[waiting.model], station), "it could run"
        up = [self.facts[name] for name in waiting.candidates if self.facts[name].up]
        assert any(facts.resting.get(waiting.resident, 0.0) <= waiting.start_by for facts in up), "in vain"

    def end(self) -> None:
        for each in self.held:
            self.check(self.core.cancel(each, self.now))
        self.now += 1e4
        self.core.expire(self.now)
        stays = [stay for station in self.core._stations.values() for stay in station.stays.values()]
        assert (self.core.running, self.core.waiting, [stay.held for stay in stays if stay.held]) == (0, 0, [])


@pytest.mark.parametrize("seed", range(20))
def test_the_rules_hold_whatever_comes_together(seed: int) -> None:
    troubles = Troubles(seed)
    for _ in range(300):
        troubles.step()
    troubles.end()
