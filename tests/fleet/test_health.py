"""One backend's health, where probes meet what it is: many servers or one, and bugs of our own."""

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from hermes.fleet import health
from hermes.fleet.backend import Backend
from hermes.fleet.health import Health
from hermes.fleet.inventory import Inventory, LoadedModel, ModelInfo
from hermes.metrics import Metrics
from hermes.policy.breaker import STUCK, Breaker
from hermes.policy.pulse import Patience
from hermes.policy.ticket import BackendFacts
from tests.support import run, until


class FakeDriver:
    """Of models that each are a server of their own, or all on one."""

    loads, pulls, makes_room, slots, settles = True, False, False, 1, False
    terms: dict[str, Any] = {}

    def __init__(self, server: object = None) -> None:
        self.server: Any = server

    def server_of(self, model: str) -> Any: ...


class Silence:
    def observe(self, facts: BackendFacts) -> None: ...


def backend(loaded: str, server: object = None) -> Backend:
    driver: Any = FakeDriver(server)
    made = Backend("x", "managed", "http://127.0.0.1", driver, None, 5.0, simulated=True)
    there = tuple(LoadedModel(name, 1, 0, 0, "") for name in loaded)
    made.inventory = Inventory("", {name: ModelInfo(name) for name in "ab"}, there, {name: name for name in "ab"})
    made.state = "up"
    return made


def stuck() -> Breaker:
    breaker = Breaker("x a", 0.01)
    breaker.stick("it is silent", 0.0)
    return breaker


@pytest.mark.parametrize(
    ("server", "generates"), [(None, True), (object(), False)], ids=["a server each", "one server"]
)
def test_a_model_that_is_not_loaded_is_not_stuck_where_each_has_a_server_of_its_own(
    server: object, generates: bool
) -> None:
    made = backend("a", server)
    made.breakers["a"] = stuck()
    assert made.generates is generates
    made.inventory = replace(made.inventory, models={"a": ModelInfo("a")})
    assert not made.generates


def test_what_another_backend_calls_a_model_by_is_the_same_model() -> None:
    """An Ollama has `a:latest`, so that is what it is called where it is asked for on both."""
    made = backend("", object())
    made.driver.loads = False
    made.inventory = replace(made.inventory, names={"a": "a", "a:latest": "a"}, absent=frozenset("a"))
    assert not made.has_in_memory("a:latest"), "a router that loads it is not silent"
    made.inventory = replace(made.inventory, models={"a": ModelInfo("a")}, absent=frozenset())
    assert made.has_in_memory("a:latest")
    made.breakers["a:latest"] = stuck()
    assert not made.generates


def test_a_probe_that_meets_a_bug_is_not_repeated_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    probes = 0

    async def buggy(*_: object) -> None:
        nonlocal probes
        probes += 1
        raise RuntimeError("a bug")

    async def scenario() -> None:
        made = backend("a")
        listener: Any = Silence()
        known = Health(made, listener, Metrics(), Patience(30.0, 1.0, pause_s=0.01))
        made.breakers["a"] = stuck()
        working = asyncio.get_running_loop().create_task(known.work())
        known.looked()
        await until(lambda: probes > 1)
        before = probes
        await asyncio.sleep(0.02)
        assert probes <= before + 2
        assert made.breakers["a"].state is STUCK
        working.cancel()
        await asyncio.wait((working,))

    monkeypatch.setattr(health, "generate", buggy)
    run(scenario(), may_log_errors=True)
