"""One client's connection: bytes in, whole requests out, one answer at a time, in order.

Rules: nothing is dispatched before its head and body are whole and valid (invariant I10); what one peer may make us
hold is bounded (I4, I13); reading never stops while a request runs, so that its sender's leaving is seen at once (I9).
"""

import asyncio
import logging
import re
import socket
import struct
import sys
from collections import deque
from typing import Protocol, cast

import httptools
from msgspec import Struct

from hermes.errors import (
    BadRequest,
    BodyTooLarge,
    ExpectationFailed,
    GatewayError,
    HeadersTooLarge,
    RequestTimeout,
    UriTooLong,
)
from hermes.http.request import Request
from hermes.http.response import Response
from hermes.http.wire import HIGH_WATER_BYTES, NEVER

log = logging.getLogger(__name__)

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_CLEAN_TARGET = re.compile(rb"/[\x21-\x22\x24-\x7e]*|\*").fullmatch
# List headers may repeat (RFC 9110 5.3); a second value of any of these would leave open which one counts.
_SINGLE = frozenset(
    b"host content-length content-type content-encoding transfer-encoding authorization x-api-key api-key origin expect"
    b" x-model x-request-id".split()
)
# Bytes that a chunked body may spend on framing for each byte of content, so that the finest chunking still passes.
_FRAMING_PER_BYTE = 8
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger: on, 0 s


# One object for each usual name, whatever its case: less work per request and less memory while it waits.
_SHARED_NAMES = {
    spelling: name.lower()
    for name in (
        b"Host User-Agent Accept Accept-Encoding Connection Content-Type Content-Length Authorization X-Api-Key"
        b" X-Stainless-Lang X-Stainless-Package-Version X-Stainless-OS X-Stainless-Arch X-Stainless-Runtime"
        b" X-Stainless-Runtime-Version X-Stainless-Async X-Stainless-Retry-Count X-Stainless-Read-Timeout"
        b" X-Request-Id Transfer-Encoding Origin"
    ).split()
    for spelling in (name, name.lower())
}


class Limits(Struct, frozen=True):
    """What one client may cost (invariant I10). Sizes in bytes, times in seconds."""

    # 8 KiB request line, 32 KiB headers: node allows 16 in all, nginx 8 a line, tomcat 8, IIS 16.
    request_line_bytes: int = 8 * 1024
    headers_bytes: int = 32 * 1024
    header_fields: int = 100
    body_bytes: int = 10 * 1024 * 1024
    header_timeout_s: float = 10.0
    body_min_bytes_per_s: float = 1024.0
    keep_alive_s: float = 75.0
    write_timeout_s: float = 60.0
    linger_s: float = 2.0
    pipeline_depth: int = 16
    connections: int = 10_000


class App(Protocol):
    """What answers. Neither method raises."""

    async def handle(self, request: Request, response: Response) -> None:
        """Answer one whole, valid request. Cancelled when its client leaves."""

    def refuse(self, error: GatewayError, response: Response) -> None:
        """Answer bytes that never became a request."""


class Host(Protocol):
    """The server, as its connections see it."""

    app: App
    limits: Limits
    loop: asyncio.AbstractEventLoop
    closing: bool

    def welcome(self, connection: "ServerConnection") -> bool: ...
    def farewell(self, connection: "ServerConnection") -> None: ...
    def date_line(self) -> bytes: ...


