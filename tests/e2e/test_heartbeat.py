"""A stream that waits is begun, and told its place: so nobody in between gives up on it (I2, I5, I9)."""

import asyncio
import re
from typing import Any

import openai
import pytest

from tests.e2e.test_openai_sdk import HI, sdk
from tests.fakes.backend import DONE, Asked, FakeOllama, Script, Then, fail, ollama, play
from tests.fakes.gateway import (
    CHAT,
    PROMPT,
    STREAMS,
    WHOLE,
    Call,
    Hermes,
    chat,
    error_in,
    hermes,
    hold_slot,
    parse_events,
    prompt,
    request_bytes,
    scenario,
)

PACE_S = 0.05
OFTEN = {"queue_heartbeat_s": PACE_S}
BEAT = re.compile(
    rb": queued position=(\d+) eta_ms=(\d+)\n\n(?:event: (?:ping|response.created|response.queued)\n.*\n\n)?|"
    rb'\{(?:"model":"gemma".*"content":""\},"done":false,)?"queued":\{"position":(\d+),"eta_ms":(\d+)\}\}\n'
)


async def busy(gateway: Hermes, backend: FakeOllama) -> asyncio.Event:
    """Somebody has the slot, until it is free."""
    free = asyncio.Event()
    await hold_slot(gateway, backend, free)
    return free


async def beat(call: Call) -> tuple[int, int]:
    """Position and milliseconds of the next sign of life."""
    piece = await call.piece()
    match = BEAT.fullmatch(piece)
    assert match, piece
    position, eta_ms = (int(group) for group in match.groups() if group is not None)
    return position, eta_ms


