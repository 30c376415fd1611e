"""The new process dies or hangs in the middle, and nobody notices (`handover`)."""

import asyncio
import contextlib
import inspect
import os
import socket
import subprocess
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from hermes.errors import RestartFailed
from hermes.fleet.backend import PROBE_TIMEOUT_S
from hermes.handover import leaving
from hermes.handover.channel import (
    Admitted,
    Channel,
    Charged,
    Greeting,
    Message,
    Offered,
    Ready,
    Refused,
    Revoked,
    State,
    Taken,
    Yours,
)
from hermes.handover.elsewhere import Elsewhere
from hermes.handover.reserved import Taken as TakenLimits
from hermes.handover.succession import Succession
from hermes.policy.limiter import Modes
from hermes.policy.limits import Moment
from hermes.policy.scheduler import Scheduler
from hermes.policy.ticket import Decision
from tests.fakes.backend import DONE, ollama, play
from tests.fakes.gateway import CHAT, PROMPT, Hermes, bearer, chat, hermes, key, prompt, scenario
from tests.support import until


def test_nothing_is_decided_by_the_scheduler_that_was_handed_over() -> None:
    """I1: there is one scheduler. An event that it gets one day has to be another one's, too."""
    methods = {name: method for name, method in vars(Scheduler).items() if inspect.isfunction(method)}
    deciding = {name for name, method in methods.items() if method.__annotations__["return"] == list[Decision]}
    events = {name for name in deciding if not name.startswith("_")}
    assert {"offer", "finish", "observe"} <= events
    assert events - vars(Elsewhere).keys() == set()


class NewProcess:
    """Stands in for it: says what the test says, and dies when that wants it. While it takes over it is a thread, since
    the old one stands still.
    """

    pid = 4711
    stays = False  # though it has broken off
    said = 0

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.heard: list[Message] = []
        self.channel: Channel
        self.end: socket.socket | None = None
        self.killed = False
        monkeypatch.setattr(leaving, "start", self._start)

    def _start(self, end: int, fds: object, said: object) -> "NewProcess":
        self.end = socket.socket(fileno=os.dup(end))
        self.channel = Channel(self.end)
        return self

    async def is_greeted(self) -> None:
        await until(lambda: self.end is not None)
        await self.channel.readable()
        assert isinstance(self.channel.receive(1.0), Greeting)

    async def takes(self) -> State:
        await self.is_greeted()
        state = await asyncio.to_thread(self.is_told, self.takes_it)
        self.channel.listen(self.heard.append)
        return state

    def takes_it(self) -> None:
        self.channel.send(Taken(), 1.0)
        assert isinstance(self.channel.receive(1.0), Yours)

    def is_told(self, then: Callable[[], object]) -> State:
        self.channel.send(Ready(), 1.0)
        state = self.channel.receive(1.0)
        assert isinstance(state, State)
        then()
        return state

    def talks(self) -> None:
        """Of what may come before its word that it has taken over, without an end."""
        with contextlib.suppress(OSError):
            while self.said < 100:
                self.channel.send(Revoked([]), 1.0)
                self.said += 1
                time.sleep(0.01)

    def dies(self) -> None:
        assert self.end is not None
        self.end.close()

    def errs(self) -> None:
        assert self.end is not None
        self.end.sendall(b"\0\0\0\1?")

    async def goes_on(self, gateway: Hermes) -> State:
        told = restart(gateway)
        state = await self.takes()
        assert await told == self.pid
        return state

    def wait(self, timeout: float) -> int:
        if self.stays:
            raise subprocess.TimeoutExpired("hermes", timeout)
        return -9

    def kill(self) -> None:
        self.stays, self.killed = False, True
        self.dies()


@scenario
async def test_one_that_breaks_off_and_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    new = NewProcess(monkeypatch)
    new.stays = True
    async with ollama() as backend, hermes(backend) as gateway:
        told = restart(gateway)
        await new.is_greeted()
        new.dies()
        with pytest.raises(RestartFailed, match="broken off"):
            await told
        assert new.killed
        assert (await gateway.ask(CHAT, chat())).status == 200


def restart(gateway: Hermes) -> "asyncio.Task[int]":
    return asyncio.get_running_loop().create_task(gateway.runtime.succession.restart())


