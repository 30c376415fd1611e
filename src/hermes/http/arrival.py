"""The message that arrives on one connection: bytes in, whole and valid requests out. No I/O.

llhttp reads every head once; those that come again are remembered (`http/heads`).
"""

import re
from collections.abc import Callable
from typing import Protocol

import httptools

from hermes.errors import BadRequest, ExpectationFailed, GatewayError, Overloaded, UriTooLong
from hermes.http.heads import Heads, Known
from hermes.http.limits import Limits
from hermes.http.request import NO_HEAD, Head, Request

_CLEAN_TARGET = re.compile(rb"/[\x21-\x22\x24-\x7e]*|\*").fullmatch
# List headers may repeat (RFC 9110 5.3); a second value of any of these would leave open which one counts.
_SINGLE = frozenset(
    b"host content-length content-type content-encoding transfer-encoding authorization x-api-key api-key origin expect"
    b" x-model x-request-id".split()
)
# Bytes that a chunked body may spend on framing for each byte of content, so that the finest chunking still passes.
_FRAMING_PER_BYTE = 8


class Receiver(Protocol):
    """The connection, as its arrivals see it."""

    def receive(self, message: Request | GatewayError) -> None:
        """A whole request; or why there will be none, and none after it."""

    def expect_body(self) -> None:
        """A head is accepted whose client waits to be asked for the body (RFC 9110 10.1.1)."""


class Reception(Protocol):
    """What all arrivals of one server share. `arriving_bytes`: of bodies that are not whole, or wait for their turn."""

    limits: Limits
    heads: Heads
    clock: Callable[[], float]
    arriving_bytes: int


