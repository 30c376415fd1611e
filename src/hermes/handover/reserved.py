"""What everybody may still use, and what is reserved of it: passed on whole, and settled where it is now.

Pickled, for a process of the same version alone: to another one windows and flows begin anew, and of budgets it knows
what is on the disk.
"""

import pickle
from collections.abc import Callable, Iterable

from hermes.exchange import Exchange
from hermes.handover.channel import Charged, Message
from hermes.meter import Meter, Visit
from hermes.policy.limiter import Hold, Limiter, Modes
from hermes.policy.limits import Moment

_UNLIMITED = Modes(rpm="off", tpm="off", daily_tokens="off", monthly_tokens="off", concurrency="off")


class Passed:
    """What the old process has. Nothing is changed until `let_go`."""

    def __init__(self, meter: Meter, exchanges: Iterable[Exchange], tell: Callable[[Message], None]) -> None:
        self._meter = meter
        self._tell = tell
        charges = [each.charge for each in exchanges]
        self._holds = [*(each.hold for each in charges if isinstance(each, Visit)), *meter.hosted.values()]
        self.state = pickle.dumps((meter.limiter, self._holds))

    def let_go(self) -> None:
        """It is another's, who is told how each ends. What had come in and reserved nothing so far (a few, if any) is
        not limited, but counted.
        """
        for number, hold in enumerate(self._holds):
            hold.settles, hold.marks = [self._settle], [number]
        self._meter.limiter = Limiter(_UNLIMITED)
        self._meter.ledger.disclaim()

    def _settle(self, number: int, tokens: int | None, at: Moment) -> None:
        self._tell(Charged(number, tokens))


class Taken:
    """The same in the new process."""

    def __init__(self, meter: Meter, state: bytes, modes: Modes) -> None:
        self._meter = meter
        limiter: Limiter
        holds: list[Hold]
        # From who has started us, on a socket that nobody else has.
        limiter, holds = pickle.loads(state)  # noqa: S301
        meter.hosted = self._holds = dict(enumerate(holds))
        if limiter.modes != modes:
            limiter.change(modes)
        meter.limiter = limiter
        for account, budget in limiter.budgets():
            if budget.claimed:
                meter.ledger.claim(account, budget.period, budget.claimed, budget)

    def settle(self, number: int, tokens: int | None, at: Moment) -> None:
        if (hold := self._holds.pop(number, None)) is not None:
            hold.settle(tokens, at)

    def close(self, at: Moment) -> None:
        """The old one is gone: what it has not settled took what was reserved, for all that anybody can tell."""
        for number, hold in list(self._holds.items()):
            self.settle(number, hold.prompt + hold.output, at)
