"""A backend without sockets: it speaks HTTP and Ollama's lines to the pool's own connections, by a script."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator
from math import inf
from typing import Any, Literal, TypeVar

from msgspec import Struct

from hermes.http.origin import Origin
from tests.simulation.loop import VirtualLoop

P = TypeVar("P", bound=asyncio.BaseProtocol)

ENDINGS = ("done", "unframed", "cut", "reset", "stall", "error", "garbage", "no_done", "busy", "crash", "endless")


# The prompt of one who asks whether it generates.
PROBE = "Hi"

# In every prompt and every answer: what is seen elsewhere has leaked (I27).
SECRET = "sesame"


class Script(Struct, frozen=True):
    """How one request is answered: the head after `first_s`, then `pieces` of text, each after `gap_s`, and an ending.

    `unframed` is a good end of a body without a length; `no_done` ends the body, but not the answer.
    """

    first_s: float = 0.1
    pieces: int = 2
    gap_s: float = 0.1
    ending: str = "done"
    keeps_alive: bool = True


class Connecting(Struct, frozen=True):
    """How one connection is opened, or not. `dead`: it is made, and lost before anything is said."""

    takes_s: float = 0.01
    ending: Literal["made", "refused", "dead"] = "made"


class Asked(Struct, eq=False):
    """One request as the backend sees it. `client` is the last word of its prompt: whose it is."""

    client: str
    model: str
    stream: bool
    path: str


class SimulatedBackend:
    """`asked` has all requests that ever came whole, `working` those that it is at work on."""

    def __init__(
        self, loop: VirtualLoop, connecting: Callable[[], Connecting], script: Callable[[str], Script]
    ) -> None:
        self.loop = loop
        self.script = script
        self.asked: list[Asked] = []
        self.working: list[Asked] = []
        self.crashed: Counter[str] = Counter()  # at whose request it has died, and how often
        self.connecting = connecting
        self._hangs_until = -inf

    def hang(self, for_s: float) -> None:
        """Whatever is asked from now on has no answer before that time is over, though connections are made."""
        self._hangs_until = max(self._hangs_until, self.loop.time() + for_s)

    def pause_s(self, pause_s: float) -> float:
        return max(pause_s, self._hangs_until - self.loop.time())

    async def open(self, factory: Callable[[], P]) -> P:
        how = self.connecting()
        await asyncio.sleep(how.takes_s)
        if how.ending == "refused":
            raise ConnectionRefusedError
        protocol = factory()
        wire = _Wire(self, protocol)
        protocol.connection_made(wire)
        if how.ending == "dead":
            wire.lose(None)
        return protocol


class SimulatedOrigin(Origin, frozen=True, kw_only=True):
    backend: SimulatedBackend

    async def connect(self, factory: Callable[[], P]) -> P:
        return await self.backend.open(factory)


def origin(backend: SimulatedBackend) -> Origin:
    return SimulatedOrigin(url="http://sim", host="sim", port=80, host_header=b"sim", backend=backend)


class _Wire(asyncio.Transport):
    """One connection: the pool's transport, and behind it the backend at work."""

    def __init__(self, backend: SimulatedBackend, protocol: Any) -> None:
        super().__init__()
        self._backend = backend
        self._loop = backend.loop
        self._protocol = protocol
        self._closed = False
        self._received = b""
        self._paused = False
        self._held = b""
        self._asked: Asked | None = None
        self._script = Script()
        self._answer: Iterator[tuple[float, bytes]] = iter(())
        self._timer: asyncio.TimerHandle | None = None

    # --- the pool calls ---------------------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closed:
            return
        self._received += data
        head, mark, body = self._received.partition(b"\r\n\r\n")
        if mark and len(body) == int(head.partition(b"content-length: ")[2].split(b"\r\n")[0]):
            self._received = b""
            self._begin(head.split(b" ")[1].decode(), json.loads(body))

    def abort(self) -> None:
        self.lose(None)

    def is_closing(self) -> bool:
        return self._closed

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        if self._held:
            held, self._held = self._held, b""
            self._loop.call_soon(self._deliver, held)

    # --- the backend's work -----------------------------------------------------------------------------------------

    def lose(self, error: Exception | None) -> None:
        if not self._closed:
            self._closed = True
            self._rest()
            self._loop.call_soon(self._protocol.connection_lost, error)

    def _begin(self, path: str, body: dict[str, Any]) -> None:
        assert self._asked is None, "a second request before the first was answered"
        text = body["messages"][-1]["content"] if path == "/api/chat" else body["prompt"]
        client = text.split()[-1]
        self._asked = Asked(client, body["model"], body["stream"], path)
        self._backend.asked.append(self._asked)
        self._backend.working.append(self._asked)
        self._script = self._backend.script(client)
        self._answer = answer(self._asked, self._script)
        self._go_on()

    def _go_on(self) -> None:
        following = next(self._answer, None)
        if following is not None:
            self._timer = self._loop.call_later(self._backend.pause_s(following[0]), self._deliver, following[1])
            return
        if self._script.ending == "crash" and self._asked is not None:
            self._backend.crashed[self._asked.client] += 1
        self._rest()
        if self._script.ending == "reset":
            self.lose(ConnectionResetError())
        elif self._script.ending in ("cut", "unframed") or not self._script.keeps_alive:
            self.lose(None)

    def _deliver(self, data: bytes) -> None:
        """In two reads, cut somewhere; later if the pool does not read now."""
        if self._paused:
            self._held = data
            return
        cut = len(data) // 3
        for part in (data[:cut], data[cut:]):
            if part and not self._closed:
                self._protocol.data_received(part)
        if not self._closed:
            self._go_on()

    def _rest(self) -> None:
        """No longer at work."""
        if self._timer is not None:
            self._timer.cancel()
        if self._asked is not None:
            self._backend.working.remove(self._asked)
            self._asked = None


