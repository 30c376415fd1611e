"""What the errors of OpenAI-compatible servers mean, by status and text: each has its own words for the same things.

`{"error": {"message", "type", "code"}}` as OpenAI has it, with a code that is a number at vLLM and llama.cpp;
`{"error": "..."}` (vLLM's 401, TGI, LM Studio); `{"object": "error", "message"}` (SGLang); `{"detail": ...}` where the
server's framework speaks, because there is no such route.
"""

import re

from hermes.dialects.error_text import text_of
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

# OpenAI and vLLM: "This model's maximum context length is 4096 tokens."; llama.cpp: "request (5000 tokens) exceeds the
# available context size (2048 tokens)"; SGLang: "The input (61709 tokens) is longer than the model's context length";
# LM Studio: "Trying to keep the first 111490 tokens when context the overflows", "The number of tokens to keep from the
# initial prompt is greater than the context length"; TGI: "`inputs` tokens + `max_new_tokens` must be <= 4096". Of a
# text to embed llama.cpp says "input (992 tokens) is too large to process. increase the physical batch size".
_OVERLONG = re.compile(
    r"maximum context length|(exceeds?|longer than|larger than|greater than)[^.]*\bcontext (length|size|window)"
    r"|when (the )?context (the )?overflows|`inputs` (tokens \+|must have less than)|prompt is too long"
    r"|too large to process",
    re.IGNORECASE,
)
# llama.cpp's router says it with 400.
_NOT_THERE = re.compile(r"\bmodel\b.{0,210}(not found|does not exist)", re.IGNORECASE)
# What llama.cpp answers with 500 although the request is to blame: what its template, grammar or images refuse.
_ASKED_WRONGLY = re.compile(
    r"json_schema|JSON schema|[Ff]ailed to parse (grammar|tools|messages)|Jinja Exception|Conversation roles"
    r"|Failed to load image|Invalid base64"
)
# vLLM's, which has only the routes that its model is made for: no embeddings of one that generates.
_NO_SUCH_ROUTE = b'{"detail":"Not Found"}'
_LACKING = re.compile(r"does not support \w+|(is|are) not supported|not a multimodal model|is not multimodal")


def from_status(status: int, body: bytes) -> GatewayError:
    text = text_of(body)
    if status in (401, 403):
        # Our credentials or the operator's proxy are wrong: not the client's business.
        return BackendRefused("the backend refuses the gateway", code="backend_refused")
    if status == 404 and body.strip() == _NO_SUCH_ROUTE:
        return BadRequest("the model is not made for this", code="unsupported_by_model")
    if status in (404, 405) and text in (None, "File Not Found"):  # a page of somebody's; llama.cpp's own words
        return BackendRefused("the backend does not speak OpenAI's API here", code="backend_refused")
    return from_text(status, text or f"the backend answered with status {status}")


def from_text(status: int, text: str) -> GatewayError:
    """`status`: as answered, or as told in the middle of an answer; 500 where nothing is told."""
    if status in (400, 413, 422, 500) and _OVERLONG.search(text):
        return ContextLengthExceeded(text)
    if status == 404 or (status == 400 and _NOT_THERE.search(text)):
        return ModelNotFound(text, param="model")
    if status == 501 or (status in (400, 422, 500) and _LACKING.search(text)):
        return BadRequest(text, code="unsupported_by_model")
    if status in (400, 422) or (status == 500 and _ASKED_WRONGLY.search(text)):
        return BadRequest(text)
    if status == 413:
        return BodyTooLarge(text)
    if status in (429, 503, 529):
        return BackendBusy(text)
    if status >= 500 or status in (408, 424, 499):
        return BackendError(text)
    return BackendRefused(text, code="backend_refused")
