"""Sending: open and closed loops against servers that stall, hang, fail and break off."""

import asyncio
import time
from collections.abc import Callable, Iterator
from itertools import count, islice
from random import Random
from typing import Any

import pytest

from hermes.http.origin import Origin
from hermes.http.request import Request as Heard
from hermes.http.response import Response
from hermes.load import arrivals, run
from hermes.load.figures import Figures
from hermes.load.job import Job, carry_out
from hermes.load.plan import Asked
from hermes.load.run import Request, now
from hermes.load.table import summary
from tests.fakes.gateway import scenario
from tests.http.peers import Handler, background, serving
from tests.load.test_reading import STREAMS
from tests.support import until

STALL_S, RATE, LASTS_S = 0.15, 400.0, 0.45


def asked(times: Iterator[float] | None = None, **more: Any) -> Iterator[Asked]:
    for number in count():
        yield Asked(number, next(times) if times else None, "gemma", 10, 10, **more)


def job(port: int, plan: Iterator[Asked], **more: Any) -> Job:
    settings = {"connections": None, "duration_s": None, "requests": None, "warmup_s": 0.0, "think_s": 0.0}
    settings |= {"timeout_s": 5.0, "slo": {}, "tenants": ["ann", "ben"], "setting": {}} | more
    settings["is_closed"] = settings["setting"].get("arrivals") == "closed"
    streams = settings.pop("streams", False)
    read = settings.pop("read", False)
    render: Callable[[Asked], Request] = lambda one: Request("POST", "/", b"{}", streams=streams, read=read)  # noqa: E731
    return Job(Origin.parse(f"http://127.0.0.1:{port}"), render, plan, **settings)


async def found(handler: Handler, plan: Iterator[Asked], **more: Any) -> Figures:
    async with serving(handler) as served:
        return await carry_out(job(served.port, plan, **more))


async def at_once(request: Heard, response: Response) -> None:
    response.send(200, b"", b"ok")


class Stalling:
    """Answers at once, but for one stall in which it does nothing."""

    def __init__(self) -> None:
        self.stalls_at = now() + 0.1

    async def __call__(self, request: Heard, response: Response) -> None:
        left_s = self.stalls_at + STALL_S - now()
        if 0 < left_s <= STALL_S:
            await asyncio.sleep(left_s)
        response.send(200, b"", b"ok")


def slower_than(figures: Figures, time_s: float, corrected: bool = False) -> float:
    """How many requests took longer."""
    spread = figures.all.corrected if corrected else figures.all.times["e2e"]
    assert spread is not None
    return spread.count * (1 - max((share for at_s, share in spread.curve if at_s <= time_s), default=0.0))


# --- the stall -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("connections", [None, 1])
@scenario
async def test_an_open_loop_shows_a_stall_as_all_who_were_due_in_it_saw_it(connections: int | None) -> None:
    """No coordinated omission: with one connection nothing could be sent meanwhile, and yet it was waited for."""
    plan = asked(arrivals.constant(RATE))
    figures = await found(Stalling(), plan, connections=connections, duration_s=LASTS_S)
    assert figures.all.answered == pytest.approx(RATE * LASTS_S, abs=2)
    assert figures.all.times["e2e"].most >= 0.9 * STALL_S
    for waited_s in (0.2 * STALL_S, 0.5 * STALL_S, 0.8 * STALL_S):
        assert slower_than(figures, waited_s) >= 0.9 * RATE * (STALL_S - waited_s)


@scenario
async def test_a_closed_loop_says_what_its_few_connections_saw_and_corrected_what_others_would_have() -> None:
    figures = await found(
        Stalling(), asked(), connections=2, duration_s=LASTS_S, think_s=0.001, setting={"arrivals": "closed"}
    )
    seen, corrected = (slower_than(figures, 0.5 * STALL_S, is_corrected) for is_corrected in (False, True))
    interval_s = 2 * LASTS_S / figures.all.answered
    assert seen >= 1.5
    assert corrected >= seen + 0.5 * 2 * (0.5 * STALL_S / interval_s)


# --- loops ------------------------------------------------------------------------------------------------------------


@scenario
async def test_a_closed_loop_never_has_more_under_way_than_connections() -> None:
    under_way, most = 0, 0

    async def handle(request: Heard, response: Response) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.002)
        under_way -= 1
        response.send(200, b"", b"ok")

    figures = await found(handle, islice(asked(), 40), connections=4, setting={"arrivals": "closed"})
    assert (figures.all.asked, figures.all.answered, most) == (40, 40, 4)
    assert figures.all.answers_per_s == pytest.approx(40 / figures.window_s)


