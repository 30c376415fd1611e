"""Ollama's native API, the client dialect: the answers of `/api/chat`, `/api/generate` and the embeddings, and errors.

A line is spliced: what is the same for all lines of a stream is prepared once, per delta only its text is escaped.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, assert_never

import msgspec

from hermes.chat import (
    Answer,
    ChatRequest,
    Embeddings,
    EmbedRequest,
    Failure,
    ReasoningDelta,
    Sampling,
    Stop,
    StopReason,
    StreamEvent,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    Usage,
    collect,
)
from hermes.dialects import Meta, ndjson, ollama_request, quota, strict
from hermes.dialects.room import Room
from hermes.errors import BackendError, ContextLengthExceeded, GatewayError, ModelNotFound

_json = msgspec.json.Encoder().encode


class OllamaClient:
    """`/api/chat`, and `/api/embed`."""

    stream_content_type = ndjson.CONTENT_TYPE
    quota_lines = staticmethod(quota.openai_lines)
    sampling_defaults = Sampling()

    def parse_request(self, body: bytes, model: str | None = None) -> ChatRequest:
        return ollama_request.parse_chat(body, model)

    def render_answer(self, answer: Answer, request: ChatRequest, meta: Meta) -> bytes:
        told = _head(meta) | self.said(answer.text, answer.reasoning, answer.tool_calls)
        if answer.logprobs:
            told["logprobs"] = answer.logprobs
        return _json(told)[:-1] + _done(answer.reason, answer.usage, meta)

    def said(self, text: str, reasoning: str = "", calls: Sequence[ToolCall] = ()) -> dict[str, Any]:
        """What one line says."""
        return {"message": {"role": "assistant", "content": text} | _besides(reasoning, calls)}

    def encoder(self, request: ChatRequest, meta: Meta) -> "LineEncoder":
        return LineEncoder(self, meta, b',"message":{"role":"assistant","content":', b'},"done":false}\n')

    def queued(self, position: int, eta_ms: int, meta: Meta) -> bytes:
        """A piece of the answer with nothing in it, which is what every client can read."""
        place = {"done": False, "queued": {"position": position, "eta_ms": eta_ms}}
        return _json(_head(meta) | self.said("") | place) + b"\n"

    def loaded(self, reason: str, meta: Meta) -> bytes:
        """The answer to a request that asked for nothing but the model. `reason`: load or unload."""
        return _json(_head(meta) | self.said("") | {"done": True, "done_reason": reason})

    def render_error(self, error: GatewayError, request_id: str) -> bytes:
        # Ollama has no codes; its clients leave alone what they do not know.
        told = {"error": _words(error), "code": error.code}
        return _json(told if error.param is None else told | {"param": error.param})

    # --- embeddings -------------------------------------------------------------------------------------------------

    def parse_embed(self, body: bytes) -> EmbedRequest:
        return ollama_request.parse_embed(body)

    def render_embeddings(self, made: Embeddings, request: EmbedRequest, meta: Meta) -> bytes:
        told = {"model": meta.model, "embeddings": made.vectors}
        if not request.texts:
            return _json(told)
        total_ns, load_ns, _ = _durations(made.usage, meta)
        took = {"total_duration": total_ns, "load_duration": load_ns, "prompt_eval_count": made.usage.prompt_tokens}
        return _json(told | took)


class OllamaGenerate(OllamaClient):
    """`/api/generate`, and `/api/embeddings`: each an older form of the same."""

    def parse_request(self, body: bytes, model: str | None = None) -> ChatRequest:
        return ollama_request.parse_generate(body, model)

    def said(self, text: str, reasoning: str = "", calls: Sequence[ToolCall] = ()) -> dict[str, Any]:
        return {"response": text} | _besides(reasoning, calls)

    def encoder(self, request: ChatRequest, meta: Meta) -> "LineEncoder":
        return LineEncoder(self, meta, b',"response":', b',"done":false}\n')

    def parse_embed(self, body: bytes) -> EmbedRequest:
        return ollama_request.parse_embeddings(body)

    def render_embeddings(self, made: Embeddings, request: EmbedRequest, meta: Meta) -> bytes:
        return _json({"embedding": made.vectors[0] if made.vectors else []})


class LineEncoder:
    """One stream of lines; the last says `"done": true` or `"error"`. Tool calls come whole, in the line before it."""

    def __init__(self, dialect: OllamaClient, meta: Meta, opening: bytes, closing: bytes) -> None:
        self._dialect = dialect
        self._meta = meta
        self._head = _head(meta)
        self._text = _json(self._head)[:-1] + opening
        self._text_end = closing
        self._calls: list[StreamEvent] = []
        self._room = Room()
        self._usage = Usage()

    def encode(self, events: list[StreamEvent]) -> bytes:
        lines = []
        for event in events:
            if type(event) is TextDelta and not event.logprobs:
                lines.append(self.text(event.text))
            else:
                lines.append(self._rarer(event))
        return b"".join(lines)

    def text(self, text: str) -> bytes:
        return self._text + _json(text) + self._text_end

    def aside(self, text: str) -> bytes:
        return b""

    def fail(self, error: GatewayError) -> bytes:
        return self._dialect.render_error(error, self._meta.request_id) + b"\n"

    def _rarer(self, event: StreamEvent) -> bytes:
        said = self._dialect.said
        match event:
            case TextDelta():
                return self._line(said(event.text) | {"done": False, "logprobs": event.logprobs})
            case ReasoningDelta():
                return self._line(said("", event.text) | {"done": False})
            case ToolCallDelta():
                self._room.take(len(event.arguments) + len(event.name) + len(event.id) + 1)
                self._calls.append(event)
                return b""
            case Usage():
                self._usage = event
                return b""
            case Stop():
                called = self._called(event)
                before = self._line(said("", "", called) | {"done": False}) if called else b""
                done = _done(event.reason, self._usage, self._meta)
                return before + _json(self._head | said(""))[:-1] + done + b"\n"
            case Failure():
                return self.fail(BackendError(event.message))
            case _:
                assert_never(event)

    def _line(self, told: dict[str, Any]) -> bytes:
        return _json(self._head | told) + b"\n"

    def _called(self, stop: Stop) -> tuple[ToolCall, ...]:
        added = collect([*self._calls, stop])
        return added.tool_calls if isinstance(added, Answer) else ()


def _head(meta: Meta) -> dict[str, Any]:
    return {"model": meta.model, "created_at": _rfc3339(meta.created)}


@lru_cache(maxsize=16)
def _rfc3339(created: int) -> str:
    """Of the requests of one second, which have it in common: 3 us."""
    return datetime.fromtimestamp(created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _besides(reasoning: str, calls: Sequence[ToolCall]) -> dict[str, Any]:
    """What is told only where there is any."""
    told: dict[str, Any] = {"thinking": reasoning} if reasoning else {}
    if calls:
        told["tool_calls"] = [_tool_call(call, index) for index, call in enumerate(calls)]
    return told


def _tool_call(call: ToolCall, index: int) -> dict[str, Any]:
    function = {"index": index, "name": call.name, "arguments": _arguments(call)}
    return {"id": call.id, "function": function} if call.id else {"function": function}


def _arguments(call: ToolCall) -> msgspec.Raw:
    """The object that clients want, as the model wrote it. Raises BackendError if it is none."""
    text = call.arguments.strip() or "{}"
    try:
        value = msgspec.json.decode(text)
    except strict.MALFORMED:
        value = None
    if type(value) is not dict:
        raise BackendError(f"the model called {call.name[:200]!r} with arguments that are no JSON object")
    return msgspec.Raw(text.encode())


def _done(reason: StopReason, usage: Usage, meta: Meta) -> bytes:
    """The end of an answer, for splicing. All counts are there, and no duration is 0: clients divide by them."""
    total_ns, load_ns, rest_ns = _durations(usage, meta)
    prefill_ns = _ns(usage.prefill_s)
    return (
        b',"done":true,"done_reason":"%b","total_duration":%d,"load_duration":%d,'
        b'"prompt_eval_count":%d,"prompt_eval_duration":%d,"eval_count":%d,"eval_duration":%d}'
    ) % (
        b"length" if reason == "length" else b"stop",
        total_ns,
        load_ns,
        usage.prompt_tokens,
        prefill_ns or 1,
        usage.completion_tokens,
        # A backend that does not tell: all that is not explained otherwise.
        _ns(usage.decode_s) or max(1, rest_ns - prefill_ns),
    )


def _durations(usage: Usage, meta: Meta) -> tuple[int, int, int]:
    """Nanoseconds in all; until the model was there, which to Ollama is the queue and its load; and after that."""
    timings: Mapping[str, float] = meta.timings()
    load_ns = _ns(timings.get("queue_ms", 0.0) / 1e3 + usage.load_s)
    total_ns = max(_ns(timings.get("total_ms", 0.0) / 1e3), load_ns + _ns(usage.prefill_s + usage.decode_s))
    return total_ns, load_ns, total_ns - load_ns


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)


def _words(error: GatewayError) -> str:
    """Ollama's clients tell a model that is to be pulled by these words, and a prompt that is too long."""
    if isinstance(error, ModelNotFound) and "not found" not in error.message:
        return f"model not found: {error.message}"
    if isinstance(error, ContextLengthExceeded) and "context length" not in error.message:
        return f"the input length exceeds the context length: {error.message}"
    return error.message
