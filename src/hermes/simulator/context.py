"""What fits into a model's context: which messages are left of a conversation, and what an overlong prompt gets.

Without `truncate: false` the oldest messages go first, system messages and the last one stay. A single prompt that is
too long is shortened where Ollama renders it itself, and refused where the model's own template does (measured, 0.33).
"""

import msgspec

from hermes.simulator.gojson import Refusal
from hermes.simulator.models import SimulatedModel
from hermes.simulator.requests import Inference, Options
from hermes.simulator.text import prompt_tokens

_TOO_LONG = (
    "the prompt is longer than the context length currently available to the model; shorten the prompt, adjust the"
    " context length in settings, or use a model with a longer context length"
)


def fit_prompt(request: Inference, options: Options, model: SimulatedModel, num_ctx: int) -> int:
    """How many tokens of prompt are read. Raises Refusal."""
    tokens = _drop_oldest(request, num_ctx) if request.truncate else prompt_tokens(request, request.messages)
    if request.truncate and (request.kind == "generate" or model.built_in_parser):
        return _shorten(tokens, request, options, num_ctx)
    if tokens >= num_ctx:
        raise _exceeds(tokens, num_ctx)
    return tokens


def _drop_oldest(request: Inference, num_ctx: int) -> int:
    messages = request.messages
    for first in range(len(messages)):
        kept = [message for message in messages[:first] if message.role == "system"] + list(messages[first:])
        tokens = prompt_tokens(request, kept)
        if tokens <= num_ctx:
            break
    return tokens


def _shorten(tokens: int, request: Inference, options: Options, num_ctx: int) -> int:
    if tokens < num_ctx:
        return tokens
    if not request.shift:
        raise Refusal(400, _TOO_LONG)
    kept = min(options.num_keep + 1 if options.num_keep >= 0 else num_ctx, num_ctx - 1)
    return num_ctx - max((num_ctx - kept) // 2, 1)


def _exceeds(tokens: int, num_ctx: int) -> Refusal:
    message = f"request ({tokens} tokens) exceeds the available context size ({num_ctx} tokens), try increasing it"
    error = {"code": 400, "message": message, "type": "exceed_context_size_error"}
    inner = {"error": error | {"n_prompt_tokens": tokens, "n_ctx": num_ctx}}
    return Refusal(400, msgspec.json.encode(inner).decode())
