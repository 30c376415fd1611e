"""OpenAI's completions as its clients speak them: requests, answers whole and in chunks, and what is refused."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes.chat import (
    Answer,
    ChatRequest,
    LoadOptions,
    Message,
    ReasoningDelta,
    Sampling,
    Stop,
    StopReason,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    Usage,
    collect,
)
from hermes.dialects import ClientDialect, Encoder, Meta
from hermes.dialects.openai_backend import VLLM, OpenAIBackend
from hermes.dialects.openai_completions import Completions
from hermes.errors import BackendError, BadRequest

DIALECT: ClientDialect = Completions()
BACKEND = OpenAIBackend(VLLM)
ASKED = ChatRequest("m", (Message("user", "1, 2,"),), completion=True, raw=True, thinking="off")
META = Meta("r1", 'mo"del', 1700000000)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
LEAST: dict[str, Any] = {"model": "m", "prompt": "1, 2,"}


def parse(**fields: Any) -> ChatRequest:
    return DIALECT.parse_request(json.dumps(LEAST | fields).encode())


FIELDS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"prompt": ["once"]}, {"messages": (Message("user", "once"),)}),
    ({"suffix": "}"}, {"suffix": "}", "raw": False}),
    ({"suffix": ""}, {}),
    ({"echo": True}, {"echo": True}),
    ({"logprobs": 0}, {"logprobs": True}),
    ({"logprobs": 5}, {"logprobs": True, "top_logprobs": 5}),
    ({"n": 1, "best_of": 1}, {}),
    ({"logit_bias": {"1": 2}, "ignore_eos": True}, {"extra": {"logit_bias": {"1": 2}, "ignore_eos": True}}),
    ({"top_k": 5, "min_p": 0.1, "repeat_penalty": 1.5}, {"sampling": Sampling(top_k=5, min_p=0.1, repeat_penalty=1.5)}),
    ({"stream": True, "stream_options": {"include_usage": True}}, {"stream": True, "include_usage": True}),
    ({"max_tokens": 5, "stop": ["a"], "seed": 1}, {"sampling": Sampling(max_tokens=5, stop=("a",), seed=1)}),
    ({"temperature": 0, "top_p": 0.5}, {"sampling": Sampling(0.0, 0.5)}),
    (
        {"presence_penalty": 1, "frequency_penalty": -1},
        {"sampling": Sampling(presence_penalty=1, frequency_penalty=-1)},
    ),
    ({"priority": 3, "service_tier": "flex"}, {"priority": 3, "service_tier": "flex"}),
    ({"options": {"num_ctx": 9}, "keep_alive": 5}, {"load_options": LoadOptions(9, keep_alive_s=5.0)}),
]


@pytest.mark.parametrize(("asked", "meant"), FIELDS, ids=lambda value: str(value)[:60])
def test_fields_are_understood(asked: dict[str, Any], meant: dict[str, Any]) -> None:
    assert parse() == ASKED
    parsed = parse(**asked)
    for name in ChatRequest.__struct_fields__:
        assert getattr(parsed, name) == meant.get(name, getattr(ASKED, name)), name


def test_null_means_absent() -> None:
    names = {name for asked, _ in FIELDS for name in asked} - {"prompt"}
    assert parse(**dict.fromkeys(names)) == ASKED


@pytest.mark.parametrize(
    ("asked", "param", "code"),
    [
        ({"model": None}, "model", "missing_required_parameter"),
        ({"prompt": None}, "prompt", "missing_required_parameter"),
        ({"prompt": ""}, "prompt", "missing_required_parameter"),
        ({"prompt": [""]}, "prompt", "missing_required_parameter"),
        ({"prompt": []}, "prompt", "missing_required_parameter"),
        ({"prompt": 5}, "prompt", "invalid_type"),
        ({"prompt": {"a": 1}}, "prompt", "invalid_type"),
        ({"prompt": [1, 2]}, "prompt", "unsupported_parameter"),
        ({"prompt": [[1, 2]]}, "prompt", "unsupported_parameter"),
        ({"prompt": ["a", "b"]}, "prompt", "unsupported_value"),
        ({"n": 2}, "n", "unsupported_value"),
        ({"n": 0}, "n", "unsupported_value"),
        ({"best_of": 2}, "best_of", "unsupported_value"),
        ({"echo": True, "logprobs": 0}, "echo", "unsupported_parameter"),
        ({"logprobs": True}, "logprobs", "invalid_type"),
        ({"logprobs": 21}, "logprobs", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"suffix": 5}, "suffix", "invalid_type"),
        ({"Prompt": "x"}, "Prompt", "ambiguous_key"),
    ],
)
def test_a_refusal_names_the_field(asked: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parse(**asked)
    assert (refused.value.param, refused.value.code) == (param, code)


def test_a_key_that_comes_twice_is_refused() -> None:
    with pytest.raises(BadRequest, match="twice"):
        DIALECT.parse_request(b'{"model":"m","prompt":"a","prompt":"b"}')


# --- answers ----------------------------------------------------------------------------------------------------------


def token(text: str, logprob: float = -0.5) -> dict[str, Any]:
    item = {"token": text, "logprob": logprob, "bytes": list(text.encode())}
    return item | {"top_logprobs": [dict(item)]}


def encoder(**asked: Any) -> Encoder:
    return DIALECT.encoder(ChatRequest("m", (Message("user", "1, 2,"),), True, **asked), META)


def payloads(stream: bytes) -> list[Any]:
    assert stream.endswith(b"\n\n")
    events = stream[:-2].split(b"\n\n")
    assert all(event.startswith(b"data: ") and b"\n" not in event for event in events)
    return [event[6:] if event == b"data: [DONE]" else json.loads(event[6:]) for event in events]


@pytest.mark.parametrize(
    ("reason", "told"),
    [("stop", "stop"), ("length", "length"), ("content_filter", "content_filter"), ("tool_calls", "stop")],
)
@pytest.mark.parametrize("echo", [False, True])
def test_a_whole_answer_has_the_documented_shape(echo: bool, reason: StopReason, told: str) -> None:
    answer = Answer(" 3, 4", "aside", (), Usage(7, 4, 0.1, 0.2, 0.3), reason)
    asked = ChatRequest("m", ASKED.messages, completion=True, raw=True, echo=echo)
    text = "1, 2, 3, 4" if echo else " 3, 4"
    assert json.loads(DIALECT.render_answer(answer, asked, META)) == {
        "id": "cmpl-r1",
        "object": "text_completion",
        "created": 1700000000,
        "model": 'mo"del',
        "choices": [{"text": text, "index": 0, "logprobs": None, "finish_reason": told}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 11},
    }


def test_a_stream_with_usage_is_this_one_byte_for_byte() -> None:
    events: list[StreamEvent] = [TextDelta(' "3"'), TextDelta(","), Usage(7, 4), Stop("tool_calls")]
    same = '{"id":"cmpl-r1","object":"text_completion","created":1700000000,"model":"mo\\"del","choices":['
    head, going_on = f'data: {same}{{"index":0,"text":', '"logprobs":null,"finish_reason":null}],"usage":null}'
    assert encoder(include_usage=True, echo=True).encode(events).decode() == (
        f'{head}"1, 2,",{going_on}\n\n'
        f'{head}" \\"3\\"",{going_on}\n\n'
        f'{head}",",{going_on}\n\n'
        f'{head}"","logprobs":null,"finish_reason":"stop"}}],"usage":null}}\n\n'
        f'data: {same}],"usage":{{"prompt_tokens":7,"completion_tokens":4,"total_tokens":11}}}}\n\n'
        "data: [DONE]\n\n"
    )


def test_logprobs_are_lists_side_by_side_and_offsets_go_on_through_the_stream() -> None:
    said = [
        TextDelta(" 3", (token(" "), token("3"))),
        TextDelta(",", (token(",", -1.0),)),
        TextDelta("4", (token("4"),)),
    ]
    first, second, third = (chunk["choices"][0] for chunk in payloads(encoder(logprobs=True).encode(said)))
    assert (first["text"], second["text"]) == (" 3", ",")
    assert first["logprobs"] == {
        "tokens": [" ", "3"],
        "token_logprobs": [-0.5, -0.5],
        "top_logprobs": [{" ": -0.5}, {"3": -0.5}],
        "text_offset": [0, 1],
    }
    assert (second["logprobs"]["text_offset"], third["logprobs"]["text_offset"]) == ([2], [3])
    answer = collect([*said, Stop("stop")])
    assert isinstance(answer, Answer)
    whole = json.loads(DIALECT.render_answer(answer, ASKED, META))["choices"][0]["logprobs"]
    assert (whole["text_offset"], whole["tokens"]) == ([0, 1, 2, 3], [" ", "3", ",", "4"])


def test_what_a_text_has_no_place_for_is_left_out() -> None:
    events = [ReasoningDelta("hm"), TextDelta("3"), ToolCallDelta(0, "{}", "c", "f"), Stop("stop")]
    chunks = payloads(encoder().encode(events))
    assert [chunk["choices"][0]["text"] for chunk in chunks[:-1]] == ["3", ""]


@pytest.mark.parametrize("said", [[], [TextDelta("half an ans")]])
def test_a_stream_that_fails_never_looks_done(said: list[StreamEvent]) -> None:
    """I5."""
    opened = encoder()
    stream = opened.encode(said) + opened.fail(BackendError("the backend went away"))
    assert b"[DONE]" not in stream and b'"stop"' not in stream
    assert payloads(stream)[-1]["error"]["message"] == "the backend went away"


@given(st.lists(TEXTS, min_size=1, max_size=5), st.booleans(), st.data())
def test_a_backends_stream_gives_the_same_bytes_wherever_it_is_cut(
    texts: list[str], echo: bool, data: st.DataObject
) -> None:
    """By way of the common values, with the short way for plain text as an attempt takes it."""
    chunks: list[Any] = [
        {"choices": [{"index": 0, "text": text, "logprobs": None, "finish_reason": None}], "usage": None}
        for text in texts
    ]
    chunks += [{"choices": [{"index": 0, "text": "", "finish_reason": "length"}]}]
    chunks += [{"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 4}}]
    wire = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"
    cuts = data.draw(st.just(range(len(wire))) | st.sets(st.integers(0, len(wire)), max_size=8).map(sorted))
    decoder, translated = BACKEND.decoder(ASKED, "a"), encoder(echo=echo)
    pieces = b""
    for begin, end in pairwise([0, *cuts, len(wire)]):
        plain = decoder.text(wire[begin:end]) if pieces else ""
        pieces += translated.text(plain) if plain else translated.encode(decoder.feed(wire[begin:end]))
    pieces += translated.encode(decoder.finish())
    said = [TextDelta(text) for text in texts if text]
    assert pieces == encoder(echo=echo).encode([*said, Usage(7, 4), Stop("length")])


# --- the backend ------------------------------------------------------------------------------------------------------


def test_an_openai_backend_is_asked_for_the_text_alone() -> None:
    asked = parse(stream=True, logprobs=0, max_tokens=3, seed=1, top_k=4, ignore_eos=True, ttl=5)
    path, body = BACKEND.render_request(asked, "m")
    assert path == "/v1/completions"
    assert json.loads(body) == {
        "model": "m",
        "prompt": "1, 2,",
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 3,
        "seed": 1,
        "logprobs": 1,
        "top_k": 4,
        "ignore_eos": True,
    }


@pytest.mark.parametrize(
    "logprobs",
    [
        {"tokens": ["a", "b"], "token_logprobs": [-0.5, None], "top_logprobs": [{"a": -0.5}, None], "text_offset": [0]},
        {
            "content": [
                {"token": "a", "logprob": -0.5, "top_logprobs": [{"token": "a", "logprob": -0.5}]},
                {"token": "b"},
            ]
        },
    ],
    ids=["vllm", "llamacpp"],
)
def test_logprobs_are_read_in_either_form(logprobs: dict[str, Any]) -> None:
    choice = {"index": 0, "text": "ab", "logprobs": logprobs, "finish_reason": "stop"}
    answer = BACKEND.whole(json.dumps({"choices": [choice]}).encode(), ASKED, "a")
    assert isinstance(answer, Answer) and answer.text == "ab"
    assert answer.logprobs == (token("a"), token("b", 0.0) | {"top_logprobs": []})
