"""What the client dialects' bodies have in common: ranges of sampling values, the model named, the tokens counted."""

from typing import Annotated

from msgspec import Meta

from hermes.chat import Usage
from hermes.errors import BadRequest

# Codes of OpenAI's that stand for a kind of fault.
MISSING = "missing_required_parameter"
UNSUPPORTED = "unsupported_parameter"

Temperature = Annotated[float, Meta(ge=0, le=2)]
Share = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
# Backends keep these in machine integers: 64 bits for a seed, 32 for counts.
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]
# As vLLM has it: any integer, the lowest goes first.
Priority = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]


def stop_texts(stop: str | list[str] | None) -> tuple[str, ...]:
    """An empty stop text would stop before the first token, or never: it is left out."""
    if not stop:
        return ()
    return (stop,) if isinstance(stop, str) else tuple(text for text in stop if text)


def one_model(in_body: str | None, named: str | None) -> str:
    """The model that body and route agree on. `named`: by path, query or header."""
    if in_body and named and in_body != named:
        raise BadRequest(f"the body says model `{in_body[:200]}`, the request says `{named[:200]}`", param="model")
    if model := in_body or named:
        return model
    raise BadRequest("`model` is missing: name the model to use", code=MISSING, param="model")


def token_counts(usage: Usage) -> bytes:
    """As JSON, for splicing."""
    told, made = usage.prompt_tokens, usage.completion_tokens
    return b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}' % (told, made, told + made)
