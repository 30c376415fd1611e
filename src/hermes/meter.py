"""Who may still use how much, and who has used what: the limiter and the ledger, as the line asks them.

A request reserves before it waits for its turn, and is settled when its exchange is closed, whatever ended it: with
what it took; with what was reserved where a backend was at work for it and nobody can tell what it took; with nothing
where it was given nothing (invariants I6, I31).
"""

from collections.abc import Awaitable, Callable
from math import ceil, inf

from msgspec import Struct

from hermes.chat import Usage
from hermes.dialects import ClientDialect
from hermes.errors import Outcome, QuotaExceeded, RateLimited
from hermes.exchange import Exchange
from hermes.metrics import Metrics
from hermes.policy.limiter import Hold, Limiter, Refusal
from hermes.policy.limits import Budget, Moment, day_of
from hermes.policy.routing import Service
from hermes.policy.ticket import Ticket
from hermes.principal import Principal
from hermes.storage.ledger import Ledger

# Of a token, as a rule of thumb. Of most languages but English tokens have fewer.
CHARACTERS = 4
_OK = Outcome.OK
# What ends a request that its client wants no more.
_LEFT = frozenset((Outcome.CLIENT_GONE, Outcome.CANCELLED))


class Meter:
    def __init__(self, limiter: Limiter, ledger: Ledger, clock: Callable[[], float]) -> None:
        self.limiter = limiter
        self.ledger = ledger
        self.hosted: dict[int, Hold] = {}  # of requests that another process runs (`handover`)
        self.clock = clock

    def reserve(
        self,
        exchange: Exchange,
        principal: Principal,
        service: Service,
        dialect: ClientDialect,
        ticket: Ticket | None,
        most_output: int | None,
    ) -> Awaitable[None] | None:
        """Charge what the request will probably take, before its `ticket` is offered. None: it is answered without a
        run, and charged itself, and no tokens, though there has to be room for `most_output`.

        Returns what has to be waited for, if anything has. Raises RateLimited or QuotaExceeded. What was reserved for
        another model, which cannot be served, is given back.
        """
        if exchange.charge is not None:
            exchange.uncharge()
        at = Moment(self.clock(), exchange.created_at)
        party = self.limiter.party(principal, service.model, service.allowance, at)
        hold = self.limiter.reserve(party, 0 if ticket is None else ticket.prompt_tokens, most_output, at)
        if party.rules:
            requests, tokens = party.quotas(at)
            exchange.quota_lines = dialect.quota_lines(requests, tokens, at.unix)
        if isinstance(hold, Refusal):
            if principal.counted:
                self.ledger.row(day_of(at.unix), principal.key_id, service.model).refused += 1
            raise _refused(hold)
        if ticket is None:
            exchange.charge = Visit(self, hold, service)
            return None
        ticket.caps, waits = party.caps, False
        exchange.charge = Charge(self, hold, service, exchange.attempts)
        for account, budget in party.budgets:
            if budget.used > budget.good_for:
                waits |= self._write_ahead(account, budget)
        return self.ledger.written() if waits else None

    async def recall(self, unix: float, has_budgets: bool) -> None:
        """What was used of budgets before the last restart. Raises StorageError."""
        self.limiter.earlier = await self.ledger.earlier(day_of(unix), open_anew=has_budgets)

    async def close(self) -> None:
        """Write what is left, the budgets as they are."""
        for account, budget in self.limiter.budgets():
            if budget.claimed:
                self.ledger.claim(account, budget.period, budget.used)
        await self.ledger.close()

    def show(self, metrics: Metrics) -> None:
        labels = ("limit", "scope", "mode")
        metrics.counter("hermes_limited", "Requests over a limit, by what came of it.", labels, lambda: {
            key: float(count) for key, count in self.limiter.refused.items()
        })  # fmt: skip
        metrics.gauge("hermes_ledger_rows_unwritten", "Rows of the usage ledger not on the disk yet.", (), lambda: {
            (): float(self.ledger.unwritten)
        })  # fmt: skip
        metrics.counter("hermes_ledger_failures", "Times that the usage ledger could not be written.", (), lambda: {
            (): float(self.ledger.failures)
        })  # fmt: skip

    def _write_ahead(self, account: str, budget: Budget) -> bool:
        """What is used of a budget is on the disk before it is used: whether that has to be waited for."""
        if budget.used > budget.claims_above:
            self.ledger.claim(account, budget.period, budget.claim(), budget)
        return budget.used > budget.written


