"""Token probabilities: as backends tell them to the items of OpenAI's `logprobs.content`; and its older form."""

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct


class TokenLogprob(Struct, gc=False):
    token: str = ""
    logprob: float = 0.0
    bytes: list[int] | None = None


class Logprob(TokenLogprob, gc=False):
    top_logprobs: list[TokenLogprob] | None = None


class OldLogprobs(Struct, gc=False):
    """Of completions: lists side by side."""

    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None


def openai_items(told: Iterable[Logprob]) -> tuple[dict[str, Any], ...]:
    return tuple(_item(one) | {"top_logprobs": [_item(other) for other in one.top_logprobs or ()]} for one in told)


def _item(one: TokenLogprob) -> dict[str, Any]:
    spelled = list(one.token.encode()) if one.bytes is None else one.bytes
    return {"token": one.token, "logprob": one.logprob, "bytes": spelled}


def old_items(told: OldLogprobs) -> list[Logprob]:
    chosen = list(zip(told.tokens or (), told.token_logprobs or (), strict=False))
    others = told.top_logprobs or [None] * len(chosen)
    return [
        Logprob(token, logprob or 0.0, None, [TokenLogprob(*other) for other in (top or {}).items()])
        for (token, logprob), top in zip(chosen, others, strict=False)
    ]


def in_old_form(items: Sequence[dict[str, Any]], offset: int) -> dict[str, Any]:
    """`offset`: of the first token's text, in characters."""
    offsets = []
    for item in items:
        offsets.append(offset)
        offset += len(item["token"])
    return {
        "tokens": [item["token"] for item in items],
        "token_logprobs": [item["logprob"] for item in items],
        "top_logprobs": [{other["token"]: other["logprob"] for other in item["top_logprobs"]} for item in items],
        "text_offset": offsets,
    }
