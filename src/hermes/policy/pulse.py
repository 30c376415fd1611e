"""How long a model on a backend is usually silent, and so when its silence is one too many.

What is usual is the 99th percentile of what was seen; a multiple of it is suspicious, though nothing that is short for
a person is. Nothing is held against a model of which too little was seen.
"""

from math import inf

from msgspec import Struct

from hermes.policy.estimates import Samples

USUAL = 0.99
# So many times the usual is not usual.
TIMES = 8.0
# A short prompt takes no less than one of so many tokens; which begins to be answered in the least time of all that is
# suspicious, and longer ones accordingly, until more is known.
LEAST_TOKENS = 256
# Of whole answers that come all at once.
ENOUGH_RUNS = 5


class Patience(Struct, frozen=True):
    """`silence_s`: no shorter silence is suspicious; 0: none is. `pause_s`: a breaker's first pause."""

    silence_s: float = 30.0
    probe_timeout_s: float = 15.0
    pause_s: float = 1.0


STANDARD = Patience()


class Pulse:
    """Of one model on one backend. `heard_at`: when there was last a sign of life from it."""

    __slots__ = ("_gaps", "_least_s", "_prefills", "_runs", "heard_at")

    def __init__(self, least_s: float) -> None:
        self._least_s = least_s
        self._gaps = Samples(0.0)
        self._prefills = Samples(least_s / TIMES / LEAST_TOKENS)  # per token
        self._runs = Samples(inf)
        self.heard_at = -inf

    def spoke(self, after_s: float) -> None:
        """There was something again after a silence within an answer."""
        self._gaps.add(after_s)

    def began(self, after_s: float, prompt_tokens: int) -> None:
        """The first of an answer has come."""
        self._prefills.add(after_s / max(prompt_tokens, LEAST_TOKENS))

    def ended(self, after_s: float) -> None:
        """All of an answer of which nothing was to be seen before."""
        self._runs.add(after_s)

    def within_s(self) -> float:
        """The longest silence within an answer that is not suspicious."""
        return max(self._least_s, TIMES * self._gaps.quantile(USUAL))

    def before_s(self, prompt_tokens: int) -> float:
        """The longest before one begins."""
        return max(self._least_s, TIMES * self._prefills.quantile(USUAL) * max(prompt_tokens, LEAST_TOKENS))

    def at_all_s(self) -> float:
        """The longest of one of which nothing is to be seen before its end."""
        return max(self._least_s, TIMES * self._runs.quantile(USUAL)) if self._runs.count >= ENOUGH_RUNS else inf
