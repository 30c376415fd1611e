"""Load-time options and keep_alive: the same for every request of a model, or Ollama would load it anew."""

from typing import Any

import pytest

from hermes.fleet.inventory import ModelInfo
from tests.fakes.backend import FakeOllama, loaded, ollama, play
from tests.fakes.gateway import CHAT, PROMPT, Hermes, chat, hermes, prompt, scenario

PINNED: dict[str, Any] = {"backend_model": "gemma3:12b", "options": {"num_ctx": 8192, "use_mmap": False}}


@pytest.mark.parametrize("model", ["gemma", "gemma3:12b"])
@scenario
async def test_every_request_of_a_model_carries_what_is_pinned_whatever_its_name_and_its_own_options(
    model: str,
) -> None:
    models = {"gemma": {**PINNED, "keep_alive": "10m"}}
    async with ollama("gemma3:12b") as backend, hermes(backend, models=models) as gateway:
        await gateway.ask(f"/v1/llm/{model}", prompt(options={"temperature": 0.5}))
        await gateway.ask(CHAT, chat(model=model, stream=True))
        asked, streamed = (each.body for each in backend.asked)
        assert asked["options"] == {"temperature": 0.5, "num_ctx": 8192, "use_mmap": False}
        assert streamed["options"] == {"temperature": 1.0, "top_p": 1.0, "num_ctx": 8192, "use_mmap": False}
        assert asked["keep_alive"] == streamed["keep_alive"] == 600


@scenario
async def test_what_is_pinned_for_one_model_is_not_for_another() -> None:
    async with ollama("gemma3:12b", "phi:latest") as backend, hermes(backend, models={"gemma": PINNED}) as gateway:
        await gateway.ask("/v1/llm/phi", prompt())
        assert "options" not in backend.asked[0].body


@scenario
async def test_what_is_pinned_holds_for_the_backends_that_may_serve_the_model() -> None:
    models = {"a": {**PINNED, "backends": ["b0"]}, "b": {"backend_model": "gemma3:12b", "backends": ["b1"]}}
    async with ollama("gemma3:12b") as one, ollama("gemma3:12b") as two, hermes(one, two, models=models) as gateway:
        for name in models:
            await gateway.ask(f"/v1/llm/{name}", prompt())
        assert one.asked[0].body["options"]["num_ctx"] == 8192
        assert "options" not in two.asked[0].body


@pytest.mark.parametrize(
    ("capabilities", "path"), [(["completion"], "/api/generate"), (["embedding"], "/api/embed")], ids=["chat", "embed"]
)
@scenario
async def test_a_pulled_model_is_loaded_as_its_requests_will_want_it(capabilities: list[str], path: str) -> None:
    models = {"gemma": {"options": {"num_ctx": 8192}, "keep_alive": -1}}
    async with ollama("gemma:latest") as backend, hermes(backend, models=models) as gateway:
        backend.models[0] |= {"capabilities": capabilities, "digest": "new"}
        backend.loaded = []
        backend.management["/api/pull"] = play({"status": "success"})
        backend.management["/api/embed"] = play({"embeddings": []})
        assert (await gateway.ask(f"{PROMPT}/pull", {})).events[-1]["loaded"] is True
        (load,) = [asked.body for asked in backend.managed if asked.path == path]
        assert (load["options"], load["keep_alive"]) == ({"num_ctx": 8192}, -1)


# --- the context of what is loaded ------------------------------------------------------------------------------------


async def context_said(gateway: Hermes, backend: FakeOllama) -> Any:
    """The `num_ctx` of a request now."""
    await gateway.runtime.fleet.backends["b0"].look(20.0)
    assert (await gateway.ask(PROMPT, prompt())).status == 200
    return backend.asked[-1].body.get("options", {}).get("num_ctx")


@scenario
async def test_what_others_have_loaded_keeps_its_context() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        backend.loaded = [loaded("gemma:latest", context=16384)]
        assert await context_said(gateway, backend) == 16384


@scenario
async def test_what_we_have_loaded_gets_requests_as_plain_as_its_load() -> None:
    async with ollama() as backend:
        backend.loaded = []
        async with hermes(backend) as gateway:
            assert await context_said(gateway, backend) is None
            backend.loaded = [loaded("gemma:latest", context=4096)]
            assert await context_said(gateway, backend) is None
            backend.loaded = [loaded("gemma:latest", context=16384)]  # others had it loaded anew
            assert await context_said(gateway, backend) == 16384
            backend.loaded = [loaded("gemma:latest", context=4096)]
            assert await context_said(gateway, backend) is None


@scenario
async def test_what_is_loaded_after_ours_was_gone_is_others() -> None:
    async with ollama() as backend:
        backend.loaded = []
        async with hermes(backend) as gateway:
            await context_said(gateway, backend)
            backend.loaded = [loaded("gemma:latest", context=4096)]
            await context_said(gateway, backend)
            backend.loaded = []
            await gateway.runtime.fleet.backends["b0"].look(20.0)
            backend.loaded = [loaded("gemma:latest", context=4096)]
            assert await context_said(gateway, backend) == 4096


@scenario
async def test_what_we_load_anew_has_not_the_context_that_others_gave_it() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        backend.loaded = [loaded("gemma:latest", context=16384)]
        await gateway.runtime.fleet.backends["b0"].look(20.0)
        driver = gateway.runtime.fleet.backends["b0"].driver
        await driver.unload("gemma:latest", 2.0)
        await driver.load(ModelInfo("gemma:latest"), 2.0)
        load = [asked.body for asked in backend.managed if asked.path == "/api/generate"][-1]
        assert load["keep_alive"] and "options" not in load


@scenario
async def test_a_context_that_is_configured_holds_whatever_others_have_loaded() -> None:
    models = {"gemma": {"options": {"num_ctx": 8192}}}
    async with ollama() as backend, hermes(backend, models=models) as gateway:
        backend.loaded = [loaded("gemma:latest", context=16384)]
        assert await context_said(gateway, backend) == 8192


@scenario
async def test_what_else_is_pinned_is_said_beside_the_context_of_others() -> None:
    models = {"gemma": {"options": {"use_mmap": False}, "keep_alive": "10m"}}
    async with ollama() as backend, hermes(backend, models=models) as gateway:
        backend.loaded = [loaded("gemma:latest", context=16384)]
        assert await context_said(gateway, backend) == 16384
        asked = backend.asked[-1].body
        assert (asked["options"]["use_mmap"], asked["keep_alive"]) == (False, 600)
