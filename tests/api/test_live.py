"""What goes on, as it happens: one look for all who look on, what each may see, and nobody while nobody does."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from hermes.api import live
from hermes.api.models import Models
from hermes.api.queue import Queue
from tests.fakes.backend import loaded as resident
from tests.fakes.backend import model, ollama
from tests.fakes.gateway import PROMPT, Call, Hermes, bearer, hermes, hold_slot, key, prompt, scenario
from tests.fakes.owner import kept, made, shown
from tests.support import until

KEYS = [key("ann"), key("bob"), key("ops", admin=True), key("few", models=["qwen*"]), key("other")]
EVENTS = "/v1/events"


class Looking:
    """Somebody who looks on."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self._seen = b""

    async def event(self) -> tuple[str, Any]:
        """Name and data of the next; raises EOFError at the end."""
        while b"\n\n" not in self._seen:
            piece = await self.call.piece()
            if not piece:
                raise EOFError
            self._seen += piece
        event, _, self._seen = self._seen.partition(b"\n\n")
        name, data = event.split(b"\n")
        return name.removeprefix(b"event: ").decode(), json.loads(data.removeprefix(b"data: "))

    async def next(self, wanted: str) -> Any:
        while (event := await self.event())[0] != wanted:
            pass
        return event[1]


@asynccontextmanager
async def looking(gateway: Hermes, user: str = "", **headers: str) -> AsyncIterator[Looking]:
    call = await gateway.open(EVENTS, headers={**(bearer(user) if user else {}), **headers})
    assert await call.head() == 200
    yield Looking(call)
    call.peer.close()


def live_of(gateway: Hermes) -> live.Live:
    return gateway.runtime.front.live


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "EVERY_S", 0.02)
    monkeypatch.setattr(live, "GATHER_S", 0.005)


# --- what is told -----------------------------------------------------------------------------------------------------


@scenario
async def test_the_state_comes_at_once_and_again_and_again() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        calls = [await hold_slot(gateway, backend)]
        for number in range(2):
            calls.append(await gateway.open(PROMPT, prompt()))
            await gateway.until_waiting(number + 1)
        async with looking(gateway) as look:
            name, state = await look.event()
            assert name == "state"
            (line,) = state["queue"]["lines"]
            assert (line["model"], line["class"], line["running"], line["waiting"]) == ("gemma:latest", "normal", 1, 2)
            assert 0 < line["next_eta_ms"] <= line["eta_ms"]
            listed = (await gateway.ask("/v1/queue")).json["data"]
            assert [each["request_id"] for each in state["queue"]["requests"]] == [
                each["request_id"] for each in listed
            ]
            status = (await gateway.ask("/v1/status")).json
            assert state.keys() == {*status, "at", "you", "queue", "rates"}
            assert state["backends"] == status["backends"] and state["models"] == status["models"]
            calls.pop().leave()
            while state["queue"]["lines"][0]["waiting"] == 2:
                state = await look.next("state")
        for call in calls:
            call.leave()


@scenario
async def test_a_request_is_told_when_it_ends_as_the_log_has_it() -> None:
    async with ollama() as backend, hermes(backend) as gateway, looking(gateway) as look:
        await look.next("state")
        await gateway.ask(PROMPT, prompt(), {"x-request-id": "x"})
        told = await look.next("request")
        assert told["request_id"] == "x" and told["outcome"] == "ok" and told["model"] == "gemma:latest"
        state = await look.next("state")
        rates = state["rates"]
        assert rates["requests"] > 0 and rates["models"]["gemma:latest"]["tokens_out"] == rates["tokens_out"] > 0


@scenario
async def test_what_is_answered_is_a_stream_that_nobody_keeps() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        call = await gateway.open(EVENTS)
        head = (await call.peer.until(b"\r\n\r\n")).lower()
        assert b"content-type: text/event-stream; charset=utf-8\r\n" in head and b"cache-control: no-store\r\n" in head
        assert (await gateway.ask(EVENTS, method="HEAD")).status == 200


# --- who sees what ----------------------------------------------------------------------------------------------------


@scenario
async def test_everybody_sees_what_is_his_own_and_operators_see_all() -> None:
    """I21."""
    async with ollama() as backend, hermes(backend, keys=KEYS) as gateway:
        assert (await gateway.ask(EVENTS)).status == 401
        call = await hold_slot(gateway, backend, headers={**bearer("ann"), "x-request-id": "a"})
        async with looking(gateway, "ann") as ann, looking(gateway, "bob") as bob, looking(gateway, "ops") as ops:
            seen = [(await look.next("state")) for look in (ann, bob, ops)]
            assert [len(state["queue"]["requests"]) for state in seen] == [1, 0, 1]
            assert [len(state["queue"]["lines"]) for state in seen] == [1, 0, 1]
            assert ["rates" in state for state in seen] == [False, False, True]
            call.leave()
            await gateway.until_waiting(0)
            await gateway.ask(PROMPT, prompt(), {**bearer("bob"), "x-request-id": "b"})
            assert (await ann.next("request"))["request_id"] == "a"
            assert (await bob.next("request"))["request_id"] == "b"
            assert {(await ops.next("request"))["request_id"] for _ in range(2)} == {"a", "b"}
            await gateway.ask("/v1/models", headers={**bearer("ann"), "x-request-id": "m"})
            assert (await ops.next("request"))["request_id"] == "m"  # of no tenant's tokens: operators alone


