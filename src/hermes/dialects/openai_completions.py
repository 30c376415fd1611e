"""OpenAI's completions, the client dialect: a text goes on, whole and as chunks.

No template of the model's is put around it, whatever the backend. One with a suffix is the exception: how to fill in is
what a template says.
"""

from typing import Annotated

import msgspec
from msgspec import Meta as Limits

from hermes.chat import (
    Answer,
    ChatRequest,
    Message,
    ReasoningDelta,
    RichMessage,
    Sampling,
    StopReason,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
)
from hermes.dialects import Meta, fields, openai_request, quota, sse, strict
from hermes.dialects.error_object import error_object
from hermes.dialects.logprobs import in_old_form
from hermes.dialects.openai import ChunkEncoder
from hermes.errors import BadRequest, GatewayError

_json = msgspec.json.Encoder().encode


class Completions:
    stream_content_type = sse.CONTENT_TYPE
    quota_lines = staticmethod(quota.openai_lines)
    # What the API documents.
    sampling_defaults = Sampling(temperature=1.0, top_p=1.0, max_tokens=16)

    def parse_request(self, body: bytes, model: str | None = None) -> ChatRequest:
        tree = strict.parse_object(body, KNOWN)
        asked = strict.convert(tree, _Body)
        _refuse_what_we_cannot_do(asked)
        return ChatRequest(
            fields.one_model(asked.model, model),
            (Message("user", _prompt(asked.prompt)),),
            asked.stream is True,
            openai_request.include_usage(asked),
            completion=True,
            raw=not asked.suffix,
            suffix=asked.suffix or "",
            echo=asked.echo is True,
            sampling=openai_request.sampling_beyond(asked),
            logprobs=asked.logprobs is not None,
            top_logprobs=asked.logprobs or 0,
            priority=asked.priority or 0,
            service_tier=asked.service_tier or "",
            thinking="off",  # else Ollama takes what looks like thoughts out of the text
            load_options=fields.load_options(asked.options, asked.keep_alive),
            extra=openai_request.besides(tree, KNOWN),
        )

    def render_answer(self, answer: Answer, request: ChatRequest, meta: Meta) -> bytes:
        choice = {
            "text": _echoed(request) + answer.text,
            "index": 0,
            "logprobs": in_old_form(answer.logprobs, 0) if answer.logprobs else None,
            "finish_reason": _finish_reason(answer.reason),
        }
        told = {
            "id": f"cmpl-{meta.request_id}",
            "object": "text_completion",
            "created": meta.created,
            "model": meta.model,
            "choices": [choice],
            "usage": msgspec.Raw(fields.token_counts(answer.usage)),
        }
        return _json(told)

    def encoder(self, request: ChatRequest, meta: Meta) -> "TextEncoder":
        return TextEncoder(request, meta)

    def queued(self, position: int, eta_ms: int, meta: Meta) -> bytes:
        return sse.comment(f"queued position={position} eta_ms={eta_ms}")

    def render_error(self, error: GatewayError, request_id: str) -> bytes:
        return error_object(error)


# --- the request --------------------------------------------------------------------------------------------------


class _Body(openai_request.Beyond):
    prompt: str | list[str | int | list[int]] | None = None
    suffix: str | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Limits(ge=0, le=20)] | None = None
    n: int | None = None
    best_of: int | None = None
    priority: fields.Priority | None = None
    service_tier: str | None = None
    options: fields.Loading | None = None
    keep_alive: fields.KeepAlive | None = None


KNOWN = frozenset(_Body.__struct_fields__)


def _refuse_what_we_cannot_do(asked: _Body) -> None:
    for name in ("n", "best_of"):
        if getattr(asked, name) not in (None, 1):
            words = f"`{name}` must be 1, not {getattr(asked, name)}: one answer per request"
            raise BadRequest(words, code="unsupported_value", param=name)
    if asked.echo and asked.logprobs is not None:
        words = "`echo` together with `logprobs` is not supported: no backend tells the prompt's own"
        raise BadRequest(words, code=fields.UNSUPPORTED, param="echo")


def _prompt(asked: str | list[str | int | list[int]] | None) -> str:
    given = [asked] if isinstance(asked, str) else asked
    if not given or given == [""]:
        words = "`prompt` is missing" if asked is None else "`prompt` must not be empty"
        raise BadRequest(words, code=fields.MISSING, param="prompt")
    if not isinstance(given[0], str):
        words = "`prompt` must be a text: tokens are of one model's own vocabulary, and nobody knows whose these are"
        raise BadRequest(words, code=fields.UNSUPPORTED, param="prompt")
    if len(given) > 1:
        words = f"`prompt` must be one text, not {len(given)}: one answer per request"
        raise BadRequest(words, code="unsupported_value", param="prompt")
    return given[0]


def _echoed(request: ChatRequest) -> str:
    said: Message | RichMessage = request.messages[0]
    return said.content if request.echo and type(said) is Message else ""


# --- the answer ---------------------------------------------------------------------------------------------------


def _finish_reason(reason: StopReason) -> StopReason:
    return "stop" if reason == "tool_calls" else reason


class TextEncoder(ChunkEncoder):
    """One stream of `text_completion` events, `data: [DONE]` after the last."""

    _id, _object = "cmpl", "text_completion"
    _opening, _closing, _nothing = b'"text":', b',"logprobs":null', b'"text":"","logprobs":null'

    def __init__(self, request: ChatRequest, meta: Meta) -> None:
        super().__init__(meta, request.include_usage)
        self._echo = _echoed(request)
        self._offset = 0

    def _open(self) -> bytes:
        self._opened = True
        return self.text(self._echo) if self._echo else b""

    def _rarer(self, event: StreamEvent) -> bytes:
        match event:
            case TextDelta():
                logprobs = _json(in_old_form(event.logprobs, self._offset))
                self._offset += sum(len(item["token"]) for item in event.logprobs)
                return b'%s%s,"logprobs":%s%s' % (self._text, _json(event.text), logprobs, self._going_on)
            case ReasoningDelta() | ToolCallDelta():
                return b""  # there is no place for them
        return super()._rarer(event)

    def _stop(self, reason: StopReason) -> bytes:
        return super()._stop(_finish_reason(reason))
