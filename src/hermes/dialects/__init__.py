"""The dialects: bytes to values and back, sans-IO. Each knows only `chat`; none knows another.

A *client dialect* is spoken by the application: it parses requests, and renders answers, streams and errors. A
*backend dialect* is spoken by a server: it renders requests, and decodes whole answers and streams.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

from msgspec import Struct

from hermes.chat import Answer, ChatRequest, Embeddings, EmbedRequest, Failure, Sampling, StreamEvent
from hermes.errors import GatewayError
from hermes.principal import Quota


class Meta(Struct):
    """What an answer says of itself: the request's id, the model's public name, when it was made (Unix seconds).

    `timings` is asked when the answer ends, for what only the gateway knows: {"queue_ms": 3.1, "total_ms": 240.0}.
    `prompt_tokens` is an estimate, for what has to be told before the backend does. `beats`: the signs of life that its
    stream has had so far (`ClientDialect.queued`).
    """

    request_id: str
    model: str
    created: int
    timings: Callable[[], Mapping[str, float]] = dict
    prompt_tokens: int = 0
    beats: int = 0


# Header lines: what is left of requests, what of tokens, in Unix seconds when.
QuotaLines = Callable[[Quota | None, Quota | None, float], bytes]


class Encoder(Protocol):
    """Renders one stream. Stateful: use one per answer."""

    def encode(self, events: list[StreamEvent]) -> bytes:
        """The wire bytes for these events; may be empty. The last event of a good stream is its `Stop`."""

    def text(self, text: str) -> bytes:
        """What `encode([TextDelta(text)])` gives, once the stream has begun: most of it is that."""

    def aside(self, text: str) -> bytes:
        """For people who look at the bytes: a line that no client takes for part of the answer; b"" without such."""

    def fail(self, error: GatewayError) -> bytes:
        """The dialect's own error event, which ends the stream without ever looking like success (I5)."""


class ClientDialect(Protocol):
    stream_content_type: bytes
    # What the dialect promises for a value that neither the request nor the model's configuration gives.
    sampling_defaults: Sampling

    def parse_request(self, body: bytes, model: str | None = None) -> ChatRequest:
        """Parse strictly (I14). `model`: named outside the body. Raises BadRequest naming the field."""

    def render_answer(self, answer: Answer, request: ChatRequest, meta: Meta) -> bytes: ...

    def encoder(self, request: ChatRequest, meta: Meta) -> Encoder: ...

    def queued(self, position: int, eta_ms: int, meta: Meta) -> bytes:
        """A sign of life in a stream that waits: its place, and when it will probably start. Not content."""

    def render_error(self, error: GatewayError, request_id: str) -> bytes: ...

    @property
    def quota_lines(self) -> QuotaLines:
        """Tells what is left of limits."""


class EmbedDialect(ClientDialect, Protocol):
    """One that has embeddings too."""

    def parse_embed(self, body: bytes) -> EmbedRequest:
        """As `parse_request` does."""

    def render_embeddings(self, made: Embeddings, request: EmbedRequest, meta: Meta) -> bytes: ...


class Decoder(Protocol):
    """Reads one answer, cut anywhere. Stateful: use one per answer."""

    def feed(self, chunk: bytes) -> list[StreamEvent]:
        """Events complete by now. Raises BackendError for garbage and for an event longer than its limit (I13).

        After a raise the answer is over; events of the same chunk that came before the garbage are dropped.
        """

    def text(self, chunk: bytes) -> str:
        """The text of a chunk that is one event of nothing else, while the answer goes on.

        "": it is not, and nothing has happened: `feed` it.
        """

    def finish(self) -> list[StreamEvent]:
        """The bytes have ended: what an unterminated last line still held."""


class BackendDialect(Protocol):
    # Whole answers too are to be asked for as streams: only of those it notices when nobody wants them any more.
    @property
    def streams_only(self) -> bool: ...

    # Whether it can be made to call a tool (`chat.MustCall`).
    @property
    def forces_tools(self) -> bool: ...

    # Whether it makes embeddings.
    @property
    def embeds(self) -> bool: ...

    def completes(self, request: ChatRequest) -> bool:
        """Whether it can go on from a prompt as it is (`ChatRequest.raw`), or fill in what a `suffix` follows."""

    def render_request(self, request: ChatRequest, model: str) -> tuple[str, bytes]:
        """Path and body for the backend; `model` is the backend's own name for it."""

    def whole(self, body: bytes, request: ChatRequest, answer_id: str) -> Answer | Failure | None:
        """A whole answer: what `collect` makes of its `decoder`'s events. None: it ended before it was complete."""

    def decoder(self, request: ChatRequest, answer_id: str) -> Decoder:
        """`answer_id` makes the ids of tool calls that come without one unique among all answers."""

    def render_embed(self, request: EmbedRequest, model: str) -> tuple[str, bytes]:
        """As `render_request` does."""

    def embeddings(self, body: bytes, request: EmbedRequest) -> Embeddings:
        """The vectors in an answer. Raises BackendError if it is none, or has another number of them.

        BadRequest where they are not as they were asked for, because the server cannot make them so.
        """

    def error(self, status: int, body: bytes) -> GatewayError:
        """What an answer with an error status means for the client."""

    def failure(self, failure: Failure) -> GatewayError:
        """What a failure told inside an answer means for the client."""


__all__ = [
    "Answer",
    "BackendDialect",
    "ChatRequest",
    "ClientDialect",
    "Decoder",
    "EmbedDialect",
    "EmbedRequest",
    "Embeddings",
    "Encoder",
    "Failure",
    "Meta",
    "StreamEvent",
]
