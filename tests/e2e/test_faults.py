"""Whatever a backend does wrong: the right status or an honest error event, one outcome, no slot lost (I3, I5, I15).

Every fault meets every dialect, whole and streamed, at each kind of backend: vLLM answers whole where a whole answer is
asked for, llama.cpp is always asked to stream. TGI, which is too, meets them in each of its two APIs.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct
from msgspec.structs import replace

from tests.fakes.backend import DONE, FakeOllama, Script, Then, answer, endless, fail, listening, ollama, play, talk
from tests.fakes.gateway import CHAT, PROMPT, STREAMS, WHOLE, Hermes, Reply, chat, error_in, hermes, prompt, scenario
from tests.fakes.openai_backend import FakeOpenAI
from tests.fakes.tgi import FakeTgi

BUSY = "server busy, please try again.  maximum pending requests exceeded"
TOLD_TWICE = b'{"message":{"content":"Hel"},"done":true}\n{"message":{"content":"lo"},"done":true}\n'

FAILED = (502, "backend_error")
REFUSED = (502, "backend_refused")
LATE = (504, "backend_timeout")


class Fault(Struct, frozen=True):
    """`script` is made with a gate, which lets it go on after the first content.

    `told`: status and code. `attempts`: what Hermes makes of it where nothing has been sent yet and two are allowed.
    `content`: a stream has had content before. `left`: the backend sees us go.
    """

    name: str
    script: Callable[[asyncio.Event], Script]
    told: tuple[int, str]
    attempts: int = 2
    outcome: str = "upstream_error"
    content: bool = False
    left: bool = False


def late(name: str, script: Callable[[asyncio.Event], Script], content: bool = False) -> Fault:
    return Fault(name, script, LATE, attempts=1, outcome="upstream_timeout", content=content, left=True)


def refused(name: str, script: Script, told: tuple[int, str], outcome: str = "bad_request") -> Fault:
    return Fault(name, lambda go: script, told, attempts=1, outcome=outcome)


FAULTS = [
    Fault("reset before the head", lambda go: play(then=Then.RESET), FAILED),
    Fault("reset after the head", lambda go: play(b"\n", then=Then.RESET), FAILED),
    Fault("reset in the middle", lambda go: play("Hel", go, then=Then.RESET), FAILED, content=True),
    Fault("cut after the head", lambda go: play(b"\n", then=Then.CUT), FAILED),
    Fault("cut in the middle", lambda go: play("Hel", go, then=Then.CUT), FAILED, content=True),
    Fault("end without done", lambda go: play("Hel", go), FAILED, content=True),
    Fault("nothing at all", lambda go: play(), FAILED),
    Fault("an error line first", lambda go: play({"error": "out of memory"}), FAILED),
    Fault("an error line later", lambda go: play("Hel", go, {"error": "out of memory"}), FAILED, content=True),
    Fault("an error of another shape", lambda go: play({"error": {"message": "no"}}), FAILED),
    Fault("HTML with 200", lambda go: answer(200, b"<html>Welcome</html>", b"text/html"), FAILED),
    Fault("garbage first", lambda go: play(b"}{\n"), FAILED),
    Fault("garbage later", lambda go: play("Hel", go, b"}{\n"), FAILED, content=True),
    Fault("not UTF-8", lambda go: play(b'{"message":{"content":"\xff"},"done":false}\n'), FAILED),
    Fault("other JSON", lambda go: play({"detail": "Not Found"}), FAILED),
    Fault("a list", lambda go: play(b"[1]\n"), FAILED),
    Fault("two ends", lambda go: play(TOLD_TWICE), FAILED),
    Fault("a crash", lambda go: fail(500, "llama-server process no longer running: exit status 2"), FAILED),
    Fault("a proxy's page", lambda go: answer(502, b"<html>nginx</html>", b"text/html"), FAILED),
    Fault("no JSON", lambda go: answer(500, b"\x00\xff", b"text/plain"), FAILED),
    Fault("busy", lambda go: fail(503, BUSY), (503, "backend_busy")),
    Fault("too many requests", lambda go: fail(429, "Model is overloaded"), (503, "backend_busy")),
    # Once more after asking who has it (I8).
    replace(refused("no such model", fail(404, "model 'gemma' not found"), (404, "model_not_found")), attempts=2),
    refused("a bad request", fail(400, "invalid options"), (400, "invalid_value")),
    refused("overlong", fail(400, "the input length exceeds the context length"), (400, "context_length_exceeded")),
    refused("no entry", fail(401, "unauthorized"), REFUSED, "upstream_error"),
    refused("a redirect", answer(302, b"", headers=b"location: http://127.0.0.1:1/\r\n"), REFUSED, "upstream_error"),
    late("stall before the head", lambda go: play(then=Then.STALL)),
    late("stall after the head", lambda go: play(b"\n", then=Then.STALL)),
    late("stall in the middle", lambda go: play("Hel", go, then=Then.STALL), content=True),
    late("an endless answer", talk, content=True),
    late("an endless drip", lambda go: endless(b" ")),
    late("endless empty lines", lambda go: endless(b"\n")),
]
NAMES = [fault.name for fault in FAULTS]
KINDS = ["ollama", "vllm", "llamacpp"]


def backend_of(kind: str) -> FakeOllama:
    if kind == "tgi":
        return FakeTgi()
    return FakeOllama() if kind == "ollama" else FakeOpenAI(kind)


def settings(fault: Fault) -> dict[str, Any]:
    times = {"timeout_s": 0.2, "stall_timeout_s": 0.2, "max_stream_s": 0.2} if fault.told == LATE else {}
    return {"limits": {"max_attempts": 2}, "defaults": times}


@pytest.mark.parametrize("fault", FAULTS, ids=NAMES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("path", "body"), WHOLE, ids=["prompt", "openai", "completions", "responses", "anthropic", "ollama"]
)
@scenario
async def test_a_whole_answer_that_fails_is_an_error_status(
    path: str, body: dict[str, Any], fault: Fault, kind: str
) -> None:
    async with listening(backend_of(kind)) as backend, hermes(backend, **settings(fault)) as gateway:
        go = asyncio.Event()
        go.set()
        backend.default = fault.script(go)
        check_refusal(await gateway.ask(path, body), fault)
        await check_books(gateway, backend, fault, fault.attempts)


@pytest.mark.parametrize("fault", FAULTS, ids=NAMES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("path", "body"), STREAMS, ids=["prompt", "openai", "completions", "responses", "anthropic", "ollama"]
)
@scenario
async def test_a_stream_that_fails_never_ends_as_if_it_had_not(
    path: str, body: dict[str, Any], fault: Fault, kind: str
) -> None:
    async with listening(backend_of(kind)) as backend, hermes(backend, **settings(fault)) as gateway:
        go = asyncio.Event()
        backend.default = fault.script(go)
        call = await gateway.open(path, body)
        if not fault.content:
            check_refusal(await call.reply(), fault)
            await check_books(gateway, backend, fault, fault.attempts)
            return
        assert await call.head() == 200
        events = [await call.event()]
        go.set()
        events += await call.events()
        check_broken_stream(events, fault)
        assert not call.whole
        await check_books(gateway, backend, fault, attempts=1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("path", "body"), WHOLE + STREAMS, ids=lambda value: str(value)[:50])
@scenario
async def test_a_backend_that_refuses_connections_is_told_as_that(path: str, body: dict[str, Any], kind: str) -> None:
    async with listening(backend_of(kind)) as backend, hermes(backend, limits={"max_attempts": 2}) as gateway:
        await backend.vanish()
        reply = await gateway.ask(path, body)
        assert (reply.status, reply.error["code"]) == (502, "backend_unreachable")
        record = await gateway.record()
        assert (record.outcome, record.attempts) == ("upstream_error", 2)
        assert (gateway.running, gateway.waiting) == (0, 0)


def check_refusal(reply: Reply, fault: Fault) -> None:
    assert (reply.status, reply.error["code"]) == fault.told
    assert reply.whole
    assert reply.headers["x-request-id"]
    assert reply.headers.get("x-should-retry") == ("false" if fault.attempts > 1 else None)
    assert (reply.headers.get("retry-after") is not None) == (reply.status == 503)
    assert b"html" not in reply.body and b"nginx" not in reply.body


def check_broken_stream(events: list[Any], fault: Fault) -> None:
    *before, last = events
    assert "Hel" in str(before)
    assert error_in(last)["code"] == fault.told[1]
    assert "[DONE]" not in events
    ends = {"message_delta", "message_stop", "response.completed", "response.incomplete", "response.output_item.done"}
    assert not ends & {event.get("type") for event in before}
    assert not [event for event in before if event.get("done") or "error" in event]
    assert not [event for event in before if any(choice["finish_reason"] for choice in event.get("choices", ()))]


async def check_books(gateway: Hermes, backend: FakeOllama, fault: Fault, attempts: int) -> None:
    record = await gateway.record()
    assert (record.outcome, record.code, record.attempts) == (fault.outcome, fault.told[1], attempts)
    assert (record.model, record.backend) == ("gemma:latest", "b0")
    assert gateway.counted("hermes_requests_total") == {(record.route, "gemma:latest", fault.outcome): 1.0}
    assert gateway.attempts() == {("b0", fault.told[1]): float(attempts)}
    assert (gateway.running, gateway.waiting) == (0, 0)
    # A pooled connection that dies before any byte came back costs one more request, not an attempt.
    assert attempts <= len(backend.asked) <= attempts + 1
    for asked in backend.asked:
        async with asyncio.timeout(1.0):
            await asked.ended.wait()
        assert asked.left.is_set() == fault.left


@pytest.mark.parametrize("fault", FAULTS, ids=NAMES)
def test_tgis_chunks_fail_as_all_others_do(fault: Fault) -> None:
    test_a_whole_answer_that_fails_is_an_error_status(CHAT, chat(), fault, "tgi")


@pytest.mark.parametrize("fault", FAULTS, ids=NAMES)
def test_tgis_tokens_fail_as_all_others_do(fault: Fault) -> None:
    asked = {"model": "gemma", "prompt": "Hi", "raw": True}
    test_a_stream_that_fails_never_ends_as_if_it_had_not("/api/generate", asked, fault, "tgi")


# --- as it is told in the docs ------------------------------------------------------------------------------------


def test_the_table_in_the_docs_is_this_one() -> None:
    rows = [f"| {fault.name} | {_first(fault)} | {_later(fault)} |" for fault in FAULTS]
    text = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
    told = [line for line in text.splitlines() if line.count("|") == 4 and line.split("|")[1].strip() in NAMES]
    assert told == rows


def _first(fault: Fault) -> str:
    status, code = fault.told
    again = "; asked once more before" if fault.attempts > 1 else ""
    return f"{status} `{code}`{again}"


def _later(fault: Fault) -> str:
    return f"an error event `{fault.told[1]}`, cut short" if fault.content else "the same"


# --- faults that whole answers and streams meet differently -------------------------------------------------------


@pytest.mark.parametrize("body", [chat(stream=True), chat()], ids=["stream", "whole"])
@scenario
async def test_a_line_may_be_long_but_not_endless(body: dict[str, Any]) -> None:
    """I13: an event of a stream is bounded at 1 MiB, a whole answer at 16 MiB."""
    async with ollama() as backend, hermes(backend, limits={"max_attempts": 1}) as gateway:
        size = (1 << 20) if "stream" in body else (16 << 20)
        backend.default = play("x" * (size // 2), DONE)
        assert (await gateway.ask(CHAT, body)).status == 200
        backend.default = play("x" * (size + 1), DONE)
        assert (await gateway.ask(CHAT, body)).status == 502


@scenario
async def test_a_stream_whose_line_never_ends_is_cut_off() -> None:
    async with ollama() as backend, hermes(backend, limits={"max_attempts": 1}) as gateway:
        backend.default = endless(b"x" * 65536)
        assert (await gateway.ask(PROMPT, prompt(stream=True))).status == 502
        async with asyncio.timeout(1.0):
            await backend.asked[0].left.wait()


@scenario
async def test_an_error_page_that_never_ends_is_cut_off() -> None:
    async with ollama() as backend, hermes(backend, limits={"max_attempts": 1}) as gateway:

        async def page(asked: Any) -> None:
            asked.response.start(500, b"content-type: text/html\r\n")
            while True:
                asked.response.write(b"<html>" * 10_000)
                await asked.response.drain()

        backend.default = page
        assert (await gateway.ask(PROMPT, prompt(stream=True))).status == 502
        async with asyncio.timeout(1.0):
            await backend.asked[0].left.wait()


@pytest.mark.parametrize("content_type", [b"text/html", b"text/event-stream", b"nonsense"])
@pytest.mark.parametrize("body", [prompt(stream=True), prompt()], ids=["stream", "whole"])
@scenario
async def test_a_wrong_content_type_does_not_spoil_a_right_answer(body: dict[str, Any], content_type: bytes) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        backend.default = play("Hel", "lo", DONE, content_type=content_type)
        reply = await gateway.ask(PROMPT, body)
        assert reply.status == 200
        assert reply.headers["content-type"] != content_type.decode()


@pytest.mark.parametrize("body", [prompt(stream=True), prompt()], ids=["stream", "whole"])
@scenario
async def test_lying_token_counts_do_no_harm(body: dict[str, Any]) -> None:
    """I15."""
    async with ollama() as backend, hermes(backend) as gateway:
        backend.default = play(
            "Hel", b'{"message":{"content":""},"done":true,"eval_count":-5,"prompt_eval_count":%d}' % (1 << 60)
        )
        if "stream" not in body:
            backend.default = play(b'{"message":{"content":"Hel"},"done":true,"eval_count":-5}')
        reply = await gateway.ask(PROMPT, body)
        assert reply.events[-1]["usage"]["total_tokens"] == 0
        assert (await gateway.record()).tokens_out == 0


@scenario
async def test_a_backend_that_ends_the_answer_but_not_the_body_keeps_no_client_waiting() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        backend.default = play("Hel", DONE, then=Then.STALL)
        reply = await gateway.ask(CHAT, chat(stream=True))
        assert reply.whole and reply.events[-1] == "[DONE]"
        async with asyncio.timeout(3.0):
            await backend.asked[0].left.wait()
        assert (await gateway.record()).outcome == "ok"
