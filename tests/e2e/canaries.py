"""A real process with words at its inputs that occur nowhere else, and what is looked through for them (I26, I27)."""

import asyncio
import hashlib
import json
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.fakes import issuer, llm_server
from tests.fakes.backend import DONE, Asked, FakeOllama, Script, answer, play
from tests.fakes.collector import Collector, collector
from tests.fakes.gateway import request_bytes
from tests.fakes.openai_backend import FakeOpenAI
from tests.fakes.process import COMMAND, SOURCES
from tests.http.peers import connect
from tests.support import until


class Canaries:
    """`secret`: nobody is ever shown it. `said`: only who said it may be, in answer to that."""

    def __init__(self) -> None:
        self.secrets: dict[str, str] = {}
        self.words: dict[str, str] = {}
        self.leaks: list[str] = []

    def secret(self, name: str) -> str:
        return self.secrets.setdefault(name, _word(name))

    def said(self, name: str) -> str:
        return self.words.setdefault(name, _word(name))

    def look(self, sink: str, text: str | bytes, asked: Any = "") -> None:
        """`asked`: what this was the answer to."""
        shown, own = _text(text), _text(asked)
        allowed = {name for name, word in self.words.items() if word in own}
        for name, word in (self.secrets | self.words).items():
            if word in shown and name not in allowed:
                at = shown.index(word)
                self.leaks.append(f"{name} in {sink}: ...{shown[max(0, at - 150) : at + 60]}")

    def met(self, texts: Iterable[Any]) -> set[str]:
        """Those that occur in these: what proves that they were put in at all."""
        there = " ".join(map(_text, texts))
        return {name for name, word in (self.secrets | self.words).items() if word in there}


def _word(name: str) -> str:
    return "canary" + hashlib.sha256(name.encode()).hexdigest()[:20]


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else json.dumps(value, default=str)


PLUGIN = '''
"""A plugin that names what it was given in all that it raises, and a bug of Hermes's own that does."""

from hermes.custom import Backend, Listing, ModelInfo
from hermes.gateway import Gateway

complete = Gateway.complete


async def buggy(self, exchange, principal, dialect, request, *more, **others):
    if request.model == "buggy":
        raise KeyError(str(request))
    await complete(self, exchange, principal, dialect, request, *more, **others)


Gateway.complete = buggy


class Tattler(Backend):
    asks = ("/parrots",)

    def listing(self, said):
        return Listing((ModelInfo("tattler"), ModelInfo("buggy")))

    def render_request(self, request, model):
        raise ValueError(f"cannot say {request}")

    def decoder(self, request, answer_id):
        raise AssertionError(request)
'''


def tell_all(asked: Asked) -> str:
    return f"{asked.headers.get('authorization')} {json.dumps(asked.body)}"


def echo(stage: str) -> Script:
    """Says all that it got: as the answer, as an error, or as an error in the middle of an answer."""

    async def script(asked: Asked) -> None:
        told: Any = {"error": tell_all(asked) if asked.path.startswith("/api/") else {"message": tell_all(asked)}}
        steps: dict[str, Script] = {
            "answer": play(json.dumps(asked.body), DONE),
            "stream": play("Hel", told),
        }
        await steps.get(stage, answer(int(stage) if stage.isdigit() else 500, json.dumps(told).encode()))(asked)

    return script


