"""What the HTTP server calls: one exchange around every request, one answer for every error."""

import asyncio
import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from math import ceil, inf
from typing import TYPE_CHECKING

from msgspec import Struct

from hermes.api.door import HOP_HEADER, Door
from hermes.api.routes import Call, Route, RouteTable, content_line
from hermes.auth import Authenticator, Table
from hermes.dialects import ClientDialect
from hermes.errors import Draining, Forbidden, GatewayError, Outcome, UnknownModel
from hermes.exchange import Exchange
from hermes.http.request import Head, Request
from hermes.http.response import Response
from hermes.http.wire import render_headers
from hermes.journal import Journal
from hermes.metrics import Metrics
from hermes.policy import claim, trace
from hermes.policy.claim import NO_CLAIM, Claim
from hermes.principal import ANONYMOUS, Principal

if TYPE_CHECKING:
    from hermes.tracing import Tracing

log = logging.getLogger(__name__)

# SDKs wait no longer than a minute; who would have to is told not to (inf: never worth it).
MAX_RETRY_AFTER_S = 60.0

_RIGHTS = {"admin": "admin: true", "metrics": "admin: true or metrics: true"}

# Not . and .., which no browser asks for at the end of a path, escaped or not (WHATWG URL: dot segments).
_CLEAN_ID = re.compile(rb"(?!\.\.?\Z)[A-Za-z0-9._:@/+=-]{1,128}").fullmatch

# Of the models, so that a wrong name costs little (invariant I36).
_COMPARED = 200
_TOLD = 5


class Passage(Struct):
    """What a request's head alone decides: where it goes, what goes on from it, and by `table` who asks, for good."""

    request_id: str  # the client's own; "": none that can be used
    route: Route
    named: str | None
    forwarded: bytes
    more_lines: bytes
    claim: Claim | None = None  # read where it counts, of who is let in
    principal: Principal = ANONYMOUS
    table: Table | None = None


