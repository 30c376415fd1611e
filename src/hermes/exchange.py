"""One request's record, from arrival to log line: filled on the way, closed once, and given to the sinks."""

import os
from collections.abc import Callable
from time import monotonic, time

from msgspec import Struct

from hermes.chat import Usage
from hermes.errors import Outcome
from hermes.metrics import MAX_SERIES, Buckets, Cell, Metrics


class Record(Struct, frozen=True, omit_defaults=True, gc=False):
    """What is told of one request when it is over. Times in whole milliseconds, `created_at` in Unix seconds (UTC).

    Never a prompt, an answer or a credential (invariant I27).
    """

    created_at: float
    request_id: str
    route: str
    method: str
    outcome: Outcome
    status: int
    duration_ms: int
    code: str = ""
    key_id: str = ""
    model: str = ""
    backend: str = ""
    stream: bool = False
    attempts: int = 0
    queue_ms: int | None = None
    ttft_ms: int | None = None
    tokens_in: int = 0
    tokens_out: int = 0


Sink = Callable[[Record], None]

_NO_USAGE = Usage()


class Exchange(Struct, eq=False, gc=False):
    """What is known of one request so far. `now` arguments and `*_at` are monotonic seconds, `created_at` is not."""

    request_id: str
    method: str
    arrived_at: float
    created_at: float
    route: str = ""
    key_id: str = ""
    model: str = ""
    backend: str = ""
    stream: bool = False
    attempts: int = 0
    admitted_at: float | None = None
    first_content_at: float | None = None
    usage: Usage = _NO_USAGE
    forwarded: bytes = b""  # header lines that go on to the backend
    outcome: Outcome = Outcome.OK
    code: str = ""
    quiet: bool = False  # not worth a log line
    status: int = 0
    closed: bool = False

    def timings(self) -> dict[str, float]:
        """What the answer itself tells of its time here, in milliseconds."""
        ended_at = monotonic()
        admitted_at = self.admitted_at or ended_at
        return {
            "queue_ms": round((admitted_at - self.arrived_at) * 1000, 3),
            "total_ms": round((ended_at - self.arrived_at) * 1000, 3),
        }

    def id_line(self) -> bytes:
        """The header line that tells the client the request's id."""
        return b"x-request-id: %b\r\n" % self.request_id.encode("ascii")


class _Tally(Struct):
    """The series that a request of one route, model and outcome counts on."""

    finished: Cell
    duration: Buckets
    queue_wait: Buckets
    ttft: Buckets
    tokens_in: Cell
    tokens_out: Cell


class Journal:
    """Opens and closes exchanges: counts them, and hands each Record to the sinks."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._accepted = metrics.accepted.child(())
        self._tallies: dict[tuple[str, str, Outcome], _Tally] = {}
        self.sinks: list[Sink] = []
        self.open = 0
        # Unguessable between processes, cheap within one.
        self._prefix = os.urandom(10).hex()
        self._count = 0

    def begin(self, method: str, request_id: str, arrived_at: float) -> Exchange:
        """`request_id`: the client's own; "" makes one."""
        self._count += 1
        self.open += 1
        self._accepted.value += 1
        return Exchange(request_id or f"{self._prefix}{self._count:08x}", method, arrived_at, time())

    def close(self, exchange: Exchange, now: float) -> None:
        """The request is over. Emits the one Record; a second call is counted, and changes nothing (invariant I3)."""
        if exchange.closed:
            self._metrics.double_close.add(())
            return
        exchange.closed = True
        self.open -= 1
        if exchange.model:
            self._count_run(exchange, now)
        else:
            self._metrics.finished.add((exchange.route, "", exchange.outcome))
        if not exchange.quiet:
            record = _record(exchange, now)
            for sink in self.sinks:
                sink(record)

    def _count_run(self, exchange: Exchange, now: float) -> None:
        key = exchange.route, exchange.model, exchange.outcome
        tally = self._tallies.get(key) or self._tally(key)
        arrived_at, usage = exchange.arrived_at, exchange.usage
        tally.finished.value += 1
        tally.duration.observe(now - arrived_at)
        if exchange.admitted_at is not None:
            tally.queue_wait.observe(exchange.admitted_at - arrived_at)
        if exchange.first_content_at is not None:
            tally.ttft.observe(exchange.first_content_at - arrived_at)
        tally.tokens_in.value += usage.prompt_tokens
        tally.tokens_out.value += usage.completion_tokens

    def _tally(self, key: tuple[str, str, Outcome]) -> _Tally:
        metrics, (_, model, outcome) = self._metrics, key
        tally = _Tally(
            metrics.finished.child(key),
            metrics.duration.child((model, outcome)),
            metrics.queue_wait.child((model,)),
            metrics.ttft.child((model,)),
            metrics.tokens.child((model, "prompt")),
            metrics.tokens.child((model, "completion")),
        )
        if len(self._tallies) < MAX_SERIES:
            self._tallies[key] = tally
        return tally


def _record(exchange: Exchange, now: float) -> Record:
    arrived_at, admitted_at, content_at = exchange.arrived_at, exchange.admitted_at, exchange.first_content_at
    usage = exchange.usage
    return Record(
        round(exchange.created_at, 3),
        exchange.request_id,
        exchange.route,
        exchange.method,
        exchange.outcome,
        exchange.status,
        int((now - arrived_at) * 1000),
        exchange.code,
        exchange.key_id,
        exchange.model,
        exchange.backend,
        exchange.stream,
        exchange.attempts,
        None if admitted_at is None else int((admitted_at - arrived_at) * 1000),
        None if content_at is None else int((content_at - arrived_at) * 1000),
        usage.prompt_tokens,
        usage.completion_tokens,
    )
