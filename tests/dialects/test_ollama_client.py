"""Ollama's API as its clients speak it: what they ask is understood, and they are told what Ollama would tell."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes.chat import (
    Answer,
    ChatRequest,
    Embeddings,
    EmbedRequest,
    Failure,
    Image,
    JsonFormat,
    LoadOptions,
    Message,
    ReasoningDelta,
    RichMessage,
    Sampling,
    Stop,
    StreamEvent,
    Text,
    TextDelta,
    Tool,
    ToolCall,
    ToolCallDelta,
    Usage,
    collect,
)
from hermes.dialects import EmbedDialect, Encoder, Meta, room
from hermes.dialects.ollama import Ollama
from hermes.dialects.ollama_client import OllamaClient, OllamaGenerate
from hermes.errors import BackendError, BadRequest, GatewayError, ModelNotFound, QueueFull
from tests.dialects.cases import ANSWERS, CONVERSATIONS, PIXEL, USAGE, Said, Told

CHAT: EmbedDialect = OllamaClient()
GENERATE: EmbedDialect = OllamaGenerate()
BACKEND = Ollama()
ASKED = ChatRequest("m", ())
META = Meta("r1", 'mo"del', 1700000000)
HEAD = {"model": 'mo"del', "created_at": "2023-11-14T22:13:20Z"}
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
HI = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


def parse(dialect: EmbedDialect = CHAT, /, **fields: Any) -> ChatRequest:
    least = HI if dialect is CHAT else {"model": "m", "prompt": "Hi"}
    return dialect.parse_request(json.dumps(least | fields).encode())


def refusal(dialect: EmbedDialect = CHAT, /, **fields: Any) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        parse(dialect, **fields)
    return caught.value


def rendered(request: ChatRequest) -> dict[str, Any]:
    """What a backend would be asked."""
    return dict(json.loads(BACKEND.render_request(request, "m")[1]))


# --- chats --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_messages_go_through_as_they_came(said: Said) -> None:
    assert rendered(parse(messages=said.ollama))["messages"] == said.ollama


def test_a_result_that_names_only_its_call_is_told_by_the_functions_name_too() -> None:
    """LangChain sends no `tool_name`, which is what models are told."""
    calls = [{"id": "c1", "function": {"name": "look", "arguments": {}}}]
    messages = [{"role": "assistant", "tool_calls": calls}, {"role": "tool", "content": "sky", "tool_call_id": "c1"}]
    assert parse(messages=messages).messages[1] == RichMessage(
        "tool", (Text("sky"),), tool_call_id="c1", tool_name="look"
    )


@pytest.mark.parametrize(
    ("head", "media_type"),
    [
        ("iVBORw0KGgoA", "image/png"),
        ("/9j/4AAQSkZJ", "image/jpeg"),
        ("UklGRiQAAABX", "image/webp"),
        ("R0lGODlhAQAB", "image/gif"),
        ("AAAA", "image/*"),
    ],
)
def test_the_kind_of_an_image_is_seen_in_its_bytes(head: str, media_type: str) -> None:
    (message,) = parse(messages=[{"role": "User", "content": "What?", "images": [head]}]).messages
    assert message == RichMessage("user", (Text("What?"), Image(media_type, head)))


FIELDS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"stream": True}),
    ({"stream": False}, {"stream": False}),
    ({"stream": None, "options": None, "keep_alive": None, "think": None, "format": None, "tools": None}, {}),
    ({"tools": [], "format": "", "options": {}}, {}),
    (
        {
            "options": {
                "temperature": 0.5,
                "top_p": 1,
                "top_k": 0,
                "min_p": 0,
                "seed": -1,
                "num_predict": 9,
                "stop": ["a", ""],
                "presence_penalty": 1,
                "frequency_penalty": -1,
                "repeat_penalty": 1.1,
                "repeat_last_n": -1,
                "typical_p": 0.7,
            }
        },
        {"sampling": Sampling(0.5, 1.0, 0, 0.0, -1, 9, ("a",), 1.0, -1.0, 1.1, -1, 0.7)},
    ),
    ({"options": {"num_predict": -1}}, {}),
    ({"options": {"num_predict": -2, "mirostat": 1, "num_keep": 4}}, {}),
    ({"options": {"num_ctx": 8192, "use_mmap": True}}, {"load_options": LoadOptions(8192, use_mmap=True)}),
    ({"keep_alive": "5m"}, {"load_options": LoadOptions(keep_alive_s=300.0)}),
    ({"keep_alive": -1}, {"load_options": LoadOptions(keep_alive_s=-1.0)}),
    ({"think": True}, {"thinking": "on"}),
    ({"think": False}, {"thinking": "off"}),
    ({"think": "high"}, {"thinking": "high"}),
    ({"format": "json"}, {"json_format": JsonFormat()}),
    ({"format": {"type": "object"}}, {"json_format": JsonFormat({"type": "object"})}),
    ({"logprobs": True, "top_logprobs": 20}, {"logprobs": True, "top_logprobs": 20}),
    ({"truncate": True, "shift": True, "_debug_render_only": False, "user": "me"}, {}),
    ({"priority": 3}, {"priority": 3}),
]


@pytest.mark.parametrize("dialect", [CHAT, GENERATE], ids=["chat", "generate"])
@pytest.mark.parametrize(("asked", "meant"), FIELDS, ids=lambda value: str(value)[:60])
def test_fields_are_understood(dialect: EmbedDialect, asked: dict[str, Any], meant: dict[str, Any]) -> None:
    parsed = parse(dialect, **asked)
    for name in ChatRequest.__struct_fields__:
        assert getattr(parsed, name) == meant.get(name, getattr(parse(dialect), name)), name
    assert parse(dialect, **asked, unheard_of=1) == parsed, "read closely it means the same"


def test_tools_are_understood() -> None:
    """ollama-python writes out every key that it knows, in the order that pydantic has them."""
    function = {"name": "look", "description": "See", "parameters": {"type": "object", "$defs": {}}}
    assert parse(tools=[{"type": "function", "function": function}, {"function": {"name": "g"}}]).tools == (
        Tool("look", "See", {"type": "object", "$defs": {}}),
        Tool("g"),
    )


@pytest.mark.parametrize(
    ("asked", "param", "code"),
    [
        ({"model": None}, "model", "missing_required_parameter"),
        ({"model": 5}, "model", "invalid_type"),
        ({"Model": "x"}, "Model", "ambiguous_key"),
        ({"me\u017f\u017fages": []}, "me\u017f\u017fages", "ambiguous_key"),
        ({"messages": "Hi"}, "messages", "invalid_type"),
        ({"messages": [{"role": "user", "content": ["Hi"]}]}, "messages[0].content", "invalid_type"),
        ({"messages": [{"role": "robot", "content": "Hi"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": "user", "images": ["a"]}]}, "messages[0].images[0]", "invalid_base64"),
        (
            {"messages": [{"role": "user", "images": [f"data:image/png;base64,{PIXEL}"]}]},
            "messages[0].images[0]",
            "invalid_base64",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": {}}}]}]},
            "messages[0].tool_calls[0].function.name",
            "missing_required_parameter",
        ),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "missing_required_parameter"),
        ({"tools": [{"type": "web", "function": {"name": "f"}}]}, "tools[0].type", "unsupported_parameter"),
        ({"stream": "false"}, "stream", "invalid_type"),
        ({"think": "deeply"}, "think", "invalid_value"),
        ({"format": "xml"}, "format", "invalid_value"),
        ({"keep_alive": "later"}, "keep_alive", "invalid_value"),
        ({"options": {"temperature": "hot"}}, "options.temperature", "invalid_type"),
        ({"options": {"num_predict": 0}}, "options.num_predict", "invalid_value"),
        ({"options": {"num_ctx": -1}}, "options.num_ctx", "invalid_value"),
        ({"top_logprobs": 21}, "top_logprobs", "invalid_value"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_is_wrong_is_named(asked: dict[str, Any], param: str, code: str) -> None:
    error = refusal(**asked)
    assert (error.status, error.param, error.code) == (400, param, code)


# --- prompts ------------------------------------------------------------------------------------------------------


def test_a_prompt_is_a_completion_that_keeps_what_only_ollama_can_do() -> None:
    parsed = parse(GENERATE, system="Be brief", suffix="}", images=[PIXEL])
    see = RichMessage("user", (Text("Hi"), Image("image/png", PIXEL)))
    assert (parsed.messages, parsed.completion) == ((Message("system", "Be brief"), see), True)
    assert rendered(parsed) == {
        "model": "m",
        "stream": True,
        "truncate": False,
        "system": "Be brief",
        "prompt": "Hi",
        "images": [PIXEL],
        "suffix": "}",
    }


@pytest.mark.parametrize("fields", [{"raw": True}, {"suffix": "}"}])
def test_what_is_raw_or_to_be_filled_in_is_generated_even_where_a_model_could_think(fields: dict[str, Any]) -> None:
    path, body = BACKEND.render_request(parse(GENERATE, **fields), "m")
    assert (path, json.loads(body)) == (
        "/api/generate",
        {"model": "m", "stream": True, "truncate": False, "prompt": "Hi", **fields},
    )


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"template": "{{ .Prompt }}"}, "template"),
        ({"context": [1, 2]}, "context"),
        ({"raw": True, "system": "Be brief"}, "raw"),
        ({"images": ["?"]}, "images[0]"),
        ({"prompt": ["Hi"]}, "prompt"),
        ({"Template": ""}, "Template"),
    ],
)
def test_what_cannot_be_kept_of_a_prompt_is_refused_by_name(asked: dict[str, Any], param: str) -> None:
    assert refusal(GENERATE, **asked).param == param


def test_what_clients_leave_empty_is_not_refused() -> None:
    """LangChain's OllamaLLM sends them all."""
    assert parse(GENERATE, template="", context=[], system="", suffix="", raw=False, images=[]) == parse(GENERATE)


