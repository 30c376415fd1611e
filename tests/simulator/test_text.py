from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes.simulator.requests import ChatMessage, Inference, Options, ToolSpec
from hermes.simulator.text import Script, compose, count_tokens, keywords, split_tokens
from tests.simulator.harness import CHAT, THINKER

PROMPTS = st.text(max_size=300)
WEATHER = ToolSpec("get_weather", {"properties": {"city": {"type": "string"}}, "required": ["city"]})
CLOCK = ToolSpec("tell_time", {"properties": {}})


def say(prompt: str = "Explain relativity", options: Options | None = None, model: Any = CHAT, **fields: Any) -> Script:
    messages = fields.pop("messages", (ChatMessage("user", prompt),))
    return compose(model, Inference("chat", model.name, messages, **fields), options or Options(), 4096, None, 0)


def text(script: Script) -> str:
    return "".join(script.content)


@given(PROMPTS, st.integers(0, 5))
def test_the_same_prompt_and_seed_give_the_same_answer(prompt: str, seed: int) -> None:
    assert say(prompt, Options(seed=seed)) == say(prompt, Options(seed=seed))


def test_another_seed_prompt_or_model_gives_another_answer() -> None:
    answers = [say(), say(options=Options(seed=1)), say("Explain relativity!"), say(model=THINKER, think=False)]
    assert len({text(answer) for answer in answers}) == 4


def test_answers_are_about_the_prompt_and_differ_in_length() -> None:
    answers = [say(f"Why do {topic} matter?") for topic in ("volcanoes", "contracts", "violins", "glaciers")]
    assert "volcanoes" in text(answers[0]).lower()
    assert "glaciers" in text(answers[3]).lower()
    assert len({answer.tokens for answer in answers}) == 4


@given(PROMPTS, st.integers(-1, 60))
def test_num_predict_bounds_the_tokens(prompt: str, limit: int) -> None:
    whole, cut = say(prompt), say(prompt, Options(num_predict=limit))
    if limit < 0 or whole.tokens <= limit:
        assert cut == whole
        assert cut.reason == "stop"
    else:
        assert (cut.tokens, cut.reason) == (max(1, limit), "length")  # Ollama makes one token of 0 (measured)
        assert text(whole).startswith(text(cut))


@given(PROMPTS, st.lists(st.sampled_from([" ", "the", "is", ".", "zz", "e", " a"]), max_size=3))
def test_a_stop_text_ends_the_answer_before_it(prompt: str, stops: list[str]) -> None:
    whole, stopped = text(say(prompt)), say(prompt, Options(stop=tuple(stops)))
    assert not any(stop in text(stopped) for stop in stops)
    assert whole.startswith(text(stopped))
    first = min((whole.find(stop) for stop in stops if stop in whole), default=len(whole))
    assert len(text(stopped)) == first


def test_the_tokens_of_a_stop_text_were_decoded_though_unseen() -> None:
    script = say("[[tokens:20]] x", Options(stop=(text(say("[[tokens:20]] x"))[10:18],)))
    assert len(text(script)) == 10
    assert script.tokens == count_tokens("x" * 18)


@given(st.text(max_size=100))
def test_a_token_is_four_characters(whole: str) -> None:
    tokens = split_tokens(whole)
    assert "".join(tokens) == whole
    assert len(tokens) == count_tokens(whole)
    assert all(len(token) == 4 for token in tokens[:-1])


@pytest.mark.parametrize("length", [1, 2, 50, 999])
def test_a_prompt_can_ask_for_a_length(length: int) -> None:
    script = say(f"[[tokens:{length}]] about whales")
    assert len(script.content) == length
    assert script.tokens == length + 1  # the end of the text is a token too, as in Ollama's eval_count


def test_no_sentence_comes_twice_before_all_have_been_said() -> None:
    sentences = text(say("[[tokens:250]] whales")).split(". ")
    assert len(sentences) > 12
    assert len(set(sentences)) == len(sentences)


def test_markers_and_little_words_are_no_topics() -> None:
    assert keywords("[[fault:cut after=3]] Explain the migration of whales to me") == ("migration", "whales")


def test_a_thinking_model_thinks_unless_told_not_to() -> None:
    assert not say(think=True).thinking
    assert say(model=THINKER).thinking
    assert not say(model=THINKER, think=False).thinking
    short, long = (len(say(model=THINKER, think=level).thinking) for level in ("low", "max"))
    assert short < long


@pytest.mark.parametrize(
    ("prompt", "names"),
    [
        ("what does get_weather say of Oslo", ["get_weather"]),
        ("Use GET_WEATHER and tell_time", ["get_weather", "tell_time"]),
        ("use a tool", ["get_weather"]),
        ("just talk", []),
    ],
)
def test_a_prompt_that_names_tools_gets_calls_of_them(prompt: str, names: list[str]) -> None:
    script = say(prompt, tools=(WEATHER, CLOCK))
    assert [call.name for call in script.calls] == names
    assert bool(script.content) is not bool(names)


def test_arguments_satisfy_the_tool_s_schema() -> None:
    (call,) = say("get_weather in Oslo", tools=(WEATHER,)).calls
    assert isinstance(call.arguments["city"], str)
    assert call.arguments["city"]


def test_after_a_tool_has_answered_the_model_speaks() -> None:
    asked = (ChatMessage("user", "And Oslo?"), ChatMessage("assistant"))
    script = say(tools=(WEATHER,), messages=(*asked, ChatMessage("tool", "tool: wet", tool_name="get_weather")))
    assert not script.calls
    assert text(script).startswith("According to get_weather: tool: wet.")
    assert "Oslo" in text(script)


def test_a_call_that_was_cut_short_is_no_call() -> None:
    assert say("use a tool", Options(num_predict=2), tools=(WEATHER,)).calls == ()


@pytest.mark.parametrize("wanted", ["json", {"type": "object", "properties": {"n": {"type": "integer"}}}])
def test_a_format_makes_the_answer_json(wanted: Any) -> None:
    assert isinstance(msgspec.json.decode(text(say(format=wanted))), dict)


def test_images_are_counted() -> None:
    assert "3 images" in text(say(messages=(ChatMessage("user", "look", images=3),)))
