"""Every route there is. What is not here does not exist."""

from collections.abc import Iterable

from hermes.api.hour import Hour
from hermes.api.inference import Inference
from hermes.api.live import Live
from hermes.api.loading import Loading
from hermes.api.models import Models
from hermes.api.ollama import Ollama
from hermes.api.ops import Ops
from hermes.api.queue import Queue
from hermes.api.routes import Route
from hermes.api.usage import Usage
from hermes.dialects import ClientDialect

# Anthropic's SDKs know no other.
_REQUEST_ID = b"request-id"


def routes(
    inference: Inference,
    models: Models,
    loading: Loading,
    ops: Ops,
    queue: Queue,
    live: Live,
    hour: Hour,
    ollama: Ollama,
    usage: Usage,
    openai: ClientDialect,
    prompt: ClientDialect,
    anthropic: ClientDialect,
) -> Iterable[Route]:
    return (
        Route("POST", "/v1/chat/completions", "user", openai, inference.chat_completions, queues=True),
        Route("POST", "/v1/completions", "user", openai, inference.completions, queues=True),
        Route("POST", "/v1/responses", "user", openai, inference.responses, queues=True),
        Route("GET", "/v1/responses/{request_id}", "user", openai, inference.no_response),
        Route("DELETE", "/v1/responses/{request_id}", "user", openai, inference.no_response),
        Route("POST", "/v1/responses/{request_id}/cancel", "user", openai, inference.no_response),
        Route("POST", "/v1/embeddings", "user", openai, inference.embeddings, queues=True),
        Route("POST", "/v1/messages", "user", anthropic, inference.messages, queues=True, also_id=_REQUEST_ID),
        Route("POST", "/v1/messages/count_tokens", "user", anthropic, inference.count_tokens, also_id=_REQUEST_ID),
        Route("POST", "/v1/llm", "user", prompt, inference.prompt, queues=True),
        Route("POST", "/v1/llm/{model}", "user", prompt, inference.prompt, queues=True),
        Route("POST", "/v1/llm/{model}/pull", "admin", prompt, loading.pull),
        Route("POST", "/v1/llm/{model}/load", "admin", prompt, loading.load),
        Route("POST", "/v1/llm/{model}/unload", "admin", prompt, loading.unload),
        Route("GET", "/v1/models", "user", openai, models.list),
        Route("GET", "/v1/models/{model}", "user", openai, models.get),
        Route("POST", "/api/chat", "user", ollama.dialect, ollama.chat, queues=True),
        Route("POST", "/api/generate", "user", ollama.dialect, ollama.generate, queues=True),
        Route("POST", "/api/embed", "user", ollama.dialect, ollama.embed, queues=True),
        Route("POST", "/api/embeddings", "user", ollama.dialect, ollama.embeddings, queues=True),
        Route("GET", "/api/tags", "user", ollama.dialect, ollama.tags),
        Route("GET", "/api/ps", "user", ollama.dialect, ollama.ps),
        Route("POST", "/api/show", "user", ollama.dialect, ollama.show),
        Route("POST", "/api/pull", "admin", ollama.dialect, ollama.pull),
        Route("GET", "/api/version", "user", ollama.dialect, ollama.version),
        Route("GET", "/", "open", ollama.dialect, ollama.root, quiet=True),
        Route("GET", "/v1/queue", "user", openai, queue.list),
        Route("GET", "/v1/queue/{request_id}", "user", openai, queue.get),
        Route("DELETE", "/v1/queue/{request_id}", "user", openai, queue.cancel),
        Route("GET", "/v1/usage", "user", openai, usage.list),
        Route("GET", "/v1/events", "user", openai, live.events, quiet=True),
        Route("GET", "/v1/history", "user", openai, hour.get, quiet=True),
        Route("GET", "/v1/requests", "user", openai, queue.recent),
        Route("GET", "/v1/requests/{request_id}", "user", openai, queue.past),
        Route("POST", "/v1/backends/{backend}/drain", "admin", openai, ops.drain),
        Route("POST", "/v1/backends/{backend}/resume", "admin", openai, ops.resume),
        Route("POST", "/v1/reload", "admin", openai, ops.reload),
        Route("GET", "/v1/status", "user", openai, ops.status),
        Route("GET", "/metrics", "metrics", openai, ops.scrape, quiet=True),
        Route("GET", "/v1/health", "open", openai, ops.alive, quiet=True),
        Route("GET", "/health", "open", openai, ops.alive, quiet=True),
        Route("GET", "/livez", "open", openai, ops.alive, quiet=True),
        Route("GET", "/readyz", "open", openai, ops.ready, quiet=True),
    )
