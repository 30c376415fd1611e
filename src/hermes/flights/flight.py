"""One run that several callers share: it tells its answer once, and each of them reads it at a pace of his own.

To the gateway it is one more request, of a client that reads events instead of bytes. Rules:
- It has a task of its own. A caller who leaves does not end it; the last one does, at once (I9) or `linger_s` later.
- What was said is kept, so that whoever comes later misses nothing: `MAX_BYTES` of it. Past that the oldest goes,
  nobody joins any more, and whoever has not read it yet is cut (I13).
- It goes at the pace of the fastest: it waits only while even he is more than `WINDOW_BYTES` behind.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from itertools import chain

from hermes.chat import Answer, Embeddings, StreamEvent, TextDelta, ToolCallDelta, collect
from hermes.errors import BackendTimeout, Draining, GatewayError
from hermes.exchange import Exchange
from hermes.http.response import Response

log = logging.getLogger(__name__)

# 60,000 tokens that came one by one.
MAX_BYTES = 4 << 20
# As much as waits in a connection that is full.
WINDOW_BYTES = 64 * 1024
# What a piece takes besides its text.
_PIECE_BYTES = 64

# One text, which most of an answer is, or events that came together.
Piece = str | list[StreamEvent]


class Place:
    """How far a caller has read: the pieces that he was given, and of how many bytes he is rid of them again."""

    __slots__ = ("at", "given_bytes", "read_bytes")

    def __init__(self) -> None:
        self.at = self.given_bytes = self.read_bytes = 0


class Flight:
    """`exchange` is the run's own. It is over when it has `ended`, or failed with `error`.

    `answer`: all it has said, if that could be kept. `holds_end`: nobody hears of its end before what is to be
    done with the answer is done.
    """

    lost = False  # as the connection of its response
    may_keep_alive = True

    def __init__(
        self,
        exchange: Exchange,
        loop: asyncio.AbstractEventLoop,
        linger_s: float = 0.0,
        holds_end: bool = False,
    ) -> None:
        self.exchange = exchange
        self.resumed: asyncio.Future[None] | None = None
        self.callers: dict[Exchange, Place] = {}  # the first of them pays
        self.paid = False
        self.rendered = b""  # the answer, where all are given the same bytes
        self.answer: Answer | Embeddings | None = None
        self.ended = False
        self.error: BaseException | None = None
        self.queued = (0, 0, 0)  # signs of life so far; and with the last: its place, milliseconds to its turn
        self._loop = loop
        self._linger_s = linger_s
        self._holds_end = holds_end
        self._pieces: list[Piece] = []
        self._dropped = 0  # pieces that were the oldest
        self._said_bytes = self._kept_bytes = 0
        self._news = asyncio.Event()
        self._leaving: asyncio.TimerHandle | None = None
        self._begun = self._stopped = False
        self.task: asyncio.Task[None]

    def start(self, run: Callable[[], Awaitable[None]]) -> None:
        """`run` asks the gateway, and does what is to be done with the answer."""
        self.task = self._loop.create_task(self._run(run), name="flight")

    def stop(self) -> None:
        """End it. Not before it has begun: nothing would be run of it then, nor what there is to do at its end."""
        self._stopped = True
        if self._begun:
            self.task.cancel()

    async def _run(self, run: Callable[[], Awaitable[None]]) -> None:
        self._begun = True
        try:
            if self._stopped:
                self.task.cancel()
            await run()
            self.ended = self.error is None
        except GatewayError as error:
            self.fail(error)
        except asyncio.CancelledError:
            self.fail(self.exchange.dismissed or Draining("it has ended"))
        except Exception as error:  # a bug: whoever waits raises it, and has it logged
            if self.ended:
                log.exception("a run that had ended met a bug")
            else:
                self.error = error
        finally:
            self._tell()

    @property
    def over(self) -> bool:
        return self.ended or self.error is not None

    # --- callers ----------------------------------------------------------------------------------------------------

    @property
    def can_be_joined(self) -> bool:
        return self.error is None and not self._dropped and not self.is_left

    @property
    def is_left(self) -> bool:
        """Its last caller has gone: it is about to end, without an answer."""
        return self._stopped

    def join(self, caller: Exchange) -> Place:
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None
        place = self.callers[caller] = Place()
        return place

    def leave(self, caller: Exchange) -> None:
        self.callers.pop(caller, None)
        if self.callers:
            self._pace()
        elif not self.over:
            if self._linger_s:
                self._leaving = self._loop.call_later(self._linger_s, self.stop)
            else:
                self.stop()

    async def news(self) -> None:
        """Something more was said, or it is over."""
        await self._news.wait()

    def read(self, place: Place) -> list[Piece]:
        """What was said since the last time. Raises BackendTimeout if that is not there any more."""
        if place.at < self._dropped:
            raise BackendTimeout("the stream was broken off: its client reads too slowly")
        pieces = self._pieces[place.at - self._dropped :]
        place.at += len(pieces)
        place.given_bytes = self._said_bytes
        return pieces

    def has_read(self, place: Place) -> None:
        """What he was given has gone out."""
        place.read_bytes = place.given_bytes
        if self.resumed is not None:
            self._pace()

    # --- what the run tells -----------------------------------------------------------------------------------------

    def say(self, piece: Piece) -> None:
        size_bytes = _size(piece)
        self._pieces.append(piece)
        self._said_bytes += size_bytes
        self._kept_bytes += size_bytes
        while self._kept_bytes > MAX_BYTES:
            half = (len(self._pieces) + 1) // 2
            self._dropped += half
            self._kept_bytes -= sum(map(_size, self._pieces[:half]))
            del self._pieces[:half]
        self._pace()
        self._tell()

    def wait(self, position: int, eta_ms: int) -> None:
        """It waits for its turn."""
        self.queued = self.queued[0] + 1, position, eta_ms
        self._tell()

    def fail(self, error: BaseException) -> None:
        """The first that is told counts."""
        if not self.over:
            self.error = error

    def _tell(self) -> None:
        self._news.set()
        self._news.clear()

    def _pace(self) -> None:
        """Hold the run up while nobody has read what it said, or let it go on."""
        read_bytes = max([place.read_bytes for place in self.callers.values()], default=self._said_bytes)
        if self._said_bytes - read_bytes > WINDOW_BYTES:
            if self.resumed is None:
                self.resumed = self._loop.create_future()
        elif self.resumed is not None:
            if not self.resumed.done():
                self.resumed.set_result(None)
            self.resumed = None

    # --- as the connection of its response --------------------------------------------------------------------------

    def date_line(self) -> bytes:
        return b""

    def write(self, data: bytes) -> None:
        """Bytes are for nobody: events were told."""

    def cancel(self) -> None:
        self.stop()

    def response_ended(self, response: Response) -> None:
        """The run has said all."""
        if self._pieces and not self._dropped and self.error is None:
            said = collect(chain.from_iterable(map(_events, self._pieces)))
            self.answer = said if isinstance(said, Answer) else None
        self.ended = self.error is None and not self._holds_end
        self._tell()


def _events(piece: Piece) -> list[StreamEvent]:
    return [TextDelta(piece)] if isinstance(piece, str) else piece


def _size(piece: Piece) -> int:
    return len(piece) + _PIECE_BYTES if isinstance(piece, str) else sum(map(_weight, piece))


def _weight(event: StreamEvent) -> int:
    match event:
        case TextDelta():
            return _PIECE_BYTES + len(event.text) + 200 * len(event.logprobs)
        case ToolCallDelta():
            return _PIECE_BYTES + len(event.arguments)
    return _PIECE_BYTES + len(getattr(event, "text", ""))
