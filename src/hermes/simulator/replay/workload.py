"""From a trace to what a policy is confronted with: which arrivals, how fast, for which model, from whom."""

import random
from collections import Counter

from msgspec import Struct

from hermes.simulator.replay.box import Model
from hermes.simulator.replay.trace import Arrival


class Request(Struct, frozen=True, gc=False):
    """What a policy sees of a request: all but how long its answer will be. `number` counts arrivals from 0."""

    number: int
    model: str
    tenant: str
    tokens_in: int
    arrived_at: float


class Workload(Struct, frozen=True):
    """`tokens_out` is by request number, and no policy's to know before the request has finished."""

    requests: list[Request]
    tokens_out: list[int]


BURST_PERIOD_S, BURST_S = 60.0, 20.0


def draw(
    arrivals: list[Arrival],
    models: tuple[Model, ...],
    seed: int,
    *,
    rate: float | None = None,
    tenants: int = 1,
    burst: bool = False,
) -> Workload:
    """Who asks for what, and when: the trace's own models and tenants, else drawn, by the shares and evenly.

    Each has a stream of its own, so that more tenants do not change which models are asked for. The arrivals are
    stretched to a mean of `rate` in a second; None leaves them as recorded. `burst` squeezes each minute's into its
    first 20 seconds.
    """
    count = len(arrivals)
    names, shares = [model.name for model in models], [model.share for model in models]
    drawn = random.Random(seed).choices(names, weights=shares, k=count)  # noqa: S311
    askers = random.Random(f"tenants {seed}").choices(range(tenants), k=count)  # noqa: S311
    times = _times(arrivals, rate, burst)
    return Workload(
        [
            Request(
                number, arrival.model or drawn[number], arrival.tenant or str(askers[number]), arrival.tokens_in, at_s
            )
            for number, (arrival, at_s) in enumerate(zip(arrivals, times, strict=True))
        ],
        [arrival.tokens_out for arrival in arrivals],
    )


def mean_rate(arrivals: list[Arrival]) -> float:
    """Arrivals per second as recorded; 0.0 if there is no telling."""
    span_s = arrivals[-1].at_s - arrivals[0].at_s
    return (len(arrivals) - 1) / span_s if span_s > 0 else 0.0


def models_by_use(arrivals: list[Arrival]) -> list[tuple[str, int]]:
    """A log's models and how often each was asked for, the most used first; those of one count by name."""
    return sorted(Counter(arrival.model for arrival in arrivals).items(), key=lambda found: (-found[1], found[0]))


def _times(arrivals: list[Arrival], rate: float | None, burst: bool) -> list[float]:
    """Seconds from the first arrival."""
    stretch = mean_rate(arrivals) / rate if rate else 1.0
    times = [(arrival.at_s - arrivals[0].at_s) * stretch for arrival in arrivals]
    if burst:
        times = [at_s - (at_s % BURST_PERIOD_S) * (1 - BURST_S / BURST_PERIOD_S) for at_s in times]
    return times
