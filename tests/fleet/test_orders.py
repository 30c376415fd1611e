"""What the scheduler decides about a backend's memory is carried out in turn, and how it ended is told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from hermes import machine
from hermes.errors import BackendUnreachable, GatewayError, LoadNotBegun
from hermes.fleet import memory
from hermes.fleet.backend import Backend
from hermes.fleet.fleet import Fleet
from hermes.fleet.orders import MAX_ORDERS
from hermes.policy.ticket import BackendFacts, Load, Unload
from tests.fakes.backend import DONE, Asked, FakeOllama, Script, Step, Then, fail, loaded, ollama, play
from tests.fakes.gateway import PROMPT, hermes, prompt, scenario
from tests.support import run, until

LOADED: Step = {"model": "", "response": "", "done": True, "done_reason": "load"}


class Ear:
    """A listener that keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.errors: list[GatewayError] = []

    def observe(self, facts: BackendFacts) -> None:
        pass

    def loaded(self, backend: str, model: str) -> None:
        self.heard.append(f"loaded {model}")

    def load_failed(self, backend: str, model: str, error: GatewayError) -> None:
        self.heard.append(f"failed {model}")
        self.errors.append(error)


def cold(backend: FakeOllama) -> FakeOllama:
    """With nothing in its memory."""
    backend.loaded = []
    return backend


def in_turn(backend: FakeOllama, *scripts: Script) -> None:
    """Loads and unloads are answered by these, then as usual."""
    left = list(scripts)

    async def answer(asked: Asked) -> None:
        await (left.pop(0) if left else backend._manage)(asked)

    backend.management["/api/generate"] = answer


@asynccontextmanager
async def working(backend: FakeOllama, *names: str) -> AsyncIterator[tuple[Fleet, Ear]]:
    """A fleet of one backend, `b0`, without a scheduler."""
    async with hermes(backend) as gateway:  # for its driver
        seen, ear = gateway.runtime.fleet.backends["b0"], Ear()
        alone = Backend("b0", "ollama", backend.url, seen.driver, None, 5.0)
        alone.inventory = seen.inventory
        fleet = Fleet([alone], ear, gateway.runtime.metrics)
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(each) for each in (fleet.orders["b0"].work(), alone.watch(lambda: None))]
        try:
            yield fleet, ear
        finally:
            for task in tasks:
                task.cancel()


# --- in turn ----------------------------------------------------------------------------------------------------------


@scenario
async def test_orders_are_carried_out_one_after_the_other() -> None:
    async with ollama("a:latest", "b:latest") as backend, working(backend) as (orders, ear):
        at_once: list[int] = []

        async def count(asked: Asked) -> None:
            at_once.append(sum(not each.ended.is_set() for each in backend.managed if each.path == asked.path))
            await asyncio.sleep(0)
            await backend._manage(asked)

        backend.management["/api/generate"] = count
        for order in (Load("b0", "a:latest"), Unload("b0", "a:latest"), Load("b0", "b:latest")):
            orders.order(order)
        await until(lambda: ear.heard == ["loaded a:latest", "loaded b:latest"])
        assert backend.orders == ["load a:latest", "unload a:latest", "load b:latest"]
        assert at_once == [1, 1, 1]


@scenario
async def test_an_unload_that_fails_holds_up_nothing() -> None:
    async with ollama("a:latest", "b:latest") as backend, working(backend) as (orders, ear):
        in_turn(backend, fail(500, "no"))
        orders.order(Unload("b0", "a:latest"))
        orders.order(Load("b0", "b:latest"))
        await until(lambda: ear.heard == ["loaded b:latest"])
        assert backend.orders == ["unload a:latest", "load b:latest"]


@scenario
async def test_an_unload_that_is_not_answered_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hermes.fleet.orders.UNLOAD_TIMEOUT_S", 0.05)
    async with ollama("a:latest", "b:latest") as backend, working(backend) as (orders, ear):
        in_turn(backend, play(then=Then.STALL))
        orders.order(Unload("b0", "a:latest"))
        orders.order(Load("b0", "b:latest"))
        await until(lambda: ear.heard == ["loaded b:latest"])


