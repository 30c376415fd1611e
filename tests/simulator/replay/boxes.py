"""Boxes and workloads small enough to follow by hand, and a made-up trace that is like a recorded one."""

import random

from hermes.simulator.replay.box import Box, Model
from hermes.simulator.replay.engine import replay
from hermes.simulator.replay.policies import POLICIES
from hermes.simulator.replay.run import Run
from hermes.simulator.replay.trace import Arrival
from hermes.simulator.replay.workload import Request, Workload

# a and b are loaded at the start. One token is generated in a second, so tokens_out are seconds.
BOX = Box((Model("a", 5.0), Model("b", 5.0), Model("c", 10.0)), memory=2.0, slots=1, decode=1.0)


def workload(*asked: tuple[float, str, int]) -> Workload:
    """When, which model, and for how many seconds."""
    requests = [Request(number, model, "", 0, at_s) for number, (at_s, model, _) in enumerate(asked)]
    return Workload(requests, [service_s for _, _, service_s in asked])


def play(policy: str, *asked: tuple[float, str, int], box: Box = BOX) -> Run:
    return replay(POLICIES[policy](box), box, workload(*asked))


def loads(run: Run) -> list[tuple[str, float]]:
    """Which model was loaded when, in order."""
    spans = [(span.model, span.since) for span in run.spans if span.state == "loading"]
    return sorted(spans, key=lambda load: load[1])


def made_up_trace(requests: int, seed: int = 0) -> list[Arrival]:
    """One a second in the mean, in clusters; contexts and answers of widely differing length."""
    drawn = random.Random(seed)
    arrivals, at_s = [], 0.0
    for _ in range(requests):
        at_s += drawn.expovariate(3.0 if drawn.random() < 0.8 else 0.3)
        tokens = int(drawn.lognormvariate(6.0, 1.2)), 1 + int(drawn.lognormvariate(5.0, 0.7))
        arrivals.append(Arrival(at_s, *tokens))
    return arrivals
