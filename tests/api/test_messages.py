"""Anthropic's routes: messages, whole and streamed, tokens estimated, and the models in its form."""

from typing import Any

import pytest

from tests.fakes.backend import Done, ollama, play, speak
from tests.fakes.gateway import MESSAGES, Hermes, bearer, chat, hermes, key, scenario

COUNT = "/v1/messages/count_tokens"
VERSION = {"anthropic-version": "2023-06-01"}
PIXEL = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}


@scenario
async def test_a_message_is_answered_as_anthropic_has_it() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        reply = await gateway.ask(MESSAGES, chat(max_tokens=9))
        assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
        assert reply.json == {
            "id": f"msg_{reply.headers['x-request-id']}",
            "type": "message",
            "role": "assistant",
            "model": "gemma",
            "content": [{"type": "text", "text": "Hello"}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {
                "input_tokens": 7,
                "output_tokens": 3,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 0,
            },
        }
        assert backend.asked[0].body["options"] == {"num_predict": 9}  # no sampling of ours
        assert backend.asked[0].body["think"] is False


@scenario
async def test_a_streamed_message_comes_in_named_events() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        reply = await gateway.ask(MESSAGES, chat(stream=True))
        assert (reply.status, reply.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        assert [event["type"] for event in reply.events] == [
            "message_start",
            "content_block_start",
            "content_block_delta",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop",
        ]
        for event in reply.events:
            assert b'event: %b\ndata: {"type":"%b"' % ((event["type"].encode(),) * 2) in reply.body
        assert [event["delta"]["text"] for event in reply.events[2:4]] == ["Hel", "lo"]
        assert reply.events[0]["message"]["model"] == "gemma"  # Claude Code drops the thoughts of other models
        assert reply.events[5]["usage"] == {"input_tokens": 7, "output_tokens": 3, "cache_read_input_tokens": 0}


@pytest.mark.parametrize("version", [{}, VERSION, {"anthropic-version": "2026-10-21"}, {"anthropic-beta": "a,b"}])
@pytest.mark.parametrize("path", [MESSAGES, f"{MESSAGES}?beta=true", COUNT, f"{COUNT}?beta=true"])
@scenario
async def test_any_version_and_betas_are_taken(path: str, version: dict[str, str]) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        assert (await gateway.ask(path, chat(max_tokens=9), version)).status == 200


@pytest.mark.parametrize("path", [MESSAGES, COUNT])
@scenario
async def test_a_key_may_come_as_bearer_or_x_api_key(path: str) -> None:
    async with ollama() as backend, hermes(backend, keys=[key("ann")]) as gateway:
        assert (await gateway.ask(path, chat(), bearer("ann"))).status == 200
        assert (await gateway.ask(path, chat(), {"x-api-key": "sk-ann"})).status == 200
        for nobody in ({}, {"x-api-key": "sk-bob"}):
            reply = await gateway.ask(path, chat(), nobody)
            assert (reply.status, reply.error["type"]) == (401, "authentication_error")


@pytest.mark.parametrize("path", [MESSAGES, COUNT])
@scenario
async def test_the_requests_id_is_told_where_anthropics_sdks_look_for_it(path: str) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        for body in (chat(), chat(stream=True), chat(model="nobody"), b"{"):
            reply = await gateway.ask(path, body, {"x-request-id": "job-7"})
            assert reply.headers["x-request-id"] == reply.headers["request-id"] == "job-7"
        assert "request-id" not in (await gateway.ask("/v1/models", headers=VERSION)).headers


@pytest.mark.parametrize(
    ("body", "status", "kind", "words"),
    [
        (b"", 400, "invalid_request_error", "empty"),
        (b'{"model": "gemma", "Model": "phi"}', 400, "invalid_request_error", "Model"),
        ({"model": "gemma"}, 400, "invalid_request_error", "messages"),
        (chat(model=""), 400, "invalid_request_error", "model"),
        (chat(model="../x"), 400, "invalid_request_error", "model name"),
        (chat(model="nobody"), 404, "not_found_error", "nobody"),
        (chat(thinking=5), 400, "invalid_request_error", "thinking"),
    ],
)
@pytest.mark.parametrize("path", [MESSAGES, COUNT])
@scenario
async def test_what_is_wrong_is_told_in_anthropics_form(
    path: str, body: Any, status: int, kind: str, words: str
) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        reply = await gateway.ask(path, body)
        assert (reply.status, reply.error["type"]) == (status, kind)
        assert words in reply.error["message"] and not backend.asked


@scenario
async def test_tools_their_results_with_images_thoughts_and_schemas_go_to_the_backend_and_come_back() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        calls = [{"id": "c9", "function": {"name": "look", "arguments": {"at": "sea"}}}]
        message = {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": calls}
        backend.default = play({"message": message, **Done().told()})
        schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
        use = {"type": "tool_use", "id": "c1", "name": "look", "input": {"at": "sky"}}
        thought = {"type": "thinking", "thinking": "I must look", "signature": "hermes"}
        result = {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "blue"}, PIXEL]}
        billing = {"type": "text", "text": "x-anthropic-billing-header: cch=f00;"}
        reply = await gateway.ask(
            MESSAGES,
            {
                "model": "gemma",
                "max_tokens": 99,
                "system": [billing, {"type": "text", "text": "Be brief", "cache_control": {"type": "ephemeral"}}],
                "messages": [
                    {"role": "user", "content": "What is up?"},
                    {"role": "assistant", "content": [thought, use]},
                    {"role": "user", "content": [result, {"type": "text", "text": "And down?"}]},
                ],
                "tools": [{"name": "look", "input_schema": schema}],
                "output_config": {"format": {"type": "json_schema", "schema": schema}},
            },
        )
        assert reply.json["stop_reason"] == "tool_use"
        assert reply.json["content"] == [
            {"type": "thinking", "thinking": "hm", "signature": "hermes"},
            {"type": "tool_use", "id": "c9", "name": "look", "input": {"at": "sea"}},
        ]
        body = backend.asked[0].body
        assert body["messages"] == [
            {"role": "system", "content": "Be brief"},
            {"role": "user", "content": "What is up?"},
            {
                "role": "assistant",
                "content": "",
                "thinking": "I must look",
                "tool_calls": [{"id": "c1", "function": {"name": "look", "arguments": {"at": "sky"}, "index": 0}}],
            },
            {"role": "tool", "content": "blue", "images": ["aGk="], "tool_name": "look", "tool_call_id": "c1"},
            {"role": "user", "content": "And down?"},
        ]
        assert body["tools"][0]["function"]["parameters"] == body["format"] == schema


@pytest.mark.parametrize(("capabilities", "think"), [(["completion"], None), (["completion", "thinking"], "high")])
@scenario
async def test_a_model_that_cannot_think_answers_without(capabilities: list[str], think: str | None) -> None:
    async with ollama() as backend:
        backend.models[0]["capabilities"] = capabilities
        async with hermes(backend) as gateway:
            wish = {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}}
            assert (await gateway.ask(MESSAGES, chat(**wish))).status == 200
            assert backend.asked[0].body.get("think") == think


