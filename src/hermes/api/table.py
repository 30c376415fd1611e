"""Every route there is. What is not here does not exist."""

from collections.abc import Iterable

from hermes.api.inference import Inference
from hermes.api.models import Models
from hermes.api.ops import Ops
from hermes.api.queue import Queue
from hermes.api.routes import Route
from hermes.dialects import ClientDialect

# Anthropic's SDKs know no other.
_REQUEST_ID = b"request-id"


def routes(
    inference: Inference,
    models: Models,
    ops: Ops,
    queue: Queue,
    openai: ClientDialect,
    prompt: ClientDialect,
    anthropic: ClientDialect,
) -> Iterable[Route]:
    return (
        Route("POST", "/v1/chat/completions", "user", openai, inference.chat_completions, queues=True),
        Route("POST", "/v1/messages", "user", anthropic, inference.messages, queues=True, also_id=_REQUEST_ID),
        Route("POST", "/v1/messages/count_tokens", "user", anthropic, inference.count_tokens, also_id=_REQUEST_ID),
        Route("POST", "/v1/llm", "user", prompt, inference.prompt, queues=True),
        Route("POST", "/v1/llm/{model}", "user", prompt, inference.prompt, queues=True),
        Route("POST", "/v1/llm/{model}/pull", "admin", prompt, models.pull),
        Route("POST", "/v1/llm/{model}/load", "admin", prompt, models.load),
        Route("POST", "/v1/llm/{model}/unload", "admin", prompt, models.unload),
        Route("GET", "/v1/models", "user", openai, models.list),
        Route("GET", "/v1/models/{model}", "user", openai, models.get),
        Route("GET", "/v1/queue", "user", openai, queue.list),
        Route("GET", "/v1/queue/{request_id}", "user", openai, queue.get),
        Route("DELETE", "/v1/queue/{request_id}", "user", openai, queue.cancel),
        Route("GET", "/v1/requests/{request_id}", "user", openai, queue.past),
        Route("GET", "/v1/status", "user", openai, ops.status),
        Route("GET", "/metrics", "admin", openai, ops.scrape, quiet=True),
        Route("GET", "/v1/health", "open", openai, ops.alive, quiet=True),
        Route("GET", "/health", "open", openai, ops.alive, quiet=True),
        Route("GET", "/livez", "open", openai, ops.alive, quiet=True),
        Route("GET", "/readyz", "open", openai, ops.ready, quiet=True),
    )
