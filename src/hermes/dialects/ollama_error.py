"""What Ollama's errors mean, by status and text: its body is `{"error": "<text>"}`, whatever went wrong.

The text is for people; only the phrases below are told apart. What is no such body (a proxy's HTML, a stack trace)
never reaches the client (`error_text`).
"""

import re

from hermes.dialects.error_text import text_of
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


def from_status(status: int, body: bytes) -> GatewayError:
    """`status`: as answered; 500 for a failure told in the middle of an answer."""
    text = text_of(body)
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
        return BackendCrashed(text)
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
