"""What a model can do is asked of its own page: Ollama's list leaves out what a model's own template tells (0.33)."""

import json

from tests.fakes.backend import answer, ollama
from tests.fakes.gateway import PROMPT, hermes, prompt, scenario

SHOWN = answer(200, json.dumps({"capabilities": ["completion", "tools", "thinking"]}).encode())


@scenario
async def test_what_a_model_can_do_is_more_than_the_list_says() -> None:
    async with ollama() as backend:
        backend.models[0]["capabilities"] = ["completion"]
        backend.management["/api/show"] = SHOWN
        async with hermes(backend) as gateway:
            told = (await gateway.ask("/v1/models/gemma")).json
            assert told["capabilities"] == ["completion", "tools", "thinking"]


@scenario
async def test_a_bare_prompt_to_a_thinking_model_keeps_its_thoughts_apart() -> None:
    """/api/generate would leave them in the result."""
    async with ollama() as backend:
        backend.models[0]["capabilities"] = ["completion"]
        backend.management["/api/show"] = SHOWN
        async with hermes(backend) as gateway:
            await gateway.ask(PROMPT, prompt())
            assert backend.asked[0].path == "/api/chat"


@scenario
async def test_a_model_is_asked_about_once() -> None:
    async with ollama() as backend:
        backend.management["/api/show"] = SHOWN
        async with hermes(backend) as gateway:
            await gateway.runtime.fleet.backends["b0"].look(20.0)
            assert [asked.path for asked in backend.managed].count("/api/show") == 1


@scenario
async def test_where_a_model_has_no_page_the_list_counts() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        told = (await gateway.ask("/v1/models/gemma")).json
        assert told["capabilities"] == backend.models[0]["capabilities"]
