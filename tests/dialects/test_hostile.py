"""Whatever comes, from clients or servers: it is read, or refused as theirs. It is never a bug of ours (I10, I15)."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hermes.chat import Answer, ChatRequest, Failure, Message, Sampling, Stop, StreamEvent, TextDelta, collect
from hermes.dialects import BackendDialect, ClientDialect, Decoder, Meta, openai_completions, responses_request
from hermes.dialects import openai_request as openai_chat
from hermes.dialects.ollama import Ollama
from hermes.dialects.openai import OpenAI
from hermes.dialects.openai_backend import LLAMACPP, OPENAI, VLLM, OpenAIBackend
from hermes.dialects.openai_completions import Completions
from hermes.dialects.responses import Responses
from hermes.dialects.tgi import TgiBackend
from hermes.errors import BackendError, BadRequest
from tests.corpus.record import HERE
from tests.dialects.strategies import TEXTS

# --- clients ----------------------------------------------------------------------------------------------------------

# What bodies are made of; in the right place now and then.
KINDS = ("message", "function_call", "custom_tool_call", "function_call_output", "reasoning", "function", "custom")
PARTS = ("text", "input_text", "input_image", "json_schema", "namespace", "user", "assistant", "developer", "tool")
KEYS = ("type", "role", "content", "text", "name", "call_id", "arguments", "input", "output", "summary", "function")
MORE = (
    "tools",
    "parameters",
    "schema",
    "format",
    "image_url",
    "namespace",
    "chat_template_kwargs",
    "grammar",
    "n_predict",
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.sampled_from([0, 1, -1, 10**30, 1e308])
    | st.sampled_from([*KINDS, *PARTS, "required", "auto", '{"a":1' + "0" * 30 + "}", "data:image/png;base64,AAAA"])
    | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS + MORE), inner, max_size=5),
    max_leaves=12,
)
DIALECTS: dict[str, tuple[ClientDialect, frozenset[str], dict[str, Any]]] = {
    "chat": (OpenAI(), openai_chat.KNOWN, {"messages": [{"role": "user", "content": "Hi"}]}),
    "completions": (Completions(), openai_completions.KNOWN, {"prompt": "Hi"}),
    "responses": (Responses(), responses_request.KNOWN, {"input": "Hi"}),
}
BACKENDS: tuple[BackendDialect, ...] = (
    *(OpenAIBackend(words) for words in (OPENAI, VLLM, LLAMACPP)),
    TgiBackend(),
    Ollama(),
)


@pytest.mark.parametrize("name", DIALECTS)
@given(data=st.data())
def test_a_body_is_understood_or_a_bad_request_and_what_is_understood_can_be_asked(
    name: str, data: st.DataObject
) -> None:
    dialect, known, least = DIALECTS[name]
    keys = st.sampled_from(sorted(known | {"chat_template_kwargs", "grammar", "n_predict", "Stream"}))
    asked = {"model": "m"} | least | data.draw(st.dictionaries(keys, VALUES, max_size=3))
    try:
        request = dialect.parse_request(json.dumps(asked).encode())
    except BadRequest as refused:
        assert dialect.render_error(refused, "r")
        return
    for backend in BACKENDS:
        if not (request.raw or request.suffix) or backend.completes(request):
            try:
                _, body = backend.render_request(request, "resident")
            except BadRequest:
                continue
            assert json.loads(body)["model" if b'"model"' in body else "inputs"]


# --- servers ----------------------------------------------------------------------------------------------------------

SAID = {
    path: path.read_bytes().partition(b"\n")[2]
    for path in sorted(HERE.glob("**/*.txt"))
    if path.read_bytes().startswith(b"200\n") and "embed" not in path.name
}
PIECES = (
    *(
        b"",
        b"null",
        b"{}",
        b"-1",
        b"1e400",
        b"1" + b"0" * 30,
        b"\xff",
        b'"',
        b"\n",
        b"\n\n",
        b"data: ",
        b"[DONE]",
        b"\r",
    ),
    *(
        b'"error":"x",',
        b'"index":-1',
        b'"finish_reason":"stop"',
        b'"tool_calls":[{}]',
        b"[" * 300,
        b"<html>",
        b'"\\ud800"',
    ),
    *(b'"usage":{"prompt_tokens":-5}', b'"logprobs":{"content":[{"bytes":[1' + b"0" * 30 + b"]}]}", b'"details":null'),
)


@settings(max_examples=300)
@given(data=st.data())
def test_a_stream_in_which_anything_is_changed_is_an_answer_or_the_backends_error(data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(list(SAID)))
    said = SAID[path]
    for _ in range(data.draw(st.integers(1, 3))):
        at, gone = data.draw(st.integers(0, len(said))), data.draw(st.sampled_from([0, 1, 4, 20, 200]))
        said = said[:at] + data.draw(st.sampled_from(PIECES)) + said[at + gone :]
    raw = path.name.startswith("raw-")
    request = ChatRequest("m", (Message("user", "Hi"),), True, raw=raw, logprobs=raw, sampling=Sampling(stop=("e",)))
    spoken: dict[str, BackendDialect] = {"llamacpp": OpenAIBackend(LLAMACPP), "ollama": Ollama(), "tgi": TgiBackend()}
    decoder = spoken[path.parent.name].decoder(request, "a1")
    try:
        events = read(decoder, said, data.draw(st.sampled_from([1, 50, 5000])))
        told = collect(events)
        assert told is None or isinstance(told, Answer | Failure)
        if isinstance(told, Answer):
            assert sum(type(event) is Stop for event in events) == 1 and type(events[-1]) is Stop
            assert 0 <= told.usage.cached_tokens <= told.usage.prompt_tokens and told.usage.completion_tokens >= 0
            for dialect in (OpenAI(), Responses()):
                assert dialect.render_answer(told, request, Meta("r", "m", 0))
                assert dialect.encoder(request, Meta("r", "m", 0)).encode(events)
    except BackendError:
        return


def read(decoder: Decoder, said: bytes, step: int) -> list[StreamEvent]:
    events: list[StreamEvent] = []
    for at in range(0, len(said), step):
        text = decoder.text(said[at : at + step])
        events += [TextDelta(text)] if text else decoder.feed(said[at : at + step])
    return events + decoder.finish()
