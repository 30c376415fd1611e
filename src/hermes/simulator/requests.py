"""The requests of Ollama's API, read from their bodies (api/types.go). Raises `Refusal` with Ollama's own texts."""

import base64
import binascii
import json
import re
from typing import Any, Literal

from msgspec import Struct

from hermes.simulator.gojson import Fields, Refusal, read_object

# Go's time.Duration ends here; a negative keep_alive becomes this (api/types.go).
FOREVER_S = (2**63 - 1) / 1e9

Think = bool | Literal["low", "medium", "high", "max"]


class ToolUse(Struct, frozen=True):
    name: str
    arguments: dict[str, Any]


class ChatMessage(Struct, frozen=True):
    role: str
    content: str = ""
    thinking: str = ""
    images: int = 0
    tool_calls: tuple[ToolUse, ...] = ()
    tool_name: str = ""


class ToolSpec(Struct, frozen=True):
    name: str
    parameters: dict[str, Any]


class Inference(Struct, frozen=True):
    """What /api/chat and /api/generate have in common; a generate prompt is its last message. `options` is unread."""

    kind: Literal["chat", "generate"]
    model: str
    messages: tuple[ChatMessage, ...] = ()
    tools: tuple[ToolSpec, ...] = ()
    stream: bool = True
    format: Any = None
    keep_alive_s: float | None = None
    options: dict[str, Any] = {}
    think: Think | None = None
    truncate: bool = True
    shift: bool = True
    logprobs: bool = False
    top_logprobs: int = 0
    suffix: str = ""
    raw: bool = False
    context_tokens: int = 0

    @property
    def empty(self) -> bool:
        """Only loads the model, or unloads it."""
        return not self.messages


class Embedding(Struct, frozen=True):
    model: str
    inputs: tuple[str, ...]
    truncate: bool = True
    dimensions: int = 0
    keep_alive_s: float | None = None
    options: dict[str, Any] = {}


def read_chat(body: bytes) -> Inference:
    fields = read_object(body, "ChatRequest")
    messages = tuple(_message(message) for message in fields.structs("messages", "api.Message"))
    return _inference("chat", fields, messages, _tools(fields))


def read_generate(body: bytes) -> Inference:
    fields = read_object(body, "GenerateRequest")
    prompt, system, images = fields.text("prompt"), fields.text("system"), _images(fields)
    if not prompt:
        return _inference("generate", fields, (), ())
    if fields.flag("raw") and (fields.text("template") or system or fields.raw("context")):
        raise Refusal(400, "raw mode does not support template, system, or context")
    before = (ChatMessage("system", system),) if system else ()
    return _inference("generate", fields, (*before, ChatMessage("user", prompt, images=images)), ())


def read_embed(body: bytes) -> Embedding:
    fields = read_object(body, "EmbedRequest")
    given = fields.raw("input")
    if isinstance(given, list) and all(isinstance(item, str) for item in given):
        inputs = tuple(given)
    elif isinstance(given, str) or given is None:
        inputs = (given,) if given else ()
    else:
        raise Refusal(400, "invalid input type")
    return _embedding(fields, inputs, fields.whole("dimensions"))


def read_embeddings(body: bytes) -> Embedding:
    fields = read_object(body, "EmbeddingRequest")
    prompt = fields.text("prompt")
    return _embedding(fields, (prompt,) if prompt else (), 0)


def _embedding(fields: Fields, inputs: tuple[str, ...], dimensions: int) -> Embedding:
    return Embedding(
        fields.text("model"),
        inputs,
        truncate=fields.flag("truncate") is not False,
        dimensions=dimensions,
        keep_alive_s=read_keep_alive(fields.raw("keep_alive")),
        options=fields.mapping("options"),
    )


def _inference(
    kind: Literal["chat", "generate"], fields: Fields, messages: tuple[ChatMessage, ...], tools: tuple[ToolSpec, ...]
) -> Inference:
    top_logprobs = fields.whole("top_logprobs")
    inference = Inference(
        kind,
        fields.text("model"),
        messages,
        tools,
        stream=fields.flag("stream") is not False,
        format=fields.raw("format"),
        keep_alive_s=read_keep_alive(fields.raw("keep_alive")),
        options=fields.mapping("options"),
        think=_think(fields.raw("think")),
        truncate=fields.flag("truncate") is not False,
        shift=fields.flag("shift") is not False,
        logprobs=fields.flag("logprobs") is True,
        top_logprobs=top_logprobs,
        suffix=fields.text("suffix"),
        raw=fields.flag("raw") is True,
        context_tokens=len(fields.items("context", "int")),
    )
    if not 0 <= top_logprobs <= 20:
        raise Refusal(400, "top_logprobs must be between 0 and 20")
    return inference


def _message(fields: Fields) -> ChatMessage:
    calls = []
    for call in fields.structs("tool_calls", "api.ToolCall"):
        function = call.struct("function", "api.ToolCallFunction")
        calls.append(ToolUse(function.text("name"), function.mapping("arguments")))
    return ChatMessage(
        fields.text("role").lower(),
        fields.text("content"),
        fields.text("thinking"),
        _images(fields),
        tuple(calls),
        fields.text("tool_name"),
    )


