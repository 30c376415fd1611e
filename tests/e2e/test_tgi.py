"""TGI behind Hermes, as its imitation has it: what comes back, by its own rules, whole and streamed."""

import asyncio
import json
from typing import Any

import pytest

from tests.fakes.backend import DONE, FakeOllama, Then, answer, fail, listening, play
from tests.fakes.gateway import CHAT, MESSAGES, PROMPT, Reply, bearer, chat, hermes, key, prompt, scenario, session
from tests.fakes.tgi import FakeTgi

GENERATE = "/api/generate"
STREAM_OR_NOT = pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
LOOK = {"name": "look", "parameters": {"type": "object", "properties": {"city": {"type": "string", "enum": ["Oslo"]}}}}
TOOLS = [{"type": "function", "function": LOOK}]
SCHEMA = {"type": "object", "properties": {"ok": {"type": "boolean"}}}


def raw(**more: Any) -> dict[str, Any]:
    return {"model": "gemma", "prompt": "Hi", "raw": True, **more}


def by_schema(schema: dict[str, Any]) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}}


def text(reply: Reply) -> str:
    """Of OpenAI's or of Ollama's answer, however it came."""
    said = ""
    for told in reply.events:
        if "response" in told:
            said += told["response"]
        elif told != "[DONE]" and told["choices"]:
            choice = told["choices"][0]
            said += (
                choice["text"] if "text" in choice else choice.get("delta", choice.get("message")).get("content") or ""
            )
    return said


# --- what it has ----------------------------------------------------------------------------------------------------


@scenario
async def test_its_info_tells_its_model_its_slots_and_its_context() -> None:
    async with listening(FakeTgi("meta-llama/Llama-3.1-8B")) as fake, hermes(fake) as gateway:
        backend = gateway.runtime.fleet.backends["b0"]
        (info,) = backend.inventory.models.values()
        assert (info.name, info.context_length) == ("meta-llama/Llama-3.1-8B", 80)
        assert (backend.slots, backend.facts.settles) == (8, True)
        status = (await gateway.ask("/v1/status")).json["backends"][0]
        assert (status["kind"], status["version"], status["state"]) == ("tgi", "3.3.6", "up")
        assert {asked.path for asked in fake.managed} == {"/health", "/info"}


@scenario
async def test_a_model_from_a_folder_is_called_as_that_is() -> None:
    async with listening(FakeTgi("/data/gemma")) as fake, hermes(fake) as gateway:
        assert (await gateway.ask(CHAT, chat())).status == 200
        assert fake.asked[0].body["model"] == "tgi"


@pytest.mark.parametrize(
    ("path", "status", "body", "why"),
    [
        ("/health", 503, b'{"error":"unhealthy","error_type":"healthcheck"}', "unhealthy"),
        ("/info", 404, b"", "is its kind right?"),
        ("/info", 200, b'{"data":[]}', "is not TGI's"),
        ("/info", 200, b"<html>", "is not TGI's"),
    ],
)
@scenario
async def test_one_that_cannot_serve_is_down_and_says_why(path: str, status: int, body: bytes, why: str) -> None:
    fake = FakeTgi()
    fake.management[path] = answer(status, body)
    async with listening(fake), hermes(fake) as gateway:
        backend = gateway.runtime.fleet.backends["b0"]
        assert backend.state == "down" and why in backend.error


# --- what comes back ------------------------------------------------------------------------------------------------


@STREAM_OR_NOT
@pytest.mark.parametrize(
    ("path", "body"),
    [(CHAT, chat()), (GENERATE, raw()), ("/v1/completions", {"model": "gemma", "prompt": "Hi"})],
    ids=["chat", "raw", "completion"],
)
@scenario
async def test_an_answer_has_its_text_and_its_counts(path: str, body: dict[str, Any], stream: bool) -> None:
    async with listening(FakeTgi()) as fake, hermes(fake) as gateway:
        reply = await gateway.ask(path, body | {"stream": stream})
        assert text(reply) == "Hello there, you!"
        record = await gateway.record()
        assert (record.outcome, record.tokens_in, record.tokens_out) == ("ok", 1, 6)
        assert fake.asked[0].path == ("/v1/chat/completions" if path == CHAT else "/generate_stream")


