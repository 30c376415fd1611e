"""OpenAI's API, the backend dialect: chat completions, completions and embeddings as all that is compatible speak them.

1. Usage is always asked for (`stream_options.include_usage`); whether the client sees it is its own dialect's business.
2. What goes beyond OpenAI's own API is said only to servers that are known to take it (`Words`): others may refuse a
   request for a field that they do not know.
3. A tool that is not to be called is not mentioned: templates print tools that stand in the request, whatever
   `tool_choice` says, and a model that reads of one may call it.
4. Calls and their results belong together by id here. Clients that do without ids get some.
5. A raw prompt goes to `/v1/completions`: to go on from a text is all that servers do there. None but OpenAI's own
   takes a suffix; vLLM and llama.cpp refuse one, others pass over it.
"""

from collections.abc import Iterator, Sequence
from typing import Any, assert_never

import msgspec
from msgspec import Struct

from hermes.chat import (
    Answer,
    ChatRequest,
    Embeddings,
    EmbedRequest,
    Failure,
    Image,
    JsonFormat,
    Message,
    MustCall,
    Part,
    RichMessage,
    Text,
    Thinking,
    ToolCall,
)
from hermes.dialects import Decoder, openai_backend_answer, openai_backend_error, tools
from hermes.errors import GatewayError

_json = msgspec.json.Encoder().encode


class Words(Struct, frozen=True):
    """What servers of one kind take beyond OpenAI's API, and by which names. "" and False: they do not.

    `repeat_penalty`: the field, beside which `top_k` and `min_p` are known too. `reasoning`: the field for what an
    assistant thought earlier. `template`: chat templates take arguments, of which `enable_thinking` is one.
    `typical`: `typical_p` and `repeat_last_n` are known.
    `names_tools`: `tool_choice` may name a tool; llama.cpp takes nothing but a word, and passes over anything else.
    `cuts_texts`: a text to embed may be cut. `takes`: fields that are passed on as the client wrote them. `grammar`: a
    schema is told as TGI's grammar.
    """

    repeat_penalty: str = ""
    reasoning: str = ""
    template: bool = False
    typical: bool = False
    names_tools: bool = True
    cuts_texts: bool = False
    takes: frozenset[str] = frozenset()
    grammar: bool = False


# Nothing that says how much is generated or what an image may take, whose cache or slot is used, or who stores what.
_OPENAIS = frozenset(
    ("logit_bias", "parallel_tool_calls", "prediction", "prompt_cache_key", "safety_identifier", "user", "verbosity")
)
_VLLMS = frozenset(
    (
        *("add_generation_prompt", "allowed_token_ids", "bad_words", "continue_final_message", "documents"),
        *("ignore_eos", "include_stop_str_in_output", "length_penalty", "min_tokens"),
        *("skip_special_tokens", "spaces_between_special_tokens", "stop_token_ids", "structured_outputs"),
        "thinking_token_budget",
    )
)
_LLAMACPPS = frozenset(
    (
        *("dry_allowed_length", "dry_base", "dry_multiplier", "dry_penalty_last_n", "dry_sequence_breakers"),
        *("dynatemp_exponent", "dynatemp_range", "grammar", "ignore_eos", "min_keep", "mirostat", "mirostat_eta"),
        *("mirostat_tau", "samplers", "thinking_budget_tokens", "top_n_sigma"),
        *("xtc_probability", "xtc_threshold"),
    )
)
OPENAI = Words(takes=_OPENAIS)
VLLM = Words("repetition_penalty", "reasoning", template=True, cuts_texts=True, takes=_OPENAIS | _VLLMS)
LLAMACPP = Words(
    "repeat_penalty", "reasoning_content", template=True, typical=True, names_tools=False, takes=_OPENAIS | _LLAMACPPS
)
TGI = Words(grammar=True)


class _Function(Struct):
    name: str
    arguments: str


class _ToolCall(Struct):
    id: str
    function: _Function
    type: str = "function"


class _Message(Struct, omit_defaults=True):
    role: str
    content: str | list[dict[str, Any]] | None
    tool_calls: list[_ToolCall] = []
    tool_call_id: str = ""
    reasoning: str = ""
    reasoning_content: str = ""


