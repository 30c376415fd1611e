"""What is unsent, as the kernel has it: any progress shows, and nothing else does (invariant I13)."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest

from hermes.http.unsent import count_unsent
from tests.http.peers import Peer
from tests.support import run, until

MANY = 20_000_000


class _Flood(asyncio.Protocol):
    """Sends more than kernel and client take without being read."""

    transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(b"x" * MANY)


@asynccontextmanager
async def flooded(unix_path: Path | None = None) -> AsyncIterator[tuple[asyncio.Transport, Peer]]:
    """A client that is sent MANY bytes, and the transport that they leave by."""
    loop = asyncio.get_running_loop()
    flood = _Flood()
    if unix_path is None:
        listener = await loop.create_server(lambda: flood, "127.0.0.1", 0)
        sock, address = socket.socket(), listener.sockets[0].getsockname()
    else:
        listener = await loop.create_unix_server(lambda: flood, str(unix_path))
        sock, address = socket.socket(socket.AF_UNIX), str(unix_path)
    sock.setblocking(False)
    await loop.sock_connect(sock, address)
    peer = Peer(sock)
    try:
        await until(lambda: flood.transport is not None)
        assert flood.transport is not None
        yield flood.transport, peer
    finally:
        peer.close()
        listener.close()
        if flood.transport is not None:
            flood.transport.abort()


@pytest.mark.parametrize("over", ["tcp", "unix"])
def test_what_is_unsent_gets_less_as_it_is_read_and_is_0_at_the_end(over: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with flooded(tmp_path / "h.sock" if over == "unix" else None) as (transport, peer):
            unsent = [count_unsent(transport)]
            for _ in range(4):
                await peer.exactly(4_000_000)
                await until(lambda: count_unsent(transport) < unsent[-1])
                unsent.append(count_unsent(transport))
            assert min(unsent) > 0
            await peer.exactly(MANY - 16_000_000)
            await until(lambda: count_unsent(transport) == 0)

    run(scenario())


def test_over_tcp_the_little_that_a_slow_reader_takes_shows_before_our_own_buffer_gets_less() -> None:
    async def scenario() -> None:
        async with flooded() as (transport, peer):
            seen = [-1, *[-2] * 20]

            def kernel_is_full() -> bool:
                seen[:] = [*seen[1:], transport.get_write_buffer_size()]
                return len(set(seen)) == 1

            await until(kernel_is_full)
            held, unsent = transport.get_write_buffer_size(), count_unsent(transport)
            while count_unsent(transport) == unsent:
                await peer.exactly(16384)
                await asyncio.sleep(0)
            assert count_unsent(transport) < unsent
            assert transport.get_write_buffer_size() == held

    run(scenario())
