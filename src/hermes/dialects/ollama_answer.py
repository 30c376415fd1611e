"""Ollama's answers: lines of JSON to events, whole answers and streams alike; and embeddings.

1. An answer ends with the one object that says `"done": true`, which may itself carry text and tool calls. Bytes that
   end without one were truncated: no `Stop` is ever made up.
2. An `{"error": ...}` line is a `Failure`; whatever follows it is not read.
3. Anything else that is not an answer (HTML, wrong types, bytes after the end) is a BackendError (I15).
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from hermes.chat import (
    MOST_TOKENS,
    Answer,
    Embeddings,
    Failure,
    ReasoningDelta,
    Stop,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from hermes.dialects import ndjson, strict
from hermes.dialects.logprobs import Logprob, openai_items
from hermes.errors import BackendError

_Count = Annotated[int, Meta(ge=0, le=MOST_TOKENS)]
_Ns = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class _Function(Struct, gc=False):
    name: str
    arguments: dict[str, Any] | str | None = None


class _ToolCall(Struct, gc=False):
    function: _Function
    id: str = ""


class _Message(Struct, gc=False):
    content: str | None = ""
    thinking: str | None = ""
    tool_calls: list[_ToolCall] | None = None


class _Line(Struct, gc=False):
    """A line of `/api/chat` (`message`) or of `/api/generate` (`response`, `thinking`, `tool_calls`)."""

    message: _Message | None = None
    response: str | None = None
    thinking: str | None = None
    tool_calls: list[_ToolCall] | None = None
    done: bool = False
    done_reason: str | None = None
    error: Any = None
    logprobs: list[Logprob] | None = None
    prompt_eval_count: int = 0
    eval_count: int = 0
    load_duration: int = 0
    prompt_eval_duration: int = 0
    eval_duration: int = 0


_decode = msgspec.json.Decoder(_Line).decode
_json = msgspec.json.Encoder().encode


# --- whole answers ------------------------------------------------------------------------------------------------


class _PlainMessage(Struct, gc=False):
    content: str = ""
    thinking: str = ""
    tool_calls: None = None


class _Plain(Struct, gc=False):
    """A whole answer with nothing in it but texts and counts that can be believed, in the order of Ollama's fields."""

    message: _PlainMessage | None = None
    response: str = ""
    thinking: str = ""
    tool_calls: None = None
    done: bool = False
    done_reason: str = ""
    error: None = None
    logprobs: None = None
    load_duration: _Ns = 0
    prompt_eval_count: _Count = 0
    prompt_eval_duration: _Ns = 0
    eval_count: _Count = 0
    eval_duration: _Ns = 0


_decode_plain = msgspec.json.Decoder(_Plain).decode


def plain(body: bytes) -> Answer | None:
    """A whole answer in one pass. None where there is more to it than text: that is an `AnswerDecoder`'s to read."""
    try:
        told = _decode_plain(body)
    except strict.MALFORMED:
        return None
    if not told.done:
        return None
    said = told.message
    return Answer(
        told.response if said is None else said.content,
        told.thinking if said is None else said.thinking,
        (),
        Usage(
            told.prompt_eval_count,
            told.eval_count,
            told.load_duration / 1e9,
            told.prompt_eval_duration / 1e9,
            told.eval_duration / 1e9,
        ),
        "length" if told.done_reason == "length" else "stop",
    )


# --- embeddings ---------------------------------------------------------------------------------------------------


class _Embedded(Struct, gc=False):
    """The answer of `/api/embed` (`embeddings`) or of `/api/embeddings`."""

    embeddings: list[list[float]] | None = None
    embedding: list[float] | None = None
    prompt_eval_count: int = 0
    load_duration: int = 0
    total_duration: int = 0


_decode_embedded = msgspec.json.Decoder(_Embedded).decode


def embeddings(body: bytes, count: int) -> Embeddings:
    """So many vectors. Raises BackendError for anything else."""
    try:
        told = _decode_embedded(body)
    except strict.MALFORMED as bad:
        raise BackendError(f"the backend's answer is not Ollama's: {_why(bad)}") from bad
    vectors = told.embeddings if told.embedding is None else [told.embedding]
    if vectors is None or len(vectors) != count or not all(vectors):
        raise BackendError("the backend's answer does not have a vector for each text")
    load_s = _seconds(told.load_duration)
    prefill_s = _seconds(told.total_duration - told.load_duration)
    return Embeddings(vectors, Usage(_count(told.prompt_eval_count), load_s=load_s, prefill_s=prefill_s))


