"""Servers that speak OpenAI's API: what is asked of them, what they have, and what they are not told."""

import asyncio
from typing import Any

import msgspec
import pytest

from hermes.fleet.inventory import ModelInfo
from tests.fakes.backend import DONE, FakeOllama, answer, listening, play
from tests.fakes.gateway import CHAT, Hermes, bearer, chat, hermes, key, scenario, session
from tests.fakes.openai_backend import FakeOpenAI
from tests.support import until

LISTED: dict[str, Any] = {"object": "model", "created": 1795287133, "owned_by": "x"}


def inventory(gateway: Hermes) -> Any:
    return gateway.runtime.fleet.backends["b0"].inventory


async def look(gateway: Hermes) -> str:
    backend = gateway.runtime.fleet.backends["b0"]
    await backend.look(20.0)
    return backend.state


@scenario
async def test_a_llama_server_tells_its_model_its_slots_and_its_build() -> None:
    fake = FakeOpenAI("llamacpp", slots=3)
    meta = {"n_ctx": 2048, "n_ctx_train": 32768, "size": 1708544, "ftype": "all F32"}
    fake.models = [
        LISTED | {"id": "/srv/models/tiny.gguf", "aliases": ["/srv/models/tiny.gguf", "small"], "meta": meta}
    ]
    async with listening(fake), hermes(fake) as gateway:
        assert inventory(gateway).models == {
            "tiny": ModelInfo(
                "tiny", 1708544, modified_at="2026-11-21T18:52:13+00:00", quantization="all F32", context_length=2048
            )
        }
        assert inventory(gateway).names == {"tiny": "tiny", "tiny:latest": "tiny", "small": "tiny"}
        status = (await gateway.ask("/v1/status")).json["backends"][0]
        assert (status["kind"], status["version"], status["state"]) == ("llamacpp", "b1-0c1e570", "up")
        assert (await gateway.ask(CHAT, chat(model="small"))).status == 200
        assert fake.asked[0].body["model"] == "/srv/models/tiny.gguf"
        assert gateway.runtime.scheduler.slots("tiny", "b0") == 3


@scenario
async def test_vllm_tells_how_long_a_context_may_be_and_runs_as_many_as_it_does_by_default() -> None:
    fake = FakeOpenAI("vllm")
    fake.models = [LISTED | {"id": "Qwen/Qwen3-8B", "max_model_len": 40960, "permission": [{}]}]
    async with listening(fake), hermes(fake) as gateway:
        (info,) = inventory(gateway).models.values()
        assert (info.name, info.context_length) == ("Qwen/Qwen3-8B", 40960)
        assert gateway.runtime.fleet.backends["b0"].slots == 256
        listed = (await gateway.ask("/v1/models")).json["data"]
        assert [(item["id"], item["created"], item["owned_by"]) for item in listed] == [
            ("Qwen/Qwen3-8B", 1795287133, "Qwen")
        ]


@pytest.mark.parametrize("kind", ["llamacpp", "vllm", "openai"])
@scenario
async def test_the_operators_word_on_slots_goes_before_the_servers(kind: str) -> None:
    fake = FakeOpenAI(kind, slots=3)
    async with listening(fake):
        backends = [{"name": "b0", "url": fake.url, "kind": kind, "slots": 5}]
        async with hermes(backends=backends) as gateway:
            assert gateway.runtime.fleet.backends["b0"].slots == 5


@scenario
async def test_of_an_unknown_server_only_its_models_are_asked() -> None:
    fake = FakeOpenAI("openai")
    async with listening(fake), hermes(fake) as gateway:
        assert await look(gateway) == "up"
        assert {asked.path for asked in fake.managed} == {"/v1/models"}
        assert gateway.runtime.fleet.backends["b0"].slots is None
        assert "slots" in (await gateway.ask("/v1/status")).json["backends"][0]["hint"]


@pytest.mark.parametrize(("kind", "settles"), [("vllm", False), ("llamacpp", True), ("openai", True)])
@scenario
async def test_only_vllm_drops_a_prompt_that_nobody_waits_for_any_more(kind: str, settles: bool) -> None:
    fake = FakeOpenAI(kind)
    async with listening(fake), hermes(fake) as gateway:
        assert gateway.runtime.fleet.backends["b0"].facts.settles is settles


# --- health ---------------------------------------------------------------------------------------------------------

LOADING = b'{"error":{"message":"Loading model","type":"unavailable_error","code":503}}'