@pytest.mark.parametrize(
    ("dialect", "body"),
    [
        (CHAT, {"model": "m"}),
        (CHAT, {"model": "m", "messages": [], "keep_alive": 0}),
        (GENERATE, {"model": "m"}),
        (GENERATE, {"model": "m", "prompt": "", "system": "Be brief", "keep_alive": 0}),
    ],
)
def test_nothing_asked_has_no_messages(dialect: EmbedDialect, body: dict[str, Any]) -> None:
    asked = dialect.parse_request(json.dumps(body).encode())
    assert asked.messages == ()
    assert asked.load_options == (LoadOptions(keep_alive_s=0.0) if "keep_alive" in body else None)


# --- answers ------------------------------------------------------------------------------------------------------


def encoder(dialect: EmbedDialect = CHAT, meta: Meta = META) -> Encoder:
    return dialect.encoder(ChatRequest("m", (), stream=True), meta)


def lines(stream: bytes) -> list[dict[str, Any]]:
    assert stream.endswith(b"\n") or not stream
    return [json.loads(line) for line in stream.split(b"\n")[:-1]]


def decode(*chunks: bytes) -> list[StreamEvent]:
    reading = BACKEND.decoder(ChatRequest("m", (), stream=True), "answer7")
    return [event for chunk in chunks for event in reading.feed(chunk)] + reading.finish()