class ServerConnection(asyncio.Protocol):
    __slots__ = (
        "_begun",
        "_body_bytes",
        "_body_since",
        "_deaf",
        "_head_since",
        "_headers",
        "_leaving",
        "_overhead_bytes",
        "_parser",
        "_pending",
        "_repeats",
        "_request",
        "_response",
        "_server",
        "_target",
        "_task",
        "_transport",
        "_unsent_bytes",
        "deadline",
        "lost",
        "resumed",
    )

    def __init__(self, server: Host) -> None:
        self._server = server
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        # The head that is arriving.
        self._begun = False
        self._head_since: float | None = None
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._repeats = 0
        self._overhead_bytes = 0  # what came besides content: heads, chunk framing, trailers
        # The body that is arriving.
        self._request: Request | None = None
        self._body_bytes = 0
        self._body_since = 0.0
        # What is being answered, and what waits for that.
        self._task: asyncio.Task[None] | None = None
        self._response: Response = cast(Response, None)
        self._pending: deque[Request | GatewayError] | None = None
        self._unsent_bytes = 0
        self._deaf = False  # what still comes is not for us
        self._leaving = False  # the last answer is written
        self.resumed: asyncio.Future[None] | None = None
        self.lost = False
        self.deadline = NEVER

    # --- the transport calls ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if not self._server.welcome(self):
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        self._head_since = self._server.loop.time()
        self.deadline = self._head_since + self._server.limits.header_timeout_s

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.deadline = NEVER
        self._pending = None
        if self.resumed is not None and not self.resumed.done():
            self.resumed.set_result(None)
        if self._task is None:
            self._server.farewell(self)
            return
        # A handler has the last word, its record of the request: until then the server does not count as empty (I33).
        self._task.add_done_callback(lambda _: self._server.farewell(self))
        if self._answering:
            self._task.cancel()

    def eof_received(self) -> None:
        if self._answering:
            self._transport.abort()  # a plain close would wait until the client had read what it will not read

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        request, body_bytes = self._request, self._body_bytes
        if request is None:
            self._overhead_bytes += len(data)
        upgrade_ends_at = None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            upgrade_ends_at = upgrade.args[0]
        except httptools.HttpParserError as error:
            self._refuse_malformed(error)
            return
        if upgrade_ends_at is not None:
            self._take_without_upgrade(data[upgrade_ends_at:])
            return
        if request is not None and request is self._request:
            self._weigh_framing(len(data), self._body_bytes - body_bytes)
        limits = self._server.limits
        if self._overhead_bytes > limits.request_line_bytes + limits.headers_bytes:
            self._refuse(_headers_too_large(limits))
        elif self._task is None and not self._deaf:
            self._arm()

    def pause_writing(self) -> None:
        self.resumed = self._server.loop.create_future()
        self._unsent_bytes = self._count_unsent()
        self.deadline = self._server.loop.time() + self._server.limits.write_timeout_s

    def resume_writing(self) -> None:
        if self.resumed is not None and not self.resumed.done():
            self.resumed.set_result(None)
        self.resumed = None
        if not self._leaving:
            self.deadline = NEVER
            self._arm()

    # --- the parser calls: a GatewayError raised here ends the parsing ------------------------------------------------

    def on_message_begin(self) -> None:
        if self._head_since is None:
            self._head_since = self._server.loop.time()
        self._begun = True
        self._target = b""
        self._headers = {}
        self._repeats = 0
        self._body_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._target += url
        limit = self._server.limits.request_line_bytes
        if len(self._target) > limit:
            raise UriTooLong(f"the request target is longer than {limit} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        name = _SHARED_NAMES.get(name) or name.lower()
        value = value.rstrip(b" \t")  # optional white space is no part of a value (RFC 9110 5.5)
        headers = self._headers
        if name in headers:
            value = self._repeated(name, value)
        headers[name] = value

    def _repeated(self, name: bytes, value: bytes) -> bytes:
        """The joined value of a header that comes again (RFC 9110 5.3)."""
        if name in _SINGLE:
            raise BadRequest(f"header {name.decode('latin-1')} is given twice", code="duplicate_header")
        self._repeats += 1
        if self._repeats >= self._server.limits.header_fields:
            raise _headers_too_large(self._server.limits)
        return self._headers[name] + b", " + value

    def on_headers_complete(self) -> None:
        request = self._accept_head()
        self._head_since = None
        self._begun = False
        self._overhead_bytes = 0
        if b"upgrade" in request.headers and self._parser.should_upgrade():
            return  # comes again, without
        self._headers = {}  # trailers are told apart from headers by falling in here, unread (RFC 9110 6.5.1)
        self._request = request
        self._body_since = self._server.loop.time()
        if b"expect" in request.headers and self._task is None:
            self._invite(request)

    def on_body(self, body: bytes) -> None:
        request = self._request
        if request is None:
            return
        self._body_bytes += len(body)
        if self._body_bytes > self._server.limits.body_bytes:
            raise _body_too_large(self._server.limits)
        if not request.body:
            request.body = body
        else:
            if not isinstance(request.body, bytearray):
                request.body = bytearray(request.body)  # type: ignore[assignment]  # appended in place, frozen below
            request.body += body

    def on_message_complete(self) -> None:
        request, self._request = self._request, None
        if request is None or self._deaf:
            return
        self._overhead_bytes = 0
        if isinstance(request.body, bytearray):
            request.body = bytes(request.body)
        if not request.keep_alive:
            self._deaf = True
        self._deliver(request)

    # --- one request after the other --------------------------------------------------------------------------------

    def _accept_head(self) -> Request:
        """Build the request from a whole head. Raises the GatewayError that refuses it."""
        limits, headers, target = self._server.limits, self._headers, self._target
        size_bytes = sum(map(len, headers)) + sum(map(len, headers.values()))
        if size_bytes > limits.headers_bytes or len(headers) + self._repeats > limits.header_fields:
            raise _headers_too_large(limits)
        version, method = self._parser.get_http_version(), self._parser.get_method()
        if version == "1.1":
            if b"host" not in headers:
                raise BadRequest("an HTTP/1.1 request needs a Host header (RFC 9112 3.2)", code="missing_host")
        elif version != "1.0":
            raise BadRequest(f"HTTP/{version} is not spoken here; use HTTP/1.1", code="http_version_not_supported")
        elif b"transfer-encoding" in headers:
            raise BadRequest("HTTP/1.0 knows no Transfer-Encoding (RFC 9112 6.1)", code="unsupported_transfer_encoding")
        if not _CLEAN_TARGET(target) or method == b"CONNECT":
            raise BadRequest("the request target must be a path in visible ASCII", code="malformed_target")
        if b"transfer-encoding" in headers and headers[b"transfer-encoding"].lower() != b"chunked":
            raise BadRequest("the only transfer coding is chunked", code="unsupported_transfer_encoding")
        if int(headers.get(b"content-length", b"0")) > limits.body_bytes:
            raise _body_too_large(limits)
        path, _, query = target.partition(b"?")
        request = Request(
            method.decode("ascii"),
            path,
            query,
            headers,
            received_at=self._server.loop.time(),
            keep_alive=version == "1.1" and self._parser.should_keep_alive(),
            http_1_0=version == "1.0",
        )
        if b"expect" in headers and not (request.http_1_0 or request.expects_continue()):
            raise ExpectationFailed("the only expectation that can be met is 100-continue")
        return request

    def _take_without_upgrade(self, rest: bytes) -> None:
        """Parse a request again that asks for another protocol, as if it did not (RFC 9110 7.8).

        No other is spoken here, and llhttp leaves such a request's body unparsed. Java's HttpClient asks for h2c by
        default, with any body.
        """
        version = self._parser.get_http_version().encode("ascii")
        lines = [b"%b %b HTTP/%b" % (self._parser.get_method(), self._target, version)]
        lines += [b"%b: %b" % header for header in self._headers.items() if header[0] != b"upgrade"]
        self._parser = httptools.HttpRequestParser(self)
        self.data_received(b"\r\n".join((*lines, b"", rest)))

    def _invite(self, request: Request) -> None:
        """Ask for the body of a client that waits to be asked. HTTP/1.0 does not (RFC 9110 10.1.1)."""
        if b"expect" in request.headers and not request.http_1_0:
            self._transport.write(_CONTINUE)

    def _weigh_framing(self, received_bytes: int, content_bytes: int) -> None:
        """Chunk extensions and trailers are read by nobody, but their sender must not send them without end."""
        overhead_bytes = self._overhead_bytes + received_bytes - (1 + _FRAMING_PER_BYTE) * content_bytes
        self._overhead_bytes = max(0, overhead_bytes)

    def _refuse_malformed(self, error: httptools.HttpParserError) -> None:
        refusal = error.__context__  # what one of our own callbacks has raised
        if refusal is None:
            refusal = BadRequest(f"malformed HTTP request: {error}", code="malformed_http")
        elif not isinstance(refusal, GatewayError):
            raise error
        self._refuse(refusal)

    def _refuse(self, error: GatewayError) -> None:
        if self._deaf:
            return
        self._deaf = True
        self._request = None
        self._deliver(error)

    def _deliver(self, message: Request | GatewayError) -> None:
        """Serve now, or after what came before. A pipeline is bounded: past its depth we stop listening."""
        if self._task is None:
            self._serve(message)
            return
        if self._pending is None:
            self._pending = deque()
        self._pending.append(message)
        waiting_bytes = sum(len(held.body) for held in self._pending if isinstance(held, Request))
        limits = self._server.limits
        if len(self._pending) >= limits.pipeline_depth or waiting_bytes > limits.body_bytes:
            self._deaf = True

    def _serve(self, message: Request | GatewayError) -> None:
        if isinstance(message, GatewayError):
            self._response = Response(self, None)
            self._server.app.refuse(message, self._response)
            return
        if self.resumed is None:
            self.deadline = NEVER
        self._response = Response(self, message)
        self._task = self._server.loop.create_task(self._run(message, self._response))

    async def _run(self, request: Request, response: Response) -> None:
        try:
            await self._server.app.handle(request, response)
        except Exception:
            log.exception("a bug reached the connection")
        finally:
            self._task = None
            if not response.ended:
                self.reset()
            elif self._pending and not self.lost:
                self._serve(self._pending.popleft())
            elif not (self._deaf or self.lost):
                self._rest()

    def _rest(self) -> None:
        """Nothing is left to be answered. What has come early gets its time from now on."""
        if self._request is not None:
            self._body_since = self._server.loop.time()
            self._invite(self._request)
        elif self._head_since is not None:
            self._head_since = self._server.loop.time()
        self._arm()

    # --- the response calls -----------------------------------------------------------------------------------------

    @property
    def may_keep_alive(self) -> bool:
        """False once the connection is to close after what it has been asked so far."""
        return not self._server.closing and (not self._deaf or bool(self._pending))

    @property
    def busy(self) -> bool:
        """A request is being read or answered, or the last answer is on its way."""
        return self._answering or self._request is not None or self._begun or self._leaving

    @property
    def _answering(self) -> bool:
        """False for a handler that works on after its answer: what it still does is not the client's."""
        return self._task is not None and not self._response.ended

    def date_line(self) -> bytes:
        return self._server.date_line()

    def write(self, data: bytes) -> None:
        if not self.lost:
            self._transport.write(data)

    def response_ended(self, response: Response) -> None:
        if self.lost or (response.keep_alive and not self._server.closing):
            return
        # Closing with unread input in the socket would reset the connection and could destroy the answer on its way
        # (RFC 9112 9.6): say that we are done, swallow what still comes, then close.
        self._leave()
        if response.ends_by_reset:
            return
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()

    def _leave(self) -> None:
        self._deaf = self._leaving = True
        self._pending = None
        self._unsent_bytes = sys.maxsize
        self.deadline = self._server.loop.time() + self._server.limits.linger_s

    def close_when_idle(self) -> None:
        """Shutting down: leave now if nothing is going on; otherwise the next answer closes."""
        if not self.busy:
            self._transport.close()

    def reset(self) -> None:
        """Cut the connection, so that the client cannot take the end for a clean one (invariant I5)."""
        if self.lost:
            return
        open_socket = self._transport.get_extra_info("socket")
        if open_socket is not None:
            open_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._transport.abort()

    # --- deadlines --------------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        """Set the deadline of the phase that the connection is in."""
        limits = self._server.limits
        if self.resumed is not None or self._deaf:
            return
        if self._request is not None:
            self.deadline = self._body_since + limits.header_timeout_s + self._body_bytes / limits.body_min_bytes_per_s
        elif self._head_since is not None:
            self.deadline = self._head_since + limits.header_timeout_s
        elif self._task is not None:
            self.deadline = NEVER
        elif self.deadline == NEVER:  # blank lines between requests do not prolong it
            self.deadline = self._server.loop.time() + limits.keep_alive_s

    def expire(self, now: float) -> None:
        self.deadline = NEVER
        unsent_bytes = self._count_unsent()
        if self.resumed is not None or (self._leaving and unsent_bytes):
            self._judge_slow_reader(unsent_bytes, now)
        elif self._leaving:
            if self._response is not None and self._response.ends_by_reset:
                self.reset()
            self._transport.abort()
        elif self._task is not None:
            return
        elif self._request is not None or self._begun:
            self._refuse(RequestTimeout("the request did not arrive in time"))
        else:
            self._leave()
            self._transport.close()

    def _count_unsent(self) -> int:
        return self._transport.get_write_buffer_size()

    def _judge_slow_reader(self, unsent_bytes: int, now: float) -> None:
        """No progress for a whole write timeout ends the connection (invariant I13)."""
        if unsent_bytes >= self._unsent_bytes:
            self.reset()
        else:
            self._unsent_bytes = unsent_bytes
            self.deadline = now + self._server.limits.write_timeout_s


def _headers_too_large(limits: Limits) -> HeadersTooLarge:
    return HeadersTooLarge(
        f"the header fields are more than {limits.header_fields} or longer than {limits.headers_bytes} bytes together"
    )


def _body_too_large(limits: Limits) -> BodyTooLarge:
    return BodyTooLarge(f"the body is longer than {limits.body_bytes} bytes")
