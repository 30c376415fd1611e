"""The same things said in each dialect: what one reads is what the other writes."""

from typing import Any

from msgspec import Struct

from hermes.chat import (
    Image,
    Message,
    ReasoningDelta,
    RichMessage,
    Stop,
    StreamEvent,
    Text,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    Usage,
)

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


class Said(Struct):
    """Messages, by OpenAI's API, by ours, by Ollama's."""

    openai: list[dict[str, Any]]
    chat: tuple[Message | RichMessage, ...]
    ollama: list[dict[str, Any]]


CONVERSATIONS = {
    "a plain text": Said(
        [{"role": "user", "content": "Hi"}],
        (Message("user", "Hi"),),
        [{"role": "user", "content": "Hi"}],
    ),
    "system and developer are one": Said(
        [
            {"role": "system", "content": "Be brief"},
            {"role": "developer", "content": "Be kind", "name": "d"},
            {"role": "user", "content": "Hi", "name": None},
        ],
        (
            Message("system", "Be brief"),
            Message("system", "Be kind"),
            Message("user", "Hi"),
        ),
        [
            {"role": "system", "content": "Be brief"},
            {"role": "system", "content": "Be kind"},
            {"role": "user", "content": "Hi"},
        ],
    ),
    "parts and images stay one message": Said(
        [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is"},
                    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}", "detail": "low"}},
                    {"type": "text", "text": "this?"},
                ],
            }
        ],
        (RichMessage("user", (Text("What is"), Image("image/png", PIXEL), Text("this?"))),),
        [{"role": "user", "content": "What is\nthis?", "images": [PIXEL]}],
    ),
    "an image alone": Said(
        [
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": f"DATA:image/JPEG;charset=x;base64,{PIXEL}"}],
            }
        ],
        (RichMessage("user", (Image("image/jpeg", PIXEL),)),),
        [{"role": "user", "content": "", "images": [PIXEL]}],
    ),
    "calls and their results": Said(
        [
            {"role": "user", "content": "Weather?"},
            {
                "role": "assistant",
                "content": None,
                "reasoning_content": "I must look",
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"city":"Oslo"}'}},
                    {"id": "c2", "type": "function", "function": {"name": "now", "arguments": ""}},
                ],
            },
            {"role": "tool", "tool_call_id": "c2", "content": "noon"},
            {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "cold"}]},
            {"role": "tool", "tool_call_id": "c0", "content": "?", "name": "old"},
        ],
        (
            Message("user", "Weather?"),
            RichMessage(
                "assistant",
                (),
                reasoning="I must look",
                tool_calls=(ToolCall("c1", "look", '{"city":"Oslo"}'), ToolCall("c2", "now", "")),
            ),
            RichMessage("tool", (Text("noon"),), tool_call_id="c2", tool_name="now"),
            RichMessage("tool", (Text("cold"),), tool_call_id="c1", tool_name="look"),
            RichMessage("tool", (Text("?"),), tool_call_id="c0", tool_name="old"),
        ),
        [
            {"role": "user", "content": "Weather?"},
            {
                "role": "assistant",
                "content": "",
                "thinking": "I must look",
                "tool_calls": [
                    {"id": "c1", "function": {"name": "look", "arguments": {"city": "Oslo"}, "index": 0}},
                    {"id": "c2", "function": {"name": "now", "arguments": {}, "index": 1}},
                ],
            },
            {"role": "tool", "content": "noon", "tool_name": "now", "tool_call_id": "c2"},
            {"role": "tool", "content": "cold", "tool_name": "look", "tool_call_id": "c1"},
            {"role": "tool", "content": "?", "tool_name": "old", "tool_call_id": "c0"},
        ],
    ),
    "an assistant that said nothing, thought, or refused": Said(
        [
            {"role": "assistant"},
            {"role": "assistant", "content": "Hm", "reasoning": "why?", "reasoning_content": None},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}], "tool_calls": None},
        ],
        (
            RichMessage("assistant"),
            RichMessage("assistant", (Text("Hm"),), reasoning="why?"),
            RichMessage("assistant", (Text("No."),)),
        ),
        [
            {"role": "assistant", "content": ""},
            {"role": "assistant", "content": "Hm", "thinking": "why?"},
            {"role": "assistant", "content": "No."},
        ],
    ),
}


class Told(Struct):
    """An answer: Ollama's lines, our events, and OpenAI's chunks as [delta, finish_reason] after the opening one."""

    ollama: list[dict[str, Any]]
    events: list[StreamEvent]
    openai: list[tuple[dict[str, Any], str | None]]