@scenario
async def test_a_load_that_has_not_begun_in_time_is_given_up_and_told_as_that() -> None:
    async with ollama("a:latest", "b:latest") as backend, working(cold(backend)) as (orders, ear):
        in_turn(backend, play(then=Then.STALL))
        orders.order(Load("b0", "b:latest", 0.05))
        orders.order(Load("b0", "a:latest"))
        await until(lambda: ear.heard == ["failed b:latest", "loaded a:latest"])
        assert isinstance(ear.errors[0], LoadNotBegun)
        assert next(asked for asked in backend.managed if asked.path == "/api/generate").ended.is_set()


@scenario
async def test_a_load_that_has_begun_may_take_its_time() -> None:
    async with ollama("a:latest") as backend, working(cold(backend)) as (orders, ear):
        seen, go_on = asyncio.Event(), asyncio.Event()

        async def slow(asked: Asked) -> None:
            backend.loaded = [loaded("a:latest")]  # listed as soon as it has a process
            seen.set()
            await go_on.wait()
            await backend._manage(asked)

        in_turn(backend, slow)
        orders.order(Load("b0", "a:latest", 0.01))
        await seen.wait()
        looks = orders.backends["b0"].inventory
        await until(lambda: orders.backends["b0"].inventory is not looks)
        go_on.set()
        await until(lambda: ear.heard == ["loaded a:latest"])


@scenario
async def test_a_load_that_failed_and_has_been_ordered_again_since_is_answered_once() -> None:
    """The backend went down and came again meanwhile: the old failure must not be taken for the new order's."""
    async with ollama("a:latest") as backend, working(backend) as (orders, ear):
        in_turn(backend, fail(500, "no"))
        for _ in range(2):
            orders.order(Load("b0", "a:latest"))
        await until(lambda: ear.heard == ["loaded a:latest"])
        assert backend.orders == ["load a:latest"] * 2


def test_a_bug_in_a_load_is_told_like_a_failure_and_the_next_order_is_carried_out() -> None:
    async def bug() -> None:
        async with ollama("a:latest", "b:latest") as backend, working(backend) as (orders, ear):
            driver = orders.backends["b0"].driver
            whole = driver.load

            async def broken(*_: object) -> None:
                driver.load = whole  # type: ignore[method-assign]
                raise KeyError("bug")

            driver.load = broken  # type: ignore[method-assign]
            orders.order(Load("b0", "a:latest"))
            orders.order(Load("b0", "b:latest"))
            await until(lambda: ear.heard == ["failed a:latest", "loaded b:latest"])

    run(bug(), may_log_errors=True)


def test_a_bug_in_who_hears_of_an_order_ends_nobody_who_carries_out_orders() -> None:
    async def bug() -> None:
        async with ollama("a:latest", "b:latest") as backend, working(cold(backend)) as (orders, ear):
            in_turn(backend, fail(500, "broken"))
            whole = ear.load_failed

            def broken(*about: Any) -> None:
                whole(*about)
                raise KeyError("bug")

            ear.load_failed = broken  # type: ignore[method-assign]
            orders.order(Load("b0", "a:latest"))
            orders.order(Load("b0", "b:latest"))
            await until(lambda: ear.heard == ["failed a:latest", "loaded b:latest"])

    run(bug(), may_log_errors=True)


# --- counted ----------------------------------------------------------------------------------------------------------


@scenario
async def test_loads_are_counted_by_how_they_ended_and_timed_where_they_succeeded() -> None:
    async with ollama("a:latest", "b:latest") as backend, hermes(cold(backend)) as gateway:
        in_turn(backend, fail(500, "no"))
        assert (await gateway.ask("/v1/llm/a", prompt())).status == 200
        assert gateway.counted("hermes_model_loads_total") == {
            ("b0", "a:latest", "failed"): 1.0,
            ("b0", "a:latest", "loaded"): 1.0,
        }
        assert gateway.counted("hermes_model_load_seconds_count") == {("b0", "a:latest"): 1.0}
        assert gateway.counted("hermes_model_unloads_total") == {}


