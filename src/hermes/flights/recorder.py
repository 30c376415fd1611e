"""The dialect that a shared run is answered in: events and answers as they are, told to whoever wants them."""

from typing import NoReturn, Protocol

from hermes.chat import (
    Answer,
    ChatRequest,
    Embeddings,
    EmbedRequest,
    ReasoningDelta,
    Stop,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
)
from hermes.dialects import ClientDialect, Meta
from hermes.errors import GatewayError

# For the gateway to see that something has gone out.
_SAID = b"\n"
# With these there is no other attempt.
_FINAL = (TextDelta, ReasoningDelta, ToolCallDelta, Stop)


class Told(Protocol):
    """A run, as it is told what its backend says."""

    answer: Answer | Embeddings | None

    def say(self, piece: str | list[StreamEvent]) -> None: ...
    def wait(self, position: int, eta_ms: int) -> None: ...
    def fail(self, error: BaseException) -> None: ...


class Recorder:
    """Stands for a client's `dialect`, whose promises hold. Which run is meant, its request's id tells."""

    stream_content_type = b""

    def __init__(self, dialect: ClientDialect) -> None:
        self.sampling_defaults = dialect.sampling_defaults
        self.quota_lines = dialect.quota_lines
        self.runs: dict[str, Told] = {}

    def render_answer(self, answer: Answer, request: ChatRequest, meta: Meta) -> bytes:
        self.runs[meta.request_id].answer = answer
        return _SAID

    def render_embeddings(self, made: Embeddings, request: EmbedRequest, meta: Meta) -> bytes:
        self.runs[meta.request_id].answer = made
        return _SAID

    def encoder(self, request: ChatRequest, meta: Meta) -> "_Pen":
        return _Pen(self.runs[meta.request_id])

    def queued(self, position: int, eta_ms: int, meta: Meta) -> bytes:
        self.runs[meta.request_id].wait(position, eta_ms)
        return b""

    def render_error(self, error: GatewayError, request_id: str) -> bytes:
        return _SAID

    def parse_request(self, body: bytes, model: str | None = None) -> NoReturn:
        raise NotImplementedError("nobody asks in it")

    def parse_embed(self, body: bytes) -> NoReturn:
        raise NotImplementedError("nobody asks in it")


class _Pen:
    """Its encoder, for one attempt. What comes before any content is held back: another attempt would say it again."""

    def __init__(self, run: Told) -> None:
        self._run = run
        self._held: list[StreamEvent] = []
        self._begun = False

    def encode(self, events: list[StreamEvent]) -> bytes:
        if not self._begun:
            self._held += events
            if not any(isinstance(event, _FINAL) for event in events):
                return b""
            self._begun, events = True, self._held
        if events:
            self._run.say(events)
        return _SAID

    def text(self, text: str) -> bytes:
        self._run.say(text)
        return _SAID

    def aside(self, text: str) -> bytes:
        return b""

    def fail(self, error: GatewayError) -> bytes:
        self._run.fail(error)
        return b""
