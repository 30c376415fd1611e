"""What was learned of how long things take: samples, quantiles, and how far predictions were off."""

from bisect import bisect_left, bisect_right, insort
from collections import deque
from math import exp, log
from typing import Annotated

from msgspec import Meta, Struct


class Samples:
    """The last `size` of a quantity, in order too. `first` stands for them until there are some.

    In `mean` it counts like one sample, so that one odd run does not decide.
    """

    __slots__ = ("_recent", "_sorted", "_sum", "first", "mean", "size")

    def __init__(self, first: float, size: int = 300) -> None:
        self.size = size
        self._recent: deque[float] = deque()
        self._sorted: list[float] = []
        self._sum = 0.0
        self.begin(first)

    def begin(self, first: float) -> None:
        """An estimate from outside."""
        self.first = first
        self.mean = (first + self._sum) / (1 + len(self._recent))

    def add(self, value: float) -> None:
        recent, ordered = self._recent, self._sorted
        if len(recent) == self.size:
            oldest = recent.popleft()
            del ordered[bisect_left(ordered, oldest)]
            self._sum -= oldest
        recent.append(value)
        insort(ordered, value)
        self._sum += value
        self.mean = (self.first + self._sum) / (1 + len(recent))

    @property
    def count(self) -> int:
        return len(self._recent)

    @property
    def learned(self) -> float | None:
        """None until something was seen."""
        return self.mean if self._recent else None

    @property
    def median(self) -> float:
        return self._sorted[len(self._sorted) // 2] if self._sorted else self.first

    def quantile(self, part: float) -> float:
        return self._sorted[int(part * len(self._sorted))] if self._sorted else self.first

    def enough(self, waste: float) -> float:
        """The least time at which runs could be cut so that those cut would take at most `waste` of all time."""
        ordered, cut = self._sorted, 0
        kept = self._sum
        while cut < len(ordered):
            limit = ordered[-1 - cut]
            # `kept`: the time of all those that are not longer than `limit`, itself included.
            if cut * limit > waste * (kept + cut * limit):
                return ordered[-cut]
            kept -= limit
            cut += 1
        return self.first if not ordered else ordered[0]

    def left(self, spent: float, part: float) -> float:
        """Of those that last longer than `spent`: what `part` of them still take from there. Of none: as long again."""
        begin = bisect_right(self._sorted, spent)
        longer = len(self._sorted) - begin
        if not longer:
            return max(self.first, self._sorted[-1] if self._sorted else 0.0) if not spent else max(self.mean, spent)
        return self._sorted[min(begin + int(part * longer), len(self._sorted) - 1)] - spent


class Average:
    """An exponentially weighted mean; `first` until something was seen."""

    __slots__ = ("_seen", "is_known", "value")

    def __init__(self, first: float) -> None:
        self.value = first
        self.is_known = False  # seen, or told by who knows
        self._seen = False

    def first(self, value: float) -> None:
        """An estimate from outside, which holds until something is seen."""
        if not self._seen:
            self.value, self.is_known = value, True

    @property
    def learned(self) -> float | None:
        """None until something was seen."""
        return self.value if self._seen else None

    def add(self, value: float) -> None:
        self.value = self.value + 0.3 * (value - self.value) if self._seen else value
        self._seen = self.is_known = True


class Rate:
    """Seconds per token, where long ones count as much as they are long; 0 until something was seen."""

    __slots__ = ("_seconds", "_tokens")

    def __init__(self) -> None:
        self._seconds = 0.0
        self._tokens = 0.0

    def add(self, seconds: float, tokens: int) -> None:
        self._seconds = self._seconds * _RATE_FADES + seconds
        self._tokens = self._tokens * _RATE_FADES + tokens

    def of(self, tokens: int) -> float:
        """Seconds for so many."""
        return self._seconds / self._tokens * tokens if self._tokens else 0.0


class Reading:
    """What reading a token takes, in tokens written: the quotient of the slopes of a least-squares fit to whole runs.

    What all of them take alike, as their wait in the backend, has no part in it. Means and covariances fade.
    """

    __slots__ = ("_means", "_rr", "_rs", "_runs", "_wr", "_ws", "_ww", "cost")

    def __init__(self, first: float) -> None:
        self.cost = first
        self._runs = 0
        self._means = (0.0, 0.0, 0.0)
        self._ww = self._rr = self._wr = self._ws = self._rs = 0.0

    def add(self, written: int, read: int, seconds: float) -> None:
        self._runs += 1
        step = max(_READING_STEP, 1 / self._runs)
        mean_w, mean_r, mean_s = self._means
        w, r, s = written - mean_w, read - mean_r, seconds - mean_s
        self._means = mean_w + step * w, mean_r + step * r, mean_s + step * s
        kept = 1 - step
        self._ww = kept * (self._ww + step * w * w)
        self._rr = kept * (self._rr + step * r * r)
        self._wr = kept * (self._wr + step * w * r)
        self._ws = kept * (self._ws + step * w * s)
        self._rs = kept * (self._rs + step * r * s)
        per_written = self._ws * self._rr - self._rs * self._wr
        per_read = self._rs * self._ww - self._ws * self._wr
        if self._runs >= _READING_RUNS and per_written > 0:
            self.cost = min(1.0, max(0.0, per_read / per_written))


class Lengths:
    """How long answers are, in tokens: of each tenant seen lately, and of all of them."""

    __slots__ = ("_by_tenant", "all")

    def __init__(self, first: float) -> None:
        self.all = Average(first)
        self._by_tenant: dict[str, Average] = {}

    def add(self, tenant: str, tokens: float) -> None:
        self.all.add(tokens)
        own = self._by_tenant.pop(tenant, None)  # the one seen last goes to the end
        if own is None:
            own = Average(self.all.value)
            if len(self._by_tenant) >= _MOST_TENANTS:
                del self._by_tenant[next(iter(self._by_tenant))]
        own.add(tokens)
        self._by_tenant[tenant] = own

    def expected(self, tenant: str) -> float:
        own = self._by_tenant.get(tenant)
        return own.value if own is not None else self.all.value


class Outlook(Struct, frozen=True, array_like=True):
    """When a waiting request will start: its place (1: the next), seconds from now, and the most in nine of ten."""

    position: int
    eta_s: float
    eta_high_s: float


class Calibration:
    """How much longer waits are than was thought: the median and the ninth decile of actual / thought.

    Quantiles are tracked by stochastic approximation on the logarithm (Robbins and Monro, 1951): no samples are kept.
    """

    __slots__ = ("_high", "_middle")

    def __init__(self) -> None:
        self._middle = 0.0
        self._high = log(2.5)

    def apply(self, thought_s: float) -> tuple[float, float]:
        """The likely wait, and the one that nine of ten do not exceed."""
        return thought_s * exp(self._middle), thought_s * exp(max(self._high, self._middle))

    def learn(self, thought_s: float, actual_s: float) -> None:
        if thought_s <= 0:
            return
        off = min(_MOST, max(-_MOST, log(max(actual_s, 0.01) / thought_s)))
        self._middle += _STEP * (0.5 if off > self._middle else -0.5)
        self._high += _STEP * (0.9 if off > self._high else -0.1)


_RATE_FADES = 0.95
_READING_STEP = 0.01
_READING_RUNS = 10
# Of so many tenants it is kept how long their answers are.
_MOST_TENANTS = 256
_STEP = 0.06
# No prediction is off by more than this factor for long, whatever was learned: who is refused by it teaches nothing.
_MOST = log(4.0)


_Learned = Annotated[float, Meta(ge=0, le=1e6)] | None
_LearnedTime = Annotated[float, Meta(gt=0, le=1e6)] | None


class Learned(Struct, frozen=True, omit_defaults=True):
    """What was learned of a model, in a few numbers: seconds for a load and a run, tokens of an answer."""

    load_s: _Learned = None
    service_s: _LearnedTime = None
    output_tokens: _Learned = None
