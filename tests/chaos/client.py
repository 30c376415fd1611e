"""One client: asks as planned, leaves as planned, and says what it saw."""

import asyncio
import time
from contextlib import suppress
from typing import Any, assert_never

from msgspec import Struct, field

from tests.chaos.plan import After, Ask, InStream, WhileSending
from tests.chaos.wire import Wire, connect
from tests.fakes.gateway import error_in, parse_events

# Longer than any answer may take.
_PATIENCE_S = 12.0
_IDLE_WIRES = 8


class Seen(Struct):
    """What a client got. `ended`: the answer is over; `whole`: and its framing says that nothing is missing.

    `left_at` is monotonic, and None for one that stayed to the end, planned or not. `lost`: nothing happened any more.
    """

    ask: Ask
    status: int = 0
    headers: dict[str, str] = {}
    body: bytearray = field(default_factory=bytearray)
    pieces: int = 0
    ended: bool = False
    whole: bool = False
    sent: bool = False
    left_at: float | None = None
    lost: bool = False

    @property
    def id(self) -> str:
        """Under which Hermes has recorded it: the client's own, or the one that the answer told; "" if unknown."""
        return self.ask.id if self.ask.named else self.headers.get("x-request-id", "")

    @property
    def events(self) -> list[Any]:
        return list(parse_events(bytes(self.body)))

    @property
    def error(self) -> dict[str, Any]:
        """The error of an answer or at the end of a stream; empty if there is none."""
        if self.status == 200 and not self.ask.stream:
            return {}
        last = self.events[-1] if self.body else None
        failed = isinstance(last, dict) and ("error" in last or last.get("type") == "response.failed")
        return error_in(last) if failed else {}

    @property
    def text(self) -> str:
        """What the model has said, thoughts apart."""
        return "".join(map(_text, self.events))


def _text(event: Any) -> str:
    if not isinstance(event, dict):
        return ""
    if event.get("type") == "response.output_text.delta":
        return str(event["delta"])
    if "done" in event and event.keys() & {"message", "response"}:  # Ollama's
        return str(event["response"] if "response" in event else event["message"]["content"])
    if "output" in event:
        return "".join(part["text"] for item in event["output"] for part in item.get("content", ()))
    if "type" in event and not event["type"].startswith("response."):  # Anthropic's
        said = event.get("content", (event.get("delta", {}),))
        return "".join(block.get("text", "") for block in said)
    for choice in event.get("choices", ()):
        if "text" in choice:
            return str(choice["text"])
        return str((choice.get("delta") or choice.get("message"))["content"] if _speaks(choice) else "")
    return "" if "type" in event else str(event.get("result", event.get("delta", "")))


def _speaks(choice: dict[str, Any]) -> bool:
    return bool((choice.get("delta") or choice.get("message") or {}).get("content"))


class Clients:
    """All clients of a run, and the connections that some leave open for others."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[Wire] = []

    async def live(self, ask: Ask) -> Seen:
        """From the connection to the end of the answer, or to the leaving."""
        seen = Seen(ask)
        wire = self._idle.pop() if ask.reuses and self._idle else await connect(self._port)
        if not await self._stays(seen, wire):
            await _leave(seen, wire)
        elif seen.whole and seen.headers.get("connection") != "close" and len(self._idle) < _IDLE_WIRES:
            self._idle.append(wire)
        else:
            wire.close()
        return seen

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    async def _stays(self, seen: Seen, wire: Wire) -> bool:
        """Whether the answer was over before the client would have left."""
        ask, leave = seen.ask, seen.ask.leave
        if isinstance(leave, WhileSending):
            await wire.send(ask.bytes[: int(leave.share * len(ask.bytes))])
            return False
        await wire.send(ask.bytes)
        seen.sent = True
        match leave:
            case None:
                await _read_within(_PATIENCE_S, seen, wire)
                seen.lost = not seen.ended
                return True
            case After(delay_s):
                await _read_within(delay_s, seen, wire)
            case InStream(pieces):
                await _read_within(_PATIENCE_S, seen, wire, pieces)
            case _:
                assert_never(leave)
        return seen.ended


async def _read_within(limit_s: float, seen: Seen, wire: Wire, pieces: int | None = None) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            await _read(seen, wire, pieces)


async def _read(seen: Seen, wire: Wire, pieces: int | None) -> None:
    """The answer, or its first `pieces`."""
    try:
        first, *lines = (await wire.until(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
        seen.status = int(first.split(" ")[1])
        seen.headers = dict(line.split(": ", 1) for line in lines)
        if "content-length" in seen.headers:
            seen.body += await wire.exactly(int(seen.headers["content-length"]))
            seen.whole = True
        while not seen.whole and seen.pieces != pieces:
            await _read_piece(seen, wire)
    except (EOFError, ConnectionError):
        seen.ended = True
    seen.ended = seen.ended or seen.whole


async def _read_piece(seen: Seen, wire: Wire) -> None:
    size = int(await wire.until(b"\r\n"), 16)
    seen.body += await wire.exactly(size)
    seen.pieces += 1
    await wire.exactly(2)
    seen.whole = size == 0


async def _leave(seen: Seen, wire: Wire) -> None:
    """Go. Who only says that it will send no more waits for the other end to hang up."""
    seen.left_at = time.monotonic()
    seen.body.clear()
    match seen.ask.way:
        case "reset":
            wire.reset()
        case "close":
            wire.close()
        case "half":
            wire.finish()
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    await wire.gone()
            except TimeoutError:
                seen.lost = True
            wire.close()
