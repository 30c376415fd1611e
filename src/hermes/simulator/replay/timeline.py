"""What a picture of one replay shows, as numbers: what was in memory when, how many waited, who waited how long."""

from hermes.simulator.replay.figures import wait_by_number
from hermes.simulator.replay.run import Run, State
from hermes.simulator.replay.workload import Workload

Bars = list[tuple[float, float]]
"""Since when, and for how long."""


def in_memory(run: Run) -> dict[tuple[str, State], Bars]:
    """By model and state."""
    bars: dict[tuple[str, State], Bars] = {}
    for span in run.spans:
        bars.setdefault((span.model, span.state), []).append((span.since, span.until - span.since))
    return bars


def waiting(run: Run, workload: Workload, model: str) -> tuple[list[float], list[int]]:
    """Times at which the number of requests that wait for a model changes, and the number from then on."""
    changes = [(0.0, 0)]
    for request, started_at, refused_at in zip(workload.requests, run.started_at, run.refused_at, strict=True):
        ended_at = started_at if started_at is not None else refused_at
        if request.model == model and ended_at is not None and ended_at > request.arrived_at:
            changes += (request.arrived_at, 1), (ended_at, -1)
    times, counts = [], []
    count = 0
    for at_s, change in sorted(changes):
        count += change
        times.append(at_s)
        counts.append(count)
    return times, counts


def started_within(run: Run, workload: Workload) -> tuple[list[float], list[float]]:
    """Waits in rising order, and the share of all requests that had started after so long."""
    waits = sorted(wait_by_number(run, workload).values())
    return waits, [number / len(workload.requests) for number in range(1, len(waits) + 1)]
