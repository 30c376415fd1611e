"""One request's record, from arrival to log line: filled on the way, closed once, and given to the sinks."""

import logging
import os
from asyncio import Event
from collections.abc import Callable, Iterator
from hashlib import sha256
from itertools import chain
from time import monotonic, time
from typing import Protocol

from msgspec import Struct

from hermes.chat import Answer, ChatRequest, EmbedRequest, Usage
from hermes.errors import Dismissed, GatewayError, Outcome
from hermes.metrics import MAX_SERIES, Buckets, Cell, Metrics
from hermes.past import Past
from hermes.policy.estimates import Outlook
from hermes.policy.places import Place
from hermes.policy.ticket import Ticket
from hermes.policy.trace import trace_id
from hermes.principal import CLASS_NAMES, Class
from hermes.record import Record

log = logging.getLogger(__name__)

Sink = Callable[[Record], None]

_NO_USAGE = Usage()
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


class Asking(Protocol):
    """A request to a backend, as who watches over that needs it.

    `mark` is another after each sign of life; inf while nothing is awaited of it. `whole`: there is none before the
    end. `heard`: pieces of an answer that is put together here.
    """

    @property
    def mark(self) -> float: ...
    @property
    def whole(self) -> bool: ...
    @property
    def heard(self) -> int: ...
    def cut(self) -> None: ...


class Charging(Protocol):
    """What a request has reserved of what may be used."""

    def close(self, exchange: "Exchange") -> None: ...
    def give_back(self, exchange: "Exchange") -> None: ...


class Exchange(Struct, eq=False, gc=False):
    """What is known of one request so far. `now` arguments and `*_at` are monotonic seconds, `created_at` is not."""

    request_id: str
    method: str
    arrived_at: float
    created_at: float
    route: str = ""
    began_at: float = 0.0  # by a finer clock than the loop's
    backend_s: float | None = None  # from asking it to having all of its answer, by the same
    also_id: bytes = b""  # another header in which its client looks for its id
    more_lines: bytes = b""  # of the head of every answer to it
    handle: str = ""  # it alone has, once it was told of: its id is its client's choice
    key_id: str = ""
    model: str = ""
    backend: str = ""
    stream: bool = False
    attempts: int = 0
    begun: bool = False  # content has gone out: there is no other attempt
    queue_s: float | None = None  # from arrival to a slot
    ttft_s: float | None = None  # from arrival to the first content
    usage: Usage = _NO_USAGE
    request: ChatRequest | EmbedRequest | None = None  # as it is asked for
    place: Place | None = None  # that an earlier try of it has left
    answer: Answer | None = None  # a whole one, as it was sent
    over: Event | None = None  # set when it has ended, where another try waits for that
    ticket: Ticket | None = None
    cancel: Callable[[], None] | None = None  # cancels who answers it, while there is something to cancel
    dismissed: GatewayError | None = None  # why it was sent away
    asked: str = ""  # the model that its client asked for, where another answers instead
    fallbacks: tuple[str, ...] | None = None  # those that still might; None: nobody had to ask so far
    asking: Asking | None = None  # a backend, since the last attempt began
    holds_back: bool = False  # calls of tools, which a backend may say nothing before
    crashes: int = 0  # of backends that were at it
    looked_again: bool = False  # its backend had lost the model: who has it was asked once more
    forwarded: bytes = b""  # header lines that go on to the backend
    charge: Charging | None = None  # None: nothing bounds or counts what it uses
    quota_lines: bytes = b""  # what its client is told of its limits
    reuse: str = ""  # of its model's cache: `hit`, `miss` or `bypass`
    said: int = 0  # characters of a stream that was broken off
    free: bool = False  # no run was its own: what `usage` says was not spent on it, and no limit on tokens counts it
    outcome: Outcome = Outcome.OK
    code: str = ""
    quiet: bool = False  # not worth a log line
    status: int = 0
    closed: bool = False

    def timings(self) -> dict[str, float]:
        """What the answer itself tells of its time here, in milliseconds."""
        total_s = monotonic() - self.arrived_at
        queue_s = total_s if self.queue_s is None else self.queue_s
        if self.free:
            queue_s = 0.0
        return {"queue_ms": round(queue_s * 1000, 3), "total_ms": round(total_s * 1000, 3)}

    def dismiss(self, why: GatewayError | None = None) -> bool:
        """Send it away, whatever it is at. False: it has had its answer."""
        if self.cancel is None:
            return False
        self.dismissed = why or Dismissed("the request was sent away")
        self.cancel()
        return True

    def uncharge(self) -> None:
        """It begins anew: what was reserved for it is given back."""
        if self.charge is not None:
            self.charge.give_back(self)
            self.charge = None

    def forget_attempt(self) -> None:
        """Nothing of it has gone out, and its connection may be somebody else's by now."""
        self.asking = self.ttft_s = None

    def id_line(self) -> bytes:
        """The header lines that tell the client the request's id, what is left to it where it has limits, and what came
        of it at the cache; before them those that every answer has.
        """
        id = self.request_id.encode("ascii")
        line = b"%b%bx-request-id: %b\r\n" % (self.more_lines, self.quota_lines, id)
        if self.reuse:
            line += b"x-hermes-cache: %b\r\n" % self.reuse.encode("ascii")
        return b"%b%b: %b\r\n" % (line, self.also_id, id) if self.also_id else line


