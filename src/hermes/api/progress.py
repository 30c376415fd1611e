"""What goes on for a while, told to a client as it comes."""

import asyncio
from types import TracebackType

import msgspec

from hermes.api.routes import Call
from hermes.dialects import ClientDialect
from hermes.errors import Draining, GatewayError

_json = msgspec.json.Encoder().encode


class Progress:
    """Lines of JSON to the client, within `with`. An error before the first of them is an error status instead."""

    def __init__(self, call: Call, dialect: ClientDialect) -> None:
        self._call = call
        self._dialect = dialect
        self._response = call.response
        self._response.start(200, b"content-type: application/x-ndjson\r\n" + call.exchange.id_line())

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, asyncio.CancelledError):  # though the client is there: it is we who stop
            error = Draining("this server has shut down")
        if isinstance(error, GatewayError) and self._response.started:
            self._response.break_off(self._dialect.render_error(error, self._call.exchange.request_id) + b"\n")

    async def tell(self, line: object) -> None:
        self._response.write(_json(line) + b"\n")
        if self._response.paused:
            await self._response.drain()

    def end(self, line: object) -> None:
        self._response.end(_json(line) + b"\n")
