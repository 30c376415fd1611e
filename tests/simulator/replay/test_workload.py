"""Which arrivals a policy is confronted with: stretched, squeezed, and drawn so that a study can be repeated."""

import random
from collections import Counter

import pytest

from hermes.simulator.replay.box import Box, Model
from hermes.simulator.replay.trace import Arrival
from hermes.simulator.replay.workload import draw, mean_rate, models_by_use
from tests.simulator.replay.boxes import made_up_trace

TRACE = made_up_trace(500)
MODELS = (Model("0", 6.0, share=0.55), Model("1", 8.0, share=0.25), Model("2", 14.0, share=0.2))


@pytest.mark.parametrize("burst", [False, True])
def test_arrivals_are_stretched_to_the_mean_rate_and_keep_their_order(burst: bool) -> None:
    times = [request.arrived_at for request in draw(TRACE, MODELS, 1, rate=0.5, burst=burst).requests]
    assert times[0] == 0.0 and times == sorted(times)
    assert times[-1] == pytest.approx(499 / 0.5, abs=40 if burst else 1e-6)


def test_gaps_keep_their_proportions() -> None:
    arrivals = [Arrival(at_s, 1, 1) for at_s in (100.0, 101.0, 104.0)]
    assert [request.arrived_at for request in draw(arrivals, MODELS, 1, rate=0.1).requests] == [0.0, 5.0, 20.0]


def test_arrivals_are_as_recorded_without_a_rate() -> None:
    arrivals = [Arrival(at_s, 1, 1) for at_s in (100.0, 101.0, 104.0)]
    assert [request.arrived_at for request in draw(arrivals, MODELS, 1).requests] == [0.0, 1.0, 4.0]


def test_a_burst_is_a_minute_s_arrivals_in_its_first_20_seconds() -> None:
    arrivals = [Arrival(at_s, 1, 1) for at_s in (0.0, 30.0, 60.0, 119.9)]
    times = [request.arrived_at for request in draw(arrivals, MODELS, 1, burst=True).requests]
    assert times == pytest.approx([0.0, 10.0, 60.0, 60.0 + 59.9 / 3])


def test_models_are_drawn_by_share_in_order_of_arrival_from_the_seed() -> None:
    names = [request.model for request in draw(TRACE, MODELS, 7, rate=1.0).requests]
    one_by_one = random.Random(7)
    assert names == [one_by_one.choices("012", weights=(0.55, 0.25, 0.2))[0] for _ in TRACE]
    assert names != [request.model for request in draw(TRACE, MODELS, 8, rate=1.0).requests]


def test_more_tenants_change_no_model_and_ask_about_as_often() -> None:
    alone = draw(TRACE, MODELS, 1)
    shared = draw(TRACE, MODELS, 1, tenants=5)
    assert [request.model for request in alone.requests] == [request.model for request in shared.requests]
    asked = Counter(request.tenant for request in shared.requests)
    assert len(asked) == 5 and min(asked.values()) > 70
    assert len({(request.tenant, request.model) for request in shared.requests}) == 5 * 3
    assert shared == draw(TRACE, MODELS, 1, tenants=5)


def test_a_log_s_models_and_tenants_are_its_own() -> None:
    arrivals = [Arrival(1.0, 5, 6, "b", "x"), Arrival(2.0, 7, 8, "a", "y"), Arrival(3.0, 9, 10, "b", "x")]
    drawn = draw(arrivals, MODELS, 1)
    assert [(request.model, request.tenant) for request in drawn.requests] == [("b", "x"), ("a", "y"), ("b", "x")]
    assert drawn.tokens_out == [6, 8, 10]
    assert models_by_use(arrivals) == [("b", 2), ("a", 1)]


def test_arrivals_at_one_moment_have_no_rate_and_stay_together() -> None:
    together = [Arrival(5.0, 1, 1)] * 3
    assert mean_rate(together) == 0.0
    assert [request.arrived_at for request in draw(together, MODELS, 1, rate=2.0).requests] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("sizes", "memory", "loaded"),
    [
        ((1, 1, 1), 2, ["0", "1"]),
        ((5, 9, 14), 24, ["0", "1"]),
        ((5, 30, 1), 24, ["0"]),
        ((1, 1, 1), 9, ["0", "1", "2"]),
    ],
)
def test_the_first_models_are_loaded_at_the_start_as_far_as_memory_goes(
    sizes: tuple[float, ...], memory: float, loaded: list[str]
) -> None:
    models = tuple(Model(str(number), 1.0, size) for number, size in enumerate(sizes))
    assert Box(models, memory=memory).loaded_at_start() == loaded
