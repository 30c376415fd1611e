"""How often a failed attempt may be tried again: a budget shared by all requests, against retry storms."""

from msgspec import Struct


class RetryPolicy(Struct, frozen=True):
    """`max_attempts` for one request; `ratio` retries per request over all, `reserve` of them in hand at the start."""

    max_attempts: int = 3
    ratio: float = 0.2
    reserve: float = 10.0
    backoff_s: float = 0.1


class RetryBudget:
    """A token bucket filled by requests, not by time (tower's retry budget, Finagle's before it).

    Over any stretch of time the retries are at most `ratio` x requests + `reserve` (invariant I8).
    """

    __slots__ = ("_policy", "_tokens")

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._tokens = policy.reserve

    def adopt(self, policy: RetryPolicy) -> None:
        """What was saved up stays."""
        self._policy = policy

    def deposit(self) -> None:
        """A request has been admitted."""
        self._tokens = min(self._policy.reserve, self._tokens + self._policy.ratio)

    def withdraw(self, attempts: int) -> float | None:
        """After `attempts` failed ones: seconds to wait before the next, or None if there may be none."""
        if attempts >= self._policy.max_attempts or self._tokens < 1.0:
            return None
        self._tokens -= 1.0
        return self._policy.backoff_s * 4.0 ** (attempts - 1)