class _Asked(Struct, omit_defaults=True):
    """What the endpoints take; `prompt` is `/v1/completions`', which has a number for `logprobs`."""

    model: str
    messages: Sequence[Message | _Message] = ()
    prompt: str = ""
    stream: bool = False
    stream_options: dict[str, bool] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    # The older name of two: it is the one that every server knows.
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repeat_penalty: float | None = None
    repetition_penalty: float | None = None
    repeat_last_n: int | None = None
    typical_p: float | None = None
    tools: list[dict[str, Any]] = []
    tool_choice: str | dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    logprobs: bool | int = False
    top_logprobs: int = 0


class _EmbedAsked(Struct, omit_defaults=True):
    model: str
    input: Sequence[str]
    dimensions: int | None = None
    truncate_prompt_tokens: int | None = None


class OpenAIBackend:
    """`streams_only`: the server notices that a client has left only while it streams to it."""

    forces_tools = True
    embeds = True

    def __init__(
        self,
        words: Words = OPENAI,
        streams_only: bool = True,
        max_event_bytes: int = 1 << 20,
        max_answer_bytes: int = 16 << 20,
    ) -> None:
        self.streams_only = streams_only
        self._words = words
        self._max_event_bytes = max_event_bytes
        self._max_answer_bytes = max_answer_bytes

    def completes(self, request: ChatRequest) -> bool:
        bare = not (request.suffix or request.json_format)
        return bare and RichMessage not in map(type, request.messages)

    def render_request(self, request: ChatRequest, model: str) -> tuple[str, bytes]:
        words, sampling = self._words, request.sampling
        asked = _Asked(
            model,
            stream=request.stream,
            stream_options=_WITH_USAGE if request.stream else None,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=sampling.seed,
            max_tokens=sampling.max_tokens,
            stop=sampling.stop,
            presence_penalty=sampling.presence_penalty,
            frequency_penalty=sampling.frequency_penalty,
        )
        if words.repeat_penalty:
            asked.top_k, asked.min_p = sampling.top_k, sampling.min_p
            setattr(asked, words.repeat_penalty, sampling.repeat_penalty)
        if words.typical:
            asked.repeat_last_n, asked.typical_p = sampling.repeat_last_n, sampling.typical_p
        if request.raw:
            (asked.prompt,) = [message.content for message in request.messages if type(message) is Message]
            if request.logprobs:
                asked.logprobs = request.top_logprobs or 1  # 0 is none to llama.cpp
            return "/v1/completions", self._with_extra(_json(asked), request.extra)
        asked.messages = request.messages  # type: ignore[assignment]
        if RichMessage in map(type, request.messages):
            asked.messages = list(_messages(request.messages, words))
        if request.tools and request.tool_choice != "none":
            asked.tools = [tools.function(tool) for tool in request.tools]
            if isinstance(choice := request.tool_choice, MustCall):
                asked.tool_choice = "required"
                if choice.name and words.names_tools:
                    asked.tool_choice = {"type": "function", "function": {"name": choice.name}}
                elif choice.name:
                    asked.tools = [tools.function(tool) for tool in request.tools if tool.name == choice.name]
        if request.json_format is not None:
            asked.response_format = _response_format(request.json_format, words)
        template = _for_template(request.extra) if words.template and request.extra else {}
        # A template passes over what it does not know; another server may refuse it, of a model that cannot think.
        if request.thinking is not None and (words.template or not request.thinking_optional):
            asked.reasoning_effort = _EFFORTS[request.thinking]
            if words.template:
                template["enable_thinking"] = request.thinking != "off"
                if request.thinking == "off":
                    asked.reasoning_effort = None
        asked.chat_template_kwargs = template or None
        if request.logprobs:
            asked.logprobs, asked.top_logprobs = True, request.top_logprobs
        return "/v1/chat/completions", self._with_extra(_json(asked), request.extra)

    def _with_extra(self, body: bytes, extra: dict[str, Any] | None) -> bytes:
        if extra is None:
            return body
        taken = {name: value for name, value in extra.items() if name in self._words.takes}
        return body[:-1] + b"," + _json(taken)[1:] if taken else body

    def whole(self, body: bytes, request: ChatRequest, answer_id: str) -> Answer | Failure | None:
        return openai_backend_answer.whole(body, answer_id, self._max_answer_bytes)

    def decoder(self, request: ChatRequest, answer_id: str) -> Decoder:
        return openai_backend_answer.AnswerDecoder(answer_id, self._max_event_bytes)

    def render_embed(self, request: EmbedRequest, model: str) -> tuple[str, bytes]:
        asked = _EmbedAsked(model, request.texts, request.dimensions)
        if request.truncate and self._words.cuts_texts:
            asked.truncate_prompt_tokens = -1  # to what the model can read
        return "/v1/embeddings", _json(asked)

    def embeddings(self, body: bytes, request: EmbedRequest) -> Embeddings:
        return openai_backend_answer.embeddings(body, len(request.texts), request.dimensions)

    def error(self, status: int, body: bytes) -> GatewayError:
        return openai_backend_error.from_status(status, body)

    def failure(self, failure: Failure) -> GatewayError:
        return openai_backend_error.from_text(failure.status or 500, failure.message)


