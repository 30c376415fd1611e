"""What a class is that teaches Hermes another kind of server, and all that it needs from here.

It turns values into bytes and bytes into values. Connections, deadlines, cancelling, queueing and the clients' dialects
stay Hermes's. docs/custom-backends.md has an example.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping

from hermes.chat import (
    ChatRequest,
    Embeddings,
    EmbedRequest,
    Failure,
    Image,
    Message,
    MustCall,
    ReasoningDelta,
    RichMessage,
    Stop,
    StreamEvent,
    Text,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from hermes.dialects import openai_backend_error
from hermes.dialects.ndjson import Lines
from hermes.dialects.sse import Events
from hermes.errors import BackendBusy, BackendError, BadRequest, ContextLengthExceeded, GatewayError, ModelNotFound
from hermes.fleet.inventory import ModelInfo
from hermes.fleet.kind import Listing

__all__ = [
    "Backend",
    "BackendBusy",
    "BackendError",
    "BadRequest",
    "ChatRequest",
    "ContextLengthExceeded",
    "Decoder",
    "EmbedRequest",
    "Embeddings",
    "Events",
    "Failure",
    "GatewayError",
    "Image",
    "Lines",
    "Listing",
    "Message",
    "ModelInfo",
    "ModelNotFound",
    "MustCall",
    "ReasoningDelta",
    "RichMessage",
    "Stop",
    "StreamEvent",
    "Text",
    "TextDelta",
    "ToolCallDelta",
    "Usage",
]


class Decoder(ABC):
    """Reads one answer, cut anywhere. The last event of a good one is its `Stop`."""

    @abstractmethod
    def feed(self, chunk: bytes) -> Iterable[StreamEvent]:
        """The events complete by now."""

    def finish(self) -> Iterable[StreamEvent]:
        """The bytes have ended: what was left."""
        return ()


class Backend(ABC):
    """One server. A class of this is made without arguments, once for each backend that names it.

    `asks`: paths that are got at every look. `slots`: how many requests it runs at once, where neither it nor its
    operator says so. The others are as `Kind` and `BackendDialect` have them: what nobody says of it is not so, and the
    worst is assumed.
    """

    asks: tuple[str, ...]
    slots: int | None = None
    settles = True
    forces_tools = False
    embeds = False

    @abstractmethod
    def listing(self, said: Mapping[str, bytes]) -> Listing:
        """What it has, from the bodies of what was got: `said[path]`, or `said.get(path)` where that may be missing."""

    @abstractmethod
    def render_request(self, request: ChatRequest, model: str) -> tuple[str, bytes]:
        """The path and the body of a POST. `model` is one of the listed names. Raises BadRequest for what it cannot."""

    @abstractmethod
    def decoder(self, request: ChatRequest, answer_id: str) -> Decoder:
        """What reads one answer with status 200."""

    def completes(self, request: ChatRequest) -> bool:
        """Whether it can go on from a prompt as it is (`raw`), or fill in what a `suffix` follows."""
        return False

    def error(self, status: int, body: bytes) -> GatewayError:
        """What any other status means for the client."""
        return openai_backend_error.from_status(status, body)

    def failure(self, failure: Failure) -> GatewayError:
        """What a `Failure` among the events means for the client."""
        return openai_backend_error.from_text(failure.status or 500, failure.message)

    def render_embed(self, request: EmbedRequest, model: str) -> tuple[str, bytes]:
        """As `render_request`, where it `embeds`."""
        raise NotImplementedError

    def embeddings(self, body: bytes, request: EmbedRequest) -> Embeddings:
        """The vectors, one for each text."""
        raise NotImplementedError
