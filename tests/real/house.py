"""Hermes as its own process in front of a real Ollama, and what its clients use: plain HTTP and OpenAI's SDK."""

import asyncio
import functools
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ParamSpec

import pytest
import uvloop
from openai import AsyncOpenAI

from tests.fakes.gateway import Reply
from tests.fakes.process import Served, serve

P = ParamSpec("P")

OLLAMA_URL = os.environ.get("OLLAMA_URL", "http://127.0.0.1:11434")
MODEL = os.environ.get("MODEL", "tiny")

# A large model has to be loaded first.
_PATIENCE_S = 300.0
_START_S = 10.0


def scenario(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Lets a test be a coroutine, and waits for as long as real models take."""

    @functools.wraps(test)
    def on_a_loop(*args: P.args, **kwargs: P.kwargs) -> None:
        async def limited() -> None:
            async with asyncio.timeout(_PATIENCE_S):
                await test(*args, **kwargs)

        uvloop.run(limited())

    return on_a_loop


class House:
    """A running Hermes."""

    def __init__(self, hermes: Served) -> None:
        self.hermes = hermes
        self.sdk = AsyncOpenAI(base_url=f"http://127.0.0.1:{hermes.port}/v1", api_key="none", max_retries=0)

    async def open_up(self) -> None:
        """Wait until Hermes has looked at the Ollama."""
        async with asyncio.timeout(_START_S):
            while (await self.ask("/readyz")).status != 200:
                pass
        found = await self.ask(f"/v1/models/{MODEL}")
        assert found.status == 200, f"set MODEL to one that {OLLAMA_URL} has: {', '.join(await self.models())}"

    async def ask(self, path: str, body: Any = None) -> Reply:
        return await (await self.hermes.open(path, body)).reply()

    async def prompt(self, text: str, model: str = MODEL, **more: Any) -> Reply:
        return await self.ask(f"/v1/llm/{model}", {"prompt": text, **more})

    async def models(self) -> dict[str, list[str]]:
        """What each model can do."""
        listed = (await self.ask("/v1/models")).json["data"]
        return {model["id"]: model["capabilities"] for model in listed}

    async def model_that_can(self, capability: str) -> str:
        """MODEL if it can, else another. Skips the test where none can."""
        models = await self.models()
        able = [name for name, capabilities in models.items() if capability in capabilities]
        mine = MODEL if ":" in MODEL else f"{MODEL}:latest"
        if not able:
            pytest.skip(f"no model here has the capability {capability!r}")
        return mine if mine in able else able[0]


@asynccontextmanager
async def house(folder: Path, ollama_url: str = OLLAMA_URL) -> AsyncIterator[House]:
    """Hermes in front of the Ollama, which must have MODEL."""
    async with serve(folder, OLLAMA_URL=ollama_url) as hermes:
        home = House(hermes)
        async with home.sdk:
            await home.open_up()
            yield home
