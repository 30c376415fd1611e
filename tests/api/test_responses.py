"""OpenAI's responses over HTTP: whole and streamed, refused and failed; nothing is kept."""

import asyncio
from typing import Any

import pytest

from tests.fakes.backend import Done, Then, ollama, play
from tests.fakes.gateway import RESPONSES, hermes, hold_slot, scenario

PIXEL = {"type": "input_image", "image_url": "data:image/png;base64,aGk="}


def asked(said: Any = "Hi", **more: Any) -> dict[str, Any]:
    return {"model": "gemma", "input": said, **more}


@scenario
async def test_a_response_is_answered_whole() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        reply = await gateway.ask(RESPONSES, asked(max_output_tokens=9))
        assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
        told = reply.json
        assert (told["id"], told["status"]) == (f"resp_{reply.headers['x-request-id']}", "completed")
        assert told["output"][0]["content"][0]["text"] == "Hello"
        assert (told["usage"]["input_tokens"], told["usage"]["output_tokens"]) == (7, 3)
        assert backend.asked[0].body["options"] == {"temperature": 1.0, "top_p": 1.0, "num_predict": 9}


@scenario
async def test_a_streamed_response_comes_in_named_and_numbered_events() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        reply = await gateway.ask(RESPONSES, asked(stream=True))
        assert (reply.status, reply.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        assert [event["type"].removeprefix("response.") for event in reply.events] == [
            "created",
            "in_progress",
            "output_item.added",
            "content_part.added",
            "output_text.delta",
            "output_text.delta",
            "output_text.done",
            "content_part.done",
            "output_item.done",
            "completed",
        ]
        assert [event["sequence_number"] for event in reply.events] == list(range(10))
        for event in reply.events:
            assert b'event: %b\ndata: {"type":"%b"' % ((event["type"].encode(),) * 2) in reply.body
        assert reply.events[-1]["response"]["usage"]["total_tokens"] == 10


@scenario
async def test_tools_their_outputs_with_images_thoughts_and_schemas_go_to_the_backend_and_come_back() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        calls = [
            {"id": "c8", "function": {"name": "mcp__w__look", "arguments": {"at": "sea"}}},
            {"id": "c9", "function": {"name": "patch", "arguments": {"input": "***"}}},
        ]
        message = {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": calls}
        backend.default = play({"message": message, **Done().told()})
        schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
        look = {"type": "function", "name": "look", "parameters": schema}
        reply = await gateway.ask(
            RESPONSES,
            asked(
                [
                    {"role": "developer", "content": "Be kind"},
                    {"role": "user", "content": [{"type": "input_text", "text": "What is up?"}]},
                    {"type": "reasoning", "summary": [{"type": "summary_text", "text": "I must look"}]},
                    {
                        "type": "function_call",
                        "call_id": "c1",
                        "namespace": "mcp__w",
                        "name": "look",
                        "arguments": '{"at":"sky"}',
                    },
                    {
                        "type": "function_call_output",
                        "call_id": "c1",
                        "output": [{"type": "input_text", "text": "blue"}, PIXEL],
                    },
                ],
                instructions="Be brief",
                tools=[{"type": "namespace", "name": "mcp__w", "tools": [look]}, {"type": "custom", "name": "patch"}],
                text={"format": {"type": "json_schema", "name": "n", "schema": schema}},
            ),
        )
        thought, look_made, patch_made = reply.json["output"]
        assert thought["summary"] == [{"type": "summary_text", "text": "hm"}]
        assert (look_made["namespace"], look_made["name"], look_made["call_id"]) == ("mcp__w", "look", "c8")
        assert look_made["arguments"] == '{"at":"sea"}'
        assert (patch_made["type"], patch_made["input"]) == ("custom_tool_call", "***")
        body = backend.asked[0].body
        assert body["messages"] == [
            {"role": "system", "content": "Be brief\n\nBe kind"},
            {"role": "user", "content": "What is up?"},
            {
                "role": "assistant",
                "content": "",
                "thinking": "I must look",
                "tool_calls": [
                    {"id": "c1", "function": {"name": "mcp__w__look", "arguments": {"at": "sky"}, "index": 0}}
                ],
            },
            {"role": "tool", "content": "blue", "images": ["aGk="], "tool_name": "mcp__w__look", "tool_call_id": "c1"},
        ]
        assert [tool["function"]["name"] for tool in body["tools"]] == ["mcp__w__look", "patch"]
        assert body["tools"][0]["function"]["parameters"] == body["format"] == schema


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        (b"", 400, "invalid_json", None),
        (asked(previous_response_id="resp_1"), 400, "unsupported_parameter", "previous_response_id"),
        (asked(tools=[{"type": "file_search"}]), 400, "unsupported_parameter", "tools[0].type"),
        (asked(model="nobody"), 404, "model_not_found", "model"),
    ],
)
@scenario
async def test_what_is_wrong_is_told_in_openais_form(body: Any, status: int, code: str, param: str | None) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        reply = await gateway.ask(RESPONSES, body)
        assert (reply.status, reply.error["code"], reply.error["param"]) == (status, code, param)
        assert reply.error["type"] == "invalid_request_error" and not backend.asked


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "resp_1"), ("GET", "resp_1/input_items"), ("DELETE", "resp_1"), ("POST", "resp_1/cancel")],
)
@scenario
async def test_no_response_is_ever_there_again(method: str, path: str) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        reply = await gateway.ask(f"{RESPONSES}/{path}", method=method)
        assert (reply.status, reply.error["code"]) == (404, "response_not_found")
        assert "resp_1" in reply.error["message"]


@scenario
async def test_a_stream_that_breaks_goes_on_counting() -> None:
    """The error belongs to the stream that it ends."""
    async with ollama() as backend, hermes(backend) as gateway:
        go = asyncio.Event()
        backend.default = play("Hel", go, then=Then.CUT)
        call = await gateway.open(RESPONSES, asked(stream=True))
        assert await call.head() == 200
        events = [await call.event()]
        go.set()
        events += await call.events()
        assert not call.whole
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        assert [event["type"] for event in events if event["type"] == "response.created"] == ["response.created"]
        assert events[-1]["type"] == "response.failed"


@scenario
async def test_a_stream_that_waits_is_one_from_its_first_sign_of_life_on() -> None:
    async with ollama() as backend, hermes(backend, scheduling={"queue_heartbeat_s": 0.02}) as gateway:
        free = asyncio.Event()
        await hold_slot(gateway, backend, free)
        call = await gateway.open(RESPONSES, asked(stream=True))
        assert await call.head() == 200
        events = [await call.event() for _ in range(3)]
        free.set()
        events += await call.events()
        kinds = [event["type"].removeprefix("response.") for event in events]
        assert kinds[:3] == ["created", "queued", "queued"] and kinds[-1] == "completed"
        assert kinds.count("in_progress") == kinds.count("created") == 1
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
