"""The spans that a request comes to, when it is over.

    POST /v1/chat/completions    server    from arrival to the last byte
      admission                  internal  receiving it, reading it, letting it in, limits: until it stands in the line
      queue                      internal  each wait for a slot
        load                     internal  of that, what its model took to be loaded
      chat gemma                 client    each attempt at a backend, whose own spans are children of it
        stream                   internal  from the first content to the end

Names are those of OpenTelemetry's semantic conventions 1.41.1, for HTTP and for generative AI; what these have no word
for begins with `hermes.`. A run that several requests share is a span of its own, `run`, in the trace of who wanted it
first; to this one all link.
"""

from msgspec.structs import replace

from hermes.chat import ChatRequest, EmbedRequest
from hermes.errors import Outcome
from hermes.exchange import Exchange
from hermes.policy.ticket import Ticket
from hermes.policy.trace import Context
from hermes.principal import CLASS_NAMES
from hermes.tracing import content
from hermes.tracing.notes import Attempt, Notes
from hermes.tracing.span import Attributes, Kind, Span, new_id

_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"))
# Somebody changed his mind, which is no error of a span's (HTTP spans, Status).
_LEFT = frozenset((Outcome.CLIENT_GONE, Outcome.CANCELLED))
# As an attempt has it that was given up.
_GIVEN_UP = "cancelled"


def spans(exchange: Exchange, notes: Notes, now: float, scheme: str) -> list[Span]:
    """Those of a request, or of a run that several share; the one that all others are in comes last."""
    whole = _run(exchange, notes, now) if notes.is_run else _request(exchange, notes, now, scheme)
    tree = _Tree(notes.offset_s)
    if notes.turns and not (exchange.free or notes.is_run):
        turn = notes.turns[0]
        at = turn.ticket.waited[0] if turn.ticket.waited else turn.attempt.asked_at if turn.attempt else now
        tree.add(whole, "admission", whole.begun_at - notes.offset_s, at, {})
    for turn in notes.turns:
        if turn.ticket.waited is not None:
            _queue(tree, whole, turn.ticket, *turn.ticket.waited)
        if turn.attempt is not None:
            _attempt(tree, whole, exchange, turn.ticket, turn.attempt)
    return [*tree.spans, whole]


class _Tree:
    """Times come from two clocks, of which the loop's is a little behind: no span begins before the one it is in."""

    def __init__(self, offset_s: float) -> None:
        self.spans: list[Span] = []
        self._offset_s = offset_s

    def add(
        self,
        parent: Span,
        name: str,
        begun_at: float,
        ended_at: float,
        attributes: Attributes,
        *,
        kind: Kind = "internal",
        context: Context | None = None,
        failed: bool = False,
    ) -> Span:
        """Of a part of `parent`; in monotonic seconds."""
        begins = max(begun_at + self._offset_s, parent.begun_at)
        ends = max(ended_at + self._offset_s, begins)
        own = context or replace(parent.context, span_id=new_id(8))
        span = Span(own, parent.context, name, kind, begins, ends, attributes, failed)
        self.spans.append(span)
        return span


# --- the whole --------------------------------------------------------------------------------------------------------


def _request(exchange: Exchange, notes: Notes, now: float, scheme: str) -> Span:
    method = exchange.method if exchange.method in _METHODS else "_OTHER"
    name = "HTTP" if method == "_OTHER" else method
    told: Attributes = {"http.request.method": method, "url.scheme": scheme, "hermes.outcome": exchange.outcome.value}
    # A path without a route is its client's choice; of one with a name in it the name is that of the model.
    if exchange.route:
        told |= {"http.route": exchange.route, "url.path": exchange.route}
        name += " " + exchange.route
    if exchange.status:
        told["http.response.status_code"] = exchange.status
    if exchange.outcome is not Outcome.OK:
        told["error.type"] = exchange.code or exchange.outcome.value
    told["hermes.request.id"] = exchange.request_id
    for key, value in (
        ("hermes.key.id", exchange.key_id),
        ("hermes.model", exchange.model),
        ("hermes.model.asked", exchange.asked),
        ("hermes.cache", exchange.reuse),
        ("hermes.attempts", exchange.attempts),
    ):
        if value:
            told[key] = value
    if (ticket := exchange.ticket) is not None:
        told["hermes.class"] = CLASS_NAMES[ticket.urgency]
        if not exchange.key_id.startswith("jwt:"):  # then it is the subject of a token: maybe somebody's address
            told["hermes.user"] = ticket.tenant
    broke = exchange.outcome is not Outcome.OK and exchange.outcome not in _LEFT and exchange.status < 400
    begun_at, ended_at = min(exchange.arrived_at, notes.begun_at) + notes.offset_s, now + notes.offset_s
    failed, remote = broke or exchange.status >= 500, notes.parent is not None
    links = tuple(run.own for run in notes.runs if run.parent is not notes.own)
    return Span(notes.own, notes.parent, name, "server", begun_at, ended_at, told, failed, remote, links)


