"""How many runs of a model its backend does well at once: tried out while it works, between 1 and a cap.

Throughput is compared, by Little's law: the runs at once times the tokens per second of each, as a quotient of sums,
from which lengths drop out; a token read counts as much as it takes beside one written. A level is measured over some
runs that had it in full use all the while, then another is tried, and kept or left. More at once is worth it where it
gives at least half as much more throughput (the knee of Kleinrock, 1979: there throughput over time per answer is
greatest), and is not where it gives less than a quarter, or first bytes come later by more than it is more: they wait
for a slot in the backend. In between things stay as they are.

Vegas (of TCP; of Netflix's concurrency-limits) and Envoy's filter compare the time of an answer with that of one alone.
Here that would stop at once: of eight that are batched each is slower than one alone, and six times as much is done.
"""

from math import log

from msgspec import Struct

from hermes.policy.estimates import Reading
from hermes.policy.ticket import Ticket

FIRST = 4
# A level is measured over so many runs, and so long at least.
LEAST_RUNS = 16
LEAST_S = 5.0
# A run tells something if so much of the limit was in use beside it.
FULL = 0.9
# What reading a token takes beside writing one, until something is known.
FIRST_READING = 0.02
# Throughput gained, as a part of what runs more at once (logarithms of both).
WORTH_IT = 0.5
WORTHLESS = 0.25
# The next level is this much higher or lower: half as much after a failure, twice after a success.
FIRST_STRIDE = 0.5
LEAST_STRIDE, MOST_STRIDE = 0.2, 1.0
# When neither more nor less is better, nothing is tried for so many measurements, unless throughput changes by so much.
REST = 8
CHANGED = 1.3
# What was seen so long before a run began was seen of other times.
STALE_S = 600.0


class Level(Struct):
    """What was seen of so many `at_once`: sums over runs. `filled` is how many ran beside each, times its seconds.

    `first_s` are the times to first bytes of streams, `streams_read` the tokens of their prompts.
    """

    at_once: int
    since: float = 0.0
    runs: int = 0
    seconds: float = 0.0
    filled: float = 0.0
    written: int = 0
    read: int = 0
    first_s: float = 0.0
    streams_read: int = 0

    def add(self, run: Ticket, took_s: float, filled: float) -> None:
        self.runs += 1
        self.seconds += took_s
        self.filled += filled
        self.written += run.output_tokens
        self.read += run.prompt_tokens
        if run.begun_at is not None:
            self.first_s += run.begun_at - run.started_at
            self.streams_read += run.prompt_tokens

    def speed(self, reading: float) -> float:
        """Tokens a second of each."""
        return (self.written + reading * self.read) / self.seconds

    def throughput(self, reading: float) -> float:
        """Tokens a second of all together: how many ran on average, times what each did."""
        return self.filled / self.seconds * self.speed(reading)


