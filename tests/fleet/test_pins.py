"""Load-time options and keep_alive: the same for every request of a model, or Ollama would load it anew."""

from typing import Any

import pytest

from tests.fakes.backend import ollama, play
from tests.fakes.gateway import CHAT, PROMPT, chat, hermes, prompt, scenario

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
        assert not backend.asked[0].body.keys() & {"options", "keep_alive"}


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
        backend.management["/api/pull"] = play({"status": "success"})
        backend.management["/api/embed"] = play({"embeddings": []})
        assert (await gateway.ask(f"{PROMPT}/pull", {})).events[-1]["loaded"] is True
        (load,) = [asked.body for asked in backend.managed if asked.path == path]
        assert (load["options"], load["keep_alive"]) == ({"num_ctx": 8192}, -1)