def line(message: dict[str, Any], **more: Any) -> dict[str, Any]:
    head = {"model": "m", "created_at": "2026-11-21T02:50:46.9Z"}
    return head | {"message": {"role": "assistant", "content": "", **message}, "done": False} | more


COUNTS = {
    "total_duration": 20444483,
    "load_duration": 4_000_000,
    "prompt_eval_count": 22,
    "prompt_eval_duration": 500_000,
    "eval_count": 3,
    "eval_duration": 1_500_000,
}
USAGE = Usage(22, 3, 0.004, 0.0005, 0.0015)


def call(name: str, arguments: Any, **more: Any) -> dict[str, Any]:
    return {**more, "function": {"index": 0, "name": name, "arguments": arguments}}


def _called(index: int, identity: str, name: str, arguments: str) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"tool_calls": [{"index": index, "id": identity, "type": "function", "function": function}]}


_LOGPROB = {"token": "é", "logprob": -0.25, "bytes": [195, 169], "top_logprobs": []}

ANSWERS = {
    "text": Told(
        [
            line({"content": "Hello,"}),
            line({"content": " é\u2028\n"}),
            line({}, done=True, done_reason="stop", **COUNTS),
        ],
        [TextDelta("Hello,"), TextDelta(" é\u2028\n"), USAGE, Stop("stop")],
        [({"content": "Hello,"}, None), ({"content": " é\u2028\n"}, None), ({}, "stop")],
    ),
    "the last line may carry text": Told(
        [line({"content": "All"}), line({"content": " of it"}, done=True, done_reason="length", **COUNTS)],
        [TextDelta("All"), TextDelta(" of it"), USAGE, Stop("length")],
        [({"content": "All"}, None), ({"content": " of it"}, None), ({}, "length")],
    ),
    "thoughts first": Told(
        [line({"thinking": "let me"}), line({"content": "Yes"}), line({}, done=True, done_reason="stop", **COUNTS)],
        [ReasoningDelta("let me"), TextDelta("Yes"), USAGE, Stop("stop")],
        [({"reasoning_content": "let me", "reasoning": "let me"}, None), ({"content": "Yes"}, None), ({}, "stop")],
    ),
    "calls in the last line, by a native template": Told(
        [
            line(
                {"tool_calls": [call("look", {"city": "Oslo"}, id="97w3"), call("now", {}, id="eyei")]},
                done=True,
                done_reason="stop",
                **COUNTS,
            )
        ],
        [
            ToolCallDelta(0, '{"city":"Oslo"}', "97w3", "look"),
            ToolCallDelta(1, "{}", "eyei", "now"),
            USAGE,
            Stop("stop"),
        ],
        [
            (_called(0, "97w3", "look", '{"city":"Oslo"}'), None),
            (_called(1, "eyei", "now", "{}"), None),
            ({}, "tool_calls"),
        ],
    ),
    "calls in the middle, from an older server without ids": Told(
        [
            line({"content": "Wait", "tool_calls": [call("look", {"n": 1})]}),
            line({"tool_calls": [call("look", '{"n":2}'), call("now", None)]}),
            line({}, done=True, **COUNTS),
        ],
        [
            TextDelta("Wait"),
            ToolCallDelta(0, '{"n":1}', "call_answer7_0", "look"),
            ToolCallDelta(1, '{"n":2}', "call_answer7_1", "look"),
            ToolCallDelta(2, "{}", "call_answer7_2", "now"),
            USAGE,
            Stop("stop"),
        ],
        [
            ({"content": "Wait"}, None),
            (_called(0, "call_answer7_0", "look", '{"n":1}'), None),
            (_called(1, "call_answer7_1", "look", '{"n":2}'), None),
            (_called(2, "call_answer7_2", "now", "{}"), None),
            ({}, "tool_calls"),
        ],
    ),
    "cut short in a call": Told(
        [line({"tool_calls": [call("f", {}, id="x")]}), line({}, done=True, done_reason="length", **COUNTS)],
        [ToolCallDelta(0, "{}", "x", "f"), USAGE, Stop("length")],
        [(_called(0, "x", "f", "{}"), None), ({}, "length")],
    ),
    "loaded, nothing said, nothing counted": Told(
        [line({}, done=True, done_reason="load")],
        [Usage(), Stop("stop")],
        [({}, "stop")],
    ),
    "bytes of a token computed where they are missing": Told(
        [
            line({"content": "é"}, logprobs=[{"token": "é", "logprob": -0.25}]),
            line({}, done=True, done_reason="stop", **COUNTS),
        ],
        [TextDelta("é", (_LOGPROB,)), USAGE, Stop("stop")],
        [({"content": "é"}, None), ({}, "stop")],
    ),
}
