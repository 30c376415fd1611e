"""Another process goes on: nothing fails, no cap is exceeded, limits and budgets hold, and whoever may die when."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.fakes.backend import DONE, FakeOllama, Then, ollama, play
from tests.fakes.gateway import CHAT, PROMPT, bearer, chat, prompt, request_bytes, scenario
from tests.fakes.process import Served, serve


async def replaced(hermes: Served) -> int:
    """Have another process go on. Returns its pid."""
    hermes.signal(signal.SIGUSR2)
    return int((await hermes.told("goes on; this one ends")).split()[1])


@scenario
async def test_what_runs_ends_where_it_began_and_what_comes_is_answered(tmp_path: Path) -> None:
    async with ollama() as backend, serve(tmp_path, backend=backend) as hermes:
        free = asyncio.Event()
        backend.default = play("Hel", free, "lo", DONE)
        runs = await hermes.open(CHAT, chat(stream=True))
        assert await runs.head() == 200
        pid = await replaced(hermes)
        status = await (await hermes.open("/v1/status")).reply()
        assert status.status == 200
        free.set()
        assert (await runs.events())[-1] == "[DONE]" and runs.whole
        runs.peer.close()
        os.kill(pid, signal.SIGTERM)
        print(await hermes.end())
