"""Every metric, declared once: name, labels, unit, help. Counting is a dictionary update; text is made at the scrape.

Label values come from closed sets (invariant I27): outcomes, routes, the models that resolved. A family that grows past
`MAX_SERIES` all the same counts the rest under `other`.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

MAX_SERIES = 1000
# Tenants by name; what others use is told in one sum.
MAX_TENANTS = 100

Labels = tuple[str, ...]


# Neither this nor `Buckets` is a Struct: setting a field of one costs three times as much.
class Cell:
    """The value of one series of a counter."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0


class Counter:
    __slots__ = ("help", "labels", "most", "name", "series")

    def __init__(self, name: str, help: str, labels: Labels = (), most: int = MAX_SERIES) -> None:
        self.name = name
        self.help = help
        self.labels = labels
        self.most = most
        self.series: dict[Labels, Cell] = {} if labels else {(): Cell()}

    def child(self, values: Labels) -> Cell:
        """The series with these label values, to be kept by whoever counts on it often."""
        if values not in self.series and len(self.series) >= self.most:
            values = ("other",) * len(self.labels)
        return self.series.setdefault(values, Cell())

    def add(self, values: Labels, amount: float = 1.0) -> None:
        cell = self.series.get(values) or self.child(values)
        cell.value += amount

    def read(self) -> dict[Labels, float]:
        """The value of every series."""
        return {values: cell.value for values, cell in self.series.items()}


class Gauge:
    """Read when scraped: `read` returns the value of every series."""

    __slots__ = ("help", "labels", "name", "read")

    def __init__(self, name: str, help: str, labels: Labels, read: Callable[[], dict[Labels, float]]) -> None:
        self.name = name
        self.help = help
        self.labels = labels
        self.read = read


class KeptCounter(Gauge):
    """A counter that somebody else keeps."""

    __slots__ = ()


class Buckets:
    """One series of a histogram: how many observations fell up to each bound, the last one to no bound."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def observe_all(self, values: Iterable[float]) -> None:
        """Many at once, for less than one by one takes."""
        ordered = sorted(values)
        before = 0
        for place, bound in enumerate(self.bounds):
            up_to = bisect_right(ordered, bound)
            self.counts[place] += up_to - before
            before = up_to
        self.counts[-1] += len(ordered) - before
        self.total += sum(ordered)

    def cumulative(self) -> Iterator[tuple[str, float]]:
        """Pairs of upper bound and the number of observations up to it, as Prometheus wants them."""
        seen = 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            seen += count
            yield bound, float(seen)

    def copy(self) -> "Buckets":
        copy = Buckets(self.bounds)
        copy.counts, copy.total = self.counts[:], self.total
        return copy

    def merge(self, other: "Buckets") -> None:
        """Add what another of the same bounds has seen."""
        self.counts = [own + more for own, more in zip(self.counts, other.counts, strict=True)]
        self.total += other.total


class Histogram:
    __slots__ = ("bounds", "help", "labels", "name", "series")

    def __init__(self, name: str, help: str, labels: Labels, bounds: tuple[float, ...]) -> None:
        self.name = name
        self.help = help
        self.labels = labels
        self.bounds = bounds
        self.series: dict[Labels, Buckets] = {} if labels else {(): Buckets(bounds)}

    def child(self, values: Labels) -> Buckets:
        """The series with these label values, to be kept by whoever observes often."""
        if values not in self.series and len(self.series) >= MAX_SERIES:
            values = ("other",) * len(self.labels)
        return self.series.setdefault(values, Buckets(self.bounds))

    def observe(self, values: Labels, value: float) -> None:
        self.child(values).observe(value)

    def read(self) -> dict[Labels, Buckets]:
        return self.series


class Relabelled:
    """A histogram's series by other labels; several may come to one. Made when text is: no work of the loop's."""

    __slots__ = ("help", "labels", "name", "of", "relabel")

    def __init__(
        self, name: str, help: str, labels: Labels, of: Histogram, relabel: Callable[[Labels], Labels]
    ) -> None:
        self.name = name
        self.help = help
        self.labels = labels
        self.of = of
        self.relabel = relabel

    def made(self, series: dict[Labels, Buckets]) -> dict[Labels, Buckets]:
        found: dict[Labels, Buckets] = {}
        for values, buckets in series.items():
            found.setdefault(self.relabel(values), Buckets(self.of.bounds)).merge(buckets)
        return found


Family = Counter | Gauge | Histogram | Relabelled


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


# A family and a copy of the value of every series: of a histogram `Buckets`, of what is relabelled the histogram's.
Taken = tuple[Family, dict[Labels, Any]]

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
        if (route, model) not in self._uses and len(self._uses) >= MAX_SERIES:
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