@scenario
async def test_a_key_for_some_models_sees_no_other() -> None:
    async with ollama() as backend, hermes(backend, keys=KEYS) as gateway, looking(gateway, "few") as look:
        state = await look.next("state")
        assert "gemma" not in json.dumps(state) and state["backends"][0]["loaded"] == []


@scenario
async def test_what_a_key_may_see_is_found_out_once_as_long_as_nothing_comes_or_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """I36: it takes a look at each model."""
    found: list[str] = []
    served = Models.served

    def counted(self: Models, principal: Any) -> Any:
        found.append(principal.tenant)
        return served(self, principal)

    monkeypatch.setattr(Models, "served", counted)
    async with ollama() as backend, hermes(backend, keys=KEYS) as gateway:

        async def loaded() -> int:
            told = (await gateway.ask("/v1/status", headers=bearer("few"))).json
            return len(told["backends"][0]["loaded"])

        assert [await loaded(), await loaded(), len(found)] == [0, 0, 1]
        backend.models, backend.loaded = [model("qwen3:latest")], [resident("qwen3:latest")]
        await gateway.runtime.fleet.backends["b0"].look(20.0)
        assert [await loaded(), await loaded(), len(found)] == [1, 1, 2]


@scenario
async def test_who_is_of_one_sight_shares_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many look on: one look for each sight in each second."""
    looks: list[str] = []
    whole = Queue.told

    def told(self: Queue, principal: Any, most: int) -> Any:
        looks.append(principal.tenant)
        return whole(self, principal, most)

    monkeypatch.setattr(Queue, "told", told)
    monkeypatch.setattr(live, "EVERY_S", 60.0)
    async with (
        ollama() as backend,
        hermes(backend, keys=KEYS) as gateway,
        looking(gateway, "ops") as first,
        looking(gateway, "ops") as second,
        looking(gateway, "ann") as third,
    ):
        for look in (first, second, third):
            await look.next("state")
        assert len(looks) == 2
        for number in (3, 4):  # one at a time: others run in between (I36)
            live_of(gateway)._look()
            assert len(looks) == number
        assert set(looks[2:]) == {"ops", "ann"}


# --- how it ends ------------------------------------------------------------------------------------------------------


@scenario
async def test_nothing_is_done_while_nobody_looks_on() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        sinks = len(gateway.runtime.journal.sinks)
        async with looking(gateway) as look, looking(gateway) as another:
            await look.next("state")
            await another.next("state")
            assert len(gateway.runtime.journal.sinks) == sinks + 1 and live_of(gateway)._timer is not None
            await gateway.ask(PROMPT, prompt())
        await until(lambda: len(gateway.runtime.journal.sinks) == sinks)
        told = live_of(gateway)
        assert (told._timer, told._gathering, told._states, told._ended) == (None, None, {}, [])


@scenario
async def test_a_key_that_is_revoked_sees_nothing_more(tmp_path: Path) -> None:
    """I17: all are sent to come again, and one is not let in."""
    async with ollama() as backend, hermes(backend, **kept(tmp_path)) as gateway:
        _, ops = await made(tmp_path, "ops", admin=True)
        named, secret = await made(tmp_path)
        async with looking(gateway, **shown(secret)) as look, looking(gateway, **shown(ops)) as other:
            await look.next("state")
            await gateway.runtime.keyring.revoke(named, {}, replace(gateway.runtime.people.anonymous))
            for each in (look, other):
                with pytest.raises(EOFError):
                    while True:
                        await each.event()
                assert each.call.whole
        assert (await gateway.ask(EVENTS, headers=shown(secret))).status == 401


@scenario
async def test_a_key_that_expires_sees_nothing_more() -> None:
    keys = [*KEYS, key("late", expires="2099-01-01")]
    async with (
        ollama() as backend,
        hermes(backend, keys=keys) as gateway,
        looking(gateway, "late") as look,
        looking(gateway, "ann") as other,
    ):
        await look.next("state")
        live_of(gateway)._unix = lambda: 4.1e9
        with pytest.raises(EOFError):
            while True:
                await look.event()
        await other.next("state")


@scenario
async def test_at_the_end_all_are_let_go_at_once() -> None:
    """I33: no drain waits for who only looks on."""
    async with ollama() as backend, hermes(backend) as gateway, looking(gateway) as look:
        await look.next("state")
        draining = asyncio.get_running_loop().create_task(gateway.runtime.drain(asyncio.Event()))
        with pytest.raises(EOFError):
            while True:
                await look.event()
        assert look.call.whole
        look.call.peer.close()
        assert await draining


@scenario
async def test_only_so_many_may_look_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """I4."""
    monkeypatch.setattr(live, "LISTENERS", 1)
    async with ollama() as backend, hermes(backend) as gateway:
        async with looking(gateway) as look:
            await look.next("state")
            refused = await gateway.ask(EVENTS)
            assert (refused.status, refused.error["code"]) == (503, "overloaded")
        await until(lambda: not live_of(gateway)._listeners)
        async with looking(gateway) as look:
            await look.next("state")


@scenario
async def test_nobody_keeps_others_from_looking_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """I4: one key has so many places, and some are left to operators."""
    monkeypatch.setattr(live, "LISTENERS", 4)
    monkeypatch.setattr(live, "OF_ONE_KEY", 1)
    async with ollama() as backend, hermes(backend, keys=KEYS) as gateway, looking(gateway, "ann") as look:
        await look.next("state")
        assert (await gateway.ask(EVENTS, headers=bearer("ann"))).status == 503
        async with looking(gateway, "bob"), looking(gateway, "few"):
            assert len(live_of(gateway)._listeners) == 3
            assert (await gateway.ask(EVENTS, headers=bearer("other"))).status == 503
            async with looking(gateway, "ops") as ops:
                await ops.next("state")
                assert (await gateway.ask(EVENTS, headers=bearer("ops"))).status == 503


@scenario
async def test_who_reads_slowly_misses_some_and_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """I4, I13: nothing is kept for him, and nobody else waits."""
    async with ollama() as backend, hermes(backend) as gateway, looking(gateway) as slow, looking(gateway) as look:
        (listener, *_) = live_of(gateway)._listeners
        await slow.next("state")
        monkeypatch.setattr(type(listener.response), "paused", property(lambda self: self is listener.response))
        for _ in range(3):
            await gateway.ask(PROMPT, prompt())
            await look.next("request")
        monkeypatch.undo()
        await gateway.ask(PROMPT, prompt(), {"x-request-id": "last"})
        assert (await slow.next("request"))["request_id"] == "last"
        assert await slow.next("missed") == {"requests": 3}


@scenario
async def test_of_very_many_at_once_some_are_only_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """I36."""
    monkeypatch.setattr(live, "GATHERED", 2)
    monkeypatch.setattr(live, "GATHER_S", 60.0)
    async with ollama() as backend, hermes(backend) as gateway, looking(gateway) as look:
        await look.next("state")
        for _ in range(5):
            await gateway.ask(PROMPT, prompt())
        live_of(gateway)._pass_on()
        told = [await look.next("request") for _ in range(2)]
        assert len(told) == 2 and await look.next("missed") == {"requests": 3}


@scenario
async def test_everybody_is_told_how_many_of_his_own_were_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """I21: and of no others."""
    monkeypatch.setattr(live, "GATHERED", 1)
    monkeypatch.setattr(live, "GATHER_S", 60.0)
    async with (
        ollama() as backend,
        hermes(backend, keys=KEYS) as gateway,
        looking(gateway, "ann") as ann,
        looking(gateway, "bob") as bob,
        looking(gateway, "ops") as ops,
    ):
        for user in ("ann", "ann", "bob"):
            await gateway.ask(PROMPT, prompt(), bearer(user))
        live_of(gateway)._pass_on()
        assert (await ann.next("request"))["user"] == "ann"
        assert [await look.next("missed") for look in (ann, bob, ops)] == [{"requests": missed} for missed in (1, 1, 2)]


@scenario
async def test_strangers_take_no_place_of_those_who_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "GATHERED", 1)
    monkeypatch.setattr(live, "OF_STRANGERS", 2)
    monkeypatch.setattr(live, "GATHER_S", 60.0)
    async with (
        ollama() as backend,
        hermes(backend, keys=KEYS) as gateway,
        looking(gateway, "ann") as ann,
        looking(gateway, "ops") as ops,
    ):
        for _ in range(5):
            assert (await gateway.ask(PROMPT, prompt())).status == 401
        await gateway.ask(PROMPT, prompt(), {**bearer("ann"), "x-request-id": "a"})
        live_of(gateway)._pass_on()
        assert (await ann.next("request"))["request_id"] == "a"
        assert [(await ops.next("request"))["status"] for _ in range(3)] == [401, 401, 200]
        assert await ops.next("missed") == {"requests": 3}


@scenario
async def test_what_nobody_heard_is_not_told_to_who_comes_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "GATHERED", 0)
    monkeypatch.setattr(live, "GATHER_S", 60.0)
    async with ollama() as backend, hermes(backend) as gateway:
        async with looking(gateway) as look:
            await look.next("state")
            await gateway.ask(PROMPT, prompt())
            assert live_of(gateway)._unheard
        await until(lambda: not live_of(gateway)._listeners)
        assert not live_of(gateway)._unheard
