"""What the errors of OpenAI-compatible servers mean. Bodies as the servers give them, but for the hostile ones."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes.chat import Failure
from hermes.dialects.openai_backend import OpenAIBackend
from hermes.errors import (
    BackendBusy,
    BackendError,
    BackendRefused,
    BadRequest,
    BodyTooLarge,
    ContextLengthExceeded,
    GatewayError,
    ModelNotFound,
)

DIALECT = OpenAIBackend()


def vllm(status: int, message: str, kind: str = "BadRequestError", param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": status}}


def llamacpp(status: int, message: str, kind: str, **more: Any) -> dict[str, Any]:
    return {"error": {"code": status, "message": message, "type": kind, **more}}


def sglang(status: int, message: str) -> dict[str, Any]:
    return {"object": "error", "message": message, "type": "BadRequestError", "param": None, "code": status}


OVERLONG = (ContextLengthExceeded, "context_length_exceeded")
ABSENT = (ModelNotFound, "model_not_found")
LACKING = (BadRequest, "unsupported_by_model")
WRONG = (BadRequest, "invalid_value")
BUSY = (BackendBusy, "backend_busy")
BROKEN = (BackendError, "backend_error")
REFUSED = (BackendRefused, "backend_refused")

NO_IMAGES = "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj"

CASES: list[tuple[int, Any, tuple[type[GatewayError], str]]] = [
    (
        400,
        vllm(400, "This model's maximum context length is 4096 tokens. However", param="input_tokens"),
        OVERLONG,
    ),
    (
        400,
        llamacpp(
            400,
            "request (9020 tokens) exceeds the available context size (1024 tokens), try increasing it",
            "exceed_context_size_error",
            n_prompt_tokens=9020,
            n_ctx=1024,
        ),
        OVERLONG,
    ),
    (400, sglang(400, "The input (61709 tokens) is longer than the model's context length (40960 tokens)."), OVERLONG),
    (
        400,
        {
            "error": "Trying to keep the first 111490 tokens when context the overflows. However, the model is loaded"
            " with context length of only 32768 tokens, which is not enough."
        },
        OVERLONG,
    ),
    (
        400,
        {
            "error": "The number of tokens to keep from the initial prompt is greater than the context length (n_keep:"
            " 13055>= n_ctx: 4096). Try to load the model with a larger context length"
        },
        OVERLONG,
    ),
    (
        422,
        {
            "error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096",
            "error_type": "validation",
        },
        OVERLONG,
    ),
    (
        500,
        llamacpp(500, "input (992 tokens) is too large to process. increase the physical batch size", "server_error"),
        OVERLONG,
    ),
    (400, vllm(400, 'Model "m" does not support matryoshka representation, changing output dimensions'), LACKING),
    (404, vllm(404, "The model `nope` does not exist.", "NotFoundError", "model"), ABSENT),
    (400, llamacpp(400, "model 'nope' not found", "invalid_request_error"), ABSENT),
    (404, {"detail": "Elsewhere"}, REFUSED),
    (404, llamacpp(404, "File Not Found", "not_found_error"), REFUSED),
    (405, {"detail": "Method Not Allowed"}, REFUSED),
    (500, llamacpp(500, NO_IMAGES, "server_error"), LACKING),
    (400, vllm(400, "tiny is not a multimodal model"), LACKING),
    (
        501,
        llamacpp(501, "This server does not support embeddings. Start it with `--embeddings`", "not_supported_error"),
        LACKING,
    ),
    (400, llamacpp(400, "logprobs is not supported with tools + stream", "invalid_request_error"), LACKING),
    (500, llamacpp(500, "Jinja Exception: Conversation roles must alternate user/assistant", "server_error"), WRONG),
    (422, {"detail": [{"loc": ["body", "n"], "msg": "no"}]}, WRONG),
    (400, vllm(400, "top_p must be in (0, 1], got 0.0."), WRONG),
    (413, {"error": "Payload too large"}, (BodyTooLarge, "request_too_large")),
    (503, llamacpp(503, "Loading model", "unavailable_error"), BUSY),
    (503, vllm(503, "The server is overloaded", "Service Unavailable"), BUSY),
    (429, {"error": "Model is overloaded", "error_type": "overloaded"}, BUSY),
    (424, {"error": "Request failed during generation: CUDA out of memory", "error_type": "generation"}, BROKEN),
    (500, vllm(500, "EngineCore encountered an issue. See stack trace", "InternalServerError"), BROKEN),
    (500, llamacpp(500, "Context size has been exceeded.", "server_error"), BROKEN),
    (302, {}, REFUSED),
    (402, vllm(402, "Insufficient credits"), REFUSED),
]


@pytest.mark.parametrize(("status", "body", "meant"), CASES, ids=lambda value: str(value)[:60])
def test_an_error_is_told_by_status_and_text(status: int, body: Any, meant: tuple[type[GatewayError], str]) -> None:
    error = DIALECT.error(status, json.dumps(body).encode())
    assert (type(error), error.code) == meant


def test_a_route_that_a_model_is_not_made_for_is_the_requests_fault() -> None:
    """vLLM has no embeddings of a model that generates, and no chat with one that embeds."""
    error = DIALECT.error(404, b'{"detail":"Not Found"}')
    assert (type(error), error.status, error.code) == (BadRequest, 400, "unsupported_by_model")


def test_only_the_backends_own_faults_are_tried_again() -> None:
    again = {
        type(error)
        for status, body, _ in CASES
        if (error := DIALECT.error(status, json.dumps(body).encode())).retryable
    }
    assert again == {BackendError, BackendBusy}


@pytest.mark.parametrize("body", [b'{"error":"Unauthorized"}', b'{"error":{"message":"Incorrect API key: sk-secret"}}'])
@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_of_our_own_access_leaks_nothing(status: int, body: bytes) -> None:
    error = DIALECT.error(status, body)
    assert type(error) is BackendRefused and (error.status, error.retryable) == (502, False)
    assert "secret" not in error.message


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (404, b"404 page not found: secret", BackendRefused),
        (400, b"<html><h1>nginx secret</h1></html>", BadRequest),
        (500, b"Traceback (most recent call last): secret.py", BackendError),
        (502, b"<HTML>secret", BackendError),
        (503, b"", BackendBusy),
        (500, b'{"detail":"secret"}', BackendError),
        (500, b'["secret"]', BackendError),
        (500, b"\xff\xfe", BackendError),
    ],
    ids=str,
)
def test_what_is_no_error_of_theirs_never_reaches_the_client(
    status: int, body: bytes, kind: type[GatewayError]
) -> None:
    error = DIALECT.error(status, body)
    assert type(error) is kind
    assert "secret" not in error.message and "<" not in error.message and error.message


@given(st.integers(300, 599), st.binary(max_size=60) | st.text().map(lambda text: json.dumps({"error": text}).encode()))
def test_every_error_has_a_short_printable_message(status: int, body: bytes) -> None:
    message = DIALECT.error(status, body).message
    assert message.isprintable() and 0 < len(message) <= 500


def test_a_failure_in_the_middle_means_what_it_means_at_the_start() -> None:
    assert type(DIALECT.failure(Failure("CUDA out of memory"))) is BackendError
    assert type(DIALECT.failure(Failure("no such field", 400))) is BadRequest
    assert type(DIALECT.failure(Failure("Model is overloaded", 429))) is BackendBusy
    overlong = "The input (9 tokens) is longer than the model's context length (4 tokens)."
    assert type(DIALECT.failure(Failure(overlong))) is ContextLengthExceeded
