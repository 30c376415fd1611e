"""What settings come to: each one that can be set reaches the room it is meant for."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
from msgspec.structs import asdict

from hermes import composition, config, drivers, grants
from hermes.config.build import build
from hermes.errors import ConfigError
from hermes.http.limits import Limits
from hermes.http.wire import Deadlines
from hermes.policy.limiter import Modes
from hermes.principal import Allowance
from hermes.runtime import Runtime
from tests.simulation.loop import VirtualLoop

# Settings that have another name where it counts.
RENAMED = {"max_body_bytes": "body_bytes", "max_connections": "connections"}
REACH_LIMITS = [
    "header_timeout_s",
    "body_min_bytes_per_s",
    "max_body_bytes",
    "keep_alive_s",
    "write_timeout_s",
    "max_connections",
]


def changed(before: Any, after: Any) -> dict[str, Any]:
    return {name: value for name, value in asdict(after).items() if value != getattr(before, name)}


@pytest.mark.parametrize("setting", REACH_LIMITS)
def test_what_a_client_may_cost_is_what_the_server_is_told(setting: str) -> None:
    by_default = composition.limits(config.Server())
    limits = composition.limits(build({"server": {setting: 77}}).server)
    assert changed(by_default, limits) == {RENAMED.get(setting, setting): 77}


def test_without_settings_the_limits_are_their_own() -> None:
    assert changed(Limits(), composition.limits(config.Server())).keys() <= {"connections"}


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    made = VirtualLoop()
    yield made
    made.close()


def test_how_long_connecting_may_take_reaches_the_pool(loop: VirtualLoop) -> None:
    backend = config.Backend("b", "http://127.0.0.1:1", connect_timeout_s=7.0)
    assert drivers.driver(backend, Deadlines(loop), loop).pool.limits.connect_timeout_s == 7.0


def test_what_is_said_of_a_backend_reaches_the_fleet(loop: VirtualLoop) -> None:
    told = {"name": "b", "url": "http://127.0.0.1:1", "slots": 3, "probe_interval_s": 7, "simulated": True, "memory": 9}
    told["weight"] = 4
    backend = Runtime(build({"backends": [told]}), loop).fleet.backends["b"]
    assert (backend.url, backend.slots, backend.interval_s, backend.simulated) == ("http://127.0.0.1:1", 3, 7, True)
    assert (backend.facts.memory_bytes, backend.facts.weight) == (9, 4)


@pytest.mark.parametrize("name", [name for name in config.Limits.__struct_fields__ if name != "modes"])
def test_each_bound_of_the_process_is_somebodys(name: str) -> None:
    by_default, set_to_one = config.Config(), build({"limits": {name: 1}})
    before, after = ((composition.bounds(each), composition.retries(each.limits)) for each in (by_default, set_to_one))
    assert before != after


def test_each_mode_is_the_limiters() -> None:
    said = dict.fromkeys(config.Modes.__struct_fields__, "shadow")
    assert asdict(composition.modes(build({"limits": {"modes": said}}).limits)) == said
    assert composition.modes(config.Limits()) == Modes()


@pytest.mark.parametrize("name", Allowance.__struct_fields__)
def test_what_a_key_and_a_model_may_use_is_theirs(name: str) -> None:
    key = {"user": "ann", "sha256": "0" * 64, name: 7, "per_model": {"g*": {name: 8}}}
    built = build({"keys": [key], "models": {} if name == "concurrency" else {"gemma": {name: 9}}})
    principal = grants._principal(built.keys[0], built)
    assert principal.allowance == Allowance(**{name: 7})
    assert principal.per_model == (("g*", Allowance(**{name: 8})),)
    if built.models:
        assert composition.catalog(built).listed["gemma"].allowance == Allowance(**{name: 9})


@pytest.mark.parametrize(("said", "means"), [(True, "on"), (False, "off"), ("off", "off"), ("forced", "forced")])
def test_whether_answers_are_given_again_is_said_for_a_model_or_for_all(said: bool | str, means: str) -> None:
    listed = build({"models": {"gemma": {"cache": said}}})
    assert composition.catalog(listed).listed["gemma"].reuse == means
    assert composition.alone(listed) == (None if means == "off" else frozenset())
    unlisted = build({"defaults": {"cache": said}})
    service = composition.catalog(unlisted).service("other")
    assert service is not None and service.reuse == means
    assert composition.alone(unlisted) == (None if means == "off" else frozenset())
    both = build({"defaults": {"cache": said}, "models": {"gemma": {"cache": False}, "phi": {"cache": True}}})
    assert composition.alone(both) == {"gemma"}


MODEL: dict[str, Any] = {"backend_model": "m", "backends": ["b"], "params": {"top_k": 7}, "options": {"num_ctx": 7},
    "fallback": ["m"], "options_policy": "max", "pinned": True, "max_class": "batch", "pull": "on_demand",
    "adaptive_concurrency": True, "cache": "forced"}  # fmt: skip


@pytest.mark.parametrize("name", config.Model.__struct_fields__)
def test_each_setting_of_a_model_is_somebodys(name: str) -> None:
    model = build({"models": {"gemma": {name: MODEL.get(name, 7)}}})
    backend = config.Backend("other", "http://127.0.0.1:1")
    before, after = (
        (
            composition.catalog(each).listed["gemma"],
            composition.model_bounds(each.models["gemma"], each),
            drivers.pins(each, backend),
        )
        for each in (build({"models": {"gemma": {}}}), model)
    )
    assert before != after


def test_the_process_stays_on_the_processors_it_is_given() -> None:
    before = os.sched_getaffinity(0)
    try:
        composition.stay_on((min(before),))
        assert os.sched_getaffinity(0) == {min(before)}
        with pytest.raises(ConfigError, match=r"server.cpu_affinity: cannot run on \[4095\]; allowed here"):
            composition.stay_on((4095,))
    finally:
        os.sched_setaffinity(0, before)
    composition.stay_on(())
    assert os.sched_getaffinity(0) == before
