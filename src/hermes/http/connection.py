"""One client's connection: its requests are answered one at a time, in order.

Rules: nothing is dispatched before its head and body are whole and valid (`Arrival`, invariant I10); what one peer may
make us hold is bounded (I4, I13); reading never stops while a request runs, so that its sender's leaving is seen at
once (I9).
"""

import asyncio
import logging
import socket
import struct
import sys
from collections import deque
from typing import Protocol, cast

from hermes.errors import GatewayError, RequestTimeout
from hermes.http.arrival import Arrival, Reception
from hermes.http.request import NO_HEAD, Request
from hermes.http.response import Response
from hermes.http.unsent import count_unsent
from hermes.http.wire import HIGH_WATER_BYTES, NEVER, give_way

log = logging.getLogger(__name__)

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger: on, 0 s


class App(Protocol):
    """What answers. Neither method raises."""

    async def handle(self, request: Request, response: Response) -> None:
        """Answer one whole, valid request. Cancelled when its client leaves."""

    def refuse(self, error: GatewayError, response: Response) -> None:
        """Answer bytes that never became a request."""


class Host(Reception, Protocol):
    """The server, as its connections see it."""

    app: App
    loop: asyncio.AbstractEventLoop
    closing: bool
    hurries: bool

    def welcome(self, connection: "ServerConnection") -> bool: ...
    def farewell(self, connection: "ServerConnection") -> None: ...
    def date_line(self) -> bytes: ...


class ServerConnection(asyncio.Protocol):
    __slots__ = (
        "_arrival",
        "_deaf",
        "_leaving",
        "_pending",
        "_response",
        "_server",
        "_task",
        "_transport",
        "_unsent_bytes",
        "date_line",
        "deadline",
        "lost",
        "resumed",
    )

    def __init__(self, server: Host) -> None:
        self._server = server
        self.date_line = server.date_line
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._arrival = Arrival(self, server)
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
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.deadline = NEVER
        self._arrival.end()
        self._forget_pending()
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
        if len(data) > HIGH_WATER_BYTES:
            give_way(self._transport, self._server.loop)
        self._arrival.feed(data)
        if self._task is None and not self._deaf:
            self._arm()

    def pause_writing(self) -> None:
        self.resumed = self._server.loop.create_future()
        self._unsent_bytes = count_unsent(self._transport)
        self.deadline = self._server.loop.time() + self._server.limits.write_timeout_s

    def resume_writing(self) -> None:
        if self.resumed is not None and not self.resumed.done():
            self.resumed.set_result(None)
        self.resumed = None
        if self._leaving:
            self.deadline = self._server.loop.time() + self._server.limits.linger_s
        else:
            self.deadline = NEVER
            self._arm()

    # --- the arrival calls ------------------------------------------------------------------------------------------

    def receive(self, message: Request | GatewayError) -> None:
        """Serve now, or after what came before. A pipeline is bounded: past its depth we stop listening."""
        if self._deaf:
            return
        if isinstance(message, GatewayError) or not message.head.keep_alive:
            self._deaf = True
        if self._task is None:
            self._serve(message)
            return
        if self._pending is None:
            self._pending = deque()
        self._pending.append(message)
        self._server.arriving_bytes += _size(message)
        limits = self._server.limits
        too_many = len(self._pending) >= limits.pipeline_depth or sum(map(_size, self._pending)) > limits.body_bytes
        if too_many or self._server.arriving_bytes > limits.arriving_bytes:
            self._deaf = True

    def expect_body(self) -> None:
        """Ask for it, unless other requests come first."""
        if self._task is None and not self._deaf:
            self._transport.write(_CONTINUE)

    # --- one request after the other --------------------------------------------------------------------------------

    def _serve(self, message: Request | GatewayError) -> None:
        if isinstance(message, GatewayError):
            self._response = Response(self, NO_HEAD)
            self._server.app.refuse(message, self._response)
            return
        if self.resumed is None:
            self.deadline = NEVER
        self._response = response = Response(self, message.head)
        # Not `loop.create_task`, which makes up a name for each: 0.2 us.
        self._task = asyncio.Task(self._run(message, response), name="request")

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
                message = self._pending.popleft()
                self._server.arriving_bytes -= _size(message)
                self._serve(message)
            elif not (self._deaf or self.lost):
                self._rest()

    def _forget_pending(self) -> None:
        if self._pending:
            self._server.arriving_bytes -= sum(map(_size, self._pending))
        self._pending = None

    def _rest(self) -> None:
        """Nothing is left to be answered. What has come early gets its time from now on."""
        now = self._server.loop.time()
        if self._arrival.early:
            self._arrival.begin_anew(now)
            self._arm()
        elif self.resumed is None:
            self.deadline = now + self._server.limits.keep_alive_s

    # --- the response calls -----------------------------------------------------------------------------------------

    @property
    def may_keep_alive(self) -> bool:
        """False once the connection is to close after what it has been asked so far."""
        return not self._server.closing and (not self._deaf or bool(self._pending))

    @property
    def busy(self) -> bool:
        """A request is being read or answered, or the last answer is on its way."""
        return self._answering or not self._arrival.resting or self._leaving

    @property
    def _answering(self) -> bool:
        """False for a handler that works on after its answer: what it still does is not the client's."""
        return self._task is not None and not self._response.ended

    def write(self, data: bytes) -> None:
        if not self.lost:
            self._transport.write(data)

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def response_ended(self, response: Response) -> None:
        if self.lost or (response.keep_alive and not self._server.hurries):
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
        self._forget_pending()
        self._unsent_bytes = sys.maxsize
        self.deadline = self._server.loop.time() + self._server.limits.linger_s

    def forget(self) -> None:
        self._arrival.forget()

    def close_when_idle(self) -> None:
        """Shutting down: leave now if nothing is going on; otherwise the next answer closes."""
        if not self.busy:
            self._transport.close()

    def cut(self) -> None:
        """Leave now. What is being answered ends as its handler ends it when it is cancelled."""
        if self._task is not None and self._answering:
            self._task.cancel()
        elif not (self._leaving and count_unsent(self._transport)):
            self.reset()

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
        if self.resumed is not None or self._deaf:
            return
        due_at = self._arrival.due_at
        if due_at is not None:
            self.deadline = due_at
        elif self._task is not None:
            self.deadline = NEVER
        elif self.deadline == NEVER:  # blank lines between requests do not prolong it
            self.deadline = self._server.loop.time() + self._server.limits.keep_alive_s

    def expire(self, now: float) -> None:
        self.deadline = NEVER
        unsent_bytes = count_unsent(self._transport)
        if self.resumed is not None or (self._leaving and unsent_bytes):
            self._judge_slow_reader(unsent_bytes, now)
        elif self._leaving:
            if self._response is not None and self._response.ends_by_reset:
                self.reset()
            self._transport.abort()
        elif self._task is not None:
            return
        elif not self._arrival.resting:
            self._arrival.refuse(RequestTimeout("the request did not arrive in time"))
        else:
            self._leave()
            self._transport.close()

    def _judge_slow_reader(self, unsent_bytes: int, now: float) -> None:
        """No progress for a whole write timeout ends the connection (invariant I13)."""
        if unsent_bytes >= self._unsent_bytes:
            self.reset()
        else:
            self._unsent_bytes = unsent_bytes
            self.deadline = now + self._server.limits.write_timeout_s


def _size(message: Request | GatewayError) -> int:
    return len(message.body) if isinstance(message, Request) else 0