class World:
    """The process, what stands behind it, and what was seen of it."""

    def __init__(self, folder: Path, spans: Collector) -> None:
        self.folder = folder
        self.spans = spans
        self.canaries = Canaries()
        self.ollama = FakeOllama("gemma:latest", "other")
        self.openai = FakeOpenAI("vllm", "qwen")
        self.parrots = FakeOpenAI("custom")
        self.sent: list[Any] = []
        self.pid = self.port = 0
        secret = self.canaries.secret
        self.user, self.other, self.admin = (f"sk-{secret(f'key of {who}')}" for who in ("user", "other", "admin"))

    def configuration(self) -> dict[str, Any]:
        secret = self.canaries.secret
        server = [sys.executable, "-I", "-S", llm_server.__file__, "--port", "${PORT}", "--model", "own"]
        return {
            "server": {"port": 0, "state_dir": "./state", "drain_timeout_s": 1},
            "backends": [
                {"name": "o", "url": self.ollama.url, "api_key": secret("api key of Ollama")},
                {"name": "v", "kind": "vllm", "url": self.openai.url, "api_key": secret("api key of vLLM")},
                {"name": "c", "kind": "custom", "url": self.parrots.url, "plugin": "tattler:Tattler",
                 "api_key": secret("api key of a plugin")},
                {"name": "m", "command": " ".join(server), "model": "own",
                 "env": {"SECRET": secret("env of a process")}},
            ],
            "models": {"other": {"pull": "on_demand"}, "absent": {"pull": "on_demand", "backends": ["o"]}},
            "limits": {"max_attempts": 1},
            "defaults": {"timeout_s": 2},
            "health": {"pause_s": 0.01},
            "logging": {"level": "debug", "access_log": "./access.log"},
            "jwt": [issuer.config(jwks_file=str(self.folder / "jwks.json"))],
            "tracing": {"otlp_endpoint": f"{self.spans.url}/{secret('path of the collector')}"},
        }  # fmt: skip

    def environment(self) -> dict[str, str]:
        keys = {
            self.user: {"user": "editor"},
            self.other: {"user": "reader"},
            self.admin: {"user": "ops", "admin": True},
        }
        secret = self.canaries.secret
        return {
            **SOURCES,
            "PYTHONPATH": f"{SOURCES['PYTHONPATH']}:{self.folder}",
            "PYTHONASYNCIODEBUG": "1",
            "XDG_CONFIG_HOME": str(self.folder),
            "API_KEYS_JSON": json.dumps(keys),
            "OTEL_EXPORTER_OTLP_HEADERS": f"authorization={secret('key for the collector')}",
            "HERMES_API_KEY": secret("the key of the client commands"),
            "AWS_SECRET_ACCESS_KEY": secret("a variable of somebody else's"),
        }

    async def ask(
        self,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        method: str = "",
        key: str | None = None,
    ) -> bytes:
        """As the user, unless another key or a credential is given. The answer, which is looked through."""
        own = {"authorization": f"Bearer {self.user if key is None else key}"} if key != "" else {}
        raw = request_bytes(
            method or ("GET" if body is None else "POST"), path, body, {"connection": "close", **own, **(headers or {})}
        )
        return await self.ask_raw(f"{method} {path}", raw)

    async def ask_raw(self, what: str, raw: bytes) -> bytes:
        self.sent.append(raw)
        peer = await connect(self.port)
        await peer.send(raw)
        try:
            async with asyncio.timeout(10):
                told = await peer.rest()
        except ConnectionError:
            told = b""
        peer.close()
        self.canaries.look(f"the answer to {what}", told, raw)
        return told

    async def watch(self) -> list["asyncio.Task[bytes]"]:
        """Another user and an operator look on from now to the end: what they are told, once it is over."""
        watching = []
        for key in (self.other, self.admin):
            peer = await connect(self.port)
            await peer.send(request_bytes("GET", "/v1/events", None, {"authorization": f"Bearer {key}"}))
            task = asyncio.get_running_loop().create_task(peer.rest())
            task.add_done_callback(lambda _, peer=peer: peer.close())  # type: ignore[misc]
            watching.append(task)
        return watching


@asynccontextmanager
async def world(folder: Path) -> AsyncIterator[World]:
    async with collector() as spans, _world(World(folder, spans)) as made:
        yield made


@asynccontextmanager
async def _world(made: World) -> AsyncIterator[World]:
    folder = made.folder
    for server in (made.ollama, made.openai, made.parrots):
        await server.listen()
    (folder / "tattler.py").write_text(PLUGIN)
    (folder / "jwks.json").write_bytes(issuer.key_set())
    (folder / "hermes.yaml").write_text(json.dumps(made.configuration()))
    with (folder / "stderr").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *COMMAND, "serve", stderr=log, stdout=log, cwd=folder, env=made.environment()
        )
    made.pid = process.pid
    try:
        await until(lambda: "listens on" in (folder / "stderr").read_text(), "it does not start", 15)
        greeting = next(line for line in (folder / "stderr").read_text().splitlines() if "listens on" in line)
        made.port = int(json.loads(greeting)["message"].rpartition(":")[2])
        yield made
    finally:
        if process.returncode is None:
            process.terminate()
        async with asyncio.timeout(10):
            await process.wait()
        for server in (made.ollama, made.openai, made.parrots):
            await server.vanish()
