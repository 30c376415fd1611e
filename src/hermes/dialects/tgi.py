"""Text Generation Inference, the backend dialect: its messages API, and `/generate_stream` for prompts as they are.

1. A conversation goes to `/v1/chat/completions`, where TGI knows the model's template; a prompt that is to be put into
   none goes to `/generate_stream`. Whole answers are asked for as streams.
2. The model that a request names is an adapter to TGI, "tgi" the model itself.
3. What TGI answers with a refusal, though it changes nothing, is not said: `top_p` and `typical_p` 1, `top_k` 0, a seed
   below 0.
4. In a prompt, whoever wrote it, TGI takes `![](http...)` for an image that it is to fetch, from wherever it can reach.
   Here nothing is fetched for clients: with a space in it, it is a text.
"""

from collections.abc import Iterator
from typing import Any, assert_never

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from hermes.chat import ChatRequest, Failure, Image, Message, Part, RichMessage, Sampling, Text
from hermes.dialects import Decoder, openai_backend_error
from hermes.dialects.openai_backend import TGI, OpenAIBackend
from hermes.dialects.stops import Trimmed
from hermes.dialects.tgi_answer import ChatDecoder, TokenDecoder, status_of
from hermes.errors import BadRequest, GatewayError

_json = msgspec.json.Encoder().encode

MAX_EVENT_BYTES = 1 << 20


class _Parameters(Struct, omit_defaults=True):
    details: bool
    do_sample: bool = False
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    max_new_tokens: int | None = None
    stop: tuple[str, ...] = ()
    top_n_tokens: int = 0
    grammar: dict[str, Any] | None = None


class _Generate(Struct):
    inputs: str
    parameters: _Parameters


class TgiBackend(OpenAIBackend):
    embeds = False

    def __init__(self) -> None:
        super().__init__(TGI)

    def completes(self, request: ChatRequest) -> bool:
        return not request.suffix

    def render_request(self, request: ChatRequest, model: str) -> tuple[str, bytes]:
        sampling = request.sampling
        top_p = None if sampling.top_p is not None and sampling.top_p >= 1 else sampling.top_p
        seed = None if sampling.seed is not None and sampling.seed < 0 else sampling.seed
        if request.json_format is not None and request.json_format.schema is None:
            words = "the backend makes JSON only by a schema: name one"
            raise BadRequest(words, code="unsupported_by_backend", param="response_format")
        if request.raw:
            return "/generate_stream", _unfetched(_json(_generate(request, replace(sampling, top_p=top_p, seed=seed))))
        # It takes the one penalty by the other's name, and 2 less.
        penalty = None if sampling.repeat_penalty is None else sampling.repeat_penalty - 2.0
        sampling = replace(sampling, top_p=top_p, seed=seed, presence_penalty=penalty)
        messages = tuple(_apart(request.messages))
        path, body = super().render_request(replace(request, messages=messages, sampling=sampling), "tgi")
        return path, _unfetched(body)

    def decoder(self, request: ChatRequest, answer_id: str) -> Decoder:
        decoder: Decoder
        if request.raw:
            decoder = TokenDecoder(request.logprobs, MAX_EVENT_BYTES)
        else:
            decoder = ChatDecoder(answer_id, MAX_EVENT_BYTES)
        return Trimmed(decoder, request.sampling.stop) if request.sampling.stop else decoder

    def failure(self, failure: Failure) -> GatewayError:
        status = status_of(failure.message) or failure.status or 500
        return openai_backend_error.from_text(status, failure.message)


def _unfetched(body: bytes) -> bytes:
    return body.replace(b"![](http", b"![ ](http")


def _joined(message: Message | RichMessage) -> Message | RichMessage:
    """With texts that follow each other as one, as TGI reads them."""
    if type(message) is Message or len(message.parts) < 2:
        return message
    parts: list[Part] = []
    for part in message.parts:
        if parts and type(part) is Text and type(last := parts[-1]) is Text:
            parts[-1] = Text(last.text + part.text)
        else:
            parts.append(part)
    return replace(message, parts=tuple(parts))


def _apart(messages: tuple[Message | RichMessage, ...]) -> Iterator[Message | RichMessage]:
    """Of a message with a text TGI passes over the calls: they get one of their own."""
    for message in map(_joined, messages):
        if type(message) is RichMessage and message.parts and message.tool_calls:
            yield replace(message, tool_calls=())
            yield replace(message, parts=())
        else:
            yield message


def _generate(request: ChatRequest, sampling: Sampling) -> _Generate:
    schema = None if request.json_format is None else request.json_format.schema
    greedy = sampling.temperature == 0  # which it would refuse as a temperature
    return _Generate(
        "".join(_inputs(request.messages)),
        _Parameters(
            details=True,
            do_sample=not greedy,
            temperature=None if greedy else sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k or None,
            typical_p=None if sampling.typical_p is not None and sampling.typical_p >= 1 else sampling.typical_p,
            repetition_penalty=sampling.repeat_penalty,
            frequency_penalty=sampling.frequency_penalty,
            seed=sampling.seed,
            max_new_tokens=sampling.max_tokens,
            stop=sampling.stop,
            top_n_tokens=request.top_logprobs if request.logprobs else 0,
            grammar=None if schema is None else {"type": "json", "value": schema},
        ),
    )


def _inputs(messages: tuple[Message | RichMessage, ...]) -> Iterator[str]:
    """Images stand in the prompt itself, as in Markdown."""
    for message in messages:
        if type(message) is Message:
            yield message.content
            continue
        for part in message.parts:
            match part:
                case Text(text):
                    yield text
                case Image(media_type, data):
                    yield f"![](data:{media_type};base64,{data})"
                case _:
                    assert_never(part)
