"""One client's connection, on the loop's own streams.

The simulated server runs on the same loop. Sockets read by hand beside its transports, opened and closed by the
thousand, made one of those lose its end now and then (16 of 530,000, uvloop 0.23): here all are transports.
"""

import asyncio
import socket
import struct
from contextlib import suppress

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger: on, 0 s


class Wire:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        writer.transport.set_write_buffer_limits(high=0)  # what has been sent is the kernel's

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def until(self, mark: bytes) -> bytes:
        """Everything up to and with `mark`. Raises EOFError when it does not come."""
        return await self._reader.readuntil(mark)

    async def exactly(self, size: int) -> bytes:
        return await self._reader.readexactly(size)

    async def gone(self) -> None:
        """Wait until the other end has left, cleanly or not."""
        with suppress(ConnectionError):
            while await self._reader.read(65536):
                pass

    def finish(self) -> None:
        """Say that nothing more will come."""
        if not self._writer.is_closing():  # the other end may have cut it
            self._writer.write_eof()

    def reset(self) -> None:
        if not self._writer.is_closing():
            sock = self._writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self._writer.transport.abort()

    def close(self) -> None:
        self._writer.close()


async def connect(port: int) -> Wire:
    return Wire(*await asyncio.open_connection("127.0.0.1", port))
