"""What backends are asked for requests, and clients told of answers, where some have no words for it."""

from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from hermes.chat import (
    Answer,
    ChatRequest,
    Image,
    JsonFormat,
    Message,
    MustCall,
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
from hermes.dialects import BackendDialect, ClientDialect, Meta
from hermes.dialects.ollama import Ollama
from hermes.dialects.openai_backend import LLAMACPP, OPENAI, VLLM, OpenAIBackend
from hermes.errors import BackendError
from tests.dialects.cases import PIXEL
from tests.dialects.losses_asked import CLIENTS, Fields

# --- what backends are asked ----------------------------------------------------------------------------------------

BACKENDS: dict[str, BackendDialect] = {
    "Ollama": Ollama(),
    "vLLM": OpenAIBackend(VLLM),
    "llama.cpp": OpenAIBackend(LLAMACPP),
    "openai": OpenAIBackend(OPENAI),
}


class Told(Struct, frozen=True):
    """Something asked of a backend; `instead`: what it may be told in its place."""

    what: str
    asked: Fields
    instead: Mapping[str, Fields] = {}


def _said(*messages: RichMessage | Message) -> Fields:
    return {"messages": messages}


_S = {"type": "object"}
_T = Tool("f", "F", _S)
_PNG = Image("image/png", PIXEL)
TOLD: list[Told] = [
    Told(
        "`temperature`, `top_p`, `seed`, `max_tokens`, `stop`",
        {"sampling": Sampling(0.5, 0.5, None, None, 1, 9, ("a",))},
    ),
    Told("penalties of presence and frequency", {"sampling": Sampling(presence_penalty=1.0, frequency_penalty=1.0)}),
    Told("`top_k`, `min_p`, `repeat_penalty`", {"sampling": Sampling(top_k=5, min_p=0.1, repeat_penalty=1.1)}),
    Told("`repeat_last_n`, `typical_p`", {"sampling": Sampling(repeat_last_n=9, typical_p=0.5)}),
    Told(
        "a text between two images, in its place",
        _said(RichMessage("user", (_PNG, Text("a"), _PNG))),
        {"the text first": _said(RichMessage("user", (Text("a"), _PNG, _PNG)))},
    ),
    Told(
        "two texts apart in one message",
        _said(RichMessage("user", (Text("a"), Text("b")))),
        {"one, on two lines": _said(Message("user", "a\nb"))},
    ),
    Told(
        "the type of an image",
        _said(RichMessage("user", (Image("image/x", PIXEL),))),
        {"seen in its bytes": _said(RichMessage("user", (_PNG,)))},
    ),
    Told(
        "what the assistant thought earlier",
        _said(RichMessage("assistant", (Text("a"),), "why")),
        {"left out": _said(Message("assistant", "a"))},
    ),
    Told(
        "arguments of an earlier call that are no object",
        _said(RichMessage("assistant", (), "", (ToolCall("c", "f", "[1]"),))),
        {'`{"value": ...}`': _said(RichMessage("assistant", (), "", (ToolCall("c", "f", '{"value":[1]}'),)))},
    ),
    Told(
        "a result's tool, without its call",
        _said(RichMessage("tool", (Text("a"),), tool_call_id="c", tool_name="f")),
        {"left out": _said(RichMessage("tool", (Text("a"),), tool_call_id="c"))},
    ),
    Told("tools", {"tools": (_T,)}),
    Told(
        "a tool without parameters",
        {"tools": (Tool("f", "F"),)},
        {"an object of none": {"tools": (Tool("f", "F", {"type": "object", "properties": {}}),)}},
    ),
    Told("tools that are not to be called", {"tools": (_T,), "tool_choice": "none"}),
    Told("a call of any tool", {"tools": (_T,), "tool_choice": MustCall()}),
    Told(
        "a call of one of the tools",
        {"tools": (_T, Tool("g", "G", _S)), "tool_choice": MustCall("f")},
        {"a call, of no other tool": {"tools": (_T,), "tool_choice": MustCall()}},
    ),
    Told("JSON of a schema", {"json_format": JsonFormat(_S | {"required": ["a"]})}),
    Told("JSON", {"json_format": JsonFormat()}, {"JSON of any object": {"json_format": JsonFormat(_S)}}),
    Told("no thinking", {"thinking": "off"}),
    Told("thinking", {"thinking": "on"}),
    Told("little or much thinking", {"thinking": "low"}),
    Told("as much thinking as can be", {"thinking": "max"}, {"much": {"thinking": "high"}}),
    Told("probabilities", {"logprobs": True, "top_logprobs": 2}),
    Told("`logit_bias`, `user` and the like", {"extra": {"logit_bias": {"1": -1}, "user": "u"}}),
    Told("`stop_token_ids` and the like", {"extra": {"stop_token_ids": [1]}}),
    Told("`grammar` and the like", {"extra": {"grammar": 'root ::= "a"'}}),
    Told("`store`, `metadata`", {"extra": {"store": True, "metadata": {}}}),
    Told("a prompt as it is", {"completion": True, "raw": True}),
    Told("a prompt as it is, and JSON", {"completion": True, "raw": True, "json_format": JsonFormat(_S)}),
    Told("a prompt and what follows it", {"completion": True, "suffix": "a"}),
]


def backend_cell(told: Told, backend: BackendDialect) -> str:
    def request(fields: Fields) -> ChatRequest:
        return replace(ChatRequest("m", (Message("user", "Hi"),)), **fields)

    def asked(fields: Fields) -> tuple[str, bytes]:
        return backend.render_request(request(fields), "m")

    # As `gateway` sees to it.
    wish = request(told.asked)
    if wish.completion and not backend.completes(wish):
        return "refused"
    if isinstance(wish.tool_choice, MustCall) and not backend.forces_tools:
        return "refused"
    return _cell(asked(told.asked), asked({}), ((words, asked(fields)) for words, fields in told.instead.items()))


def _cell(said: Any, nothing: Any, instead: Iterable[tuple[str, Any]]) -> str:
    if said == nothing:
        return "left out"
    return next((words for words, other in instead if other == said), "yes")


# --- what clients are told ------------------------------------------------------------------------------------------

TELLERS: dict[str, ClientDialect] = {name: dialect for name, (dialect, _) in CLIENTS.items() if "," not in name}
_ASKED = ChatRequest("m", (Message("user", "Hi"),))
_META = Meta("r1", "m", 0)


class Happened(Struct, frozen=True):
    """What came of a request, before it `Stop`s; `instead`, what may be told in its place."""

    what: str
    events: tuple[StreamEvent, ...]
    instead: Mapping[str, tuple[StreamEvent, ...]] = {}
    stop: Stop = Stop("stop")


_CALL = ToolCallDelta(0, '{"a":1}', "c", "f")
HAPPENED: list[Happened] = [
    Happened("text", (TextDelta("a"),)),
    Happened("thoughts", (ReasoningDelta("a"),)),
    Happened("calls", (_CALL,)),
    Happened(
        "arguments that are no object",
        (ToolCallDelta(0, "[1]", "c", "f"),),
        {'`{"value": ...}`': (ToolCallDelta(0, '{"value":[1]}', "c", "f"),)},
    ),
    Happened(
        "probabilities",
        (TextDelta("a", ({"token": "a", "logprob": -1.0, "bytes": [97], "top_logprobs": []},)),),
        {"left out": (TextDelta("a"),)},
    ),
    Happened("tokens counted", (Usage(5, 7),)),
    Happened(
        "those of the prompt that were read before", (Usage(5, 7, cached_tokens=4),), {"left out": (Usage(5, 7),)}
    ),
    Happened("how long it took to load, to read and to write", (Usage(0, 0, 1.0, 2.0, 3.0),)),
    Happened("it was cut short", (), stop=Stop("length")),
    Happened("it was filtered", (), stop=Stop("content_filter")),
    Happened("which text ended it", (), stop=Stop("stop", "END")),
]


def client_cell(happened: Happened, dialect: ClientDialect) -> str:
    def told(events: tuple[StreamEvent, ...], stop: Stop) -> Any:
        answer = collect([*events, stop])
        assert isinstance(answer, Answer)
        return dialect.render_answer(answer, _ASKED, _META)

    try:
        said = told(happened.events, happened.stop)
    except BackendError:
        return "an error"
    others = ((words, told(events, happened.stop)) for words, events in happened.instead.items())
    return _cell(said, told((), Stop("stop")), others)