@scenario
async def test_unloads_are_counted_by_whose_doing_they_are() -> None:
    async with ollama("a:latest", "b:latest") as backend, hermes(backend) as gateway:
        seen, orders = (gateway.runtime.fleet.backends["b0"], gateway.runtime.fleet.orders["b0"])
        clock = asyncio.get_running_loop().time

        async def look() -> None:
            began = clock()
            await until(lambda: clock() > began)  # it has a grain
            await seen.look(20.0)

        await gateway.ask("/v1/llm/a/unload", b"")
        await until(lambda: orders.idle and "unload a:latest" in backend.orders)
        await look()
        assert gateway.counted("hermes_model_unloads_total") == {("b0", "a:latest", "hermes"): 1.0}
        backend.loaded = []
        await look()
        await look()
        assert gateway.counted("hermes_model_unloads_total") == {
            ("b0", "a:latest", "hermes"): 1.0,
            ("b0", "b:latest", "others"): 1.0,
        }


# --- bounded ----------------------------------------------------------------------------------------------------------


@scenario
async def test_past_so_many_orders_a_load_has_failed_and_an_unload_has_not_been() -> None:
    """I4: a backend that answers nothing must not make the orders for it grow without bound."""
    async with ollama("a:latest", "b:latest") as backend, working(backend) as (orders, ear):
        gate, seen = asyncio.Event(), orders.backends["b0"]
        in_turn(backend, play(gate, LOADED))
        orders.order(Load("b0", "a:latest"))
        await until(lambda: backend.orders == ["load a:latest"])
        for _ in range(MAX_ORDERS):
            orders.order(Load("b0", "a:latest"))
        orders.order(Load("b0", "b:latest"))
        assert ear.heard == [], "who gives an order does not hear of it from within"
        await until(lambda: ear.heard == ["failed b:latest"])
        assert f"{MAX_ORDERS} loads and unloads are waiting" in ear.errors[0].message
        orders.order(Unload("b0", "b:latest"))
        assert seen.facts.loaded and "b:latest" in seen.facts.loaded
        gate.set()
        await until(lambda: orders.orders["b0"].idle)
        assert backend.orders == ["load a:latest"] * (MAX_ORDERS + 1)


# --- for requests -----------------------------------------------------------------------------------------------------


@scenario
async def test_a_request_for_a_model_that_is_not_loaded_loads_it_first_and_then_runs() -> None:
    async with ollama() as backend, hermes(cold(backend)) as gateway:
        gate = asyncio.Event()
        in_turn(backend, play(gate, LOADED))
        call = await gateway.open(PROMPT, prompt())
        await until(lambda: backend.orders == ["load gemma:latest"])
        assert (backend.asked, gateway.waiting) == ([], 1)
        gate.set()
        assert (await call.reply()).status == 200
        assert len(backend.asked) == 1


@scenario
async def test_a_model_is_loaded_once_however_many_ask() -> None:
    async with ollama() as backend, hermes(cold(backend)) as gateway:
        gate = asyncio.Event()
        in_turn(backend, play(gate, LOADED))
        calls = [await gateway.open(PROMPT, prompt()) for _ in range(10)]
        await gateway.until_waiting(10)
        gate.set()
        assert {(await call.reply()).status for call in calls} == {200}
        assert backend.orders == ["load gemma:latest"]


@scenario
async def test_a_model_is_loaded_with_what_its_requests_will_carry() -> None:
    models = {"gemma": {"options": {"num_ctx": 8192}}}
    async with ollama() as backend, hermes(cold(backend), models=models) as gateway:
        assert (await gateway.ask(PROMPT, prompt())).status == 200
        (load,) = (asked.body for asked in backend.managed if asked.path == "/api/generate")
        (asked,) = (asked.body for asked in backend.asked)
        assert load["options"]["num_ctx"] == asked["options"]["num_ctx"] == 8192


