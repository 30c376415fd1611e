"""The same numbers by names that others know: OpenTelemetry's for generative AI, as Prometheus spells them, and those
of vLLM that autoscalers and routers read. They cost a request nothing: each scrape makes them of the series there are.
"""

from hermes.errors import Outcome
from hermes.metrics import Metrics
from hermes.policy.standing import Standing
from hermes.series import Labels

# What the conventions call it; whatever is none of these is `chat`.
_OPERATIONS = {
    "/v1/completions": "text_completion",
    "/v1/llm": "text_completion",
    "/v1/llm/{model}": "text_completion",
    "/api/generate": "text_completion",
    "/v1/embeddings": "embeddings",
    "/api/embed": "embeddings",
    "/api/embeddings": "embeddings",
}
_COMMON = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")


def show(metrics: Metrics, scheduler: Standing) -> None:
    """Declare each, and say what it is made of."""
    metrics.relabelled(
        "gen_ai_server_request_duration_seconds",
        "As hermes_request_duration_seconds.",
        (*_COMMON, "error_type"),
        metrics.duration,
        _labels,
    )
    metrics.relabelled(
        "gen_ai_server_time_to_first_token_seconds",
        "As hermes_time_to_first_token_seconds.",
        _COMMON,
        metrics.ttft,
        _labels,
    )
    metrics.relabelled(
        "gen_ai_server_time_per_output_token_seconds",
        "As hermes_time_per_output_token_seconds.",
        _COMMON,
        metrics.token_time,
        _labels,
    )
    metrics.relabelled(
        "gen_ai_client_token_usage",
        "As hermes_request_tokens.",
        (*_COMMON, "gen_ai_token_type"),
        metrics.request_tokens,
        _token_labels,
    )
    metrics.gauge("vllm:num_requests_running", "As hermes_requests_active.", ("model_name",), lambda: {
        (name,): float(scheduler.occupancy(name).running) for name in scheduler.models()
    })  # fmt: skip
    metrics.gauge("vllm:num_requests_waiting", "As hermes_requests_queued, all classes.", ("model_name",), lambda: {
        (name,): float(scheduler.occupancy(name).waiting) for name in scheduler.models()
    })  # fmt: skip


def _token_labels(values: Labels) -> Labels:
    *where, kind = values
    return *_labels(tuple(where)), "input" if kind == "prompt" else "output"


def _labels(values: Labels) -> Labels:
    """By operation instead of route. An outcome is told where it is an error: a label without a value is none."""
    route, model, *outcome = values
    errors = ("" if each == Outcome.OK else each for each in outcome)
    return _OPERATIONS.get(route, "chat"), "hermes", model, *errors
