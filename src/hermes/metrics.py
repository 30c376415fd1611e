"""Every metric that requests count, declared once: name, labels, unit, help.

Label values come from closed sets (invariant I27): outcomes, routes, the models that resolved.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from hermes.series import (
    MAX_SERIES,
    Buckets,
    Cell,
    Counter,
    Family,
    Gauge,
    Histogram,
    KeptCounter,
    Labels,
    Relabelled,
    Taken,
)

# Tenants by name; what others use is told in one sum.
MAX_TENANTS = 100
# Routes and models whose tokens are told by name: each has two series, and so have all others together.
_MAX_USES = MAX_SERIES // 2 - 1


class Used(Protocol):
    """The tokens of a request."""

    @property
    def prompt_tokens(self) -> int: ...
    @property
    def completion_tokens(self) -> int: ...


class Uses:
    """The tokens of requests of one route and model: noted, and added up when many are, or when somebody asks."""

    __slots__ = ("_completions", "_prompts", "noted")

    def __init__(self, prompts: tuple[Cell, Buckets], completions: tuple[Cell, Buckets]) -> None:
        self.noted: list[Used] = []
        self._prompts = prompts
        self._completions = completions

    def add_up(self) -> None:
        """0 is what no backend has told, or what requests of that kind have none of: it is in no bucket."""
        prompts = [each.prompt_tokens for each in self.noted]
        completions = [each.completion_tokens for each in self.noted]
        self.noted.clear()
        for (cell, buckets), counts in ((self._prompts, prompts), (self._completions, completions)):
            cell.value += sum(counts)
            buckets.observe_all(filter(None, counts))


# 1 ms to 10 min: an admission is microseconds, a cold 70B load minutes.
SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
# What is short: 50 us to 2.5 s.
SHORT = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
# As the conventions for `gen_ai.client.token.usage` have them.
TOKENS = tuple(4.0**power for power in range(14))
# The loop's clock knows nothing shorter.
MILLISECONDS = SHORT[4:]


class Metrics:
    """The instance that one process counts on."""

    def __init__(self) -> None:
        self.accepted = Counter("hermes_requests_accepted", "Requests taken in.")
        self.finished = Counter(
            "hermes_requests", "Requests ended, each with exactly one outcome.", ("route", "model", "outcome")
        )
        self.refused = Counter(
            "hermes_requests_refused", "Requests sent away before any backend was asked, by why.", ("model", "reason")
        )
        self.cancelled = Counter(
            "hermes_requests_cancelled",
            "Requests whose client left, or that were sent away, by how far they had got.",
            ("model", "phase"),
        )
        self.queue_wait = Histogram(
            "hermes_queue_wait_seconds",
            "Seconds from arrival to a slot, of what got one.",
            ("model", "class"),
            SECONDS,
        )
        self.prediction_error = Histogram(
            "hermes_queue_prediction_error_seconds",
            "How far the wait was from what was told at arrival, of what waited and got a slot.",
            ("model",),
            SECONDS,
        )
        self.predictions = Counter(
            "hermes_queue_predictions", "Waits by whether they were within the upper estimate.", ("model", "covered")
        )
        self.ttft = Histogram(
            "hermes_time_to_first_token_seconds",
            "Seconds from arrival to the first content, of streams.",
            ("route", "model"),
            SECONDS,
        )
        self.token_time = Histogram(
            "hermes_time_per_output_token_seconds",
            "Seconds from one token to the next, the mean of each stream that ended well.",
            ("route", "model"),
            SHORT,
        )
        self.duration = Histogram(
            "hermes_request_duration_seconds",
            "Seconds from arrival to the last byte.",
            ("route", "model", "outcome"),
            SECONDS,
        )
        self.overhead = Histogram(
            "hermes_overhead_seconds",
            "What Hermes itself has added to a request: neither its wait in the queue nor its time at a backend.",
            (),
            SHORT,
        )
        self.loop_lag = Histogram(
            "hermes_event_loop_lag_seconds", "How late the event loop came to what was due.", (), MILLISECONDS
        )
        self.tokens = Counter("hermes_tokens", "Tokens as backends counted them.", ("model", "kind"))
        self.request_tokens = Histogram(
            "hermes_request_tokens",
            "Tokens of each request, as its backend counted them.",
            ("route", "model", "kind"),
            TOKENS,
        )
        self.tenant_tokens = Counter(
            "hermes_tenant_tokens", "The same by who asked for them.", ("tenant", "kind"), 2 * MAX_TENANTS
        )
        self.attempts = Counter(
            "hermes_backend_attempts", "Attempts at backends, by how they ended.", ("backend", "result")
        )
        self.probes = Counter(
            "hermes_backend_probes",
            "Tokens asked for to see whether a model generates.",
            ("backend", "model", "result"),
        )
        self.ejections = Counter(
            "hermes_backend_ejections",
            "Times a model was given no more requests, by why.",
            ("backend", "model", "reason"),
        )
        self.loads = Counter(
            "hermes_model_loads", "Loads that were ordered, by how they ended.", ("backend", "model", "outcome")
        )
        self.load_time = Histogram(
            "hermes_model_load_seconds", "How long the loads that succeeded took.", ("backend", "model"), SECONDS
        )
        self.unloads = Counter(
            "hermes_model_unloads", "Models that left a backend's memory, by whose doing.", ("backend", "model", "by")
        )
        self.pulls = Counter(
            "hermes_model_pulls", "Downloads of models, by how they ended.", ("backend", "model", "outcome")
        )
        self.key_fetches = Counter(
            "hermes_jwt_key_fetches", "Times the keys of an issuer of tokens were fetched.", ("issuer", "result")
        )
        self.cache = Counter(
            "hermes_cache_requests",
            "Answers of models with a cache: without a run of their own (hit), by one (miss), or past it.",
            ("model", "result"),
        )
        self.malformed = Counter("hermes_malformed_requests", "Bytes that never became a request.", ("code",))
        self.log_dropped = Counter("hermes_log_lines_dropped", "Access log lines dropped because writing fell behind.")
        self.spans_dropped = Counter(
            "hermes_spans_dropped", "Spans of traces that their collector has not got, by why.", ("reason",)
        )
        self.double_close = Counter("hermes_double_closes", "Exchanges that were closed twice: a bug (invariant I3).")
        self.reloads = Counter("hermes_config_reloads", "Times the configuration was read anew.", ("result",))
        self.gauges: list[Gauge | Relabelled] = []
        self._uses: dict[Labels, Uses] = {}

    def uses(self, route: str, model: str) -> Uses:
        """To be kept by whoever notes tokens there, and adds them up now and then."""
        if (route, model) not in self._uses and len(self._uses) >= _MAX_USES:
            route = model = "other"
        if (route, model) not in self._uses:
            self._uses[route, model] = Uses(
                (self.tokens.child((model, "prompt")), self.request_tokens.child((route, model, "prompt"))),
                (self.tokens.child((model, "completion")), self.request_tokens.child((route, model, "completion"))),
            )
        return self._uses[route, model]

    def gauge(self, name: str, help: str, labels: Labels, read: Callable[[], dict[Labels, float]]) -> None:
        self.gauges.append(Gauge(name, help, labels, read))

    def counter(self, name: str, help: str, labels: Labels, read: Callable[[], dict[Labels, float]]) -> None:
        self.gauges.append(KeptCounter(name, help, labels, read))

    def relabelled(
        self, name: str, help: str, labels: Labels, of: Histogram, relabel: Callable[[Labels], Labels]
    ) -> None:
        self.gauges.append(Relabelled(name, help, labels, of, relabel))

    def families(self) -> Iterable[Family]:
        yield from (metric for metric in vars(self).values() if isinstance(metric, (Counter, Histogram)))
        yield from self.gauges

    def take(self) -> Iterator[Taken]:
        """The present values of each family, in 1 us for each series: nobody changes them any more."""
        for uses in self._uses.values():
            uses.add_up()
        copies: dict[Histogram, dict[Labels, Buckets]] = {}
        for metric in self.families():
            if isinstance(metric, Histogram):
                copies[metric] = {values: buckets.copy() for values, buckets in metric.read().items()}
                yield metric, copies[metric]
            elif isinstance(metric, Relabelled):
                yield metric, copies[metric.of]
            else:
                yield metric, dict(metric.read())