@STREAM_OR_NOT
@scenario
async def test_a_call_comes_through_though_its_end_is_not_told(stream: bool) -> None:
    async with listening(FakeTgi()) as fake, hermes(fake) as gateway:
        events = (await gateway.ask(CHAT, chat(tools=TOOLS, stream=stream))).events
        choices = [event["choices"][0] for event in events if event != "[DONE]"]
        calls = [
            call["function"]
            for each in choices
            for call in each.get("delta", each.get("message")).get("tool_calls", ())
        ]
        assert [call["name"] for call in calls if "name" in call] == ["look"]
        assert json.loads("".join(call["arguments"] for call in calls)) == {"city": "Oslo"}
        assert choices[-1]["finish_reason"] == "tool_calls"
        said = {"model": "gemma", "max_tokens": 50, "messages": [{"role": "user", "content": "Hi"}]}
        tool = {"name": "look", "input_schema": LOOK["parameters"]}
        reply = await gateway.ask(MESSAGES, said | {"tools": [tool], "tool_choice": {"type": "any"}})
        assert (reply.json["stop_reason"], reply.json["content"][0]["input"]) == ("tool_use", {"city": "Oslo"})
        assert fake.asked[1].body["tool_choice"] == "required"


@STREAM_OR_NOT
@scenario
async def test_json_is_made_by_the_schema_and_only_by_one(stream: bool) -> None:
    async with listening(FakeTgi()) as fake, hermes(fake) as gateway:
        reply = await gateway.ask(CHAT, chat(stream=stream, **by_schema(SCHEMA)))
        assert json.loads(text(reply)) == {"ok": True}
        reply = await gateway.ask(GENERATE, raw(stream=stream, format=SCHEMA))
        assert json.loads(text(reply)) == {"ok": True}
        refused = await gateway.ask(CHAT, chat(stream=stream, response_format={"type": "json_object"}))
        assert (refused.status, refused.error["code"]) == (400, "unsupported_by_backend")


@STREAM_OR_NOT
@pytest.mark.parametrize("path", [CHAT, GENERATE])
@scenario
async def test_an_answer_ends_before_its_stop_text(path: str, stream: bool) -> None:
    """TGI leaves it there."""
    async with listening(FakeTgi()) as fake, hermes(fake) as gateway:
        body = raw(options={"stop": [", you"]}) if path == GENERATE else chat(stop=[", you"])
        reply = await gateway.ask(path, body | {"stream": stream})
        assert text(reply) == "Hello there"
        assert "length" not in reply.body.decode()


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"messages": [{"role": "user", "content": "x " * 60}]}, "context_length_exceeded"),
    ({"max_tokens": 100}, "context_length_exceeded"),
    (by_schema({"type": "object"}), "invalid_value"),
    ({"tools": TOOLS, **by_schema(SCHEMA)}, "invalid_value"),
]


@STREAM_OR_NOT
@pytest.mark.parametrize(("more", "code"), REFUSED, ids=["prompt", "tokens", "schema", "both"])
@scenario
async def test_what_it_refuses_is_a_400_though_its_stream_began_with_200(
    more: dict[str, Any], code: str, stream: bool
) -> None:
    async with listening(FakeTgi()) as fake, hermes(fake) as gateway:
        reply = await gateway.ask(CHAT, chat(stream=stream) | more)
        assert (reply.status, reply.error["code"]) == (400, code)
        assert (await gateway.record()).attempts == 1


@STREAM_OR_NOT
@pytest.mark.parametrize(("path", "body"), [(CHAT, chat()), (GENERATE, raw())], ids=["chat", "raw"])
@scenario
async def test_one_that_is_overloaded_is_asked_again_and_then_said_to_be_busy(
    path: str, body: dict[str, Any], stream: bool
) -> None:
    """Others may use it too: what it told of its room is no promise."""
    fake = FakeTgi()
    fake.info["max_concurrent_requests"] = 0
    async with listening(fake):
        backends = [{"name": "b0", "kind": "tgi", "url": fake.url, "slots": 2}]
        async with hermes(backends=backends, limits={"max_attempts": 2}) as gateway:
            reply = await gateway.ask(path, body | {"stream": stream})
            assert (reply.status, reply.error["code"]) == (503, "backend_busy")
            assert reply.headers["retry-after"] and len(fake.asked) == 2
            assert gateway.runtime.fleet.backends["b0"].state == "up"


