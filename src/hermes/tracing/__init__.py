"""Spans of requests, for whoever collects them by OpenTelemetry's protocol: made when a request is over, of what was
noted on its way.

Rules:
- Which trace a request belongs to, and whether it is told of, is decided once, when it has come (`Tracing.begin`): by
  its caller's word, else by the share that is configured. A backend hears the same, and is a child of its own attempt.
- A request waits for nothing here: its spans are values that a thread takes (`export`), bounded; what is too much, or
  is not taken by the collector, is counted (invariant I4).
- No prompt, answer or credential is in a span, unless its content was asked for (I27).
"""

from collections.abc import Callable

from msgspec.structs import replace

from hermes.exchange import Exchange
from hermes.policy import trace
from hermes.policy.trace import Context
from hermes.tracing.notes import Notes
from hermes.tracing.span import new_id
from hermes.tracing.traced import Terms, Traced

__all__ = ["Terms", "Tracing"]


class Tracing:
    """`share`: so much of what nobody else has decided about is told. `close` sends what is left, and may block."""

    def __init__(self, terms: Terms, share: float, close: Callable[[], None]) -> None:
        self._terms = terms
        self._share = share
        self.close = close

    def begin(self, exchange: Exchange) -> None:
        """Say which trace it belongs to: in `exchange.forwarded`, which has what came, and then has what goes on."""
        if exchange.quiet:
            return
        parent = trace.context(exchange.forwarded)
        if parent is None:
            trace_id = new_id(16)
            own = Context(trace_id, new_id(8), trace.is_in_share(trace_id, self._share))
        elif parent.sampled:
            own = replace(parent, span_id=new_id(8))
        else:
            return
        exchange.forwarded = trace.without(exchange.forwarded) + own.lines
        if own.sampled:
            exchange.traced = Traced(self._terms, Notes(own, parent, exchange.created_at - exchange.began_at))
