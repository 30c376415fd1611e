"""`hermes serve` as a process of its own, told what to do by signals."""

import asyncio
import json
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import hermes
from tests.fakes.backend import FakeOllama
from tests.fakes.gateway import Call, Clients, request_bytes

_PATIENCE_S = 10.0

COMMAND = (sys.executable, "-m", "hermes")
# The code under test, installed or not.
SOURCES = {"PYTHONPATH": str(Path(hermes.__file__).parent.parent)}


class Served:
    """The running process: its port, and its log, which is lines of JSON from the first to the last (I28)."""

    def __init__(self, process: Process, greeting: str, clients: Clients) -> None:
        self.address = greeting.rpartition(" ")[2]
        self.port = int(self.address.rpartition(":")[2]) if "://" in self.address else 0
        self._process = process
        self._clients = clients

    async def open(self, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Call:
        peer = await self._clients.connect(self.port)
        await peer.send(request_bytes("GET" if body is None else "POST", path, body, headers or {}))
        return Call(peer)

    async def queued(self) -> int:
        """How many requests wait."""
        status = (await (await self.open("/v1/status")).reply()).json
        return int(status["requests"]["queued"])

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        self._process.send_signal(number)

    async def told(self, words: str) -> str:
        """The next message of its log with these words."""
        return await _line_with(self._process, words)

    async def end(self) -> tuple[int, list[dict[str, Any]]]:
        """Its exit code and what it has logged since the last line that was read."""
        async with asyncio.timeout(_PATIENCE_S):
            _, log = await self._process.communicate()
        return self._process.returncode or 0, [json.loads(line) for line in log.splitlines()]


async def _line_with(process: Process, words: str) -> str:
    assert process.stderr is not None
    async with asyncio.timeout(_PATIENCE_S):
        while line := (await process.stderr.readline()).decode():
            if words in line:
                return str(json.loads(line)["message"])
    raise AssertionError(f"it never said {words!r}")


@asynccontextmanager
async def serve(
    folder: Path, *arguments: str, backend: FakeOllama | None = None, **environ: str
) -> AsyncIterator[Served]:
    """`hermes serve` in an empty folder and an environment of its own, once it listens."""
    environ = {**SOURCES, "HERMES_SERVER__PORT": "0", "XDG_CONFIG_HOME": str(folder), **environ}
    if backend is not None:
        environ["OLLAMA_URL"] = backend.url
    process = await asyncio.create_subprocess_exec(*COMMAND, "serve", *arguments, stderr=PIPE, cwd=folder, env=environ)
    clients = Clients()
    try:
        yield Served(process, await _line_with(process, "listens on"), clients)
    finally:
        clients.close()
        if process.returncode is None:
            process.kill()
            await process.communicate()
