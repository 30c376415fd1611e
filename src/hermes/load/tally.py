"""What came of the requests, counted as they end.

1. A time counts from when the request was due, not from when it could be sent: what a stall kept from being sent waited
   too.
2. Percentiles are of complete answers, and of those that did not come in time, with the time they had been given:
   leaving these out would make a server look better the worse it is. Refusals are counted, not timed.
   An answer that keeps what was measured of it, where something was not, is neither good nor bad.
3. A rate is of what ended within the window, which begins after the warm-up. What was due before it is not counted.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from hermes.load.histogram import Histogram
from hermes.load.plan import Asked
from hermes.load.reading import Reading

ANSWERED, LEFT, TIMEOUT = "answered", "left", "timeout"

# Past as many, what a server says went wrong is counted as one kind.
_MOST_KINDS = 40
_MOST_SLOTS = 240

MEASURES = ("ttft", "itl", "tpot", "e2e", "wait")


class Result(Struct):
    """One request that is over. Times are of one monotonic clock."""

    asked: Asked
    due_at: float
    sent_at: float
    ended_at: float
    outcome: str
    reading: Reading

    def times(self) -> dict[str, float]:
        """By measure. `tpot`: the mean time between the tokens of this answer."""
        read = self.reading
        found = {"e2e": self.ended_at - self.due_at}
        if self.outcome == ANSWERED and read.first_at:
            found["ttft"] = read.first_at - self.due_at
            tokens = max(read.tokens_out, read.pieces)
            if tokens > 1 and read.last_at > read.first_at:
                found["tpot"] = (read.last_at - read.first_at) / (tokens - 1)
        if read.wait_s is not None:
            found["wait"] = read.wait_s
        return found


class Group:
    """Requests that have something in common: all of them, or a tenant's."""

    def __init__(self) -> None:
        self.asked = self.answered = self.left = self.good = self.unmeasured = 0
        self.answered_within = self.good_within = self.tokens_in_within = self.tokens_out_within = 0
        self.tokens_in = self.tokens_out = 0
        self.errors: Counter[str] = Counter()
        self.times = {measure: Histogram() for measure in MEASURES}

    def add(self, result: Result, slo: Mapping[str, float], within: bool) -> None:
        """`within`: it ended in the window."""
        self.asked += 1
        if result.outcome == LEFT:
            self.left += 1
            return
        times = result.times()
        if result.outcome in (ANSWERED, TIMEOUT):
            for measure, time_s in times.items():
                self.times[measure].add(time_s)
        if result.outcome != ANSWERED:
            known = result.outcome in self.errors or len(self.errors) < _MOST_KINDS
            self.errors[result.outcome if known else "other"] += 1
            return
        keeps = all(times.get(measure, 0.0) <= most_s for measure, most_s in slo.items())
        is_good = keeps and slo.keys() <= times.keys()
        self.answered += 1
        self.good += is_good
        self.unmeasured += keeps and not is_good
        self.tokens_in += result.reading.tokens_in
        self.tokens_out += result.reading.tokens_out or result.reading.pieces
        if within:
            self.answered_within += 1
            self.good_within += is_good
            self.tokens_in_within += result.reading.tokens_in
            self.tokens_out_within += result.reading.tokens_out or result.reading.pieces


class Slot:
    """A second of the run, or a few: what was due in it, and what came in it."""

    def __init__(self, in_flight: int) -> None:
        """`in_flight`: as it begins."""
        self.due = self.answered = self.errors = self.pieces = 0
        self.most_in_flight = in_flight
        self.ttft = Histogram()
        self.e2e = Histogram()

    def merge(self, later: "Slot") -> None:
        for name in ("due", "answered", "errors", "pieces"):
            setattr(self, name, getattr(self, name) + getattr(later, name))
        self.most_in_flight = max(self.most_in_flight, later.most_in_flight)
        self.ttft.merge(later.ttft)
        self.e2e.merge(later.e2e)


class Tally:
    """All of a run. `names`: by which it is told whose a request was (tenants)."""

    def __init__(
        self, began_at: float, warmup_s: float, duration_s: float | None, slo: Mapping[str, float], names: list[str]
    ) -> None:
        self.began_at = began_at
        self.from_at = began_at + warmup_s
        self.until_at = None if duration_s is None else began_at + warmup_s + duration_s
        self.last_at = self.from_at
        self.plan_ended = False
        self.unsent_s = 0.0  # what was due in as long before the end was never sent
        self.slo = slo
        self.names = names
        self.all = Group()
        self.by: dict[str, dict[str, Group]] = {"model": {}, "tenant": {}, "class": {}}
        self.late = Histogram()  # how long after it was due a request could be sent
        self.slot_s = 1.0
        self.slots: list[Slot] = []
        self.in_flight = 0
        self.heeded = 0  # refusals after which a connection waited as it was told to, and for how long in all
        self.heeded_s = 0.0
        self.ended = self.failed = 0  # warm-up included: for whoever watches
        self._unheeded = Histogram()

    def gaps(self, due_at: float) -> Histogram:
        """Where the times between the pieces of its answer are put down."""
        return self.all.times["itl"] if due_at >= self.from_at else self._unheeded

    def begin(self, due_at: float) -> None:
        slot = self._slot(due_at)
        self.in_flight += 1
        slot.due += 1
        slot.most_in_flight = max(slot.most_in_flight, self.in_flight)

    def came(self, pieces: int, now: float) -> None:
        self._slot(now).pieces += pieces

    def end(self, result: Result) -> None:
        self.ended += 1
        is_error = result.outcome not in (ANSWERED, LEFT)
        self.failed += is_error
        self._note(result, is_error)
        self.in_flight -= 1
        if result.due_at < self.from_at:
            return
        self.last_at = max(self.last_at, result.ended_at)
        self.late.add(result.sent_at - result.due_at)
        within = self.until_at is None or result.ended_at <= self.until_at
        self.all.add(result, self.slo, within)
        asked = result.asked
        for kind, name in (("model", asked.model), ("tenant", self.names[asked.tenant]), ("class", asked.urgency)):
            if name not in self.by[kind]:
                self.by[kind][name] = Group()
            self.by[kind][name].add(result, self.slo, within)

    @property
    def window_s(self) -> float:
        """It ends with the last answer where the plan was over before the time was."""
        if self.until_at is None:
            return self.last_at - self.from_at
        return (min(self.last_at, self.until_at) if self.plan_ended else self.until_at) - self.from_at

    @property
    def usual_s(self) -> float:
        """How long answers take, so far."""
        return self.all.times["e2e"].mean_s or 1.0

    def _note(self, result: Result, is_error: bool) -> None:
        ended, due = self._slot(result.ended_at), self._slot(result.due_at)
        ended.answered += result.outcome == ANSWERED
        ended.errors += is_error
        if result.outcome in (ANSWERED, TIMEOUT):
            times: dict[str, Any] = result.times()
            due.e2e.add(times["e2e"])
            if "ttft" in times:
                due.ttft.add(times["ttft"])

    def _slot(self, at: float) -> Slot:
        place = int((at - self.began_at) / self.slot_s)
        if place >= _MOST_SLOTS:
            for earlier, later in zip(self.slots[::2], self.slots[1::2], strict=False):
                earlier.merge(later)
            self.slots = self.slots[::2]
            self.slot_s *= 2
            return self._slot(at)
        while len(self.slots) <= place:
            self.slots.append(Slot(self.in_flight))
        return self.slots[place]
