"""How far a shared run may be ahead of its readers, and what is kept of it."""

import asyncio

import pytest

from hermes.chat import Answer, ChatRequest, Stop, TextDelta, Usage
from hermes.dialects import Meta
from hermes.dialects.openai import OpenAI
from hermes.errors import BackendTimeout
from hermes.exchange import Exchange
from hermes.flights.flight import MAX_BYTES, WINDOW_BYTES, Flight
from hermes.flights.recorder import Recorder
from hermes.http.request import NO_HEAD
from hermes.http.response import Response
from tests.fakes.gateway import scenario


def exchange(name: str = "") -> Exchange:
    return Exchange(name, "POST", 0.0, 0.0)


def flight() -> Flight:
    return Flight(exchange(), asyncio.get_running_loop())


def paused(run: Flight) -> bool:
    return run.resumed is not None


@scenario
async def test_a_run_goes_at_the_pace_of_the_fastest_reader() -> None:
    """I13"""
    run = flight()
    slow, fast = exchange("slow"), exchange("fast")
    run.join(slow)
    place = run.join(fast)
    run.say("x" * WINDOW_BYTES)
    assert paused(run)  # nobody has read anything
    waiting = run.resumed
    assert len(run.read(place)) == 1 and paused(run)  # it has not gone out yet
    run.has_read(place)
    assert not paused(run) and waiting is not None and waiting.done()
    run.say("y")
    assert not paused(run)  # the slow one holds nobody up
    run.say("x" * WINDOW_BYTES)
    assert paused(run)
    run.leave(fast)
    assert paused(run)  # now the slow one is the fastest


@scenario
async def test_what_is_kept_of_a_run_is_bounded_and_who_needs_more_of_it_is_cut() -> None:
    """I13"""
    run = flight()
    slow, fast = run.join(exchange()), run.join(exchange())
    for number in range(3 * MAX_BYTES // 10_000):
        run.say(f"{number:10000}")
        assert run._kept_bytes <= MAX_BYTES
        assert [int(str(piece)) for piece in run.read(fast)] == [number]
        run.has_read(fast)
    assert not run.can_be_joined
    with pytest.raises(BackendTimeout, match="reads too slowly"):
        run.read(slow)
    Response(run, NO_HEAD).send(200, b"", b"")
    assert run.ended and run.answer is None  # not to be given to anybody again


@scenario
async def test_what_a_run_has_said_adds_up_to_its_answer() -> None:
    run = flight()
    run.say([TextDelta("Hel")])
    run.say("lo")
    run.say([Usage(1, 2), Stop("stop")])
    assert not run.over
    Response(run, NO_HEAD).send(200, b"", b"")
    assert run.over and run.answer == Answer("Hello", "", (), Usage(1, 2), "stop")


@scenario
async def test_a_run_that_was_broken_off_has_no_answer() -> None:
    """I15"""
    run = flight()
    run.say([TextDelta("Hel"), Stop("stop")])
    run.fail(BackendTimeout("too late"))
    Response(run, NO_HEAD).send(200, b"", b"")
    assert not run.ended and run.answer is None and isinstance(run.error, BackendTimeout)


@scenario
async def test_what_comes_before_any_content_is_said_with_it_so_that_another_attempt_says_it_once() -> None:
    """I5: until then the gateway may try again, and nothing has gone out."""
    recorder, run = Recorder(OpenAI()), flight()
    recorder.runs["r"] = run
    asked, meta = ChatRequest("gemma", ()), Meta("r", "gemma", 0)
    reader = run.join(exchange())
    failed, pen = recorder.encoder(asked, meta), recorder.encoder(asked, meta)
    assert failed.encode([Usage(1)]) == b"" == pen.encode([Usage(2)])
    assert run.read(reader) == []
    assert pen.encode([TextDelta("Hi")]) and pen.encode([]) and pen.text("!")
    assert run.read(reader) == [[Usage(2), TextDelta("Hi")], "!"]
