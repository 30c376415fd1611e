"""Health, readiness, status and metrics."""

import json
import os
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from hermes import __version__
from tests.fakes.backend import Then, fail, loaded, ollama, play
from tests.fakes.gateway import CHAT, PROMPT, Hermes, chat, hermes, prompt, scenario
from tests.support import until

HEALTH = ("/v1/health", "/health", "/livez")


@pytest.mark.parametrize("path", HEALTH)
@scenario
async def test_health_is_the_processs_own_whatever_the_backends_do(path: str) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        assert (await gateway.ask(path)).json == {"status": "ok", "ready": True}
    async with hermes(backend) as gateway:
        assert (await gateway.ask(path)).json == {"status": "ok", "ready": False}


@scenario
async def test_ready_means_a_backend_can_serve_and_we_do_not_drain() -> None:
    async with ollama() as backend:
        await backend.vanish()
        async with hermes(backend) as gateway:
            reply = await gateway.ask("/readyz")
            assert (reply.status, reply.error["code"]) == (503, "no_backend")
            assert reply.headers["retry-after"] == "1"
            await backend.listen()
            await gateway.runtime.fleet.backends["b0"].look(20.0)
            assert (await gateway.ask("/readyz")).json == {"status": "ok", "ready": True}
            gateway.runtime.api.draining = True
            assert (await gateway.ask("/readyz")).status == 503
            assert (await gateway.ask("/livez")).json == {"status": "ok", "ready": False}
            reply = await gateway.ask(PROMPT, prompt())
            assert (reply.status, reply.error["code"], reply.headers["retry-after"]) == (503, "draining", "1")


@scenario
async def test_status_shows_the_backends_the_models_and_the_machine() -> None:
    async with ollama() as backend:
        backend.loaded = [loaded("gemma:latest")]
        models = {"gemma": {"max_concurrency": 2, "queue_limit": 5}}
        async with hermes(backend, models=models, limits={"max_concurrent": 9}) as gateway:
            status: Any = (await gateway.ask("/v1/status")).json
        assert (status["status"], status["version"]) == ("ok", __version__)
        assert status["uptime_s"] >= 0
        assert status["requests"]["max_concurrent"] == 9
        told = status["backends"][0]
        assert (told["name"], told["kind"], told["url"], told["state"]) == ("b0", "ollama", backend.url, "up")
        assert (told["version"], told["models"], told["simulated"]) == ("0.33.0", 1, False)
        assert "OLLAMA_NUM_PARALLEL" in told["hint"]
        memory = told["loaded"][0]
        assert (memory["name"], memory["size_bytes"], memory["vram_bytes"]) == ("gemma:latest", 2 << 30, 1 << 30)
        model = status["models"]["gemma"]
        assert model.pop("reloads_avoided") == 0
        slots = {"b0": 2}
        assert model.pop("backend_model") == "gemma"
        assert model == {"active": 0, "queued": 0, "max_concurrency": 2, "queue_limit": 5, "slots": slots}
        assert status["process"]["pid"] == os.getpid()
        assert status["process"]["rss_bytes"] > 1 << 20
        assert status["machine"]["memory_total_bytes"] > status["machine"]["memory_available_bytes"] > 0
        assert len(status["machine"]["load"]) == 3
        assert isinstance(status["cgroup"], dict)


@scenario
async def test_a_schema_that_waits_counts_for_what_it_takes_in_memory() -> None:
    """I4: parsed, an object is many times its bytes."""
    async with ollama() as backend, hermes(backend) as gateway:
        backend.default = play(then=Then.STALL)
        calls = [await gateway.open(PROMPT, prompt())]
        await backend.request(0)
        schema = {"properties": {f"p{number}": {"type": "string"} for number in range(100)}}
        body = chat(tools=[{"type": "function", "function": {"name": "f", "parameters": schema}}])
        calls.append(await gateway.open(CHAT, body))
        await gateway.until_waiting(1)
        status = (await gateway.ask("/v1/status")).json
        assert status["requests"]["queued_bytes"] > 5 * len(json.dumps(body))
        for call in calls:
            call.leave()


