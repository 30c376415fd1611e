"""What the two processes tell each other, in order, on their socket pair: MessagePack with its length before it."""

import asyncio
import socket
from collections.abc import Callable
from typing import cast

import msgspec
from msgspec import Struct

from hermes.policy.ticket import Ticket

# --- the old one ------------------------------------------------------------------------------------------------------


class Greeting(Struct, frozen=True, tag=True):
    """`version`: of what is pickled. `places`: by where it listens, as its configuration has it, the sockets and the
    path at which the new one is to listen for what is passed on. `files`: of sockets, to be removed by who ends last.
    `lock`: of what is stored in `folder`.
    """

    version: str
    places: dict[str, tuple[list[int], str]]
    files: list[str]
    lock: int | None
    folder: str


class State(Struct, frozen=True, tag=True):
    """`limits`: pickled, the limiter and what is reserved. `drained`: the backends that take no work."""

    running: list[tuple[int, Ticket]]
    waiting: list[tuple[int, Ticket]]
    drained: list[str]
    limits: bytes


class Offered(Struct, frozen=True, tag=True):
    id: int
    ticket: Ticket


class Begun(Struct, frozen=True, tag=True):
    id: int
    when: float


class Settled(Struct, frozen=True, tag=True):
    id: int
    prompt_tokens: int
    output_tokens: int


class Finished(Struct, frozen=True, tag=True):
    id: int


class Left(Struct, frozen=True, tag=True):
    id: int
    broken_off: bool = False
    failed: bool = False


class Charged(Struct, frozen=True, tag=True):
    """What was reserved under this number was so much in the end; None: it was given nothing."""

    number: int
    tokens: int | None


class Yours(Struct, frozen=True, tag=True):
    """That it is taken has been heard in time: it may accept."""


class Off(Struct, frozen=True, tag=True):
    """The old one goes on itself, and the new one is to end. Without this word its end is that of the process."""


# --- the new one ------------------------------------------------------------------------------------------------------


class Ready(Struct, frozen=True, tag=True):
    pass


class Taken(Struct, frozen=True, tag=True):
    pass


class Admitted(Struct, frozen=True, tag=True):
    id: int
    backend: str
    started_at: float
    found: str
    load_s: float


class Refused(Struct, frozen=True, tag=True):
    """No `reason`: its time is over."""

    id: int
    reason: str = ""
    retry_after_s: float = 0.0
    why: str = ""


class Revoked(Struct, frozen=True, tag=True):
    """These keys let in nobody any more, by their ids: who waits by one is sent away."""

    keys: list[str]


FromOld = Greeting | State | Offered | Begun | Settled | Finished | Left | Charged | Yours | Off
FromNew = Ready | Taken | Admitted | Refused | Revoked
Message = FromOld | FromNew

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Message).decode


class Channel(asyncio.Protocol):
    """One end. `hear` is called with each message; `ended` is set when the other has closed its own, or died."""

    def __init__(self, hear: Callable[[Message], None]) -> None:
        self.hear = hear
        self.ended = asyncio.Event()
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._bytes = bytearray()

    @classmethod
    async def on(cls, end: socket.socket, hear: Callable[[Message], None]) -> "Channel":
        loop = asyncio.get_running_loop()
        return (await loop.create_unix_connection(lambda: cls(hear), sock=end))[1]

    def tell(self, message: Message) -> None:
        if not self.ended.is_set():
            data = _encode(message)
            self._transport.write(len(data).to_bytes(4) + data)

    def close(self) -> None:
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._bytes += data
        while len(self._bytes) >= 4 and len(self._bytes) >= (end := 4 + int.from_bytes(self._bytes[:4])):
            message, self._bytes = bytes(self._bytes[4:end]), self._bytes[end:]
            self.hear(_decode(message))

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set()
