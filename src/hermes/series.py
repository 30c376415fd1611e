"""Kinds of metrics, each of as many series as its labels have values. Counting is a dictionary update.

A family that grows past `MAX_SERIES` counts the rest under `other`.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from typing import Any

MAX_SERIES = 1000

Labels = tuple[str, ...]


# Neither this nor `Buckets` is a Struct: setting a field of one costs three times as much.
class Cell:
    """The value of one series of a counter."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0


class Counter:
    __slots__ = ("help", "labels", "most", "name", "series")

    def __init__(self, name: str, help: str, labels: Labels = (), most: int = MAX_SERIES) -> None:
        self.name = name
        self.help = help
        self.labels = labels
        self.most = most
        self.series: dict[Labels, Cell] = {} if labels else {(): Cell()}

    def child(self, values: Labels) -> Cell:
        """The series with these label values, to be kept by whoever counts on it often."""
        if values not in self.series and len(self.series) >= self.most:
            values = ("other",) * len(self.labels)
        return self.series.setdefault(values, Cell())

    def add(self, values: Labels, amount: float = 1.0) -> None:
        cell = self.series.get(values) or self.child(values)
        cell.value += amount

    def read(self) -> dict[Labels, float]:
        """The value of every series."""
        return {values: cell.value for values, cell in self.series.items()}


class Gauge:
    """Read when scraped: `read` returns the value of every series."""

    __slots__ = ("help", "labels", "name", "read")

    def __init__(self, name: str, help: str, labels: Labels, read: Callable[[], dict[Labels, float]]) -> None:
        self.name = name
        self.help = help
        self.labels = labels
        self.read = read


class KeptCounter(Gauge):
    """A counter that somebody else keeps."""

    __slots__ = ()


class Buckets:
    """One series of a histogram: how many observations fell up to each bound, the last one to no bound."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def observe_all(self, values: Iterable[float]) -> None:
        """Many at once, for less than one by one takes."""
        ordered = sorted(values)
        before = 0
        for place, bound in enumerate(self.bounds):
            up_to = bisect_right(ordered, bound)
            self.counts[place] += up_to - before
            before = up_to
        self.counts[-1] += len(ordered) - before
        self.total += sum(ordered)

    def cumulative(self) -> Iterator[tuple[str, float]]:
        """Pairs of upper bound and the number of observations up to it, as Prometheus wants them."""
        seen = 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            seen += count
            yield bound, float(seen)

    def copy(self) -> "Buckets":
        copy = Buckets(self.bounds)
        copy.counts, copy.total = self.counts[:], self.total
        return copy

    def merge(self, other: "Buckets") -> None:
        """Add what another of the same bounds has seen."""
        self.counts = [own + more for own, more in zip(self.counts, other.counts, strict=True)]
        self.total += other.total


class Histogram:
    __slots__ = ("bounds", "help", "labels", "name", "series")

    def __init__(self, name: str, help: str, labels: Labels, bounds: tuple[float, ...]) -> None:
        self.name = name
        self.help = help
        self.labels = labels
        self.bounds = bounds
        self.series: dict[Labels, Buckets] = {} if labels else {(): Buckets(bounds)}

    def child(self, values: Labels) -> Buckets:
        """The series with these label values, to be kept by whoever observes often."""
        if values not in self.series and len(self.series) >= MAX_SERIES:
            values = ("other",) * len(self.labels)
        return self.series.setdefault(values, Buckets(self.bounds))

    def observe(self, values: Labels, value: float) -> None:
        self.child(values).observe(value)

    def read(self) -> dict[Labels, Buckets]:
        return self.series


class Relabelled:
    """A histogram's series by other labels; several may come to one. Made when text is: no work of the loop's."""

    __slots__ = ("help", "labels", "name", "of", "relabel")

    def __init__(
        self, name: str, help: str, labels: Labels, of: Histogram, relabel: Callable[[Labels], Labels]
    ) -> None:
        self.name = name
        self.help = help
        self.labels = labels
        self.of = of
        self.relabel = relabel

    def made(self, series: dict[Labels, Buckets]) -> dict[Labels, Buckets]:
        found: dict[Labels, Buckets] = {}
        for values, buckets in series.items():
            found.setdefault(self.relabel(values), Buckets(self.of.bounds)).merge(buckets)
        return found


Family = Counter | Gauge | Histogram | Relabelled

# A family and a copy of the value of every series: of a histogram `Buckets`, of what is relabelled the histogram's.
Taken = tuple[Family, dict[Labels, Any]]
