"""Ollama's native API, the backend dialect: `/api/chat`, `/api/generate` for bare prompts, and what its errors mean.

1. `truncate: false` always: an overlong prompt must fail, by default Ollama silently drops the oldest messages.
2. Options come from `Sampling` and from the configuration, never from a client's own: a request whose load-time
   options (`num_ctx` and the like) differ from the running ones makes Ollama load the model anew.
3. A bare prompt goes to `/api/generate` only where no thinking can come: for models with a chat template of their own
   it leaves the thoughts in the result ("... first</think>Hello", seen on 0.33). `/api/chat` separates them.
4. JSON without a schema is asked for by the widest schema: of `"json"` such models' `/api/chat` takes no notice.
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import astuple

from hermes.chat import ChatRequest, Failure, Image, JsonFormat, Message, Sampling, Text, Thinking, Tool, ToolCall
from hermes.dialects import ollama_error, strict
from hermes.dialects.ollama_answer import AnswerDecoder
from hermes.errors import GatewayError

_json = msgspec.json.Encoder().encode


class _Function(Struct):
    name: str
    arguments: dict[str, Any]
    index: int


class _ToolCall(Struct, omit_defaults=True):
    function: _Function
    id: str = ""


class _Message(Struct, omit_defaults=True):
    role: str
    content: str
    thinking: str = ""
    images: list[str] = []
    tool_calls: list[_ToolCall] = []
    tool_name: str = ""
    tool_call_id: str = ""


class _Asked(Struct, omit_defaults=True, kw_only=True):
    """What both endpoints take."""

    model: str
    stream: bool
    truncate: bool
    options: dict[str, Any] = {}
    format: dict[str, Any] | None = None
    think: bool | str | None = None
    keep_alive: float | str | None = None
    logprobs: bool = False
    top_logprobs: int = 0


class _Chat(_Asked, omit_defaults=True, kw_only=True):
    messages: list[_Message]
    tools: list[dict[str, Any]] = []


class _Generate(_Asked, omit_defaults=True, kw_only=True):
    prompt: str
    system: str = ""
    images: list[str] = []


def _nobody_knows(model: str) -> bool | None:
    return None


class Ollama:
    """`options` and `keep_alive` are pinned by the configuration.

    `thinks`: whether the model of this name has the capability "thinking"; None where that is not known.
    """

    def __init__(
        self,
        options: Mapping[str, Any] | None = None,
        keep_alive: float | str | None = None,
        thinks: Callable[[str], bool | None] = _nobody_knows,
        max_line_bytes: int = 1 << 20,
        max_answer_bytes: int = 16 << 20,
    ) -> None:
        self._pinned = dict(options or {})
        self._keep_alive = keep_alive
        self._thinks = thinks
        self._max_line_bytes = max_line_bytes
        self._max_answer_bytes = max_answer_bytes

    def render_request(self, request: ChatRequest, model: str) -> tuple[str, bytes]:
        bare = self._bare_prompt(request, model)
        if bare is None:
            tools = [_tool(tool) for tool in request.tools] if request.tool_choice != "none" else []
            messages = [_message(message) for message in request.messages]
            return "/api/chat", _json(_Chat(messages=messages, tools=tools, **self._common(request, model)))
        system, prompt = bare
        body = _Generate(prompt=_text(prompt), system=system, images=_images(prompt), **self._common(request, model))
        return "/api/generate", _json(body)

    def decoder(self, request: ChatRequest, answer_id: str) -> AnswerDecoder:
        # The last line of `/api/generate` lists every token of the context: megabytes where that is long.
        long_lines = not request.stream or request.completion
        return AnswerDecoder(answer_id, self._max_answer_bytes if long_lines else self._max_line_bytes)

    def error(self, status: int, body: bytes) -> GatewayError:
        return ollama_error.from_status(status, body)

    def failure(self, failure: Failure) -> GatewayError:
        return ollama_error.from_status(500, _json({"error": failure.message}))

    def _bare_prompt(self, request: ChatRequest, model: str) -> tuple[str, Message] | None:
        """(system text, user message) where `/api/generate` is to serve the request."""
        if not request.completion or request.tools:
            return None
        if request.thinking != "off" and self._thinks(model) is not False:
            return None
        match request.messages:
            case (Message(role="user") as prompt,):
                return "", prompt
            case (Message(role="system") as system, Message(role="user") as prompt):
                return _text(system), prompt
        return None

    def _common(self, request: ChatRequest, model: str) -> dict[str, Any]:
        return {
            "model": model,
            "stream": request.stream,
            "truncate": False,
            "options": _options(request.sampling) | self._pinned,
            "format": _format(request.json_format),
            "think": _think(request.thinking),
            "keep_alive": self._keep_alive,
            "logprobs": request.logprobs,
            "top_logprobs": request.top_logprobs,
        }


# --- messages -----------------------------------------------------------------------------------------------------


def _message(message: Message) -> _Message:
    if message.role == "system" or message.role == "user":
        return _Message(message.role, _text(message), images=_images(message))
    return _Message(
        message.role,
        _text(message),
        message.reasoning,
        _images(message),
        [_tool_call(call, index) for index, call in enumerate(message.tool_calls)],
        message.tool_name,
        message.tool_call_id,
    )


def _text(message: Message) -> str:
    parts = message.parts
    if len(parts) == 1 and type(parts[0]) is Text:
        return parts[0].text
    return "\n".join([part.text for part in parts if isinstance(part, Text)])


def _images(message: Message) -> list[str]:
    return [part.data for part in message.parts if type(part) is Image]


def _tool_call(call: ToolCall, index: int) -> _ToolCall:
    return _ToolCall(_Function(call.name, _arguments(call.arguments), index), call.id)


def _arguments(text: str) -> dict[str, Any]:
    """The object that Ollama wants; a model's broken arguments are kept for it to see, wrapped."""
    if not text.strip():
        return {}
    try:
        value = msgspec.json.decode(text)
    except strict.MALFORMED:
        return {"value": text}
    if not strict.is_shallow(value):
        return {"value": text}
    return value if isinstance(value, dict) else {"value": value}


def _tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name, "description": tool.description}
    function["parameters"] = tool.parameters or {"type": "object", "properties": {}}
    return {"type": "function", "function": function}


# --- options ------------------------------------------------------------------------------------------------------


# Sampling's fields in order, by Ollama's names: the same but for one.
_OPTIONS = tuple({"max_tokens": "num_predict"}.get(name, name) for name in Sampling.__struct_fields__)


def _options(sampling: Sampling) -> dict[str, Any]:
    given = zip(_OPTIONS, astuple(sampling), strict=True)
    return {option: value for option, value in given if value is not None and value != ()}


def _format(asked: JsonFormat | None) -> dict[str, Any] | None:
    if asked is None:
        return None
    return {"type": "object"} if asked.schema is None else asked.schema


def _think(thinking: Thinking | None) -> bool | str | None:
    """None leaves it out, which on a thinking model means on."""
    if thinking == "off" or thinking == "on":
        return thinking == "on"
    return thinking