def settled(events: list[StreamEvent]) -> list[StreamEvent]:
    """Calls come at the end. What took no time is told to have taken the least there is."""
    calls = [event for event in events if type(event) is ToolCallDelta]
    least = Usage(prefill_s=1e-9, decode_s=1e-9)
    others = [least if event == Usage() else event for event in events if type(event) is not ToolCallDelta]
    return [*others[:-2], *calls, *others[-2:]]


@pytest.mark.parametrize("dialect", [CHAT, GENERATE], ids=["chat", "generate"])
@pytest.mark.parametrize("told", ANSWERS.values(), ids=ANSWERS)
def test_events_become_lines_that_say_the_same_at_any_cut(told: Told, dialect: EmbedDialect) -> None:
    data = encoder(dialect).encode(told.events)
    opened = encoder(dialect)
    assert b"".join([opened.encode([event]) for event in told.events]) == data
    for at in range(len(data)):
        assert decode(data[:at], data[at:]) == settled(told.events)
    assert decode(*[data[at : at + 1] for at in range(len(data))]) == settled(told.events)


@given(st.lists(st.tuples(st.booleans(), TEXTS.filter(bool))), st.lists(st.integers(0, 600), max_size=9))
def test_any_text_comes_back_from_the_lines_as_it_went_in(pieces: list[tuple[bool, str]], cuts: list[int]) -> None:
    events: list[StreamEvent] = [TextDelta(text) if said else ReasoningDelta(text) for said, text in pieces]
    events += [USAGE, Stop("length")]
    data = encoder().encode(events)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    assert decode(*[data[a:b] for a, b in pairwise(edges)]) == events


