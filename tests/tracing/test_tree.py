"""The spans of requests, as a collector gets them from a whole Hermes on real sockets."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from hermes.exchange import Exchange
from hermes.policy.ticket import Ticket
from hermes.policy.trace import Context, context
from hermes.tracing.notes import Attempt, Notes, Turn
from hermes.tracing.tree import spans
from tests.fakes.backend import DONE, FakeOllama, Then, answer, ollama, play, speak
from tests.fakes.collector import Collector, Seen, collector
from tests.fakes.gateway import CHAT, WHOLE, Hermes, chat, hermes, hold_slot, scenario, session
from tests.support import run, until

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01", "tracestate": "vendor=value"}


@asynccontextmanager
async def traced(collector: Collector, *fakes: FakeOllama, **sections: Any) -> AsyncIterator[Hermes]:
    """When the block is left the collector has all there is."""
    tracing = {"otlp_endpoint": collector.url, **sections.pop("tracing", {})}
    async with hermes(*fakes, tracing=tracing, **sections) as gateway:
        yield gateway


def nested(spans: list[Seen]) -> None:
    """Each is in the one that it is a child of, as to time and trace."""
    by_id = {span.span_id: span for span in spans}
    for span in spans:
        assert span.begun_at <= span.ended_at
        if (parent := by_id.get(span.parent_id)) is not None:
            assert parent.trace_id == span.trace_id
            assert parent.begun_at <= span.begun_at and span.ended_at <= parent.ended_at, (parent.name, span.name)


@scenario
async def test_a_stream_is_told_as_a_tree_of_spans() -> None:
    async with collector() as told, ollama() as backend:
        async with traced(told, backend) as gateway:
            gate = asyncio.Event()
            backend.scripts.append(play("Hel", gate, "lo", DONE))
            call = await gateway.open(CHAT, chat(stream=True, temperature=0.5, max_tokens=7, top_k=3, seed=1))
            assert await call.head() == 200 and await call.event()
            await asyncio.sleep(0.05)
            gate.set()
            await call.events()
        nested(told.spans)
        server, client = told.named(f"POST {CHAT}"), told.named("chat gemma:latest")
        assert (server.kind, server.parent_id, told.children(server)) == (
            "server",
            "",
            ["admission", "chat gemma:latest"],
        )
        assert (client.kind, told.children(client)) == ("client", ["stream"])
        assert 0.05 <= told.named("stream").took_s <= client.took_s
        assert {span.kind for span in told.spans if span not in (server, client)} == {"internal"}
        assert server.attributes == server.attributes | {
            "http.request.method": "POST", "http.route": CHAT, "url.path": CHAT, "url.scheme": "http",
            "http.response.status_code": 200, "hermes.outcome": "ok", "hermes.model": "gemma:latest",
            "hermes.attempts": 1, "hermes.user": "anonymous", "hermes.class": "normal",
        }  # fmt: skip
        assert client.attributes == client.attributes | {
            "gen_ai.operation.name": "chat", "gen_ai.provider.name": "ollama", "gen_ai.request.model": "gemma:latest",
            "gen_ai.response.model": "gemma:latest", "gen_ai.request.temperature": 0.5, "gen_ai.request.max_tokens": 7,
            "gen_ai.request.top_k": 3.0, "gen_ai.request.seed": 1, "gen_ai.request.stream": True,
            "gen_ai.response.finish_reasons": ["stop"], "server.address": "127.0.0.1", "server.port": backend.port,
            "gen_ai.usage.input_tokens": 7, "gen_ai.usage.output_tokens": 3, "hermes.backend": "b0",
        }  # fmt: skip
        assert 0 <= client.attributes["gen_ai.response.time_to_first_chunk"] < 0.05
        assert server.resource["service.name"] == "hermes" and server.resource["service.version"]


@pytest.mark.parametrize(("path", "body"), WHOLE)
@scenario
async def test_every_way_to_ask_is_told(path: str, body: dict[str, Any]) -> None:
    async with collector() as told, ollama() as backend:
        async with traced(told, backend) as gateway:
            assert (await gateway.ask(path, body)).status == 200
        nested(told.spans)
        (server,), (client,) = told.of("server"), told.of("client")
        assert told.children(server) == ["admission", client.name] and told.children(client) == []
        assert client.attributes["gen_ai.response.finish_reasons"] == ["stop"]
        completes = body.get("prompt") is not None
        assert client.name == ("text_completion gemma:latest" if completes else "chat gemma:latest")


@scenario
async def test_embeddings_are_told() -> None:
    async with collector() as told, ollama() as backend:
        async with traced(told, backend) as gateway:
            backend.management["/api/embed"] = answer(200, b'{"embeddings":[[0.6,0.8]],"prompt_eval_count":2}')
            assert (await gateway.ask("/v1/embeddings", {"model": "gemma", "input": "Hi"})).status == 200
        client = told.named("embeddings gemma:latest")
        assert client.attributes["gen_ai.operation.name"] == "embeddings"
        assert "gen_ai.usage.output_tokens" not in client.attributes


def test_the_stream_of_an_answer_of_one_piece_ends_no_later_than_its_attempt() -> None:
    own = Context("1" * 32, "1" * 16, True)
    ticket = Ticket("gemma", "gemma:latest", "ann", ("b0",), 0, 1.0, 9.0)
    exchange = Exchange("r1", "POST", 1.0, 1001.0, stream=True, ttft_s=0.020004, backend_s=0.01, ticket=ticket)
    turn = Turn(ticket, Attempt(own, "b0", "ollama", "127.0.0.1", 1, 1.01))
    told = spans(exchange, Notes(own, None, 1000.0, turns=[turn]), 1.03, "http")
    stream, chat = (next(span for span in told if span.name.startswith(name)) for name in ("stream", "chat"))
    assert chat.begun_at <= stream.begun_at <= stream.ended_at <= chat.ended_at


# --- whose trace it is ------------------------------------------------------------------------------------------------


@scenario
async def test_a_request_is_a_part_of_its_callers_trace_and_the_backend_of_the_attempt() -> None:
    async with collector() as told, ollama() as backend:
        async with traced(told, backend, tracing={"sample_ratio": 0}) as gateway:
            await gateway.ask(CHAT, chat(), CALLER)
            record = await gateway.record()
        server, client = told.named(f"POST {CHAT}"), told.named("chat gemma:latest")
        assert (server.trace_id, server.parent_id) == (TRACE, "b7ad6b7169203331")
        assert record.trace_id == TRACE and {span.state for span in told.spans} == {"vendor=value"}
        got = backend.asked[0].headers
        assert got["traceparent"] == f"00-{TRACE}-{client.span_id}-01" and got["tracestate"] == "vendor=value"


@scenario
async def test_a_request_without_a_trace_begins_one_each_time() -> None:
    async with collector() as told, ollama() as backend:
        async with traced(told, backend) as gateway:
            peer = await gateway.connect()
            for _ in range(3):
                await gateway.ask(CHAT, chat(), on=peer)
            records = gateway.records
        traces = [span.trace_id for span in told.of("server")]
        assert len(set(traces)) == 3 and traces == [record.trace_id for record in records]
        clients = [(span.trace_id, span.span_id) for span in told.of("client")]
        assert clients == [tuple(asked.headers["traceparent"].split("-")[1:3]) for asked in backend.asked]


@scenario
async def test_who_has_decided_against_spans_gets_none_and_what_came_goes_on_as_it_came() -> None:
    unsampled = {**CALLER, "traceparent": CALLER["traceparent"][:-2] + "00"}
    async with collector() as told, ollama() as backend:
        async with traced(told, backend) as gateway:
            await gateway.ask(CHAT, chat(), unsampled)
        assert not told.spans
        assert {name: backend.asked[0].headers[name] for name in unsampled} == unsampled


@scenario
async def test_none_of_no_share_and_the_backend_hears_of_that() -> None:
    async with collector() as told, ollama() as backend:
        async with traced(told, backend, tracing={"sample_ratio": 0}) as gateway:
            await gateway.ask(CHAT, chat())
        assert not told.spans
        assert backend.asked[0].headers["traceparent"].endswith("-00")


@scenario
async def test_about_so_many_are_told_as_are_asked_for() -> None:
    async with collector() as told, ollama() as backend:
        async with traced(told, backend, tracing={"sample_ratio": 0.5}) as gateway:
            peer = await gateway.connect()
            for _ in range(100):
                await gateway.ask("/v1/models", on=peer)
        assert 20 < len(told.of("server")) < 80


@scenario
async def test_without_a_collector_nothing_is_added() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        await gateway.ask(CHAT, chat())
        assert "traceparent" not in backend.asked[0].headers


@scenario
async def test_where_spans_go_is_changed_by_a_restart_alone() -> None:
    async with collector() as told, ollama() as backend, traced(told, backend) as gateway:
        attempt = await gateway.reload(backend)
        assert attempt.needs_restart == ("tracing.otlp_endpoint",)


# --- waiting ----------------------------------------------------------------------------------------------------------


@scenario
async def test_a_wait_in_the_queue_is_told_with_the_place_it_had() -> None:
    async with collector() as told, ollama() as backend:
        async with traced(told, backend) as gateway:
            free = asyncio.Event()
            holder = await hold_slot(gateway, backend, free)
            call = await gateway.open(CHAT, chat(), CALLER)
            await gateway.until_waiting(1)
            await asyncio.sleep(0.05)
            free.set()
            await holder.reply()
            assert (await call.reply()).status == 200
        nested(told.spans)
        mine = [span for span in told.spans if span.trace_id == TRACE]
        server = next(span for span in mine if span.kind == "server")
        assert told.children(server) == ["admission", "queue", "chat gemma:latest"]
        queue, client = told.named("queue"), next(span for span in mine if span.kind == "client")
        assert queue.took_s >= 0.05 and queue.ended_at <= client.begun_at
        assert server.took_s - sum(span.took_s for span in mine if span.parent_id == server.span_id) < 0.02
        assert queue.attributes["hermes.queue.position"] == 1 and queue.attributes["hermes.queue.found"] == "hit"
        assert queue.attributes["hermes.queue.eta"] > 0


@scenario
async def test_the_load_of_a_model_is_told_inside_of_the_wait_for_it() -> None:
    async with collector() as told, ollama("gemma:latest", "qwen:latest") as backend:
        backend.loaded = backend.loaded[:1]
        gate = asyncio.Event()
        backend.management["/api/generate"] = play(gate, DONE)
        async with traced(told, backend, tracing={}) as gateway:
            call = await gateway.open(CHAT, chat(model="qwen"))
            await gateway.until_waiting(1)
            await asyncio.sleep(0.05)
            gate.set()
            assert (await call.reply()).status == 200
        nested(told.spans)
        load = told.named("load")
        assert told.children(told.named("queue")) == ["load"] and load.took_s >= 0.045
        assert load.attributes == {
            "hermes.model.resident": "qwen:latest", "hermes.load.kind": "load", "hermes.backend": "b0"
        }  # fmt: skip


# --- what goes wrong --------------------------------------------------------------------------------------------------


@scenario
async def test_each_attempt_has_its_own_span_and_the_failed_one_says_why() -> None:
    async with collector() as told, ollama() as one, ollama() as other:
        one.default, other.default = play(then=Then.RESET), speak("Hello")
        async with traced(told, one, other) as gateway:
            assert (await gateway.ask(CHAT, chat(), session("b0"))).status == 200
        nested(told.spans)
        failed, good = sorted(told.of("client"), key=lambda span: span.begun_at)
        assert failed.failed and failed.attributes["error.type"] == "backend_error"
        assert "gen_ai.usage.output_tokens" not in failed.attributes
        assert not good.failed and good.attributes["hermes.backend"] == "b1" and "error.type" not in good.attributes
        assert failed.ended_at <= good.begun_at
        (server,) = told.of("server")
        assert not server.failed and server.attributes["hermes.attempts"] == 2
        for backend, span in ((one, failed), (other, good)):
            assert {asked.headers["traceparent"].split("-")[2] for asked in backend.asked} == {span.span_id}


@scenario
async def test_each_wait_is_told_and_each_attempt_once() -> None:
    async with collector() as told, ollama() as backend:
        async with traced(told, backend) as gateway:
            free, gone = asyncio.Event(), asyncio.Event()
            holder = await hold_slot(gateway, backend, free)
            backend.scripts += play(b"no json", DONE), play(gone, DONE)
            call = await gateway.open(CHAT, chat(), CALLER)
            await gateway.until_waiting(1)
            other = await gateway.open(CHAT, chat())
            await gateway.until_waiting(2)
            free.set()
            await backend.request(2)
            await gateway.until_waiting(1)  # it was there first, and failed, and the other has its slot
            call.leave()
            await until(lambda: len(gateway.records) == 2)
            gone.set()
            for each in (holder, other):
                await each.reply()
        nested(told.spans)
        server = next(span for span in told.of("server") if span.trace_id == TRACE)
        assert told.children(server) == ["admission", "queue", "chat gemma:latest", "queue"]


@scenario
async def test_a_wait_before_a_failed_attempt_is_not_told_again_with_the_next() -> None:
    async with collector() as told, ollama() as backend:
        async with traced(told, backend) as gateway:
            free = asyncio.Event()
            holder = await hold_slot(gateway, backend, free)
            backend.scripts.append(play(b"no json", DONE))
            call = await gateway.open(CHAT, chat(), CALLER)
            await gateway.until_waiting(1)
            free.set()
            await holder.reply()
            assert (await call.reply()).status == 200
        server = next(span for span in told.of("server") if span.trace_id == TRACE)
        assert told.children(server) == ["admission", "queue", "chat gemma:latest", "chat gemma:latest"]


@scenario
async def test_an_answer_that_breaks_off_is_an_error_of_both_spans() -> None:
    async with collector() as told, ollama() as backend:
        backend.default = play("Hel", then=Then.CUT)
        async with traced(told, backend) as gateway:
            await (await gateway.open(CHAT, chat(stream=True))).reply()
        (server,), (client,) = told.of("server"), told.of("client")
        assert server.failed and server.attributes["http.response.status_code"] == 200
        assert client.failed and server.attributes["error.type"] == client.attributes["error.type"]
        assert told.children(client) == ["stream"]


@scenario
async def test_who_is_refused_has_a_span_that_says_why() -> None:
    async with collector() as told, ollama() as backend:
        async with traced(told, backend, models={"gemma": {"queue_limit": 0}}) as gateway:
            holder = await hold_slot(gateway, backend)
            assert (await gateway.ask(CHAT, chat(), CALLER)).status == 429
            holder.leave()
        server = next(span for span in told.of("server") if span.trace_id == TRACE)
        assert server.attributes["error.type"] == "queue_full" and server.attributes["hermes.outcome"] == "queue_full"
        assert not server.failed and told.children(server) == ["admission"]


@pytest.mark.parametrize(
    ("method", "path", "headers", "name", "error"),
    [
        ("GET", "/v1/secret-path", {}, "GET", "not_found"),
        ("GET", "/v1/models", {"host": "elsewhere.example"}, "GET", "host_not_allowed"),
        ("POST", CHAT, {}, f"POST {CHAT}", "invalid_json"),
    ],
)
@scenario
async def test_what_never_got_far_has_a_span_in_its_callers_trace(
    method: str, path: str, headers: dict[str, str], name: str, error: str
) -> None:
    async with collector() as told, ollama() as backend:
        async with traced(told, backend) as gateway:
            body = b"{" if method == "POST" else None
            await gateway.ask(path, body, {**CALLER, **headers}, method)
            record = await gateway.record()
        (server,) = told.spans
        assert (server.name, server.trace_id, record.trace_id) == (name, TRACE, TRACE)
        assert server.attributes["error.type"] == error
        assert "secret-path" not in str(server)


def test_a_bug_in_telling_spans_is_nothing_to_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hermes.tracing.tree._request", None)

    async def asking() -> None:
        async with collector() as told, ollama() as backend, traced(told, backend) as gateway:
            peer = await gateway.connect()
            for _ in range(2):
                assert (await gateway.ask(CHAT, chat(), on=peer)).status == 200

    run(asking(), may_log_errors=True)


@scenario
async def test_health_checks_and_scrapes_have_no_spans() -> None:
    async with collector() as told, ollama() as backend:
        async with traced(told, backend) as gateway:
            for path in ("/livez", "/readyz", "/metrics"):
                assert (await gateway.ask(path, headers=CALLER)).status == 200
        assert not told.spans


@pytest.mark.parametrize("waits", [False, True])
@scenario
async def test_a_client_that_leaves_is_no_error(waits: bool) -> None:
    async with collector() as told, ollama() as backend:
        async with traced(told, backend) as gateway:
            backend.scripts.append(play(asyncio.Event(), DONE))
            holder = await hold_slot(gateway, backend) if waits else None
            call = await gateway.open(CHAT, chat(stream=True), CALLER)
            if waits:
                await gateway.until_waiting(1)
            else:
                await backend.request(0)
            call.leave()
            await gateway.record()
            if holder is not None:
                holder.leave()
        nested(told.spans)
        server = next(span for span in told.of("server") if span.trace_id == TRACE)
        assert server.attributes["hermes.outcome"] == "client_gone" and not server.failed
        assert told.children(server) == ["admission", "queue" if waits else "chat gemma:latest"]
        assert not any(span.failed for span in told.spans)


# --- without a run of one's own ---------------------------------------------------------------------------------------

CACHED = {"models": {"gemma": {"cache": "forced"}}}


@scenario
async def test_an_answer_from_the_cache_has_no_attempt() -> None:
    async with collector() as told, ollama() as backend:
        async with traced(told, backend, **CACHED) as gateway:
            await gateway.ask(CHAT, chat())
            await gateway.ask(CHAT, chat(), CALLER)
        server = next(span for span in told.of("server") if span.trace_id == TRACE)
        assert server.attributes["hermes.cache"] == "hit" and told.children(server) == [] and not server.links
        assert len(told.of("client")) == 1


@scenario
async def test_who_shares_a_run_links_to_it_and_it_stands_in_the_trace_of_the_first() -> None:
    async with collector() as told, ollama() as backend:
        gate = asyncio.Event()
        backend.scripts.append(play(gate, "Hello", DONE))
        async with traced(told, backend, **CACHED) as gateway:
            first = await gateway.open(CHAT, chat(), CALLER)
            await backend.request(0)
            second = await gateway.open(CHAT, chat())
            await asyncio.sleep(0.02)
            gate.set()
            assert [(await call.reply()).status for call in (first, second)] == [200, 200]
        nested(told.spans)
        assert len(backend.asked) == 1
        owner, other = sorted(told.of("server"), key=lambda span: span.begun_at)
        run = told.named("run")
        assert (owner.trace_id, run.parent_id, owner.links) == (TRACE, owner.span_id, ())
        assert other.links == (run.span_id,) and told.children(other) == []
        assert told.children(run) == ["chat gemma"]
        parent = context(f"traceparent: {backend.asked[0].headers['traceparent']}".encode())
        assert parent is not None and parent.span_id == told.named("chat gemma").span_id
