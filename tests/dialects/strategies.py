"""Conversations, requests and answers, drawn from all that can be said; `Can` is what one way of writing them can say.

Each is drawn as it is meant, never as anybody would write it: what is written is the dialects' business.
"""

import json
from typing import Any

import msgspec
from hypothesis import strategies as st
from msgspec import Struct

from hermes.chat import (
    ChatRequest,
    EmbedRequest,
    Image,
    JsonFormat,
    Message,
    MustCall,
    Part,
    ReasoningDelta,
    RichMessage,
    Sampling,
    Speaker,
    Stop,
    StopReason,
    StreamEvent,
    Text,
    TextDelta,
    Thinking,
    Tool,
    ToolCall,
    ToolCallDelta,
    ToolChoice,
    Usage,
)
from tests.dialects.cases import PIXEL

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SAID = TEXTS.filter(bool)
NAMES = st.text("abcXYZ019_-", min_size=1, max_size=8)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False, width=64) | TEXTS
JSON: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=4,
)
OBJECTS = st.dictionaries(TEXTS, JSON, max_size=3)
SCHEMAS = st.builds(lambda more: {"type": "object", **more}, OBJECTS)
# As models write them: with or without spaces.
ARGUMENTS = st.builds(
    lambda value, indent: json.dumps(value, indent=indent, ensure_ascii=bool(indent)),
    OBJECTS,
    st.sampled_from([None, 1]),
)
IMAGES = st.sampled_from(
    [
        Image("image/png", PIXEL),
        Image("image/jpeg", "/9j/4AAQSkZJRgABAQ=="),
        Image("image/webp", "UklGRiQAAABXRUJQVlA4IA=="),
        Image("image/gif", "R0lGODlhAQABAAAAACw="),
    ]
)

SAMPLING: dict[str, st.SearchStrategy[Any]] = {
    "temperature": st.floats(0, 2),
    "top_p": st.floats(0, 1),
    "top_k": st.integers(0, 100),
    "min_p": st.floats(0, 1),
    "seed": st.integers(-(2**63), 2**63 - 1),
    "max_tokens": st.integers(1, 2**31 - 1),
    "stop": st.lists(SAID, max_size=4).map(tuple),
    "presence_penalty": st.floats(-2, 2),
    "frequency_penalty": st.floats(-2, 2),
    "repeat_penalty": st.floats(0, 2),
    "repeat_last_n": st.integers(-1, 2**31 - 1),
    "typical_p": st.floats(0, 1),
}


class Can(Struct, frozen=True, kw_only=True):
    """What can be said. `mixed`: texts and images in any order in one message, instead of a text and then images.

    `forces`: the demands for a call; one of a name stands for any. `thoughts`: what an assistant thought earlier.
    `names_results`: a result has its tool's name without a call. `any_json`: JSON of no schema. `extra`: some fields
    that are passed on.
    """

    sampling: tuple[str, ...]
    thinking: tuple[Thinking | None, ...]
    forces: tuple[ToolChoice, ...] = ("auto",)
    mixed: bool = True
    thoughts: bool = True
    names_results: bool = False
    any_json: bool = True
    extra: tuple[str, ...] = ()
    logprobs: bool = True


@st.composite
def conversations(draw: st.DrawFn, can: Can) -> tuple[Message | RichMessage, ...]:
    said: list[Message | RichMessage] = []
    for turn in draw(st.lists(st.sampled_from(["plain", "parts", "calls"]), min_size=1, max_size=4)):
        if turn == "plain":
            speakers: st.SearchStrategy[Speaker] = st.sampled_from(["system", "user", "assistant"])
            said.append(Message(draw(speakers), draw(SAID)))
        elif turn == "parts":
            said.append(RichMessage("user", draw(_parts(can))))
        else:
            said += draw(_calls(can, len(said)))
    return tuple(said)


def _parts(can: Can) -> st.SearchStrategy[tuple[Part, ...]]:
    if can.mixed:
        return st.lists(st.builds(Text, SAID) | IMAGES, min_size=1, max_size=3).map(tuple)
    pieces = st.tuples(st.lists(st.builds(Text, SAID), max_size=1), st.lists(IMAGES, max_size=2))
    return pieces.filter(any).map(lambda both: (*both[0], *both[1]))


@st.composite
def _calls(draw: st.DrawFn, can: Can, at: int) -> list[Message | RichMessage]:
    """What an assistant thought, said and called, and the results, in any order."""
    names = draw(st.lists(NAMES, max_size=3))
    calls = tuple(ToolCall(f"c{at}_{number}", name, draw(ARGUMENTS)) for number, name in enumerate(names))
    text = draw(st.lists(st.builds(Text, SAID), max_size=1).map(tuple))
    thought = draw(TEXTS) if can.thoughts else ""
    if not (calls or thought or text):
        text = (Text("-"),)
    results = [
        RichMessage("tool", draw(_parts(can)), tool_call_id=call.id, tool_name=call.name)
        for call in draw(st.permutations(calls))
    ]
    if can.names_results and draw(st.booleans()):
        results.append(RichMessage("tool", (Text(draw(SAID)),), tool_call_id="nobody's", tool_name=draw(NAMES)))
    return [RichMessage("assistant", text, thought, calls), *results]