# --- streams ------------------------------------------------------------------------------------------------------


class _TextMessage(Struct, gc=False):
    content: str
    thinking: None = None
    tool_calls: None = None


class _TextLine(Struct, gc=False):
    """A line of `/api/chat` with nothing in it but text."""

    message: _TextMessage
    done: bool = False
    error: None = None
    logprobs: None = None


_decode_text = msgspec.json.Decoder(_TextLine).decode


class AnswerDecoder:
    """Reads one answer. `answer_id` seeds the ids of tool calls that came without one."""

    __slots__ = ("_answer_id", "_calls", "_failed", "_lines", "_stopped")

    def __init__(self, answer_id: str, max_line_bytes: int) -> None:
        self._answer_id = answer_id
        self._lines = ndjson.Lines(max_line_bytes)
        self._calls = 0
        self._stopped = False
        self._failed = False

    def feed(self, chunk: bytes) -> list[StreamEvent]:
        events: list[StreamEvent] = []
        for line in self._lines.feed(chunk):
            if self._failed:
                break
            try:
                told = _decode(line)
            except strict.MALFORMED as bad:
                if not line.strip():
                    continue
                raise BackendError(f"the backend's answer is not Ollama's: {_why(bad)}") from bad
            if self._stopped:
                raise BackendError("the backend went on after the end of its answer")
            message = told.message
            if message is None or message.thinking or message.tool_calls or told.logprobs or told.error is not None:
                self._rarer(told, events)
            elif message.content:
                events.append(TextDelta(message.content))
            if told.done and not self._failed:
                self._stopped = True
                events += (_usage(told), Stop("length" if told.done_reason == "length" else "stop"))
        return events

    def text(self, chunk: bytes) -> str:
        if chunk.find(b"\n") + 1 != len(chunk) or self._lines.held:
            return ""
        try:
            told = _decode_text(chunk)
        except strict.MALFORMED:
            return ""
        return "" if told.done else told.message.content

    def finish(self) -> list[StreamEvent]:
        return self.feed(b"\n")  # ends the line that has no end; a blank one means nothing

    def _rarer(self, told: _Line, events: list[StreamEvent]) -> None:
        if told.error is not None:
            self._failed = True
            events.append(Failure(_error_text(told.error)))
            return
        message = told.message or _generated(told)
        if message.thinking:
            events.append(ReasoningDelta(message.thinking))
        if told.logprobs and not (message.thinking and not message.content):
            # Even without text: Ollama sends them so while it holds text back that may become a tool call.
            events.append(TextDelta(message.content or "", openai_items(told.logprobs)))
        elif message.content:
            events.append(TextDelta(message.content))
        if message.tool_calls:
            events.extend([self._tool_call(call) for call in message.tool_calls])

    def _tool_call(self, call: _ToolCall) -> ToolCallDelta:
        index = self._calls
        self._calls += 1
        arguments = call.function.arguments
        text = arguments if isinstance(arguments, str) else _json(arguments or {}).decode()
        return ToolCallDelta(index, text, call.id or f"call_{self._answer_id}_{index}", call.function.name)


def _generated(told: _Line) -> _Message:
    if told.response is None and not told.done:
        raise BackendError("the backend's answer is not Ollama's: an object with neither message nor response")
    return _Message(told.response, told.thinking, told.tool_calls)


def _error_text(error: Any) -> str:
    if isinstance(error, dict):
        error = error.get("message")
    return error if isinstance(error, str) and error else "the backend failed and did not say why"


def _why(bad: Exception) -> str:
    """Never the bytes themselves: they may hold anything."""
    return str(bad) if isinstance(bad, msgspec.DecodeError) else type(bad).__name__


def _usage(told: _Line) -> Usage:
    return Usage(
        _count(told.prompt_eval_count),
        _count(told.eval_count),
        _seconds(told.load_duration),
        _seconds(told.prompt_eval_duration),
        _seconds(told.eval_duration),
    )


def _count(tokens: int) -> int:
    return tokens if 0 <= tokens <= MOST_TOKENS else 0


def _seconds(ns: int) -> float:
    return ns / 1e9 if 0 <= ns < 1 << 63 else 0.0
