"""What is read at each scrape, from whoever knows it: the gauges, and what the server counts by itself."""

import sys

from hermes import __version__
from hermes.fleet.fleet import Fleet
from hermes.fleet.managed import Managed
from hermes.http.server import Server
from hermes.journal import Journal
from hermes.metrics import Metrics
from hermes.policy.breaker import CLOSED
from hermes.policy.cache import Shelf
from hermes.policy.standing import Standing
from hermes.principal import CLASS_NAMES, CLASSES
from hermes.series import Labels


def show(metrics: Metrics, journal: Journal, scheduler: Standing, fleet: Fleet, server: Server, shelf: Shelf) -> None:
    """Declare each, and say where its values are found."""
    gauge, names = metrics.gauge, scheduler.models
    gauge("hermes_requests_active", "Requests that hold a slot.", ("model",), lambda: {
        (name,): float(scheduler.occupancy(name).running) for name in names()
    })  # fmt: skip
    gauge("hermes_requests_queued", "Requests that wait for a slot.", ("model", "class"), lambda: _queued(scheduler))
    gauge("hermes_queue_limit", "So many may wait for a model.", ("model",), lambda: {
        (name,): float(scheduler.bounds(name).queue_limit) for name in names()
    })  # fmt: skip
    gauge("hermes_queue_limit_overall", "So many may wait in all.", (), lambda: {
        (): float(scheduler.whole.queue_tickets)
    })  # fmt: skip
    gauge("hermes_queued_bytes", "Bytes of request bodies that wait.", (), lambda: {
        (): float(scheduler.waiting_bytes)
    })  # fmt: skip
    gauge("hermes_queue_limit_bytes", "So many bytes of request bodies may wait.", (), lambda: {
        (): float(scheduler.whole.queue_bytes)
    })  # fmt: skip
    gauge("hermes_requests_in_flight", "Requests taken in and not ended.", (), lambda: {
        (): float(journal.open)
    })  # fmt: skip
    gauge("hermes_client_connections", "Open client connections.", (), lambda: {
        (): float(server.open_connections)
    })  # fmt: skip
    metrics.counter("hermes_connections_refused", "Connections not taken: too many, or at the end.", (), lambda: {
        (): float(server.refused_connections)
    })  # fmt: skip
    gauge("hermes_cache_bytes", "What the answers that can be given again take.", (), lambda: {
        (): float(shelf.size_bytes)
    })  # fmt: skip
    gauge("hermes_cache_answers", "Answers that can be given again.", (), lambda: {
        (): float(len(shelf))
    })  # fmt: skip
    gauge("hermes_backend_up", "1 while the backend answers.", ("backend",), lambda: {
        (name,): float(backend.state == "up") for name, backend in fleet.backends.items()
    })  # fmt: skip
    gauge(
        "hermes_backend_breaker_state",
        "0: as many requests as there are slots; 1: fewer; 2: none. Only of models that have given trouble.",
        ("backend", "model"),
        lambda: {
            (name, model): 2.0 if breaker.rests else 0.0 if breaker.state is CLOSED else 1.0
            for name, backend in fleet.backends.items() for model, breaker in backend.breakers.items()
        },
    )  # fmt: skip
    metrics.counter(
        "hermes_model_reloads_avoided",
        "Requests that the backend would have loaded the model anew for, had their load-time options been heeded.",
        ("backend", "model"),
        lambda: {
            (name, model): float(terms.reloads_avoided)
            for name, backend in fleet.backends.items() for model, terms in backend.driver.terms.items()
        },
    )  # fmt: skip
    metrics.counter("hermes_model_swaps", "Loads for which other models had to go.", ("backend", "model"), lambda: {
        key: float(swaps.count) for key, swaps in scheduler.swaps().items()
    })  # fmt: skip
    metrics.counter(
        "hermes_model_swap_seconds",
        "How long those took, from the decision on: until others had ended what they ran included.",
        ("backend", "model"),
        lambda: {key: swaps.took_s for key, swaps in scheduler.swaps().items()},
    )
    metrics.counter("hermes_process_restarts", "Processes that ended, started again.", ("backend", "model"), lambda: {
        (name, model): float(restarts)
        for name, backend in fleet.backends.items() if isinstance(backend.driver, Managed)
        for model, restarts in backend.driver.restarts.items()
    })  # fmt: skip
    gauge("hermes_model_concurrency_limit", "Runs let at once, where that adapts.", ("backend", "model"), lambda: {
        (backend, model): float(limit) for backend, model, limit in scheduler.limits()
    })  # fmt: skip
    gauge("hermes_backend_memory_bytes", "Room for models, where it is known.", ("backend",), lambda: {
        (name,): float(room)
        for name, backend in fleet.backends.items() if (room := backend.room.capacity_bytes) is not None
    })  # fmt: skip
    gauge("hermes_model_loaded_bytes", "Memory of the models a backend has loaded.", ("backend", "model"), lambda: {
        (name, model.name): float(model.size_bytes)
        for name, backend in fleet.backends.items() for model in backend.inventory.loaded
    })  # fmt: skip
    version = __version__, ".".join(map(str, sys.version_info[:3]))
    gauge("hermes_build_info", "Always 1; what runs here.", ("version", "python"), lambda: {version: 1.0})


def _queued(scheduler: Standing) -> dict[Labels, float]:
    waiting = scheduler.waiting_by_class()
    return {
        (name, CLASS_NAMES[urgency]): float(waiting[name, urgency])
        for name in scheduler.models()
        for urgency in CLASSES
    }