@scenario
async def test_a_server_that_is_still_loading_is_not_up_and_says_why() -> None:
    fake = FakeOpenAI("llamacpp")
    fake.management = dict.fromkeys(("/health", "/v1/models", "/props"), answer(503, LOADING))
    async with listening(fake), hermes(fake) as gateway:
        backend = gateway.runtime.fleet.backends["b0"]
        assert (backend.state, backend.error) == ("down", "Loading model")
        fake.management.clear()
        assert await look(gateway) == "up"


@scenario
async def test_a_dead_engine_is_not_up_though_its_models_are_listed() -> None:
    fake = FakeOpenAI("vllm")
    async with listening(fake), hermes(fake) as gateway:
        fake.management["/health"] = answer(503, b"")
        backend = gateway.runtime.fleet.backends["b0"]
        await look(gateway)  # it is looked at again in a second
        await until(lambda: backend.state == "down", "still up", 5.0)


@pytest.mark.parametrize(
    ("status", "body", "why"),
    [
        (401, b'{"error":"Unauthorized"}', "is its api_key right?"),
        (404, b"404 page not found", "is its kind right?"),
        (200, b"<html>", "is not OpenAI's"),
        (200, b'{"models":[]}', "is not OpenAI's"),
        (200, b'{"data":[{"name":"x"}]}', "is not OpenAI's"),
    ],
)
@scenario
async def test_a_server_that_does_not_list_its_models_is_down_and_says_why(status: int, body: bytes, why: str) -> None:
    fake = FakeOpenAI("openai")
    fake.management["/v1/models"] = answer(status, body)
    async with listening(fake), hermes(fake) as gateway:
        backend = gateway.runtime.fleet.backends["b0"]
        assert backend.state == "down" and why in backend.error


@pytest.mark.parametrize(("status", "body"), [(404, b"{}"), (200, b"<html>"), (200, b'{"total_slots": -1}')])
@scenario
async def test_a_build_without_health_or_props_is_up_all_the_same(status: int, body: bytes) -> None:
    fake = FakeOpenAI("llamacpp")
    fake.management = dict.fromkeys(("/health", "/props"), answer(status, body))
    async with listening(fake), hermes(fake) as gateway:
        assert await look(gateway) == "up" and gateway.runtime.fleet.backends["b0"].slots is None


# --- what it is not told --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["load", "unload", "pull"])
@scenario
async def test_operators_are_told_that_it_loads_its_models_itself(verb: str) -> None:
    fake = FakeOpenAI("vllm", "gemma")
    async with listening(fake), hermes(fake, keys=[key("op", admin=True)]) as gateway:
        reply = await gateway.ask(f"/v1/llm/gemma/{verb}", {}, bearer("op"))
        assert (reply.status, reply.error["code"]) == (400, "unsupported_by_backend")
        assert reply.error["message"] == "the backend loads its models itself"
        assert {asked.path for asked in fake.managed} <= {"/health", "/v1/models", "/version"}


@scenario
async def test_a_model_is_pulled_where_that_can_be_done() -> None:
    fake, other = FakeOpenAI("vllm", "gemma"), FakeOllama("gemma:latest")
    other.management["/api/pull"] = play({"status": "success"})
    async with listening(fake), listening(other), hermes(fake, other, keys=[key("op", admin=True)]) as gateway:
        reply = await gateway.ask("/v1/llm/gemma/pull", {"load": False}, bearer("op"))
        assert reply.status == 200 and reply.events[-1]["done"]
        assert [asked.path for asked in other.managed].count("/api/pull") == 1


@scenario
async def test_nothing_is_ever_loaded_there_and_no_other_model_waits_for_it() -> None:
    fake = FakeOpenAI("openai", "a", "b")
    fake.scripts.append(play(gate := asyncio.Event(), "Hel", DONE))
    async with listening(fake), hermes(fake) as gateway:
        first = await gateway.open(CHAT, chat(model="a", stream=True))
        await fake.request(0)
        assert (await gateway.ask(CHAT, chat(model="b"))).status == 200
        gate.set()
        await first.reply()


