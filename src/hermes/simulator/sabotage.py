"""An answer that a fault befalls on its way out."""

import asyncio
import socket
import struct

from hermes.http.response import Response
from hermes.simulator.clock import Clock
from hermes.simulator.faults import Fault
from hermes.simulator.reply import JSON, SERVER, Ended, Reply, RunnerCrashed
from hermes.simulator.stats import Stats

_HTML = b"content-type: text/html; charset=utf-8\r\n" + SERVER
_PAGE = b"<!doctype html>\n<html><head><title>Proxy</title></head><body><h1>Please sign in</h1></body></html>\n"
_GARBAGE = b'{"model": \xff\xfe <<< not JSON\n'
_BUSY = "server busy, please try again.  maximum pending requests exceeded"
_REPEATS = 31  # Ollama gives a stream up at more than 30 equal tokens in a row (llm/llama_server.go)
_DRIP_BYTES = 7
_LONGEST_STALL_S = 1e6
_CUTTING = ("cut", "reset", "stall")


class SabotagedReply(Reply):
    """The fault strikes once its number of lines has been sent; a whole answer it cuts in the middle."""

    __slots__ = ("_clock", "_fault", "_sent", "_stats")

    def __init__(self, response: Response, streaming: bool, fault: Fault, clock: Clock, stats: Stats) -> None:
        super().__init__(response, streaming)
        self._fault: Fault | None = fault
        self._clock = clock
        self._stats = stats
        self._sent = 0

    def strike_first(self) -> None:
        """The faults that leave nothing of the answer. Raises Ended."""
        fault = self._fault
        if fault is None or fault.kind not in ("busy", "html"):
            return
        self._spend(fault)
        if fault.kind == "busy":
            self.error(503, _BUSY)
        else:
            self.response.send(fault.status, _HTML, _PAGE)
        raise Ended

    async def line(self, data: bytes) -> None:
        fault = self._fault
        if fault is not None and fault.kind == "drip":
            await self._drip(data)
            return
        if fault is not None and fault.strikes_within and self._sent >= fault.after:
            if not self.response.status:
                self.response.start(200, b"content-type: application/x-ndjson\r\n" + SERVER)
            self._spend(fault)
            data = await self._strike(fault, data)
        self._sent += 1
        await super().line(data)

    async def whole(self, body: bytes) -> None:
        fault = self._fault
        if fault is None or not fault.strikes_within:
            await super().whole(body)
            return
        self._spend(fault)
        if fault.kind in _CUTTING and fault.after:
            await self._cut_in_half(fault, body)
        elif fault.kind == "repeat-abort":
            await super().whole(body.replace(b'"done":true', b'"done":false', 1))
        else:
            await super().whole(await self._strike(fault, body))

    def _spend(self, fault: Fault) -> None:
        self._fault = None
        self._stats.faults[fault.kind] += 1

    async def _strike(self, fault: Fault, data: bytes) -> bytes:
        """What is sent instead, if anything is."""
        match fault.kind:
            case "garbage":
                return _GARBAGE + data
            case "long-line":
                return b'{"model":"%b"}\n' % (b"x" * fault.size_bytes) + data
            case "repeat-abort":
                self.response.end(data * _REPEATS)
                raise Ended
            case "error-line":
                self.crashed()
                raise Ended
            case "crash":
                raise RunnerCrashed
            case "drip":
                return data
        await self._interrupt(fault)
        return data

    async def _interrupt(self, fault: Fault) -> None:
        if fault.kind == "stall":
            await self._clock.until(self._clock.now() + min(fault.for_s, _LONGEST_STALL_S))
            return
        if fault.kind == "cut":
            self.response.break_off()
        else:
            _make_reset(self.response)
        raise Ended

    async def _cut_in_half(self, fault: Fault, body: bytes) -> None:
        self.response.start(200, JSON)
        self.response.write(body[: len(body) // 2])
        await self._interrupt(fault)
        self.response.end(body[len(body) // 2 :])

    async def _drip(self, data: bytes) -> None:
        for at in range(0, len(data), _DRIP_BYTES):
            await super().line(data[at : at + _DRIP_BYTES])
            await asyncio.sleep(0)


def _make_reset(response: Response) -> None:
    """Closing with no time to linger makes the kernel send RST. What returns unanswered is closed by the server."""
    transport = response._connection._transport  # type: ignore[attr-defined]  # no one else wants it broken
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
