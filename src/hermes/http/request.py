"""One HTTP request as the server hands it on: whole, valid, and not yet understood."""

from urllib.parse import parse_qsl

from hermes.http.wire import header_tokens


class Request:
    """Headers have lower-case names; repeated list headers are joined with a comma. `path` is raw, never decoded."""

    __slots__ = ("body", "headers", "http_1_0", "keep_alive", "method", "path", "query", "received_at")

    def __init__(
        self,
        method: str,
        path: bytes,
        query: bytes,
        headers: dict[bytes, bytes],
        *,
        received_at: float,
        keep_alive: bool = True,
        http_1_0: bool = False,
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.body = b""
        self.received_at = received_at
        self.keep_alive = keep_alive
        self.http_1_0 = http_1_0

    def take_body(self) -> bytes:
        """The body, for the one who parses it. Head and body are let go: what they mean is known by then."""
        body, self.body = self.body, b""
        self.headers = {}
        return body

    def header(self, name: bytes) -> str:
        """A header's value, "" when absent. Latin-1, as bytes that HTTP allows (RFC 9110 5.5)."""
        return self.headers.get(name, b"").strip().decode("latin-1")  # llhttp leaves blanks at the end

    def query_values(self, name: str) -> list[str]:
        if not self.query:
            return []
        return [value for key, value in parse_qsl(self.query.decode("latin-1"), keep_blank_values=True) if key == name]

    def expects_continue(self) -> bool:
        return header_tokens(self.headers.get(b"expect", b"")) == [b"100-continue"]
