"""Anthropic's error object, in answers and in streams."""

import re

import msgspec

from hermes.errors import ContextLengthExceeded, GatewayError

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}

# Claude Code makes its conversation shorter when it reads these words, by as much as the numbers say that may follow.
_OVERLONG = "prompt is too long"
# As llama.cpp and SGLang tell them, llama.cpp by way of Ollama too.
_COUNTS = re.compile(r"\((\d{1,12}) tokens\)\D{1,100}\((\d{1,12}) tokens\)")


def error_object(error: GatewayError, request_id: str) -> bytes:
    """`details` is for what else there is to tell; the SDKs look for a code there."""
    message = error.message
    if isinstance(error, ContextLengthExceeded) and _OVERLONG not in message:
        counts = _COUNTS.search(message)
        words = f"{_OVERLONG}: {counts[1]} tokens > {counts[2]} maximum" if counts else _OVERLONG
        message = f"{words}: {message}"
    details = {"error_code": error.code, "param": error.param}
    told = {"type": _type(error.status), "message": message, "details": details}
    return msgspec.json.encode({"type": "error", "error": told, "request_id": request_id})


def _type(status: int) -> str:
    return _TYPES.get(status) or ("api_error" if status >= 500 else "invalid_request_error")
