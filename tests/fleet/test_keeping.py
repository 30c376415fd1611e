"""How long a model stays is Hermes's to say: while it lives it renews what it uses; when it is gone the models go."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from hermes.policy.load_options import KEEP_ALIVE_S
from hermes.policy.ticket import Load, Unload
from tests.fakes.backend import Asked, FakeOllama, Script, answer, fail, loaded, ollama, play
from tests.fakes.gateway import PROMPT, Hermes, hermes, prompt, scenario
from tests.support import until


async def look(gateway: Hermes) -> None:
    """Look, and have done what follows from it."""
    backend, clock = gateway.runtime.fleet.backends["b0"], asyncio.get_running_loop().time
    began = clock()
    await until(lambda: clock() > began)  # it has a grain
    await backend.look(20.0)
    await until(lambda: gateway.runtime.fleet.orders["b0"].idle)


def expire(backend: FakeOllama, seconds: float, name: str = "gemma:latest") -> None:
    """The model goes in so many seconds, by the backend's clock."""
    at = datetime.now(UTC) + timedelta(seconds=seconds)
    backend.loaded = [{**loaded(name), "expires_at": at.isoformat()}]


def renewals(backend: FakeOllama) -> list[Any]:
    return [asked.body["keep_alive"] for asked in backend.managed if asked.path == "/api/generate"]


@pytest.mark.parametrize("streams", [True, False])
@scenario
async def test_every_request_says_how_long_its_model_stays(streams: bool) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        await gateway.ask(PROMPT, prompt(stream=streams))
        assert backend.asked[0].body["keep_alive"] == KEEP_ALIVE_S


@scenario
async def test_a_load_says_how_long_its_model_stays() -> None:
    async with ollama() as backend:
        backend.loaded = []
        async with hermes(backend) as gateway:
            await gateway.ask(PROMPT, prompt())
            assert renewals(backend) == [KEEP_ALIVE_S]


@scenario
async def test_a_model_that_we_use_is_renewed_before_it_expires() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        await gateway.ask(PROMPT, prompt())
        expire(backend, KEEP_ALIVE_S / 3 + 60)
        await look(gateway)
        assert renewals(backend) == []
        expire(backend, KEEP_ALIVE_S / 3 - 60)
        await look(gateway)
        assert renewals(backend) == [KEEP_ALIVE_S]


@scenario
async def test_a_model_that_we_have_loaded_is_renewed_though_nobody_has_used_it() -> None:
    async with ollama() as backend:
        backend.loaded = []
        async with hermes(backend) as gateway:
            gate = asyncio.Event()
            backend.management["/api/generate"] = play(gate, {"done": True, "done_reason": "load"})
            call = await gateway.open(PROMPT, prompt())
            await until(lambda: backend.orders == ["load gemma:latest"])
            call.leave()
            await gateway.until_waiting(0)
            gate.set()
            await until(lambda: gateway.runtime.fleet.orders["b0"].idle)
            expire(backend, 60)
            await look(gateway)
            assert renewals(backend) == [KEEP_ALIVE_S] * 2
            assert backend.asked == []


@scenario
async def test_a_model_that_others_have_loaded_and_we_have_not_used_is_left_to_them() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        expire(backend, 60)
        await look(gateway)
        assert renewals(backend) == []


@scenario
async def test_what_others_load_after_ours_was_gone_is_theirs() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        await gateway.ask(PROMPT, prompt())
        backend.loaded = []
        await look(gateway)
        expire(backend, 60)
        await look(gateway)
        assert renewals(backend) == []


@pytest.mark.parametrize(
    ("keep_alive", "said", "renewed"), [("10m", 600, []), (0, 0, []), (-1, -1, [-1])], ids=["10m", "0", "-1"]
)
@scenario
async def test_what_the_operator_says_holds(keep_alive: Any, said: float, renewed: list[float]) -> None:
    """For ever is for ever, though others may have said less; what is to go after ten idle minutes goes."""
    async with ollama() as backend, hermes(backend, models={"gemma": {"keep_alive": keep_alive}}) as gateway:
        await gateway.ask(PROMPT, prompt())
        assert backend.asked[0].body["keep_alive"] == said
        expire(backend, 60)
        await look(gateway)
        assert renewals(backend) == renewed


