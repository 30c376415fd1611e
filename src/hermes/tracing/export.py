"""What gives spans to a collector, by OTLP over HTTP: the one place that knows OpenTelemetry's libraries.

Theirs are the encoding, the connection, its TLS and headers, and new tries, with the variables that they know them by.
A thread of ours asks them: what waits for it is bounded, and a collector that is slow or gone holds nobody up but it.
"""

import logging
import threading
from collections import deque
from typing import Any

import requests
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from hermes import __version__
from hermes.metrics import Metrics
from hermes.policy.trace import Context
from hermes.tracing.span import Span

log = logging.getLogger(__name__)

MAX_WAITING_BYTES = 8 << 20
# In one request. Encoding holds the interpreter for some 30 us each.
MOST_SPANS = 128
# From the first span on, for more to come along.
GROUP_S = 1.0
# At the end, for what is left.
LAST_S = 2.0
CUT_S = 0.2
# What a collector answers is read by nobody. An answer that is longer ends its connection.
MAX_ANSWER_BYTES = 64 << 10

_SCHEMA = "https://opentelemetry.io/schemas/1.41.0"
_KINDS = {"server": SpanKind.SERVER, "client": SpanKind.CLIENT, "internal": SpanKind.INTERNAL}
_FAILED, _NEITHER = Status(StatusCode.ERROR), Status(StatusCode.UNSET)
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_THEIR_LOG = logging.getLogger(OTLPSpanExporter.__module__)


class Exporter:
    """Takes spans, and drops them where too much waits. `close` sends what is left, for so long as that may take."""

    def __init__(self, endpoint: str, service_name: str, instance: str, metrics: Metrics) -> None:
        self._endpoint = OTLPSpanExporter(endpoint=endpoint, session=_Session())
        logging.getLogger("urllib3").setLevel(logging.WARNING)  # it tells each request, with its whole path
        # And this each state of a client's that is none.
        logging.getLogger(TraceState.__module__).setLevel(logging.ERROR)
        self._said = _Said()
        _THEIR_LOG.addFilter(self._said)
        # Each is counted on by one thread alone.
        self._full, self._failed = (metrics.spans_dropped.child((why,)) for why in ("full", "failed"))
        self._resource = Resource.create(
            {"service.name": service_name, "service.version": __version__, "service.instance.id": instance}
        )
        self._scope = InstrumentationScope("hermes", __version__, _SCHEMA)
        self._waiting: deque[Span] = deque()
        self._taken_bytes = 0  # written by who gives
        self._done_bytes = 0  # written by the thread alone
        self._something = threading.Event()
        self._ending = threading.Event()
        self._works = True
        self._thread = threading.Thread(target=self._work, name="spans", daemon=True)
        self._thread.start()

    def __call__(self, spans: list[Span]) -> None:
        """All of them, or none."""
        size_bytes = sum(span.size_bytes for span in spans)
        if self._taken_bytes - self._done_bytes + size_bytes > MAX_WAITING_BYTES or self._ending.is_set():
            self._full.value += len(spans)
            return
        self._taken_bytes += size_bytes
        self._waiting.extend(spans)
        self._something.set()

    def close(self) -> None:
        self._ending.set()
        self._something.set()
        self._thread.join(LAST_S)
        self._endpoint.shutdown()  # type: ignore[no-untyped-call]
        self._thread.join(CUT_S)  # a new try that it waited for is given up, and all that is left

    # --- the thread -------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while not (self._ending.is_set() and not self._waiting):
            self._something.wait()
            self._ending.wait(GROUP_S)
            self._something.clear()
            while self._waiting:
                group = [self._waiting.popleft() for _ in range(min(len(self._waiting), MOST_SPANS))]
                self._send(group)
                self._done_bytes += sum(span.size_bytes for span in group)
        _THEIR_LOG.removeFilter(self._said)

    def _send(self, group: list[Span]) -> None:
        try:
            taken = self._endpoint.export([self._made(span) for span in group]) is SpanExportResult.SUCCESS
        except Exception as error:  # of their code, which has addresses in it
            self._said.why, taken = type(error).__name__, False
        if not taken:
            self._failed.value += len(group)
        if taken is not self._works:
            self._works = taken
            if taken:
                log.info("the collector takes spans again")
            else:
                log.warning("spans are dropped, the collector does not take them: %s", self._said.why)

    def _made(self, span: Span) -> ReadableSpan:
        return ReadableSpan(
            span.name,
            _context(span.context),
            _context(span.parent, remote=span.remote) if span.parent is not None else None,
            self._resource,
            span.attributes,
            links=[Link(_context(link)) for link in span.links],
            kind=_KINDS[span.kind],
            status=_FAILED if span.failed else _NEITHER,
            start_time=int(span.begun_at * 1e9),
            end_time=int(span.ended_at * 1e9),
            instrumentation_scope=self._scope,
        )


def _context(context: Context, *, remote: bool = False) -> SpanContext:
    state = TraceState.from_header([context.state.decode("latin-1")]) if context.state else TraceState()
    return SpanContext(int(context.trace_id, 16), int(context.span_id, 16), remote, _SAMPLED, state)


class _Session(requests.Session):
    """The collector is who is configured, and gets its headers, no other that it names (I23); and takes no memory."""

    def send(self, request: requests.PreparedRequest, **how: Any) -> requests.Response:
        with super().send(request, **{**how, "stream": True, "allow_redirects": False}) as answer:
            if 300 <= answer.status_code < 400:
                raise requests.TooManyRedirects("the collector is elsewhere")
            answer.raw.read(MAX_ANSWER_BYTES)
        return answer


class _Said(logging.Filter):
    """Hears what they log for each request that failed, and lets none of it into the log: addresses with what may be
    secret in them are in it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.why = "no answer that is of use"

    def filter(self, record: logging.LogRecord) -> bool:
        for said in record.args if isinstance(record.args, tuple) else ():
            if isinstance(said, Exception):
                self.why = type(said).__name__
            elif type(said) is int:
                self.why = f"status {said}"
        return False
