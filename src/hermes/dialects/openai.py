"""OpenAI's API, the client dialect: chat completions whole and as chunks, errors; `openai_embed` has the embeddings.

A chunk is spliced: what is the same for all chunks of a stream is prepared once, per delta only its text is escaped.
"""

from typing import Any, assert_never

import msgspec
from msgspec import Struct

from hermes.chat import (
    Answer,
    ChatRequest,
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
)
from hermes.dialects import Meta, fields, openai_embed, openai_request, quota, sse
from hermes.dialects.error_object import error_object
from hermes.errors import BackendError, GatewayError

_json = msgspec.json.Encoder().encode


class OpenAI:
    stream_content_type = sse.CONTENT_TYPE
    quota_lines = staticmethod(quota.openai_lines)
    # What the API documents, and what its clients expect: servers' own defaults differ.
    sampling_defaults = Sampling(temperature=1.0, top_p=1.0)

    parse_request = staticmethod(openai_request.parse_request)
    parse_embed = staticmethod(openai_embed.parse_embed)
    render_embeddings = staticmethod(openai_embed.render_embeddings)

    def render_answer(self, answer: Answer, request: ChatRequest, meta: Meta) -> bytes:
        logprobs = {"content": answer.logprobs, "refusal": None} if answer.logprobs else None
        reason = _finish_reason(answer.reason, bool(answer.tool_calls))
        choice = _Choice(0, _message(answer), logprobs, reason)
        told, made = answer.usage.prompt_tokens, answer.usage.completion_tokens
        usage = _Usage(told, made, told + made)
        if answer.usage.cached_tokens:
            usage.prompt_tokens_details = {"cached_tokens": answer.usage.cached_tokens}
        id = f"chatcmpl-{meta.request_id}"
        return _json(_Completion(id, "chat.completion", meta.created, meta.model, (choice,), usage))

    def encoder(self, request: ChatRequest, meta: Meta) -> "ChunkEncoder":
        return ChunkEncoder(meta, request.include_usage)

    def queued(self, position: int, eta_ms: int, meta: Meta) -> bytes:
        return sse.comment(f"queued position={position} eta_ms={eta_ms}")

    def render_error(self, error: GatewayError, request_id: str) -> bytes:
        return error_object(error)


class _Message(Struct, gc=False):
    """One with a text and nothing else."""

    role: str
    content: str
    refusal: None = None


class _Choice(Struct, gc=False):
    index: int
    message: _Message | dict[str, Any]
    logprobs: dict[str, Any] | None
    finish_reason: StopReason


class _Usage(Struct, gc=False, omit_defaults=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[str, int] | None = None


class _Completion(Struct, gc=False):
    id: str
    object: str
    created: int
    model: str
    choices: tuple[_Choice]
    usage: _Usage


def _message(answer: Answer) -> _Message | dict[str, Any]:
    if not (answer.reasoning or answer.tool_calls):
        return _Message("assistant", answer.text)
    text = None if answer.tool_calls and not answer.text else answer.text
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
    if answer.reasoning:
        message["reasoning_content"] = message["reasoning"] = answer.reasoning
    if answer.tool_calls:
        message["tool_calls"] = [_tool_call(call) for call in answer.tool_calls]
    return message


def _tool_call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _finish_reason(reason: StopReason, called: bool) -> StopReason:
    # Backends say "stop" after tool calls; clients look for them only under this reason.
    return "tool_calls" if called and reason == "stop" else reason


class ChunkEncoder:
    """One stream of `chat.completion.chunk` events, `data: [DONE]` after the last."""

    _id, _object = "chatcmpl", "chat.completion.chunk"
    # What stands around a choice's text, and in a choice without any.
    _opening, _closing, _nothing = b'"delta":{"content":', b"}", b'"delta":{}'

    def __init__(self, meta: Meta, include_usage: bool) -> None:
        head = _json({"id": f"{self._id}-{meta.request_id}", "object": self._object})[:-1]
        self._same = b'%s%s,"created":%d,"model":%s,"choices":[' % (sse.OPEN, head, meta.created, _json(meta.model))
        self._include_usage = include_usage
        self._choice = self._same + b'{"index":0,'
        self._end = (b'],"usage":null}' if include_usage else b"]}") + sse.CLOSE
        self._going_on = b',"finish_reason":null}' + self._end
        self._text = self._choice + self._opening
        self._text_end = self._closing + self._going_on
        self._opened = False
        self._called = False
        self._usage = Usage()

    def encode(self, events: list[StreamEvent]) -> bytes:
        if not events:
            return b""
        chunks = [] if self._opened else [self._open()]
        for event in events:
            if type(event) is TextDelta and not event.logprobs:
                chunks.append(self.text(event.text))
            else:
                chunks.append(self._rarer(event))
        return b"".join(chunks)

    def text(self, text: str) -> bytes:
        return self._text + _json(text) + self._text_end

    def aside(self, text: str) -> bytes:
        return sse.comment(text)

    def fail(self, error: GatewayError) -> bytes:
        # Never [DONE]: some clients take it for success.
        return sse.event(error_object(error))

    def _open(self) -> bytes:
        self._opened = True
        return self._chunk({"role": "assistant", "content": ""})

    def _rarer(self, event: StreamEvent) -> bytes:
        match event:
            case TextDelta():
                logprobs = _json({"content": event.logprobs, "refusal": None})
                return b'%s%s},"logprobs":%s%s' % (self._text, _json(event.text), logprobs, self._going_on)
            case ReasoningDelta():
                # Clients disagree on the name; the AI SDK reads either.
                return self._chunk({"reasoning_content": event.text, "reasoning": event.text})
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

    def _chunk(self, delta: dict[str, Any]) -> bytes:
        return b'%s"delta":%s%s' % (self._choice, _json(delta), self._going_on)

    def _tool_call(self, event: ToolCallDelta) -> bytes:
        self._called = True
        call: dict[str, Any] = {"index": event.index}
        function = {"arguments": event.arguments}
        if event.name:
            call |= {"id": event.id, "type": "function"}
            function = {"name": event.name} | function
        call["function"] = function
        return self._chunk({"tool_calls": [call]})

    def _stop(self, reason: StopReason) -> bytes:
        last = b'%s%s,"finish_reason":"%s"}%s' % (
            self._choice,
            self._nothing,
            _finish_reason(reason, self._called).encode(),
            self._end,
        )
        if self._include_usage:
            last += self._same + b'],"usage":' + fields.token_counts(self._usage) + b"}" + sse.CLOSE
        return last + sse.DONE
