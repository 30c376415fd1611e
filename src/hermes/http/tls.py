"""A client's connection over TLS: from before its handshake, and with an eye on what is encrypted but not yet sent."""

import asyncio
import socket
from collections.abc import Callable
from typing import cast


class Caller(asyncio.Protocol):
    """Somebody who has connected and shall shake hands: `answer` gets the socket.

    A listener that knows of TLS would tell us of a connection only after its handshake (uvloop, and asyncio too).
    """

    def __init__(self, answer: Callable[[socket.socket], None]) -> None:
        self._answer = answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._answer(transport.get_extra_info("socket").dup())
        cast(asyncio.Transport, transport).abort()  # its own descriptor alone: nothing is said to the client