@pytest.mark.parametrize(
    "how", ["dies before it is ready", "dies with all that it was passed", "hangs with it", "errs", "talks on"]
)
@scenario
async def test_one_that_fails_leaves_everything_as_it_was(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """I2, I6: what runs, waits, leaves and comes is as it is without it."""
    monkeypatch.setattr(leaving, "TAKE_S", 0.05)
    new = NewProcess(monkeypatch)
    keys = [key("ann", rpm=9), key("ben", rpm=9)]
    async with ollama() as backend, hermes(backend, keys=keys, models={"gemma": {"max_concurrency": 1}}) as gateway:
        free = asyncio.Event()
        backend.scripts.append(play("Hel", free, "lo", DONE))
        idle = await gateway.connect()
        assert (await gateway.ask("/health", on=idle)).status == 200
        runs = await gateway.open(CHAT, chat(stream=True), bearer("ann"))
        await runs.head()
        waits, leaves = [await gateway.open(CHAT, chat(), bearer("ben")) for _ in range(2)]
        await gateway.until_waiting(2)
        told = restart(gateway)
        await new.is_greeted()
        if how.startswith("dies before"):
            new.dies()
        else:
            then = {"dies with": new.dies, "hangs wit": lambda: None, "errs": new.errs, "talks on": new.talks}[how[:9]]
            state = await asyncio.to_thread(new.is_told, then)
            assert (len(state.running), len(state.waiting)) == (1, 2)
        with pytest.raises(RestartFailed, match="ended with -9" if "dies" in how else "not taken over|not understood"):
            await told
        assert new.killed == ("dies" not in how) and new.said < 100
        leaves.leave()
        await gateway.open(PROMPT, prompt("late"), bearer("ann"), on=idle)
        comes = await gateway.open(CHAT, chat("new"), bearer("ann"))
        free.set()
        assert (await runs.events())[-1] == "[DONE]"
        assert (await waits.reply()).status == 200
        answer = await idle_reply(idle)
        assert b"connection: close" not in answer and b'"Hello"' in answer
        assert (await comes.reply()).status == 200
        left = await gateway.ask(CHAT, chat(), bearer("ben"))
        assert left.headers["x-ratelimit-remaining-requests"] == "7", "who left before a run took nothing"
        assert (await gateway.ask(CHAT, chat(), bearer("ann"))).headers["x-ratelimit-remaining-requests"] == "5"


async def idle_reply(peer: object) -> bytes:
    head = await peer.until(b"\r\n\r\n")  # type: ignore[attr-defined]
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return bytes(head + await peer.exactly(length))  # type: ignore[attr-defined]


@scenario
async def test_who_waits_is_told_when_the_new_one_is_gone_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """I3: an answer for everybody."""
    new = NewProcess(monkeypatch)
    async with ollama() as backend, hermes(backend, models={"gemma": {"max_concurrency": 1}}) as gateway:
        free = asyncio.Event()
        backend.scripts.append(play("Hel", free, "lo", DONE))
        runs = await gateway.open(CHAT, chat(stream=True))
        await runs.head()
        first, second = [await gateway.open(CHAT, chat()) for _ in range(2)]
        await gateway.until_waiting(2)
        running = asyncio.get_running_loop().create_task(gateway.runtime.run(asyncio.Event(), asyncio.Event()))
        state = await new.goes_on(gateway)
        free.set()
        assert (await runs.events())[-1] == "[DONE]"
        runs.peer.close()
        id, ticket = state.waiting[0]
        new.channel.tell(Admitted(id, "b0", ticket.arrived_at, "hit", 0.0))
        answers = [await first.reply()]
        new.channel.close()
        answers.append(await second.reply())
        assert [answer.status for answer in answers] == [200, 503]
        assert [answer.headers["connection"] for answer in answers] == ["close", "close"]
        assert await running is True, "it is gone when its last connection is"
        assert not any(isinstance(each, Offered) for each in new.heard)


@scenario
async def test_one_that_cannot_even_be_started_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: object) -> None:
        raise FileNotFoundError("no such program")

    monkeypatch.setattr(leaving, "start", start)
    async with ollama() as backend, hermes(backend) as gateway:
        for _ in range(2):
            with pytest.raises(RestartFailed, match="no such program"):
                await gateway.runtime.succession.restart()
        assert (await gateway.ask(PROMPT, prompt())).status == 200


@scenario
async def test_who_asked_for_it_need_not_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    new = NewProcess(monkeypatch)
    async with ollama() as backend, hermes(backend) as gateway:
        told = restart(gateway)
        await new.is_greeted()
        told.cancel()
        await asyncio.to_thread(new.is_told, new.takes_it)
        await gateway.runtime.succession.gone.wait()
        assert gateway.runtime.succession.pid == new.pid
        new.dies()


@scenario
async def test_only_one_restart_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    new = NewProcess(monkeypatch)
    async with ollama() as backend, hermes(backend) as gateway:
        told = restart(gateway)
        await new.is_greeted()
        with pytest.raises(RestartFailed, match="under way"):
            await gateway.runtime.succession.restart()
        new.dies()
        with pytest.raises(RestartFailed):
            await told


