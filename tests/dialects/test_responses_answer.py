"""OpenAI's responses as its clients read them: whole, in events, and as errors."""

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
    Tool,
    ToolCall,
    ToolCallDelta,
    Usage,
    collect,
)
from hermes.dialects import Encoder, Meta, room
from hermes.dialects.ollama import Ollama
from hermes.dialects.responses import Responses
from hermes.errors import BackendError, ContextLengthExceeded
from tests.dialects.cases import ANSWERS, Told

DIALECT = Responses()
OLLAMA = Ollama()
META = Meta("r1", 'mo"del', 1700000000)
TOOLS = (Tool("f"), Tool("mcp__w__look", namespace="mcp__w"), Tool("patch", freeform=True))
ASKED = ChatRequest("m", (), tools=TOOLS)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


def encoder(beats: int = 0) -> Encoder:
    return DIALECT.encoder(ASKED, Meta("r1", 'mo"del', 1700000000, beats=beats))


def payloads(stream: bytes, number: int = 0) -> list[Any]:
    """What a strict reader sees: each event its name and one line of data, whose type is that name, all numbered."""
    assert stream.endswith(b"\n\n")
    told = []
    for at, event in enumerate(stream[:-2].split(b"\n\n")):
        name, data = event.split(b"\n")
        assert name.startswith(b"event: ") and data.startswith(b"data: ")
        told.append(json.loads(data[6:]))
        assert told[-1]["type"] == name[7:].decode() and told[-1]["sequence_number"] == at + number
    return told


# By kind: what begins its part, its deltas, what ends its text and its part; where the text stands in these.
MESSAGE = ("content_part.added", "output_text.delta", "output_text.done", "content_part.done", "text")
THOUGHT = (
    "reasoning_summary_part.added",
    "reasoning_summary_text.delta",
    "reasoning_summary_text.done",
    "reasoning_summary_part.done",
    "text",
)
CALL = (None, "function_call_arguments.delta", "function_call_arguments.done", None, "arguments")
CUSTOM = (None, "custom_tool_call_input.delta", "custom_tool_call_input.done", None, "input")
KINDS = {"message": MESSAGE, "reasoning": THOUGHT, "function_call": CALL, "custom_tool_call": CUSTOM}


def text_of(item: dict[str, Any]) -> str:
    if item["type"] == "message":
        return "".join(part["text"] for part in item["content"])
    if item["type"] == "reasoning":
        return "".join(part["text"] for part in item["summary"])
    return str(item[KINDS[item["type"]][4]])


def read(stream: bytes) -> dict[str, Any]:
    """The response that a stream makes, each event looked at: in its place, and with nothing that does not belong."""
    created, going_on, *rest, end = payloads(stream)
    assert (created["type"], going_on["type"]) == ("response.created", "response.in_progress")
    assert created["response"] == going_on["response"]
    assert (created["response"]["status"], created["response"]["output"]) == ("in_progress", [])
    output: list[dict[str, Any]] = []
    while rest:
        output.append(_item(rest, len(output)))
    response: dict[str, Any] = end["response"]
    assert end["type"] == f"response.{response['status']}"
    assert response["output"] == output
    changes = ("status", "output", "usage", "incomplete_details")
    assert {k: v for k, v in response.items() if k not in changes}.items() <= created["response"].items()
    return response


def _item(events: list[dict[str, Any]], index: int) -> dict[str, Any]:
    """One item's events, taken from the front."""
    added = events.pop(0)
    assert (added["type"], added["output_index"]) == ("response.output_item.added", index)
    item: dict[str, Any] = added["item"]
    assert item.get("status", "in_progress") == "in_progress" and text_of(item) == ""
    opening, more, over, closing, field = KINDS[item["type"]]
    if opening is not None:
        part = _about(events.pop(0), opening, item, index)["part"]
        assert part["text"] == ""
    said = ""
    while events[0]["type"] == f"response.{more}":
        said += _about(events.pop(0), more, item, index)["delta"]
    assert _about(events.pop(0), over, item, index)[field] == said
    if closing is not None:
        assert _about(events.pop(0), closing, item, index)["part"]["text"] == said
    done = events.pop(0)
    assert (done["type"], done["output_index"]) == ("response.output_item.done", index)
    whole: dict[str, Any] = done["item"]
    assert text_of(whole) == said
    assert (whole["id"], whole["type"], whole.get("call_id")) == (item["id"], item["type"], item.get("call_id"))
    return whole


