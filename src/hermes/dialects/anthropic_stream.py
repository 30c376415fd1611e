"""Anthropic's messages, the stream: events by name, and content in blocks that begin and end one after the other.

1. One block is open at a time, its index one above the last; every answer has at least one.
2. A thinking block ends with a signature: Claude Code discards what comes without one.
3. What a call says after another block has begun has no place any more: an error, not a silent loss.
4. A delta is spliced: what is the same for all deltas of a text is prepared once, when its block begins.
"""

from typing import Any, assert_never

import msgspec

from hermes.chat import Failure, ReasoningDelta, Stop, StopReason, StreamEvent, TextDelta, ToolCallDelta, Usage
from hermes.dialects import Meta, sse
from hermes.dialects.anthropic_error import error_object
from hermes.errors import BackendError, GatewayError

_json = msgspec.json.Encoder().encode

# Not to be empty: some clients send a block back only if it has one. Nobody checks it here.
SIGNATURE = "hermes"

_STOP_REASONS: dict[StopReason, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}


def stop_reason(reason: StopReason, called: bool) -> str:
    # Backends say "stop" after tool calls; clients look for them only under this reason.
    return "tool_use" if called and reason == "stop" else _STOP_REASONS[reason]


# The SDKs drop an event without its name.
PING = sse.named("ping", b'{"type":"ping"}')
_MESSAGE_STOP = sse.named("message_stop", b'{"type":"message_stop"}')
_END = b"}}" + sse.CLOSE


class EventEncoder:
    """One stream, in which a block is open from the first content on."""

    def __init__(self, meta: Meta) -> None:
        self._meta = meta
        self._opened = False
        self._index = -1
        self._kind = ""  # of the open block
        self._call = -1  # the open block is this one's
        self._calls: set[int] = set()
        self._delta = b""  # what begins a delta of the open block
        self._text = b""  # the same up to the text; b"" unless that is what the block is of
        self._usage = Usage()

    def encode(self, events: list[StreamEvent]) -> bytes:
        if not events:
            return b""
        opening = b"" if self._opened else self._open()
        return opening + b"".join([self._event(event) for event in events])

    def text(self, text: str) -> bytes:
        if self._text:
            return self._text + _json(text) + _END
        begun = self._begin("text", {"text": ""})
        self._text = self._delta + b'"text_delta","text":'
        return begun + self._text + _json(text) + _END

    def aside(self, text: str) -> bytes:
        return sse.comment(text)

    def fail(self, error: GatewayError) -> bytes:
        return sse.named("error", error_object(error, self._meta.request_id))

    def _open(self) -> bytes:
        self._opened = True
        usage = {
            "input_tokens": self._meta.prompt_tokens,
            "output_tokens": 0,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
        }
        message: dict[str, Any] = {
            "id": f"msg_{self._meta.request_id}",
            "type": "message",
            "role": "assistant",
            "model": self._meta.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage,
        }
        return sse.named("message_start", _json({"type": "message_start", "message": message}))

    def _event(self, event: StreamEvent) -> bytes:
        match event:
            case TextDelta():
                return self.text(event.text)
            case ReasoningDelta():
                begun = b"" if self._kind == "thinking" else self._begin("thinking", {"thinking": "", "signature": ""})
                return b'%b%b"thinking_delta","thinking":%b%b' % (begun, self._delta, _json(event.text), _END)
            case ToolCallDelta():
                return self._tool_call(event)
            case Usage():
                self._usage = event
                return b""
            case Stop():
                return self._stop(event.reason)
            case Failure():
                return self.fail(BackendError(event.message))
            case _:
                assert_never(event)

    def _tool_call(self, event: ToolCallDelta) -> bytes:
        begun = b""
        if event.index != self._call:
            if event.index in self._calls:
                raise BackendError("the backend went back to a tool call that had ended")
            begun = self._begin("tool_use", {"id": event.id, "name": event.name, "input": {}})
            self._call = event.index
            self._calls.add(event.index)
        return b'%b%b"input_json_delta","partial_json":%b%b' % (begun, self._delta, _json(event.arguments), _END)

    def _begin(self, kind: str, content: dict[str, Any]) -> bytes:
        """Begin a block, where one is open in its place."""
        ended = self._end()
        self._index += 1
        self._kind = kind
        self._delta = b'event: content_block_delta\n%b{"type":"content_block_delta","index":%d,"delta":{"type":' % (
            sse.OPEN,
            self._index,
        )
        block = {"type": "content_block_start", "index": self._index, "content_block": {"type": kind} | content}
        return ended + sse.named("content_block_start", _json(block))

    def _end(self) -> bytes:
        """End the open block."""
        if not self._kind:
            return b""
        signed = b""
        if self._kind == "thinking":
            signed = b'%b"signature_delta","signature":"%b"%b' % (self._delta, SIGNATURE.encode(), _END)
        self._kind, self._call, self._text = "", -1, b""
        return signed + sse.named("content_block_stop", b'{"type":"content_block_stop","index":%d}' % self._index)

    def _stop(self, reason: StopReason) -> bytes:
        ended = self._end() if self._index >= 0 else self._begin("text", {"text": ""}) + self._end()
        usage = self._usage
        last = b'{"type":"message_delta","delta":{"stop_reason":"%b","stop_sequence":null},"usage":%b}' % (
            stop_reason(reason, bool(self._calls)).encode(),
            b'{"input_tokens":%d,"output_tokens":%d,"cache_read_input_tokens":%d}'
            % (usage.prompt_tokens - usage.cached_tokens, usage.completion_tokens, usage.cached_tokens),
        )
        return ended + sse.named("message_delta", last) + _MESSAGE_STOP
