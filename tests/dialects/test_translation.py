"""decode(encode(x)) == x, for whatever a dialect can express: what it cannot is in `losses.py` and docs/translation.md.

A backend is asked in words that the client side of the same API reads; a client is answered in words that the backend
side reads. Anthropic's API has no backend side: `anthropic_wire` stands in for it.
"""

import json
from base64 import b64decode
from collections.abc import Callable
from struct import unpack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import replace

from hermes.chat import (
    Answer,
    ChatRequest,
    Embeddings,
    EmbedRequest,
    Image,
    Message,
    MustCall,
    RichMessage,
    Sampling,
    StreamEvent,
    Text,
    TextDelta,
    Usage,
    collect,
)
from hermes.dialects import BackendDialect, ClientDialect, EmbedDialect, Meta
from hermes.dialects.anthropic import Anthropic
from hermes.dialects.ollama import Ollama
from hermes.dialects.ollama_client import OllamaClient, OllamaGenerate
from hermes.dialects.openai import OpenAI
from hermes.dialects.openai_backend import LLAMACPP, OPENAI, VLLM, OpenAIBackend, Words
from hermes.dialects.openai_completions import Completions
from tests.dialects import anthropic_wire
from tests.dialects.strategies import (
    IMAGES,
    SAID,
    SAMPLING,
    Can,
    Tells,
    embeds,
    requests,
    samplings,
    streams,
)

ASKED = ChatRequest("m", ())
META = Meta("r1", 'mo"del', 1700000000)

# --- requests -------------------------------------------------------------------------------------------------------


class Written(Struct):
    """One way to write a request: who writes it, who reads it, and what it can say."""

    write: Callable[[ChatRequest], bytes]
    reader: ClientDialect
    can: Can


def by(backend: BackendDialect) -> Callable[[ChatRequest], bytes]:
    return lambda request: backend.render_request(request, request.model)[1]


_OPENAI_SAMPLING = ("temperature", "top_p", "seed", "max_tokens", "stop", "presence_penalty", "frequency_penalty")
_MORE_SAMPLING = (*_OPENAI_SAMPLING, "top_k", "min_p", "repeat_penalty")
_ANY_CALL = ("auto", MustCall(), MustCall("of a name"))

WAYS: dict[str, Written] = {
    "Ollama": Written(
        by(Ollama()),
        OllamaClient(),
        Can(
            sampling=tuple(SAMPLING),
            thinking=(None, "off", "on", "low", "medium", "high", "max"),
            mixed=False,
            names_results=True,
            any_json=False,
        ),
    ),
    "OpenAI": Written(
        by(OpenAIBackend(OPENAI)),
        OpenAI(),
        Can(
            sampling=_OPENAI_SAMPLING,
            thinking=(None, "off", "low", "medium", "high"),
            forces=_ANY_CALL,
            thoughts=False,
            extra=("logit_bias", "user"),
        ),
    ),
    "vLLM": Written(
        by(OpenAIBackend(VLLM)),
        OpenAI(),
        Can(
            sampling=_MORE_SAMPLING,
            thinking=(None, "off", "on", "low", "medium", "high"),
            forces=_ANY_CALL,
            extra=("logit_bias", "structured_outputs"),
        ),
    ),
    "llama.cpp": Written(
        by(OpenAIBackend(LLAMACPP)),
        OpenAI(),
        Can(
            sampling=tuple(SAMPLING),
            thinking=(None, "off", "on", "low", "medium", "high"),
            forces=("auto", MustCall()),
            extra=("logit_bias", "grammar"),
        ),
    ),
    "Anthropic": Written(
        anthropic_wire.written,
        Anthropic(),
        Can(
            sampling=("temperature", "top_p", "max_tokens", "stop"),
            thinking=(None, "off", "on", "low", "medium", "high", "max"),
            forces=(*_ANY_CALL, "none"),
            any_json=False,
            logprobs=False,
        ),
    ),
}


def meaning(request: ChatRequest) -> ChatRequest:
    """What a request asks for, however its messages are held, and how it is to think is said."""
    messages: Any = tuple(map(_said, request.messages))
    extra = {name: value for name, value in (request.extra or {}).items() if name != "chat_template_kwargs"} or None
    return replace(request, messages=messages, extra=extra, thinking_optional=False, include_usage=False)


