"""A collector of spans, that takes them by OTLP over HTTP: what it got, read with the protocol's own library."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from msgspec import Struct
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from hermes.http.request import Request
from hermes.http.response import Response
from tests.http.peers import Served, serving

_KINDS = {Span.SPAN_KIND_SERVER: "server", Span.SPAN_KIND_CLIENT: "client", Span.SPAN_KIND_INTERNAL: "internal"}


class Seen(Struct, frozen=True):
    """Ids in hexadecimal digits, times in seconds since 1970. `resource`: of the process that it comes from."""

    trace_id: str
    span_id: str
    parent_id: str
    state: str
    name: str
    kind: str
    begun_at: float
    ended_at: float
    attributes: dict[str, Any]
    failed: bool
    links: tuple[str, ...]
    resource: dict[str, Any]

    @property
    def took_s(self) -> float:
        return self.ended_at - self.begun_at


class Collector:
    """`status`: what it answers, without end if `endless`. `gate`: it answers when this is set. `raw`: all bytes that
    it got.
    """

    def __init__(self) -> None:
        self.spans: list[Seen] = []
        self.raw: list[bytes] = []
        self.headers: dict[bytes, bytes] = {}
        self.paths: list[bytes] = []
        self.status = 200
        self.body = b""
        self.endless = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def handle(self, request: Request, response: Response) -> None:
        self.raw.append(request.body)
        self.headers = dict(request.headers)
        self.paths.append(request.path)
        await self.gate.wait()
        if self.status == 200:
            self.spans += _read(request.body)
        if self.endless:
            response.start(self.status, b"content-type: application/x-protobuf\r\n")
            while True:
                response.write(bytes(1 << 16))
                await response.drain()
        response.send(self.status, b"content-type: application/x-protobuf\r\n", self.body)

    def of(self, kind: str) -> list["Seen"]:
        return [span for span in self.spans if span.kind == kind]

    def named(self, name: str) -> "Seen":
        """The one span of this name."""
        (found,) = (span for span in self.spans if span.name == name)
        return found

    def children(self, parent: "Seen") -> list[str]:
        """Their names, in the order of their beginnings."""
        below = (span for span in self.spans if span.parent_id == parent.span_id)
        return [span.name for span in sorted(below, key=lambda span: span.begun_at)]


def _read(body: bytes) -> list[Seen]:
    told = ExportTraceServiceRequest.FromString(body)
    return [
        Seen(
            span.trace_id.hex(),
            span.span_id.hex(),
            span.parent_span_id.hex(),
            span.trace_state,
            span.name,
            _KINDS[span.kind],
            span.start_time_unix_nano / 1e9,
            span.end_time_unix_nano / 1e9,
            {pair.key: _value(pair.value) for pair in span.attributes},
            span.status.code == 2,
            tuple(link.span_id.hex() for link in span.links),
            {pair.key: _value(pair.value) for pair in group.resource.attributes},
        )
        for group in told.resource_spans
        for scope in group.scope_spans
        for span in scope.spans
    ]


def _value(value: AnyValue) -> Any:
    if value.WhichOneof("value") == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, str(value.WhichOneof("value")))


@asynccontextmanager
async def collector() -> AsyncIterator[Collector]:
    made = Collector()
    served: Served
    async with serving(made.handle) as served:
        made.port = served.port
        yield made
        made.gate.set()
