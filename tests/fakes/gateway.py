"""A whole Hermes on real sockets, in this process: composed as `hermes serve` composes it, asked by hand.

Leaving the block checks what must hold after any scenario: no slot held (I2), no request without its one outcome (I3),
no key in a record or a label (I26).
"""

import asyncio
import functools
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ParamSpec
from urllib.parse import urlsplit

from msgspec import Struct
from msgspec.structs import replace

from hermes.config import Config
from hermes.config.build import build
from hermes.errors import ConfigError
from hermes.exposition import told
from hermes.policy.affinity import Homes, prefix
from hermes.principal import ANONYMOUS
from hermes.record import Record
from hermes.reload import Attempt
from hermes.runtime import Runtime
from tests.fakes.backend import DONE, FakeOllama, play
from tests.http.peers import TICK_S, Peer, connect
from tests.support import run, until

P = ParamSpec("P")

PROMPT = "/v1/llm/gemma"
CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
RESPONSES = "/v1/responses"
MESSAGES = "/v1/messages"
OLLAMA = "/api/chat"


def scenario(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Lets a test be a coroutine."""

    @functools.wraps(test)
    def on_a_loop(*args: P.args, **kwargs: P.kwargs) -> None:
        run(test(*args, **kwargs))

    return on_a_loop


# --- what is asked ----------------------------------------------------------------------------------------------------


def prompt(text: str = "Hi", **more: Any) -> dict[str, Any]:
    return {"prompt": text, **more}


def chat(text: str = "Hi", model: str = "gemma", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], **more}


def greedy(text: str = "Hi", **more: Any) -> dict[str, Any]:
    """One whose answer would be the same another time."""
    return chat(text, temperature=0, **more)


# Every way to ask for tokens.
WHOLE: list[tuple[str, dict[str, Any]]] = [
    (PROMPT, prompt()),
    (CHAT, chat()),
    (COMPLETIONS, {"model": "gemma", "prompt": "Hi"}),
    (RESPONSES, {"model": "gemma", "input": "Hi"}),
    (MESSAGES, chat(max_tokens=9)),
    (OLLAMA, chat(stream=False)),
]
STREAMS: list[tuple[str, dict[str, Any]]] = [(path, {**body, "stream": True}) for path, body in WHOLE]


def request_bytes(method: str, path: str, body: Any, headers: Mapping[str, str]) -> bytes:
    """`body`: bytes as they are, None for none, anything else as JSON."""
    content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = {"host": "localhost", **{name.lower(): value for name, value in headers.items()}}
    if body is not None:
        lines["content-length"] = str(len(content))
    head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return head.encode("latin-1") + b"\r\n" + content


def key(user: str, **more: Any) -> dict[str, Any]:
    """A key of this user's, as the configuration has it; `bearer(user)` shows it."""
    return {"user": user, "sha256": hashlib.sha256(f"sk-{user}".encode()).hexdigest(), **more}


def bearer(user: str) -> dict[str, str]:
    return {"authorization": f"Bearer sk-{user}"}


def session(home: str, among: int = 2, model: str = "gemma:latest", number: int = 0) -> dict[str, str]:
    """The head of a conversation that goes to this one of so many backends, while they are idle and it is new."""
    weights = {f"b{index}": 1.0 for index in range(among)}
    names = (f"s{number}-{count}" for count in range(1000))
    return next(
        {"x-hermes-session": name}
        for name in names
        if Homes().found(prefix(model, ANONYMOUS.tenant, name.encode(), ()), weights) == home
    )


# --- what is answered -------------------------------------------------------------------------------------------------


class Reply(Struct, frozen=True):
    """`whole`: the framing says that nothing is missing."""

    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error object, whose shape is checked on the way."""
        return error_in(in_common(self.json))

    @property
    def events(self) -> list[Any]:
        return list(parse_events(self.body))


def error_in(told: Any) -> dict[str, Any]:
    """The error of an answer or of a stream's last event, in whichever of the forms, with its `code`."""
    if told.get("type") == "response.failed":
        assert told["response"]["status"] == "failed" and told["response"]["error"].keys() == {
            "code",
            "message",
            "param",
        }
        told = {"error": {"type": "responses'", **told["response"]["error"]}}
    error: dict[str, Any] = told["error"]
    if told.get("type") == "error":  # Anthropic's
        assert told.keys() == {"type", "error", "request_id"} and told["request_id"]
        assert error.keys() == {"type", "message", "details"}
        assert error["details"].keys() == {"error_code", "param"}
        error = {**error, "code": error["details"]["error_code"], "param": error["details"]["param"]}
    else:
        assert told.keys() == {"error"} and error.keys() == {"message", "type", "param", "code"}
    assert error["message"] and error["type"] and error["code"]
    return error


def parse_events(body: bytes) -> Iterator[Any]:
    """The JSON of each line or server-sent event; "[DONE]" is itself. Comments and names of events are none."""
    for line in body.split(b"\n"):
        data = line.removeprefix(b"data: ").strip()
        if data and not data.startswith((b":", b"event: ")):
            yield "[DONE]" if data == b"[DONE]" else in_common(json.loads(data))


def in_common(told: Any) -> Any:
    """Ollama's error, a text with the rest beside it, as the other dialects have it."""
    if isinstance(told, dict) and isinstance(message := told.get("error"), str):
        rest = {key: value for key, value in told.items() if key != "error"}
        return {"error": {"message": message, "type": "ollama's", "param": None, **rest}}
    return told


class Call:
    """One request that is being answered, read as it comes."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.whole = False
        self._events: list[Any] = []

    async def head(self) -> int:
        """The status."""
        return int((await self.peer.until(b"\r\n\r\n")).split(b" ", 2)[1])

    async def piece(self) -> bytes:
        """The next chunk of the body; b"" at its end, clean (`whole`) or not."""
        try:
            size = int(await self.peer.until(b"\r\n"), 16)
            data = await self.peer.exactly(size)
            await self.peer.exactly(2)
        except (EOFError, ConnectionError):
            return b""
        self.whole = size == 0
        return data

    async def event(self) -> Any:
        """The next event; None at the end."""
        while not self._events:
            piece = await self.piece()
            if not piece:
                return None
            self._events += parse_events(piece)
        return self._events.pop(0)

    async def events(self) -> list[Any]:
        """All that are still to come."""
        found = []
        while (event := await self.event()) is not None:
            found.append(event)
        return found

    async def reply(self) -> Reply:
        """The whole answer, where nothing has been read yet."""
        answer = await self.peer.answer()
        return Reply(answer.status, answer.headers, answer.body, answer.whole)

    def leave(self) -> None:
        """The client goes, without a word."""
        self.peer.reset()


# --- who answers ------------------------------------------------------------------------------------------------------


class Clients:
    """The connections that a test has opened."""

    def __init__(self) -> None:
        self._peers: list[Peer] = []

    async def connect(self, port: int, receive_buffer_bytes: int = 0) -> Peer:
        self._peers.append(await connect(port, receive_buffer_bytes))
        return self._peers[-1]

    def close(self) -> None:
        for peer in self._peers:
            peer.close()


class Given:
    """A configuration that the test changes. `problem`: what is wrong with it."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.problem = ""

    def read(self) -> Config:
        if self.problem:
            raise ConfigError(self.problem)
        return self.config

    def files(self) -> tuple[Path, ...]:
        return ()


class Hermes:
    """A running gateway, as its clients and its operator see it."""

    def __init__(self, runtime: Runtime, clients: Clients, given: Given) -> None:
        self.runtime = runtime
        self.given = given
        self.port = urlsplit(runtime.address).port or 0
        self.records: list[Record] = []
        self._clients = clients
        runtime.journal.sinks.append(self.records.append)

    async def connect(self, receive_buffer_bytes: int = 0) -> Peer:
        return await self._clients.connect(self.port, receive_buffer_bytes)

    async def open(
        self,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        method: str = "",
        on: Peer | None = None,
    ) -> Call:
        """Send a request, by default on a connection of its own (`on=peer`: on that one)."""
        peer = on or await self.connect()
        await peer.send(request_bytes(method or ("GET" if body is None else "POST"), path, body, headers or {}))
        return Call(peer)

    async def ask(
        self,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        method: str = "",
        on: Peer | None = None,
    ) -> Reply:
        """Send a request and read its whole answer."""
        call = await self.open(path, body, headers, method, on)
        if method == "HEAD":
            answer = await call.peer.answer("HEAD")
            return Reply(answer.status, answer.headers, b"", True)
        return await call.reply()

    async def reload(self, *fakes: FakeOllama, **sections: Any) -> Attempt:
        """Put another configuration in force, as `config` makes it."""
        return await self.take(config(*fakes, **sections))

    async def take(self, config: Config) -> Attempt:
        self.given.config = stateless(config)
        return await self.runtime.reload("a test")

    @property
    def running(self) -> int:
        return self.runtime.scheduler.running

    @property
    def waiting(self) -> int:
        return self.runtime.scheduler.waiting

    async def until_waiting(self, count: int) -> None:
        await until(lambda: self.waiting == count, f"not {count} but {self.waiting} wait")

    async def record(self, number: int = 0) -> Record:
        """What is told of the request of this number, in the order of their ends."""
        await until(lambda: len(self.records) > number, "no request has ended")
        return self.records[number]

    def counted(self, name: str) -> dict[tuple[str, ...], float]:
        """The series of a metric, by the values of its labels."""
        samples = (sample for family in told(self.runtime.metrics.take()) for sample in family.samples)
        return {tuple(sample.labels.values()): sample.value for sample in samples if sample.name == name}

    def attempts(self) -> dict[tuple[str, ...], float]:
        return self.counted("hermes_backend_attempts_total")

    async def settle(self) -> None:
        """Wait until nothing runs or waits, then check the books."""
        await until(lambda: not (self.running or self.waiting or self.runtime.journal.open), "slots leaked", 3.0)
        accepted = self.counted("hermes_requests_accepted_total")[()]
        assert sum(self.counted("hermes_requests_total").values()) == accepted
        assert self.counted("hermes_double_closes_total") == {(): 0.0}
        labels = [sample.labels for family in told(self.runtime.metrics.take()) for sample in family.samples]
        assert "sk-" not in str([*self.records, labels]), "a key is told"


async def hold_slot(
    gateway: Hermes,
    backend: FakeOllama,
    free: asyncio.Event | None = None,
    headers: Mapping[str, str] | None = None,
) -> Call:
    """Somebody has the slot until it is `free`, or until they leave."""
    backend.scripts.append(play(free or asyncio.Event(), "Hel", DONE))
    asked = len(backend.asked)
    call = await gateway.open(PROMPT, prompt("holds the slot"), headers)
    await backend.request(asked)
    return call


def config(*fakes: FakeOllama, **sections: Any) -> Config:
    """Fakes become the backends b0, b1, ...; sections as the file would have them."""
    backends = [{"name": f"b{index}", "url": fake.url, "kind": fake.kind} for index, fake in enumerate(fakes)]
    tree: dict[str, Any] = {"backends": backends, "logging": {"access_log": "off"}, **sections}
    tree["server"] = {"port": 0, **sections.get("server", {})}
    return build(tree)


def stateless(config: Config) -> Config:
    """Nothing is kept in the home of who runs the tests."""
    return replace(config, server=replace(config.server, state_dir=config.server.state_dir or "off"))


@asynccontextmanager
async def hermes(*fakes: FakeOllama, **sections: Any) -> AsyncIterator[Hermes]:
    """A gateway in front of these backends, which it has looked at once."""
    async with serving(config(*fakes, **sections)) as gateway:
        yield gateway


@asynccontextmanager
async def serving(config: Config) -> AsyncIterator[Hermes]:
    given = Given(stateless(config))
    runtime = Runtime(given.config, asyncio.get_running_loop(), TICK_S, given)
    clients = Clients()
    try:
        await runtime.start()
        gateway = Hermes(runtime, clients, given)
        for backend in runtime.fleet.backends.values():
            await backend.look(20.0)
        yield gateway
        clients.close()
        await gateway.settle()
    finally:
        clients.close()
        await runtime.stop()
