"""What it brings that conversations stay where they are: 60 of 8 turns each, over three real llama-servers.

    python benchmarks/affinity.py LLAMA_SERVER GGUF

Each request goes to the next server in turn, or Hermes is in front of them. Prints how many of the later turns came to
the server that had the turn before, how evenly requests were spread (the most over the mean), and which part of the
prompts' tokens was reused, as the servers themselves say (`cache_n`). Any model with a chat template will do.
"""

import asyncio
import contextlib
import json
import random
import re
import socket
import sys
import tempfile
import time
from asyncio.subprocess import DEVNULL
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

CONVERSATIONS, TURNS, SERVERS, SLOTS, CONTEXT = 60, 8, 3, 4, 4096
# So many conversations at a time, each of whose users asks on as soon as there is an answer.
AT_ONCE = (60, 10, 3)
ANSWER_TOKENS = 24

TIMINGS = re.compile(rb'"cache_n":(\d+),"prompt_n":(\d+)')
# Asks for the next turn: which server answered, and what.
Asker = Callable[[list[dict[str, str]]], Awaitable[tuple[str, str]]]

WORDS = (
    "time",
    "year",
    "people",
    "way",
    "day",
    "thing",
    "life",
    "child",
    "world",
    "school",
    "state",
    "family",
    "group",
)


class Server:
    """A llama-server, and before it a relay that reads along what it says of its cache."""

    def __init__(self, program: str, model: str) -> None:
        self.port, self.relayed_port = free_port(), free_port()
        self.reused_tokens = self.read_tokens = 0
        options = ("--host", "127.0.0.1", "--port", str(self.port), "-np", str(SLOTS), "-c", str(SLOTS * CONTEXT))
        self._command = (program, "-m", model, "--alias", "model", "-t", "1", *options)

    async def begin(self) -> None:
        self._process = await asyncio.create_subprocess_exec(*self._command, stdout=DEVNULL, stderr=DEVNULL)
        await ready(self.port, "/health")
        self._relay = await asyncio.start_server(self._pass_on, "127.0.0.1", self.relayed_port)

    async def end(self) -> None:
        self._process.kill()
        await self._process.wait()
        self._relay.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self.port)
        await asyncio.gather(pipe(reader, back, lambda data: None), pipe(there, writer, self._note))

    def _note(self, data: bytes) -> None:
        for reused, read in TIMINGS.findall(data):
            self.reused_tokens += int(reused)
            self.read_tokens += int(read)


async def pipe(source: asyncio.StreamReader, sink: asyncio.StreamWriter, note: Callable[[bytes], None]) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await source.read(1 << 16):
            note(data)
            sink.write(data)
            await sink.drain()
    sink.close()


def free_port() -> int:
    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


async def ask(port: int, path: str, body: Any = None) -> tuple[bytes, Any]:
    """The head and what the JSON says."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    sent = b"" if body is None else json.dumps(body).encode()
    method = b"GET" if body is None else b"POST"
    head = b"%b %b HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
    writer.write(head % (method, path.encode(), len(sent)) + sent)
    told, _, answer = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    if b" 200 " not in told[:16]:
        raise ConnectionError(f"{told!r} {answer!r}")
    return told, json.loads(answer)


async def ready(port: int, path: str) -> None:
    async with asyncio.timeout(120):
        while True:
            with contextlib.suppress(ConnectionError):
                await ask(port, path)
                return
            await asyncio.sleep(0.1)


def body(messages: list[dict[str, str]]) -> dict[str, Any]:
    return {"model": "model", "messages": messages, "max_tokens": ANSWER_TOKENS}


@asynccontextmanager
async def in_turn(servers: list[Server], folder: Path) -> AsyncIterator[Asker]:
    turns = cycle(servers)

    async def say(messages: list[dict[str, str]]) -> tuple[str, str]:
        server = next(turns)
        _, answer = await ask(server.relayed_port, "/v1/chat/completions", body(messages))
        return str(server.port), answer["choices"][0]["message"]["content"]

    yield say


@asynccontextmanager
async def by_hermes(servers: list[Server], folder: Path) -> AsyncIterator[Asker]:
    port = free_port()
    backends = [
        {"name": f"s{server.port}", "kind": "llamacpp", "url": f"http://127.0.0.1:{server.relayed_port}"}
        for server in servers
    ]
    settings = {"server": {"port": port, "state_dir": "off"}, "backends": backends, "logging": {"access_log": "off"}}
    file = folder / "hermes.yaml"
    file.write_text(json.dumps(settings))
    command = (sys.executable, "-m", "hermes", "serve", "--config", str(file))
    process = await asyncio.create_subprocess_exec(*command, stdout=DEVNULL, stderr=DEVNULL)

    async def say(messages: list[dict[str, str]]) -> tuple[str, str]:
        told, answer = await ask(port, "/v1/chat/completions", body(messages))
        backend = re.search(rb"(?i)x-hermes-backend: (\S+)", told)
        assert backend is not None
        return backend[1].decode(), answer["choices"][0]["message"]["content"]

    try:
        await ready(port, "/readyz")
        yield say
    finally:
        process.terminate()
        await process.wait()


async def talk(number: int, say: Asker, places: list[list[str]]) -> None:
    """One conversation: everybody's system text, then words of its own."""
    draw = random.Random(number)
    messages = [{"role": "system", "content": " ".join(WORDS)}]
    for _ in range(TURNS):
        messages.append({"role": "user", "content": " ".join(draw.choices(WORDS, k=40))})
        place, answer = await say(messages)
        messages.append({"role": "assistant", "content": answer})
        places[number].append(place)


async def play(program: str, model: str, at_once: int, way: Any) -> dict[str, Any]:
    servers = [Server(program, model) for _ in range(SERVERS)]
    places: list[list[str]] = [[] for _ in range(CONVERSATIONS)]
    limit = asyncio.Semaphore(at_once)

    async def when_there_is_room(number: int, say: Asker) -> None:
        async with limit:
            await talk(number, say, places)

    try:
        for server in servers:
            await server.begin()
        with tempfile.TemporaryDirectory() as folder:
            async with way(servers, Path(folder)) as say:
                began = time.monotonic()
                await asyncio.gather(*(when_there_is_room(number, say) for number in range(CONVERSATIONS)))
                took_s = time.monotonic() - began
    finally:
        for server in servers:
            await server.end()
    pairs = [pair for turns in places for pair in pairwise(turns)]
    requests = Counter(place for turns in places for place in turns)
    reused, read = sum(server.reused_tokens for server in servers), sum(server.read_tokens for server in servers)
    return {
        "way": way.__name__,
        "at_once": at_once,
        "stayed": round(sum(before == after for before, after in pairs) / len(pairs), 3),
        "imbalance": round(max(requests.values()) * SERVERS / sum(requests.values()), 2),
        "reused": round(reused / (reused + read), 3),
        "tokens_read": read,
        "seconds": round(took_s, 1),
    }


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    for at_once in AT_ONCE:
        for way in (in_turn, by_hermes):
            print(json.dumps(asyncio.run(play(sys.argv[1], sys.argv[2], at_once, way))), flush=True)