def _about(event: dict[str, Any], kind: str, item: dict[str, Any], index: int) -> dict[str, Any]:
    assert event["type"] == f"response.{kind}"
    assert (event["item_id"], event["output_index"]) == (item["id"], index)
    place = {"message": "content_index", "reasoning": "summary_index"}.get(item["type"])
    assert place is None or event[place] == 0
    return event


@pytest.mark.parametrize("told", ANSWERS.values(), ids=ANSWERS)
@pytest.mark.parametrize("one_by_one", [True, False])
def test_events_become_items_and_a_whole_answer_has_the_same(told: Told, one_by_one: bool) -> None:
    opened = encoder()
    batches = [[event] for event in told.events] if one_by_one else [told.events]
    streamed = read(b"".join([opened.encode(batch) for batch in batches]))
    answer = collect(told.events)
    assert isinstance(answer, Answer)
    assert streamed == json.loads(DIALECT.render_answer(answer, ASKED, META))
    assert streamed["output"]


def test_a_whole_answer_has_the_documented_shape() -> None:
    calls = (ToolCall("c1", "f", '{"a":1}'), ToolCall("c2", "mcp__w__look", "{}"))
    answer = Answer("Hello", "Hm", calls, Usage(22, 17, 0.1, 0.2, 0.3, 9), "tool_calls")
    told = json.loads(DIALECT.render_answer(answer, ASKED, META))
    assert told["output"] == [
        {
            "id": "rs_r1_0",
            "type": "reasoning",
            "summary": [{"type": "summary_text", "text": "Hm"}],
            "encrypted_content": "hermes",
        },
        {
            "id": "msg_r1_1",
            "type": "message",
            "status": "completed",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []}],
        },
        {
            "id": "fc_r1_2",
            "type": "function_call",
            "status": "completed",
            "call_id": "c1",
            "name": "f",
            "arguments": '{"a":1}',
        },
        {
            "id": "fc_r1_3",
            "type": "function_call",
            "status": "completed",
            "call_id": "c2",
            "name": "look",
            "namespace": "mcp__w",
            "arguments": "{}",
        },
    ]
    del told["output"]
    assert told == {
        "id": "resp_r1",
        "object": "response",
        "created_at": 1700000000,
        "status": "completed",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "metadata": {},
        "model": 'mo"del',
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "store": False,
        "temperature": None,
        "tool_choice": "auto",
        "tools": [],
        "top_p": None,
        "usage": {
            "input_tokens": 22,
            "input_tokens_details": {"cached_tokens": 9, "cache_write_tokens": 0},
            "output_tokens": 17,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 39,
        },
    }


@pytest.mark.parametrize(
    ("reason", "status", "why"),
    [
        ("stop", "completed", None),
        ("tool_calls", "completed", None),
        ("length", "incomplete", {"reason": "max_output_tokens"}),
        ("content_filter", "incomplete", {"reason": "content_filter"}),
    ],
)
def test_an_answer_that_is_cut_short_says_so_and_so_does_its_last_item(
    reason: StopReason, status: str, why: dict[str, str] | None
) -> None:
    events: list[StreamEvent] = [TextDelta("Let me"), ToolCallDelta(0, "{", "c", "f"), Stop(reason)]
    answer = collect(events)
    assert isinstance(answer, Answer)
    for told in (read(encoder().encode(events)), json.loads(DIALECT.render_answer(answer, ASKED, META))):
        assert (told["status"], told["incomplete_details"]) == (status, why)
        assert [item["status"] for item in told["output"]] == ["completed", status]


