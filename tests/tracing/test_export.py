"""A collector that is slow, gone or wrong is nobody's trouble: requests go on, and what it does not get is counted."""

import asyncio
import logging
import threading

import pytest

from hermes.policy.trace import Context
from hermes.tracing import export
from hermes.tracing.span import Span
from tests.fakes.backend import ollama
from tests.fakes.collector import collector
from tests.fakes.gateway import CHAT, Hermes, chat, hermes, scenario
from tests.support import until
from tests.tracing.test_tree import CALLER, traced


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "GROUP_S", 0.005)


def dropped(gateway: Hermes) -> dict[tuple[str, ...], float]:
    return gateway.counted("hermes_spans_dropped_total")


@scenario
async def test_spans_come_soon_and_together() -> None:
    async with collector() as told, ollama() as backend, traced(told, backend) as gateway:
        await gateway.ask(CHAT, chat())
        await until(lambda: told.of("server"), "nothing has come")
        assert len(told.spans) == 3 and told.paths == [b"/v1/traces"]
        assert dropped(gateway) == {("full",): 0, ("failed",): 0}


def failures(gateway: Hermes, caplog: pytest.LogCaptureFixture) -> tuple[float, list[str]]:
    """How many spans were dropped because they were not taken; what is told of it."""
    lines = [line.getMessage() for line in caplog.records if line.levelno >= logging.WARNING]
    return dropped(gateway)[("failed",)], lines


@pytest.mark.parametrize("status", [400, 401, 404])
@scenario
async def test_a_collector_that_refuses_spans_is_told_of_once(status: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "hermes")
    async with collector() as told, ollama() as backend:
        told.status, told.body = status, b"<html>nonsense</html>"
        async with traced(told, backend) as gateway:
            for count in range(3):
                assert (await gateway.ask(CHAT, chat())).status == 200
                await until(lambda count=count: failures(gateway, caplog)[0] == 3 * count + 3, "nothing is dropped")  # type: ignore[misc]
            told.status, told.body = 200, b""
            await gateway.ask(CHAT, chat())
            await until(lambda: told.spans, "it is not asked again")
        assert failures(gateway, caplog) == (
            9,
            [f"spans are dropped, the collector does not take them: status {status}"],
        )
        assert "takes spans again" in caplog.text and "nonsense" not in caplog.text


@scenario
async def test_a_collector_that_names_another_is_none(caplog: pytest.LogCaptureFixture) -> None:
    """I23: what it is told by, keys among it, is for nobody else; and who has the spans is not known."""
    async with collector() as told, ollama() as backend:
        told.status = 307
        async with traced(told, backend) as gateway:
            await gateway.ask(CHAT, chat())
            await until(lambda: dropped(gateway)[("failed",)] == 3, "it is believed")
        assert failures(gateway, caplog)[1] == ["spans are dropped, the collector does not take them: TooManyRedirects"]


@scenario
async def test_a_collector_whose_answer_never_ends_is_heard_no_longer() -> None:
    """I4."""
    async with collector() as told, ollama() as backend, traced(told, backend) as gateway:
        told.endless = True
        for count in (1, 2, 3):
            await gateway.ask(CHAT, chat())
            await until(lambda count=count: len(told.of("server")) == count, "its answer is still read")  # type: ignore[misc]


@pytest.mark.parametrize("state", ["sk-canary", ",".join(f"a{n}=1" for n in range(33))])
@scenario
async def test_a_state_that_is_none_by_the_standard_is_not_told(state: str, caplog: pytest.LogCaptureFixture) -> None:
    """I26."""
    async with collector() as told, ollama() as backend:
        async with traced(told, backend) as gateway:
            await gateway.ask(CHAT, chat(), {**CALLER, "tracestate": state})
        assert len(told.spans) == 3 and "canary" not in str(told.spans)
    assert failures(gateway, caplog)[1] == []


