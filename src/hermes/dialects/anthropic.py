"""Anthropic's messages, the client dialect: whole answers; streams and errors have files of their own."""

from typing import Any

import msgspec
from msgspec import Struct

from hermes.chat import Answer, ChatRequest, Sampling, ToolCall, Usage
from hermes.dialects import Meta, anthropic_error, anthropic_request, anthropic_stream, quota, sse, tools

_json = msgspec.json.Encoder().encode


class Anthropic:
    stream_content_type = sse.CONTENT_TYPE
    quota_lines = staticmethod(quota.anthropic_lines)
    # The newest version of the API has no sampling at all: the model's own values hold.
    sampling_defaults = Sampling()

    parse_request = staticmethod(anthropic_request.parse_request)
    render_error = staticmethod(anthropic_error.error_object)

    def render_answer(self, answer: Answer, request: ChatRequest, meta: Meta) -> bytes:
        return _json(
            _Message(
                f"msg_{meta.request_id}",
                "message",
                "assistant",
                meta.model,
                _content(answer),
                anthropic_stream.stop_reason(answer.reason, bool(answer.tool_calls), answer.stop_text),
                answer.stop_text or None,
                _usage(answer.usage),
            )
        )

    def encoder(self, request: ChatRequest, meta: Meta) -> anthropic_stream.EventEncoder:
        return anthropic_stream.EventEncoder(meta)

    def queued(self, position: int, eta_ms: int, meta: Meta) -> bytes:
        # The comment is for people, the event for clients: to some only events are a sign of life.
        return sse.comment(f"queued position={position} eta_ms={eta_ms}") + anthropic_stream.PING


class _Text(Struct, gc=False):
    type: str
    text: str


class _Usage(Struct, gc=False):
    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0


def _usage(told: Usage) -> _Usage:
    """Anthropic counts what was read before apart from the rest."""
    return _Usage(told.prompt_tokens - told.cached_tokens, told.completion_tokens, 0, told.cached_tokens)


class _Message(Struct, gc=False):
    id: str
    type: str
    role: str
    model: str
    content: list[_Text | dict[str, Any]]
    stop_reason: str
    stop_sequence: str | None
    usage: _Usage


def _content(answer: Answer) -> list[_Text | dict[str, Any]]:
    if not (answer.reasoning or answer.tool_calls):
        return [_Text("text", answer.text)]
    blocks: list[_Text | dict[str, Any]] = []
    if answer.reasoning:
        blocks.append({"type": "thinking", "thinking": answer.reasoning, "signature": anthropic_stream.SIGNATURE})
    if answer.text:
        blocks.append(_Text("text", answer.text))
    blocks += [_tool_use(call) for call in answer.tool_calls]
    return blocks


def _tool_use(call: ToolCall) -> dict[str, Any]:
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": tools.as_object(call.arguments)}