# --- counting ---------------------------------------------------------------------------------------------------------


async def counted(gateway: Hermes, body: dict[str, Any]) -> int:
    reply = await gateway.ask(COUNT, body)
    assert reply.status == 200 and reply.json.keys() == {"input_tokens"}
    tokens: int = reply.json["input_tokens"]
    return tokens


@scenario
async def test_tokens_are_estimated_and_the_estimate_learns() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        long = chat("x" * 3900, tools=[{"name": "f", "input_schema": {"a": {}, "b": {}, "c": {}}}])
        assert 1000 <= await counted(gateway, long) < 1050
        assert not backend.asked
        backend.default = play("Hi", Done(prompt_eval_count=500))
        streamed = await gateway.ask(MESSAGES, {**long, "stream": True})
        assert 1000 <= streamed.events[0]["message"]["usage"]["input_tokens"] < 1050
        assert streamed.events[-2]["usage"]["input_tokens"] == 500
        assert 480 <= await counted(gateway, long) <= 510
        assert 960 <= await counted(gateway, chat("x" * 8000)) <= 1010
        backend.default = play("Hi", Done(prompt_eval_count=1000))
        await gateway.ask(MESSAGES, long)
        assert 600 <= await counted(gateway, long) <= 700


@scenario
async def test_tools_count_by_their_bytes_and_an_image_as_a_thousand_tokens() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        tools = [{"name": "f", "input_schema": {"type": "object", "properties": {"a": {}, "b": {}}}}] * 50
        assert 1000 < await counted(gateway, chat(tools=tools)) < 1500
        source = {"type": "base64", "media_type": "image/png", "data": "aaaa" * 100_000}
        asked = [{"role": "user", "content": [{"type": "image", "source": source}]}]
        assert 1000 < await counted(gateway, {"model": "gemma", "messages": asked}) < 1100


@scenario
async def test_counting_downloads_nothing() -> None:
    async with ollama() as backend, hermes(backend, models={"phi": {"pull": "on_demand"}}) as gateway:
        assert await counted(gateway, chat(model="phi")) > 0
        assert not [asked for asked in backend.managed if asked.path == "/api/pull"]


