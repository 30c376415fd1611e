"""What one side has written and the other has not taken yet: asked of the kernel, where it can be asked."""

import asyncio
import socket
import struct
from typing import Final

# struct tcp_info of Linux 4.6 (linux/tcp.h): where these fields are, and how long it is with the last of them.
_UNACKED_AT, _BYTES_ACKED_AT, _NOT_SENT_BYTES_AT, _LENGTH = 24, 120, 144, 148
_TCP_INFO: Final[int | None] = getattr(socket, "TCP_INFO", None)  # elsewhere only our own buffer is counted
_ALL = 1 << 62


def count_unsent(transport: asyncio.Transport) -> int:
    """0 when all has arrived. Over TCP otherwise not a count, but less with every byte acknowledged.

    The transport counts what the kernel has not taken, in steps as large as the kernel's buffer, and what TLS has not
    encrypted: the rest waits in a buffer that cannot be seen (uvloop), behind the kernel's.
    """
    open_socket = transport.get_extra_info("socket")
    if _TCP_INFO is not None and open_socket is not None and open_socket.family != socket.AF_UNIX:
        info = open_socket.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _LENGTH)
        if len(info) == _LENGTH and (_uint(info, _UNACKED_AT) or _uint(info, _NOT_SENT_BYTES_AT)):
            return _ALL - int(struct.unpack_from("=Q", info, _BYTES_ACKED_AT)[0])
    return transport.get_write_buffer_size()


def _uint(info: bytes, at: int) -> int:
    return int(struct.unpack_from("=I", info, at)[0])
