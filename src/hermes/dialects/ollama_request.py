"""Ollama's native API as its clients speak it, the requests: a chat, a prompt, texts to embed, a model.

1. An answer is streamed unless `"stream": false` says otherwise.
2. No messages, no prompt or no input asks for nothing but the model: what is parsed then has no `messages`, no `texts`.
3. Refused is what would change the answer and cannot be kept: a `template` or a `context` of the client's own. What
   Ollama does not know either, in `options` above all, is left out, as Ollama does.
4. `truncate` and `shift` of a prompt are read by nobody: an overlong prompt is an error here. A text to embed is cut.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta as Limits
from msgspec import Struct

from hermes.chat import (
    ChatRequest,
    EmbedRequest,
    Image,
    Message,
    Part,
    RichMessage,
    Sampling,
    Text,
    Tool,
    ToolCall,
)
from hermes.dialects import fields, strict
from hermes.dialects.fields import UNSUPPORTED
from hermes.errors import BadRequest

_Int32 = Annotated[int, Limits(ge=-(2**31), le=2**31 - 1)]


class _Options(fields.Loading, omit_defaults=True):
    temperature: fields.Temperature | None = None
    top_p: fields.Share | None = None
    top_k: _Int32 | None = None
    min_p: fields.Share | None = None
    typical_p: fields.Share | None = None
    seed: fields.Seed | None = None
    num_predict: _Int32 | None = None
    stop: str | list[str] | None = None
    presence_penalty: fields.Penalty | None = None
    frequency_penalty: fields.Penalty | None = None
    repeat_penalty: fields.Temperature | None = None
    repeat_last_n: Annotated[int, Limits(ge=-1, le=2**31 - 1)] | None = None


class _Named(Struct, kw_only=True, omit_defaults=True):
    model: str | None = None
    options: _Options | None = None
    keep_alive: fields.KeepAlive | None = None


class _Asked(_Named):
    """What most requests for tokens make do with."""

    stream: bool | None = None
    think: bool | str | None = None


class _Plain(_Asked, kw_only=True, omit_defaults=True):
    """A chat that holds nothing but those and texts, which are taken as they are. ollama-python says `"tools": []`."""

    messages: Annotated[tuple[Message, ...], Limits(min_length=1)]
    tools: Annotated[tuple[bool, ...], Limits(max_length=0)] | None = None


class _More(_Asked):
    format: str | dict[str, Any] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Limits(ge=0, le=20)] | None = None
    truncate: bool | None = None
    shift: bool | None = None
    priority: fields.Priority | None = None


class _CalledFunction(Struct):
    name: str
    arguments: dict[str, Any] | str | None = None


class _ToolCall(Struct):
    function: _CalledFunction
    id: str | None = None


class _Message(Struct):
    role: str
    content: str | None = None
    thinking: str | None = None
    images: list[str] | None = None
    tool_calls: list[_ToolCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class _Function(Struct):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class _Tool(Struct):
    function: _Function
    type: str | None = None


class _Chat(_More):
    messages: list[_Message] | None = None
    tools: list[_Tool] | None = None


class _Generate(_More):
    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    context: list[int] | None = None
    raw: bool | None = None
    images: list[str] | None = None


class _Embed(_Named):
    input: str | list[str] | None = None
    truncate: bool | None = None
    dimensions: fields.CountOrZero | None = None
    priority: fields.Priority | None = None


class _Embeddings(_Named):
    prompt: str | None = None
    priority: fields.Priority | None = None


class _Model(Struct):
    """What asks about a model, or for it. `name` is the older key."""

    model: str | None = None
    name: str | None = None
    stream: bool | None = None


CHAT = frozenset(_Chat.__struct_fields__)
GENERATE = frozenset(_Generate.__struct_fields__)
EMBED = frozenset(_Embed.__struct_fields__)
EMBEDDINGS = frozenset(_Embeddings.__struct_fields__)
MODEL = frozenset(_Model.__struct_fields__)

_decode_plain = msgspec.json.Decoder(_Plain).decode


# --- /api/chat ----------------------------------------------------------------------------------------------------


def parse_chat(body: bytes, model: str | None = None) -> ChatRequest:
    plain = strict.decode_exactly(body, _decode_plain)
    if plain is None:
        return _parse_closely(body, model)
    return ChatRequest(
        fields.one_model(plain.model, model),
        plain.messages,
        plain.stream is not False,
        sampling=_sampling(plain.options),
        thinking=fields.thinking(plain.think, "think"),
        load_options=fields.load_options(plain.options, plain.keep_alive),
    )


def _parse_closely(body: bytes, model: str | None) -> ChatRequest:
    asked = strict.convert(strict.parse_object(body, CHAT), _Chat)
    names: dict[str, str] = {}  # call id -> function, for the tool messages that follow
    messages = tuple([_message(message, f"messages[{at}]", names) for at, message in enumerate(asked.messages or ())])
    tools = tuple([_tool(tool, f"tools[{at}]") for at, tool in enumerate(asked.tools or ())])
    return _request(asked, model, messages, tools=tools)


def _request(asked: _More, model: str | None, messages: tuple[Message | RichMessage, ...], **more: Any) -> ChatRequest:
    return ChatRequest(
        fields.one_model(asked.model, model),
        messages,
        asked.stream is not False,
        sampling=_sampling(asked.options),
        json_format=None if asked.format == "" else fields.json_format(asked.format, "format"),
        thinking=fields.thinking(asked.think, "think"),
        logprobs=asked.logprobs is True,
        top_logprobs=asked.top_logprobs or 0,
        priority=asked.priority or 0,
        load_options=fields.load_options(asked.options, asked.keep_alive),
        **more,
    )


def _message(asked: _Message, at: str, names: dict[str, str]) -> Message | RichMessage:
    role = fields.ROLES.get(asked.role.lower())
    if role is None:
        words = f"`{at}.role` must be one of {', '.join(fields.ROLES)}, not `{asked.role[:40]}`"
        raise BadRequest(words, param=f"{at}.role")
    parts = _parts(asked.content, asked.images, at)
    if role == "tool":
        name = asked.tool_name or names.get(asked.tool_call_id or "", "")
        return RichMessage("tool", parts, tool_call_id=asked.tool_call_id or "", tool_name=name)
    calls = tuple([_tool_call(call) for call in asked.tool_calls or ()]) if role == "assistant" else ()
    names |= {call.id: call.name for call in calls if call.id}
    thought = (asked.thinking or "") if role == "assistant" else ""
    if asked.images or calls or thought:
        return RichMessage(role, parts, thought, calls)
    return Message(role, asked.content or "")


def _tool_call(asked: _ToolCall) -> ToolCall:
    arguments = asked.function.arguments
    text = arguments if isinstance(arguments, str) else msgspec.json.encode(arguments or {}).decode()
    return ToolCall(asked.id or "", asked.function.name, text)


def _tool(asked: _Tool, at: str) -> Tool:
    if asked.type not in (None, "", "function"):
        words = f"`{at}.type` must be function, not `{asked.type[:40]}`"
        raise BadRequest(words, code=UNSUPPORTED, param=f"{at}.type")
    return Tool(asked.function.name, asked.function.description or "", asked.function.parameters)


def _parts(content: str | None, images: list[str] | None, at: str) -> tuple[Part, ...]:
    text = (Text(content),) if content else ()
    return (*text, *[_image(data, f"{at}.images[{index}]".lstrip(".")) for index, data in enumerate(images or ())])


# How the base64 of each kind begins. What is none of them is the model's to refuse.
_MAGIC = {"iVBORw0KGgo": "png", "/9j/": "jpeg", "UklGR": "webp", "R0lGOD": "gif", "Qk": "bmp"}


def _image(data: str, param: str) -> Image:
    if not fields.is_base64(data):
        hint = "; leave out what stands before the comma" if data.startswith("data:") else ""
        raise BadRequest(f"`{param}` is not valid base64{hint}", code="invalid_base64", param=param)
    kind = next((kind for magic, kind in _MAGIC.items() if data.startswith(magic)), "*")
    return Image(f"image/{kind}", data)


# --- /api/generate ------------------------------------------------------------------------------------------------


def parse_generate(body: bytes, model: str | None = None) -> ChatRequest:
    asked = strict.convert(strict.parse_object(body, GENERATE), _Generate)
    if asked.raw and (asked.template or asked.system or asked.context):
        raise BadRequest("raw mode does not support template, system, or context", param="raw")
    if asked.template:
        words = "`template` cannot be sent along: give the whole prompt, with `raw`, or make a model of it"
        raise BadRequest(words, code=UNSUPPORTED, param="template")
    if asked.context:
        words = "`context` is deprecated and not kept here: send the messages so far to /api/chat"
        raise BadRequest(words, code=UNSUPPORTED, param="context")
    if not asked.prompt:
        return _request(asked, model, ())
    prompt: Message | RichMessage = Message("user", asked.prompt)
    if asked.images:
        prompt = RichMessage("user", _parts(asked.prompt, asked.images, ""))
    messages = (Message("system", asked.system), prompt) if asked.system else (prompt,)
    return _request(asked, model, messages, completion=True, raw=asked.raw is True, suffix=asked.suffix or "")


def _sampling(asked: _Options | None) -> Sampling:
    if asked is None:
        return _NOTHING_ASKED
    return Sampling(
        temperature=asked.temperature,
        top_p=asked.top_p,
        top_k=asked.top_k,
        min_p=asked.min_p,
        seed=asked.seed,
        max_tokens=_max_tokens(asked.num_predict),
        stop=fields.stop_texts(asked.stop) if asked.stop else (),
        presence_penalty=asked.presence_penalty,
        frequency_penalty=asked.frequency_penalty,
        repeat_penalty=asked.repeat_penalty,
        repeat_last_n=asked.repeat_last_n,
        typical_p=asked.typical_p,
    )


_NOTHING_ASKED = Sampling()


def _max_tokens(num_predict: int | None) -> int | None:
    """Negative is until the model stops, which here is saying nothing."""
    if num_predict is None or num_predict < 0:
        return None
    return strict.convert(num_predict, fields.Count, "options.num_predict")


# --- embeddings ---------------------------------------------------------------------------------------------------


def parse_embed(body: bytes) -> EmbedRequest:
    asked = strict.convert(strict.parse_object(body, EMBED), _Embed)
    texts = asked.input or ()
    return EmbedRequest(
        fields.one_model(asked.model, None),
        (texts,) if isinstance(texts, str) else tuple(texts),
        asked.dimensions or None,
        truncate=asked.truncate is not False,
        priority=asked.priority or 0,
        load_options=fields.load_options(asked.options, asked.keep_alive),
    )


def parse_embeddings(body: bytes) -> EmbedRequest:
    """Of `/api/embed`'s predecessor, whose one vector is as the model made it."""
    asked = strict.convert(strict.parse_object(body, EMBEDDINGS), _Embeddings)
    return EmbedRequest(
        fields.one_model(asked.model, None),
        (asked.prompt,) if asked.prompt else (),
        truncate=True,
        normalised=False,
        priority=asked.priority or 0,
        load_options=fields.load_options(asked.options, asked.keep_alive),
    )


# --- /api/show, /api/pull -----------------------------------------------------------------------------------------


def parse_model(body: bytes) -> tuple[str, bool]:
    """The model's name, and whether the answer is to be streamed, where it can be."""
    asked = strict.convert(strict.parse_object(body, MODEL), _Model)
    return fields.one_model(asked.model, asked.name), asked.stream is not False
