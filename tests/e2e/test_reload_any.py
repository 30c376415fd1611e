"""After any reloads, some of them refused, a gateway is as one that was started with the last good configuration."""

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hermes.config import Config
from hermes.config.rules import check
from hermes.errors import ConfigError, InvalidConfig
from hermes.fleet.ollama import Ollama
from tests.fakes.backend import FakeOllama, ollama
from tests.fakes.gateway import PROMPT, Hermes, bearer, config, key, prompt, serving
from tests.support import run

MODELS = ("gemma", "qwen", "phi")
ALL = tuple(f"{name}:latest" for name in MODELS)
USERS = ("ann", "bob")
HOSTS = ("one.example.org", "two.example.org")

numbers = st.integers(1, 5)


def filled(**parts: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Some of these keys."""
    return st.fixed_dictionaries({}, optional=parts)


a_model = filled(
    max_concurrency=numbers,
    queue_limit=numbers,
    pinned=st.booleans(),
    backends=st.just(["b0"]),
    backend_model=st.sampled_from(MODELS),
    options=filled(num_ctx=st.sampled_from([1024, 2048])),
    keep_alive=st.sampled_from(["1m", -1]),
    memory_cost=st.sampled_from(["1GiB", "low"]),
    load_time_s=numbers,
    timeout_s=st.sampled_from([5, 50]),
    max_class=st.just("batch"),
)
# By the number of the fake behind it.
a_backend = st.tuples(
    st.integers(0, 2),
    filled(slots=numbers, weight=numbers, memory=st.just("8GiB"), max_loaded=numbers, api_key=st.just("sk")),
)
sections = filled(
    models=st.dictionaries(st.sampled_from(MODELS), a_model, max_size=3),
    serve_unlisted=st.booleans(),
    defaults=filled(max_concurrency=numbers, queue_limit=numbers),
    limits=filled(max_concurrent=numbers, queue_total=numbers, per_tenant_queue=numbers, max_attempts=numbers),
    scheduling=filled(
        model_floor=st.sampled_from([0.0, 0.3]),
        usual_class=st.sampled_from(["batch", "interactive"]),
        interactive=filled(weight=numbers, max_wait_s=numbers),
        queue_heartbeat_s=numbers,
    ),
    health=filled(silence_s=st.sampled_from([0, 20]), probe_timeout_s=numbers),
    keys=st.lists(st.sampled_from(USERS), unique=True).map(lambda users: [key("root", admin=True), *map(key, users)]),
    server=filled(allowed_hosts=st.lists(st.sampled_from(HOSTS)), keep_alive_s=numbers),
    volatile_lines=st.just(["Time:"]),
    backends=st.lists(a_backend, min_size=1, max_size=3),
)


def made(tree: dict[str, Any], fakes: list[FakeOllama]) -> Config | None:
    """None: it could not be used."""
    drawn = tree.get("backends", [(0, {})])
    backends = [{"name": f"b{index}", "url": fakes[fake].url, **more} for index, (fake, more) in enumerate(drawn)]
    made = config(**{"keys": [key("root", admin=True)], **tree, "backends": backends})
    try:
        check(made)
    except ConfigError:
        return None
    return made


async def observed(gateway: Hermes) -> dict[str, Any]:
    runtime, root = gateway.runtime, bearer("root")
    for backend in runtime.fleet.backends.values():
        await backend.look(20.0)
    status = (await gateway.ask("/v1/status", headers=root)).json
    for moment in ("reload", "uptime_s", "process", "machine", "cgroup"):
        status.pop(moment, None)
    del status["requests"]["connections"]
    scheduler, core = runtime.scheduler, runtime.serving.gateway
    stations = {
        name: (station.pinned, station.slots, station.size_bytes, station.adaptive, station.counts)
        for name, station in scheduler._stations.items()
        if any(lane.station is station for lane in scheduler._slots.lanes.values())
    }
    return {
        "status": status,
        "models": (await gateway.ask("/v1/models", headers=root)).json,
        "users": {user: (await gateway.ask("/v1/models", headers=bearer(user))).status for user in USERS},
        "hosts": {host: (await gateway.ask("/health", headers={"host": host})).status for host in HOSTS},
        "config": runtime.config,
        "catalog": runtime.router.catalog,
        "bounds": {name: scheduler.bounds(name) for name in (*MODELS, "another")},
        "stations": stations,
        "rules": [scheduler._forecast.rules, scheduler._ledger._rules, scheduler._stations._rules],
        "floor": [scheduler._floor.part, scheduler._residency.floor],
        "process": [scheduler.whole, scheduler._slots.cap, scheduler._ledger.is_shared],
        "sites": {name: site.facts.weight for name, site in scheduler._residency.sites.items()},
        "gateway": [core.retries._policy, core.heartbeat_s, core.volatile_lines],
        "limits": runtime.server.limits,
        "patience": [runtime.serving.watchdog._patience, *(each.patience for each in runtime.fleet.health.values())],
        "terms": {
            name: [backend.driver.terms[f"{model}:latest"].options for model in MODELS]
            for name, backend in runtime.fleet.backends.items()
            if isinstance(backend.driver, Ollama)
        },
    }


async def reloaded_is_as_started(trees: list[dict[str, Any] | None]) -> None:
    async with ollama(*ALL[:2]) as zero, ollama(*ALL) as one, ollama(*ALL[2:]) as two:
        fakes = [zero, one, two]
        good = made({}, fakes)
        assert good is not None
        async with serving(good) as gateway:
            for number, tree in enumerate(trees):
                new = None if tree is None else made(tree, fakes)
                if new is None:
                    gateway.given.problem = "of no use"
                    try:
                        await gateway.runtime.reload("a test")
                    except InvalidConfig:
                        gateway.given.problem = ""
                    continue
                for model in MODELS:
                    await gateway.ask(f"/v1/llm/{model}", prompt(f"{number}"), bearer("root"))
                await gateway.take(new)
                good = new
            after = await observed(gateway)
        async with serving(good) as gateway:
            fresh = await observed(gateway)
        assert after == fresh


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.none() | sections, min_size=1, max_size=5))
def test_reloaded_is_as_started(trees: list[dict[str, Any] | None]) -> None:
    """I34."""
    run(reloaded_is_as_started(trees))


def test_asking_is_possible_again_where_it_was_before() -> None:
    """The property above says nothing of what nobody observes: this asks."""

    async def scenario() -> None:
        async with ollama(*ALL) as backend, serving(config(backend)) as gateway:
            for slots in (1, 3, 2):
                backends = [{"name": f"n{slots}", "url": backend.url, "slots": slots}]
                await gateway.take(config(backends=backends))
                assert [(await gateway.ask(PROMPT, prompt())).status for _ in range(3)] == [200] * 3

    run(scenario())
