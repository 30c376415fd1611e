"""The prompt dialect: a prompt in, a result out, and every typo told."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes.chat import (
    Answer,
    ChatRequest,
    Failure,
    JsonFormat,
    LoadOptions,
    Message,
    ReasoningDelta,
    Sampling,
    Stop,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from hermes.dialects import ClientDialect, Meta
from hermes.dialects.prompt import Prompt
from hermes.errors import BackendError, BadRequest

DIALECT: ClientDialect = Prompt()
ASKED = ChatRequest("m", ())
META = Meta("r1", "gemma", 1700000000, lambda: {"queue_ms": 3.25, "total_ms": 240.0})
USAGE = Usage(22, 3, 0.004, 0.0005, 0.0015)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


def parse(model: str | None = "gemma", /, **body: Any) -> ChatRequest:
    return DIALECT.parse_request(json.dumps({"prompt": "Hi"} | body).encode(), model)


def refusal(model: str | None = "gemma", /, **body: Any) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        parse(model, **body)
    assert caught.value.status == 400
    return caught.value


def test_a_prompt_alone_is_enough() -> None:
    assert parse() == ChatRequest("gemma", (Message("user", "Hi"),), completion=True)


def test_a_system_text_comes_first() -> None:
    assert parse(system="Be brief").messages == (Message("system", "Be brief"), Message("user", "Hi"))


@pytest.mark.parametrize(
    ("named", "body", "model"),
    [("a", {}, "a"), (None, {"model": "a"}, "a"), ("a", {"model": "a"}, "a"), ("a", {"model": None}, "a")],
)
def test_the_model_is_named_by_route_or_body(named: str | None, body: dict[str, Any], model: str) -> None:
    assert parse(named, **body).model == model


@pytest.mark.parametrize(
    ("named", "body", "code"),
    [
        (None, {}, "missing_required_parameter"),
        (None, {"model": ""}, "missing_required_parameter"),
        ("a", {"model": "b"}, "invalid_value"),
    ],
)
def test_no_model_and_two_models_are_refused(named: str | None, body: dict[str, Any], code: str) -> None:
    error = refusal(named, **body)
    assert (error.param, error.code) == ("model", code)


@pytest.mark.parametrize(
    ("options", "meant"),
    [
        (
            {"temperature": 1, "top_p": 0.5, "top_k": 40, "min_p": 0, "seed": 7, "stop": "a", "max_tokens": 9},
            {"sampling": Sampling(1.0, 0.5, 40, 0.0, 7, 9, ("a",))},
        ),
        (
            {"presence_penalty": 1, "frequency_penalty": -1, "repeat_penalty": 1.1, "stop": ["a", "b"]},
            {"sampling": Sampling(stop=("a", "b"), presence_penalty=1.0, frequency_penalty=-1.0, repeat_penalty=1.1)},
        ),
        ({"repeat_last_n": 64, "typical_p": 0.5}, {"sampling": Sampling(repeat_last_n=64, typical_p=0.5)}),
        ({"num_predict": 5}, {"sampling": Sampling(max_tokens=5)}),
        ({"num_predict": -1}, {}),
        ({"num_predict": None, "max_tokens": None, "think": None, "format": None}, {}),
        ({"think": True}, {"thinking": "on"}),
        ({"think": False}, {"thinking": "off"}),
        *[({"think": level}, {"thinking": level}) for level in ("on", "off", "low", "medium", "high", "max")],
        ({"num_ctx": 8192}, {"load_options": LoadOptions(8192)}),
        (
            {"num_batch": 1, "num_gpu": -1, "main_gpu": 0, "num_thread": 2, "use_mmap": False, "draft_num_predict": 3},
            {"load_options": LoadOptions(None, 1, -1, 0, 2, False, 3)},
        ),
        ({"num_ctx": None}, {}),
        ({"format": "json"}, {"json_format": JsonFormat()}),
        ({"format": {"type": "object"}}, {"json_format": JsonFormat({"type": "object"})}),
    ],
    ids=lambda value: str(value)[:60],
)
def test_options_are_understood(options: dict[str, Any], meant: dict[str, Any]) -> None:
    parsed = parse(options=options)
    for name in ChatRequest.__struct_fields__:
        assert getattr(parsed, name) == meant.get(name, getattr(parse(), name)), name


@pytest.mark.parametrize(
    ("body", "param", "hint"),
    [
        ({"promt": "x"}, "promt", "did you mean `prompt`?"),
        ({"option": {}}, "option", "did you mean `options`?"),
        ({"temperature": 1}, "temperature", "did you mean `options.temperature`?"),
        ({"messages": []}, "messages", "known are keep_alive, model, options, priority, prompt, stream, system"),
        ({"options": {"temprature": 1}}, "options.temprature", "did you mean `options.temperature`?"),
        ({"options": {"Seed": 1}}, "options.Seed", "did you mean `options.seed`?"),
        ({"options": {"steam": True}}, "options.steam", "did you mean `stream`?"),
        ({"options": {"num_contex": 4096}}, "options.num_contex", "did you mean `options.num_ctx`?"),
        ({"num_ctx": 4096}, "num_ctx", "did you mean `options.num_ctx`?"),
        ({"options": {"keep_alive": 5}}, "options.keep_alive", "did you mean `keep_alive`?"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_known_one(body: dict[str, Any], param: str, hint: str) -> None:
    error = refusal(**body)
    assert (error.param, error.code) == (param, "unknown_parameter")
    assert hint in error.message


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"prompt": None}, "prompt", "missing_required_parameter"),
        ({"prompt": ""}, "prompt", "invalid_value"),
        ({"prompt": " \n"}, "prompt", "invalid_value"),
        ({"prompt": 5}, "prompt", "invalid_type"),
        ({"prompt": ["Hi"]}, "prompt", "invalid_type"),
        ({"stream": "true"}, "stream", "invalid_type"),
        ({"options": []}, "options", "invalid_type"),
        ({"options": {"max_tokens": 5, "num_predict": 5}}, "options.num_predict", "invalid_value"),
        ({"options": {"num_predict": 0}}, "options.num_predict", "invalid_value"),
        ({"options": {"temperature": 3}}, "options.temperature", "invalid_value"),
        ({"options": {"top_k": 0}}, "options.top_k", "invalid_value"),
        ({"options": {"seed": "x"}}, "options.seed", "invalid_type"),
        ({"options": {"think": "hard"}}, "options.think", "invalid_value"),
        ({"options": {"think": 1}}, "options.think", "invalid_type"),
        ({"options": {"format": "xml"}}, "options.format", "invalid_value"),
        ({"Prompt": "x"}, "Prompt", "ambiguous_key"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(body: dict[str, Any], param: str, code: str) -> None:
    error = refusal(**body)
    assert (error.param, error.code) == (param, code)


# --- answers ------------------------------------------------------------------------------------------------------

ACCOUNT = {
    "usage": {"prompt_tokens": 22, "completion_tokens": 3, "total_tokens": 25},
    "timings": {"load_ms": 4.0, "prefill_ms": 0.5, "decode_ms": 1.5, "queue_ms": 3.25, "total_ms": 240.0},
}


def test_a_whole_answer_is_the_result_and_what_it_took() -> None:
    whole = json.loads(DIALECT.render_answer(Answer("Hello", "", (), USAGE, "stop"), ASKED, META))
    assert whole == {"result": "Hello", "model": "gemma", "reason": "stop", **ACCOUNT}


def test_thoughts_are_told_where_there_are_any() -> None:
    whole = json.loads(DIALECT.render_answer(Answer("Hello", "hm", (), USAGE, "length"), ASKED, META))
    assert (whole["result"], whole["reasoning"], whole["reason"]) == ("Hello", "hm", "length")


def test_unknown_timings_are_left_out() -> None:
    whole = json.loads(DIALECT.render_answer(Answer("", "", (), Usage(1, 1), "stop"), ASKED, Meta("r", "m", 0)))
    assert whole["timings"] == {}


def lines(stream: bytes) -> list[Any]:
    assert stream.endswith(b"\n") or not stream
    return [json.loads(line) for line in stream.split(b"\n")[:-1]]


@given(st.lists(st.tuples(st.booleans(), TEXTS)))
def test_any_text_comes_back_from_the_lines_as_it_went_in(pieces: list[tuple[bool, str]]) -> None:
    events = [TextDelta(text) if said else ReasoningDelta(text) for said, text in pieces]
    encoder = DIALECT.encoder(parse(stream=True), META)
    stream = b"".join([encoder.encode([event]) for event in [*events, USAGE, Stop("length")]])
    *deltas, done = lines(stream)
    assert deltas == [{"delta" if said else "reasoning": text} for said, text in pieces]
    assert done == {"done": True, "model": "gemma", "reason": "length", **ACCOUNT}


@pytest.mark.parametrize("said", [[], [TextDelta("half")], [ToolCallDelta(0, "{}", "c", "f")]])
def test_a_stream_that_fails_never_says_done(said: list[StreamEvent]) -> None:
    """I5."""
    encoder = DIALECT.encoder(parse(stream=True), META)
    seen = lines(encoder.encode(said) + encoder.fail(BackendError("gone")))
    assert seen[-1]["error"]["message"] == "gone" and not any("done" in line for line in seen)
    assert lines(encoder.encode([Failure("gone")]))[-1]["error"]["message"] == "gone"


def test_a_stream_that_waits_is_told_its_place_in_a_line_of_its_own() -> None:
    line = DIALECT.queued(3, 4200, META)
    assert line.endswith(b"\n") and json.loads(line) == {"queued": {"position": 3, "eta_ms": 4200}}
    assert DIALECT.encoder(parse(), META).aside("queue-ms=3") == b""  # a line of JSON has no comments


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        (0, 0.0),
        (-1, -1.0),
        (300.5, 300.5),
        ("0", 0.0),
        ("-1s", -1.0),
        ("90s", 90.0),
        ("1h30m", 5400.0),
        ("1.5m250ms", 90.25),
        ("2\u00b5s", 2e-6),
    ],
)
def test_how_long_a_model_is_to_stay_is_understood_as_ollama_has_it(said: Any, seconds: float) -> None:
    asked = parse(keep_alive=said).load_options
    assert asked == LoadOptions(keep_alive_s=pytest.approx(seconds))


@pytest.mark.parametrize("said", ["", "5", "5 m", "m", "1h30", "--1s", "forever", "\u0665m", [], True, 1e300])
def test_a_keep_alive_that_is_no_time_is_refused(said: Any) -> None:
    assert refusal(keep_alive=said).param == "keep_alive"


def test_a_priority_is_understood() -> None:
    assert parse(priority=-3).priority == -3
    assert parse(priority=None).priority == parse().priority == 0


def test_an_error_has_openais_shape() -> None:
    assert json.loads(DIALECT.render_error(BadRequest("no", param="prompt"), "r1")) == {
        "error": {"message": "no", "type": "invalid_request_error", "param": "prompt", "code": "invalid_value"}
    }