@pytest.mark.parametrize(
    ("written", "read_as"),
    [('{"input":"*** \\"x\\""}', '*** "x"'), ("*** x", "*** x"), ('{"patch":1}', '{"patch":1}'), ("", "")],
)
def test_a_custom_tool_gets_its_text_whatever_the_model_wrote(written: str, read_as: str) -> None:
    events: list[StreamEvent] = [
        ToolCallDelta(0, written[:3], "c", "patch"),
        ToolCallDelta(0, written[3:]),
        Stop("stop"),
    ]
    told = {"id": "ctc_r1_0", "type": "custom_tool_call", "status": "completed", "call_id": "c", "name": "patch"}
    assert read(encoder().encode(events))["output"] == [told | {"input": read_as}]
    answer = Answer("", "", (ToolCall("c", "patch", written),), Usage(), "stop")
    assert json.loads(DIALECT.render_answer(answer, ASKED, META))["output"] == [told | {"input": read_as}]


def test_logprobs_ride_on_their_delta_and_come_again_with_the_whole_text() -> None:
    item = {"token": "a", "logprob": -1.0, "bytes": [97], "top_logprobs": []}
    other = item | {"token": "b"}
    stream = encoder().encode([TextDelta("a", (item,)), TextDelta("b", (other,)), Stop("stop")])
    deltas = [event["logprobs"] for event in payloads(stream) if event["type"] == "response.output_text.delta"]
    assert deltas == [[item], [other]]
    (message,) = read(stream)["output"]
    assert message["content"][0]["logprobs"] == [item, other]


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
            name = draw(st.sampled_from([tool.name for tool in TOOLS] + ["unknown"]))
            events += [ToolCallDelta(calls, whole[:cut], f"c{calls}", name), ToolCallDelta(calls, whole[cut:])]
            calls += 1
    return [*events, Stop(draw(st.sampled_from(["stop", "length", "tool_calls", "content_filter"])))]


@given(streams())
def test_a_stream_says_what_the_whole_answer_says(events: list[StreamEvent]) -> None:
    answer = collect(events)
    assert isinstance(answer, Answer)
    streamed, whole = read(encoder().encode(events)), json.loads(DIALECT.render_answer(answer, ASKED, META))
    assert streamed["output"] and whole["output"]
    assert _gist(streamed) == _gist(whole)


def _gist(response: dict[str, Any]) -> Any:
    """All texts, all thoughts, all calls: in a stream they come in as many items as they were told in."""
    kinds: dict[str, list[Any]] = {"message": [], "reasoning": [], "function_call": [], "custom_tool_call": []}
    for item in response.pop("output"):
        known_as = [(item["call_id"], item["name"], item.get("namespace"))] if "call_id" in item else []
        kinds[item["type"]] += [*known_as, text_of(item)]
    return response, "".join(kinds.pop("message")), "".join(kinds.pop("reasoning")), kinds


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
    decoder, translated = OLLAMA.decoder(ChatRequest("m", (), stream=True), "answer7"), encoder()
    pieces: list[bytes] = []
    for begin, end in pairwise([0, *cuts, len(lines)]):
        chunk = lines[begin:end]
        plain = decoder.text(chunk) if b".delta" in b"".join(pieces) else ""
        pieces.append(translated.text(plain) if plain else translated.encode(decoder.feed(chunk)))
    pieces.append(translated.encode(decoder.finish()))
    assert b"".join(pieces) == encoder().encode(told.events)


def test_a_delta_is_this_one_byte_for_byte() -> None:
    opened = encoder()
    opened.encode([TextDelta("Hi")])
    assert opened.text('"you"').decode() == (
        'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","sequence_number":5,'
        '"item_id":"msg_r1_0","output_index":0,"content_index":0,"logprobs":[],"delta":"\\"you\\""}\n\n'
    )


