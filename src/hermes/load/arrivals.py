"""When requests are to be sent, in seconds from the beginning: whatever becomes of those before them (an open loop)."""

from collections.abc import Iterator, Sequence
from itertools import count
from random import Random


def constant(rate: float) -> Iterator[float]:
    return (number / rate for number in count())


def poisson(rate: float, random: Random) -> Iterator[float]:
    """As of many who do not know of each other: the times between two are exponentially distributed."""
    at_s = 0.0
    while True:
        at_s += random.expovariate(rate)
        yield at_s


def recorded(times: Sequence[float], rate: float | None = None) -> Iterator[float]:
    """As in a trace, which begins now; stretched to a mean of `rate` in a second, if one is given."""
    span_s = times[-1] - times[0]
    stretch = (len(times) - 1) / span_s / rate if rate and span_s > 0 else 1.0
    return ((time - times[0]) * stretch for time in times)
