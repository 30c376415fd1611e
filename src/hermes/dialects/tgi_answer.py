"""What TGI answers: chunks of its messages API, and tokens of `/generate_stream`, to events.

1. Tokens come one by one, special ones too, which are no text. The last has `details`; there is no `[DONE]`.
2. Where a tool is called, TGI never says why the chunks ended: what tells that they have is the count of tokens.
3. A stream begins with 200 in any case: that there is no room, or that the request is wrong, is its first event. The
   messages API calls every error a 422, so what it is has to be read off its text.
"""

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

from hermes.chat import Failure, Stop, StreamEvent, TextDelta, Usage
from hermes.dialects import strict
from hermes.dialects.error_text import one_line
from hermes.dialects.logprobs import Logprob, TokenLogprob, openai_items
from hermes.dialects.openai_backend_answer import AnswerDecoder, plausible
from hermes.dialects.sse import Events
from hermes.errors import BackendError

# Every `error_type`: the status that it has where it is told by one, and how its text begins.
_ERRORS = {
    "generation": (424, "Request failed during generation"),
    "overloaded": (429, "Model is overloaded"),
    "validation": (422, "Input validation error"),
    "incomplete_generation": (500, "Incomplete generation"),
    "incomplete_generation_stream": (500, "Incomplete generation stream"),
    "template_error": (422, "Template error"),
    "missing_template_variable": (422, "Missing template va"),  # "vatiable", so far
    "tool_error": (422, "Tool error"),
    "stream_serialization_error": (500, "Stream event serialization error"),
    "healthcheck": (503, "unhealthy"),
}


def status_of(text: str, error_type: str | None = None) -> int:
    """0: it is none of TGI's errors."""
    if error_type in _ERRORS:
        return _ERRORS[error_type][0]
    return next((status for status, opening in _ERRORS.values() if text.startswith(opening)), 0)


class ChatDecoder(AnswerDecoder):
    """One answer of the messages API."""

    __slots__ = ()

    def _count(self, told: Any) -> None:
        super()._count(told)
        if not told.choices and self._reason is None:  # without a call: it was cut while it still chose its tool
            self._reason = "stop" if self._calls else "length"


class _Token(Struct, gc=False):
    text: str
    logprob: float = 0.0
    special: bool = False


class _Details(Struct, gc=False):
    finish_reason: str
    generated_tokens: int = 0
    input_length: int = 0


class _Said(Struct, gc=False):
    token: _Token | None = None
    top_tokens: list[_Token] = []
    details: _Details | None = None
    error: str | None = None
    error_type: str | None = None


_decode = msgspec.json.Decoder(_Said).decode


class TokenDecoder:
    """One answer of `/generate_stream`."""

    __slots__ = ("_events", "_logprobs", "_over")

    def __init__(self, logprobs: bool, max_event_bytes: int) -> None:
        self._events = Events(max_event_bytes)
        self._logprobs = logprobs
        self._over = False

    def feed(self, chunk: bytes) -> list[StreamEvent]:
        return [event for data in self._events.feed(chunk) for event in self._take(data)]

    def text(self, chunk: bytes) -> str:
        return ""

    def finish(self) -> list[StreamEvent]:
        return [event for data in self._events.finish() for event in self._take(data)]

    def _take(self, data: bytes) -> Iterator[StreamEvent]:
        if self._over:
            raise BackendError("the backend went on after the end of its answer")
        try:
            said = _decode(data)
        except strict.MALFORMED as bad:
            raise BackendError("the backend's answer is not TGI's") from bad
        self._over = said.error is not None or said.details is not None
        if said.error is not None:
            yield Failure(one_line(said.error), status_of(said.error, said.error_type))
        elif said.token is None:
            raise BackendError("the backend's answer is not TGI's: an event without a token")
        elif not said.token.special and (said.token.text or self._logprobs):
            yield TextDelta(said.token.text, self._items(said.token, said.top_tokens))
        if said.details is not None:
            yield Usage(plausible(said.details.input_length), plausible(said.details.generated_tokens))
            yield Stop("length" if said.details.finish_reason == "length" else "stop")

    def _items(self, token: _Token, others: list[_Token]) -> tuple[dict[str, Any], ...]:
        if not self._logprobs:
            return ()
        top = [TokenLogprob(other.text, other.logprob) for other in others]
        return openai_items([Logprob(token.text, token.logprob, top_logprobs=top)])