@st.composite
def requests(draw: st.DrawFn, can: Can) -> ChatRequest:
    """For the model `m`. Of nobody in particular: neither priority nor class nor load options."""
    names = draw(st.lists(NAMES, max_size=3, unique=True))
    tools = tuple(Tool(name, draw(TEXTS), draw(SCHEMAS)) for name in names)
    forces = [force for force in can.forces if not (isinstance(force, MustCall) and force.name)]
    if len(forces) < len(can.forces):
        forces += [MustCall(name) for name in names]
    logprobs = can.logprobs and draw(st.booleans())
    formats: st.SearchStrategy[JsonFormat | None] = st.none() | st.builds(JsonFormat, SCHEMAS)
    return ChatRequest(
        "m",
        draw(conversations(can)),
        draw(st.booleans()),
        tools=tools,
        tool_choice=draw(st.sampled_from(forces)) if tools else "auto",
        sampling=draw(samplings(can.sampling)),
        json_format=draw(formats | st.just(JsonFormat()) if can.any_json else formats),
        thinking=draw(st.sampled_from(can.thinking)),
        logprobs=logprobs,
        top_logprobs=draw(st.integers(0, 20)) if logprobs else 0,
        extra=draw(st.dictionaries(st.sampled_from(can.extra), OBJECTS)) or None if can.extra else None,
    )


def samplings(names: tuple[str, ...]) -> st.SearchStrategy[Sampling]:
    return st.builds(
        Sampling,
        **{name: st.just(()) | SAMPLING[name] if name == "stop" else st.none() | SAMPLING[name] for name in names},
    )


def embeds(**fixed: Any) -> st.SearchStrategy[EmbedRequest]:
    said = {"texts": st.lists(SAID, min_size=1, max_size=3).map(tuple), "dimensions": st.none() | st.integers(1, 4096)}
    return st.builds(EmbedRequest, st.just("m"), **(said | {name: st.just(value) for name, value in fixed.items()}))


# --- answers ------------------------------------------------------------------------------------------------------

TOKENS = st.integers(0, 1 << 24)
TIMES = st.integers(1, 10**12).map(lambda ns: ns / 1e9)
LOGPROBS = st.builds(
    lambda token, others: {**token, "top_logprobs": others},
    token := st.builds(
        lambda text, logprob: {"token": text, "logprob": logprob, "bytes": list(text.encode())},
        TEXTS,
        st.floats(-100, 0),
    ),
    st.lists(token, max_size=2),
)


class Tells(Struct, frozen=True, kw_only=True):
    """What can be told of an answer. `called`: why it ended if it ended well, and with calls."""

    reasons: tuple[StopReason, ...] = ("stop", "length", "tool_calls", "content_filter")
    called: StopReason = "tool_calls"
    logprobs: bool = True
    times: bool = False
    cached: bool = True
    stop_texts: bool = False


@st.composite
def streams(draw: st.DrawFn, tells: Tells) -> list[StreamEvent]:
    """The events of one answer. The pieces of one call are never apart; what it has, and its `Stop`, come last."""
    events: list[StreamEvent] = []
    kinds = ["text", "thought", "call", *(["token"] if tells.logprobs else [])]
    calls = 0
    for kind in draw(st.lists(st.sampled_from(kinds), max_size=8)):
        if kind == "text":
            events.append(TextDelta(draw(SAID)))
        elif kind == "token":
            events.append(TextDelta(draw(SAID), tuple(draw(st.lists(LOGPROBS, min_size=1, max_size=2)))))
        elif kind == "thought":
            events.append(ReasoningDelta(draw(SAID)))
        else:
            whole = msgspec.json.encode(draw(OBJECTS)).decode()
            cut = draw(st.integers(0, len(whole) - 1))
            events += [ToolCallDelta(calls, whole[:cut], f"c{calls}", draw(NAMES)), ToolCallDelta(calls, whole[cut:])]
            calls += 1
    took = draw(st.tuples(TIMES, TIMES, TIMES)) if tells.times else (0.0, 0.0, 0.0)
    prompt_tokens = draw(TOKENS)
    cached = draw(st.integers(0, prompt_tokens)) if tells.cached else 0
    text = draw(TEXTS) if tells.stop_texts else ""
    reason: StopReason = "stop" if text else draw(st.sampled_from(tells.reasons))
    if calls and reason == "stop":
        reason, text = tells.called, ""
    return [*events, Usage(prompt_tokens, draw(TOKENS), *took, cached), Stop(reason, text)]