def _said(message: Message | RichMessage) -> Any:
    if isinstance(message, Message):
        return message.role, (Text(message.content),) if message.content else (), "", (), "", ""
    parts = tuple(part for part in message.parts if part != Text(""))
    calls = [(call.id, call.name, json.loads(call.arguments)) for call in message.tool_calls]
    return message.role, parts, message.reasoning, tuple(calls), message.tool_call_id, message.tool_name


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@given(data=st.data())
def test_a_request_comes_back_as_it_was_meant(way: Written, data: st.DataObject) -> None:
    request = data.draw(requests(way.can))
    assert meaning(way.reader.parse_request(way.write(request))) == meaning(request)


@given(
    st.none() | SAID,
    st.lists(IMAGES, max_size=2),
    SAID,
    samplings(tuple(SAMPLING)),
    st.booleans(),
    st.sampled_from(["raw", "suffix", "templated"]),
)
def test_a_bare_prompt_comes_back_as_it_was_meant(
    system: str | None, images: list[Image], prompt: str, sampling: Sampling, stream: bool, kind: str
) -> None:
    said = Message("user", prompt) if not images else RichMessage("user", (Text(prompt), *images))
    messages = (said,) if system is None or kind == "raw" else (Message("system", system), said)
    more: dict[str, Any] = {"raw": kind == "raw", "suffix": "after" if kind == "suffix" else ""}
    request = ChatRequest("m", messages, stream, completion=True, sampling=sampling, **more)
    path, body = Ollama(thinks=lambda model: False).render_request(request, "m")
    assert path == "/api/generate"
    assert meaning(OllamaGenerate().parse_request(body)) == meaning(request)


@pytest.mark.parametrize("words", [OPENAI, VLLM, LLAMACPP], ids=["OpenAI", "vLLM", "llama.cpp"])
@given(data=st.data())
def test_a_text_that_is_to_go_on_comes_back_as_it_was_meant(words: Words, data: st.DataObject) -> None:
    names = {OPENAI: _OPENAI_SAMPLING, VLLM: _MORE_SAMPLING, LLAMACPP: tuple(SAMPLING)}[words]
    request = ChatRequest(
        "m",
        (Message("user", data.draw(SAID)),),
        data.draw(st.booleans()),
        completion=True,
        raw=True,
        sampling=data.draw(samplings(names)),
        thinking="off",
    )
    if data.draw(st.booleans()):
        request = replace(request, logprobs=True, top_logprobs=data.draw(st.integers(1, 20)))
    path, body = OpenAIBackend(words).render_request(request, "m")
    assert path == "/v1/completions"
    assert meaning(Completions().parse_request(body)) == meaning(request)


def test_every_field_of_a_request_is_drawn_or_is_not_for_backends() -> None:
    """A field that is new has to be written by somebody, or to be told as a loss."""
    drawn = {"messages", "stream", "tools", "tool_choice", "sampling", "json_format", "thinking", "logprobs", "extra"}
    prompts = {"completion", "raw", "suffix", "echo"}
    ours = {"model", "priority", "service_tier", "load_options", "include_usage", "thinking_optional"}
    assert {*ChatRequest.__struct_fields__} == drawn | prompts | ours | {"top_logprobs"}
    assert {*Sampling.__struct_fields__} == {*SAMPLING}


EMBEDDERS: dict[str, tuple[BackendDialect, EmbedDialect, st.SearchStrategy[EmbedRequest]]] = {
    "Ollama": (Ollama(), OllamaClient(), embeds() | embeds(truncate=True)),
    "Ollama, the older form": (
        Ollama(),
        OllamaGenerate(),
        embeds(truncate=True, normalised=False, dimensions=None).map(
            lambda request: replace(request, texts=request.texts[:1])
        ),
    ),
    "OpenAI": (OpenAIBackend(OPENAI), OpenAI(), embeds()),
    "vLLM": (OpenAIBackend(VLLM), OpenAI(), embeds()),
    "llama.cpp": (OpenAIBackend(LLAMACPP), OpenAI(), embeds()),
}


@pytest.mark.parametrize(("writer", "reader", "drawn"), EMBEDDERS.values(), ids=EMBEDDERS)
@given(data=st.data())
def test_texts_to_embed_come_back_as_they_were_meant(
    writer: BackendDialect, reader: EmbedDialect, drawn: st.SearchStrategy[EmbedRequest], data: st.DataObject
) -> None:
    request = data.draw(drawn)
    assert reader.parse_embed(writer.render_embed(request, "m")[1]) == request


