"""One download of a model: how far it is, when it will probably be there, and who follows it."""

import asyncio
from collections.abc import AsyncGenerator

from hermes.errors import BackendError, BackendTimeout, GatewayError
from hermes.fleet.driver import PullProgress

# Ollama tells where it is every 60 ms, whether that is on or not, and tries a part that stalls again for ever
# (server/download.go). As long as its own patience with a load.
STALL_S = 300.0
# Until its pace is known.
FIRST_PULL_S = 60.0
# A model has a layer for each tensor at most.
MAX_LAYERS = 10_000
# Who follows and reads slowly misses lines in between.
MAX_LINES = 64


_NOTHING = PullProgress()


class Download:
    """`kept`: it goes on when nobody follows it any more. `error`: why it is not complete, once it has ended."""

    def __init__(self, model: str, began_at: float) -> None:
        self.model = model
        self.kept = False
        self.error: GatewayError | None = BackendError(f"the download of {model!r} was broken off", code="pull_failed")
        self.task: asyncio.Task[None] | None = None
        self._began_at = began_at
        self._moved_at = began_at
        self._there_before = -1  # bytes, when it was first told
        self._layers: dict[str, PullProgress] = {}  # the last of each
        self._done = self._total = 0  # bytes of all of them
        self._last: PullProgress | None = None
        self._followers: set[asyncio.Queue[PullProgress | None]] = set()

    def take(self, line: PullProgress, now: float) -> None:
        """One line of progress. Raises BackendError for an error, or when there has been none for too long."""
        if line.error:
            raise BackendError(f"the backend could not pull {self.model!r}: {line.error[:500]}", code="pull_failed")
        before = self._layers.get(line.digest, _NOTHING)
        if line != before:
            self._moved_at = now
            self._layers[line.digest] = line
            self._done += line.completed - before.completed
            self._total += line.total - before.total
        elif now - self._moved_at > STALL_S:
            raise BackendTimeout(f"the download of {self.model!r} has not got on for {STALL_S:.0f} s")
        if len(self._layers) > MAX_LAYERS:
            raise BackendError(f"the backend pulls more than {MAX_LAYERS} layers of {self.model!r}")
        if self._there_before < 0 and line.total:
            self._began_at, self._there_before = now, line.completed
        self._last = line
        self._tell(line)

    @property
    def is_told_complete(self) -> bool:
        return self._last is not None and self._last.status == "success"

    @property
    def percent(self) -> int:
        """Of the layers that are known: the first is nearly all of it."""
        return min(100, 100 * self._done // self._total) if self._total else 0

    def left_s(self, now: float) -> float:
        """How long it will take from now on, probably."""
        got = self._done - self._there_before
        if not self._total or got <= 0:
            return FIRST_PULL_S
        return max(0, self._total - self._done) * (now - self._began_at) / got

    # --- followers --------------------------------------------------------------------------------------------------

    async def follow(self) -> AsyncGenerator[PullProgress, None]:
        """Where it is, and then its progress. Raises what it ends with. Who leaves last ends it, unless it is kept."""
        lines: asyncio.Queue[PullProgress | None] = asyncio.Queue(MAX_LINES)
        self._followers.add(lines)
        try:
            if self._last is not None:
                yield self._last
            while (line := await lines.get()) is not None:
                yield line
        finally:
            self._followers.discard(lines)
            if not self._followers and not self.kept and self.task is not None:
                self.task.cancel()
        if self.error is not None:
            raise self.error

    def end(self) -> None:
        """No more lines come."""
        self._tell(None)

    def _tell(self, line: PullProgress | None) -> None:
        for lines in self._followers:
            if lines.full():
                lines.get_nowait()
            lines.put_nowait(line)
