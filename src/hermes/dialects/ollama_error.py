"""What Ollama's errors mean, by status and text: its body is `{"error": "<text>"}`, whatever went wrong.

The text is for people; only the phrases below are told apart. What is no such body (a proxy's HTML, a stack trace)
never reaches the client.
"""

import re
from typing import Any

import msgspec

from hermes.dialects import strict
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

# "the input length exceeds the context length", "the prompt is longer than the context length ...",
# "input after truncation exceeds maximum context length", llama-server's "exceeds the available context size".
_OVERLONG = re.compile(
    r"(exceed|longer than|larger than)[^.]*\bcontext (length|size|window)|exceed_context_size_error|prompt is too long",
    re.IGNORECASE,
)
# What Ollama answers with 500 although the request is to blame: wrong option types, schemas and images.
_ASKED_WRONGLY = re.compile(
    r'option "\w+" must be of type|invalid format: |JSON schema conversion failed|Failed to load image|Invalid base64'
)
# '"x" does not support thinking' (400), llama-server's "image input is not supported" (500), "This server does not
# support embeddings" (501).
_LACKING = re.compile(r"does not support \w+|input is not supported")

# A runner that died. What follows may be the last error it logged, about somebody else's request (seen on 0.33).
_BROKE_OFF = re.compile(r"an error was encountered while running the model")
_CRASHED = re.compile(r"model runner has unexpectedly stopped|llama-server process no longer running")

MAX_TEXT = 500


def from_status(status: int, body: bytes) -> GatewayError:
    """`status`: as answered; 500 for a failure told in the middle of an answer."""
    text = _text_of(body)
    if status in (401, 403):
        # Our credentials or the operator's proxy are wrong: not the client's business.
        return BackendRefused("the backend refuses the gateway", code="backend_refused")
    if status == 404 and text is None:
        return BackendRefused("the backend does not speak Ollama's API here", code="backend_refused")
    return _from_text(status, text or f"the backend answered with status {status}")


def _from_text(status: int, text: str) -> GatewayError:
    if status == 500 and (broke_off := _BROKE_OFF.match(text)):
        return BackendError(broke_off[0])
    if status == 500 and _CRASHED.match(text):
        return BackendError(text)
    if status in (400, 413, 422, 500) and _OVERLONG.search(text):
        return ContextLengthExceeded(text)
    if status in (400, 422, 500, 501) and _LACKING.search(text):
        return BadRequest(text, code="unsupported_by_model")
    if status in (400, 422) or (status == 500 and _ASKED_WRONGLY.search(text)):
        return BadRequest(text)
    if status == 404:
        return ModelNotFound(text, param="model")
    if status == 413:
        return BodyTooLarge(text)
    if status in (429, 503):
        return BackendBusy(text)
    if status >= 500 or status in (408, 499):
        return BackendError(text)
    return BackendRefused(text, code="backend_refused")


def _text_of(body: bytes) -> str | None:
    """The text of an error body; llama-server's own error may come as JSON inside of Ollama's text."""
    told = _decoded(body)
    while isinstance(told, dict):
        told = told.get("error") or told.get("message")
        if isinstance(told, str) and isinstance(inner := _decoded(told.encode()), dict):
            told = inner
    return _one_line(told) or None if isinstance(told, str) else None


def _decoded(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except strict.MALFORMED:
        return None


_MARKUP = re.compile(r"<(!doctype|html|head|body)\b", re.IGNORECASE)


def _one_line(text: str) -> str:
    if _MARKUP.search(text):
        return "the backend answered with a web page"
    printable = "".join(char if char.isprintable() else " " for char in text[: 4 * MAX_TEXT])
    return " ".join(printable.split())[:MAX_TEXT]
