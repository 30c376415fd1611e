"""What Ollama's error answers mean. Statuses and texts as a real Ollama 0.33 gives them, but for the hostile ones."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes.chat import Failure
from hermes.dialects.ollama import Ollama
from hermes.errors import (
    BackendBusy,
    BackendCrashed,
    BackendError,
    BackendRefused,
    BadRequest,
    BodyTooLarge,
    ContextLengthExceeded,
    GatewayError,
    ModelNotFound,
)

DIALECT = Ollama()


def nested(status: int, message: str, kind: str) -> str:
    """llama-server's error as JSON inside of Ollama's text."""
    return json.dumps({"error": {"code": status, "message": message, "type": kind}})


OVERLONG = "request (620 tokens) exceeds the available context size (256 tokens), try increasing it"
NO_IMAGES = "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj"

CASES: list[tuple[int, str, type[GatewayError], str]] = [
    (404, "model 'nope' not found", ModelNotFound, "model_not_found"),
    (404, 'model "nope" not found, try pulling it first', ModelNotFound, "model_not_found"),
    (400, nested(400, OVERLONG, "exceed_context_size_error"), ContextLengthExceeded, "context_length_exceeded"),
    (400, "the input length exceeds the context length", ContextLengthExceeded, "context_length_exceeded"),
    (
        400,
        "the prompt is longer than the context length currently available to the model; shorten the prompt",
        ContextLengthExceeded,
        "context_length_exceeded",
    ),
    (
        500,
        "input after truncation exceeds maximum context length",
        ContextLengthExceeded,
        "context_length_exceeded",
    ),
    (400, '"tiny" does not support thinking', BadRequest, "unsupported_by_model"),
    (400, '"embedder" does not support chat', BadRequest, "unsupported_by_model"),
    (500, nested(500, NO_IMAGES, "server_error"), BadRequest, "unsupported_by_model"),
    (500, 'option "temperature" must be of type float32', BadRequest, "invalid_value"),
    (500, 'invalid format: "\\"xml\\""; expected "json" or a valid JSON Schema object', BadRequest, "invalid_value"),
    (
        400,
        'invalid think value: "banana" (must be "high", "medium", "low", "max", true, or false)',
        BadRequest,
        "invalid_value",
    ),
    (413, "request body too large", BodyTooLarge, "request_too_large"),
    (503, "server busy, please try again.  maximum pending requests exceeded", BackendBusy, "backend_busy"),
    (429, "too many", BackendBusy, "backend_busy"),
    (499, "request canceled", BackendError, "backend_error"),
    (500, "an error was encountered while running the model: unexpected EOF", BackendError, "backend_error"),
    (500, "llama-server process no longer running: -1", BackendCrashed, "backend_error"),
    (500, "model requires more system memory (9 GiB) than is available (2 GiB)", BackendError, "backend_error"),
    (
        500,
        'tensor "blk.0.ffn_gate.weight" offset+size (931648) exceeds file size (900000)',
        BackendError,
        "backend_error",
    ),
    (405, "no", BackendRefused, "backend_refused"),
    (302, "elsewhere", BackendRefused, "backend_refused"),
]


@pytest.mark.parametrize(("status", "text", "kind", "code"), CASES, ids=lambda value: str(value)[:50])
def test_an_error_is_told_by_status_and_text(status: int, text: str, kind: type[GatewayError], code: str) -> None:
    error = DIALECT.error(status, json.dumps({"error": text}).encode())
    assert type(error) is kind and error.code == code
    assert error.message in (" ".join(text.split()), OVERLONG, NO_IMAGES, text.partition(": ")[0])


@pytest.mark.parametrize(
    "last_logged", ["unexpected EOF", "error: task id = 17, error: request (5020 tokens) exceeds the context size"]
)
def test_a_crash_is_nobodys_fault_and_tells_nothing_of_others(last_logged: str) -> None:
    """Ollama appends the last error of its runner, whoever's request that was about."""
    crash = "an error was encountered while running the model"
    error = DIALECT.failure(Failure(f"{crash}: {last_logged}"))
    assert type(error) is BackendError and error.retryable
    assert error.message == crash


def test_only_the_backends_own_faults_are_tried_again() -> None:
    retryable = {
        (status, kind): error.retryable
        for status, text, kind, _ in CASES
        if (error := DIALECT.error(status, json.dumps({"error": text}).encode()))
    }
    assert {kind for (_, kind), again in retryable.items() if again} == {BackendError, BackendBusy, BackendCrashed}


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_of_our_own_access_leaks_nothing(status: int) -> None:
    error = DIALECT.error(status, b'{"error":"bad token sk-secret","signin_url":"https://example.org"}')
    assert type(error) is BackendRefused and (error.status, error.retryable) == (502, False)
    assert "secret" not in error.message and "example" not in error.message


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (404, b"404 page not found", BackendRefused),
        (405, b"405 method not allowed", BackendRefused),
        (400, b"<html><h1>nginx secret</h1></html>", BadRequest),
        (400, b'{"error":"<!DOCTYPE html><p>secret"}', BadRequest),
        (500, b"goroutine 1 [running]: secret.go", BackendError),
        (502, b"<HTML>secret", BackendError),
        (503, b"", BackendBusy),
        (500, b'{"detail":"secret"}', BackendError),
        (500, b'["secret"]', BackendError),
        (500, b'{"error":{"error":{"error":[]}}}', BackendError),
        (500, b'{"error":' * 3000, BackendError),
        (500, b"\xff\xfe", BackendError),
    ],
    ids=str,
)
def test_what_is_not_ollamas_error_never_reaches_the_client(status: int, body: bytes, kind: type[GatewayError]) -> None:
    error = DIALECT.error(status, body)
    assert type(error) is kind
    assert "secret" not in error.message and "<" not in error.message and error.message


@given(st.integers(300, 599), st.binary(max_size=60) | st.text().map(lambda text: json.dumps({"error": text}).encode()))
def test_every_error_has_a_short_printable_message(status: int, body: bytes) -> None:
    message = DIALECT.error(status, body).message
    assert message.isprintable() and 0 < len(message) <= 500


def test_a_long_text_is_cut() -> None:
    assert DIALECT.error(500, json.dumps({"error": "why " * 10_000}).encode()).message == "why " * 125


def test_a_failure_in_the_middle_means_what_it_means_at_the_start() -> None:
    assert type(DIALECT.failure(Failure("unexpected EOF"))) is BackendError
    assert type(DIALECT.failure(Failure(nested(400, OVERLONG, "exceed_context_size_error")))) is ContextLengthExceeded
