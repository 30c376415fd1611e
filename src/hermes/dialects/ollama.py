"""Ollama's native API, the backend dialect: `/api/chat`, `/api/generate` for bare prompts, `/api/embed`, its errors.

1. `truncate: false` always: an overlong prompt must fail, by default Ollama silently drops the oldest messages. A
   text to embed is cut for whoever asks for that.
2. Options come from `Sampling`, load-time options (`num_ctx` and the like) from elsewhere (`policy.load_options`): a
   request whose own differ from the running ones makes Ollama load the model anew.
3. A bare prompt goes to `/api/generate` only where no thinking can come: for models with a chat template of their own
   it leaves the thoughts in the result ("... first</think>Hello", seen on 0.33). `/api/chat` separates them. What is
   raw or has a suffix goes there always: nothing else can do it.
4. JSON without a schema is asked for by the widest schema: of `"json"` not every build's `/api/chat` takes notice.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct, field
from msgspec.structs import astuple

from hermes.chat import (
    Answer,
    ChatRequest,
    Embeddings,
    EmbedRequest,
    Failure,
    Image,
    Message,
    RichMessage,
    Sampling,
    Text,
    Thinking,
    ToolCall,
    collect,
)
from hermes.dialects import ollama_answer, ollama_error, tools
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


class _Options(Sampling, frozen=True, omit_defaults=True, gc=False):
    """Ollama's names are the same but for one."""

    max_tokens: int | None = field(default=None, name="num_predict")


class _Asked(Struct, omit_defaults=True):
    """What the endpoints take; `prompt`, `system` and `images` are `/api/generate`'s, `messages` and `tools` not."""

    model: str
    stream: bool
    truncate: bool
    options: _Options | dict[str, Any] | None = None
    keep_alive: float | str | None = None
    format: dict[str, Any] | None = None
    think: bool | str | None = None
    logprobs: bool = False
    top_logprobs: int = 0
    messages: Sequence[Message | RichMessage | _Message] = ()
    tools: Sequence[dict[str, Any]] = ()
    prompt: str = ""
    system: str = ""
    images: list[str] = []
    raw: bool = False
    suffix: str = ""


class _EmbedAsked(Struct, omit_defaults=True):
    """`/api/embed` takes `input`, its predecessor `/api/embeddings` one `prompt`."""

    model: str
    input: Sequence[str] | None = None
    prompt: str | None = None
    truncate: bool | None = None
    dimensions: int | None = None
    options: Mapping[str, Any] | None = None
    keep_alive: float | str | None = None


def _nobody_knows(model: str) -> bool | None:
    return None


