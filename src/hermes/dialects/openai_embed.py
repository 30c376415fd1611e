"""OpenAI embeddings, the client dialect: texts in, vectors out, as numbers or as base64 of little-endian floats."""

import struct
from typing import Any

import msgspec
from msgspec import Struct

from hermes.chat import Embeddings, EmbedRequest
from hermes.dialects import Meta, fields, strict
from hermes.dialects.fields import MISSING, UNSUPPORTED
from hermes.errors import BackendError, BadRequest

_json = msgspec.json.Encoder().encode


class _Body(Struct):
    model: str | None = None
    input: str | list[str | int | list[int]] | None = None
    dimensions: fields.Count | None = None
    encoding_format: str | None = None
    priority: fields.Priority | None = None
    service_tier: str | None = None
    options: fields.Loading | None = None
    keep_alive: fields.KeepAlive | None = None


KNOWN = frozenset(_Body.__struct_fields__)


def parse_embed(body: bytes) -> EmbedRequest:
    asked = strict.convert(strict.parse_object(body, KNOWN), _Body)
    if asked.encoding_format not in (None, "float", "base64"):
        words = f"`encoding_format` must be float or base64, not `{asked.encoding_format[:40]}`"
        raise BadRequest(words, param="encoding_format")
    return EmbedRequest(
        fields.one_model(asked.model, None),
        _texts(asked.input),
        asked.dimensions,
        base64=asked.encoding_format == "base64",
        priority=asked.priority or 0,
        service_tier=asked.service_tier or "",
        load_options=fields.load_options(asked.options, asked.keep_alive),
    )


def _texts(asked: str | list[str | int | list[int]] | None) -> tuple[str, ...]:
    given = [asked] if isinstance(asked, str) else asked
    if not given:
        words = "`input` is missing" if asked is None else "`input` must hold at least one text"
        raise BadRequest(words, code=MISSING, param="input")
    texts = tuple([text for text in given if isinstance(text, str)])
    if len(texts) != len(given):
        words = (
            "`input` must be texts: tokens are of one model's own vocabulary, and nobody knows whose these are"
            " (in LangChain's OpenAIEmbeddings set check_embedding_ctx_length=False)"
        )
        raise BadRequest(words, code=UNSUPPORTED, param="input")
    for index, text in enumerate(texts):
        if not text:
            param = "input" if isinstance(asked, str) else f"input[{index}]"
            raise BadRequest(f"`{param}` must not be empty", param=param)
    return texts


def render_embeddings(made: Embeddings, request: EmbedRequest, meta: Meta) -> bytes:
    tokens = made.usage.prompt_tokens
    told: dict[str, Any] = {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": _packed(vector) if request.base64 else vector}
            for index, vector in enumerate(made.vectors)
        ],
        "model": meta.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    return _json(told)


def _packed(vector: list[float]) -> bytes:
    """What is written as base64. Raises BackendError for what is no float of 32 bits."""
    try:
        return struct.pack(f"<{len(vector)}f", *vector)
    except OverflowError as error:
        raise BackendError("the backend's vectors hold numbers that are too large") from error
