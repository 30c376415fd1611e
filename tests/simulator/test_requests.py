from typing import Any

import msgspec
import pytest

from hermes.simulator.gojson import Refusal
from hermes.simulator.requests import FOREVER_S, read_chat, read_embed, read_generate, read_keep_alive, read_options


def chat(**members: Any) -> Any:
    return read_chat(msgspec.json.encode({"model": "m", "messages": [{"role": "user", "content": "x"}], **members}))


def refusal(call: Any, *arguments: Any) -> tuple[int, str]:
    with pytest.raises(Refusal) as caught:
        call(*arguments)
    return caught.value.status, caught.value.text


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        (5, 5.0),
        (0, 0.0),
        (0.5, 0.5),
        (-1, FOREVER_S),
        (1e300, FOREVER_S),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("300ms", 0.3),
        ("1.5s", 1.5),
        ("0", 0.0),
        ("-1m", FOREVER_S),
        ("+2s", 2.0),
    ],
)
def test_keep_alive_is_read_as_go_reads_a_duration(value: Any, seconds: float | None) -> None:
    assert read_keep_alive(value) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("zork", 'time: invalid duration "zork"'),
        ("", 'time: invalid duration ""'),
        ("5", 'time: missing unit in duration "5"'),
        ("5x", 'time: invalid duration "5x"'),
        (True, "Unsupported type: 'bool'"),
        ([], "Unsupported type: '[]interface {}'"),
    ],
)
def test_a_wrong_keep_alive_is_refused_in_go_s_words(value: Any, text: str) -> None:
    assert refusal(read_keep_alive, value) == (400, text)


def test_options_know_what_a_running_model_cannot_change() -> None:
    options = read_options(
        {"num_ctx": 8192.0, "num_gpu": 3, "use_mmap": False, "stop": ["a", ""], "zork": 1, "seed": None}
    )
    assert (options.num_ctx, options.stop, options.seed) == (8192, ("a",), None)
    assert options.load == (("num_gpu", 3), ("use_mmap", False))


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"num_ctx": "many"}, 'option "num_ctx" must be of type integer'),
        ({"seed": True}, 'option "seed" must be of type integer'),
        ({"temperature": "hot"}, 'option "temperature" must be of type float32'),
        ({"use_mmap": 1}, 'option "use_mmap" must be of type boolean'),
        ({"stop": "x"}, 'option "stop" must be of type array'),
        ({"stop": [1]}, 'option "stop" must be of an array of strings'),
    ],
)
def test_an_option_of_the_wrong_type_is_a_500(given: dict[str, Any], text: str) -> None:
    assert refusal(read_options, given) == (500, text)


def test_streaming_truncating_and_shifting_are_on_unless_switched_off() -> None:
    assert (chat().stream, chat().truncate, chat().shift) == (True, True, True)
    assert (chat(stream=False).stream, chat(truncate=False).truncate, chat(shift=False).shift) == (False, False, False)


@pytest.mark.parametrize("value", [None, True, False, "low", "medium", "high", "max"])
def test_think_is_a_switch_or_a_level(value: Any) -> None:
    assert chat(think=value).think is value or chat(think=value).think == value


def test_what_think_is_not_is_refused() -> None:
    assert refusal(lambda: chat(think="banana"))[1].startswith('invalid think value: "banana" (must be "high"')
    assert refusal(lambda: chat(think=7))[1].startswith("think must be a boolean or string")
    assert refusal(lambda: chat(think=[]))[1].startswith("think must be a boolean or string")


def test_images_are_base64_and_counted() -> None:
    assert chat(messages=[{"role": "user", "content": "x", "images": ["aGk=", ""]}]).messages[0].images == 2
    bad = [{"role": "user", "images": ["aGk=", "aa@@"]}]
    assert refusal(lambda: chat(messages=bad)) == (400, "illegal base64 data at input byte 2")


def test_content_parts_are_not_spoken_here() -> None:
    status, text = refusal(lambda: chat(messages=[{"role": "user", "content": [{"type": "text", "text": "x"}]}]))
    assert (status, "ChatRequest.messages.content of type string" in text) == (400, True)


def test_top_logprobs_are_twenty_at_most() -> None:
    assert refusal(lambda: chat(top_logprobs=21)) == (400, "top_logprobs must be between 0 and 20")


def test_raw_mode_takes_a_prompt_alone() -> None:
    body = msgspec.json.encode({"model": "m", "prompt": "x", "raw": True, "system": "s"})
    assert refusal(read_generate, body) == (400, "raw mode does not support template, system, or context")


def test_a_generate_prompt_is_a_user_message_after_its_system() -> None:
    request = read_generate(msgspec.json.encode({"model": "m", "prompt": "p", "system": "s", "context": [1, 2, 3]}))
    assert [(message.role, message.content) for message in request.messages] == [("system", "s"), ("user", "p")]
    assert request.context_tokens == 3
    assert read_generate(b'{"model": "m", "system": "s"}').empty


@pytest.mark.parametrize(("given", "inputs"), [("x", ("x",)), ("", ()), (None, ()), ([], ()), (["a", ""], ("a", ""))])
def test_embed_takes_a_text_or_a_list(given: Any, inputs: tuple[str, ...]) -> None:
    assert read_embed(msgspec.json.encode({"model": "m", "input": given})).inputs == inputs


@pytest.mark.parametrize("given", [7, [1, 2], [["a"]], {"a": 1}, ["a", 1]])
def test_embed_takes_no_token_ids(given: Any) -> None:
    assert refusal(read_embed, msgspec.json.encode({"model": "m", "input": given})) == (400, "invalid input type")