class _Tally(Struct):
    """The series that a request of one route, model, outcome and class counts on, streamed or whole."""

    finished: Cell
    duration: Buckets
    queue_wait: Buckets
    ttft: Buckets
    token_time: Buckets
    tokens_in: Cell
    tokens_out: Cell


# What is never observed: the wait of what has no ticket, the first token of a whole answer.
_NEVER = Buckets(())


class _Spender(Struct):
    """The series that the tokens of one tenant count on."""

    tokens_in: Cell
    tokens_out: Cell


_Key = tuple[str, str, Outcome, Class | None, bool]


class Journal:
    """Opens and closes exchanges: counts them, and hands each Record to the sinks.

    `exchanges` are those open, `past` the last that asked for tokens and are over. `runs` are no requests themselves:
    what several of them share.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._accepted = metrics.accepted.child(())
        self._overhead = metrics.overhead.child(())
        self._tallies: dict[_Key, _Tally] = {}
        self._spenders: dict[str, _Spender] = {}  # by tenant
        self.sinks: list[Sink] = []
        self.exchanges: dict[Exchange, None] = {}
        self.past = Past()
        self.runs: dict[Exchange, None] = {}
        # Unguessable between processes, cheap within one.
        self._prefix = os.urandom(10).hex()
        self._count = 10_000_000  # so that ids are of one length, without the price of a format

    @property
    def open(self) -> int:
        """How many have begun and not ended."""
        return len(self.exchanges)

    def asking(self) -> Iterator[Exchange]:
        """All that may hold a slot, or wait for one."""
        return chain(self.exchanges, self.runs)

    def begin(self, method: str, request_id: str, arrived_at: float) -> Exchange:
        """`request_id`: the client's own; "" makes one."""
        self._count += 1
        self._accepted.value += 1
        exchange = Exchange(request_id or f"{self._prefix}{self._count}", method, arrived_at, time(), "", monotonic())
        self.exchanges[exchange] = None
        return exchange

    def close(self, exchange: Exchange, now: float) -> None:
        """The request is over. Emits the one Record; a second call is counted, and changes nothing (invariant I3)."""
        if exchange.closed:
            self._metrics.double_close.add(())
            return
        exchange.closed = True
        exchange.cancel = None
        if exchange.charge is not None:
            exchange.charge.close(exchange)
        if exchange.over is not None:
            exchange.over.set()
        del self.exchanges[exchange]
        duration_s = now - exchange.arrived_at
        if exchange.model:
            self._count_run(exchange, duration_s)
        else:
            self._metrics.finished.add((exchange.route, "", exchange.outcome))
        if exchange.outcome is not _OK:
            self._count_unserved(exchange)
        if not exchange.quiet:
            record = _record(exchange, duration_s)
            for sink in self.sinks:
                try:
                    sink(record)
                except Exception:  # one that fails keeps it from no other
                    log.exception("request %s was not recorded everywhere", exchange.request_id)
            if (ticket := exchange.ticket) is not None:
                self.past.add(record, ticket.why)

    def _count_run(self, exchange: Exchange, duration_s: float) -> None:
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
            tally.tokens_in.value += usage.prompt_tokens
            tally.tokens_out.value += usage.completion_tokens
            spender = self._spenders.get(ticket.tenant) or self._spender(ticket.tenant, exchange.key_id)
            spender.tokens_in.value += usage.prompt_tokens
            spender.tokens_out.value += usage.completion_tokens

    def _count_unserved(self, exchange: Exchange) -> None:
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
            metrics.tokens.child((model, "prompt")),
            metrics.tokens.child((model, "completion")),
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


def _record(exchange: Exchange, duration_s: float) -> Record:
    queue_s, ttft_s, usage, ticket = exchange.queue_s, exchange.ttft_s, exchange.usage, exchange.ticket
    return Record(
        int(exchange.created_at * 1000) / 1000,  # `round` goes by way of text: 0.15 us more
        exchange.request_id,
        exchange.route,
        exchange.method,
        exchange.outcome,
        exchange.status,
        int(duration_s * 1000),
        exchange.code,
        exchange.key_id,
        exchange.model,
        exchange.backend,
        exchange.stream,
        exchange.attempts,
        None if queue_s is None else int(queue_s * 1000),
        None if ttft_s is None else int(ttft_s * 1000),
        usage.prompt_tokens,
        usage.completion_tokens,
        "" if ticket is None else ticket.tenant,
        "" if ticket is None else CLASS_NAMES[ticket.urgency],
        ticket.found if ticket is not None and exchange.attempts else "",
        exchange.asked,
        exchange.reuse,
        0 if ticket is None else int(ticket.load_s * 1000),
        trace_id(exchange.forwarded),
    )
