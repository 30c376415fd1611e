"""What is told of one request when it is over: a line of the access log, and what is remembered of it."""

from msgspec import Struct, field

from hermes.errors import Outcome


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
    user: str = ""
    urgency: str = field(default="", name="class")
    loaded: str = ""  # its model was loaded (`hit`), had to be (`load`), or took another's place (`swap`)
    asked: str = ""  # the model that was asked for, where another answered
    cache: str = ""  # `hit`, `miss` or `bypass`, where its model has one
    load_ms: int = 0  # of `queue_ms`: its model was being loaded
    trace_id: str = ""  # of the trace that it is a part of
