"""The official Ollama client asks an Ollama, then the same one through Hermes, and can tell no difference."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from ollama import AsyncClient, ResponseError

from tests.real.house import MODEL, OLLAMA_URL, house, scenario

HI = [{"role": "user", "content": "Hi"}]
LOOK = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Look somewhere",
        "parameters": {"type": "object", "required": ["at"], "properties": {"at": {"type": "string"}}},
    },
}
SCHEMA = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
SAME = {"temperature": 0, "seed": 1, "num_predict": 60}

Ask = Callable[[AsyncClient], Awaitable[Any]]
ASKED: dict[str, Ask] = {
    "chat": lambda client: client.chat(MODEL, HI, options=SAME),
    "streamed chat": lambda client: client.chat(MODEL, HI, options=SAME, stream=True),
    "length": lambda client: client.chat(MODEL, HI, options={**SAME, "num_predict": 3}),
    "tools": lambda client: client.chat(MODEL, HI, options=SAME, tools=[LOOK]),
    "streamed tools": lambda client: client.chat(MODEL, HI, options=SAME, tools=[LOOK], stream=True),
    "schema": lambda client: client.chat(MODEL, HI, options=SAME, format=SCHEMA),
    "logprobs": lambda client: client.chat(MODEL, HI, options=SAME, logprobs=True, top_logprobs=2),
    "no thoughts": lambda client: client.chat(MODEL, HI, options=SAME, think=False),
    "prompt": lambda client: client.generate(MODEL, "Hi", options=SAME, think=False),
    "streamed prompt": lambda client: client.generate(MODEL, "Hi", options=SAME, think=False, stream=True),
    "raw": lambda client: client.generate(MODEL, "Hi", options=SAME, raw=True),
    "load": lambda client: client.generate(MODEL),
    "no such model": lambda client: client.chat("no-such-model", HI),
}


async def heard(client: AsyncClient, ask: Ask) -> Any:
    """What a client's user sees: pieces added up, without times and ids. An error is its status."""
    try:
        said = await ask(client)
        pieces = [piece.model_dump() async for piece in said] if hasattr(said, "__aiter__") else [said.model_dump()]
    except ResponseError as error:
        return error.status_code
    told: dict[str, Any] = {key: pieces[-1][key] for key in ("model", "done", "done_reason", "eval_count")}
    for piece in pieces:
        message = piece.get("message") or piece
        for key in ("content", "response", "thinking"):
            told[key] = told.get(key, "") + (message.get(key) or "")
        told["calls"] = [*told.get("calls", ()), *(message.get("tool_calls") or ())]
        told["logprobs"] = [*told.get("logprobs", ()), *(piece["logprobs"] or ())]
    return told


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
@scenario
async def test_a_client_hears_the_same(ask: Ask, tmp_path: Path) -> None:
    async with (
        house(tmp_path) as home,
        AsyncClient(OLLAMA_URL) as direct,
        AsyncClient(f"http://127.0.0.1:{home.hermes.port}") as through,
    ):
        assert await heard(through, ask) == await heard(direct, ask)


@pytest.mark.parametrize("dimensions", [None, 8])
@scenario
async def test_vectors_are_the_same_to_the_last_digit(dimensions: int | None, tmp_path: Path) -> None:
    async with (
        house(tmp_path) as home,
        AsyncClient(OLLAMA_URL) as direct,
        AsyncClient(f"http://127.0.0.1:{home.hermes.port}") as through,
    ):
        model = await home.model_that_can("embedding")
        made, true = [await each.embed(model, ["a", "b"], dimensions=dimensions) for each in (through, direct)]
        assert (made.embeddings, made.prompt_eval_count) == (true.embeddings, true.prompt_eval_count)
        older, true_older = [await each.embeddings(model, "a") for each in (through, direct)]
        assert older.embedding == true_older.embedding


@scenario
async def test_what_there_is_is_told_alike(tmp_path: Path) -> None:
    async with (
        house(tmp_path) as home,
        AsyncClient(OLLAMA_URL) as direct,
        AsyncClient(f"http://127.0.0.1:{home.hermes.port}") as through,
    ):
        listed, true = [{item.model: item for item in (await each.list()).models} for each in (through, direct)]
        assert listed == true
        shown, true_shown = [await each.show(MODEL) for each in (through, direct)]
        for key in ("modelinfo", "capabilities", "details", "modified_at"):
            ours, theirs = getattr(shown, key), getattr(true_shown, key)
            assert ours == theirs, key
