"""Hermes as its own process in front of a real Ollama, and its clients: plain HTTP, OpenAI's SDK, the command line."""

import asyncio
import functools
import json
import os
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, closing
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec
from urllib.parse import urlsplit

import pytest
import uvloop
from openai import AsyncOpenAI

from tests.fakes.gateway import Reply
from tests.fakes.process import COMMAND, SOURCES, Served, serve

P = ParamSpec("P")

OLLAMA_URL = os.environ.get("OLLAMA_URL", "http://127.0.0.1:11434")
MODEL = os.environ.get("MODEL", "tiny")
RESIDENT = MODEL if ":" in MODEL else f"{MODEL}:latest"

# A schema that keeps any model at it for a minute or more, and what is over at once: options of the prompt dialect.
ROWS = {"type": "array", "minItems": 500, "items": {"type": "array", "minItems": 500, "items": {"type": "integer"}}}
LONG: dict[str, Any] = {"format": ROWS, "think": False, "temperature": 1}
SHORT: dict[str, Any] = {"max_tokens": 2, "think": False}

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


class Told(NamedTuple):
    """What a command said, and how it ended."""

    code: int
    out: str
    err: str


async def command(*arguments: str, **environ: str) -> Told:
    """`hermes` with these arguments, in an environment of its own."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND, *arguments, stdout=PIPE, stderr=PIPE, cwd="/", env=SOURCES | environ
    )
    out, err = await process.communicate()
    return Told(process.returncode or 0, out.decode(), err.decode())


async def ollama(path: str, body: Any = None) -> tuple[int, Any]:
    """What the Ollama itself says, asked without Hermes: status and JSON."""
    return await asyncio.to_thread(_ask_ollama, path, body)


def _ask_ollama(path: str, body: Any) -> tuple[int, Any]:
    parts = urlsplit(OLLAMA_URL)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    with closing(kind(parts.hostname or "127.0.0.1", parts.port, timeout=_PATIENCE_S)) as connection:
        connection.request("GET" if body is None else "POST", path, None if body is None else json.dumps(body))
        answer = connection.getresponse()
        return answer.status, json.load(answer)


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

    async def ask(self, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Reply:
        return await (await self.hermes.open(path, body, headers)).reply()

    async def prompt(self, text: str, model: str = MODEL, **more: Any) -> Reply:
        return await self.ask(f"/v1/llm/{model}", {"prompt": text, **more})

    async def command(self, *arguments: str) -> Told:
        """A verb of the command line, asking this Hermes."""
        return await command(*arguments, HERMES_URL=self.hermes.address)

    async def metric(self, series: str) -> float:
        """The value of one series, named with its labels as /metrics has it."""
        lines = (await self.ask("/metrics")).body.decode().splitlines()
        return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{series} ")), 0.0)

    async def models(self) -> dict[str, list[str]]:
        """What each model can do."""
        listed = (await self.ask("/v1/models")).json["data"]
        return {model["id"]: model["capabilities"] for model in listed}

    async def model_that_can(self, capability: str) -> str:
        """MODEL if it can, else another. Skips the test where none can."""
        models = await self.models()
        able = [name for name, capabilities in models.items() if capability in capabilities]
        if not able:
            pytest.skip(f"no model here has the capability {capability!r}")
        return RESIDENT if RESIDENT in able else able[0]


@asynccontextmanager
async def house(folder: Path, ollama_url: str = OLLAMA_URL, **environ: str) -> AsyncIterator[House]:
    """Hermes in front of the Ollama, which must have MODEL."""
    async with serve(folder, OLLAMA_URL=ollama_url, **environ) as hermes:
        home = House(hermes)
        async with home.sdk:
            await home.open_up()
            yield home
