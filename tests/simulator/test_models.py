import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes.errors import ConfigError
from hermes.simulator import DEFAULT_MODELS, SimulatedModel, parse_memory, parse_model
from hermes.simulator.models import full_name, model_key, short_name

GIB = 1024**3


@pytest.mark.parametrize(
    "name",
    ["gemma", "gemma:latest", "Gemma", "library/gemma", "registry.ollama.ai/library/gemma:latest", " gemma "],
)
def test_every_spelling_of_a_name_is_one_model(name: str) -> None:
    assert model_key(name) == "gemma:latest"


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("gemma", "gemma:latest"),
        ("gemma3:12b", "gemma3:12b"),
        ("me/own", "me/own:latest"),
        ("hub.example:5000/me/own:q4", "hub.example:5000/me/own:q4"),
    ],
)
def test_a_listed_name_has_a_tag_and_no_default_parts(name: str, short: str) -> None:
    assert short_name(name) == short


@pytest.mark.parametrize("name", ["", " ", "a b", "a/b/c/d/e", "a:", ":b", "/a", "a//b", "-a", "a:b:c", "ä", "a@b"])
def test_what_is_no_model_name_is_refused(name: str) -> None:
    assert full_name(name) is None


def test_the_issue_s_example_model_is_there() -> None:
    assert {"gemma", "mistral"} <= {model.name for model in DEFAULT_MODELS}
    assert any("thinking" in model.capabilities for model in DEFAULT_MODELS)
    assert any(model.capabilities == ("embedding",) for model in DEFAULT_MODELS)


def test_a_spec_sets_what_it_says_and_keeps_what_is_known() -> None:
    model = parse_model("gemma=8GiB,load=6,prefill=2000,decode=40.5,slots=3,context=2048,can=completion+thinking")
    gemma = next(model for model in DEFAULT_MODELS if model.name == "gemma")
    assert model == SimulatedModel(
        "gemma",
        memory_bytes=8 * GIB,
        load_s=6.0,
        prefill_tps=2000.0,
        decode_tps=40.5,
        slots=3,
        context_length=2048,
        capabilities=("completion", "thinking"),
        family=gemma.family,
        parameter_size=gemma.parameter_size,
    )


def test_a_spec_may_be_a_name_alone() -> None:
    assert parse_model("mistral") in DEFAULT_MODELS
    assert parse_model("new:7b").name == "new:7b"
    assert parse_model("hub:5000/a/b:c=memory=2GB").memory_bytes == 2 * 10**9


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("a b=1GiB", "no model name"),
        ("gemma=lots", "8GiB"),
        ("gemma=0GiB", "8GiB"),
        ("gemma=load=soon", "load=soon"),
        ("gemma=speed=3", "there is no 'speed'"),
        ("gemma=slot=3", "but 'slots'"),
        ("gemma=slots=0", "above 0"),
        ("gemma=decode=0", "above 0"),
        ("gemma=decode=inf", "above 0"),
        ("gemma=decode=nan", "above 0"),
        ("gemma=can=fly", "'fly' is none of completion"),
    ],
)
def test_a_wrong_spec_is_refused_with_the_form(spec: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=hint) as caught:
        parse_model(spec)
    assert "gemma=8GiB,load=6" in str(caught.value)


@given(st.integers(1, 10**15))
def test_bytes_without_a_unit_are_bytes(size: int) -> None:
    assert parse_memory(str(size)) == size


@pytest.mark.parametrize(
    ("text", "size"), [("8GiB", 8 * GIB), ("8GB", 8 * 10**9), ("1.5 GiB", GIB * 3 // 2), ("512mb", 512 * 10**6)]
)
def test_sizes_know_their_units(text: str, size: int) -> None:
    assert parse_memory(text) == size


def test_a_size_that_means_two_things_is_refused() -> None:
    with pytest.raises(ValueError, match="8GiB"):
        parse_memory("8G")