# --- failures ---------------------------------------------------------------------------------------------------------


@scenario
async def test_a_load_that_fails_once_is_tried_again() -> None:
    async with ollama() as backend, hermes(cold(backend)) as gateway:
        in_turn(backend, fail(500, "out of memory"))
        assert (await gateway.ask(PROMPT, prompt())).status == 200
        assert backend.orders == ["load gemma:latest"] * 2


@scenario
async def test_who_waits_for_a_load_that_fails_twice_gets_the_backends_reason() -> None:
    async with ollama() as backend, hermes(cold(backend)) as gateway:
        backend.management["/api/generate"] = fail(500, "llama-server process has terminated: out of memory")
        reply = await gateway.ask(PROMPT, prompt())
        assert (reply.status, reply.error["code"]) == (503, "load_failed")
        assert "out of memory" in reply.error["message"]
        assert backend.orders == ["load gemma:latest"] * 2
        # It backs off: nobody makes it try again meanwhile.
        assert (await gateway.ask(PROMPT, prompt())).error["code"] == "load_failed"
        assert (len(backend.orders), backend.asked) == (2, [])


@scenario
async def test_a_model_that_is_gone_when_it_is_to_be_loaded_is_404() -> None:
    async with ollama() as backend, hermes(cold(backend)) as gateway:

        async def gone(asked: Asked) -> None:
            backend.models = []
            await fail(404, "model 'gemma:latest' not found")(asked)

        backend.management["/api/generate"] = gone
        reply = await gateway.ask(PROMPT, prompt())
        assert (reply.status, reply.error["code"]) == (404, "model_not_found")
        assert backend.orders == ["load gemma:latest"]


@scenario
async def test_a_load_that_cannot_reach_the_backend_waits_until_it_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ollama() as backend, hermes(cold(backend)) as gateway:
        driver, tried = gateway.runtime.fleet.backends["b0"].driver, 0
        whole = driver.load

        async def unreachable(*_: Any) -> None:
            nonlocal tried
            tried, driver.load = 1, whole  # type: ignore[method-assign]
            raise BackendUnreachable("the backend cannot be reached")

        monkeypatch.setattr(driver, "load", unreachable)
        assert (await gateway.ask(PROMPT, prompt())).status == 200
        assert (tried, backend.orders) == (1, ["load gemma:latest"])


@scenario
async def test_who_waits_for_a_load_during_which_the_backend_dies_hears_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hermes.fleet.backend.RETRY_S", 0.01)
    monkeypatch.setattr("hermes.fleet.backend.HICCUP_S", 0.009)
    async with ollama() as backend, hermes(cold(backend)) as gateway:
        backend.management["/api/generate"] = play(then=Then.STALL)
        call = await gateway.open(PROMPT, prompt())
        await until(lambda: backend.orders == ["load gemma:latest"])
        await backend.vanish()
        reply = await call.reply()
        assert (reply.status, reply.error["code"]) == (503, "no_backend")
        backend.management.clear()
        await backend.listen()
        await until(lambda: gateway.runtime.fleet.ready)
        assert (await gateway.ask(PROMPT, prompt())).status == 200