async def waiting(gateway: Hermes, path: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> Call:
    """A stream that waits, and has been told so once."""
    call = await gateway.open(path, body, headers)
    assert await call.head() == 200
    assert (await beat(call))[0] == 1
    return call


async def rest(call: Call) -> bytes:
    """All that still comes, but for signs of life."""
    pieces = b""
    while piece := await call.piece():
        pieces += b"" if BEAT.fullmatch(piece) else piece
    return pieces


@pytest.mark.parametrize(("path", "body"), STREAMS)
@scenario
async def test_a_stream_that_waits_is_told_its_place_and_then_has_its_answer(path: str, body: dict[str, Any]) -> None:
    async with ollama() as backend, hermes(backend, scheduling=OFTEN) as gateway:
        free = await busy(gateway, backend)
        call = await gateway.open(path, body)
        head = await call.peer.until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n") and b"x-request-id: " in head
        assert b"x-accel-buffering: no" in head
        assert b"x-hermes-" not in head and b"server-timing" not in head  # nothing is known yet
        for _ in range(3):
            position, eta_ms = await beat(call)
            assert position == 1 and eta_ms > 0
        free.set()
        content = await rest(call)
        assert call.whole
        assert b"Hel" in content and b"lo" in content
        assert (await gateway.record(1)).outcome == "ok"
        assert (await gateway.ask(path, body, on=call.peer)).whole  # its connection is as good as before


@scenario
async def test_the_last_comment_tells_of_the_wait() -> None:
    async with ollama() as backend, hermes(backend, scheduling=OFTEN) as gateway:
        free = await busy(gateway, backend)
        go = asyncio.Event()
        backend.default = play("Hel", go, DONE)
        call = await waiting(gateway, CHAT, chat(stream=True))
        free.set()
        while b"Hel" not in (content := await call.piece()):
            pass
        go.set()
        content += await rest(call)
        told = re.search(
            rb"\n\n: queue-ms=(\d+) queue-position=1 eta-ms=\d+ backend=b0 loaded=hit "
            rb"server-timing=queue;dur=(\d+), load;dur=0, ttft;dur=(\d+)\n\n",
            content,
        )
        assert told, content
        end = content[told.end() :]
        queue_ms, queue_again_ms, ttft_ms = map(int, told.groups())
        assert PACE_S * 1000 - 5 <= queue_ms == queue_again_ms <= ttft_ms
        assert end.endswith(b"data: [DONE]\n\n")
        assert [event for event in parse_events(end) if event != "[DONE]"][-1]["choices"][0]["finish_reason"] == "stop"


@scenario
async def test_it_is_told_at_the_pace_that_is_set_and_how_it_goes_on() -> None:
    async with ollama() as backend, hermes(backend, scheduling={"queue_heartbeat_s": 0.1}) as gateway:
        free = await busy(gateway, backend)
        ahead = await gateway.open(PROMPT, prompt())
        await gateway.until_waiting(1)
        loop = asyncio.get_running_loop()
        begun_at = loop.time()
        call = await gateway.open(CHAT, chat(stream=True))
        assert await call.head() == 200
        for number in range(1, 4):
            assert (await beat(call))[0] == 2
            assert number * 0.1 - 0.02 <= loop.time() - begun_at < number * 0.1 + 1.0
        backend.scripts.append(play(then=Then.STALL))
        free.set()
        while (await beat(call))[0] == 2:
            pass
        ahead.leave()
        assert b"[DONE]" in await rest(call)


@pytest.mark.parametrize(("path", "body"), STREAMS)
@scenario
async def test_who_need_not_wait_so_long_sees_nothing_of_it(path: str, body: dict[str, Any]) -> None:
    async with ollama() as backend, hermes(backend, scheduling={"queue_heartbeat_s": 5}) as gateway:
        free = await busy(gateway, backend)
        call = await gateway.open(path, body)
        await gateway.until_waiting(1)
        free.set()
        reply = await call.reply()
        assert b"queued" not in reply.body and b"\n: " not in reply.body
        assert reply.headers["x-hermes-queue-position"] == "1"


QUIET = [*((0, path, body) for path, body in STREAMS), *((PACE_S, path, body) for path, body in WHOLE)]


@pytest.mark.parametrize(("heartbeat_s", "path", "body"), QUIET)
@scenario
async def test_where_it_is_off_and_for_whole_answers_nothing_comes_while_they_wait(
    heartbeat_s: float, path: str, body: dict[str, Any]
) -> None:
    async with ollama() as backend, hermes(backend, scheduling={"queue_heartbeat_s": heartbeat_s}) as gateway:
        free = await busy(gateway, backend)
        call = await gateway.open(path, body)
        await gateway.until_waiting(1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(4 * PACE_S):
                await call.peer.receive()
        free.set()
        reply = await call.reply()
        assert (reply.status, reply.whole, b"queued" in reply.body) == (200, True, False)


@scenario
async def test_the_openai_sdk_takes_it_for_nothing() -> None:
    async with ollama() as backend, hermes(backend, scheduling=OFTEN) as gateway, sdk(gateway) as client:
        free = await busy(gateway, backend)
        asyncio.get_running_loop().call_later(4 * PACE_S, free.set)
        chunks = [
            chunk async for chunk in await client.chat.completions.create(model="gemma", messages=HI, stream=True)
        ]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello"
        assert chunks[-1].choices[0].finish_reason == "stop"
        free = await busy(gateway, backend)
        with pytest.raises(openai.APIError, match="waited in the queue") as raised:
            async for _ in await client.chat.completions.create(
                model="gemma", messages=HI, stream=True, extra_headers={"x-hermes-deadline-ms": "200"}
            ):
                raise AssertionError("there is no content")
        assert raised.value.code == "queue_timeout"
        free.set()


# --- what goes wrong after it -----------------------------------------------------------------------------------------


def error_at_the_end(call: Call, content: bytes) -> dict[str, Any]:
    """The error, which is all there is; nothing looks like success (I5)."""
    assert not call.whole
    assert b"[DONE]" not in content and b'"done"' not in content and b"finish_reason" not in content
    assert b"message_stop" not in content and b"message_delta" not in content
    (event,) = parse_events(content)
    return error_in(event)


@pytest.mark.parametrize(("path", "body"), STREAMS)
@scenario
async def test_who_waits_past_its_deadline_is_told_in_its_stream(path: str, body: dict[str, Any]) -> None:
    async with ollama() as backend, hermes(backend, scheduling=OFTEN) as gateway:
        free = await busy(gateway, backend)
        call = await waiting(gateway, path, body, {"x-hermes-deadline-ms": "250"})
        assert error_at_the_end(call, await rest(call))["code"] == "queue_timeout"
        record = await gateway.record()
        assert (record.outcome, record.code, record.status) == ("queue_timeout", "queue_timeout", 200)
        free.set()
        assert gateway.waiting == 0


@pytest.mark.parametrize(("path", "body"), STREAMS)
@scenario
async def test_who_has_no_content_by_its_deadline_is_told_in_its_stream(path: str, body: dict[str, Any]) -> None:
    async with ollama() as backend, hermes(backend, scheduling=OFTEN) as gateway:
        free = await busy(gateway, backend)
        call = await waiting(gateway, path, body, {"x-hermes-deadline-ms": "600"})
        backend.default = play(then=Then.STALL)
        free.set()
        assert error_at_the_end(call, await rest(call))["code"] == "backend_timeout"


FAILURES: dict[str, tuple[Script, str]] = {
    "error status": (fail(500, "out of memory"), "backend_error"),
    "bad request": (fail(400, "the input length exceeds the context length"), "context_length_exceeded"),
    "error instead of content": (play({"error": "out of memory"}), "backend_error"),
    "cut before content": (play(then=Then.CUT), "backend_error"),
    "reset": (play(then=Then.RESET), "backend_error"),
    "no answer": (play(), "backend_error"),
}


@pytest.mark.parametrize(("script", "code"), FAILURES.values(), ids=FAILURES)
@pytest.mark.parametrize(("path", "body"), STREAMS)
@scenario
async def test_a_backend_that_fails_where_no_other_try_is_left_is_told_in_the_stream(
    path: str, body: dict[str, Any], script: Script, code: str
) -> None:
    async with ollama() as backend, hermes(backend, scheduling=OFTEN, limits={"max_attempts": 2}) as gateway:
        free = await busy(gateway, backend)
        call = await waiting(gateway, path, body)
        backend.default = script
        free.set()
        assert error_at_the_end(call, await rest(call))["code"] == code
        record = await gateway.record(1)
        assert (record.code, record.status) == (code, 200)
        assert record.attempts == (1 if code == "context_length_exceeded" else 2)


@pytest.mark.parametrize(("path", "body"), STREAMS)
@scenario
async def test_another_backend_still_takes_over_before_the_first_content(path: str, body: dict[str, Any]) -> None:
    async with ollama() as one, ollama() as two, hermes(one, two, scheduling=OFTEN) as gateway:
        frees = {backend: await busy(gateway, backend) for backend in (one, two)}
        call = await waiting(gateway, path, body)

        async def fails_as_the_other_comes_free(asked: Asked) -> None:
            frees[two].set()
            await fail(500, "out of memory")(asked)

        one.default = fails_as_the_other_comes_free
        frees[one].set()
        content = await rest(call)
        assert call.whole and b"Hel" in content and b"error" not in content.replace(b'"error":null', b"")
        record = await gateway.record(2)
        assert (record.outcome, record.attempts) == ("ok", 2)
        assert [len(backend.asked) for backend in (one, two)] == [2, 2]


@scenario
async def test_after_the_first_content_there_is_no_other_backend() -> None:
    async with ollama() as one, ollama() as two, hermes(one, two, scheduling=OFTEN) as gateway:
        frees = {backend: await busy(gateway, backend) for backend in (one, two)}
        call = await waiting(gateway, CHAT, chat(stream=True))
        one.default = play("Hel", then=Then.CUT)
        frees[one].set()
        content = await rest(call)
        frees[two].set()
        assert b"Hel" in content and b"[DONE]" not in content and not call.whole
        assert list(parse_events(content))[-1]["error"]["code"] == "backend_error"
        assert len(two.asked) == 1


@pytest.mark.parametrize(("path", "body"), STREAMS)
@scenario
async def test_who_waits_when_the_server_stops_is_told_in_its_stream(path: str, body: dict[str, Any]) -> None:
    async with ollama() as backend, hermes(backend, scheduling=OFTEN) as gateway:
        free = await busy(gateway, backend)
        call = await waiting(gateway, path, body)
        gateway.runtime.admission.close()
        assert error_at_the_end(call, await rest(call))["code"] == "draining"
        free.set()


@pytest.mark.parametrize(("path", "body"), STREAMS)
@scenario
async def test_a_client_that_leaves_between_two_of_them_frees_its_place_at_once(
    path: str, body: dict[str, Any]
) -> None:
    async with ollama() as backend, hermes(backend, scheduling={"queue_heartbeat_s": 0.1}) as gateway:
        free = await busy(gateway, backend)
        call = await waiting(gateway, path, body)
        call.leave()
        async with asyncio.timeout(0.08):
            await gateway.until_waiting(0)
        record = await gateway.record()
        assert (record.outcome, record.status, record.attempts) == ("client_gone", 200, 0)
        free.set()
        assert (await gateway.ask(PROMPT, prompt())).status == 200
        assert len(backend.asked) == 2


@scenario
async def test_a_client_of_http_1_0_cannot_take_the_end_of_a_failed_wait_for_a_whole_answer() -> None:
    async with ollama() as backend, hermes(backend, scheduling=OFTEN) as gateway:
        free = await busy(gateway, backend)
        peer = await gateway.connect()
        asked = request_bytes("POST", CHAT, chat(stream=True), {"x-hermes-deadline-ms": "300"})
        await peer.send(asked.replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert b"transfer-encoding" not in await peer.until(b"\r\n\r\n")
        await peer.until(b": queued position=1 ")
        await peer.until(b'"queue_timeout"')
        with pytest.raises(ConnectionResetError):
            await peer.rest()
        free.set()


@scenario
async def test_a_client_that_reads_late_has_its_whole_answer() -> None:
    async with ollama() as backend, hermes(backend, scheduling={"queue_heartbeat_s": 0.01}) as gateway:
        free = await busy(gateway, backend)
        call = await gateway.open(CHAT, chat(stream=True))
        await gateway.until_waiting(1)
        asyncio.get_running_loop().call_later(0.3, free.set)
        assert (await gateway.record(1)).outcome == "ok"
        reply = await call.reply()
        assert reply.whole and reply.body.count(b": queued") > 5 and reply.events[-1] == "[DONE]"


@scenario
async def test_many_that_wait_and_leave_leave_nothing_behind() -> None:
    """I2, I3, I9: leaving the block checks the books, and that no task is left."""
    async with ollama() as backend, hermes(backend, scheduling={"queue_heartbeat_s": 0.002}) as gateway:
        backend.default = play("Hel", DONE)
        calls = []
        for number in range(60):
            path, body = STREAMS[number % 2]
            calls.append(await gateway.open(path, body))
            for _ in range(number % 5):
                await asyncio.sleep(0)
            if number % 3 == 0:
                calls.pop().leave()
        for call in calls:
            assert (await call.reply()).whole
        await gateway.settle()
        assert len(gateway.records) == 60
