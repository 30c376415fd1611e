"""What the scheduler's decisions cost: one request offered and one ended, while so many wait.

50 tenants, 8 models, 4 backends with memory for 3 models each, all three classes, position and ETA included. Prints
microseconds of processor time by the number that wait, as JSON. The clock is virtual: 100 requests a second.
"""

import json
import random
import sys
import time
from itertools import cycle
from math import inf

from hermes.policy.scheduler import Scheduler
from hermes.policy.ticket import Admit, BackendFacts, Bounds, ClassRules, Decision, Load, ModelBounds, Rules, Ticket
from hermes.principal import Class

MODELS = tuple(f"model-{number}" for number in range(8))
BACKENDS = tuple(f"backend-{number}" for number in range(4))
CLASSES = tuple(Class)
TENANTS = tuple(f"tenant-{number}" for number in range(50))
SLOTS = 4
MANY = 10**9
PATIENCE_S = 1e6  # nobody gives up: the queue keeps its length


class Traffic:
    """A scheduler with `waiting` requests, and what a server would do with its decisions."""

    def __init__(self, waiting: int) -> None:
        rules = Rules((ClassRules(16.0, PATIENCE_S), ClassRules(4.0, PATIENCE_S), ClassRules(1.0)), give_up=inf)
        self.scheduler = Scheduler(Bounds(None, MANY, MANY, MANY, MANY), ModelBounds(queue_limit=MANY), rules)
        # Drawn in advance: what is drawn costs as much as a good part of a decision.
        draw = random.Random(1)
        self.asked = cycle([(draw.choice(MODELS), draw.choice(TENANTS), draw.choice(CLASSES)) for _ in range(10_007)])
        self.tokens = cycle([draw.randrange(400) for _ in range(9_973)])
        self.places = cycle([draw.random() for _ in range(10_009)])
        self.now = 0.0
        self.running: list[Ticket] = []
        for number, backend in enumerate(BACKENDS):
            loaded = {MODELS[(2 * number + place) % len(MODELS)]: 1 for place in range(3)}
            facts = BackendFacts(backend, True, SLOTS, loaded, dict.fromkeys(MODELS, 1), memory_bytes=3)
            self.carry_out(self.scheduler.observe(facts, 0.0))
        while self.scheduler.waiting < waiting:
            self.offer()

    def offer(self) -> None:
        self.now += 0.01
        model, tenant, urgency = next(self.asked)
        deadline = self.now + PATIENCE_S
        ticket = Ticket(model, model, tenant, BACKENDS, 600, self.now, deadline, urgency, prompt_tokens=100)
        self.carry_out(self.scheduler.offer(ticket, self.now))
        self.scheduler.next_deadline()

    def end(self) -> None:
        place = int(next(self.places) * len(self.running))
        self.running[place], self.running[-1] = self.running[-1], self.running[place]
        ticket = self.running.pop()
        self.scheduler.settle(ticket, 100, next(self.tokens))
        self.carry_out(self.scheduler.finish(ticket, self.now))

    def carry_out(self, decisions: list[Decision]) -> None:
        for decision in decisions:
            if isinstance(decision, Admit):
                self.running.append(decision.ticket)
            elif isinstance(decision, Load):
                self.carry_out(self.scheduler.loaded(decision.backend, decision.model, self.now))


def cost_us(waiting: int, requests: int = 4000, runs: int = 3) -> float:
    """Processor time for one offer and one end, the best of `runs`."""
    traffic, best = Traffic(waiting), inf
    for _ in range(runs):
        began = time.process_time()
        for _ in range(requests):
            traffic.offer()
            traffic.end()
        best = min(best, (time.process_time() - began) / requests * 1e6)
    return best


def plot(costs: dict[str, float], file: str) -> None:
    """Draw the costs over a logarithmic axis (needs matplotlib)."""
    from matplotlib.figure import Figure

    figure = Figure((6, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.plot([int(waiting) for waiting in costs], list(costs.values()), marker="o", color="#0072b2")
    axes.set(xscale="log", ylim=(0, None), xlabel="requests waiting", ylabel="us for one offer and one end")
    axes.grid(alpha=0.3)
    figure.savefig(file)


if __name__ == "__main__":
    sizes = [argument for argument in sys.argv[1:] if argument.isdigit()] or ["1000"]
    costs = {waiting: round(cost_us(int(waiting)), 2) for waiting in sizes}
    print(json.dumps(costs))
    for argument in sys.argv[1:]:
        if not argument.isdigit():
            plot(costs, argument)