@scenario
async def test_a_connection_asks_again_after_a_pause_for_thought() -> None:
    thought = Random(0)
    pauses_s = sum(thought.expovariate(1 / 0.01) for _ in range(5))
    figures = await found(at_once, islice(asked(), 6), connections=1, think_s=0.01, setting={"arrivals": "closed"})
    assert figures.all.answered == 6 and figures.window_s >= pauses_s - 0.005


@scenario
async def test_an_open_loop_sends_though_nothing_is_answered() -> None:
    async with serving(never) as served:
        plan = islice(asked(arrivals.constant(1000)), 50)
        async with background(carry_out(job(served.port, plan))) as running:
            await until(lambda: len(served.app.requests) == 50, "it waits for answers")
            running.cancel()
            figures = await running
    assert (figures.all.left, figures.all.errors) == (50, {})
    assert figures.setting["interrupted"]


@scenario
async def test_a_rate_that_nobody_can_send_ends_in_time_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_GRACE_S", 0.05)
    began_at = now()
    figures = await found(at_once, asked(arrivals.constant(1e6)), duration_s=0.1)
    assert figures.all.answered > 0 and now() - began_at < 5.0
    assert any("was never sent" in warning for warning in figures.warnings)


@scenario
async def test_a_rate_that_nobody_can_send_holds_no_more_in_memory_than_can_be_under_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """I4."""
    monkeypatch.setattr(run, "_MANY", 20)
    drawn: list[Asked] = []

    def plan() -> Iterator[Asked]:
        for one in asked(arrivals.constant(1e6)):
            drawn.append(one)
            yield one

    async with serving(never) as served, background(carry_out(job(served.port, plan(), duration_s=5.0))) as running:
        await until(lambda: len(served.app.requests) == 20, "not as many as there is room for are sent")
        running.cancel()
        figures = await running
    assert (figures.all.left, len(drawn)) == (20, 21)


@pytest.mark.parametrize("connections", [None, 2])
@scenario
async def test_a_plan_that_ends_before_its_time_is_measured_until_its_last_answer(connections: int | None) -> None:
    plan = islice(asked(arrivals.constant(1000)), 20)
    figures = await found(at_once, plan, connections=connections, duration_s=60.0)
    assert figures.all.answered == 20 and figures.window_s < 5.0


@scenario
async def test_what_was_due_in_the_warm_up_is_not_counted() -> None:
    figures = await found(at_once, asked(arrivals.constant(200)), warmup_s=0.1, duration_s=0.1)
    assert figures.all.asked == pytest.approx(20, abs=1)
    assert sum(moment.due for moment in figures.moments) == pytest.approx(40, abs=1)


# --- what goes wrong --------------------------------------------------------------------------------------------------


async def never(request: Heard, response: Response) -> None:
    await asyncio.Event().wait()


async def full(request: Heard, response: Response) -> None:
    response.send(429, b"", b'{"error": {"message": "full", "type": "t", "code": "queue_full"}}')


async def nonsense(request: Heard, response: Response) -> None:
    response.send(200, b"", b"<html>")


async def deep(request: Heard, response: Response) -> None:
    response.send(200, b"", b'{"choices":' + b"[" * 100_000 + b"\n")


def stream(data: bytes, ending: Callable[[Response], object]) -> Handler:
    async def handle(request: Heard, response: Response) -> None:
        response.start(200, b"")
        response.write(data)
        ending(response)

    return handle


CUT = STREAMS["ollama"].splitlines(keepends=True)[0]
FAILED = b'{"error": {"message": "m", "type": "t", "code": "backend_error"}}\n'


@pytest.mark.parametrize(
    ("handler", "streams", "kind"),
    [
        (full, True, "429 queue_full"),
        (nonsense, False, "not an answer"),
        (deep, True, "not an answer"),
        (stream(CUT, Response.end), True, "incomplete"),
        (stream(CUT, Response.break_off), True, "broken off"),
        (stream(CUT + FAILED, Response.break_off), True, "in the answer: backend_error"),
        (stream(FAILED, Response.end), True, "in the answer: backend_error"),
    ],
)
@scenario
async def test_what_fails_is_counted_by_kind_and_not_timed(handler: Handler, streams: bool, kind: str) -> None:
    figures = await found(handler, islice(asked(), 3), connections=1, streams=streams, read=True)
    assert figures.all.errors == {kind: 3}
    assert figures.all.times.keys() <= {"itl"}
    assert "nothing was answered" in figures.warnings


