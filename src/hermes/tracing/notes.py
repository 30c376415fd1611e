"""What is known of a request that its exchange does not know, in monotonic seconds."""

from time import monotonic

from msgspec import Struct, field

from hermes.policy.ticket import Ticket
from hermes.policy.trace import Context
from hermes.tracing.content import Heard


class Attempt(Struct):
    """One at a backend. `ended_at` is None where it gave its answer: the exchange knows how long that took."""

    context: Context
    backend: str
    provider: str
    host: str
    port: int
    asked_at: float
    heard: Heard | None = None
    ended_at: float | None = None
    error: str = ""


class Turn(Struct, frozen=True):
    """One wait for a slot, if it did wait, and what came of the slot, if it got one."""

    ticket: Ticket
    attempt: Attempt | None


class Notes(Struct):
    """`own` is the span of the request, `parent` that of its caller or, of a shared run, of the first who wants it.

    `offset_s` makes seconds since 1970 of monotonic ones. `runs`: shared ones that it was answered by.
    """

    own: Context
    parent: Context | None
    offset_s: float
    is_run: bool = False
    begun_at: float = field(default_factory=monotonic)
    turns: list[Turn] = []
    runs: "list[Notes]" = []