def _tools(fields: Fields) -> tuple[ToolSpec, ...]:
    found = []
    for tool in fields.structs("tools", "api.Tool"):
        function = tool.struct("function", "api.ToolFunction")
        found.append(ToolSpec(function.text("name"), function.mapping("parameters", "api.ToolFunctionParameters")))
    return tuple(found)


_NOT_BASE64 = re.compile(r"[^A-Za-z0-9+/=\r\n]")


def _images(fields: Fields) -> int:
    images = fields.items("images", "api.ImageData")
    for image in images:
        if not isinstance(image, str):
            raise Refusal(400, "json: cannot unmarshal into Go value of type api.ImageData")
        try:
            base64.b64decode(image, validate=True)
        except (binascii.Error, ValueError):
            wrong = _NOT_BASE64.search(image)
            at = wrong.start() if wrong else len(image)
            raise Refusal(400, f"illegal base64 data at input byte {at}") from None
    return len(images)


def _think(value: Any) -> Think | None:
    if value is None or isinstance(value, bool) or value in ("low", "medium", "high", "max"):
        return value  # type: ignore[no-any-return]
    choices = '"high", "medium", "low", "max", true, or false'
    if isinstance(value, str):
        raise Refusal(400, f"invalid think value: {json.dumps(value)} (must be {choices})")
    raise Refusal(400, f"think must be a boolean or string ({choices})")


# --- durations ------------------------------------------------------------------------------------------------------

_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_TERM = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|ms|s|m|h)")
_NUMBER = re.compile(r"\d+\.?\d*|\.\d+")


def read_keep_alive(value: Any) -> float | None:
    """Seconds from a number, or from text as Go's time.ParseDuration has it; below 0 means for ever."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        kind = {bool: "bool", list: "[]interface {}", dict: "map[string]interface {}"}[type(value)]
        raise Refusal(400, f"Unsupported type: '{kind}'")
    seconds = _go_duration(value) if isinstance(value, str) else float(value)
    return FOREVER_S if seconds < 0 else min(seconds, FOREVER_S)


def _go_duration(text: str) -> float:
    unsigned = text[1:] if text[:1] in ("+", "-") else text
    sign = -1.0 if text[:1] == "-" else 1.0
    if unsigned == "0":
        return 0.0
    terms = _TERM.findall(unsigned)
    if terms and "".join(number + unit for number, unit in terms) == unsigned:
        return sign * sum(float(number) * _UNITS_S[unit] for number, unit in terms)
    what = "missing unit in" if _NUMBER.fullmatch(unsigned) else "invalid"
    raise Refusal(400, f"time: {what} duration {json.dumps(text)}")


# --- options --------------------------------------------------------------------------------------------------------

_INTEGERS = (
    "num_keep seed num_predict top_k repeat_last_n num_ctx num_batch num_gpu main_gpu num_thread draft_num_predict"
)
_FLOATS = "top_p min_p typical_p temperature repeat_penalty presence_penalty frequency_penalty"
_OPTION_TYPES = {"integer": _INTEGERS, "float32": _FLOATS, "boolean": "use_mmap", "array": "stop"}
_TYPE_OF_OPTION = {name: kind for kind, names in _OPTION_TYPES.items() for name in names.split()}
_LOAD_OPTIONS = ("num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", "draft_num_predict")


class Options(Struct, frozen=True):
    """The options that matter here. `load` holds those that a running model cannot change without a reload."""

    num_ctx: int | None = None
    num_predict: int = -1
    seed: int | None = None
    num_keep: int = 4
    stop: tuple[str, ...] = ()
    load: tuple[tuple[str, Any], ...] = ()


def read_options(given: dict[str, Any]) -> Options:
    """Unknown names are ignored; a wrong type is a 500, as Ollama has it (FromMap fails while scheduling)."""
    options = {name: _option(name, value) for name, value in given.items() if name in _TYPE_OF_OPTION}
    options = {name: value for name, value in options.items() if value is not None}
    return Options(
        num_ctx=options.get("num_ctx"),
        num_predict=options.get("num_predict", -1),
        seed=options.get("seed"),
        num_keep=options.get("num_keep", 4),
        stop=tuple(options.get("stop", ())),
        load=tuple((name, options[name]) for name in _LOAD_OPTIONS if name in options),
    )


def _option(name: str, value: Any) -> Any:
    kind = _TYPE_OF_OPTION[name]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is None:
        return None
    if kind == "integer" and number:
        return int(value)
    if (kind == "float32" and number) or (kind == "boolean" and isinstance(value, bool)):
        return value
    if kind == "array" and isinstance(value, list):
        if all(isinstance(item, str) for item in value):
            return [item for item in value if item]
        raise Refusal(500, f'option "{name}" must be of an array of strings')
    raise Refusal(500, f'option "{name}" must be of type {kind}')