class Api:
    """The server's App. What is refused before it has a route is told in the dialect of the paths that begin so in
    `areas`, else in `fallback`. `left` is told of each whose client has gone before it was answered.
    """

    def __init__(
        self,
        table: RouteTable,
        door: Door,
        authenticator: Authenticator,
        journal: Journal,
        metrics: Metrics,
        fallback: ClientDialect,
        clock: Callable[[], float],
        areas: Mapping[bytes, ClientDialect],
        left: Callable[[Exchange], None],
        served: Callable[[Principal], Iterable[str]],
        tracing: "Tracing | None" = None,
    ) -> None:
        self.table = table
        self._door = door
        self.authenticator = authenticator
        self.journal = journal
        self._metrics = metrics
        self._fallback = fallback
        self._clock = clock
        self._areas = areas
        self._left = left
        self._served = served
        self._tracing = tracing
        self.draining = False
        self.cutting = False

    async def handle(self, request: Request, response: Response) -> None:
        head, dialect = request.head, self._fallback
        passage: Passage | None = head.told
        request_id = _own_id(head) if passage is None else passage.request_id
        exchange = self.journal.begin(head.method, request_id, request.received_at)
        try:
            if passage is None:
                dialect = self._spoken_at(head.path)
                head.told = passage = self._let_through(head, request_id, exchange)
            route = passage.route
            exchange.more_lines = passage.more_lines
            exchange.route, exchange.quiet, exchange.forwarded = route.path, route.quiet, passage.forwarded
            if self._tracing is not None:
                self._tracing.begin(exchange)
            dialect, exchange.also_id = route.dialect, route.also_id
            if route.access == "open":
                principal = ANONYMOUS
            else:
                people = self.authenticator
                if passage.table is people.table:
                    principal = passage.principal
                else:
                    known = people.authenticate(head.headers, exchange.created_at)
                    principal = known if known is not None else await people.look_again(head.headers)
                    if principal.expires_at is None:  # as that of a token never is
                        passage.principal, passage.table = principal, people.table
                self._let_in(principal, route, head, exchange)
            if route.queues and passage.claim is None:
                passage.claim = claim.read(head.headers)
            call = Call(request, response, exchange, principal, passage.named, passage.claim or NO_CLAIM)
            answering = route.handler(call)
            del head, passage, call  # the answer may take an hour
            await answering
        except UnknownModel as error:
            self._refuse(_with_a_hint(error, self._served(principal)), response, exchange, dialect)
        except GatewayError as error:
            self._refuse(error, response, exchange, dialect)
        except Exception:
            log.exception("request %s met a bug", exchange.request_id)
            self._refuse(GatewayError("internal error; the log has its cause"), response, exchange, dialect)
        except asyncio.CancelledError:
            self._left(exchange)
            if exchange.dismissed is not None:
                self._refuse(exchange.dismissed, response, exchange, dialect)
                return
            # Who cancelled? The client by leaving, or we at the end of a drain.
            exchange.outcome = Outcome.DRAINED if self.cutting else Outcome.CLIENT_GONE
            if not (response.started or response.gone):
                self._refuse(Draining("this server has shut down", retry_after_s=1.0), response, exchange, dialect)
            raise
        finally:
            exchange.status = response.status if response.started else 0
            self.journal.close(exchange, self._clock())

    def refuse(self, error: GatewayError, response: Response) -> None:
        self._metrics.malformed.add((error.code,))
        request_id = os.urandom(14).hex()
        lines = content_line(b"application/json") + render_headers(((b"x-request-id", request_id.encode("ascii")),))
        response.send(error.status, lines, self._fallback.render_error(error, request_id))

    def _spoken_at(self, path: bytes) -> ClientDialect:
        return next((self._areas[area] for area in self._areas if path.startswith(area)), self._fallback)

    def _let_through(self, head: Head, request_id: str, exchange: Exchange) -> Passage:
        """Past the door and onto a route: the same for every request with this head. Raises what refuses it."""
        cors = self._door.cors
        exchange.more_lines = lines = cors.lines(head.headers.get(b"origin"))
        exchange.forwarded = traced = trace.lines(head.headers)
        self._door.check(head)
        asked = cors.asked(head)
        match = self.table.match(asked or head.method, head.path)
        if match.route.access != "open":
            self._door.check_site(head)
        route = cors.preflight(match.route) if asked else match.route
        forwarded = self._door.hop_line(head.headers.get(HOP_HEADER)) + traced
        return Passage(request_id, route, match.named, forwarded, lines)

    def _let_in(self, principal: Principal, route: Route, head: Head, exchange: Exchange) -> None:
        """They may use this route. Raises Forbidden or Draining."""
        exchange.key_id = principal.key_id
        if route.access != "user" and not (principal.admin or (route.access == "metrics" and principal.metrics)):
            raise Forbidden(f"this needs an operator's key: one with {_RIGHTS[route.access]}")
        if self.draining and head.method == "POST":  # what begins something; who only looks may look on
            raise Draining("this server is shutting down", retry_after_s=1.0)

    def _refuse(self, error: GatewayError, response: Response, exchange: Exchange, dialect: ClientDialect) -> None:
        exchange.outcome, exchange.code, exchange.quiet = error.outcome, error.code, False
        if self._tracing is not None and not exchange.route:  # it did not get that far
            self._tracing.begin(exchange)
        if response.started:
            return  # an answer on its way has ended itself, uncleanly
        headers, after_s, should_retry = error.headers, error.retry_after_s, error.should_retry
        if after_s is not None and after_s > MAX_RETRY_AFTER_S:
            should_retry = False
        if should_retry is not None:
            headers += ((b"x-should-retry", b"true" if should_retry else b"false"),)
        if after_s is not None and after_s < inf:
            # Whole seconds for everyone, milliseconds for the SDKs that read them first: no sooner than it is worth it.
            if error.outcome is not Outcome.LIMITED:  # a limit is no guess
                after_s = min(after_s, MAX_RETRY_AFTER_S)
            headers += (
                (b"retry-after", b"%d" % max(1, ceil(after_s))),
                (b"retry-after-ms", b"%d" % ceil(after_s * 1000)),
            )
        lines = content_line(b"application/json") + exchange.id_line() + render_headers(headers)
        response.send(error.status, lines, dialect.render_error(error, exchange.request_id))


def _with_a_hint(error: UnknownModel, served: Iterable[str]) -> UnknownModel:
    """Anew: several may wait for one answer, who may see different models (invariant I21)."""
    from difflib import get_close_matches  # 0.2 MiB

    names = [name.removesuffix(":latest") for name in islice(served, _COMPARED)]
    close = get_close_matches(error.asked.lower().removesuffix(":latest"), names, 1, 0.65)
    if not names:
        return error
    more = ", ..." if len(names) > _TOLD else ""
    hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(names[:_TOLD])}{more}"
    return UnknownModel(error.asked, f"{error.message}; {hint}")


def _own_id(head: Head) -> str:
    given = head.headers.get(b"x-request-id")
    return given.decode("ascii") if given and _CLEAN_ID(given) else ""
