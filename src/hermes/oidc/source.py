"""Where an issuer's keys come from: a file, or its server over https. Bounded in bytes and time, no redirects."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

from hermes.errors import BackendError
from hermes.http.client import PoolLimits
from hermes.http.origin import Origin
from hermes.http.pool import Pool
from hermes.http.wire import Deadlines

MAX_SET_BYTES = 256 * 1024
FETCH_S = 5.0

Fetch = Callable[[], Awaitable[bytes]]


def read(path: str) -> bytes:
    """Raises OSError, and ValueError for a file that is too long."""
    with Path(path).open("rb") as file:
        body = file.read(MAX_SET_BYTES + 1)
    if len(body) > MAX_SET_BYTES:
        raise ValueError(f"{path} is longer than {MAX_SET_BYTES} bytes")
    return body


def from_file(path: str) -> Fetch:
    return lambda: asyncio.to_thread(read, path)


def origin(url: str, ca_file: str | None) -> tuple[Origin, str]:
    """Where to connect to, and the path to ask for. Raises ValueError and OSError for what cannot be used."""
    parts = urlsplit(url)
    path = parts.path or "/"
    return Origin.parse(f"{parts.scheme}://{parts.netloc}", ca_file), f"{path}?{parts.query}" if parts.query else path


def from_url(url: str, ca_file: str | None, deadlines: Deadlines, loop: asyncio.AbstractEventLoop) -> Fetch:
    where, path = origin(url, ca_file)
    limits = PoolLimits(connections=2, idle_connections=0, whole_bytes=MAX_SET_BYTES)
    pool = Pool(where, limits, deadlines, loop, b"accept: application/json\r\n")

    async def fetch() -> bytes:
        async with pool.exchange("GET", path, whole=True, deadline=loop.time() + FETCH_S) as answer:
            if answer.status != 200:
                raise BackendError(f"the backend answered {answer.status}")
            return answer.take_body()

    return fetch
