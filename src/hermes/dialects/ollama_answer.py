"""Ollama's answers: lines of JSON to events, whole answers and streams alike.

1. An answer ends with the one object that says `"done": true`, which may itself carry text and tool calls. Bytes that
   end without one were truncated: no `Stop` is ever made up.
2. An `{"error": ...}` line is a `Failure`; whatever follows it is not read.
3. Anything else that is not an answer (HTML, wrong types, bytes after the end) is a BackendError (I15).
"""

from typing import Any

import msgspec
from msgspec import Struct

from hermes.chat import Failure, ReasoningDelta, Stop, StreamEvent, TextDelta, ToolCallDelta, Usage
from hermes.dialects import ndjson, strict
from hermes.errors import BackendError


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


class _TokenLogprob(Struct, gc=False):
    token: str = ""
    logprob: float = 0.0
    bytes: list[int] | None = None


class _Logprob(_TokenLogprob, gc=False):
    top_logprobs: list[_TokenLogprob] | None = None


class _Line(Struct, gc=False):
    """A line of `/api/chat` (`message`) or of `/api/generate` (`response`, `thinking`, `tool_calls`)."""

    message: _Message | None = None
    response: str | None = None
    thinking: str | None = None
    tool_calls: list[_ToolCall] | None = None
    done: bool = False
    done_reason: str | None = None
    error: Any = None
    logprobs: list[_Logprob] | None = None
    prompt_eval_count: int = 0
    eval_count: int = 0
    load_duration: int = 0
    prompt_eval_duration: int = 0
    eval_duration: int = 0


_decode = msgspec.json.Decoder(_Line).decode
_json = msgspec.json.Encoder().encode


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
            self._read(line, events)
        return events

    def finish(self) -> list[StreamEvent]:
        events: list[StreamEvent] = []
        self._read(self._lines.finish(), events)
        return events

    def _read(self, line: bytes, events: list[StreamEvent]) -> None:
        if self._failed:
            return
        try:
            told = _decode(line)
        except strict.MALFORMED as bad:
            if not line.strip():
                return
            raise BackendError(f"the backend's answer is not Ollama's: {_why(bad)}") from bad
        if self._stopped:
            raise BackendError("the backend went on after the end of its answer")
        if told.error is not None:
            self._failed = True
            events.append(Failure(_error_text(told.error)))
            return
        message = told.message or _generated(told)
        if message.thinking:
            events.append(ReasoningDelta(message.thinking))
        if told.logprobs and not (message.thinking and not message.content):
            # Even without text: Ollama sends them so while it holds text back that may become a tool call.
            events.append(TextDelta(message.content or "", _logprobs(told.logprobs)))
        elif message.content:
            events.append(TextDelta(message.content))
        if message.tool_calls:
            events.extend([self._tool_call(call) for call in message.tool_calls])
        if told.done:
            self._stopped = True
            events += (_usage(told), Stop("length" if told.done_reason == "length" else "stop"))

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


# More tokens than any model has ever seen: a count beyond is a lie, like a negative one (I15).
_ABSURD = 1 << 40


def _usage(told: _Line) -> Usage:
    return Usage(
        _count(told.prompt_eval_count),
        _count(told.eval_count),
        _seconds(told.load_duration),
        _seconds(told.prompt_eval_duration),
        _seconds(told.eval_duration),
    )


def _count(tokens: int) -> int:
    return tokens if 0 <= tokens <= _ABSURD else 0


def _seconds(ns: int) -> float:
    return ns / 1e9 if 0 <= ns < 1 << 63 else 0.0


def _logprobs(told: list[_Logprob]) -> tuple[dict[str, Any], ...]:
    return tuple(_token(item) | {"top_logprobs": [_token(other) for other in item.top_logprobs or ()]} for item in told)


def _token(item: _TokenLogprob) -> dict[str, Any]:
    spelled = list(item.token.encode()) if item.bytes is None else item.bytes
    return {"token": item.token, "logprob": item.logprob, "bytes": spelled}
