"""Where a client connects: an http, https or Unix-socket address, and how a connection to it is opened."""

import asyncio
import re
import ssl
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import unquote, urlsplit

from msgspec import Struct

_is_visible_ascii = re.compile(r"[\x21-\x7e]+").fullmatch

P = TypeVar("P", bound=asyncio.BaseProtocol)


class Origin(Struct, frozen=True):
    """`prefix` is put before every path, as in `http://box/ollama`; `host_header` is what goes into Host."""

    url: str
    host: str
    port: int
    host_header: bytes
    prefix: str = ""
    unix_path: str = ""
    tls: ssl.SSLContext | None = None

    @classmethod
    def parse(cls, url: str, ca_file: str | None = None) -> "Origin":
        """From `http://host:port`, `https://...` or `unix:///path.sock`. Raises ValueError for anything else."""
        parts = urlsplit(url)
        if parts.scheme == "unix":
            path = unquote(parts.netloc + parts.path)
            if not path:
                raise ValueError(f"{url!r} names no socket path")
            return cls(url, "localhost", 0, b"localhost", unix_path=path)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is not an http://, https:// or unix:// address")
        if parts.username is not None or parts.query or parts.fragment:
            raise ValueError("a backend's address is a host, a port and a path; nothing else, and no credentials")
        tls = ssl.create_default_context(cafile=ca_file) if parts.scheme == "https" else None
        port = parts.port or (443 if tls else 80)
        name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        # Ollama on loopback refuses foreign names in Host (403), so it gets the address we connect to.
        if not _is_visible_ascii(name + parts.path):
            raise ValueError(f"{url!r} is not in visible ASCII")
        host_header = f"{name}:{port}".encode("ascii")
        return cls(url, parts.hostname, port, host_header, prefix=parts.path.rstrip("/"), tls=tls)

    async def connect(self, factory: Callable[[], P]) -> P:
        """Open one connection. Raises OSError (ssl.SSLError and resolver errors included)."""
        loop = asyncio.get_running_loop()
        if self.unix_path:
            _, protocol = await loop.create_unix_connection(factory, self.unix_path)
        else:
            _, protocol = await loop.create_connection(factory, self.host, self.port, ssl=self.tls)
        return protocol