@scenario
async def test_a_load_of_a_model_that_is_to_go_at_once_is_no_unload() -> None:
    async with ollama() as backend:
        backend.loaded = []
        async with hermes(backend, models={"gemma": {"keep_alive": 0}}) as gateway:
            assert (await gateway.ask(PROMPT, prompt())).status == 200
            assert backend.orders == ["load gemma:latest"]


@scenario
async def test_a_busy_model_which_seems_to_expire_is_not_renewed_at_every_look() -> None:
    """Ollama says when it expires only when it falls idle."""
    async with ollama() as backend, hermes(backend) as gateway:
        await gateway.ask(PROMPT, prompt())
        for _ in range(3):
            expire(backend, -60)
            await look(gateway)
        assert renewals(backend) == [KEEP_ALIVE_S]


@scenario
async def test_a_model_that_may_have_gone_since_the_look_is_not_renewed() -> None:
    """That would load it."""
    async with ollama() as backend, hermes(backend) as gateway:
        await gateway.ask(PROMPT, prompt())
        expire(backend, 60)
        listed, tell = asyncio.Event(), asyncio.Event()

        async def late(asked: Asked) -> None:
            there = [dict(item) for item in backend.loaded]
            del backend.management["/api/ps"]
            listed.set()
            await tell.wait()
            await play({"models": there})(asked)

        backend.management["/api/ps"] = late
        seen = gateway.runtime.fleet.backends["b0"]
        seen.suspect()
        await listed.wait()
        gateway.runtime.fleet.order(Unload("b0", "gemma:latest"))
        await until(lambda: gateway.runtime.fleet.orders["b0"].idle and not backend.loaded)
        tell.set()
        await look(gateway)
        assert backend.orders == ["unload gemma:latest"]


@scenario
async def test_the_backends_clock_may_be_wrong() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        await gateway.ask(PROMPT, prompt())
        there = datetime.now(UTC) + timedelta(days=1)

        def says(seconds: float) -> Script:
            model = {**loaded("gemma:latest"), "expires_at": (there + timedelta(seconds=seconds)).isoformat()}
            clock = f"date: {format_datetime(there, usegmt=True)}\r\n".encode()
            return answer_at(clock, model)

        backend.management["/api/ps"] = says(KEEP_ALIVE_S)
        await look(gateway)
        assert renewals(backend) == []
        backend.management["/api/ps"] = says(60)
        await look(gateway)
        assert renewals(backend) == [KEEP_ALIVE_S]


def answer_at(date: bytes, model: dict[str, Any]) -> Script:
    """The answer of /api/ps, with a Date of its own: it comes after the server's, and the last counts."""
    return answer(200, json.dumps({"models": [model]}).encode(), headers=date)


@pytest.mark.parametrize("said", ["", "soon", "2026-11-20T10:00:00"])
@scenario
async def test_a_model_of_which_nobody_says_when_it_expires_is_let_be(said: str) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        await gateway.ask(PROMPT, prompt())
        backend.loaded = [{**loaded("gemma:latest"), "expires_at": said}]
        await look(gateway)
        assert renewals(backend) == []


@scenario
async def test_a_renewal_that_fails_is_no_failed_load() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        await gateway.ask(PROMPT, prompt())
        backend.management["/api/generate"] = fail(500, "no")
        expire(backend, 60)
        await look(gateway)
        assert len(renewals(backend)) == 1
        assert (await gateway.ask(PROMPT, prompt())).status == 200


@scenario
async def test_the_next_load_waits_until_what_had_to_go_is_gone() -> None:
    """Ollama says that it unloads before it has; meanwhile a load may make another model go as well."""
    async with ollama("a:latest", "b:latest") as backend, hermes(backend) as gateway:
        backend.management["/api/generate"] = play({"done": True, "done_reason": "unload"})
        orders = gateway.runtime.fleet
        orders.order(Unload("b0", "a:latest"))
        orders.order(Load("b0", "b:latest"))
        looks = len([asked for asked in backend.managed if asked.path == "/api/ps"])
        await until(lambda: len([asked for asked in backend.managed if asked.path == "/api/ps"]) > looks + 2)
        assert backend.orders == ["unload a:latest"]
        backend.management.clear()
        backend.loaded = []
        await until(lambda: backend.orders == ["unload a:latest", "load b:latest"])