def test_a_chat_is_these_lines_byte_for_byte() -> None:
    head = '{"model":"mo\\"del","created_at":"2023-11-14T22:13:20Z","message":{"role":"assistant","content":'
    events: list[StreamEvent] = [TextDelta('Hi "you"'), Usage(22, 3, 0.1, 0.2, 0.3), Stop("stop")]
    meta = Meta("r1", 'mo"del', 1700000000, lambda: {"queue_ms": 400.0, "total_ms": 2000.0})
    assert encoder(meta=meta).encode(events).decode() == (
        f'{head}"Hi \\"you\\""}},"done":false}}\n'
        f'{head}""}},"done":true,"done_reason":"stop","total_duration":2000000000,"load_duration":500000000,'
        '"prompt_eval_count":22,"prompt_eval_duration":200000000,"eval_count":3,"eval_duration":300000000}\n'
    )


def test_a_prompt_is_answered_in_its_own_words() -> None:
    first, thought, last = lines(
        encoder(GENERATE).encode([TextDelta("Hi"), ReasoningDelta("Hm"), Usage(), Stop("length")])
    )
    assert first == HEAD | {"response": "Hi", "done": False}
    assert thought == HEAD | {"response": "", "thinking": "Hm", "done": False}
    assert (last["response"], last["done"], last["done_reason"]) == ("", True, "length")


@pytest.mark.parametrize("dialect", [CHAT, GENERATE], ids=["chat", "generate"])
def test_text_is_what_encode_makes_of_it(dialect: EmbedDialect) -> None:
    assert encoder(dialect).text("é\u2028\n") == encoder(dialect).encode([TextDelta("é\u2028\n")])


@pytest.mark.parametrize("told", ANSWERS.values(), ids=ANSWERS)
def test_a_whole_answer_is_what_its_stream_adds_up_to(told: Told) -> None:
    answer = collect(settled(told.events))
    assert isinstance(answer, Answer)
    for dialect in (CHAT, GENERATE):
        said = BACKEND.whole(dialect.render_answer(answer, ASKED, META), ChatRequest("m", ()), "answer7")
        assert said == answer


def test_calls_without_end_are_not_kept_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """I13: they are told at the end."""
    monkeypatch.setattr(room, "MAX_KEPT_BYTES", 1000)
    opened = encoder()
    opened.encode([ToolCallDelta(0, "{", "c", "f")])
    with pytest.raises(BackendError, match="longer than 1000 bytes"):
        for _ in range(100):
            opened.encode([ToolCallDelta(0, "x" * 40)])


