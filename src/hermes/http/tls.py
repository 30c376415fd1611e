"""A client's connection over TLS, where what is encrypted but not yet sent must be asked of the kernel."""

import socket
import struct
from typing import Final

from hermes.http.connection import ServerConnection

# struct tcp_info of Linux 4.6 (linux/tcp.h): where these fields are, and how long it is with the last of them.
_UNACKED_AT, _BYTES_ACKED_AT, _NOT_SENT_BYTES_AT, _LENGTH = 24, 120, 144, 148
_TCP_INFO: Final[int | None] = getattr(socket, "TCP_INFO", None)  # elsewhere only the unencrypted is counted
_ALL = 1 << 62


class TlsConnection(ServerConnection):
    __slots__ = ()

    def _count_unsent(self) -> int:
        """Not a count where the kernel has to be asked, but 0 at the end and less with every byte acknowledged.

        uvloop counts what is not encrypted yet; the rest waits in a buffer that cannot be seen, behind the kernel's.
        """
        open_socket = self._transport.get_extra_info("socket")
        if _TCP_INFO is not None and open_socket is not None:
            info = open_socket.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _LENGTH)
            if len(info) == _LENGTH and (_uint(info, _UNACKED_AT) or _uint(info, _NOT_SENT_BYTES_AT)):
                return _ALL - int(struct.unpack_from("=Q", info, _BYTES_ACKED_AT)[0])
        return self._transport.get_write_buffer_size()


def _uint(info: bytes, at: int) -> int:
    return int(struct.unpack_from("=I", info, at)[0])
