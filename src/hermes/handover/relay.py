"""What still comes on connections of the old process is passed on to the new one, which has the last word on it."""

import asyncio

from hermes.errors import BackendError, Draining, GatewayError
from hermes.http.client import PoolLimits
from hermes.http.connection import App
from hermes.http.origin import Origin
from hermes.http.pool import ClientExchange, Pool
from hermes.http.request import Request
from hermes.http.response import Response
from hermes.http.wire import NEVER, Deadlines, render_headers

# Of the connection, not of the request (RFC 9110 7.6.1); and what is rendered anew.
_OURS = frozenset(
    (b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"content-length", b"expect")
)
_NOT_TOLD = _OURS | {b"date"}
# It has no end of its own, and would keep this process: its client comes again, to the new one.
_ENDLESS = b"/v1/events"


class Relay:
    """The App of a server whose successor listens at `path`; `app` is the one before."""

    def __init__(self, app: App, path: str, deadlines: Deadlines, loop: asyncio.AbstractEventLoop) -> None:
        self.app = app
        self._pool = Pool(Origin.parse(f"unix://{path}"), PoolLimits(idle_connections=0), deadlines, loop)

    async def handle(self, request: Request, response: Response) -> None:
        try:
            await self._pass_on(request, response)
        except BackendError:
            if response.started:
                response.break_off()
            else:
                self.app.refuse(Draining("this server has been replaced; ask again", retry_after_s=1.0), response)

    def refuse(self, error: GatewayError, response: Response) -> None:
        self.app.refuse(error, response)

    async def _pass_on(self, request: Request, response: Response) -> None:
        async with ClientExchange(self._pool, _rendered(request), False, NEVER) as answer:
            told = [(name, value) for name, value in answer.headers.items() if name not in _NOT_TOLD]
            lines = render_headers(told)
            if answer.complete:
                response.send(answer.status, lines, await answer.read(NEVER))
                return
            response.start(answer.status, lines)
            while data := await answer.read(NEVER):
                if not response.write(data):
                    await response.drain()
                if request.head.path == _ENDLESS:
                    break
            response.end()


def _rendered(request: Request) -> bytes:
    """As it came; the answer to HEAD would announce a body that does not come, so it is asked for as GET."""
    head = request.head
    method = "GET" if head.method == "HEAD" else head.method
    target = head.path + (b"?" + head.query if head.query else b"")
    lines = render_headers((name, value) for name, value in head.headers.items() if name not in _OURS)
    length = b"content-length: %d\r\n" % len(request.body) if request.body or method != "GET" else b""
    return b"%b %b HTTP/1.1\r\n%b%b\r\n%b" % (method.encode("ascii"), target, lines, length, request.body)
