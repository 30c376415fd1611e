"""How long prompts and answers are: a number of tokens for each request, drawn from a distribution."""

import re
from collections.abc import Callable
from math import exp, log
from random import Random

Lengths = Callable[[Random], int]

_written = re.compile(r"(?:(\d{1,7})|(\d{1,7})-(\d{1,7})|lognormal:(\d{1,7}),(\d{1,7}))", re.ASCII).fullmatch
_MOST = 1_000_000  # no model reads more, and a prompt of as many takes 30 ms to write
_P95 = 1.6448536269514722  # standard deviations from the median of a normal distribution to its 95th percentile


def parse(text: str) -> Lengths:
    """`200`, `50-400`, or `lognormal:200,900` by median and 95th percentile. Raises ValueError."""
    found = _written(text)
    if found is None:
        raise ValueError(f"{text!r} is not a number of tokens such as 200, 50-400, or lognormal:200,900")
    fixed, least, most, median, p95 = (int(part) if part else 0 for part in found.groups())
    if max(fixed, most, p95) > _MOST:
        raise ValueError(f"{text!r}: more than {_MOST:,} tokens are too many")
    if found[4]:
        if not 0 < median <= p95:
            raise ValueError(f"{text!r}: the median is more than nothing, and not more than the 95th percentile")
        return lognormal(median, p95)
    if found[2]:
        if least > most:
            raise ValueError(f"{text!r}: the least is more than the most")
        return lambda random: random.randint(least, most)
    return lambda random: fixed


def lognormal(median: int, p95: int) -> Lengths:
    mu, sigma = log(median), log(p95 / median) / _P95
    return lambda random: max(1, min(_MOST, round(exp(random.gauss(mu, sigma)))))