def test_a_call_that_has_ended_cannot_be_gone_back_to() -> None:
    opened = encoder()
    opened.encode([ToolCallDelta(0, "{", "c", "f"), ToolCallDelta(1, "{}", "d", "f")])
    with pytest.raises(BackendError, match="went back"):
        opened.encode([ToolCallDelta(0, "}")])


def test_nothing_yet_is_no_bytes() -> None:
    opened = encoder()
    assert opened.encode([]) == b""
    assert [event["type"] for event in payloads(opened.encode([Usage(1, 1)]))] == [
        "response.created",
        "response.in_progress",
    ]


@pytest.mark.parametrize("said", [[], [TextDelta("half an ans")], [ReasoningDelta("Hm"), TextDelta("half an ans")]])
def test_a_stream_that_fails_never_looks_done(said: list[StreamEvent]) -> None:
    """I5: what was said to its end is told again, what was not never ends."""
    opened = encoder()
    events = payloads(opened.encode(said) + opened.fail(BackendError("the backend went away", param="x")))
    assert events[0]["type"] == "response.created"
    failed = events.pop()
    assert failed["type"] == "response.failed" and failed["response"]["status"] == "failed"
    assert failed["response"]["error"] == {"code": "backend_error", "message": "the backend went away", "param": "x"}
    assert [item["type"] for item in failed["response"]["output"]] == ["reasoning"][: len(said) - 1]
    assert not [event for event in events if event["type"] in ("response.completed", "response.output_text.done")]


@pytest.mark.parametrize(
    "more",
    [
        [TextDelta("x" * 40)],
        [TextDelta("x", ({"token": "x", "logprob": -1.0, "bytes": [120], "top_logprobs": []},))],
        [ToolCallDelta(0, "x" * 40, "c", "patch")],
        [TextDelta("x"), ReasoningDelta("x")],
    ],
    ids=["text", "probabilities", "a custom tool's text", "items"],
)
def test_a_stream_without_end_is_not_kept_without_end(more: list[StreamEvent], monkeypatch: pytest.MonkeyPatch) -> None:
    """I13: the last event tells all of it again."""
    monkeypatch.setattr(room, "MAX_KEPT_BYTES", 4000)
    opened = encoder()
    with pytest.raises(BackendError, match="longer than 4000 bytes"):
        for _ in range(100):
            opened.encode(more)


def test_a_failure_among_the_events_is_an_error_too() -> None:
    assert payloads(encoder().encode([Failure("out of memory")]))[-1]["response"]["error"]["message"] == "out of memory"


def test_an_overlong_prompt_is_told_by_the_code_that_codex_looks_for() -> None:
    error = payloads(encoder().fail(ContextLengthExceeded("620 tokens")))[-1]["response"]["error"]
    assert error["code"] == "context_length_exceeded" and "maximum context length" in error["message"]


# --- while it waits ---------------------------------------------------------------------------------------------------


def test_who_waits_is_told_in_events_that_the_stream_then_goes_on_from() -> None:
    meta, stream = Meta("r1", 'mo"del', 1700000000), b""
    for position in (3, 2, 1):
        comment, beat = DIALECT.queued(position, 4200, meta).split(b"\n\n", 1)
        assert comment == b": queued position=%d eta_ms=4200" % position
        stream += beat
        meta.beats += 1
    told = payloads(stream + DIALECT.encoder(ASKED, meta).encode([TextDelta("Hi"), Stop("stop")]))
    kinds = [event["type"].removeprefix("response.") for event in told]
    assert kinds[:5] == ["created", "queued", "queued", "in_progress", "output_item.added"]
    assert [event["response"]["status"] for event in told[:4]] == ["queued", "queued", "queued", "in_progress"]
    assert kinds[-1] == "completed" and len({event["response"]["id"] for event in (*told[:4], told[-1])}) == 1


def test_who_waited_in_vain_is_told_why() -> None:
    meta = Meta("r1", 'mo"del', 1700000000, beats=2)
    (told,) = payloads(DIALECT.encoder(ASKED, meta).fail(BackendError("no")), 2)
    assert told["type"] == "response.failed"
