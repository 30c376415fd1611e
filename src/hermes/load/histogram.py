"""Times in a histogram of logarithmic buckets: any number of them in little memory, each known to 0.4 %.

The buckets are those of HdrHistogram with two digits: 128 in each doubling. A percentile is the middle of its bucket.
"""

from collections.abc import Iterator
from math import ceil, frexp, ldexp

_LEAST_S = 1e-9
# A time this much longer than the interval stands for as many that were not measured; more are counted in groups.
_MOST_STEPS = 1000


class Histogram:
    """Of seconds. The least, the greatest, and the mean are exact."""

    __slots__ = ("_counts", "count", "least_s", "most_s", "total_s")

    def __init__(self) -> None:
        self._counts: dict[int, float] = {}
        self.count = 0.0
        self.total_s = 0.0
        self.least_s = float("inf")
        self.most_s = 0.0

    def add(self, value_s: float, count: float = 1) -> None:
        mantissa, exponent = frexp(max(_LEAST_S, value_s))
        bucket = (exponent << 7) + int(mantissa * 256)
        self._counts[bucket] = self._counts.get(bucket, 0) + count
        self.count += count
        self.total_s += value_s * count
        if value_s > self.most_s:
            self.most_s = value_s
        if value_s < self.least_s:
            self.least_s = value_s

    @property
    def mean_s(self) -> float:
        return self.total_s / self.count if self.count else 0.0

    def percentile(self, percent: float) -> float:
        """The least time that so many of a hundred do not exceed; 0.0 if there is none."""
        rank, seen = ceil(self.count * percent / 100), 0.0
        for value_s, count in self:
            seen += count
            if seen >= rank:
                return value_s
        return self.most_s

    def __iter__(self) -> Iterator[tuple[float, float]]:
        """Times in rising order, each the middle of its bucket, and how many there are of it."""
        for bucket in sorted(self._counts):
            yield min(max(_middle(bucket), self.least_s), self.most_s), self._counts[bucket]

    def merge(self, other: "Histogram") -> None:
        for bucket, count in other._counts.items():
            self._counts[bucket] = self._counts.get(bucket, 0) + count
        self.count += other.count
        self.total_s += other.total_s
        self.least_s = min(self.least_s, other.least_s)
        self.most_s = max(self.most_s, other.most_s)

    def corrected(self, interval_s: float) -> "Histogram":
        """With the times of those who were not sent because the one before them took so long.

        HdrHistogram's correction for coordinated omission, and wrk's: whoever asks every `interval_s` and waits for
        longer would have asked again meanwhile, and waited for the rest of it.
        """
        all_of_them = Histogram()
        all_of_them.merge(self)
        for value_s, count in self:
            missing = int(value_s / interval_s) - 1 if interval_s > 0 else 0
            steps = min(missing, _MOST_STEPS)
            for step in range(1, steps + 1):
                all_of_them.add(value_s - interval_s * missing * step / steps, count * missing / steps)
        return all_of_them


def _middle(bucket: int) -> float:
    place = bucket - 128
    return ldexp(((place & 127) + 128.5) / 256, place >> 7)
