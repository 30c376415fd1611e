"""Between Hermes and somebody's own class: whatever that does wrong, it harms the one request (or look) alone.

What it raises and what it returns of another type is the backend's error, with a traceback in the log. GatewayErrors
are its own word, and pass.
"""

import logging
import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar, get_args

import msgspec
from msgspec.structs import replace

from hermes import custom
from hermes.chat import Answer, ChatRequest, Embeddings, EmbedRequest, Failure, Stop, StreamEvent, Usage, collect
from hermes.dialects.openai_backend_answer import plausible
from hermes.errors import BackendError, GatewayError
from hermes.fleet.kind import Listing

log = logging.getLogger(__name__)

T = TypeVar("T")

_EVENTS = frozenset(get_args(StreamEvent))
# Nothing that could end a request line.
_PATH = re.compile(r"/[!-~]*").fullmatch


class _Sure(Protocol):
    def __call__(self, ask: Callable[[], T], /) -> T: ...


class Guarded:
    """A `Kind`, of which whole answers too are asked for as streams. `name` is the backend's, for the log."""

    streams_only = True

    def __init__(self, own: custom.Backend, name: str) -> None:
        self._own = own
        self._name = name
        self.asks = own.asks
        self.slots = own.slots
        self.settles = own.settles
        self.forces_tools = own.forces_tools
        self.embeds = own.embeds

    def listing(self, said: Mapping[str, bytes]) -> Listing:
        return self._sure(lambda: _checked(_of(Listing, self._own.listing(said))))

    def completes(self, request: ChatRequest) -> bool:
        try:
            return self._sure(lambda: _of(bool, self._own.completes(request)))
        except GatewayError:
            return False  # where it is asked, another backend may still be found

    def render_request(self, request: ChatRequest, model: str) -> tuple[str, bytes]:
        return self._sure(lambda: _rendered(self._own.render_request(request, model)))

    def decoder(self, request: ChatRequest, answer_id: str) -> "_Decoder":
        own = self._sure(lambda: _of(custom.Decoder, self._own.decoder(request, answer_id)))  # type: ignore[type-abstract]
        return _Decoder(own, self._sure)

    def whole(self, body: bytes, request: ChatRequest, answer_id: str) -> Answer | Failure | None:
        decoder = self.decoder(request, answer_id)
        return collect(decoder.feed(body) + decoder.finish())

    def error(self, status: int, body: bytes) -> GatewayError:
        return self._sure(lambda: _of(GatewayError, self._own.error(status, body)))

    def failure(self, failure: Failure) -> GatewayError:
        return self._sure(lambda: _of(GatewayError, self._own.failure(failure)))

    def render_embed(self, request: EmbedRequest, model: str) -> tuple[str, bytes]:
        return self._sure(lambda: _rendered(self._own.render_embed(request, model)))

    def embeddings(self, body: bytes, request: EmbedRequest) -> Embeddings:
        count = len(request.texts)
        return self._sure(lambda: _embeddings(_checked(_of(Embeddings, self._own.embeddings(body, request))), count))

    def _sure(self, ask: Callable[[], T], /) -> T:
        try:
            return ask()
        except GatewayError:
            raise
        except (Exception, SystemExit) as bug:
            log.exception("the plugin of backend %s met a bug", self._name)
            raise BackendError("the backend's plugin met a bug; the log has its cause") from bug


class _Decoder:
    __slots__ = ("_over", "_own", "_sure")

    def __init__(self, own: custom.Decoder, sure: _Sure) -> None:
        self._own = own
        self._sure = sure
        self._over = False

    def feed(self, chunk: bytes) -> list[StreamEvent]:
        return self._sure(lambda: [self._event(each) for each in self._own.feed(chunk)])

    def text(self, chunk: bytes) -> str:
        return ""

    def finish(self) -> list[StreamEvent]:
        return self._sure(lambda: [self._event(each) for each in self._own.finish()])

    def _event(self, value: Any) -> StreamEvent:
        """With the types that it should have: nobody has looked at them yet."""
        if type(value) not in _EVENTS:
            raise TypeError(f"{type(value).__name__} is not an event")
        if self._over:
            raise ValueError("the answer goes on after its end")
        self._over = type(value) in (Stop, Failure)
        event: StreamEvent = _checked(value)
        return _plausible(event) if isinstance(event, Usage) else event


def _of(kind: type[T], value: Any) -> T:
    if not isinstance(value, kind):
        raise TypeError(f"{type(value).__name__} is not {kind.__name__}")
    return value


def _checked(value: T) -> T:
    """A Struct with what its types say in it, and nothing that JSON cannot say: making one does not look.

    Half a surrogate, which `json` reads, and NaN would else be met where the answer is written.
    """
    return msgspec.json.decode(msgspec.json.encode(value), type=type(value))


def _plausible(told: Usage) -> Usage:
    """Counts that a server may have made up (I15)."""
    prompt_tokens = plausible(told.prompt_tokens)
    cached_tokens = min(plausible(told.cached_tokens), prompt_tokens)
    completion_tokens = plausible(told.completion_tokens)
    return replace(told, prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, cached_tokens=cached_tokens)


def _embeddings(made: Embeddings, count: int) -> Embeddings:
    if len(made.vectors) != count:
        raise ValueError(f"{len(made.vectors)} vectors for {count} texts")
    return made


def is_path(value: Any) -> bool:
    return isinstance(value, str) and _PATH(value) is not None


def _rendered(value: Any) -> tuple[str, bytes]:
    path, body = value
    if not (is_path(path) and isinstance(body, bytes)):
        raise TypeError("a request is a path and bytes")
    return path, body
