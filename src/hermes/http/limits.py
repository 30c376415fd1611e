"""What one client may cost the server."""

from msgspec import Struct

from hermes.errors import BodyTooLarge, HeadersTooLarge


class Limits(Struct, frozen=True):
    """Bounds of one connection (invariant I10), and of their number. Sizes in bytes, times in seconds."""

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
    arriving_bytes: int = 256 * 1024 * 1024  # bodies that are not whole yet, of all clients together (I4)

    def headers_too_large(self) -> HeadersTooLarge:
        return HeadersTooLarge(
            f"the header fields are more than {self.header_fields} or longer than {self.headers_bytes} bytes together"
        )

    def body_too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"the body is longer than {self.body_bytes} bytes")
