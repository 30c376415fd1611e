"""The last hour in numbers: requests, tokens, and how long was waited, by model, in spans of half a minute.

Fed with records as they come, it sorts them in later, many at once. A model that is asked for takes some 570 bytes in
each span: 67 KiB in an hour, and as many models as are told apart 2.2 MiB at most; without requests nothing.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import accumulate, pairwise
from typing import TypeAlias

from hermes.errors import Outcome
from hermes.record import Record

SPAN_S = 30
SPANS = 120
# Told apart in one span; the others are one.
MODELS = 32
OTHERS = "other"
SORTED_TOGETHER = 100

# Upper bounds of times in ms, each a quarter more than the last: a percentile is right within an eighth.
BOUNDS = tuple(accumulate(range(57), lambda bound, _: max(bound + 1, round(bound * 1.25)), initial=1))
_CELLS = len(BOUNDS) + 1
_REQUESTS, _FAILED, _IN, _OUT, _WAITS = range(5)
_TTFTS = _WAITS + _CELLS
_EMPTY = array("I", bytes(array("I").itemsize * (_TTFTS + _CELLS)))

COUNTS = {"requests": _REQUESTS, "failed": _FAILED, "tokens_in": _IN, "tokens_out": _OUT}
TIMES = {"wait": _WAITS, "ttft": _TTFTS}

Counts: TypeAlias = "array[int]"
"""Of one model in one span."""
_WELL = frozenset((Outcome.OK, Outcome.CLIENT_GONE, Outcome.CANCELLED))


class History:
    """Times are in Unix seconds: those of the records."""

    def __init__(self) -> None:
        self._new: list[Record] = []
        self._spans: dict[int, dict[str, Counts]] = {}
        self._at = 0  # the span of the last that came

    def add(self, record: Record) -> None:
        self._new.append(record)
        if len(self._new) == SORTED_TOGETHER:
            self._sort_in()

    def counted(self, since: float) -> dict[str, dict[str, int]]:
        """The sums of each model since the span that this is in."""
        found: dict[str, dict[str, int]] = {}
        for _, model, counts in self._since(since):
            told = found.setdefault(model, dict.fromkeys(COUNTS, 0))
            for name, index in COUNTS.items():
                told[name] += counts[index]
        return found

    def series(self, now: float) -> dict[str, dict[str, list[int]]]:
        """By model, what was counted in each span of the last hour, the present one last."""
        first, found = self._first(now), dict[str, dict[str, list[int]]]()
        for number, model, counts in self._since(first * SPAN_S):
            told = found.get(model)
            if told is None:
                told = found[model] = {name: [0] * SPANS for name in COUNTS}
            if number - first < SPANS:
                for name, index in COUNTS.items():
                    told[name][number - first] = counts[index]
        return found

    def percentiles(self, now: float, model: str | None, of: Iterable[float]) -> dict[str, list[list[int | None]]]:
        """Waits and times to the first token in ms, of one model or all: a list for each percentile, as in `series`."""
        first, sums = self._first(now), dict[int, Counts]()
        for number, name, counts in self._since(first * SPAN_S):
            if model in (None, name) and number - first < SPANS:
                known = sums.get(number)
                sums[number] = counts if known is None else array("Q", map(int.__add__, known, counts))
        found = {}
        for name, start in TIMES.items():
            found[name] = [[_percentile(sums.get(first + at), start, part) for at in range(SPANS)] for part in of]
        return found

    def first(self, now: float) -> float:
        """When the first span of the last hour began."""
        return float(self._first(now) * SPAN_S)

    def _first(self, now: float) -> int:
        return int(now // SPAN_S) - SPANS + 1

    def _since(self, since: float) -> Iterator[tuple[int, str, Counts]]:
        self._sort_in()
        first = int(since // SPAN_S)
        for number, models in self._spans.items():
            if number >= first:
                yield from ((number, model, counts) for model, counts in models.items())

    def _sort_in(self) -> None:
        for record in self._new:
            if not record.urgency:  # it did not ask for tokens
                continue
            ended_at = record.created_at + record.duration_ms / 1000
            number = self._at = int(ended_at // SPAN_S)
            counts = self._of(number, record.model)
            counts[_REQUESTS] += 1
            if record.outcome not in _WELL:
                counts[_FAILED] += 1
            if (queue_ms := record.queue_ms) is not None:
                counts[_WAITS + bisect_right(BOUNDS, queue_ms)] += 1
                counts[_IN] += record.tokens_in
                began_at = record.created_at + (record.ttft_ms or queue_ms) / 1000
                if record.ttft_ms is not None:
                    counts[_TTFTS + bisect_right(BOUNDS, record.ttft_ms)] += 1
                if began_at >= number * SPAN_S:
                    counts[_OUT] += record.tokens_out
                else:
                    self._spread(record.model, record.tokens_out, began_at, ended_at)
        self._new.clear()

    def _spread(self, model: str, tokens: int, began_at: float, ended_at: float) -> None:
        """A long answer was written in all the spans that it took, as far as they are remembered."""
        last, left = int(ended_at // SPAN_S), tokens
        for number in range(max(int(began_at // SPAN_S), last - SPANS + 1), last):
            part = (number + 1) * SPAN_S - max(began_at, number * SPAN_S)
            share = min(left, round(tokens * part / (ended_at - began_at)))
            self._of(number, model)[_OUT] += share
            left -= share
        self._of(last, model)[_OUT] += left

    def _of(self, number: int, model: str) -> Counts:
        models = self._spans.get(number)
        if models is None:
            models = self._spans[number] = {}
            if len(self._spans) > SPANS + 1:
                # the oldest; or what is yet to be, for a clock that was set back
                del self._spans[max(self._spans, key=lambda other: abs(other - self._at))]
        counts = models.get(model)
        if counts is None:
            if len(models) >= MODELS:
                model = OTHERS
            counts = models.setdefault(model, _EMPTY[:])
        return counts


def _percentile(counts: "Counts | None", start: int, part: float) -> int | None:
    if counts is None:
        return None
    sums = list(accumulate(counts[start : start + _CELLS]))
    if not sums[-1]:
        return None
    cell = bisect_right(sums, part * sums[-1] - 1e-9)
    return _MIDDLES[min(cell, _CELLS - 1)]


# What is told of a time in each cell.
_MIDDLES = (0, *((low + high) // 2 for low, high in pairwise(BOUNDS)), BOUNDS[-1])
