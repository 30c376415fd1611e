"""What requests come to, in metrics: each is counted once, when it is over, on series that are looked up once."""

from hashlib import sha256
from time import monotonic

from msgspec import Struct

from hermes.errors import Outcome
from hermes.exchange import Exchange
from hermes.metrics import Metrics, Uses
from hermes.policy.estimates import Outlook
from hermes.principal import CLASS_NAMES, Class
from hermes.series import MAX_SERIES, Buckets, Cell

_OK = Outcome.OK
_LEFT = frozenset((Outcome.CLIENT_GONE, Outcome.CANCELLED))
_REFUSED = frozenset(
    (
        Outcome.DENIED,
        Outcome.LIMITED,
        Outcome.QUEUE_FULL,
        Outcome.DEADLINE_REFUSED,
        Outcome.QUEUE_TIMEOUT,
        Outcome.NO_BACKEND,
        Outcome.SHED,
        Outcome.DRAINED,
    )
)


# Tokens of so many requests are added up at once, in some 20 us.
MOST_NOTED = 100


class _Tally(Struct):
    """The series that a request of one route, model, outcome and class counts on, streamed or whole."""

    finished: Cell
    duration: Buckets
    queue_wait: Buckets
    ttft: Buckets
    token_time: Buckets
    uses: Uses


# What is never observed: the wait of what has no ticket, the first token of a whole answer.
_NEVER = Buckets(())


class _Spender(Struct):
    """The series that the tokens of one tenant count on."""

    tokens_in: Cell
    tokens_out: Cell


_Key = tuple[str, str, Outcome, Class | None, bool]


class Counts:
    """`accepted`: those that have begun; `closed_twice`: a bug (invariant I3)."""

    def __init__(self, metrics: Metrics) -> None:
        self.accepted = metrics.accepted.child(())
        self.closed_twice = metrics.double_close.child(())
        self._metrics = metrics
        self._overhead = metrics.overhead.child(())
        self._tallies: dict[_Key, _Tally] = {}
        self._spenders: dict[str, _Spender] = {}  # by tenant

    def add(self, exchange: Exchange, duration_s: float) -> None:
        """One that is over."""
        if exchange.outcome is not _OK:
            self._unserved(exchange)
        if not exchange.model:
            self._metrics.finished.add((exchange.route, "", exchange.outcome))
            return
        ticket, queue_s, usage = exchange.ticket, exchange.queue_s, exchange.usage
        urgency = ticket.urgency if ticket is not None else None
        key = exchange.route, exchange.model, exchange.outcome, urgency, exchange.stream
        tally = self._tallies.get(key) or self._tally(key)
        tally.finished.value += 1
        tally.duration.observe(duration_s)
        if queue_s is not None:
            tally.queue_wait.observe(queue_s)
            if exchange.attempts == 1 and ticket is not None:
                if exchange.backend_s is not None:
                    self._overhead.observe(monotonic() - exchange.began_at - ticket.waited_s - exchange.backend_s)
                if ticket.told is not None:
                    self._judge(ticket.told, queue_s, exchange.model)
        if exchange.stream and exchange.ttft_s is not None:
            tally.ttft.observe(exchange.ttft_s)
            if usage.completion_tokens > 1 and exchange.outcome is _OK and not exchange.free:
                tally.token_time.observe((duration_s - exchange.ttft_s) / (usage.completion_tokens - 1))
        if ticket is not None and not exchange.free:
            noted = tally.uses.noted
            noted.append(usage)
            if len(noted) == MOST_NOTED:
                tally.uses.add_up()
            spender = self._spenders.get(ticket.tenant) or self._spender(ticket.tenant, exchange.key_id)
            spender.tokens_in.value += usage.prompt_tokens
            spender.tokens_out.value += usage.completion_tokens

    def _unserved(self, exchange: Exchange) -> None:
        if exchange.outcome in _LEFT:
            self._metrics.cancelled.add((exchange.model, _phase(exchange)))
        elif exchange.outcome in _REFUSED and not exchange.attempts:
            self._metrics.refused.add((exchange.model, exchange.code or exchange.outcome))

    def _judge(self, told: Outlook, queue_s: float, model: str) -> None:
        self._metrics.prediction_error.observe((model,), abs(told.eta_s - queue_s))
        self._metrics.predictions.add((model, "yes" if queue_s <= told.eta_high_s else "no"))

    def _tally(self, key: _Key) -> _Tally:
        metrics, (route, model, outcome, urgency, stream) = self._metrics, key
        tally = _Tally(
            metrics.finished.child((route, model, outcome)),
            metrics.duration.child((route, model, outcome)),
            _NEVER if urgency is None else metrics.queue_wait.child((model, CLASS_NAMES[urgency])),
            metrics.ttft.child((route, model)) if stream else _NEVER,
            metrics.token_time.child((route, model)) if stream else _NEVER,
            metrics.uses(route, model),
        )
        if len(self._tallies) < MAX_SERIES:
            self._tallies[key] = tally
        return tally

    def _spender(self, tenant: str, key_id: str) -> _Spender:
        told, tokens = tenant, self._metrics.tenant_tokens
        if key_id.startswith("jwt:"):  # as the id has its subject: it may be somebody's address (invariant I27)
            issuer, _, who = tenant.partition(":")
            told = f"jwt:{issuer}:{sha256(who.encode()).hexdigest()[:12]}"
        spender = _Spender(tokens.child((told, "prompt")), tokens.child((told, "completion")))
        if len(self._spenders) < MAX_SERIES:
            self._spenders[tenant] = spender
        return spender


def _phase(exchange: Exchange) -> str:
    """How far it had got: whether a backend was at it, and whether any of the answer had gone out."""
    if exchange.begun:
        return "streaming"
    if exchange.attempts:
        return "running"
    return "received" if exchange.ticket is None else "queued"
