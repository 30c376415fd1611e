"""What may be used at most: requests in 60 s, tokens in a time, requests at once, tokens of a day or a month.

Each limit is charged (`take`) where there is room, and says how long to wait where there is none (`wait_s`). What was
taken is settled once, with what was really used: given back in the moment in which it was taken it leaves the limit as
it was, so that who asks several charges all or none (invariant I6). A `cost` is in tokens, of which those of the
`prompt` are known and the rest is a guess: of a request that may fit without that no limit says that it never will.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from math import inf
from typing import Any, Literal, Protocol

from msgspec import Struct

from hermes.principal import Quota

SPAN_S = 60.0
# Of a limit above this, requests of the same 0.1 s are counted as one mark, which ages as its youngest, even if that
# one was given back.
MANY = 4096
GRAIN_S = 0.1
# Of what a flow gives back, it may lose so much of the limit: what it remembers is no finer.
GRAINS = 128
# Budgets are written down so far ahead: what an unclean end loses of one at most.
BLOCKS = 64
# Sums of floats are off by less.
_DUST_S = 1e-6


class Moment(Struct, frozen=True, gc=False):
    """Monotonic seconds for all that lasts, Unix seconds for what the calendar has (invariant I35)."""

    now: float
    unix: float


# What a limit has to know of what it took to settle it.
Mark = Any


# A limit's own `take` and `settle`.
Take = Callable[[int, int, Moment], Mark | None]
Settle = Callable[[Mark, int | None, Moment], None]


class Limit(Protocol):
    most: int

    def wait_s(self, cost: int, prompt: int, at: Moment) -> float:
        """Seconds until so much fits, if nothing more is taken; 0.0: it does now, inf: never."""

    def take(self, cost: int, prompt: int, at: Moment) -> Mark | None:
        """Charge so much; None: it does not fit, and nothing is charged."""

    def settle(self, mark: Mark, used: int | None, at: Moment) -> None:
        """It is over, and took so much; None: nothing, and all is given back. To be called once for each mark."""

    def resize(self, most: int, at: Moment) -> None: ...
    def is_blank(self, at: Moment) -> bool:
        """Whether it is as if nothing had ever been taken."""


# That aged long ago.
_NO_MARK: list[float] = [-inf, 0, -inf]


class Window:
    """At most `most` requests in any 60 s, exactly."""

    __slots__ = ("_ages_at", "_last", "_marks", "_total", "most")

    def __init__(self, most: int) -> None:
        self.most = most
        self._total = 0
        # Of [the youngest's time, how many, the oldest's], in order; the last, which is never of nothing, or one that
        # has aged.
        self._marks: deque[list[float]] = deque()
        self._last = _NO_MARK.copy()
        self._ages_at = inf  # nothing does before

    def wait_s(self, cost: int, prompt: int, at: Moment) -> float:
        self._age(at.now)
        surplus = self._total + 1 - self.most
        if surplus <= 0:
            return 0.0
        for when, count, _ in self._marks:
            surplus -= int(count)
            if surplus <= 0:
                return when + SPAN_S - at.now
        return inf

    def take(self, cost: int, prompt: int, at: Moment) -> Mark | None:
        now, most = at.now, self.most
        if now >= self._ages_at:
            self._age(now)
        if self._total >= most:
            return None
        self._total += 1
        mark = self._last
        if most > MANY and now - mark[2] < GRAIN_S:
            mark[0] = now
            mark[1] += 1
        else:
            if not self._marks:
                self._ages_at = now + SPAN_S
            self._last = mark = [now, 1, now]
            self._marks.append(mark)
        return mark

    def settle(self, mark: Mark, used: int | None, at: Moment) -> None:
        if used is not None or not mark[1]:
            return
        mark[1] -= 1
        self._total -= 1
        marks = self._marks
        if mark is self._last and not mark[1]:  # as of each that another limit refuses
            while marks and not marks[-1][1]:
                marks.pop()
            self._last = marks[-1] if marks else _NO_MARK.copy()
        elif len(marks) > 2 * self._total + 64:  # most of them are of nothing any more
            self._marks = deque(mark for mark in marks if mark[1])

    def resize(self, most: int, at: Moment) -> None:
        self.most = most

    def is_blank(self, at: Moment) -> bool:
        self._age(at.now)
        return not self._total

    def quota(self, at: Moment) -> Quota:
        most, left, mark = self.most, self.most - self._total, self._last
        if left < 0:
            left = 0
        return Quota(most, left, mark[0] + SPAN_S - at.now if mark[1] else 0.0)

    def _age(self, now: float) -> None:
        marks = self._marks
        while marks and marks[0][0] + SPAN_S <= now:
            mark = marks.popleft()
            self._total -= int(mark[1])
            mark[1] = 0
        self._ages_at = marks[0][0] + SPAN_S if marks else inf


class Flow:
    """In any t seconds at most `most` (1 + t/60) tokens: GCRA (ITU-T I.371), as a bucket that leaks.

    Its level is in seconds: so long it takes to leak empty. What is given back leaves it as if it had never been in it:
    its tokens have leaked by now as far as the others' would have leaked instead, and what is left of them is no more
    than the bucket ever held since. Those lows are remembered, the latest as long as none is lower.
    """

    __slots__ = ("_count", "_empty_at", "_lows", "_token_s", "most")

    def __init__(self, most: int) -> None:
        self.most = most
        self._token_s = SPAN_S / most  # so long takes a token to leak
        self._empty_at = 0.0
        self._count = 0
        self._lows: list[list[float]] = [[0, -inf]]  # of [before which pouring, level]; both rise

    def wait_s(self, cost: int, prompt: int, at: Moment) -> float:
        if cost > self.most:
            cost = _trimmed(prompt, self.most)
        surplus_s = self._level_s(at.now) + cost * self._token_s - SPAN_S
        if surplus_s <= _DUST_S:
            return 0.0
        return inf if prompt > self.most else surplus_s

    def take(self, cost: int, prompt: int, at: Moment) -> Mark | None:
        level_s = self._empty_at - at.now
        if level_s < 0:
            level_s = 0.0
        if cost > self.most:
            cost = _trimmed(prompt, self.most)
        cost_s = cost * self._token_s
        if level_s + cost_s - SPAN_S > _DUST_S:
            return None
        self._pour(at.now, level_s, cost_s)
        return self._count, cost

    def settle(self, mark: Mark, used: int | None, at: Moment) -> None:
        number, cost = mark
        surplus = (used or 0) - cost
        if surplus < 0:
            self._take_back(number, -surplus * self._token_s)
        elif surplus:
            self._pour(at.now, self._level_s(at.now), surplus * self._token_s)

    def resize(self, most: int, at: Moment) -> None:
        """Of as many tokens it is as full as before."""
        token_s = SPAN_S / most
        slower = token_s / self._token_s
        self._empty_at = at.now + self._level_s(at.now) * slower
        for low in self._lows:
            low[1] *= slower
        self.most, self._token_s = most, token_s

    def is_blank(self, at: Moment) -> bool:
        return not self._level_s(at.now)

    def quota(self, at: Moment) -> Quota:
        most, level_s = self.most, self._empty_at - at.now
        if level_s < 0:
            level_s = 0.0
        left = int((SPAN_S - level_s + _DUST_S) / self._token_s)
        if left < 0:
            left = 0
        elif left > most:
            left = most
        return Quota(most, left, level_s)

    def _level_s(self, now: float) -> float:
        return max(0.0, self._empty_at - now)

    def _pour(self, now: float, level_s: float, cost_s: float) -> None:
        """On top of so much."""
        lows = self._lows
        self._count += 1
        low = lows[-1]
        while low[1] > level_s:
            lows.pop()
            low = lows[-1]
        if level_s - low[1] < SPAN_S / GRAINS:
            low[0] = self._count
        else:
            lows.append([self._count, level_s])
        self._empty_at = now + level_s + cost_s

    def _take_back(self, number: int, cost_s: float) -> None:
        """Of what was the pouring of this number."""
        lows = self._lows
        first = bisect_right(lows, [number, inf])
        lowest = lows[first][1] if first < len(lows) else inf
        back_s = min(cost_s, lowest)
        self._empty_at -= back_s
        for low in lows[first:]:
            low[1] -= back_s
        while first < len(lows) and lows[first - 1][1] >= lows[first][1]:
            first -= 1
            del lows[first]


class AtOnce:
    """At most `most` requests that are not settled."""

    __slots__ = ("_taken", "most")

    def __init__(self, most: int) -> None:
        self.most = most
        self._taken = 0

    def wait_s(self, cost: int, prompt: int, at: Moment) -> float:
        return 0.0 if self._taken < self.most else 1.0  # nobody knows

    def take(self, cost: int, prompt: int, at: Moment) -> Mark | None:
        if self._taken >= self.most:
            return None
        self._taken += 1
        return True

    def settle(self, mark: Mark, used: int | None, at: Moment) -> None:
        self._taken -= 1

    def resize(self, most: int, at: Moment) -> None:
        self.most = most

    def is_blank(self, at: Moment) -> bool:
        return not self._taken


class Budget:
    """At most `most` tokens in each day or month of the calendar (UTC), those that are reserved included (I31).

    `earlier` tells what was used of a period before this began. `claimed` is what is to be written down as used, ahead
    of it, and `written` what has been, so that who begins anew after an unclean end knows of no less than was used;
    nothing is to be done about that while no more than `good_for` is used. A clock that is set back leads into no
    period that is over.
    """

    __slots__ = (
        "_earlier",
        "_ends",
        "_span",
        "claimed",
        "claims_above",
        "good_for",
        "most",
        "period",
        "used",
        "written",
    )

    def __init__(self, most: int, span: Literal["day", "month"], earlier: Callable[[str], int]) -> None:
        self.most = most
        self.used = self.written = self.claimed = self.claims_above = self.good_for = 0
        self.period = ""
        self._span = span
        self._earlier = earlier
        self._ends = -inf

    def wait_s(self, cost: int, prompt: int, at: Moment) -> float:
        if at.unix >= self._ends:
            self._turn(at.unix)
        if self.used + (cost if cost <= self.most else _trimmed(prompt, self.most)) <= self.most:
            return 0.0
        return inf if prompt > self.most else max(1.0, self._ends - at.unix)

    def take(self, cost: int, prompt: int, at: Moment) -> Mark | None:
        if at.unix >= self._ends:
            self._turn(at.unix)
        most = self.most
        if cost > most:
            cost = _trimmed(prompt, most)
        used = self.used + cost
        if used > most:
            return None
        self.used = used
        return self.period, cost

    def settle(self, mark: Mark, used: int | None, at: Moment) -> None:
        period, cost = mark
        if period == self.period:
            self.used += (used or 0) - cost

    def resize(self, most: int, at: Moment) -> None:
        self.most = most

    def is_blank(self, at: Moment) -> bool:
        if at.unix >= self._ends:
            self._turn(at.unix)
        return not self.used

    def claim(self) -> int:
        """What is to be written down as used now; that is enough as long as no more than `claims_above` is used."""
        block = max(1, self.most // BLOCKS)
        self.claimed = max(self.used, min(self.used + block, self.most))
        self.claims_above = self.claimed - block // 2 if self.claimed < self.most else self.claimed
        self.good_for = min(self.claims_above, self.written)
        return self.claimed

    def note_written(self, tokens: int) -> None:
        """So much is known to be used by whoever begins anew."""
        self.written = max(self.written, tokens)
        self.good_for = min(self.claims_above, self.written)

    def _turn(self, unix: float) -> None:
        day = datetime.fromtimestamp(unix, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        self.period, ends = day_of(unix), day + timedelta(days=1)
        if self._span == "month":
            self.period, ends = self.period[:7], (day.replace(day=1) + timedelta(days=32)).replace(day=1)
        self._ends = ends.timestamp()
        used = self._earlier(self.period)
        self.used = self.written = self.claimed = self.claims_above = self.good_for = used


def day_of(unix: float) -> str:
    """As in 2026-11-22."""
    return _day(int(unix // 86400))


@lru_cache(maxsize=4)
def _day(number: int) -> str:
    return (date(1970, 1, 1) + timedelta(days=number)).isoformat()


def _trimmed(prompt: int, most: int) -> int:
    """What is reserved for who would not fit at all: a guess alone takes nobody over the whole limit."""
    return max(prompt, most)