def _run(exchange: Exchange, notes: Notes, now: float) -> Span:
    times = notes.begun_at + notes.offset_s, now + notes.offset_s
    told: Attributes = {"hermes.model": exchange.model, "hermes.outcome": exchange.outcome.value}
    failed = exchange.outcome is not Outcome.OK and exchange.outcome not in _LEFT
    return Span(notes.own, notes.parent, "run", "internal", *times, told, failed)


# --- its parts --------------------------------------------------------------------------------------------------------


def _queue(tree: _Tree, whole: Span, ticket: Ticket, begun_at: float, ended_at: float) -> None:
    told: Attributes = {}
    if (outlook := ticket.told) is not None:
        told = {"hermes.queue.position": outlook.position, "hermes.queue.eta": outlook.eta_s}
    if ticket.why is not None:
        told["hermes.queue.found"] = ticket.why.found
    queue = tree.add(whole, "queue", begun_at, ended_at, told)
    if ticket.load_s:
        loaded: Attributes = {"hermes.model.resident": ticket.resident, "hermes.load.kind": ticket.found}
        loaded["hermes.backend"] = ticket.backend
        tree.add(queue, "load", ticket.loaded_at - ticket.load_s, ticket.loaded_at, loaded)


def _attempt(tree: _Tree, whole: Span, exchange: Exchange, ticket: Ticket, attempt: Attempt) -> None:
    told, request = _asked(exchange, ticket, attempt), exchange.request
    failed, ended_at = attempt.error not in ("", _GIVEN_UP), attempt.ended_at
    if ended_at is None:
        ended_at = attempt.asked_at + (exchange.backend_s or 0.0)
        told |= _said(exchange, ticket, attempt)
    if failed:
        told["error.type"] = attempt.error
    first_at = None
    if exchange.stream and exchange.ttft_s is not None and ticket is exchange.ticket:
        first_at = exchange.arrived_at + exchange.ttft_s
        told["gen_ai.response.time_to_first_chunk"] = max(first_at - attempt.asked_at, 0.0)
    if attempt.heard is not None and attempt.heard.keeps and isinstance(request, ChatRequest):
        told |= content.told(request, attempt.heard)
    name, times = f"{told['gen_ai.operation.name']} {ticket.model}", (attempt.asked_at, ended_at)
    span = tree.add(whole, name, *times, told, kind="client", context=attempt.context, failed=failed)
    if first_at is not None:
        # An answer of one piece ends as it begins, by whichever clock.
        tree.add(span, "stream", min(first_at, ended_at), ended_at, {})


def _asked(exchange: Exchange, ticket: Ticket, attempt: Attempt) -> Attributes:
    request = exchange.request
    told: Attributes = {
        "gen_ai.operation.name": _operation(request),
        "gen_ai.provider.name": attempt.provider,
        "gen_ai.request.model": ticket.model,
        "server.address": attempt.host,
        "hermes.backend": attempt.backend,
    }
    if attempt.port:
        told["server.port"] = attempt.port
    if isinstance(request, ChatRequest):
        drawn = request.sampling
        for key, value in (
            ("stream", request.stream),
            ("max_tokens", drawn.max_tokens),
            ("temperature", drawn.temperature),
            ("top_p", drawn.top_p),
            ("top_k", None if drawn.top_k is None else float(drawn.top_k)),
            ("seed", drawn.seed),
            ("presence_penalty", drawn.presence_penalty),
            ("frequency_penalty", drawn.frequency_penalty),
        ):
            if value is not None:
                told[f"gen_ai.request.{key}"] = value
        if request.json_format is not None:
            told["gen_ai.output.type"] = "json"
    elif request is not None and request.dimensions is not None:
        told["gen_ai.embeddings.dimension.count"] = request.dimensions
    return told


def _operation(request: ChatRequest | EmbedRequest | None) -> str:
    if isinstance(request, EmbedRequest):
        return "embeddings"
    return "text_completion" if request is not None and request.completion else "chat"


def _said(exchange: Exchange, ticket: Ticket, attempt: Attempt) -> Attributes:
    usage = exchange.usage
    told: Attributes = {"gen_ai.response.model": ticket.resident}
    for key, count in (  # 0: it was not told
        ("input_tokens", usage.prompt_tokens),
        ("output_tokens", usage.completion_tokens),
        ("cache_read.input_tokens", usage.cached_tokens),
    ):
        if count:
            told[f"gen_ai.usage.{key}"] = count
    if attempt.heard is not None and attempt.heard.reason:
        told["gen_ai.response.finish_reasons"] = (attempt.heard.reason,)
    return told
