"""One HTTP response on its way out: whole, or chunk by chunk with back pressure."""

import asyncio
from typing import Protocol

from hermes.http.request import Head
from hermes.http.wire import STATUS_LINES

_CLOSE = b"connection: close\r\n"
_CHUNKED = b"transfer-encoding: chunked\r\n"
_LAST_CHUNK = b"0\r\n\r\n"
_TWICE = "a request is answered once"


class Channel(Protocol):
    """The connection, as its response sees it."""

    lost: bool
    resumed: asyncio.Future[None] | None  # pending while the client's buffer is full

    @property
    def may_keep_alive(self) -> bool: ...
    def date_line(self) -> bytes: ...
    def write(self, data: bytes) -> None: ...
    def response_ended(self, response: "Response") -> None: ...
    def cancel(self) -> None: ...


class Response:
    """Answers one request, once. `headers` are rendered lines (`wire.render_headers`).

    Head and body leave in one write. After `start`, the head waits for the first `write`, so a failure before any
    byte can still choose its status with `send`.
    """

    __slots__ = (
        "_connection",
        "_flowing",
        "_framed",
        "_head",
        "_mute",
        "ended",
        "ends_by_reset",
        "keep_alive",
        "started",
        "status",
    )

    def __init__(self, connection: Channel, asked: Head) -> None:
        self._connection = connection
        # The answer to HEAD has no body; after its end none has: a late write must not run into the next answer.
        self._mute = asked.method == "HEAD"
        self.keep_alive = asked.keep_alive
        # HTTP/1.0 knows no chunks: the end of the connection ends the body (RFC 9112 6.3).
        self._framed = not asked.http_1_0
        self._head = b""
        self.status = 0
        # `_flowing`: begun, in chunks, and not over.
        self.started = self.ended = self.ends_by_reset = self._flowing = False

    @property
    def gone(self) -> bool:
        """The client has left: nothing written from now on arrives."""
        return self._connection.lost

    @property
    def paused(self) -> bool:
        """The client reads slower than we write: `await drain()` before writing more (invariant I13)."""
        return self._connection.resumed is not None

    async def drain(self) -> None:
        if self._connection.resumed is not None:
            await asyncio.shield(self._connection.resumed)  # whoever stops waiting must not cancel it for the next

    def cancel(self) -> None:
        """Whoever answers is cancelled."""
        self._connection.cancel()

    def send(self, status: int, headers: bytes, body: bytes) -> None:
        """Answer whole. Raises RuntimeError where an answer has begun."""
        if self.started:
            raise RuntimeError(_TWICE)
        opening, size_bytes = self._opening(status), len(body)
        if self._mute:
            body = b""
        self._connection.write(b"%b%bcontent-length: %d\r\n\r\n%b" % (opening, headers, size_bytes, body))
        self._end()

    def start(self, status: int, headers: bytes) -> None:
        """Begin a body of unknown length. Nothing is sent before the first `write` or `end`."""
        if not self._framed:
            self.keep_alive = False
        self._head = b"%b%b%b\r\n" % (self._opening(status), headers, _CHUNKED if self._framed else b"")

    def not_modified(self, headers: bytes) -> None:
        """What the client has is still good: 304, which has no body (RFC 9110 15.4.5)."""
        self._mute = True
        self.start(304, headers)
        self.end()

    def write(self, data: bytes) -> bool:
        """Send a piece of the body. False: the client reads slower than we write, `drain` before sending more."""
        connection = self._connection
        if self._flowing and data:
            connection.write(b"%x\r\n%b\r\n" % (len(data), data))
        elif data and not self._mute:
            framed = b"%x\r\n%b\r\n" % (len(data), data) if self._framed else data
            connection.write(framed if self.started else self._head + framed)
            self.started = True
            self._flowing = self._framed
        return connection.resumed is None

    def end(self, data: bytes = b"") -> None:
        """The body is complete. Raises RuntimeError if it was before."""
        if self.ended:
            raise RuntimeError(_TWICE)
        tail = b"" if self._mute or not self._framed else _LAST_CHUNK
        if data and not self._mute:
            tail = b"%x\r\n%b\r\n" % (len(data), data) + tail if self._framed else data
        if not self.started:
            tail = self._head + tail
        self._connection.write(tail)
        self._end()

    def break_off(self, data: bytes = b"") -> None:
        """The body is not complete and never will be: send `data`, then end uncleanly (invariant I5)."""
        if self.ended:
            raise RuntimeError(_TWICE)
        self.write(data)
        self.keep_alive = False
        self.ends_by_reset = not self._framed  # the usual end would look like a whole body
        self._end()

    def _opening(self, status: int) -> bytes:
        """The lines that every head begins with."""
        connection = self._connection
        if not connection.may_keep_alive:
            self.keep_alive = False
        self.status = status
        opening = STATUS_LINES[status] + connection.date_line()
        return opening if self.keep_alive else opening + _CLOSE

    def _end(self) -> None:
        self.started = self.ended = self._mute = True
        self._flowing = False
        self._connection.response_ended(self)
