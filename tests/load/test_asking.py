"""In which words a server is asked."""

import json

import pytest

from hermes.load.asking import APIS, Prompts, body, found_in
from hermes.load.plan import Asked

ASKED = Asked(7, None, "org/gemma:4b", 20, 50)


def test_prompts_have_their_length_and_no_two_begin_alike() -> None:
    prompts = Prompts(seed=1)
    texts = [prompts.text(Asked(number, None, "gemma", 20, 50)).split() for number in range(50)]
    assert {len(words) for words in texts} == {20}
    assert len({words[0] for words in texts}) == 50 and len({tuple(words[1:]) for words in texts}) == 50
    assert len(prompts.text(Asked(0, None, "gemma", 50_000, 1)).split()) == 50_000


def test_alike_they_are_the_same_as_far_as_they_go() -> None:
    prompts = Prompts(seed=1, alike=True)
    short, long = (prompts.text(Asked(number, None, "gemma", 10 + number, 50)) for number in (0, 9))
    assert long.startswith(short + " ")


def test_what_is_laid_over_a_body_replaces_and_within_an_object_joins() -> None:
    said = json.loads(body(APIS["ollama"], ASKED, "Hi", {"options": {"seed": 1}, "stream": False, "keep_alive": 5}))
    assert said["options"] == {"num_predict": 50, "seed": 1}
    assert (said["stream"], said["keep_alive"], said["model"]) == (False, 5, "org/gemma:4b")


def test_a_model_stands_in_a_path_as_it_has_to() -> None:
    assert APIS["prompt"].target("org/gemma:4b") == "/v1/llm/org%2Fgemma:4b"


@pytest.mark.parametrize(
    ("url", "base", "api"),
    [
        ("http://box:8000", "http://box:8000", ""),
        ("http://box:8000/v1", "http://box:8000", ""),
        ("http://box:8000/v1/", "http://box:8000", ""),
        ("http://box/llm/v1/chat/completions", "http://box/llm", "openai"),
        ("http://box/v1/completions", "http://box", "completions"),
        ("http://box/api/chat", "http://box", "ollama"),
        ("http://box/api/generate", "http://box", "generate"),
        ("unix:///run/hermes.sock", "unix:///run/hermes.sock", ""),
    ],
)
def test_a_url_may_name_the_api_or_be_a_base_url_of_sdks(url: str, base: str, api: str) -> None:
    assert found_in(url) == (base, api)
