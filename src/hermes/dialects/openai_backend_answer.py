"""What OpenAI-compatible servers answer: (chat) completions and their chunks to events, whole and streamed; vectors.

1. An answer is complete when its `finish_reason` was told and the server said no more: `[DONE]`, or the end of the
   body (transformers sends no `[DONE]`). Usage comes after the reason, so nothing is over before. Bytes that end
   without a reason were truncated: no `Stop` is ever made up, and `[DONE]` without one is an error.
2. An error inside an answer is a `Failure`; whatever follows it is not read.
3. A call's id and name come with its first piece only. Servers count calls by `index`, or by nothing at all, and some
   repeat id and name in every piece. One without arguments has an empty object of them, but nobody says so before
   the end: until then what the calls after it say is held, since for clients those end it.
4. Anything else that is not an answer is a BackendError (I15).
"""

from typing import Any

import msgspec
from msgspec import Struct

from hermes.chat import (
    MOST_TOKENS,
    Answer,
    Embeddings,
    Failure,
    ReasoningDelta,
    Stop,
    StopReason,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    Usage,
    collect,
)
from hermes.dialects import strict
from hermes.dialects.error_text import one_line
from hermes.dialects.logprobs import Logprob, OldLogprobs, old_items, openai_items
from hermes.dialects.sse import Events
from hermes.errors import BackendError, BadRequest

# More time than any answer takes: what is beyond is a lie, like what is negative.
_ABSURD_MS = 1 << 40

_json = msgspec.json.Encoder().encode


class _Function(Struct, gc=False):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class _ToolCall(Struct, gc=False):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Said(Struct, gc=False):
    """A `delta`, or a whole `message`."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Logprobs(OldLogprobs, gc=False):
    """As chat completions have them, or as completions do; llama.cpp has the former everywhere."""

    content: list[Logprob] | None = None

    @property
    def items(self) -> tuple[dict[str, Any], ...]:
        return openai_items(self.content or old_items(self))


class _Choice(Struct, gc=False):
    index: int = 0
    delta: _Said | None = None
    message: _Said | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None
    # The stop text, or a token's number: vLLM's name for it, and SGLang's.
    stop_reason: Any = None
    matched_stop: Any = None


class _Details(Struct, gc=False):
    cached_tokens: int | None = None


class _Usage(Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


class _Timings(Struct, gc=False):
    """llama.cpp's."""

    prompt_ms: float = 0.0
    predicted_ms: float = 0.0


class _Told(Struct, gc=False):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    timings: _Timings | None = None
    error: Any = None
    # `{"object": "error", "message": ..., "code": 400}`, as vLLM once did and SGLang does
    object: str | None = None
    message: str | None = None
    code: Any = None


_decode = msgspec.json.Decoder(_Told).decode


class _TextDelta(Struct, gc=False):
    content: str
    reasoning_content: None = None
    reasoning: None = None
    refusal: None = None
    tool_calls: list[None] | None = None


class _TextChoice(Struct, gc=False):
    delta: _TextDelta
    index: int = 0
    finish_reason: None = None
    logprobs: None = None


class _TextChunk(Struct, gc=False):
    """A chunk with nothing in it but text."""

    choices: tuple[_TextChoice]
    usage: None = None
    timings: None = None
    error: None = None


_decode_text = msgspec.json.Decoder(_TextChunk).decode


class _Call(Struct):
    index: int
    id: str
    has_arguments: bool = False


def whole(body: bytes, answer_id: str, max_bytes: int) -> Answer | Failure | None:
    """None: it ended before it was complete."""
    decoder = AnswerDecoder(answer_id, max_bytes)
    events: list[StreamEvent] = []
    if body.lstrip().startswith(b"{"):  # on as many lines as it likes
        decoder.take(body, events)
    else:
        events += decoder.feed(body)
    return collect(events + decoder.finish())


