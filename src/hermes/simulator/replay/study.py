"""A study: several policies against the same demand, at several rates, with several draws of who asks for what."""

from collections.abc import Iterator

from msgspec import Struct

from hermes.simulator.replay.box import Box
from hermes.simulator.replay.engine import replay
from hermes.simulator.replay.figures import Figures, measure
from hermes.simulator.replay.policies import POLICIES
from hermes.simulator.replay.run import Run
from hermes.simulator.replay.trace import Arrival
from hermes.simulator.replay.workload import Workload, draw, mean_rate


class Study(Struct, frozen=True):
    """`rates` None: as recorded."""

    arrivals: list[Arrival]
    box: Box
    policies: tuple[str, ...]
    rates: tuple[float, ...] | None = None
    seeds: tuple[int, ...] = (1,)
    tenants: int = 1
    burst: bool = False


class Trial(Struct, frozen=True):
    """One policy's run at one rate with one seed."""

    figures: Figures
    run: Run
    workload: Workload


def trials(study: Study) -> Iterator[Trial]:
    """Policy by policy, rate by rate, seed by seed."""
    recorded = mean_rate(study.arrivals)
    for name in study.policies:
        for rate in study.rates or (None,):
            for seed in study.seeds:
                workload = draw(
                    study.arrivals, study.box.models, seed, rate=rate, tenants=study.tenants, burst=study.burst
                )
                run = replay(POLICIES[name](study.box), study.box, workload)
                told_rate = round(recorded, 4) if rate is None else rate
                yield Trial(measure(name, told_rate, seed, run, study.box, workload), run, workload)
