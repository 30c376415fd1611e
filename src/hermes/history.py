"""The last hour in numbers: requests, tokens, and how long was waited, by model, in spans of half a minute.

Fed with records as they come, it sorts them in later, many at once. A model that is asked for takes some 1,050 bytes in
each span, all of them together as much again: 123 KiB for each in an hour, 4.2 MiB for as many as are told apart, and
without requests nothing.
"""

from array import array
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate, compress, pairwise, repeat
from operator import attrgetter
from typing import TypeAlias

from hermes.errors import Outcome
from hermes.record import Record

SPAN_S = 30
SPANS = 120
# Told apart in one span; the others are one.
MODELS = 32
OTHERS = "other"
EVERY = ""  # no model's name: the times of all
SORTED_TOGETHER = 100

# Upper bounds of times in ms, each a quarter more than the last: a percentile is right within an eighth.
BOUNDS = tuple(accumulate(range(57), lambda bound, _: max(bound + 1, round(bound * 1.25)), initial=1))
_CELLS = len(BOUNDS) + 1
_REQUESTS, _FAILED, _IN, _OUT, _WAITS = range(5)
_TTFTS = _WAITS + _CELLS
# 64 bits: the sums of what backends say, who may lie (I15).
_EMPTY = array("Q", bytes(array("Q").itemsize * (_TTFTS + _CELLS)))

COUNTS = {"requests": _REQUESTS, "failed": _FAILED, "tokens_in": _IN, "tokens_out": _OUT}
TIMES = {"wait": _WAITS, "ttft": _TTFTS}

Counts: TypeAlias = "array[int]"
"""Of one model in one span."""
_WELL = (Outcome.OK, Outcome.CLIENT_GONE, Outcome.CANCELLED)
_outcome, _tokens_in, _tokens_out = attrgetter("outcome"), attrgetter("tokens_in"), attrgetter("tokens_out")
_wait, _ttft, _attempts = attrgetter("queue_ms"), attrgetter("ttft_ms"), attrgetter("attempts")


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
        for _, model, counts in self._since(int(since // SPAN_S)):
            told = found.setdefault(model, dict.fromkeys(COUNTS, 0))
            for name, index in COUNTS.items():
                told[name] += counts[index]
        return found

    def series(self, now: float) -> dict[str, dict[str, list[int]]]:
        """By model, what was counted in each span of the last hour, the present one last."""
        first, found = self._first(now), dict[str, dict[str, list[int]]]()
        for number, model, counts in self._since(first):
            told = found.get(model)
            if told is None:
                told = found[model] = {name: [0] * SPANS for name in COUNTS}
            if number - first < SPANS:
                for name, index in COUNTS.items():
                    told[name][number - first] = counts[index]
        return found

    def percentiles(
        self, now: float, wanted: Callable[[str], bool] | None, of: Iterable[float]
    ) -> dict[str, list[list[int | None]]]:
        """Waits and times to the first token in ms, of all models or the wanted: a list for each percentile, as in
        `series`.
        """
        first, parts = self._first(now), tuple(of)
        told: dict[str, list[list[int | None]]] = {name: [[None] * SPANS for _ in parts] for name in TIMES}
        for number, counts in self._each(first, wanted):
            if number - first < SPANS:
                for name, start in TIMES.items():
                    for each, value in zip(told[name], _percentiles(counts, start, parts), strict=True):
                        each[number - first] = value
        return told

    def first(self, now: float) -> float:
        """When the first span of the last hour began."""
        return float(self._first(now) * SPAN_S)

    def _first(self, now: float) -> int:
        return int(now // SPAN_S) - SPANS + 1

    def _since(self, first: int) -> Iterator[tuple[int, str, Counts]]:
        self._sort_in()
        for number, models in self._spans.items():
            if number >= first:
                yield from ((number, model, counts) for model, counts in models.items() if model != EVERY)

    def _each(self, first: int, wanted: Callable[[str], bool] | None) -> Iterator[tuple[int, Counts]]:
        self._sort_in()
        for number, models in self._spans.items():
            if number < first:
                continue
            if wanted is None:
                yield number, models[EVERY]
            elif found := [counts for model, counts in models.items() if model != EVERY and wanted(model)]:
                yield number, found[0] if len(found) == 1 else array("Q", map(sum, zip(*found, strict=True)))

    def _sort_in(self) -> None:
        """Those of one model and span together, in C as far as it goes: 0.6 us for each."""
        groups: defaultdict[tuple[int, str], list[Record]] = defaultdict(list)
        for record in self._new:
            if record.urgency:  # it asked for tokens
                ended_at = record.created_at + record.duration_ms / 1000
                groups[int(ended_at // SPAN_S), record.model].append(record)
        self._new.clear()
        for (number, model), group in groups.items():
            self._at = number
            counts, every = self._of(number, model), self._of(number, EVERY)
            counts[_REQUESTS] += len(group)
            counts[_FAILED] += len(group) - sum(map(list(map(_outcome, group)).count, _WELL))
            ran = list(map(_attempts, group))  # what others' runs have answered was neither read nor written again
            counts[_IN] += sum(compress(map(_tokens_in, group), ran))
            counts[_OUT] += sum(compress(map(_tokens_out, group), ran))
            for start, time in ((_WAITS, _wait), (_TTFTS, _ttft)):
                known = [ms for ms in map(time, group) if ms is not None]
                for cell, times in Counter(map(bisect_right, repeat(BOUNDS), known)).items():
                    counts[start + cell] += times
                    every[start + cell] += times
            began = number * SPAN_S
            for record in group:
                if record.created_at < began and record.attempts:
                    self._spread(record, counts)

    def _spread(self, record: Record, counts: Counts) -> None:
        """A long answer was written in all the spans that it took, as far as they are remembered. `counts` of the last
        has all of it so far.
        """
        ended_at = record.created_at + record.duration_ms / 1000
        began_at = record.created_at + (record.ttft_ms or record.queue_ms or 0) / 1000
        last = int(ended_at // SPAN_S)
        for number in range(max(int(began_at // SPAN_S), last - SPANS + 1), last):
            part = ((number + 1) * SPAN_S - max(began_at, number * SPAN_S)) / (ended_at - began_at)
            share = int(record.tokens_out * part)
            self._of(number, record.model)[_OUT] += share
            counts[_OUT] -= share

    def _of(self, number: int, model: str) -> Counts:
        models = self._spans.get(number)
        if models is None:
            models = self._spans[number] = {EVERY: _EMPTY[:]}
            if len(self._spans) > SPANS + 1:
                # the oldest; or what is yet to be, for a clock that was set back
                del self._spans[max(self._spans, key=lambda other: abs(other - self._at))]
        counts = models.get(model)
        if counts is None:
            if len(models) > MODELS:
                model = OTHERS
            counts = models.setdefault(model, _EMPTY[:])
        return counts


def _percentiles(counts: Counts, start: int, parts: tuple[float, ...]) -> list[int | None]:
    sums = list(accumulate(counts[start : start + _CELLS]))
    if not sums[-1]:
        return [None] * len(parts)
    return [_MIDDLES[min(bisect_right(sums, part * sums[-1] - 1e-9), _CELLS - 1)] for part in parts]


# What is told of a time in each cell.
_MIDDLES = (0, *((low + high) // 2 for low, high in pairwise(BOUNDS)), BOUNDS[-1])
