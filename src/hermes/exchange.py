"""One request's record, from arrival to log line: filled on the way, closed once."""

from asyncio import Event
from collections.abc import Callable
from time import monotonic
from typing import Protocol, TypeVar

from msgspec import Struct

from hermes.chat import Answer, ChatRequest, EmbedRequest, Usage
from hermes.dialects import ClientDialect
from hermes.errors import Dismissed, GatewayError, Outcome
from hermes.policy.places import Place
from hermes.policy.ticket import Ticket

_NO_USAGE = Usage()


class Asking(Protocol):
    """A request to a backend, as who watches over that needs it.

    `mark` is another after each sign of life; inf while nothing is awaited of it. `whole`: there is none before the
    end. `heard`: pieces of an answer that is put together here.
    """

    @property
    def mark(self) -> float: ...
    @property
    def whole(self) -> bool: ...
    @property
    def heard(self) -> int: ...
    def cut(self) -> None: ...


class Charging(Protocol):
    """What a request has reserved of what may be used."""

    def close(self, exchange: "Exchange") -> None: ...
    def give_back(self, exchange: "Exchange") -> None: ...


D = TypeVar("D", bound=ClientDialect)


class Traced(Protocol):
    """What is noted on the way of a request whose spans will be told."""

    def ask(self, exchange: "Exchange", dialect: D, host: str, port: int) -> D:
        """A backend is about to be asked; `exchange.forwarded` tells it whose child it is. Who renders its answer."""

    def failed(self, why: str) -> None:
        """That attempt has, or was given up."""

    def begin_again(self, exchange: "Exchange") -> None:
        """What was waited for, and asked, has come to nothing."""

    def share(self) -> "Traced":
        """A run of its own, which others may follow."""

    def follow(self, run: "Traced") -> None: ...
    def close(self, exchange: "Exchange") -> None: ...


class Exchange(Struct, eq=False, gc=False):
    """What is known of one request so far. `now` arguments and `*_at` are monotonic seconds, `created_at` is not."""

    request_id: str
    method: str
    arrived_at: float
    created_at: float
    route: str = ""
    began_at: float = 0.0  # by a finer clock than the loop's
    backend_s: float | None = None  # from asking it to having all of its answer, by the same
    also_id: bytes = b""  # another header in which its client looks for its id
    more_lines: bytes = b""  # of the head of every answer to it
    handle: str = ""  # it alone has, once it was told of: its id is its client's choice
    key_id: str = ""
    model: str = ""
    backend: str = ""
    stream: bool = False
    attempts: int = 0
    begun: bool = False  # content has gone out: there is no other attempt
    queue_s: float | None = None  # from arrival to a slot
    ttft_s: float | None = None  # from arrival to the first content
    usage: Usage = _NO_USAGE
    request: ChatRequest | EmbedRequest | None = None  # as it is asked for
    place: Place | None = None  # that an earlier try of it has left
    answer: Answer | None = None  # a whole one, as it was sent
    over: Event | None = None  # set when it has ended, where another try waits for that
    ticket: Ticket | None = None
    cancel: Callable[[], None] | None = None  # cancels who answers it, while there is something to cancel
    dismissed: GatewayError | None = None  # why it was sent away
    asked: str = ""  # the model that its client asked for, where another answers instead
    fallbacks: tuple[str, ...] | None = None  # those that still might; None: nobody had to ask so far
    asking: Asking | None = None  # a backend, since the last attempt began
    holds_back: bool = False  # calls of tools, which a backend may say nothing before
    crashes: int = 0  # of backends that were at it
    looked_again: bool = False  # its backend had lost the model: who has it was asked once more
    forwarded: bytes = b""  # header lines that go on to the backend
    traced: Traced | None = None  # None: nobody is told its spans
    charge: Charging | None = None  # None: nothing bounds or counts what it uses
    quota_lines: bytes = b""  # what its client is told of its limits
    reuse: str = ""  # of its model's cache: `hit`, `miss` or `bypass`
    said: int = 0  # characters of a stream
    free: bool = False  # no run was its own: what `usage` says was not spent on it, and no limit on tokens counts it
    outcome: Outcome = Outcome.OK
    code: str = ""
    quiet: bool = False  # not worth a log line
    status: int = 0
    closed: bool = False

    def timings(self) -> dict[str, float]:
        """What the answer itself tells of its time here, in milliseconds."""
        total_s = monotonic() - self.arrived_at
        queue_s = total_s if self.queue_s is None else self.queue_s
        if self.free:
            queue_s = 0.0
        return {"queue_ms": round(queue_s * 1000, 3), "total_ms": round(total_s * 1000, 3)}

    def dismiss(self, why: GatewayError | None = None) -> bool:
        """Send it away, whatever it is at. False: it has had its answer."""
        if self.cancel is None:
            return False
        self.dismissed = why or Dismissed("the request was sent away")
        self.cancel()
        return True

    def uncharge(self) -> None:
        """It begins anew: what was reserved for it is given back."""
        if self.charge is not None:
            self.charge.give_back(self)
            self.charge = None

    def forget_attempt(self) -> None:
        """Nothing of it has gone out, and its connection may be somebody else's by now."""
        if self.traced is not None:
            self.traced.begin_again(self)
        self.asking = self.ttft_s = None

    def id_line(self) -> bytes:
        """The header lines that tell the client the request's id, what is left to it where it has limits, and what came
        of it at the cache; before them those that every answer has.
        """
        id = self.request_id.encode("ascii")
        line = b"%b%bx-request-id: %b\r\n" % (self.more_lines, self.quota_lines, id)
        if self.reuse:
            line += b"x-hermes-cache: %b\r\n" % self.reuse.encode("ascii")
        return b"%b%b: %b\r\n" % (line, self.also_id, id) if self.also_id else line