# --- answers --------------------------------------------------------------------------------------------------------


class Answered(Struct):
    """One way to tell an answer, and who reads it."""

    teller: ClientDialect
    reader: BackendDialect
    tells: Tells


TELLS: dict[str, Answered] = {
    "OpenAI": Answered(OpenAI(), OpenAIBackend(), Tells()),
    "Ollama": Answered(
        OllamaClient(), Ollama(), Tells(reasons=("stop", "length"), called="stop", times=True, cached=False)
    ),
    "Ollama, a prompt": Answered(
        OllamaGenerate(), Ollama(), Tells(reasons=("stop", "length"), called="stop", times=True, cached=False)
    ),
}
each_way_to_tell = pytest.mark.parametrize("way", TELLS.values(), ids=TELLS)
STREAMED = ChatRequest("m", (), stream=True, include_usage=True)


def added_up(events: list[StreamEvent]) -> Answer:
    answer = collect(events)
    assert isinstance(answer, Answer)
    return answer


@each_way_to_tell
@given(data=st.data())
def test_a_stream_tells_what_happened_at_any_cuts(way: Answered, data: st.DataObject) -> None:
    events = data.draw(streams(way.tells))
    encoder = way.teller.encoder(STREAMED, META)
    body = b"".join([encoder.encode([event]) for event in events])
    cuts = data.draw(st.just([*range(len(body))]) | st.sets(st.integers(0, len(body)), max_size=8).map(sorted))
    decoder = way.reader.decoder(STREAMED, "a1")
    read: list[StreamEvent] = []
    for begin, end in zip([0, *cuts], [*cuts, len(body)], strict=True):
        text = decoder.text(body[begin:end])
        read += [TextDelta(text)] if text else decoder.feed(body[begin:end])
    read += decoder.finish()
    if isinstance(way.teller, OpenAI):  # Ollama's calls come last, and whole
        assert read == events
    assert added_up(read) == added_up(events)


@each_way_to_tell
@given(data=st.data())
def test_a_whole_answer_tells_what_happened(way: Answered, data: st.DataObject) -> None:
    answer = added_up(data.draw(streams(way.tells)))
    body = way.teller.render_answer(answer, ASKED, META)
    assert way.reader.whole(body, ChatRequest("m", ()), "a1") == answer


@given(streams(Tells(logprobs=False, stop_texts=True)))
def test_anthropics_messages_tell_what_happened(events: list[StreamEvent]) -> None:
    answer = _as_objects(added_up(events))
    dialect = Anthropic()
    streamed = anthropic_wire.read(dialect.encoder(STREAMED, META).encode(events))
    whole = json.loads(dialect.render_answer(added_up(events), ASKED, META))
    assert _as_objects(anthropic_wire.answered(streamed)) == _as_objects(anthropic_wire.answered(whole)) == answer


def _as_objects(answer: Answer) -> Answer:
    calls: Any = tuple([(call.id, call.name, json.loads(call.arguments)) for call in answer.tool_calls])
    return replace(answer, tool_calls=calls)


VECTORS = st.lists(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=4), min_size=1, max_size=3)


@given(VECTORS, st.integers(0, 1 << 24))
def test_vectors_come_back_as_they_were(vectors: list[list[float]], tokens: int) -> None:
    made, request = Embeddings(vectors, Usage(tokens)), EmbedRequest("m", ("x",) * len(vectors))
    assert OpenAIBackend().embeddings(OpenAI().render_embeddings(made, request, META), request) == made
    read = Ollama().embeddings(OllamaClient().render_embeddings(made, request, META), request)
    assert (read.vectors, read.usage.prompt_tokens) == (vectors, tokens)
    older = Embeddings(vectors[:1], Usage())
    body = OllamaGenerate().render_embeddings(older, request, META)
    assert Ollama().embeddings(body, EmbedRequest("m", ("x",), normalised=False)).vectors == older.vectors


@given(st.lists(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=4), min_size=1, max_size=3))
def test_vectors_packed_as_base64_are_the_same_numbers(vectors: list[list[float]]) -> None:
    request = EmbedRequest("m", ("x",) * len(vectors), base64=True)
    body = OpenAI().render_embeddings(Embeddings(vectors, Usage()), request, META)
    packed = [b64decode(item["embedding"]) for item in json.loads(body)["data"]]
    assert [list(unpack(f"<{len(each) // 4}f", each)) for each in packed] == vectors
