"""What was asked and answered is in a span only where somebody asked for that (invariant I27), and bounded."""

import json
import tracemalloc
from typing import Any

import pytest

from hermes.chat import TextDelta, ToolCallDelta
from hermes.tracing.content import MAX_CONTENT, Heard
from tests.fakes.backend import DONE, ollama, play
from tests.fakes.collector import Seen, collector
from tests.fakes.gateway import CHAT, WHOLE, bearer, chat, key, scenario
from tests.tracing.test_tree import traced

TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at":1}'}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGVsbG8="}}
MESSAGES = [
    {"role": "system", "content": "Be short"},
    {"role": "user", "content": [{"type": "text", "text": "What is it?"}, IMAGE]},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "rainy"},
]


def told(span: Seen, name: str) -> Any:
    return json.loads(span.attributes[name])


@pytest.mark.parametrize(("path", "body"), WHOLE)
@pytest.mark.parametrize("stream", [False, True])
@scenario
async def test_nothing_of_it_is_told_unless_asked_for(path: str, body: dict[str, Any], stream: bool) -> None:
    """I27."""
    said = json.loads(json.dumps(body).replace('"Hi"', '"canary"'))
    async with collector() as found, ollama() as backend:
        backend.default = play("cana", "ry", DONE)
        async with traced(found, backend) as gateway:
            reply = await gateway.ask(path, {**said, "stream": stream})
            assert reply.status == 200 and b"cana" in reply.body
        assert found.of("client")
        assert b"cana" not in b"".join(found.raw)


@pytest.mark.parametrize("stream", [False, True])
@scenario
async def test_asked_for_it_is_told_as_the_conventions_have_it(stream: bool) -> None:
    async with collector() as found, ollama() as backend:
        backend.default = play("It ", "ra", "ins", DONE)
        async with traced(found, backend, tracing={"capture_content": True}) as gateway:
            asked = {"model": "gemma", "messages": MESSAGES, "tools": [TOOL], "stream": stream}
            assert (await gateway.ask(CHAT, asked)).status == 200
        (span,) = found.of("client")
        assert told(span, "gen_ai.system_instructions") == [{"type": "text", "content": "Be short"}]
        assert told(span, "gen_ai.input.messages") == [
            {"role": "user", "parts": [
                {"type": "text", "content": "What is it?"},
                {"type": "blob", "mime_type": "image/png", "modality": "image", "content": ""},
            ]},
            {"role": "assistant", "parts": [
                {"type": "tool_call", "id": "c1", "name": "look", "arguments": '{"at":1}'}
            ]},
            {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": "rainy"}]},
        ]  # fmt: skip
        assert told(span, "gen_ai.output.messages") == [
            {"role": "assistant", "parts": [{"type": "text", "content": "It rains"}], "finish_reason": "stop"}
        ]


@scenario
async def test_calls_of_tools_are_told_and_why_it_stopped() -> None:
    call = {"message": {"role": "assistant", "content": "", "tool_calls": [
        {"function": {"name": "look", "arguments": {"at": 1}}}]}}  # fmt: skip
    async with collector() as found, ollama() as backend:
        backend.default = play(call, DONE)
        async with traced(found, backend, tracing={"capture_content": True}) as gateway:
            await gateway.ask(CHAT, {**chat(stream=True), "tools": [TOOL]})
        (span,) = found.of("client")
        (message,) = told(span, "gen_ai.output.messages")
        assert message["finish_reason"] == "stop"  # as Ollama has it
        assert [(part["name"], json.loads(part["arguments"])) for part in message["parts"]] == [("look", {"at": 1})]


@scenario
async def test_it_is_told_of_those_users_alone_that_are_named() -> None:
    """I27."""
    tracing = {"capture_content": True, "capture_users": ["ann"]}
    async with collector() as found, ollama() as backend:
        async with traced(found, backend, tracing=tracing, keys=[key("ann"), key("bob")]) as gateway:
            await gateway.ask(CHAT, chat("of ann"), bearer("ann"))
            await gateway.ask(CHAT, chat("of bob"), bearer("bob"))
        assert b"of ann" in b"".join(found.raw) and b"of bob" not in b"".join(found.raw)


@scenario
async def test_of_what_is_long_the_end_of_the_conversation_and_the_beginning_of_the_answer_are_told() -> None:
    """I4."""
    messages = [{"role": "user", "content": f"{number:05} " * 1000} for number in range(10)]
    async with collector() as found, ollama() as backend:
        backend.default = play(*["0123456789" * 100] * 40, DONE)
        async with traced(found, backend, tracing={"capture_content": True}) as gateway:
            for stream in (False, True):
                await gateway.ask(CHAT, {"model": "gemma", "messages": messages, "stream": stream})
        for span in found.of("client"):
            asked, answered = (told(span, f"gen_ai.{side}.messages") for side in ("input", "output"))
            texts = [part["content"] for message in asked for part in message["parts"]]
            assert [text[:5] for text in texts] == ["00007", "00008", "00009"]
            assert sum(map(len, texts)) == len(answered[0]["parts"][0]["content"]) == 16 * 1024


@pytest.mark.parametrize("role", ["system", "user"])
@scenario
async def test_of_very_many_messages_few_are_looked_at(role: str) -> None:
    """I36: of 180,000 it took 0.6 to 2 s."""
    one = {"role": "user", "content": "x"}
    async with collector() as found, ollama() as backend:
        async with traced(found, backend, tracing={"capture_content": True}) as gateway:
            await gateway.ask(CHAT, {"model": "gemma", "messages": [{**one, "role": role}] * 2000 + [one]})
        (span,) = found.of("client")
        if role == "system":
            (instructions, asked) = (told(span, f"gen_ai.{name}") for name in ("system_instructions", "input.messages"))
            assert (len(instructions), len(asked)) == (256, 1)
        else:
            assert len(told(span, "gen_ai.input.messages")) == 256


@scenario
async def test_names_in_it_are_as_bounded_as_texts() -> None:
    """I4."""
    long = "i" * 100_000
    call = {**CALL, "id": long, "function": {"name": "look", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": long, "content": "rainy"},
    ]
    async with collector() as found, ollama() as backend:
        async with traced(found, backend, tracing={"capture_content": True}) as gateway:
            assert (await gateway.ask(CHAT, {"model": "gemma", "messages": messages, "tools": [TOOL]})).status == 200
        assert len(found.of("client")[0].attributes["gen_ai.input.messages"]) < 17_000


def test_what_is_heard_takes_no_more_than_it_is_long() -> None:
    """I13: in pieces of a token each it was 300 KB of each stream."""
    heard = Heard(keeps=True)
    tracemalloc.start()
    for number in range(1500):
        heard.hear((TextDelta(f"ab{number % 10}c"), ToolCallDelta(0, "{}  ", *(("c1", "look") if not number else ()))))
    taken_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken_bytes < 2 * MAX_CONTENT
    text, call = heard.told()[0]["parts"]
    assert (len(text["content"]), call["id"], call["name"], call["arguments"][:6]) == (6000, "c1", "look", "{}  {}")


def test_pieces_of_nothing_are_not_kept_without_end() -> None:
    """I13: a backend may send as many as it likes."""
    heard = Heard(keeps=True)
    heard.hear(ToolCallDelta(index, "") for index in range(2 * MAX_CONTENT))
    assert len(heard._calls) <= MAX_CONTENT
    heard = Heard(keeps=True)
    heard.hear(ToolCallDelta(index, "", "c1", "look" * 1000) for index in range(100))
    assert len(heard._calls) < 10
