"""The prompt dialect, Hermes's own: one prompt in, one result out; streams are lines of JSON."""

from typing import Any, assert_never

import msgspec

from hermes.chat import (
    Answer,
    ChatRequest,
    Failure,
    ReasoningDelta,
    Sampling,
    Stop,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from hermes.dialects import Meta, fields, ndjson, prompt_request, quota
from hermes.dialects.error_object import error_object
from hermes.errors import BackendError, GatewayError

_json = msgspec.json.Encoder().encode


class Prompt:
    stream_content_type = ndjson.CONTENT_TYPE
    quota_lines = staticmethod(quota.openai_lines)
    sampling_defaults = Sampling()

    def parse_request(self, body: bytes, model: str | None = None) -> ChatRequest:
        return prompt_request.parse_request(body, model)

    def render_answer(self, answer: Answer, request: ChatRequest, meta: Meta) -> bytes:
        whole: dict[str, Any] = {"result": answer.text}
        if answer.reasoning:
            whole["reasoning"] = answer.reasoning
        whole |= {"model": meta.model, "reason": answer.reason, **_account(answer.usage, meta)}
        return _json(whole)

    def encoder(self, request: ChatRequest, meta: Meta) -> "LineEncoder":
        return LineEncoder(meta)

    def queued(self, position: int, eta_ms: int, meta: Meta) -> bytes:
        return b'{"queued":{"position":%d,"eta_ms":%d}}\n' % (position, eta_ms)

    def render_error(self, error: GatewayError, request_id: str) -> bytes:
        return error_object(error)


def _account(usage: Usage, meta: Meta) -> dict[str, Any]:
    """What the answer took: tokens, and milliseconds where they are known."""
    told = {"load_ms": usage.load_s, "prefill_ms": usage.prefill_s, "decode_ms": usage.decode_s}
    return {
        "usage": msgspec.Raw(fields.token_counts(usage)),
        "timings": {name: round(spent_s * 1e3, 3) for name, spent_s in told.items() if spent_s} | dict(meta.timings()),
    }


class LineEncoder:
    """One stream of lines; the last says `"done": true` or `"error"`."""

    def __init__(self, meta: Meta) -> None:
        self._meta = meta
        self._usage = Usage()

    def encode(self, events: list[StreamEvent]) -> bytes:
        return b"".join([self._line(event) for event in events])

    def text(self, text: str) -> bytes:
        return b'{"delta":%s}\n' % _json(text)

    def aside(self, text: str) -> bytes:
        return b""

    def fail(self, error: GatewayError) -> bytes:
        return error_object(error) + b"\n"

    def _line(self, event: StreamEvent) -> bytes:
        match event:
            case TextDelta():
                return self.text(event.text)
            case ReasoningDelta():
                return b'{"reasoning":%s}\n' % _json(event.text)
            case ToolCallDelta():
                return b""  # nobody asked: the dialect has no tools
            case Usage():
                self._usage = event
                return b""
            case Stop():
                done = {"done": True, "model": self._meta.model, "reason": event.reason}
                return _json(done | _account(self._usage, self._meta)) + b"\n"
            case Failure():
                return self.fail(BackendError(event.message))
            case _:
                assert_never(event)