@scenario
async def test_status_shows_what_runs_and_waits() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        backend.default = play(then=Then.STALL)
        calls = [await gateway.open(PROMPT, prompt())]
        await backend.request(0)
        calls.append(await gateway.open(CHAT, chat("x" * 1000)))
        await gateway.until_waiting(1)
        status = (await gateway.ask("/v1/status")).json
        assert (status["requests"]["active"], status["requests"]["queued"]) == (1, 1)
        assert status["requests"]["queued_bytes"] > 1000
        assert status["models"]["gemma:latest"]["queued"] == 1
        values = await scrape(gateway)
        assert values["hermes_requests_active", (("model", "gemma:latest"),)] == 1
        assert values["hermes_requests_queued", (("class", "normal"), ("model", "gemma:latest"))] == 1
        for call in calls:
            call.leave()


@scenario
async def test_status_says_why_a_backend_is_down_and_looks_again_by_itself() -> None:
    async with ollama() as backend:
        backend.management["/api/tags"] = fail(500, "disk on fire")
        async with hermes(backend) as gateway:
            told = (await gateway.ask("/v1/status")).json
            assert (told["status"], told["backends"][0]["state"]) == ("no_backend", "down")
            assert "500" in told["backends"][0]["error"]
            backend.management.clear()
            gateway.runtime.fleet.backends["b0"].seen_at -= 60
            assert (await gateway.ask("/v1/status")).json["status"] == "ok"


# --- metrics ------------------------------------------------------------------------------------------------------

Labels = tuple[tuple[str, str], ...]


async def scrape(gateway: Hermes) -> dict[tuple[str, Labels], float]:
    reply = await gateway.ask("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = text_string_to_metric_families(reply.body.decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


@scenario
async def test_metrics_count_requests_tokens_and_times_per_model() -> None:
    async with ollama() as backend, hermes(backend, models={"gemma": {}}) as gateway:
        await gateway.ask(PROMPT, prompt())
        await gateway.ask(CHAT, chat(stream=True))
        await gateway.ask(CHAT, chat(model="nobody"))
        await until(lambda: len(gateway.records) == 3)
        values = await scrape(gateway)
        model = ("model", "gemma")
        assert values["hermes_tokens_total", (("kind", "completion"), model)] == 6
        assert values["hermes_queue_wait_seconds_count", (("class", "normal"), model)] == 2
        assert values["hermes_time_to_first_token_seconds_count", (model, ("route", CHAT))] == 1  # the stream's
        assert values["hermes_request_duration_seconds_count", (model, ("outcome", "ok"), ("route", CHAT))] == 1
        finished = (("model", "gemma"), ("outcome", "ok"), ("route", "/v1/llm/{model}"))
        assert values["hermes_requests_total", finished] == 1
        # A name that nobody serves is no label (I27).
        assert values["hermes_requests_total", (("model", ""), ("outcome", "bad_request"), ("route", CHAT))] == 1
        assert not [labels for _, labels in values if "nobody" in str(labels)]
        assert values["hermes_backend_attempts_total", (("backend", "b0"), ("result", "ok"))] == 2
        assert values["hermes_backend_up", (("backend", "b0"),)] == 1


@scenario
async def test_at_every_scrape_the_accepted_are_the_ended_and_those_in_flight() -> None:
    """I3."""
    async with ollama() as backend, hermes(backend) as gateway:
        backend.default = play(then=Then.STALL)
        calls = [await gateway.open(PROMPT, prompt()) for _ in range(3)]
        await gateway.until_waiting(2)
        for _ in range(2):
            values = await scrape(gateway)
            ended = sum(value for (name, _), value in values.items() if name == "hermes_requests_total")
            in_flight = values["hermes_requests_in_flight", ()]
            assert values["hermes_requests_accepted_total", ()] == ended + in_flight
            assert in_flight == 4  # and the scrape itself
        for call in calls:
            call.leave()


@scenario
async def test_paths_that_nobody_knows_do_not_grow_the_metrics() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        for number in range(50):
            await gateway.ask(f"/wp-admin/{number}")
        assert list(gateway.counted("hermes_requests_total").values()) == [50.0]


@scenario
async def test_health_is_not_logged_and_everything_else_is() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        for path in (*HEALTH, "/readyz", "/metrics", "/v1/models", "/nowhere"):
            await gateway.ask(path)
        await until(lambda: len(gateway.records) >= 2)
        assert [record.route for record in gateway.records] == ["/v1/models", ""]
