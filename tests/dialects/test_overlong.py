"""A prompt that is too long: whatever server says so in its words, each client reads the words that it looks for."""

import json
import re
from typing import Any

import pytest

from hermes.chat import ChatRequest, Failure
from hermes.dialects import BackendDialect, ClientDialect, Meta
from hermes.dialects.anthropic import Anthropic
from hermes.dialects.ollama import Ollama
from hermes.dialects.ollama_client import OllamaClient, OllamaGenerate
from hermes.dialects.openai import OpenAI
from hermes.dialects.openai_backend import LLAMACPP, OPENAI, VLLM, OpenAIBackend
from hermes.dialects.prompt import Prompt

_LLAMA = "request (9020 tokens) exceeds the available context size (1024 tokens), try increasing it"
_NESTED = json.dumps({"error": {"code": 400, "message": _LLAMA, "type": "exceed_context_size_error"}})
_VLLM = (
    "This model's maximum context length is 4096 tokens. However, you requested 100 output tokens and your prompt"
    " contains at least 4000 input tokens, for a total of at least 4100 tokens."
)

# By backend kind: status, and the body of an error, of a text to embed too.
TOLD: list[tuple[str, BackendDialect, int, Any]] = [
    ("Ollama", Ollama(), 400, {"error": _NESTED}),
    ("Ollama, a text to embed", Ollama(), 400, {"error": "the input length exceeds the context length"}),
    ("llama.cpp", OpenAIBackend(LLAMACPP), 400, {"error": {"code": 400, "message": _LLAMA}}),
    (
        "llama.cpp, a text to embed",
        OpenAIBackend(LLAMACPP),
        500,
        {"error": {"code": 500, "message": "input (9001 tokens) is too large to process. increase the physical batch"}},
    ),
    ("vLLM", OpenAIBackend(VLLM), 400, {"error": {"code": 400, "message": _VLLM, "param": "input_tokens"}}),
    (
        "SGLang",
        OpenAIBackend(OPENAI),
        400,
        {
            "object": "error",
            "message": "The input (617 tokens) is longer than the model's context length (409 tokens).",
        },
    ),
    (
        "LM Studio",
        OpenAIBackend(OPENAI),
        400,
        {"error": "Trying to keep the first 1114 tokens when context the overflows. However, the model is loaded"},
    ),
    (
        "TGI",
        OpenAIBackend(OPENAI),
        422,
        {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000 `inputs`"},
    ),
    (
        "another gateway in between, Anthropic's words",
        OpenAIBackend(OPENAI),
        400,
        {"error": {"message": "prompt is too long: 210000 tokens > 200000 maximum", "type": "invalid_request_error"}},
    ),
]
# LangChain, LiteLLM and others look for OpenAI's words, Claude Code for Anthropic's; Ollama's own are of this length.
READ: list[tuple[ClientDialect, str]] = [
    (OpenAI(), "maximum context length"),
    (Prompt(), "maximum context length"),
    (Anthropic(), "prompt is too long"),
    (OllamaClient(), "context length"),
    (OllamaGenerate(), "context length"),
]
REQUEST = ChatRequest("m", (), stream=True)
META = Meta("r1", "m", 0)


def _words(rendered: bytes) -> str:
    """The message in an error, whatever its shape, streamed or not."""
    told = json.loads(rendered[rendered.index(b"{") :])["error"]
    return str(told if isinstance(told, str) else told["message"])


@pytest.mark.parametrize(("client", "words"), READ, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize(("said", "backend", "status", "body"), TOLD, ids=[told[0] for told in TOLD])
def test_each_client_reads_the_words_that_it_looks_for(
    said: str, backend: BackendDialect, status: int, body: Any, client: ClientDialect, words: str
) -> None:
    error = backend.error(status, json.dumps(body).encode())
    assert (error.status, error.code, error.retryable) == (400, "context_length_exceeded", False)
    assert words in _words(client.render_error(error, "r1"))
    assert words in _words(client.encoder(REQUEST, META).fail(error))


def test_claude_code_reads_by_how_much() -> None:
    """Its own pattern."""
    for name, backend, status, body in TOLD[:3]:
        words = _words(Anthropic().render_error(backend.error(status, json.dumps(body).encode()), "r1"))
        counts = re.search(r"prompt is too long[^0-9]*(\d+)\s*tokens?\s*>\s*(\d+)", words)
        assert (counts and counts.groups()) == (None if "embed" in name else ("9020", "1024"))


def test_what_is_told_in_the_middle_of_a_stream_means_the_same() -> None:
    for _, backend, status, body in TOLD:
        told = body.get("error", body)
        message = told if isinstance(told, str) else told["message"]
        assert backend.failure(Failure(message, status)).code == "context_length_exceeded"