def test_the_pieces_of_a_call_are_told_together() -> None:
    pieces: list[StreamEvent] = [
        ToolCallDelta(0, '{"a"', "c", "f"),
        ToolCallDelta(1, "", "d", "g"),
        ToolCallDelta(0, ": [1.0]}"),
    ]
    opened = encoder()
    assert [opened.encode([piece]) for piece in pieces] == [b"", b"", b""]
    calls, last = lines(opened.encode([USAGE, Stop("tool_calls")]))
    assert (calls["done"], last["done_reason"]) == (False, "stop")
    assert calls["message"]["tool_calls"] == [
        {"id": "c", "function": {"index": 0, "name": "f", "arguments": {"a": [1.0]}}},
        {"id": "d", "function": {"index": 1, "name": "g", "arguments": {}}},
    ]


@pytest.mark.parametrize("arguments", ["[1]", '"x"', "{", "null", "[" * 5000])
def test_arguments_that_are_no_object_are_the_backends_fault(arguments: str) -> None:
    """Clients are promised an object. What the model has written instead is not passed off as one."""
    call = ToolCall("c", "f", arguments)
    with pytest.raises(BackendError):
        CHAT.render_answer(Answer("", "", (call,), Usage(), "tool_calls"), ASKED, META)
    with pytest.raises(BackendError):
        encoder().encode([ToolCallDelta(0, arguments, "c", "f"), Stop("tool_calls")])


def test_no_duration_is_nothing_where_a_backend_tells_none() -> None:
    """Clients divide by them: tokens in a second."""
    meta = Meta("r1", "m", 0, lambda: {"queue_ms": 500.0, "total_ms": 2000.0})
    told = json.loads(CHAT.render_answer(Answer("Hi", "", (), Usage(4, 3), "stop"), ASKED, meta))
    durations = {key: value for key, value in told.items() if key.endswith("_duration")}
    assert durations == {
        "total_duration": 2_000_000_000,
        "load_duration": 500_000_000,
        "prompt_eval_duration": 1,
        "eval_duration": 1_500_000_000,
    }


@pytest.mark.parametrize("said", [[], [TextDelta("half an ans")], [ToolCallDelta(0, "{}", "c", "f")]])
def test_a_stream_that_fails_never_says_done(said: list[StreamEvent]) -> None:
    """I5."""
    opened = encoder()
    seen = lines(opened.encode(said) + opened.fail(BackendError("gone")))
    assert seen[-1] == {"error": "gone", "code": "backend_error"}
    assert not any(line.get("done") for line in seen)
    assert lines(encoder().encode([Failure("gone")]))[-1]["error"] == "gone"


@pytest.mark.parametrize("dialect", [CHAT, GENERATE], ids=["chat", "generate"])
def test_a_sign_of_life_is_a_piece_with_nothing_in_it(dialect: EmbedDialect) -> None:
    beat = dialect.queued(3, 4200, META)
    assert beat.endswith(b"\n") and json.loads(beat)["queued"] == {"position": 3, "eta_ms": 4200}
    assert json.loads(beat) == json.loads(encoder(dialect).text("")) | {"queued": {"position": 3, "eta_ms": 4200}}
    assert decode(beat) == [] and encoder(dialect).aside("queue-ms=3") == b""


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (BadRequest("no", param="think"), {"error": "no", "code": "invalid_value", "param": "think"}),
        (QueueFull("full"), {"error": "full", "code": "queue_full"}),
        (ModelNotFound("not served"), {"error": "model not found: not served", "code": "model_not_found"}),
        (ModelNotFound("model 'x' not found"), {"error": "model 'x' not found", "code": "model_not_found"}),
    ],
)
def test_an_error_is_a_text(error: GatewayError, told: dict[str, Any]) -> None:
    assert json.loads(CHAT.render_error(error, "r1")) == told


