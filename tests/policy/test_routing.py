"""Routing: what a model's name means, who has it, and what is filled in where a request is silent."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes.chat import Sampling
from hermes.policy.routing import Candidates, Catalog, Service, candidates, fill_in, filling

INVENTORIES = {
    "near": {"gemma3": "gemma3:latest", "gemma3:latest": "gemma3:latest"},
    "far": {"gemma3": "gemma3:latest", "gemma3:latest": "gemma3:latest", "qwen3:8b": "qwen3:8b"},
}
UNLISTED = Service("", "", timeout_s=7.0)


def service(backend_model: str, *backends: str) -> Service:
    return Service("public", backend_model, backends)


# --- names ------------------------------------------------------------------------------------------------------------


def test_a_listed_model_is_served_as_listed() -> None:
    listed = service("gemma3")
    assert Catalog({"public": listed}, UNLISTED).service("public") is listed


def test_an_unlisted_model_is_served_by_its_own_name_with_the_defaults() -> None:
    assert Catalog({}, UNLISTED).service("qwen3:8b") == Service("qwen3:8b", "qwen3:8b", timeout_s=7.0)


def test_an_unlisted_model_is_not_served_where_that_is_switched_off() -> None:
    assert Catalog({"public": service("gemma3")}, None).service("qwen3:8b") is None


def test_an_alias_is_the_model_that_it_names_unless_it_is_listed_itself() -> None:
    listed, own = service("gemma3"), service("phi")
    catalog = Catalog({"public": listed, "claude-local-mine": own}, None)
    assert catalog.service("claude-local-public") is catalog.service("claude-local-public:latest") is listed
    assert catalog.service("claude-local-mine") is own
    assert catalog.service("claude-local-") is catalog.service("claude-local-other") is None
    assert Catalog({}, UNLISTED).service("claude-local-q:8b") == Service("q:8b", "q:8b", timeout_s=7.0)


# --- candidates -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (service("gemma3"), Candidates(("near", "far"), "gemma3:latest")),
        (service("qwen3:8b"), Candidates(("far",), "qwen3:8b")),
        (service("gemma3", "far"), Candidates(("far",), "gemma3:latest")),
        (service("gemma3", "far", "near"), Candidates(("far", "near"), "gemma3:latest")),
        (service("qwen3:8b", "near"), Candidates((), "qwen3:8b")),
        (service("gemma3", "unheard"), Candidates((), "gemma3")),
        (service("llama"), Candidates((), "llama")),
    ],
)
def test_candidates_are_the_allowed_backends_that_have_the_model(asked: Service, found: Candidates) -> None:
    assert candidates(asked, INVENTORIES) == found


def test_of_a_models_names_the_fuller_one_is_good_for_all() -> None:
    """Ollama takes `gemma3:latest` and tells of it so; to others it is `gemma3`."""
    tagged, plain = {"gemma3": "gemma3:latest", "gemma3:latest": "gemma3:latest"}, {"gemma3": "gemma3"}
    for inventories in ({"a": tagged, "b": plain}, {"a": plain, "b": tagged}):
        assert candidates(service("gemma3"), inventories) == Candidates(("a", "b"), "gemma3:latest")


def test_without_backends_there_are_no_candidates() -> None:
    assert candidates(service("gemma3"), {}) == Candidates((), "gemma3")


# --- filling in -------------------------------------------------------------------------------------------------------


def filled(asked: Sampling, configured: Sampling, promised: Sampling, ceiling: int | None = None) -> Sampling:
    return fill_in(asked, filling(Service("m", "m", sampling=configured, max_output_tokens=ceiling), promised))


@pytest.mark.parametrize(
    ("asked", "configured", "promised", "temperature"),
    [
        (0.1, 0.2, 0.3, 0.1),
        (None, 0.2, 0.3, 0.2),
        (None, None, 0.3, 0.3),
        (None, None, None, None),
        (0.0, 0.2, 0.3, 0.0),
    ],
)
def test_the_request_comes_first_then_the_configuration_then_the_promise(
    asked: float | None, configured: float | None, promised: float | None, temperature: float | None
) -> None:
    result = filled(Sampling(temperature=asked), Sampling(temperature=configured), Sampling(temperature=promised))
    assert result.temperature == temperature


@pytest.mark.parametrize(
    ("asked", "configured", "ceiling", "max_tokens"),
    [
        (100, 50, None, 100),
        (100, 50, 80, 80),
        (None, 50, 80, 50),
        (None, 90, 80, 80),
        (None, None, 80, 80),
        (None, None, None, None),
        (80, None, 80, 80),
    ],
)
def test_output_is_never_longer_than_the_ceiling(
    asked: int | None, configured: int | None, ceiling: int | None, max_tokens: int | None
) -> None:
    result = filled(Sampling(max_tokens=asked), Sampling(max_tokens=configured), Sampling(), ceiling)
    assert result.max_tokens == max_tokens


def test_stop_texts_are_one_value() -> None:
    assert filled(Sampling(stop=("a",)), Sampling(stop=("b", "c")), Sampling()).stop == ("a",)
    assert filled(Sampling(), Sampling(stop=("b", "c")), Sampling()).stop == ("b", "c")


NUMBERS = st.none() | st.sampled_from((0.0, 0.5, 1.0))
SAMPLINGS = st.builds(
    Sampling,
    **dict.fromkeys(("temperature", "top_p", "min_p", "presence_penalty", "repeat_penalty"), NUMBERS),
    seed=st.none() | st.integers(0, 3),
    stop=st.sampled_from(((), ("a",), ("b",))),
)


@given(SAMPLINGS, SAMPLINGS, SAMPLINGS)
def test_every_field_is_filled_by_the_first_that_says_something(
    asked: Sampling, configured: Sampling, promised: Sampling
) -> None:
    def says_something(value: Any) -> bool:
        return value is not None and value != ()

    result = filled(asked, configured, promised)
    for field in Sampling.__struct_fields__:
        said = [
            getattr(layer, field) for layer in (asked, configured, promised) if says_something(getattr(layer, field))
        ]
        assert getattr(result, field) == (said[0] if said else getattr(Sampling(), field))
