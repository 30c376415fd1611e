"""One request whose spans will be told: what is noted of it on its way."""

import logging
from collections.abc import Callable
from time import monotonic
from typing import TypeVar, cast

from msgspec import Struct
from msgspec.structs import replace

from hermes import exchange as room
from hermes.chat import ChatRequest
from hermes.dialects import ClientDialect
from hermes.exchange import Exchange
from hermes.policy import trace
from hermes.tracing.content import Heard, Listening
from hermes.tracing.notes import Attempt, Notes, Turn
from hermes.tracing.span import Span, new_id
from hermes.tracing.tree import spans

log = logging.getLogger(__name__)

D = TypeVar("D", bound=ClientDialect)


class Terms(Struct, frozen=True):
    """`tell` is given the spans of each request. `provider_of`: what kind of server the backend of a name is.

    `captures`: whether what this user asks and is answered is told too.
    """

    tell: Callable[[list[Span]], None]
    provider_of: Callable[[str], str]
    captures: Callable[[str], bool]
    scheme: str = "http"


class Traced:
    """An `exchange.Traced`."""

    def __init__(self, terms: Terms, notes: Notes) -> None:
        self.notes = notes
        self._terms = terms
        self._attempt: Attempt | None = None

    def ask(self, exchange: Exchange, dialect: D, host: str, port: int) -> D:
        terms, name, ticket = self._terms, exchange.backend, exchange.ticket
        context = replace(self.notes.own, span_id=new_id(8))
        attempt = self._attempt = Attempt(context, name, terms.provider_of(name), host, port, monotonic())
        exchange.forwarded = trace.without(exchange.forwarded) + context.lines
        if not isinstance(exchange.request, ChatRequest):
            return dialect
        attempt.heard = Heard(keeps=ticket is not None and terms.captures(ticket.tenant))
        return cast(D, Listening(dialect, attempt.heard))

    def failed(self, why: str) -> None:
        if self._attempt is not None:
            self._attempt.ended_at, self._attempt.error = monotonic(), why

    def begin_again(self, exchange: Exchange) -> None:
        self._note_turn(exchange)
        self._attempt = None

    def share(self) -> "Traced":
        own = replace(self.notes.own, span_id=new_id(8))
        return Traced(self._terms, Notes(own, self.notes.own, self.notes.offset_s, is_run=True))

    def follow(self, run: room.Traced) -> None:
        assert isinstance(run, Traced)
        self.notes.runs.append(run.notes)

    def close(self, exchange: Exchange) -> None:
        if not self.notes.runs:
            self._note_turn(exchange)
        try:
            self._terms.tell(spans(exchange, self.notes, monotonic(), self._terms.scheme))
        except Exception:  # which is nothing to the request
            log.exception("request %s has no spans", exchange.request_id)

    def _note_turn(self, exchange: Exchange) -> None:
        if exchange.ticket is not None:
            self.notes.turns.append(Turn(exchange.ticket, self._attempt))
