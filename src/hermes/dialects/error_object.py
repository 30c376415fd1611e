"""OpenAI's error object, which every `/v1` dialect without an error shape of its own answers with."""

import msgspec

from hermes.errors import ContextLengthExceeded, GatewayError, QuotaExceeded

_TYPES = {403: "permission_error", 429: "rate_limit_error"}

# Clients tell an overlong prompt by these words: LangChain and others match the text, not the code.
_OVERLONG = "maximum context length"


def error_object(error: GatewayError) -> bytes:
    """`{"error": {...}}` with the four keys that the API's schema requires."""
    return msgspec.json.encode(
        {"error": {"message": words(error), "type": _type(error), "param": error.param, "code": error.code}}
    )


def words(error: GatewayError) -> str:
    if isinstance(error, ContextLengthExceeded) and _OVERLONG not in error.message:
        return f"The prompt exceeds the model's {_OVERLONG}: {error.message}"
    return error.message


def _type(error: GatewayError) -> str:
    if isinstance(error, QuotaExceeded):
        return error.code
    return "server_error" if error.status >= 500 else _TYPES.get(error.status, "invalid_request_error")