class Arrival:
    """`head_since`, `body_since`: when what is arriving now began, in the clock's seconds."""

    __slots__ = (
        "_clock",
        "_head",
        "_headers",
        "_held_bytes",
        "_known",
        "_limits",
        "_missing_bytes",
        "_parser",
        "_receiver",
        "_reception",
        "_repeats",
        "_target",
        "begun",
        "body_bytes",
        "body_since",
        "head_since",
        "overhead_bytes",
        "request",
    )

    def __init__(self, receiver: Receiver, reception: Reception) -> None:
        self._receiver = receiver
        self._reception = reception
        self._limits = reception.limits
        self._clock = reception.clock
        self._parser: httptools.HttpRequestParser | None = None
        # The head that is arriving.
        self.begun = False
        self.head_since: float | None = reception.clock()
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._repeats = 0
        self._head: Head | None = None  # the last one accepted
        self._known: Known | None = None  # the last one that was remembered
        self.overhead_bytes = 0  # what came besides content: heads, chunk framing, trailers
        # The body that is arriving.
        self.request: Request | None = None
        self.body_bytes = 0
        self.body_since = 0.0
        self._missing_bytes = 0  # of the body of a known head
        self._held_bytes = 0  # of all bodies that are arriving

    def forget(self) -> None:
        """What was concluded from the last head holds no more, and there may be other limits."""
        self._known = None
        self._limits = self._reception.limits

    @property
    def resting(self) -> bool:
        """Between two messages."""
        return self.request is None and not self.begun

    @property
    def due_at(self) -> float | None:
        """When what is arriving must be here; None between two messages."""
        limits = self._limits
        if self.request is not None:
            return self.body_since + limits.header_timeout_s + self.body_bytes / limits.body_min_bytes_per_s
        return None if self.head_since is None else self.head_since + limits.header_timeout_s

    @property
    def early(self) -> bool:
        """Something has begun to arrive."""
        return self.request is not None or self.head_since is not None

    def begin_anew(self, now: float) -> None:
        """What came early, while another request was answered, gets its time from now on."""
        if self.request is not None:
            self.body_since = now
            if b"expect" in self.request.head.headers and not self.request.head.http_1_0:
                self._receiver.expect_body()
        elif self.head_since is not None:
            self.head_since = now

    def feed(self, data: bytes) -> None:
        """Take what has come. What it completes, and what cannot be accepted, is given to the receiver."""
        if self._missing_bytes:
            self._take_known(data)
        elif self.request is not None or self.begun:
            self._parse(data)
        elif (found := self._recall(data)) is None:
            self._head = None
            self._parse(data)
            if self._head is not None:
                self._reception.heads.learn(data, self._head)
                self._head = None  # not ours to keep
        else:
            head, body_bytes, body_at = found
            self.head_since = None
            self.overhead_bytes = 0
            if len(data) < body_at + body_bytes:
                self.body_bytes, self._missing_bytes, self.body_since = 0, body_bytes, self._clock()
                self.request = Request(head, self.body_since)
                self._take_known(data[body_at:])
                return
            self._receiver.receive(Request(head, self._clock(), data[body_at : body_at + body_bytes]))
            if len(data) > body_at + body_bytes:
                self._parse(data[body_at + body_bytes :])

    def _recall(self, data: bytes) -> tuple[Head, int, int] | None:
        """The known head that `data` begins with, the length of the body, and where it begins."""
        known = self._known
        found = None if known is None else known.split(data)
        if found is None and (known := self._reception.heads.find(data)) is not None:
            self._known = known
            found = known.split(data)
        return None if found is None or found[1] > self._limits.body_bytes else found

    def _take_known(self, data: bytes) -> None:
        """More of a body that follows a known head."""
        part = data[: self._missing_bytes]
        self._missing_bytes -= len(part)
        try:
            self.on_body(part)
        except GatewayError as error:
            self._missing_bytes = 0
            self.refuse(error)
            return
        if not self._missing_bytes:
            self.on_message_complete()
            if len(part) < len(data):
                self._parse(data[len(part) :])

    def _parse(self, data: bytes) -> None:
        request, body_bytes = self.request, self.body_bytes
        if request is None:
            self.overhead_bytes += len(data)
        if self._parser is None:
            self._parser = httptools.HttpRequestParser(self)
        upgrade_ends_at = None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            upgrade_ends_at = upgrade.args[0]
        except httptools.HttpParserError as error:
            self.refuse(_reason(error))
            return
        if upgrade_ends_at is not None:
            self._take_without_upgrade(data[upgrade_ends_at:])
            return
        if request is not None and request is self.request:
            self._weigh_framing(len(data), self.body_bytes - body_bytes)
        if self.overhead_bytes > self._limits.request_line_bytes + self._limits.headers_bytes:
            self.refuse(self._limits.headers_too_large())

    def refuse(self, error: GatewayError) -> None:
        """Nothing more is accepted."""
        self.end()
        self._head = None
        self._receiver.receive(error)

    def end(self) -> None:
        """What is arriving is let go."""
        self.request = None
        self._reception.arriving_bytes -= self._held_bytes
        self._held_bytes = 0

    # --- the parser calls: a GatewayError raised here ends the parsing ------------------------------------------------

    def on_message_begin(self) -> None:
        if self.head_since is None:
            self.head_since = self._clock()
        self.begun = True
        self._target = b""
        self._headers = {}
        self._repeats = 0

    def on_url(self, url: bytes) -> None:
        self._target += url
        if len(self._target) > self._limits.request_line_bytes:
            raise UriTooLong(f"the request target is longer than {self._limits.request_line_bytes} bytes")

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
        if self._repeats >= self._limits.header_fields:
            raise self._limits.headers_too_large()
        return self._headers[name] + b", " + value

    def on_headers_complete(self) -> None:
        parser = self._parser
        assert parser is not None
        head = self._accept_head(parser)
        # A second head in the same bytes is not the one that they begin with: nothing to learn.
        self._head = head if self._head is None else NO_HEAD
        self.head_since = None
        self.begun = False
        self.overhead_bytes = 0
        if b"upgrade" in head.headers and parser.should_upgrade():
            return  # comes again, without
        head.headers.pop(b"content-length", None)  # from here on the body itself says how long it is
        self._headers = {}  # trailers are told apart from headers by falling in here, unread (RFC 9110 6.5.1)
        self.body_bytes = 0
        self.body_since = self._clock()
        self.request = Request(head, self.body_since)
        if b"expect" in head.headers and not head.http_1_0:  # HTTP/1.0 does not wait (RFC 9110 10.1.1)
            self._receiver.expect_body()

    def on_body(self, body: bytes) -> None:
        request = self.request
        if request is None:
            return
        self.body_bytes += len(body)
        if self.body_bytes > self._limits.body_bytes:
            raise self._limits.body_too_large()
        self._held_bytes += len(body)
        self._reception.arriving_bytes += len(body)
        if self._reception.arriving_bytes > self._limits.arriving_bytes:
            raise Overloaded("too many bodies are arriving at once; try again", retry_after_s=1.0)
        if not request.body:
            request.body = body
        else:
            if not isinstance(request.body, bytearray):
                request.body = bytearray(request.body)  # type: ignore[assignment]  # appended in place, frozen below
            request.body += body

    def on_message_complete(self) -> None:
        request = self.request
        if request is None:
            return
        self.end()
        self.overhead_bytes = 0
        if isinstance(request.body, bytearray):
            request.body = bytes(request.body)
        self._receiver.receive(request)

    # --- what a head means ------------------------------------------------------------------------------------------

    def _accept_head(self, parser: httptools.HttpRequestParser) -> Head:
        """Raises the GatewayError that refuses it."""
        limits, headers, target = self._limits, self._headers, self._target
        size_bytes = sum(map(len, headers)) + sum(map(len, headers.values()))
        if size_bytes > limits.headers_bytes or len(headers) + self._repeats > limits.header_fields:
            raise limits.headers_too_large()
        version, method = parser.get_http_version(), parser.get_method()
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
            raise limits.body_too_large()
        path, _, query = target.partition(b"?")
        keep_alive = version == "1.1" and parser.should_keep_alive()
        head = Head(method.decode("ascii"), path, query, headers, keep_alive=keep_alive, http_1_0=version == "1.0")
        if b"expect" in headers and not (head.http_1_0 or head.expects_continue()):
            raise ExpectationFailed("the only expectation that can be met is 100-continue")
        return head

    def _take_without_upgrade(self, rest: bytes) -> None:
        """Parse a request again that asks for another protocol, as if it did not (RFC 9110 7.8).

        No other is spoken here, and llhttp leaves such a request's body unparsed. Java's HttpClient asks for h2c by
        default, with any body.
        """
        assert self._parser is not None
        version = self._parser.get_http_version().encode("ascii")
        lines = [b"%b %b HTTP/%b" % (self._parser.get_method(), self._target, version)]
        lines += [b"%b: %b" % header for header in self._headers.items() if header[0] != b"upgrade"]
        self._parser = None
        self._parse(b"\r\n".join((*lines, b"", rest)))
        self._head = None  # what came is not what was parsed

    def _weigh_framing(self, received_bytes: int, content_bytes: int) -> None:
        """Chunk extensions and trailers are read by nobody, but their sender must not send them without end."""
        overhead_bytes = self.overhead_bytes + received_bytes - (1 + _FRAMING_PER_BYTE) * content_bytes
        self.overhead_bytes = max(0, overhead_bytes)


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


def _reason(error: httptools.HttpParserError) -> GatewayError:
    """What one of the calls above has raised, or what llhttp says. Raises what is neither: a bug."""
    refusal = error.__context__
    if isinstance(refusal, GatewayError):
        return refusal
    if refusal is not None:
        raise error
    return BadRequest(f"malformed HTTP request: {error}", code="malformed_http")
