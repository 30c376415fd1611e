"""Every route there is. What is not here does not exist."""

from collections.abc import Iterable

from hermes.api.inference import Inference
from hermes.api.models import Models
from hermes.api.ops import Ops
from hermes.api.routes import Access, Route
from hermes.dialects import ClientDialect


def routes(
    inference: Inference, models: Models, ops: Ops, openai: ClientDialect, prompt: ClientDialect
) -> Iterable[Route]:
    return (
        Route("POST", "/v1/chat/completions", Access.USER, openai, inference.chat_completions),
        Route("POST", "/v1/llm", Access.USER, prompt, inference.prompt),
        Route("POST", "/v1/llm/{model}", Access.USER, prompt, inference.prompt),
        Route("POST", "/v1/llm/{model}/pull", Access.ADMIN, prompt, models.pull),
        Route("GET", "/v1/models", Access.USER, openai, models.list),
        Route("GET", "/v1/models/{model}", Access.USER, openai, models.get),
        Route("GET", "/v1/status", Access.USER, openai, ops.status),
        Route("GET", "/metrics", Access.ADMIN, openai, ops.scrape, quiet=True),
        Route("GET", "/v1/health", Access.OPEN, openai, ops.alive, quiet=True),
        Route("GET", "/health", Access.OPEN, openai, ops.alive, quiet=True),
        Route("GET", "/livez", Access.OPEN, openai, ops.alive, quiet=True),
        Route("GET", "/readyz", Access.OPEN, openai, ops.ready, quiet=True),
    )
