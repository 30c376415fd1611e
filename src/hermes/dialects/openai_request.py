"""OpenAI chat completions, the request: what is asked for, or a 400 that names the field.

Refused is only what changes the meaning of the request and cannot be honoured. Anything else that we do not know
is left out; null means absent, everywhere.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta as Limits
from msgspec import Struct
from msgspec.structs import replace

from hermes.chat import (
    ChatRequest,
    JsonFormat,
    Message,
    MustCall,
    Sampling,
    Thinking,
    Tool,
    ToolChoice,
)
from hermes.dialects import fields, openai_messages, strict
from hermes.dialects.fields import MISSING, UNSUPPORTED
from hermes.errors import BadRequest


class _Function(Struct):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class _Tool(Struct):
    type: str
    function: _Function | None = None


class _JsonSchema(Struct):
    schema: dict[str, Any] | None = None


class _ResponseFormat(Struct):
    type: str
    json_schema: _JsonSchema | None = None


class _StreamOptions(Struct, omit_defaults=True):
    include_usage: bool | None = None


class Asked(Struct, kw_only=True, omit_defaults=True, gc=False):
    """What most requests make do with, and completions have too."""

    model: str | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_completion_tokens: fields.Count | None = None
    max_tokens: fields.Count | None = None
    temperature: fields.Temperature | None = None
    top_p: fields.Share | None = None
    presence_penalty: fields.Penalty | None = None
    frequency_penalty: fields.Penalty | None = None
    seed: fields.Seed | None = None
    stop: str | list[str] | None = None


class _Plain(Asked, gc=False):
    """A request that holds nothing but those and texts, which are taken as they are."""

    messages: Annotated[tuple[Message, ...], Limits(min_length=1)]


class Beyond(Asked):
    """What servers of this API took over from each other; both names of the same penalty are in use."""

    top_k: Annotated[int, Limits(ge=-1, le=2**31 - 1)] | None = None
    min_p: fields.Share | None = None
    repetition_penalty: fields.Temperature | None = None
    repeat_penalty: fields.Temperature | None = None
    repeat_last_n: Annotated[int, Limits(ge=-1, le=2**31 - 1)] | None = None
    typical_p: fields.Share | None = None


class _Body(Beyond):
    messages: list[openai_messages.AskedMessage] | None = None
    tools: list[_Tool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    response_format: _ResponseFormat | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Limits(ge=0, le=20)] | None = None
    priority: fields.Priority | None = None
    service_tier: str | None = None
    n: int | None = None
    modalities: list[str] | None = None
    functions: Any = None
    function_call: Any = None
    # Ollama's own words, which its users add to this body.
    options: fields.Loading | None = None
    keep_alive: fields.KeepAlive | None = None


KNOWN = frozenset(_Body.__struct_fields__)

_decode_plain = msgspec.json.Decoder(_Plain).decode


def parse_request(body: bytes, model: str | None = None) -> ChatRequest:
    plain = strict.decode_exactly(body, _decode_plain)
    if plain is None:
        return _parse_closely(body, model)
    return ChatRequest(
        fields.one_model(plain.model, model),
        plain.messages,
        plain.stream is True,
        include_usage(plain),
        sampling=sampling(plain),
    )


def _parse_closely(body: bytes, model: str | None) -> ChatRequest:
    tree = strict.parse_object(body, KNOWN)
    asked = strict.convert(tree, _Body)
    _refuse_what_we_cannot_do(asked)
    return ChatRequest(
        fields.one_model(asked.model, model),
        openai_messages.messages(asked.messages),
        asked.stream is True,
        include_usage(asked),
        tools=_tools(asked.tools) if asked.tools else (),
        tool_choice=_tool_choice(asked.tool_choice, asked.tools or ()),
        sampling=sampling_beyond(asked),
        json_format=_json_format(asked.response_format),
        thinking=_thinking(asked.reasoning_effort, asked.chat_template_kwargs),
        # A template passes over what its model cannot.
        thinking_optional=asked.chat_template_kwargs is not None and asked.reasoning_effort is None,
        logprobs=asked.logprobs is True,
        top_logprobs=asked.top_logprobs or 0,
        priority=asked.priority or 0,
        service_tier=asked.service_tier or "",
        load_options=fields.load_options(asked.options, asked.keep_alive),
        extra=besides(tree, KNOWN, asked.chat_template_kwargs),
    )


def _refuse_what_we_cannot_do(asked: _Body) -> None:
    if asked.n is not None and asked.n != 1:
        raise BadRequest(f"`n` must be 1, not {asked.n}: one answer per request", code="unsupported_value", param="n")
    if asked.modalities and set(asked.modalities) != {"text"}:
        raise BadRequest("`modalities` may only hold `text`", code=UNSUPPORTED, param="modalities")
    if asked.functions is not None:
        raise BadRequest("`functions` is deprecated: use `tools`", code=UNSUPPORTED, param="functions")
    if asked.function_call is not None:
        raise BadRequest("`function_call` is deprecated: use `tool_choice`", code=UNSUPPORTED, param="function_call")
    if asked.top_logprobs and not asked.logprobs:
        raise BadRequest("`top_logprobs` needs `logprobs` to be true", param="top_logprobs")


def include_usage(asked: Asked) -> bool:
    return asked.stream_options is not None and asked.stream_options.include_usage is True


def sampling(asked: Asked) -> Sampling:
    return Sampling(
        temperature=asked.temperature,
        top_p=asked.top_p,
        seed=asked.seed,
        max_tokens=asked.max_completion_tokens or asked.max_tokens,
        stop=fields.stop_texts(asked.stop) if asked.stop else (),
        presence_penalty=asked.presence_penalty,
        frequency_penalty=asked.frequency_penalty,
    )


def sampling_beyond(asked: Beyond) -> Sampling:
    return replace(
        sampling(asked),
        top_k=asked.top_k if asked.top_k != -1 else 0,  # vLLM's word for all of them
        min_p=asked.min_p,
        repeat_penalty=asked.repetition_penalty if asked.repeat_penalty is None else asked.repeat_penalty,
        repeat_last_n=asked.repeat_last_n,
        typical_p=asked.typical_p,
    )


def _tools(asked: list[_Tool]) -> tuple[Tool, ...]:
    return tuple(_tool(tool, f"tools[{index}]") for index, tool in enumerate(asked))


def _tool(asked: _Tool, at: str) -> Tool:
    if asked.type != "function":
        words = f"`{at}.type` must be function, not `{asked.type[:40]}`"
        raise BadRequest(words, code=UNSUPPORTED, param=f"{at}.type")
    if asked.function is None:
        raise BadRequest(f"`{at}.function` is missing", code=MISSING, param=f"{at}.function")
    return Tool(asked.function.name, asked.function.description or "", asked.function.parameters)


def _tool_choice(asked: str | dict[str, Any] | None, tools: Sequence[_Tool]) -> ToolChoice:
    match asked:
        case None | "auto":
            return "auto"
        case "none":
            return "none"
        case "required" if tools:
            return MustCall()
        case {"type": "function", "function": {"name": str(name)}}:
            if not any(tool.function is not None and tool.function.name == name for tool in tools):
                raise BadRequest(f"`tool_choice` names `{name[:80]}`, which is not in `tools`", param="tool_choice")
            return MustCall(name)
        case dict():
            words = "`tool_choice` must be auto, none, required, or name a function"
            raise BadRequest(words, code=UNSUPPORTED, param="tool_choice")
        case "required":
            raise BadRequest("`tool_choice` is required, but there are no `tools`", param="tool_choice")
    words = f"`tool_choice` must be auto, none, required, or name a function, not `{asked[:40]}`"
    raise BadRequest(words, param="tool_choice")


def _json_format(asked: _ResponseFormat | None) -> JsonFormat | None:
    if asked is None:
        return None
    schema = asked.json_schema.schema if asked.json_schema is not None else None
    return json_format(asked.type, schema, "response_format", "response_format.json_schema.schema")


def json_format(kind: str, schema: dict[str, Any] | None, at: str, schema_at: str) -> JsonFormat | None:
    """`at`, `schema_at`: the paths of the two in the body."""
    if kind == "text":
        return None
    if kind == "json_object":
        return JsonFormat()
    if kind != "json_schema":
        words = f"`{at}.type` must be text, json_object or json_schema, not `{kind[:40]}`"
        raise BadRequest(words, param=f"{at}.type")
    if schema is None:
        raise BadRequest(f"`{schema_at}` is missing", code=MISSING, param=schema_at)
    return JsonFormat(schema)


def besides(
    tree: Mapping[str, Any], known: frozenset[str], template: dict[str, Any] | None = None
) -> dict[str, Any] | None:
    """What a backend may know (`ChatRequest.extra`), and what its chat template may."""
    unknown = {name: value for name, value in tree.items() if name not in known and value is not None}
    return unknown | ({"chat_template_kwargs": template} if template else {}) or None


def _thinking(effort: str | None, template: Mapping[str, Any] | None) -> Thinking | None:
    if effort is not None:
        return fields.effort(effort, "reasoning_effort")
    # How users of Qwen3 and the like say it.
    said = (template or {}).get("enable_thinking")
    return None if said is None else "on" if said else "off"
