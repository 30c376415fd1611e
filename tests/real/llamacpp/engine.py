"""A real llama-server as a process of the test's own, and Hermes as another in front of it."""

import asyncio
import json
import os
import socket
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from tests.fakes.process import serve
from tests.real.house import House

LLAMA_SERVER = os.environ.get("LLAMA_SERVER", "")
GGUF = os.environ.get("GGUF", "")
THINKER_GGUF = os.environ.get("THINKER_GGUF", "")

MODEL = "tiny"
# A large model takes its time.
_START_S = 120.0


class Engine:
    """One llama-server, whose model is called `tiny` whatever it is."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: Process | None = None

    async def start(self, *model: str) -> None:
        given = ("--host", "127.0.0.1", "--port", str(self.port), "-np", str(self.slots), "--jinja")
        model = model or ("-m", GGUF, "--alias", MODEL, "-c", str(8192 * self.slots))
        command = (LLAMA_SERVER, *model, *given)
        self._process = await asyncio.create_subprocess_exec(*command, stdout=DEVNULL, stderr=DEVNULL)
        async with asyncio.timeout(_START_S):
            while not await self._is_healthy():
                if self._process.returncode is not None:
                    raise RuntimeError("llama-server has ended at once")

    @property
    def rss_bytes(self) -> int:
        """What it has of the memory."""
        assert self._process is not None
        return int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    async def kill(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
            self._process = None

    async def ask(self, path: str, body: Any = None) -> tuple[int, Any]:
        """What it says itself, asked without Hermes."""
        return await asyncio.to_thread(self._ask, path, body)

    def _ask(self, path: str, body: Any) -> tuple[int, Any]:
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=60.0)) as connection:
            connection.request("GET" if body is None else "POST", path, None if body is None else json.dumps(body))
            answer = connection.getresponse()
            return answer.status, json.load(answer)

    async def _is_healthy(self) -> bool:
        try:
            return (await self.ask("/health"))[0] == 200
        except OSError:
            return False

    async def busy(self) -> int:
        """How many of its slots are at work."""
        _, slots = await self.ask("/slots")
        return sum(slot["is_processing"] for slot in slots)

    async def until_busy(self, count: int, within_s: float = 10.0) -> None:
        async with asyncio.timeout(within_s):
            while await self.busy() != count:
                pass


@asynccontextmanager
async def engine(*model: str, slots: int = 2) -> AsyncIterator[Engine]:
    made = Engine(slots)
    try:
        await made.start(*model)
        yield made
    finally:
        await made.kill()


@asynccontextmanager
async def house(folder: Path, engine: Engine, **environ: str) -> AsyncIterator[House]:
    """Hermes in front of it."""
    async with serving(folder, LLM_BACKEND="llamacpp", LLM_BACKEND_URL=engine.url, **environ) as home:
        yield home


@asynccontextmanager
async def serving(folder: Path, **environ: str) -> AsyncIterator[House]:
    """Hermes, as the configuration in the folder and the environment have it."""
    async with serve(folder, **environ) as hermes:
        home = House(hermes)
        async with home.sdk:
            async with asyncio.timeout(10.0):
                while (await home.ask("/readyz")).status != 200:
                    pass
            yield home


async def until_queued(home: House, count: int) -> None:
    async with asyncio.timeout(10.0):
        while await home.metric(f'hermes_requests_queued{{class="normal",model="{MODEL}"}}') != count:
            pass