@scenario
async def test_what_a_collector_is_too_busy_for_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.uniform", lambda *_: 0.01)  # of the second that they wait
    async with collector() as told, ollama() as backend, traced(told, backend) as gateway:
        told.status = 503
        await gateway.ask(CHAT, chat())
        await until(lambda: told.raw, "it is not asked")
        told.status = 200
        await until(lambda: told.of("server"), "it is not asked again")
        assert dropped(gateway) == {("full",): 0, ("failed",): 0}


@pytest.mark.parametrize("status", [0, 500, 503])
@scenario
async def test_at_the_end_nobody_waits_long_for_a_collector(
    status: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(export, "LAST_S", 0.05)
    async with collector() as told, ollama() as backend:
        told.status = status
        url = told.url if status else "http://127.0.0.1:9"
        async with hermes(backend, tracing={"otlp_endpoint": url}) as gateway:
            assert (await gateway.ask(CHAT, chat())).status == 200
            begun_at = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - begun_at < 1
        assert failures(gateway, caplog)[0] == 3
    assert "127.0.0.1:9" not in caplog.text


@scenario
async def test_what_is_given_up_at_the_end_is_told_in_our_words_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """I26: in theirs are addresses, with what may be secret in them."""
    for name, most in (("LAST_S", 0.02), ("CUT_S", 0.01), ("MOST_SPANS", 3)):
        monkeypatch.setattr(export, name, most)
    async with collector() as told, ollama() as backend:
        told.gate.clear()
        async with traced(told, backend) as gateway:
            for _ in range(2):
                await gateway.ask(CHAT, chat())
            await until(lambda: told.raw, "it is not asked")
        told.gate.set()
        await until(lambda: all(thread.name != "spans" for thread in threading.enumerate()), "it goes on")
        assert not [record.name for record in caplog.records if record.name.startswith("opentelemetry")]


@scenario
async def test_while_a_collector_hangs_requests_go_on_and_what_is_too_much_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """I4."""
    monkeypatch.setattr(export, "MAX_WAITING_BYTES", 20_000)
    monkeypatch.setattr(export, "LAST_S", 0.05)
    async with collector() as told, ollama() as backend:
        told.gate.clear()
        async with traced(told, backend) as gateway:
            peer = await gateway.connect()
            for _ in range(10):
                assert (await gateway.ask(CHAT, chat(), on=peer)).status == 200
            lost = dropped(gateway)[("full",)]
            assert lost % 3 == 0 and 12 <= lost <= 24
            told.gate.set()
            await until(lambda: len(told.spans) == 30 - lost, "what was taken has not come")
            while len(told.spans) == 30 - lost:  # until the answer is there it is full
                await gateway.ask(CHAT, chat(), on=peer)
                await asyncio.sleep(0.005)


@scenario
async def test_the_collector_is_given_the_headers_that_are_known_by_opentelemetrys_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20abc")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    async with collector() as told, ollama() as backend:
        async with traced(told, backend, tracing={"service_name": "gpu-box"}) as gateway:
            await gateway.ask(CHAT, chat())
        assert told.headers[b"authorization"] == b"Bearer abc"
        resource = told.spans[0].resource
        assert (resource["service.name"], resource["deployment.environment.name"]) == ("gpu-box", "test")


@scenario
async def test_a_path_of_the_collectors_own_is_kept() -> None:
    async with collector() as told, ollama() as backend:
        async with hermes(backend, tracing={"otlp_endpoint": told.url + "/in/traces"}) as gateway:
            await gateway.ask(CHAT, chat())
        assert told.paths == [b"/in/traces"]


def test_a_span_takes_what_it_tells_and_something_more() -> None:
    """I4: what waits is bounded in bytes."""
    context = Context("1" * 32, "1" * 16, True)
    texts = ("", "x" * 16_384, "\U0001f600" * 16_384)
    spans = [Span(context, None, "a", "client", 0.0, 1.0, {"a": text, "b": 1}) for text in texts]
    assert [span.size_bytes for span in spans] == [1500, 1500 + 16_384, 1500 + 4 * 16_384]