@scenario
async def test_a_load_that_a_silent_backend_will_never_end_does_not_hold_up_what_comes_when_it_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A machine that lost its power resets no connection."""
    monkeypatch.setattr("hermes.fleet.backend.RETRY_S", 0.01)
    monkeypatch.setattr("hermes.fleet.backend.HICCUP_S", 0.009)
    async with ollama() as backend, hermes(cold(backend)) as gateway:
        backend.management["/api/generate"] = play(then=Then.STALL)
        call = await gateway.open(PROMPT, prompt())
        await until(lambda: backend.orders == ["load gemma:latest"])
        backend.management["/api/version"] = fail(500, "no")
        gateway.runtime.fleet.backends["b0"].suspect()
        assert (await call.reply()).error["code"] == "no_backend"
        backend.management.clear()
        await until(lambda: gateway.runtime.fleet.ready)
        assert (await gateway.ask(PROMPT, prompt())).status == 200
        assert backend.orders == ["load gemma:latest"] * 2


@scenario
async def test_stopping_ends_a_load_under_way() -> None:
    async with ollama() as backend:
        gate = asyncio.Event()
        async with hermes(cold(backend)) as gateway:
            in_turn(backend, play(gate, LOADED))
            call = await gateway.open(PROMPT, prompt())
            await until(lambda: backend.orders == ["load gemma:latest"])
            call.leave()
            await gateway.settle()
        (loading,) = (asked for asked in backend.managed if asked.path == "/api/generate")
        async with asyncio.timeout(1.0):
            await loading.left.wait()


@scenario
async def test_what_others_have_loaded_is_used_as_it_is() -> None:
    async with ollama() as backend, hermes(cold(backend)) as gateway:
        backend.loaded = [loaded("gemma:latest")]
        await gateway.runtime.fleet.backends["b0"].look(20.0)
        assert (await gateway.ask(PROMPT, prompt())).status == 200
        assert backend.orders == []


@scenario
async def test_what_others_have_unloaded_is_loaded_again_by_us() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        clock, backend.loaded = asyncio.get_running_loop().time, []
        await until(lambda: clock() > gateway.runtime.fleet.backends["b0"].seen_at)  # it has a grain
        await gateway.runtime.fleet.backends["b0"].look(20.0)
        assert (await gateway.ask(PROMPT, prompt())).status == 200
        assert backend.orders == ["load gemma:latest"]


@scenario
async def test_while_memory_is_scarce_a_load_waits_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ollama() as backend, hermes(cold(backend)) as gateway:
        seen = gateway.runtime.fleet.backends["b0"]
        monkeypatch.setattr(machine, "pressure", lambda: "1 of 1000 MiB of the machine's memory are available")
        await seen.look(20.0)
        call = await gateway.open(PROMPT, prompt())
        await gateway.until_waiting(1)
        told = (await gateway.ask("/v1/status")).json["backends"][0]
        assert told["pressed"] == "loads wait: 1 of 1000 MiB of the machine's memory are available"
        assert backend.orders == []
        monkeypatch.setattr(machine, "pressure", str)
        await seen.look(20.0)
        assert (await call.reply()).status == 200
        assert "pressed" not in (await gateway.ask("/v1/status")).json["backends"][0]


@scenario
async def test_scarce_memory_here_says_nothing_of_a_backend_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "pressure", lambda: "none left")
    monkeypatch.setattr(memory, "is_here", lambda url: False)
    async with ollama() as backend, hermes(cold(backend)) as gateway:
        assert (await gateway.ask(PROMPT, prompt())).status == 200


@scenario
async def test_a_model_makes_room_for_another_when_it_is_idle() -> None:
    async with ollama("a:latest", "b:latest") as backend:
        backend.loaded = [loaded("a:latest", 2 << 30, 2 << 30)]
        own = {"name": "b0", "url": backend.url, "memory": "3GiB"}
        models = {name: {"memory_cost": "2GiB"} for name in ("a", "b")}
        async with hermes(backends=[own], models=models) as gateway:
            gate = asyncio.Event()
            backend.default = play(gate, "Hel", DONE)
            first = await gateway.open("/v1/llm/a", prompt())
            await backend.request(0)
            others = [await gateway.open("/v1/llm/b", prompt()) for _ in range(8)]
            await gateway.until_waiting(8)
            assert backend.orders == []
            gate.set()
            for call in (first, *others):
                assert (await call.reply()).status == 200
            assert backend.orders == ["unload a:latest", "load b:latest"]