# --- the rest -------------------------------------------------------------------------------------------------------


@STREAM_OR_NOT
@pytest.mark.parametrize(("path", "body"), [(CHAT, chat()), (GENERATE, raw()), (PROMPT, prompt())])
@scenario
async def test_a_client_that_leaves_is_noticed_there_at_once(path: str, body: dict[str, Any], stream: bool) -> None:
    """I9."""
    async with listening(FakeTgi()) as fake, hermes(fake) as gateway:
        fake.default = play("Hel", then=Then.STALL)
        call = await gateway.open(path, body | {"stream": stream})
        asked = await fake.request(0)
        if stream:
            await call.head()
            await call.event()
        call.leave()
        async with asyncio.timeout(1.0):
            await asked.left.wait()
        assert (await gateway.record()).outcome == "client_gone"


@scenario
async def test_no_more_run_there_than_it_takes() -> None:
    fake = FakeTgi()
    fake.info["max_concurrent_requests"] = 2
    gate = asyncio.Event()
    async with listening(fake), hermes(fake) as gateway:
        fake.default = play(gate, "Hel", DONE)
        calls: list[Any] = [await gateway.open(CHAT, chat()) for _ in range(3)]
        await gateway.until_waiting(1)
        await fake.request(1)
        gate.set()
        assert [(await call.reply()).status for call in calls] == [200, 200, 200]
        assert fake.most_running == 2


@scenario
async def test_it_sees_its_own_key() -> None:
    async with listening(FakeTgi()) as fake:
        told = {"name": "b0", "kind": "tgi", "url": f"{fake.url}/v1", "api_key": "hf-own"}
        async with hermes(backends=[told], keys=[key("ann")]) as gateway:
            assert (await gateway.ask(CHAT, chat(), bearer("ann"))).status == 200
        assert {asked.headers["authorization"] for asked in (*fake.asked, *fake.managed)} == {"Bearer hf-own"}


@pytest.mark.parametrize(
    ("field", "where"), [({"raw": True}, "tgi"), ({"suffix": "}"}, "ollama"), ({"suffix": "}", "raw": True}, "ollama")]
)
@scenario
async def test_a_prompt_as_it_is_goes_there_but_none_that_a_suffix_follows(field: dict[str, Any], where: str) -> None:
    asked = {"model": "gemma", "prompt": "Hi", "stream": False} | field
    async with listening(FakeTgi()) as fake, listening(FakeOllama("gemma:latest")) as other:
        fake.default = other.default
        async with hermes(fake, other) as gateway:
            await gateway.ask(GENERATE, asked, session("b0"))
            assert bool(fake.asked) is (where == "tgi") and bool(other.asked) is (where == "ollama")
        if where == "ollama":
            async with hermes(fake) as gateway:
                reply = await gateway.ask(GENERATE, asked)
                assert (reply.status, reply.error["param"]) == (400, "suffix")


@scenario
async def test_vectors_are_asked_of_whoever_makes_them() -> None:
    texts = {"model": "gemma", "input": "a"}
    async with listening(FakeTgi()) as fake, listening(FakeOllama("gemma:latest")) as other:
        other.management["/api/embed"] = answer(200, b'{"embeddings":[[0.5]]}')
        async with hermes(fake, other) as gateway:
            for _ in range(3):
                assert (await gateway.ask("/v1/embeddings", texts)).status == 200
        async with hermes(fake) as gateway:
            reply = await gateway.ask("/v1/embeddings", texts)
            assert (reply.status, reply.error["code"]) == (400, "unsupported_by_backend")
        assert not fake.asked


@scenario
async def test_a_wrong_key_is_no_business_of_the_clients() -> None:
    async with listening(FakeTgi()) as fake, hermes(fake) as gateway:
        fake.default = fail(401, "")
        reply = await gateway.ask(CHAT, chat())
        assert (reply.status, reply.error["code"]) == (502, "backend_refused")
