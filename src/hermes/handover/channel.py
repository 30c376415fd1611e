"""What the two processes tell each other, in order, on their socket pair: MessagePack with its length before it."""

import asyncio
import logging
import socket
from collections.abc import Callable
from time import monotonic

import msgspec
from msgspec import Struct

from hermes.policy.ticket import Ticket

log = logging.getLogger(__name__)

_READ_BYTES = 1 << 18

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


FromOld = Greeting | State | Offered | Begun | Settled | Finished | Left | Charged | Yours
FromNew = Ready | Taken | Admitted | Refused | Revoked
Message = FromOld | FromNew

_encode = msgspec.msgpack.Encoder().encode
_understood: Callable[[bytes | bytearray], Message] = msgspec.msgpack.Decoder(Message).decode


class Channel:
    """One end. What comes is waited for (`receive`) until somebody listens; then `ended` is set when the other end is
    closed.
    """

    def __init__(self, end: socket.socket) -> None:
        end.set_inheritable(False)
        end.setblocking(False)
        self.ended = asyncio.Event()
        self._end = end
        self._loop = asyncio.get_running_loop()
        self._hear: Callable[[Message], None]
        self._unheard = bytearray()
        self._unsent = bytearray()

    # --- one word after the other -----------------------------------------------------------------------------------

    def send(self, message: Message, within_s: float) -> None:
        """The process stands still meanwhile. Raises OSError: TimeoutError, ConnectionError where nobody is there."""
        self._end.settimeout(_left_s(monotonic() + within_s))
        self._end.sendall(_framed(message))
        self._end.setblocking(False)

    def receive(self, within_s: float) -> Message:
        """The same for the next message; and OSError for one that is not understood."""
        until = monotonic() + within_s
        message = self._exactly(int.from_bytes(self._exactly(4, until)), until)
        self._end.setblocking(False)
        try:
            return _understood(message)
        except msgspec.MsgspecError as error:
            raise OSError(f"what it says is not understood: {error}") from error

    def _exactly(self, count: int, until: float) -> bytearray:
        data = bytearray()
        while len(data) < count:
            self._end.settimeout(_left_s(until))
            if not (more := self._end.recv(count - len(data))):
                raise ConnectionResetError("the other process is gone")
            data += more
        return data

    async def readable(self) -> None:
        """Wait until the other one has said something, or is gone."""
        ready = asyncio.Event()
        self._loop.add_reader(self._end, ready.set)
        try:
            await ready.wait()
        finally:
            self._loop.remove_reader(self._end)

    # --- both at once -----------------------------------------------------------------------------------------------

    def tell(self, message: Message) -> None:
        """As soon as it can be."""
        if not self.ended.is_set():
            self._unsent += _framed(message)
            self._flush()

    def listen(self, hear: Callable[[Message], None]) -> None:
        """`hear` is called with each message from now on."""
        self._hear = hear
        self._loop.add_reader(self._end, self._read)

    def close(self) -> None:
        if not self.ended.is_set():
            self.ended.set()
            self._loop.remove_reader(self._end)
            self._loop.remove_writer(self._end)
            self._end.close()

    def _flush(self) -> None:
        try:
            del self._unsent[: self._end.send(self._unsent)]
        except BlockingIOError:
            pass
        except OSError:  # nobody is there, which is heard of
            self._unsent.clear()
        if self._unsent:
            self._loop.add_writer(self._end, self._flush)
        else:
            self._loop.remove_writer(self._end)

    def _read(self) -> None:
        try:
            data = self._end.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:  # it has died without having read all
            data = b""
        if not data:
            self.close()
        unheard = self._unheard
        unheard += data
        while len(unheard) >= 4 and len(unheard) >= (end := 4 + int.from_bytes(unheard[:4])):
            message = bytes(unheard[4:end])
            del unheard[:end]
            try:
                self._hear(_understood(message))
            except Exception:  # the next ones are heard all the same
                log.exception("what the other process says met a bug")


def _left_s(until: float) -> float:
    """Raises TimeoutError if nothing is."""
    if (left_s := until - monotonic()) <= 0:
        raise TimeoutError("the other process takes too long")
    return left_s


def _framed(message: Message) -> bytes:
    data = _encode(message)
    return len(data).to_bytes(4) + data
