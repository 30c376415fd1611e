"""One request's record, from arrival to log line: filled on the way, closed once, and given to the sinks."""

import os
from collections.abc import Callable
from time import monotonic, time

from msgspec import Struct

from hermes.chat import Usage
from hermes.errors import Outcome
from hermes.metrics import Metrics


class Record(Struct, frozen=True, omit_defaults=True):
    """What is told of one request when it is over. Times in milliseconds, `created_at` in Unix seconds (UTC).

    Never a prompt, an answer or a credential (invariant I27).
    """

    created_at: float
    request_id: str
    route: str
    method: str
    outcome: Outcome
    status: int
    duration_ms: float
    code: str = ""
    key_id: str = ""
    model: str = ""
    backend: str = ""
    stream: bool = False
    attempts: int = 0
    queue_ms: float | None = None
    ttft_ms: float | None = None
    tokens_in: int = 0
    tokens_out: int = 0


Sink = Callable[[Record], None]


class Exchange:
    """What is known of one request so far. `now` arguments and `*_at` are monotonic seconds."""

    __slots__ = (
        "_journal",
        "admitted_at",
        "arrived_at",
        "attempts",
        "backend",
        "closed",
        "code",
        "created_at",
        "first_content_at",
        "forwarded",
        "key_id",
        "method",
        "model",
        "outcome",
        "quiet",
        "request_id",
        "route",
        "status",
        "stream",
        "usage",
    )

    def __init__(self, journal: "Journal", request_id: str, method: str, arrived_at: float) -> None:
        self._journal = journal
        self.request_id = request_id
        self.method = method
        self.arrived_at = arrived_at
        self.created_at = time()
        self.route = ""
        self.key_id = ""
        self.model = ""
        self.backend = ""
        self.stream = False
        self.attempts = 0
        self.admitted_at: float | None = None
        self.first_content_at: float | None = None
        self.usage = Usage()
        self.forwarded = b""  # header lines that go on to the backend
        self.outcome = Outcome.OK
        self.code = ""
        self.quiet = False  # not worth a log line
        self.status = 0
        self.closed = False

    def content(self, now: float) -> None:
        """The first content byte goes to the client now; later calls change nothing."""
        if self.first_content_at is None:
            self.first_content_at = now

    def timings(self) -> dict[str, float]:
        """What the answer itself tells of its time here, in milliseconds."""
        ended_at = monotonic()
        admitted_at = self.admitted_at or ended_at
        return {"queue_ms": _ms(admitted_at - self.arrived_at), "total_ms": _ms(ended_at - self.arrived_at)}

    def id_line(self) -> bytes:
        """The header line that tells the client the request's id."""
        return b"x-request-id: %b\r\n" % self.request_id.encode("ascii")

    def close(self, now: float) -> None:
        """The request is over. Emits the one Record; a second call is counted, and changes nothing (invariant I3)."""
        self._journal.close(self, now)


class Journal:
    """Opens and closes exchanges: counts them, and hands each Record to the sinks."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self.sinks: list[Sink] = []
        self.open = 0
        # Unguessable between processes, cheap within one.
        self._prefix = os.urandom(10).hex()
        self._count = 0

    def begin(self, method: str, request_id: str, arrived_at: float) -> Exchange:
        """`request_id`: the client's own; "" makes one."""
        self._count += 1
        self.open += 1
        self._metrics.accepted.add(())
        return Exchange(self, request_id or f"{self._prefix}{self._count:08x}", method, arrived_at)

    def close(self, exchange: Exchange, now: float) -> None:
        if exchange.closed:
            self._metrics.double_close.add(())
            return
        exchange.closed = True
        self.open -= 1
        self._count_up(exchange, now)
        if exchange.quiet:
            return
        record = _record(exchange, now)
        for sink in self.sinks:
            sink(record)

    def _count_up(self, exchange: Exchange, now: float) -> None:
        metrics, model, arrived_at = self._metrics, exchange.model, exchange.arrived_at
        metrics.finished.add((exchange.route, model, exchange.outcome.value))
        if not model:
            return
        metrics.duration.observe((model, exchange.outcome.value), now - arrived_at)
        if exchange.admitted_at is not None:
            metrics.queue_wait.observe((model,), exchange.admitted_at - arrived_at)
        if exchange.first_content_at is not None:
            metrics.ttft.observe((model,), exchange.first_content_at - arrived_at)
        metrics.tokens.add((model, "prompt"), exchange.usage.prompt_tokens)
        metrics.tokens.add((model, "completion"), exchange.usage.completion_tokens)


def _record(exchange: Exchange, now: float) -> Record:
    return Record(
        created_at=round(exchange.created_at, 3),
        request_id=exchange.request_id,
        route=exchange.route,
        method=exchange.method,
        outcome=exchange.outcome,
        status=exchange.status,
        duration_ms=_ms(now - exchange.arrived_at),
        code=exchange.code,
        key_id=exchange.key_id,
        model=exchange.model,
        backend=exchange.backend,
        stream=exchange.stream,
        attempts=exchange.attempts,
        queue_ms=None if exchange.admitted_at is None else _ms(exchange.admitted_at - exchange.arrived_at),
        ttft_ms=None if exchange.first_content_at is None else _ms(exchange.first_content_at - exchange.arrived_at),
        tokens_in=exchange.usage.prompt_tokens,
        tokens_out=exchange.usage.completion_tokens,
    )


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
