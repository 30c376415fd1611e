"""One answer on its way out: whole, or line by line; an error as what it still can be."""

import msgspec

from hermes.http.response import Response

SERVER = b"server: hermes-simulator\r\n"
JSON = b"content-type: application/json; charset=utf-8\r\n" + SERVER
NDJSON = b"content-type: application/x-ndjson\r\n" + SERVER
PLAIN = b"content-type: text/plain\r\n" + SERVER
_STREAM_ERROR = b"content-type: application/json\r\n" + SERVER


class Ended(Exception):
    """The answer is over, in a way that is not the usual one."""


class RunnerCrashed(Exception):
    """The model's process has died under its requests."""


class Reply:
    """`streaming`: the client has asked for a stream; its errors have another content type (server/routes.go)."""

    __slots__ = ("response", "streaming")

    def __init__(self, response: Response, streaming: bool = False) -> None:
        self.response = response
        self.streaming = streaming

    async def line(self, data: bytes) -> None:
        """One NDJSON line."""
        response = self.response
        if not response.status:
            response.start(200, NDJSON)
        response.write(data)
        if response.paused:
            await response.drain()

    async def whole(self, body: bytes) -> None:
        self.response.send(200, JSON, body)

    def end(self) -> None:
        self.response.end()

    def error(self, status: int, text: str) -> None:
        """A status with `{"error": text}`, or the last line of a stream that has begun."""
        body = msgspec.json.encode({"error": text})
        if self.response.started:
            self.response.end(body + b"\n")
        else:
            self.response.send(status, _STREAM_ERROR if self.streaming else JSON, body)

    def crashed(self) -> None:
        self.error(500, "an error was encountered while running the model: unexpected EOF")