class Ollama:
    """`options` and `keep_alive` are said of every request.

    `thinks`: whether the model of this name has the capability "thinking"; None where that is not known.
    """

    streams_only = False  # it notices in any case
    forces_tools = False
    embeds = True

    def __init__(
        self,
        options: Mapping[str, Any] | None = None,
        keep_alive: float | str | None = None,
        thinks: Callable[[str], bool | None] = _nobody_knows,
        max_line_bytes: int = 1 << 20,
        max_answer_bytes: int = 16 << 20,
    ) -> None:
        self._said = options or {}
        self._keep_alive = keep_alive
        self._thinks = thinks
        self._max_line_bytes = max_line_bytes
        self._max_answer_bytes = max_answer_bytes

    def completes(self, request: ChatRequest) -> bool:
        return True

    def render_request(self, request: ChatRequest, model: str) -> tuple[str, bytes]:
        return self.render(request, model, self._said, self._keep_alive)

    def render(
        self, request: ChatRequest, model: str, options: Mapping[str, Any], keep_alive: float | str | None
    ) -> tuple[str, bytes]:
        asked = _Asked(model, request.stream, False, _options(request.sampling, options), keep_alive)
        if request.json_format is not None:
            schema = request.json_format.schema
            asked.format = {"type": "object"} if schema is None else schema
        if request.thinking is not None and self._may_be_told(request, model):
            asked.think = _THINK[request.thinking]
        if request.logprobs:
            asked.logprobs, asked.top_logprobs = True, request.top_logprobs
        if request.completion and (request.raw or request.suffix or self._is_bare(request, model)):
            *system, prompt = request.messages
            asked.raw, asked.suffix = request.raw, request.suffix
            asked.system, asked.prompt, asked.images = "".join(map(_text, system)), _text(prompt), _images(prompt)
            return "/api/generate", _json(asked)
        asked.messages = request.messages
        if RichMessage in map(type, request.messages):
            asked.messages = [said if type(said) is Message else _message(said) for said in request.messages]
        if request.tools and request.tool_choice != "none":
            asked.tools = [tools.function(tool) for tool in request.tools]
        return "/api/chat", _json(asked)

    def whole(self, body: bytes, request: ChatRequest, answer_id: str) -> Answer | Failure | None:
        plain = ollama_answer.plain(body) if len(body) <= self._max_answer_bytes else None
        if plain is not None:
            return plain
        decoder = self.decoder(request, answer_id)
        return collect(decoder.feed(body) + decoder.finish())

    def decoder(self, request: ChatRequest, answer_id: str) -> ollama_answer.AnswerDecoder:
        # The last line of `/api/generate` lists every token of the context: megabytes where that is long.
        long_lines = not request.stream or request.completion
        return ollama_answer.AnswerDecoder(answer_id, self._max_answer_bytes if long_lines else self._max_line_bytes)

    def render_embed(self, request: EmbedRequest, model: str) -> tuple[str, bytes]:
        return self.embed(request, model, self._said, self._keep_alive)

    def embed(
        self, request: EmbedRequest, model: str, options: Mapping[str, Any], keep_alive: float | str | None
    ) -> tuple[str, bytes]:
        asked = _EmbedAsked(model, options=options or None, keep_alive=keep_alive)
        if not request.normalised and len(request.texts) == 1 and request.dimensions is None:
            # The only way to a vector as the model made it.
            asked.prompt = request.texts[0]
            return "/api/embeddings", _json(asked)
        asked.input, asked.truncate, asked.dimensions = request.texts, request.truncate, request.dimensions
        return "/api/embed", _json(asked)

    def embeddings(self, body: bytes, request: EmbedRequest) -> Embeddings:
        return ollama_answer.embeddings(body, len(request.texts))

    def error(self, status: int, body: bytes) -> GatewayError:
        return ollama_error.from_status(status, body)

    def failure(self, failure: Failure) -> GatewayError:
        return ollama_error.from_status(500, _json({"error": failure.message}))

    def _may_be_told(self, request: ChatRequest, model: str) -> bool:
        """Whether Ollama would not refuse what is said of thinking, where that is no reason to have no answer."""
        return not request.thinking_optional or request.thinking == "off" or self._thinks(model) is True

    def _is_bare(self, request: ChatRequest, model: str) -> bool:
        """Whether `/api/generate` is to serve the request."""
        if request.tools or (request.thinking != "off" and self._thinks(model) is not False):
            return False
        return [message.role for message in request.messages] in (["user"], ["system", "user"])


def _options(sampling: Sampling, said: Mapping[str, Any]) -> _Options | dict[str, Any] | None:
    options = _Options(*astuple(sampling)) if sampling != _NOTHING_ASKED else None
    return {**msgspec.to_builtins(options or {}), **said} if said else options


_NOTHING_ASKED = Sampling()
# On a thinking model saying nothing means on.
_THINK: dict[Thinking, bool | str] = {
    "off": False,
    "on": True,
    "low": "low",
    "medium": "medium",
    "high": "high",
    "max": "max",
}


# --- messages -----------------------------------------------------------------------------------------------------


def _message(message: RichMessage) -> _Message:
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


def _text(message: Message | RichMessage) -> str:
    if type(message) is Message:
        return message.content
    return "\n".join([part.text for part in message.parts if type(part) is Text])


def _images(message: Message | RichMessage) -> list[str]:
    if type(message) is Message:
        return []
    return [part.data for part in message.parts if type(part) is Image]


def _tool_call(call: ToolCall, index: int) -> _ToolCall:
    return _ToolCall(_Function(call.name, tools.as_object(call.arguments), index), call.id)
