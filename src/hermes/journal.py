"""The exchanges that are open: each is begun and ended once, counted, and its one Record given to the sinks."""

import logging
import os
from collections.abc import Callable, Iterator
from itertools import chain
from time import monotonic, time

from hermes.counts import Counts
from hermes.exchange import Exchange
from hermes.metrics import Metrics
from hermes.past import Past
from hermes.policy.trace import trace_id
from hermes.principal import CLASS_NAMES
from hermes.record import Record

log = logging.getLogger(__name__)

Sink = Callable[[Record], None]


class Journal:
    """`exchanges` are open, `past` has the last that asked for tokens and are over. `runs` are no requests themselves:
    what several of them share.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._counts = Counts(metrics)
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
        self._counts.accepted.value += 1
        exchange = Exchange(request_id or f"{self._prefix}{self._count}", method, arrived_at, time(), "", monotonic())
        self.exchanges[exchange] = None
        return exchange

    def close(self, exchange: Exchange, now: float) -> None:
        """The request is over. Emits the one Record; a second call is counted, and changes nothing (invariant I3)."""
        if exchange.closed:
            self._counts.closed_twice.value += 1
            return
        exchange.closed = True
        exchange.cancel = None
        if exchange.charge is not None:
            exchange.charge.close(exchange)
        if exchange.over is not None:
            exchange.over.set()
        del self.exchanges[exchange]
        duration_s = now - exchange.arrived_at
        self._counts.add(exchange, duration_s)
        if not exchange.quiet:
            record = _record(exchange, duration_s)
            for sink in self.sinks:
                try:
                    sink(record)
                except Exception:  # one that fails keeps it from no other
                    log.exception("request %s was not recorded everywhere", exchange.request_id)
            if (ticket := exchange.ticket) is not None:
                self.past.add(record, ticket.why)


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