class Concurrency:
    """`limit` is how many may run now, at most `cap`; `settled` what is known to be good; `found` the last finding."""

    __slots__ = (
        "_area",
        "_area_at",
        "_best",
        "_direction",
        "_failures",
        "_learned_at",
        "_level",
        "_reading",
        "_rest",
        "_runs",
        "_stride",
        "cap",
        "found",
        "limit",
        "settled",
    )

    def __init__(self, cap: int) -> None:
        self.cap = cap
        self.limit = self.settled = min(FIRST, cap)
        self.found = "not measured yet"
        self._runs: dict[Ticket, float | None] = {}  # the area when they began; None of those that tell nothing
        self._area = 0.0  # how many ran, times seconds, up to `_area_at`
        self._area_at = 0.0
        self._level = Level(self.limit)
        self._best: Level | None = None  # what was seen of `settled`
        self._reading = Reading(FIRST_READING)
        self._learned_at = 0.0
        self._direction = 1
        self._stride = FIRST_STRIDE
        self._failures = 0  # in a row
        self._rest = 0

    @property
    def why(self) -> str:
        """Why the limit is what it is."""
        return self.found if self.limit == self.settled else f"trying {self.limit}; {self.found}"

    def fit(self, cap: int) -> None:
        """The cap is this."""
        if cap != self.cap:
            self.cap = cap
            self.found = f"the cap is now {cap}"
            self._begin_at(min(self.settled, cap))

    def started(self, run: Ticket, now: float) -> None:
        self._pass(now)
        # Those before the one that takes the last place would wait less in the backend than others do.
        self._runs[run] = self._area if len(self._runs) >= self.limit - 1 else None

    def ended(self, run: Ticket, now: float, *, wanted: bool) -> bool:
        """True: the limit has changed. `wanted`: others wait; where nobody does, nothing is tried."""
        self._pass(now)
        area_before, before = self._runs.pop(run, None), self.limit
        took_s = now - run.started_at
        if area_before is not None and run.settled and took_s > 0:
            filled = self._area - area_before
            if filled >= FULL * self.limit * took_s:
                self._learn(run, took_s, filled, now, wanted)
        return self.limit != before

    def _learn(self, run: Ticket, took_s: float, filled: float, now: float, wanted: bool) -> None:
        if not run.output_tokens:
            return
        if run.started_at - self._learned_at > STALE_S:
            self._begin_at(self.settled)
        self._learned_at = now
        level = self._level
        level.since = level.since or now
        level.add(run, took_s, filled)
        self._reading.add(run.output_tokens, run.prompt_tokens, took_s)
        if level.runs < LEAST_RUNS or now - level.since < LEAST_S:
            return
        if self.limit == self.settled:
            self._look(level)
        else:
            self._judge(level)
        if self._rest or not wanted:
            self._go(self.settled)
        else:
            self._try()

    def _pass(self, now: float) -> None:
        self._area += len(self._runs) * (now - self._area_at)
        self._area_at = now

    def _go(self, level: int) -> None:
        if level != self.limit:
            self._runs = dict.fromkeys(self._runs)
            self.limit = level
        self._level = Level(level)

    def _begin_at(self, level: int) -> None:
        """Whatever was seen before holds no more."""
        self.settled = level
        self._best = None
        self._rest = self._failures = 0
        self._go(level)

    # --- deciding ---------------------------------------------------------------------------------------------------

    def _look(self, level: Level) -> None:
        """What is settled was measured again."""
        before, self._best = self._best, level
        if not self._rest or before is None:
            return
        self._rest -= 1
        change = level.throughput(self._reading.cost) / before.throughput(self._reading.cost)
        if max(change, 1 / change) > CHANGED:
            self._rest, self._direction, self._stride = 0, 1 if change > 1 else -1, FIRST_STRIDE
        elif self._rest:
            self._best = before  # so that what changes slowly is noticed, too

    def _judge(self, level: Level) -> None:
        """What was tried was measured."""
        best = self._best
        assert best is not None, "a level is tried beside one that was measured"
        up = level.at_once > best.at_once
        worth, found = compare(best, level, self._reading.cost) if up else compare(level, best, self._reading.cost)
        if worth == (1 if up else -1):
            self.found = f"{best.at_once} -> {level.at_once}: {found}"
            self.settled, self._best, self._failures = level.at_once, level, 0
            self._stride = min(MOST_STRIDE, 2 * self._stride)
            return
        self.found = f"{best.at_once}, not {level.at_once}: {found}"
        self._failures += 1
        self._direction = -self._direction
        if self._stride == LEAST_STRIDE and self._failures > 1:
            self._failures, self._rest = 0, REST
        self._stride = max(LEAST_STRIDE, self._stride / 2)

    def _try(self) -> None:
        """Another level: in the direction that has done well, or the other one where that is at its end."""
        if (level := self._next()) == self.settled:
            self._direction = -self._direction
            level = self._next()
        self._go(level)

    def _next(self) -> int:
        settled, by = self.settled, 1 + self._stride
        if self._direction > 0:
            return min(self.cap, max(settled + 1, round(settled * by)))
        return max(1, min(settled - 1, round(settled / by)))


def compare(fewer: Level, more: Level, reading: float) -> tuple[int, str]:
    """Whether more at once is worth it: 1 yes, -1 no, 0 hardly either; and what it gives and takes."""
    wider = log(more.at_once / fewer.at_once)
    gained = more.throughput(reading) / fewer.throughput(reading)
    slower = fewer.speed(reading) / more.speed(reading)
    later = 1.0
    found = f"{more.at_once} at once instead of {fewer.at_once}: {_change(gained)} tokens a second"
    found += f", {_change(slower)} time per token"
    if fewer.streams_read and more.streams_read and fewer.first_s > 0 and more.first_s > 0:
        later = more.first_s / more.streams_read * fewer.streams_read / fewer.first_s
        found += f", {_change(later)} time to first byte"
    gain = log(gained) / wider
    if gain >= WORTH_IT:
        return 1, found
    return (-1 if gain < WORTHLESS or log(later) > wider else 0), found


def _change(ratio: float) -> str:
    return f"{round(100 * (ratio - 1)):+d} %"