# --- what an answer is made of: pauses, each with the bytes that come after it -------------------------------------

_BUSY = "server busy, please try again.  maximum pending requests exceeded"
_FOREVER_S = 1e6


def answer(asked: Asked, script: Script) -> Iterator[tuple[float, bytes]]:
    if script.ending in ("busy", "crash"):
        told = _BUSY if script.ending == "busy" else "llama-server exited"
        body = json.dumps({"error": told}).encode()
        yield script.first_s, _head(script, 503 if script.ending == "busy" else 500, len(body)) + body
    elif asked.stream:
        yield from _stream(asked, script)
    else:
        yield from _whole(asked, script)


def _stream(asked: Asked, script: Script) -> Iterator[tuple[float, bytes]]:
    framed = _chunk if script.ending != "unframed" else bytes
    yield script.first_s, _head(script)
    number = 0
    while number < script.pieces or script.ending == "endless":
        yield script.gap_s, framed(_line(asked, f"{SECRET} answer {number} "))
        number += 1
    if script.ending == "stall":
        yield _FOREVER_S, b""
    yield script.gap_s, framed(_last(asked, script))
    if script.ending in ("done", "error", "no_done"):
        yield 0.0, framed(b"")


def _whole(asked: Asked, script: Script) -> Iterator[tuple[float, bytes]]:
    body = _last(asked, script)
    size = len(body) + (script.ending in ("cut", "reset", "endless"))
    yield script.first_s, _head(script, size=size)
    if script.ending == "stall":
        yield _FOREVER_S, b""
    yield script.gap_s, body
    if script.ending == "endless":
        yield _FOREVER_S, b" "


def _last(asked: Asked, script: Script) -> bytes:
    match script.ending:
        case "done" | "unframed":
            return _line(asked, "", done_reason="stop", prompt_eval_count=3, eval_count=2, done=True)
        case "error":
            return b'{"error": "out of memory"}\n'
        case "garbage":
            return b"<html>\n"
        case _:
            return _line(asked, f"{SECRET} last words ")


def _line(asked: Asked, text: str, **told: Any) -> bytes:
    said = {"message": {"role": "assistant", "content": text}} if asked.path == "/api/chat" else {"response": text}
    return json.dumps({"model": asked.model, **said, "done": False, **told}).encode() + b"\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _head(script: Script, status: int = 200, size: int | None = None) -> bytes:
    connection = b"keep-alive" if script.keeps_alive else b"close"
    framing = b"transfer-encoding: chunked" if size is None else b"content-length: %d" % size
    if script.ending == "unframed":
        framing = b"x-framing: none"
    return b"HTTP/1.1 %d X\r\nconnection: %b\r\n%b\r\n\r\n" % (status, connection, framing)
