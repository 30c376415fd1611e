"""Anthropic's messages, the request: what is asked for, or a 400 that names the field.

Refused is only what changes the meaning of the request and cannot be honoured. Anything else that we do not know
is left out; null means absent, everywhere. Every version of the API is taken, and none: newer ones refuse what older
ones had (`temperature`), which does no harm here.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta as Limits
from msgspec import Struct

from hermes.chat import ChatRequest, JsonFormat, Message, MustCall, RichMessage, Sampling, Thinking, Tool, ToolChoice
from hermes.dialects import anthropic_messages, fields, strict
from hermes.dialects.fields import MISSING, UNSUPPORTED
from hermes.errors import BadRequest


class _Tool(Struct):
    name: str | None = None
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None


class _ToolChoice(Struct):
    type: str
    name: str | None = None


class _Thinking(Struct):
    type: str


class _Format(Struct):
    type: str
    schema: dict[str, Any] | None = None


class _OutputConfig(Struct):
    effort: str | None = None
    format: _Format | None = None


class _Asked(Struct, kw_only=True, omit_defaults=True, gc=False):
    """What simple requests make do with."""

    model: str | None = None
    stream: bool | None = None
    max_tokens: fields.Count | None = None
    stop_sequences: list[str] | None = None
    temperature: fields.Temperature | None = None
    top_p: fields.Share | None = None
    top_k: fields.CountOrZero | None = None


class _Plain(_Asked, gc=False):
    """A request that holds nothing but those and texts, which are taken as they are."""

    messages: Annotated[tuple[Message, ...], Limits(min_length=1)]
    system: str | None = None


class _Body(_Asked):
    messages: list[anthropic_messages.AskedMessage] | None = None
    system: str | anthropic_messages.Blocks | None = None
    tools: list[_Tool] | None = None
    tool_choice: _ToolChoice | None = None
    thinking: _Thinking | None = None
    output_config: _OutputConfig | None = None
    output_format: _Format | None = None  # its older place
    priority: fields.Priority | None = None


KNOWN = frozenset(_Body.__struct_fields__)

_decode_plain = msgspec.json.Decoder(_Plain).decode


def parse_request(body: bytes, model: str | None = None) -> ChatRequest:
    plain = strict.decode_exactly(body, _decode_plain)
    if plain is None:
        return _parse_closely(body, model)
    return ChatRequest(
        fields.one_model(plain.model, model),
        anthropic_messages.system(plain.system) + plain.messages if plain.system else plain.messages,
        plain.stream is True,
        sampling=_sampling(plain),
        thinking="off",
        thinking_optional=True,
    )


def _parse_closely(body: bytes, model: str | None) -> ChatRequest:
    asked = strict.convert(strict.parse_object(body, KNOWN), _Body)
    said: tuple[Message | RichMessage, ...] = anthropic_messages.messages(asked.messages)
    configured = asked.output_config or _OutputConfig()
    tools = tuple(_tool(tool, f"tools[{index}]") for index, tool in enumerate(asked.tools or ()))
    return ChatRequest(
        fields.one_model(asked.model, model),
        anthropic_messages.system(asked.system) + said,
        asked.stream is True,
        tools=tools,
        tool_choice=_tool_choice(asked.tool_choice, tools),
        sampling=_sampling(asked),
        json_format=_json_format(configured.format, "output_config.format")
        or _json_format(asked.output_format, "output_format"),
        thinking=_thinking(asked.thinking, configured.effort),
        thinking_optional=True,
        priority=asked.priority or 0,
    )


def _sampling(asked: _Asked) -> Sampling:
    return Sampling(
        temperature=asked.temperature,
        top_p=asked.top_p,
        top_k=asked.top_k or None,
        max_tokens=asked.max_tokens,
        stop=fields.stop_texts(asked.stop_sequences) if asked.stop_sequences else (),
    )


def _tool(asked: _Tool, at: str) -> Tool:
    if asked.type is not None and asked.type != "custom":
        # Its meaning, and often its execution, is Anthropic's: a model here knows nothing of it.
        words = f"`{at}.type` must be custom, not `{asked.type[:40]}`: Anthropic's own tools cannot be had here"
        raise BadRequest(words, code=UNSUPPORTED, param=f"{at}.type")
    if not asked.name:
        raise BadRequest(f"`{at}.name` is missing", code=MISSING, param=f"{at}.name")
    return Tool(asked.name, asked.description or "", asked.input_schema)


def _tool_choice(asked: _ToolChoice | None, tools: tuple[Tool, ...]) -> ToolChoice:
    if asked is None or asked.type == "auto":
        return "auto"
    if asked.type == "none":
        return "none"
    if asked.type == "any" and tools:
        return MustCall()
    if asked.type == "any":
        raise BadRequest("`tool_choice.type` is any, but there are no `tools`", param="tool_choice.type")
    if asked.type != "tool":
        words = f"`tool_choice.type` must be auto, none, any or tool, not `{asked.type[:40]}`"
        raise BadRequest(words, param="tool_choice.type")
    if not any(tool.name == asked.name for tool in tools):
        words = f"`tool_choice.name` must be one of `tools`, not `{(asked.name or '')[:80]}`"
        raise BadRequest(words, param="tool_choice.name")
    return MustCall(asked.name or "")


def _json_format(asked: _Format | None, at: str) -> JsonFormat | None:
    if asked is None:
        return None
    if asked.type != "json_schema":
        raise BadRequest(f"`{at}.type` must be json_schema, not `{asked.type[:40]}`", param=f"{at}.type")
    if asked.schema is None:
        raise BadRequest(f"`{at}.schema` is missing", code=MISSING, param=f"{at}.schema")
    return JsonFormat(asked.schema)


_EFFORTS: dict[str, Thinking] = {"low": "low", "medium": "medium", "high": "high", "xhigh": "max", "max": "max"}


def _thinking(asked: _Thinking | None, effort: str | None) -> Thinking | None:
    """Without a word of it there is none: clients take the first block for the text. `adaptive`: as the model does."""
    if effort is not None and effort not in _EFFORTS:
        words = f"`output_config.effort` must be one of {', '.join(_EFFORTS)}, not `{effort[:40]}`"
        raise BadRequest(words, param="output_config.effort")
    if asked is None or asked.type == "disabled":
        return "off"
    if effort is not None:
        return _EFFORTS[effort]
    return "on" if asked.type == "enabled" else None
