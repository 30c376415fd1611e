"""One HTTP request as the server hands it on: whole, valid, and not yet understood."""

from typing import Any
from urllib.parse import parse_qsl

from msgspec import Struct

from hermes.http.wire import header_tokens


class Head:
    """What a request says before its body. Many requests may share one: nobody changes it, but for `told`.

    Headers have lower-case names; repeated list headers are joined with a comma. `path` is raw, never decoded.
    `told` is the application's, for what it concludes from the head alone.
    """

    __slots__ = ("headers", "http_1_0", "keep_alive", "method", "path", "query", "told")

    def __init__(
        self,
        method: str,
        path: bytes,
        query: bytes,
        headers: dict[bytes, bytes],
        *,
        keep_alive: bool = True,
        http_1_0: bool = False,
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.keep_alive = keep_alive
        self.http_1_0 = http_1_0
        self.told: Any = None

    def header(self, name: bytes) -> str:
        """A header's value, "" when absent. Latin-1, as bytes that HTTP allows (RFC 9110 5.5)."""
        return self.headers.get(name, b"").decode("latin-1")

    def query_values(self, name: str) -> list[str]:
        if not self.query:
            return []
        return [value for key, value in parse_qsl(self.query.decode("latin-1"), keep_blank_values=True) if key == name]

    def expects_continue(self) -> bool:
        return header_tokens(self.headers.get(b"expect", b"")) == [b"100-continue"]


# Of bytes that are no request, and of a request whose head was let go.
NO_HEAD = Head("", b"", b"", {}, keep_alive=False)


class Request(Struct, eq=False, gc=False):
    """`received_at`: when its head was whole, in the loop's seconds."""

    head: Head
    received_at: float
    body: bytes = b""

    def take_body(self) -> bytes:
        """The body, for the one who parses it. Head and body are let go: what they mean is known by then."""
        body, self.body = self.body, b""
        self.head = NO_HEAD
        return body

    @property
    def method(self) -> str:
        return self.head.method

    @property
    def path(self) -> bytes:
        return self.head.path

    @property
    def query(self) -> bytes:
        return self.head.query

    @property
    def headers(self) -> dict[bytes, bytes]:
        return self.head.headers

    def header(self, name: bytes) -> str:
        return self.head.header(name)