@scenario
async def test_all_that_is_reserved_is_passed_on_and_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """I6: of who shares another's run, too, or what he has reserved would be so for ever."""
    new = NewProcess(monkeypatch)
    keys = [key("ann", rpm=9)]
    async with ollama() as backend, hermes(backend, keys=keys, defaults={"cache": True}) as gateway:
        free = asyncio.Event()
        backend.scripts.append(play(free, "Hello", DONE))
        calls = [await gateway.open(CHAT, chat(temperature=0), bearer("ann")) for _ in range(2)]
        await until(lambda: sum(len(flight.callers) for flight in gateway.runtime.runs.running) == 2)
        await new.goes_on(gateway)
        free.set()
        assert [(await call.reply()).status for call in calls] == [200, 200]
        await until(lambda: sum(isinstance(each, Charged) for each in new.heard) == 2)


@scenario
async def test_who_has_reserved_nothing_is_told_of_too_so_that_the_account_is_forgotten_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """I4: a cap for which others wait takes nothing, and its account is open as long as the request."""
    new = NewProcess(monkeypatch)
    keys = [key("ann", concurrency=1)]
    async with ollama() as backend, hermes(backend, keys=keys) as gateway:
        free = asyncio.Event()
        backend.scripts.append(play("Hel", free, "lo", DONE))
        runs = await gateway.open(CHAT, chat(stream=True), bearer("ann"))
        await runs.head()
        state = await new.goes_on(gateway)
        meter: Any = SimpleNamespace()
        taken = TakenLimits(meter, state.limits, Modes())
        accounts = meter.limiter._accounts.values()
        assert [account.open for account in accounts] == [1]
        free.set()
        assert (await runs.events())[-1] == "[DONE]"
        await until(lambda: any(isinstance(each, Charged) for each in new.heard))
        (charged,) = (each for each in new.heard if isinstance(each, Charged))
        taken.settle(charged.number, charged.tokens, Moment(0.0, 0.0))
        assert [account.open for account in accounts] == [0]


@scenario
async def test_what_has_moved_there_is_not_asked_for_again_from_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """I3: here nobody knows of other places, so that it would come back for ever."""
    new = NewProcess(monkeypatch)
    async with ollama() as backend, hermes(backend, models={"gemma": {"max_concurrency": 1}}) as gateway:
        free = asyncio.Event()
        backend.scripts.append(play("Hel", free, "lo", DONE))
        runs = await gateway.open(CHAT, chat(stream=True))
        await runs.head()
        waits = await gateway.open(CHAT, chat())
        await gateway.until_waiting(1)
        state = await new.goes_on(gateway)
        new.channel.tell(Refused(state.waiting[0][0], "moved", 1.0))
        refused = await waits.reply()
        assert (refused.status, refused.error["code"]) == (503, "no_backend")
        assert not any(isinstance(each, Offered) for each in new.heard)
        free.set()
        assert (await runs.events())[-1] == "[DONE]"


@scenario
async def test_nothing_is_handed_over_by_one_that_is_to_stop_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """I33: it drains what it has; the new one would go on, against what was asked."""
    new = NewProcess(monkeypatch)
    async with ollama() as backend, hermes(backend) as gateway:
        told = restart(gateway)
        await new.is_greeted()
        gateway.runtime.api.draining = True
        new.channel.send(Ready(), 1.0)
        with pytest.raises(RestartFailed, match="shutting down"):
            await told
        assert new.killed
        gateway.runtime.api.draining = False


class Looks:
    """A fleet, of which one look takes this long; and whoever is started after another."""

    is_alike = False

    def __init__(self, look_s: float) -> None:
        self._look_s = look_s
        self.did: list[str] = []

    async def refresh(self, timeout_s: float) -> None:
        self.did.append("looked" if timeout_s > self._look_s else "gave up")

    async def state(self) -> None:
        self.did.append("ready")

    async def recall(self) -> None:
        self.did.append("recalled")


@scenario
async def test_it_is_ready_when_every_look_is_over_and_knows_what_was_used_until_then() -> None:
    """I1: on a backend that was never seen nothing could be counted. I31: of a process of another version what is on
    the disk is all that is known.
    """
    looks: Any = Looks(PROBE_TIMEOUT_S)
    parts: Any = SimpleNamespace(fleet=looks)
    await Succession(parts, looks, str, asyncio.get_running_loop()).take_over(
        lambda: looks.did.append("keys"), looks.recall
    )
    assert looks.did == ["looked", "ready", "keys", "recalled"]


@scenario
async def test_the_first_process_of_a_container_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """All others end with it."""
    async with ollama() as backend, hermes(backend) as gateway:
        monkeypatch.setattr(os, "getpid", lambda: 1)
        with pytest.raises(RestartFailed, match="container"):
            await gateway.runtime.succession.restart()