# --- several kinds --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["ollama", "vllm"])
@scenario
async def test_backends_of_two_kinds_serve_one_model(first: str) -> None:
    """Ollama says `gemma:latest` for what the other calls `gemma`."""
    plain, tagged = FakeOpenAI("vllm", "gemma"), FakeOllama("gemma:latest")
    fakes = (tagged, plain) if first == "ollama" else (plain, tagged)
    gate = asyncio.Event()
    for fake in fakes:
        fake.default = play(gate, "Hel", DONE)
    async with listening(plain), listening(tagged), hermes(*fakes, models={"gemma": {}}) as gateway:
        calls = [await gateway.open(CHAT, chat(text)) for text in ("Hi", "Ho")]
        await until(lambda: plain.asked and tagged.asked, "one backend got both", 3.0)
        assert (plain.asked[0].body["model"], tagged.asked[0].body["model"]) == ("gemma", "gemma:latest")
        gate.set()
        assert [(await call.reply()).status for call in calls] == [200, 200]
        assert tagged.orders == []


DEMANDED = {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "required"}


@scenario
async def test_a_call_is_demanded_only_of_those_that_can_be_made_to() -> None:
    vllm, other = FakeOpenAI("vllm", "gemma"), FakeOllama("gemma:latest", "mistral")
    async with listening(vllm), listening(other), hermes(other, vllm) as gateway:
        for _ in range(3):
            assert (await gateway.ask(CHAT, chat(**DEMANDED))).status == 200
        assert [asked.body["tool_choice"] for asked in vllm.asked] == ["required"] * 3
        refused = await gateway.ask(CHAT, chat(model="mistral", **DEMANDED))
        assert (refused.status, refused.error["code"], refused.error["param"]) == (
            400,
            "unsupported_parameter",
            "tool_choice",
        )
        assert other.asked == []


@scenario
async def test_what_one_kind_can_no_longer_serve_the_other_does() -> None:
    first, second = FakeOpenAI("llamacpp", "gemma"), FakeOpenAI("openai", "gemma")
    async with listening(first), listening(second), hermes(first, second) as gateway:
        await first.vanish()
        for stream in (True, False):
            home = session("b0", model="gemma", number=stream)
            assert (await gateway.ask(CHAT, chat(stream=stream), home)).status == 200
        await until(lambda: gateway.runtime.fleet.backends["b0"].state == "down", "not noticed", 5.0)
        assert (await gateway.ask(CHAT, chat())).status == 200
        await second.vanish()
        gateway.runtime.fleet.backends["b1"].suspect()
        await until(lambda: not gateway.runtime.fleet.ready, "not noticed", 15.0)
        assert (await gateway.ask(CHAT, chat())).status in (502, 503)
        await first.listen()
        await gateway.runtime.fleet.backends["b0"].look(20.0)
        assert (await gateway.ask(CHAT, chat())).status == 200


LOST = {
    "vllm": (
        404,
        {"message": "The model `gemma` does not exist.", "type": "NotFoundError", "param": "model", "code": 404},
    ),
    "llamacpp": (400, {"message": "model 'gemma' not found", "type": "invalid_request_error", "code": 400}),
    "openai": (404, {"message": "The model 'gemma' does not exist", "type": "invalid_request_error", "code": None}),
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("kind", LOST)
@scenario
async def test_a_model_that_one_has_lost_is_asked_of_who_has_it_after_another_look(kind: str, stream: bool) -> None:
    """I8: once more."""
    status, error = LOST[kind]
    first, second = FakeOpenAI(kind, "gemma"), FakeOpenAI(kind, "gemma")
    async with listening(first), listening(second), hermes(first, second) as gateway:
        first.models.clear()
        first.default = answer(status, msgspec.json.encode({"error": error}))
        for backend in gateway.runtime.fleet.backends.values():
            backend.seen_at -= 60
        for _ in range(2):
            assert (await gateway.ask(CHAT, chat(stream=stream), session("b0", model="gemma"))).status == 200
        assert (len(first.asked), len(second.asked)) == (1, 2)
        assert gateway.runtime.fleet.backends["b0"].breakers == {}, "that is no fault"


@scenario
async def test_an_alias_stands_for_one_name_at_both() -> None:
    fake, other = FakeOpenAI("vllm", "qwen3:8b"), FakeOllama("qwen3:8b")
    models = {"chat": {"backend_model": "qwen3:8b"}}
    async with listening(fake), listening(other), hermes(fake, other, models=models) as gateway:
        assert (await gateway.ask(CHAT, chat(model="chat"))).json["model"] == "chat"
        assert [asked.body["model"] for asked in (*fake.asked, *other.asked)] == ["qwen3:8b"]