class AnswerDecoder:
    """Reads one answer. `answer_id` seeds the ids of tool calls that came without one."""

    __slots__ = (
        "_answer_id",
        "_calls",
        "_events",
        "_failed",
        "_held",
        "_places",
        "_reason",
        "_room",
        "_stop_text",
        "_stopped",
        "_usage",
    )

    def __init__(self, answer_id: str, max_event_bytes: int) -> None:
        self._answer_id = answer_id
        self._held: list[ToolCallDelta] = []
        self._room = max_event_bytes  # for more of them
        self._events = Events(max_event_bytes)
        self._calls: list[_Call] = []
        self._places: dict[int, _Call] = {}  # the last one of each index
        self._usage = Usage()
        self._reason: StopReason | None = None
        self._stop_text = ""
        self._stopped = False
        self._failed = False

    def feed(self, chunk: bytes) -> list[StreamEvent]:
        events: list[StreamEvent] = []
        for data in self._events.feed(chunk):
            self.take(data, events)
        return events

    def text(self, chunk: bytes) -> str:
        if (
            not chunk.startswith(b"data: {")
            or chunk.find(b"\n") + 2 != len(chunk)
            or not self._events.between
            or self._reason is not None
        ):
            return ""
        try:
            told = _decode_text(chunk[6:])
        except strict.MALFORMED:
            return ""
        choice = told.choices[0]
        return "" if choice.index or choice.delta.tool_calls else choice.delta.content

    def finish(self) -> list[StreamEvent]:
        events: list[StreamEvent] = []
        for data in self._events.finish():
            self.take(data, events)
        if self._reason is not None and not (self._stopped or self._failed):
            self._stop(events)
        return events

    def take(self, data: bytes, events: list[StreamEvent]) -> None:
        """One event's data, or a whole answer."""
        if self._failed:
            return
        if self._stopped:
            raise BackendError("the backend went on after the end of its answer")
        if data.strip() == b"[DONE]":
            self._stop(events)
            return
        try:
            told = _decode(data)
        except strict.MALFORMED as bad:
            raise BackendError(f"the backend's answer is not OpenAI's: {_why(bad)}") from bad
        if told.error is not None or told.object == "error":
            self._failed = True
            events.append(_failure(told))
            return
        if told.choices is None:
            raise BackendError("the backend's answer is not OpenAI's: an object without choices")
        if told.usage is not None or told.timings is not None:
            self._count(told)
        for choice in told.choices:
            if choice.index == 0:
                self._choice(choice, events)

    def _choice(self, choice: _Choice, events: list[StreamEvent]) -> None:
        said = choice.delta or choice.message
        if choice.text is not None:
            said = _Said(choice.text)
        if said is not None:
            if reasoning := said.reasoning_content or said.reasoning:
                events.append(ReasoningDelta(reasoning))
            text = said.content or said.refusal or ""
            tokens = choice.logprobs.items if choice.logprobs is not None else ()
            if tokens and (text or not reasoning):
                events.append(TextDelta(text, tokens))
            elif text:
                events.append(TextDelta(text))
            for call in said.tool_calls or ():
                self._tool_call(call, events)
        if choice.finish_reason:
            self._reason = _REASONS.get(choice.finish_reason, "stop")
            stopped_by = choice.stop_reason or choice.matched_stop
            self._stop_text = stopped_by if isinstance(stopped_by, str) else ""

    def _tool_call(self, told: _ToolCall, events: list[StreamEvent]) -> None:
        function = told.function or _Function()
        arguments = function.arguments or ""
        text = arguments if isinstance(arguments, str) else _json(arguments).decode()
        # Without an index each name begins another call.
        place = len(self._calls) - (0 if function.name else 1) if told.index is None else told.index
        call = self._places.get(place)
        if call is not None and not (told.id and function.name and told.id != call.id):  # else all have one index
            call.has_arguments = call.has_arguments or bool(text)
            if text:
                self._tell(ToolCallDelta(call.index, text), events)
            return
        if not function.name:
            raise BackendError("the backend's answer is not OpenAI's: a tool call without a name")
        index = len(self._calls)
        call = self._places[place] = _Call(index, told.id or f"call_{self._answer_id}_{index}", bool(text))
        self._calls.append(call)
        self._tell(ToolCallDelta(index, text, call.id, function.name), events)

    def _tell(self, delta: ToolCallDelta, events: list[StreamEvent]) -> None:
        first = self._held[0].index if self._held else delta.index
        if delta.index < first or not delta.index or (not self._held and self._calls[delta.index - 1].has_arguments):
            events.append(delta)
            return
        self._held.append(delta)
        self._room -= len(delta.arguments) + len(delta.name) + len(delta.id) + 1
        if self._room < 0:
            raise BackendError("the backend's answer is not OpenAI's: calls without end after one without arguments")

    def _count(self, told: _Told) -> None:
        usage, timings = told.usage or _Usage(), told.timings or _Timings()
        prompt_tokens = plausible(usage.prompt_tokens) or self._usage.prompt_tokens
        cached_tokens = plausible((usage.prompt_tokens_details or _Details()).cached_tokens)
        self._usage = Usage(
            prompt_tokens,
            plausible(usage.completion_tokens) or self._usage.completion_tokens,
            0.0,
            _seconds(timings.prompt_ms) or self._usage.prefill_s,
            _seconds(timings.predicted_ms) or self._usage.decode_s,
            min(cached_tokens or self._usage.cached_tokens, prompt_tokens),  # others subtract it
        )

    def _stop(self, events: list[StreamEvent]) -> None:
        if self._reason is None:
            raise BackendError("the backend ended its answer without saying why: it is not complete")
        bare = [ToolCallDelta(call.index, "{}") for call in self._calls if not call.has_arguments]
        rest: list[ToolCallDelta] = sorted(self._held + bare, key=_place)
        events += rest
        self._stopped = True
        events += (self._usage, Stop(self._reason, self._stop_text))