# --- embeddings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "meant"),
    [
        ({"input": "Hi"}, EmbedRequest("m", ("Hi",), truncate=True)),
        ({"input": ["Hi", ""], "truncate": False, "dimensions": 8}, EmbedRequest("m", ("Hi", ""), 8)),
        ({"input": ["Hi"], "dimensions": 0, "truncate": None}, EmbedRequest("m", ("Hi",), truncate=True)),
        ({"input": ""}, EmbedRequest("m", (), truncate=True)),
        ({"input": []}, EmbedRequest("m", (), truncate=True)),
        ({}, EmbedRequest("m", (), truncate=True)),
        (
            {"input": "Hi", "options": {"num_ctx": 512, "temperature": 1}, "keep_alive": 5, "priority": 1},
            EmbedRequest("m", ("Hi",), truncate=True, priority=1, load_options=LoadOptions(512, keep_alive_s=5.0)),
        ),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_is_to_be_embedded_is_understood(fields: dict[str, Any], meant: EmbedRequest) -> None:
    assert CHAT.parse_embed(json.dumps({"model": "m", **fields}).encode()) == meant


def test_the_older_form_has_one_text_whose_vector_is_as_the_model_made_it() -> None:
    asked = GENERATE.parse_embed(b'{"model": "m", "prompt": "Hi"}')
    assert asked == EmbedRequest("m", ("Hi",), truncate=True, normalised=False)
    assert BACKEND.render_embed(asked, "m") == ("/api/embeddings", b'{"model":"m","prompt":"Hi"}')
    assert GENERATE.parse_embed(b'{"model": "m"}').texts == ()
    made = BACKEND.embeddings(b'{"embedding":[0.5,2]}', asked)
    assert GENERATE.render_embeddings(made, asked, META) == b'{"embedding":[0.5,2.0]}'


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": [1, 2]}, "input[0]"),
        ({"input": 5}, "input"),
        ({"Input": "x"}, "Input"),
        ({"dimensions": -1}, "dimensions"),
    ],
)
def test_what_cannot_be_embedded_is_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        CHAT.parse_embed(json.dumps({"model": "m", **fields}).encode())
    assert caught.value.param == param


def test_vectors_are_told_with_what_they_took() -> None:
    asked = EmbedRequest("m", ("a", "b"), 2)
    body = b'{"embeddings":[[0.25,1],[0,-1e-9]],"total_duration":30,"load_duration":10,"prompt_eval_count":7}'
    made = BACKEND.embeddings(body, asked)
    assert made == Embeddings([[0.25, 1.0], [0.0, -1e-9]], Usage(7, load_s=1e-8, prefill_s=2e-8))
    assert json.loads(CHAT.render_embeddings(made, asked, META)) == {
        "model": 'mo"del',
        "embeddings": [[0.25, 1.0], [0.0, -1e-9]],
        "total_duration": 30,
        "load_duration": 10,
        "prompt_eval_count": 7,
    }


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"{}",
        b'{"embeddings":[[1]]}',
        b'{"embeddings":[[1],[]]}',
        b'{"embeddings":[[1],[2],[3]]}',
        b'{"embeddings":[[1],["2"]]}',
        b'{"embeddings":[[1],[NaN]]}',
        b'{"embedding":[1]}',
    ],
)
def test_an_answer_without_a_vector_for_each_text_is_the_backends_fault(body: bytes) -> None:
    """I15."""
    with pytest.raises(BackendError):
        BACKEND.embeddings(body, EmbedRequest("m", ("a", "b")))


def test_pinned_options_go_with_what_is_to_be_embedded() -> None:
    pinned = Ollama(options={"num_ctx": 512}, keep_alive=60)
    path, body = pinned.render_embed(EmbedRequest("m", ("a",), 8, truncate=True), "resident")
    assert (path, json.loads(body)) == (
        "/api/embed",
        {
            "model": "resident",
            "input": ["a"],
            "truncate": True,
            "dimensions": 8,
            "options": {"num_ctx": 512},
            "keep_alive": 60,
        },
    )