_WITH_USAGE = {"include_usage": True}

# "max" is not known everywhere. To think, without more, is what a server does that is told nothing.
_EFFORTS: dict[Thinking, str | None] = {
    "off": "none",
    "on": None,
    "low": "low",
    "medium": "medium",
    "high": "high",
    "max": "high",
}


# What whoever applies a template reads itself, or sets: another template, the conversation, what comes of it.
_NOT_THE_TEMPLATES = frozenset(
    (
        *("chat_template", "conversation", "max_length", "messages", "padding", "processor_kwargs"),
        *("return_assistant_tokens_mask", "return_dict", "return_tensors", "tokenize", "tokenizer_kwargs"),
        *("tools", "truncation"),
    )
)


def _for_template(extra: dict[str, Any]) -> dict[str, Any]:
    said = extra.get("chat_template_kwargs", {})
    return {name: value for name, value in said.items() if name not in _NOT_THE_TEMPLATES}


def _response_format(asked: JsonFormat, words: Words) -> dict[str, Any]:
    if words.grammar:
        return {"type": "json", "value": asked.schema}
    if asked.schema is None:
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": asked.schema}}


# --- messages -----------------------------------------------------------------------------------------------------


def _messages(said: tuple[Message | RichMessage, ...], words: Words) -> Iterator[Message | _Message]:
    open_calls: list[ToolCall] = []  # whose results are still to come
    for index, message in enumerate(said):
        if type(message) is Message:
            yield message
        elif message.role == "tool":
            call_id = message.tool_call_id or _answered(open_calls, message.tool_name)
            open_calls = [call for call in open_calls if call.id != call_id]
            yield _Message("tool", _content(message), tool_call_id=call_id)
        else:
            calls = [
                ToolCall(call.id or f"call_{index}_{number}", call.name, call.arguments)
                for number, call in enumerate(message.tool_calls)
            ]
            open_calls += calls
            told = _Message(message.role, _content(message) or (None if calls else ""), list(map(_tool_call, calls)))
            if words.reasoning and message.reasoning:
                setattr(told, words.reasoning, message.reasoning)
            yield told


def _answered(open_calls: list[ToolCall], name: str) -> str:
    """The call that a result without an id is of: the first of that name, else the first."""
    named = [call for call in open_calls if call.name == name] or open_calls
    return named[0].id if named else "call"


def _content(message: RichMessage) -> str | list[dict[str, Any]]:
    parts = message.parts
    if not parts:
        return ""
    if len(parts) == 1 and type(parts[0]) is Text:
        return parts[0].text
    return [_part(part) for part in parts]


def _part(part: Part) -> dict[str, Any]:
    match part:
        case Text(text):
            return {"type": "text", "text": text}
        case Image(media_type, data):
            return {"type": "image_url", "image_url": {"url": f"data:{media_type};base64,{data}"}}
        case _:
            assert_never(part)


def _tool_call(call: ToolCall) -> _ToolCall:
    """With arguments that are an object, whatever the model wrote: templates read them, and vLLM answers 400 else."""
    return _ToolCall(call.id, _Function(call.name, _json(tools.as_object(call.arguments)).decode()))
