"""Token probabilities as backends tell them, to the items of OpenAI's `logprobs.content`."""

from typing import Any

from msgspec import Struct


class TokenLogprob(Struct, gc=False):
    token: str = ""
    logprob: float = 0.0
    bytes: list[int] | None = None


class Logprob(TokenLogprob, gc=False):
    top_logprobs: list[TokenLogprob] | None = None


def openai_items(told: list[Logprob]) -> tuple[dict[str, Any], ...]:
    return tuple(_item(one) | {"top_logprobs": [_item(other) for other in one.top_logprobs or ()]} for one in told)


def _item(one: TokenLogprob) -> dict[str, Any]:
    spelled = list(one.token.encode()) if one.bytes is None else one.bytes
    return {"token": one.token, "logprob": one.logprob, "bytes": spelled}