@pytest.mark.parametrize("lines", [b"retry-after: 1\r\nretry-after-ms: 60\r\n", b"retry-after: 9\r\n"])
@scenario
async def test_a_closed_loop_waits_as_it_is_told_and_an_open_one_does_not(lines: bytes) -> None:
    async def later(request: Heard, response: Response) -> None:
        response.send(503, lines, b"{}")

    figures = await found(later, asked(), connections=2, duration_s=0.1, setting={"arrivals": "closed"})
    turns = 2 if b"60" in lines else 1
    assert figures.all.errors == {"503": 2 * turns}
    assert figures.generator["refusals_heeded"] == 2 * turns
    assert figures.generator["heeded_s"] == pytest.approx(0.2, abs=0.04)
    assert "in all after" in "".join(summary(figures))
    figures = await found(later, islice(asked(arrivals.constant(200)), 10), connections=2)
    assert (figures.all.asked, figures.generator["refusals_heeded"]) == (10, 0) and figures.window_s < 1


@scenario
async def test_an_answer_that_does_not_come_in_time_counts_with_the_time_it_was_given() -> None:
    figures = await found(never, islice(asked(), 1), connections=1, timeout_s=0.01)
    assert figures.all.errors == {"timeout": 1}
    assert figures.all.times["e2e"].least >= 0.01
    assert any(warning.startswith("1 answers did not come in time") for warning in figures.warnings)


@scenario
async def test_a_server_that_is_not_there_is_unreachable() -> None:
    async with serving() as served:
        port = served.port
    figures = await carry_out(job(port, islice(asked(), 2), connections=1))
    assert figures.all.errors == {"unreachable": 2}


@scenario
async def test_clients_that_leave_are_seen_to_leave_and_are_no_failures() -> None:
    async with serving(never) as served:
        figures = await carry_out(job(served.port, islice(asked(leaves=0.02), 3)))
        await until(lambda: served.app.cancelled.is_set(), "nobody has left")
    assert (figures.all.left, figures.all.errors, figures.all.good_share) == (3, {}, 0.0)


# --- what is told -----------------------------------------------------------------------------------------------------


@scenario
async def test_a_streams_first_token_its_gaps_and_its_end_are_timed_apart() -> None:
    async def handle(request: Heard, response: Response) -> None:
        response.start(200, b"x-hermes-queue-ms: 40\r\n")
        for wait_s in (0.03, 0.01, 0.01):
            await asyncio.sleep(wait_s)
            response.write(b'{"response": "a", "done": false}\n')
        await asyncio.sleep(0.03)
        response.end(b'{"response": "", "done": true, "prompt_eval_count": 7, "eval_count": 3}\n')

    slo = {"ttft": 0.02}
    figures = await found(handle, islice(asked(), 4), connections=4, streams=True, read=True, slo=slo)
    times = figures.all.times
    assert times["ttft"].least >= 0.028 and times["e2e"].least >= 0.077
    assert (times["itl"].count, times["wait"].p50) == (8, pytest.approx(0.04, rel=0.01))
    assert times["itl"].least >= 0.008 and times["tpot"].mean == pytest.approx(times["itl"].mean)
    assert (figures.all.tokens_in, figures.all.tokens_out, figures.all.good) == (28, 12, 0)


@scenario
async def test_a_loop_that_was_held_up_is_told() -> None:
    async def handle(request: Heard, response: Response) -> None:
        time.sleep(0.03)  # noqa: ASYNC251  # in the very loop that sends
        response.send(200, b"", b"ok")

    generator = (await found(handle, islice(asked(), 3), connections=1)).generator
    assert generator["loop_lag_most"] >= 0.01
    assert 0 < generator["cpu"] <= generator["cpu_most"]


@scenario
async def test_tenants_and_classes_are_told_apart() -> None:
    async def plan_of_two() -> Figures:
        both = [Asked(n, None, "gemma", 1, 1, tenant=n % 2, urgency="batch" if n == 3 else "") for n in range(4)]
        return await found(at_once, iter(both), connections=1)

    by = (await plan_of_two()).by
    assert {kind: {name: group.asked for name, group in groups.items()} for kind, groups in by.items()} == {
        "tenant": {"ann": 2, "ben": 2},
        "class": {"": 3, "batch": 1},
    }
