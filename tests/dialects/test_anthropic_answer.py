"""Anthropic's messages as its clients read them: whole, in events, and as errors."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes.chat import (
    Answer,
    ChatRequest,
    Failure,
    ReasoningDelta,
    Stop,
    StopReason,
    StreamEvent,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    Usage,
    collect,
)
from hermes.dialects import Encoder, Meta
from hermes.dialects.anthropic import Anthropic
from hermes.dialects.ollama import Ollama
from hermes.errors import (
    BackendError,
    BadRequest,
    BodyTooLarge,
    ContextLengthExceeded,
    Dismissed,
    Forbidden,
    GatewayError,
    ModelNotFound,
    NoBackend,
    QueueFull,
    QueueTimeout,
    Unauthenticated,
)
from tests.dialects.cases import ANSWERS, Told

DIALECT = Anthropic()
OLLAMA = Ollama()
ASKED = ChatRequest("m", ())
META = Meta("r1", 'mo"del', 1700000000, prompt_tokens=11)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


def encoder() -> Encoder:
    return DIALECT.encoder(ChatRequest("m", (), stream=True), META)


def payloads(stream: bytes) -> list[Any]:
    """What a strict reader sees: each event its name and one line of data, whose type is that name."""
    assert stream.endswith(b"\n\n")
    told = []
    for event in stream[:-2].split(b"\n\n"):
        name, data = event.split(b"\n")
        assert name.startswith(b"event: ") and data.startswith(b"data: ")
        told.append(json.loads(data[6:]))
        assert told[-1]["type"] == name[7:].decode()
    return told


DELTAS = {
    "text": ("text_delta", "text"),
    "thinking": ("thinking_delta", "thinking"),
    "tool_use": ("input_json_delta", "partial_json"),
}


def read(stream: bytes) -> dict[str, Any]:
    """The message that a stream makes, each event looked at: in its place, and with nothing that does not belong."""
    start, *blocks, delta, stop = payloads(stream)
    assert (start.keys(), stop) == ({"type", "message"}, {"type": "message_stop"})
    message: dict[str, Any] = start["message"]
    assert (message["content"], message["stop_reason"], message["stop_sequence"]) == ([], None, None)
    open_block: dict[str, Any] | None = None
    for event in blocks:
        if event["type"] == "content_block_start":
            assert open_block is None and event["index"] == len(message["content"])
            open_block, said = event["content_block"], ""
            message["content"].append(open_block)
            continue
        assert open_block is not None and event["index"] == len(message["content"]) - 1
        kind, field = DELTAS[open_block["type"]]
        if event["type"] == "content_block_delta" and event["delta"]["type"] == "signature_delta":
            assert open_block["type"] == "thinking" and not open_block["signature"]
            open_block["signature"] = event["delta"]["signature"]
        elif event["type"] == "content_block_delta":
            assert event["delta"].keys() == {"type", field} and event["delta"]["type"] == kind
            assert not open_block.get("signature"), "nothing follows a signature"
            said += event["delta"][field]
        else:
            assert event.keys() == {"type", "index"} and event["type"] == "content_block_stop"
            if open_block["type"] == "tool_use":
                assert open_block["input"] == {}
                open_block["input"] = json.loads(said or "{}")
            else:
                assert open_block[field] == ""
                open_block[field] = said
            open_block = None
    assert open_block is None
    assert (delta.keys(), delta["type"]) == ({"type", "delta", "usage"}, "message_delta")
    return message | delta["delta"] | {"usage": message["usage"] | delta["usage"]}


def thinking(said: str) -> dict[str, Any]:
    return {"type": "thinking", "thinking": said, "signature": "hermes"}


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def tool_use(id: str, name: str, **given: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": id, "name": name, "input": given}


CONTENT: dict[str, tuple[list[dict[str, Any]], str]] = {
    "text": ([text("Hello, é\u2028\n")], "end_turn"),
    "the last line may carry text": ([text("All of it")], "max_tokens"),
    "thoughts first": ([thinking("let me"), text("Yes")], "end_turn"),
    "calls in the last line, by a native template": (
        [tool_use("97w3", "look", city="Oslo"), tool_use("eyei", "now")],
        "tool_use",
    ),
    "calls in the middle, from an older server without ids": (
        [
            text("Wait"),
            tool_use("call_answer7_0", "look", n=1),
            tool_use("call_answer7_1", "look", n=2),
            tool_use("call_answer7_2", "now"),
        ],
        "tool_use",
    ),
    "cut short in a call": ([tool_use("x", "f")], "max_tokens"),
    "loaded, nothing said, nothing counted": ([text("")], "end_turn"),
    "bytes of a token computed where they are missing": ([text("é")], "end_turn"),
}


@pytest.mark.parametrize(("name", "told"), ANSWERS.items(), ids=ANSWERS)
@pytest.mark.parametrize("one_by_one", [True, False])
def test_events_become_blocks_and_a_whole_answer_has_the_same(name: str, told: Told, one_by_one: bool) -> None:
    opened = encoder()
    batches = [[event] for event in told.events] if one_by_one else [told.events]
    streamed = read(b"".join([opened.encode(batch) for batch in batches]))
    answer = collect(told.events)
    assert isinstance(answer, Answer)
    assert streamed == json.loads(DIALECT.render_answer(answer, ASKED, META))
    assert (streamed["content"], streamed["stop_reason"]) == CONTENT[name]


def test_a_stream_is_this_one_byte_for_byte() -> None:
    events: list[StreamEvent] = [
        ReasoningDelta("Hm"),
        TextDelta('Hi "you"'),
        TextDelta("!"),
        ToolCallDelta(0, '{"a"', "c", "f"),
        ToolCallDelta(0, ":1}"),
        Usage(22, 3),
        Stop("stop"),
    ]
    delta = 'event: content_block_delta\ndata: {"type":"content_block_delta","index":'
    start = 'event: content_block_start\ndata: {"type":"content_block_start","index":'
    stop = 'event: content_block_stop\ndata: {"type":"content_block_stop","index":'
    assert encoder().encode(events).decode() == (
        'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_r1","type":"message",'
        '"role":"assistant","model":"mo\\"del","content":[],"stop_reason":null,"stop_sequence":null,"usage":'
        '{"input_tokens":11,"output_tokens":0,"cache_creation_input_tokens":0,"cache_read_input_tokens":0}}}\n\n'
        f'{start}0,"content_block":{{"type":"thinking","thinking":"","signature":""}}}}\n\n'
        f'{delta}0,"delta":{{"type":"thinking_delta","thinking":"Hm"}}}}\n\n'
        f'{delta}0,"delta":{{"type":"signature_delta","signature":"hermes"}}}}\n\n'
        f"{stop}0}}\n\n"
        f'{start}1,"content_block":{{"type":"text","text":""}}}}\n\n'
        f'{delta}1,"delta":{{"type":"text_delta","text":"Hi \\"you\\""}}}}\n\n'
        f'{delta}1,"delta":{{"type":"text_delta","text":"!"}}}}\n\n'
        f"{stop}1}}\n\n"
        f'{start}2,"content_block":{{"type":"tool_use","id":"c","name":"f","input":{{}}}}}}\n\n'
        f'{delta}2,"delta":{{"type":"input_json_delta","partial_json":"{{\\"a\\""}}}}\n\n'
        f'{delta}2,"delta":{{"type":"input_json_delta","partial_json":":1}}"}}}}\n\n'
        f"{stop}2}}\n\n"
        'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"tool_use","stop_sequence":null},'
        '"usage":{"input_tokens":22,"output_tokens":3,"cache_read_input_tokens":0}}\n\n'
        'event: message_stop\ndata: {"type":"message_stop"}\n\n'
    )


@st.composite
def streams(draw: st.DrawFn) -> list[StreamEvent]:
    """Pieces in any order; those of one call are never apart."""
    events: list[StreamEvent] = []
    calls = 0
    for kind in draw(st.lists(st.sampled_from(["text", "thought", "call", "usage"]), max_size=8)):
        if kind == "text":
            events.append(TextDelta(draw(TEXTS)))
        elif kind == "thought":
            events.append(ReasoningDelta(draw(TEXTS)))
        elif kind == "usage":
            events.append(Usage(draw(st.integers(0, 9)), draw(st.integers(0, 9))))
        else:
            whole = json.dumps(draw(st.dictionaries(TEXTS, TEXTS, max_size=2)))
            cut = draw(st.integers(0, len(whole)))
            events += [
                ToolCallDelta(calls, whole[:cut], f"c{calls}", "f"),
                ToolCallDelta(calls, whole[cut:]),
            ]
            calls += 1
    return [*events, Stop(draw(st.sampled_from(["stop", "length", "tool_calls", "content_filter"])))]


@given(streams())
def test_a_stream_says_what_the_whole_answer_says(events: list[StreamEvent]) -> None:
    answer = collect(events)
    assert isinstance(answer, Answer)
    streamed, whole = read(encoder().encode(events)), json.loads(DIALECT.render_answer(answer, ASKED, META))
    assert streamed["content"] and whole["content"]
    assert _gist(streamed) == _gist(whole)


def _gist(message: dict[str, Any]) -> Any:
    """All texts, all thoughts, all calls: in a stream they come in as many blocks as they were told in."""
    kinds: dict[str, list[Any]] = {"text": [], "thinking": [], "tool_use": []}
    for block in message.pop("content"):
        kinds[block["type"]].append(block if block["type"] == "tool_use" else block[block["type"]])
    return message, "".join(kinds["text"]), "".join(kinds["thinking"]), kinds["tool_use"]


@given(streams(), st.data())
def test_how_events_come_together_changes_no_byte(events: list[StreamEvent], data: st.DataObject) -> None:
    """Nor does the short way, which plain text takes once a stream has begun."""
    at_once, cut_up = encoder().encode(events), encoder()
    pieces, rest = [cut_up.encode(events[:1])], events[1:]
    while rest:
        if type(rest[0]) is TextDelta and data.draw(st.booleans()):
            pieces.append(cut_up.text(rest.pop(0).text))  # type: ignore[union-attr]
        else:
            count = data.draw(st.integers(1, len(rest)))
            pieces.append(cut_up.encode(rest[:count]))
            rest = rest[count:]
    assert b"".join(pieces) == at_once


@pytest.mark.parametrize("told", ANSWERS.values(), ids=ANSWERS)
@given(data=st.data())
def test_a_backends_stream_gives_the_same_bytes_wherever_it_is_cut(told: Told, data: st.DataObject) -> None:
    """By way of the common values, with the short way for plain text as an attempt takes it."""
    lines = b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in told.ollama)
    cuts = data.draw(st.just(range(len(lines))) | st.sets(st.integers(0, len(lines)), max_size=8).map(sorted))
    ends = [0, *cuts, len(lines)]
    decoder, translated = OLLAMA.decoder(ChatRequest("m", (), stream=True), "answer7"), encoder()
    pieces: list[bytes] = []
    for begin, end in pairwise(ends):
        chunk = lines[begin:end]
        begun = b"content_block_delta" in b"".join(pieces)
        plain = decoder.text(chunk) if begun else ""
        pieces.append(translated.text(plain) if plain else translated.encode(decoder.feed(chunk)))
    pieces.append(translated.encode(decoder.finish()))
    assert b"".join(pieces) == encoder().encode(told.events)


def test_a_call_that_has_ended_cannot_be_gone_back_to() -> None:
    opened = encoder()
    opened.encode([ToolCallDelta(0, "{", "c", "f"), ToolCallDelta(1, "{}", "d", "g")])
    with pytest.raises(BackendError, match="went back"):
        opened.encode([ToolCallDelta(0, "}")])


def test_nothing_yet_is_no_bytes() -> None:
    opened = encoder()
    assert opened.encode([]) == b""
    assert [event["type"] for event in payloads(opened.encode([Usage(1, 1)]))] == ["message_start"]


@pytest.mark.parametrize("said", [[], [TextDelta("half an ans")]])
def test_a_stream_that_fails_never_looks_done(said: list[StreamEvent]) -> None:
    """I5: the error is the last event, and there is no message_stop."""
    opened = encoder()
    stream = opened.encode(said) + opened.fail(BackendError("the backend went away"))
    assert b"message_stop" not in stream and b"message_delta" not in stream
    assert payloads(stream)[-1]["error"]["message"] == "the backend went away"


def test_a_failure_among_the_events_is_an_error_too() -> None:
    assert payloads(encoder().encode([Failure("out of memory")]))[-1]["error"]["message"] == "out of memory"


def test_who_waits_gets_a_ping_and_whoever_looks_the_place() -> None:
    ping = b'event: ping\ndata: {"type":"ping"}\n\n'
    assert DIALECT.queued(3, 4200, META) == b": queued position=3 eta_ms=4200\n\n" + ping
    assert encoder().aside("queue-ms=3") == b": queue-ms=3\n\n"


# --- whole ------------------------------------------------------------------------------------------------------------


def test_a_whole_answer_has_the_documented_shape() -> None:
    answer = Answer("Hello", "", (), Usage(22, 17, 0.1, 0.2, 0.3), "stop")
    assert json.loads(DIALECT.render_answer(answer, ASKED, META)) == {
        "id": "msg_r1",
        "type": "message",
        "role": "assistant",
        "model": 'mo"del',
        "content": [{"type": "text", "text": "Hello"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 22,
            "output_tokens": 17,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
        },
    }


@pytest.mark.parametrize(
    ("reason", "called", "told"),
    [
        ("stop", False, "end_turn"),
        ("stop", True, "tool_use"),
        ("tool_calls", True, "tool_use"),
        ("length", False, "max_tokens"),
        ("length", True, "max_tokens"),
        ("content_filter", False, "refusal"),
    ],
)
def test_why_it_ended_is_told_in_anthropics_words(reason: StopReason, called: bool, told: str) -> None:
    calls = (ToolCall("c", "f", "{}"),) if called else ()
    answer = Answer("", "", calls, Usage(), reason)
    assert json.loads(DIALECT.render_answer(answer, ASKED, META))["stop_reason"] == told


@pytest.mark.parametrize(
    ("written", "read"),
    [('{"a":1}', {"a": 1}), ("", {}), ("{", {"value": "{"}), ("[1]", {"value": [1]}), ("[" * 99 + "]" * 99, None)],
)
def test_a_calls_input_is_an_object_whatever_the_model_wrote(written: str, read: dict[str, Any] | None) -> None:
    answer = Answer("", "", (ToolCall("c", "f", written),), Usage(), "stop")
    (block,) = json.loads(DIALECT.render_answer(answer, ASKED, META))["content"]
    assert block == tool_use("c", "f", **({"value": written} if read is None else read))


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "kind", "param", "code"),
    [
        (BadRequest("no", param="n"), "invalid_request_error", "n", "invalid_value"),
        (Unauthenticated("no"), "authentication_error", None, "invalid_api_key"),
        (Forbidden("no"), "permission_error", None, "admin_only"),
        (ModelNotFound("no"), "not_found_error", None, "model_not_found"),
        (BodyTooLarge("no"), "request_too_large", None, "request_too_large"),
        (QueueFull("no"), "rate_limit_error", None, "queue_full"),
        (Dismissed("no"), "invalid_request_error", None, "cancelled"),
        (GatewayError("no"), "api_error", None, "internal_error"),
        (BackendError("no"), "api_error", None, "backend_error"),
        (NoBackend("no"), "overloaded_error", None, "no_backend"),
        (QueueTimeout("no"), "timeout_error", None, "queue_timeout"),
    ],
)
def test_an_error_has_the_type_that_the_sdks_know(error: GatewayError, kind: str, param: str | None, code: str) -> None:
    assert json.loads(DIALECT.render_error(error, "r1")) == {
        "type": "error",
        "error": {"type": kind, "message": "no", "details": {"error_code": code, "param": param}},
        "request_id": "r1",
    }


@pytest.mark.parametrize("words", ["request (620 tokens) exceeds it", "prompt is too long: 9 tokens > 8 maximum"])
def test_an_overlong_prompt_is_told_in_the_words_that_claude_code_matches(words: str) -> None:
    error = json.loads(DIALECT.render_error(ContextLengthExceeded(words), "r1"))["error"]
    assert error["type"] == "invalid_request_error"
    assert error["message"].startswith("prompt is too long: ")
    assert error["message"].count("prompt is too long") == 1 and words in error["message"]


def test_tokens_that_had_been_read_before_are_counted_apart() -> None:
    usage = Usage(22, 3, cached_tokens=20)
    whole = json.loads(DIALECT.render_answer(Answer("Hi", "", (), usage, "stop"), ASKED, META))["usage"]
    streamed = payloads(encoder().encode([TextDelta("Hi"), usage, Stop("stop")]))[-2]["usage"]
    for told in (whole, streamed):
        assert (told["input_tokens"], told["cache_read_input_tokens"], told["output_tokens"]) == (2, 20, 3)