# --- models -----------------------------------------------------------------------------------------------------------


@scenario
async def test_models_are_listed_in_anthropics_form_for_who_names_a_version() -> None:
    models = {"claude-local-gemma": {"backend_model": "gemma3:12b"}}
    async with ollama("gemma3:12b", "phi:latest") as backend, hermes(backend, models=models) as gateway:
        listing = (await gateway.ask("/v1/models?limit=1000", headers=VERSION)).json
        names = ["claude-local-gemma", "gemma3:12b", "phi:latest", "claude-local-gemma3:12b", "claude-local-phi:latest"]
        assert [item["id"] for item in listing["data"]] == names
        assert listing["data"][0] == {
            "type": "model",
            "id": "claude-local-gemma",
            "display_name": "gemma",
            "created_at": "2026-11-20T10:00:00Z",
            "lifecycle": "active",
        }
        del listing["data"]
        assert listing == {"has_more": False, "first_id": names[0], "last_id": names[-1]}
        assert (await gateway.ask("/v1/models/phi", headers=VERSION)).json["type"] == "model"
        assert (await gateway.ask("/v1/models/phi")).json["object"] == "model"


@scenario
async def test_a_name_for_a_picker_that_is_somebody_elses_own_stands_there_once() -> None:
    models = {"claude-local-phi:latest": {"backend_model": "gemma3:12b"}}
    async with ollama("gemma3:12b", "phi:latest") as backend, hermes(backend, models=models) as gateway:
        listing = (await gateway.ask("/v1/models", headers=VERSION)).json
        names = ["claude-local-phi:latest", "gemma3:12b", "phi:latest", "claude-local-gemma3:12b"]
        assert [item["id"] for item in listing["data"]] == names


@scenario
async def test_what_cannot_chat_has_no_name_for_a_picker() -> None:
    async with ollama("embedder") as backend:
        backend.models[0]["capabilities"] = ["embedding"]
        async with hermes(backend) as gateway:
            listing = (await gateway.ask("/v1/models", headers=VERSION)).json
            assert [item["id"] for item in listing["data"]] == ["embedder"]


@pytest.mark.parametrize("path", [MESSAGES, "/v1/chat/completions", "/api/chat"])
@scenario
async def test_the_name_that_a_picker_shows_is_good_to_ask_by(path: str) -> None:
    async with ollama("phi:latest") as backend, hermes(backend) as gateway:
        backend.default = speak("Hello")
        for alias in ("claude-local-phi:latest", "claude-local-phi"):
            told = (await gateway.ask(path, chat(model=alias) | {"stream": False})).json
            assert told["model"] == alias
            assert (await gateway.ask(f"/v1/models/{alias}", headers=VERSION)).json["display_name"] in alias[13:]
        assert {asked.body["model"] for asked in backend.asked} == {"phi:latest"}
        assert (await gateway.ask(path, chat(model="claude-local-nobody"))).status == 404
        assert (await gateway.ask(path, chat(model="claude-local-"))).status == 404


@scenario
async def test_lines_that_the_configuration_names_never_reach_a_backend() -> None:
    async with ollama() as backend, hermes(backend, volatile_lines=["Time:"]) as gateway:
        backend.default = speak("Hello")
        said = chat(system="Time: 12:01\nBe brief")
        assert (await gateway.ask(MESSAGES, said)).status == 200
        for system in ("Time: 12:02\nBe kind", "Time: 12:02"):
            assert (await gateway.ask("/v1/llm/gemma", {"prompt": "Time: 1", "system": system})).status == 200
        messages, one, other = [asked.body for asked in backend.asked]
        assert [message["content"] for message in messages["messages"]] == ["Be brief", "Hi"]
        assert (one["system"], one["prompt"]) == ("Be kind", "Time: 1")
        assert ("system" in other, other["prompt"]) == (False, "Time: 1")


@scenario
async def test_no_models_are_an_empty_page() -> None:
    async with ollama() as backend, hermes(backend, serve_unlisted=False) as gateway:
        assert (await gateway.ask("/v1/models", headers=VERSION)).json == {
            "data": [],
            "has_more": False,
            "first_id": None,
            "last_id": None,
        }


@scenario
async def test_an_answer_in_a_thread_of_its_own_is_no_other() -> None:
    """Bodies this long are parsed in one (I36)."""
    async with ollama() as backend, hermes(backend) as gateway:
        backend.default = speak("Hel", "lo")
        long = chat("x" * 300_000)
        assert (await gateway.ask(MESSAGES, long)).json["content"] == [{"type": "text", "text": "Hello"}]
        assert backend.asked[0].body["messages"] == long["messages"]
        assert await counted(gateway, long) > 0