class Visit(Struct, eq=False, gc=False):
    """What a request has reserved that is answered without a run of its own: to be a request."""

    meter: Meter
    hold: Hold
    service: Service

    def give_back(self, exchange: Exchange) -> None:
        self.hold.settle(None, Moment(self.meter.clock(), exchange.created_at))

    def close(self, exchange: Exchange) -> None:
        """The request is over."""
        if exchange.begun or exchange.outcome is _OK:
            self._count(exchange, 0, 0)
        else:
            self.give_back(exchange)

    def _count(self, exchange: Exchange, prompt_tokens: int, completion_tokens: int) -> None:
        """It took so much."""
        meter, hold, unix = self.meter, self.hold, exchange.created_at
        hold.settle(prompt_tokens + completion_tokens, Moment(meter.clock(), unix))
        principal = hold.party.principal
        if principal.counted:
            row = meter.ledger.row(day_of(unix), principal.key_id, self.service.model)
            row.requests += 1
            row.prompt_tokens += prompt_tokens
            row.completion_tokens += completion_tokens


class Charge(Visit, eq=False, gc=False):
    """What a run has reserved. `attempts`: what it had made before, with another model."""

    attempts: int

    def close(self, exchange: Exchange) -> None:
        """The request is over. What is charged is what is told of it from now on."""
        usage, hold = exchange.usage, self.hold
        if exchange.outcome is _OK:
            if (lengths := hold.party.lengths) is not None:
                lengths.add(usage.completion_tokens)
        elif not (exchange.begun or (exchange.attempts > self.attempts and self._was_left(exchange))):
            exchange.usage = Usage()
            self.give_back(exchange)
            return
        if not (usage.prompt_tokens or usage.completion_tokens):
            usage = exchange.usage = Usage(hold.prompt, max(hold.output, exchange.said // CHARACTERS))
        self._count(exchange, usage.prompt_tokens, usage.completion_tokens)

    def _was_left(self, exchange: Exchange) -> bool:
        """Whether it is its client that did not wait for the end, or gave it less time than it would have had."""
        outcome, ticket = exchange.outcome, exchange.ticket
        hurried = ticket is not None and ticket.deadline < ticket.arrived_at + self.service.timeout_s
        return outcome in _LEFT or (hurried and outcome is Outcome.UPSTREAM_TIMEOUT)


_WORDS = {
    "rpm": "requests per minute",
    "tpm": "tokens per minute",
    "concurrency": "requests at once",
    "daily_tokens": "tokens of the day (UTC)",
    "monthly_tokens": "tokens of the month (UTC)",
}
_WHOSE = {"key": "this key", "model": "this model, by all keys", "key_model": "this key with this model"}


def _refused(refusal: Refusal) -> RateLimited | QuotaExceeded:
    words = f"{_WORDS[refusal.limit]} of {_WHOSE[refusal.scope]}: the limit is {refusal.most}"
    if refusal.wait_s < inf:
        words += f"; again in {max(1, ceil(refusal.wait_s))} s"  # as Retry-After has it
    if refusal.limit in ("daily_tokens", "monthly_tokens"):
        return QuotaExceeded(f"The budget is used up, of {words}", retry_after_s=refusal.wait_s)
    return RateLimited(f"Rate limit reached, of {words}", retry_after_s=refusal.wait_s)