def _place(delta: ToolCallDelta) -> int:
    return delta.index


# What is not known here ("eos", "stop_sequence", "end_turn") is a stop.
_REASONS: dict[str, StopReason] = {
    "stop": "stop",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


# --- embeddings ---------------------------------------------------------------------------------------------------


class _Vector(Struct, gc=False):
    embedding: list[float]
    index: int = 0


class _Embedded(Struct, gc=False):
    data: list[_Vector]
    usage: _Usage | None = None


_decode_embedded = msgspec.json.Decoder(_Embedded).decode


def embeddings(body: bytes, count: int, dimensions: int | None) -> Embeddings:
    """So many vectors, in the order of their texts.

    Raises BackendError for anything else, and BadRequest where they are not of so many dimensions: llama.cpp passes
    over what it was asked for.
    """
    try:
        told = _decode_embedded(body)
    except strict.MALFORMED as bad:
        raise BackendError(f"the backend's answer is not OpenAI's: {_why(bad)}") from bad
    vectors = [item.embedding for item in sorted(told.data, key=_index)]
    if len(vectors) != count or not all(vectors):
        raise BackendError("the backend's answer does not have a vector for each text")
    if dimensions is not None and any(len(vector) != dimensions for vector in vectors):
        words = f"the backend's vectors have {len(vectors[0])} dimensions, not {dimensions}"
        raise BadRequest(words, code="unsupported_by_backend", param="dimensions")
    return Embeddings(vectors, Usage(plausible((told.usage or _Usage()).prompt_tokens)))


def _index(item: _Vector) -> int:
    return item.index


# --- what else it says --------------------------------------------------------------------------------------------


def _failure(told: _Told) -> Failure:
    error, code = told.error, told.code
    if isinstance(error, dict):
        code = error.get("http_status_code") or error.get("code") or code
        error = error.get("message")
    text = one_line(error) if isinstance(error, str) else told.message and one_line(told.message)
    status = code if type(code) is int and 400 <= code < 600 else 0
    return Failure(text or "the backend failed and did not say why", status)


def _why(bad: Exception) -> str:
    """Never the bytes themselves: they may hold anything."""
    return str(bad) if isinstance(bad, msgspec.DecodeError) else type(bad).__name__


def plausible(count: int | None) -> int:
    return count if count is not None and 0 <= count <= MOST_TOKENS else 0


def _seconds(ms: float) -> float:
    return ms / 1e3 if 0 <= ms <= _ABSURD_MS else 0.0
