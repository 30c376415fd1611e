"""Whether a model on a backend is given requests, by how the last ones went there: a circuit breaker.

    closed      as many as there are slots
    open        none before `until`: it has failed too often of late
    busy        none before `until`: it has said itself that it has enough to do
    stuck       none, until a probe generates: it says nothing any more (`stick`, `generates`)
    half_open   one at a time, after a pause; another pause, twice as long, if that one fails
    recovering  slots come back, from one on, one with each success; from where it was busy, one with each round of them

What the client is to blame for says nothing here, nor does what began before the last change of state. Pauses are
somewhat longer than told, so that backends that failed together are not tried together: by their names, not by chance.
"""

from math import inf
from typing import Final

# Of the share of failures, seen over the last few runs: five in a row open it, and so do four of five for a while.
COUNTS = 0.2
TRIPS_ABOVE = 0.6
# No pause is longer than so many first ones, and none that a backend asks for longer than that.
MOST_PAUSES = 60
MAX_BUSY_S = 300.0
JITTER = 0.25
GOLDEN = 0.618034  # whose multiples are spread evenly over every stretch of them
# Who says it is busy without saying for how long is asked again sooner than who fails.
BUSY_PART = 0.1
# A failure so many first pauses after the last one was over is the first of its kind again.
REMEMBERED_PAUSES = 60

CLOSED: Final = "closed"
OPEN: Final = "open"
BUSY: Final = "busy"
STUCK: Final = "stuck"
HALF_OPEN: Final = "half_open"
RECOVERING: Final = "recovering"
_RESTS = (OPEN, BUSY, STUCK)


class Breaker:
    """`limit`: how many may run at once, inf: as many as there are slots. `until`: when a pause is over, else -inf.

    `name` is whose it is, `pause_s` the first pause. Events tell whether anything has changed for who gives requests.
    """

    __slots__ = (
        "_pause_s",
        "_pauses",
        "_remembered_until",
        "_seed",
        "_share",
        "_since",
        "_was_busy_at",
        "limit",
        "probe_at",
        "state",
        "until",
        "why",
    )

    def __init__(self, name: str, pause_s: float = 1.0) -> None:
        self._seed = int.from_bytes(name.encode()) % 9973
        self._pause_s = pause_s
        self.state: str = CLOSED
        self.limit = inf
        self.until = -inf
        self.probe_at = inf  # of one that is stuck
        self.why = ""
        self._share = 0.0  # of failures, lately
        self._pauses = 0  # in a row
        self._remembered_until = -inf
        self._since = -inf  # what began before tells nothing
        self._was_busy_at = inf  # with so many at once

    @property
    def rests(self) -> bool:
        return self.state in _RESTS

    def is_forgotten(self, now: float) -> bool:
        """Whether it knows nothing that a new one would not."""
        return self.state is CLOSED and self._share < COUNTS / 2 and now > self._remembered_until

    # --- how runs ended ---------------------------------------------------------------------------------------------

    def succeeded(self, began_at: float, slots: int, now: float) -> bool:
        """`slots`: how many it has when all is well."""
        if self.rests or began_at < self._since:
            return False
        self._share *= 1 - COUNTS
        if self.limit == inf:
            return False
        before, state = int(self.limit), self.state
        self.limit += 1.0 if self.limit < self._was_busy_at else 1 / self.limit
        self.state = RECOVERING
        if self.limit >= slots:
            self.state, self.limit, self.why = CLOSED, inf, ""
            self._was_busy_at = inf
        return self.state != state or int(self.limit) != before

    def failed(self, began_at: float, why: str, now: float, *, again: bool = False) -> bool:
        """`again`: the same request has failed here before, which tells more of the request than of the backend."""
        if self.rests or began_at < self._since:
            return False
        if self.state is not HALF_OPEN:
            if again:
                return False
            self._share += COUNTS * (1 - self._share)
            if self._share <= TRIPS_ABOVE:
                return False
        self._rest(OPEN, why, self._pause(1.0, now), now)
        return True

    def busy(self, began_at: float, others: int, retry_after_s: float | None, now: float) -> bool:
        """It has sent one away while it ran so many `others`, and said when to come back, if it did."""
        if self.rests:
            if self.state is BUSY and retry_after_s is not None and now + retry_after_s > self.until:
                self.until = now + min(retry_after_s, MAX_BUSY_S)
                return True
            return False
        if others and retry_after_s is None:
            if others >= self.limit:
                return False
            self.limit = self._was_busy_at = others
            self.state, self.why = RECOVERING, f"it was busy with {others}"
            return True
        if began_at < self._since and retry_after_s is None:
            return False
        self._was_busy_at = min(self._was_busy_at, others or inf)
        pause_s = self._pause(BUSY_PART, now)
        if retry_after_s is not None:
            pause_s = max(pause_s, min(retry_after_s, MAX_BUSY_S) * self._jitter())
        self._rest(BUSY, "it says that it is busy", pause_s, now)
        return True

    # --- what probes found ------------------------------------------------------------------------------------------

    def stick(self, why: str, now: float) -> bool:
        """It does not generate. Said again after each probe that finds so."""
        before = self.state
        self._rest(STUCK, why, self._pause(1.0, now), now)
        self.probe_at, self.until = self.until, inf
        return before is not STUCK

    def generates(self, now: float) -> bool:
        """A probe has had an answer."""
        if self.state is not STUCK:
            return False
        self._try(RECOVERING, now)
        return True

    def begin(self, now: float) -> None:
        """It has come back, from wherever it was: slowly at first."""
        self._try(RECOVERING, now)

    # --- time -------------------------------------------------------------------------------------------------------

    def wake(self, now: float) -> bool:
        """Whether a pause is over by now: then one may try. Who was busy has not failed, and need not prove more."""
        if not self.rests or now < self.until:
            return False
        self._try(HALF_OPEN if self.state is OPEN else RECOVERING, now)
        return True

    def _try(self, state: str, now: float) -> None:
        self.state, self.limit, self.until, self.probe_at = state, 1.0, -inf, inf
        self._share, self._since = 0.0, now

    def _rest(self, state: str, why: str, pause_s: float, now: float) -> None:
        self.state, self.why, self.limit, self._since = state, why, 0.0, now
        self.until = now + pause_s
        self._remembered_until = self.until + REMEMBERED_PAUSES * self._pause_s

    def _pause(self, part: float, now: float) -> float:
        """Twice as long each time."""
        self._pauses = self._pauses + 1 if now <= self._remembered_until else 1
        return self._pause_s * min(part * 2.0 ** min(self._pauses - 1, 30), MOST_PAUSES) * self._jitter()

    def _jitter(self) -> float:
        return 1 + JITTER * ((self._seed + self._pauses) * GOLDEN % 1)
