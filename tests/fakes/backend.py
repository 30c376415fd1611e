"""A scriptable Ollama: it answers each request for tokens by the next script, and keeps what it saw.

A script is made by `play` from steps: a text is a piece of the answer, a dict a line of JSON, bytes are themselves, an
Event is a gate that the test opens, DONE is the answer's end. The same steps make a stream or a whole answer, as asked.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from enum import Enum
from typing import Any, TypeVar

import msgspec

from hermes.errors import GatewayError
from hermes.http.limits import Limits
from hermes.http.request import Request
from hermes.http.response import Response
from hermes.http.server import Server
from hermes.http.wire import Deadlines
from tests.support import until

_json = msgspec.json.Encoder().encode

NDJSON = b"application/x-ndjson"
CREATED_AT = "2026-11-20T10:00:00.123456789Z"
FOR_EVER = "2318-05-01T10:00:00.123456789Z"  # what Ollama makes of keep_alive -1


class Asked:
    """One request as the backend got it, and what became of it."""

    def __init__(self, request: Request, response: Response) -> None:
        self.method = request.method
        self.path = request.path.decode("ascii")
        self.headers = {name.decode("ascii"): value.decode("latin-1") for name, value in request.headers.items()}
        self.body: Any = msgspec.json.decode(request.body) if request.body else None
        self.response = response
        self.left = asyncio.Event()  # the gateway has gone before the answer was over
        self.ended = asyncio.Event()

    @property
    def streams(self) -> bool:
        return self.body is None or bool(self.body.get("stream", True))

    # How the server tells things. `told` is any object that stands in a stream, or for a whole answer.

    content_type = NDJSON

    def told(self, told: dict[str, Any]) -> bytes:
        return _json(told) + b"\n"

    def piece(self, text: str) -> bytes:
        return self.told(self.line(text))

    def end(self, done: "Done") -> bytes:
        return self.told(self.line(**done.told()))

    def whole(self, text: str, done: "Done | None") -> bytes:
        return _json(self.line(text, **(done.told() if done else {})))

    def line(self, text: str = "", **told: Any) -> dict[str, Any]:
        """A line of the answer, in the shape of the endpoint that was asked."""
        said: dict[str, Any] = {"response": text}
        if self.path == "/api/chat":
            said = {"message": {"role": "assistant", "content": text}}
        return {"model": self.body["model"], "created_at": CREATED_AT, **said, "done": False, **told}


Script = Callable[[Asked], Awaitable[None]]


class Done(msgspec.Struct, frozen=True):
    """The answer's end, with its counts."""

    reason: str = "stop"
    prompt_eval_count: int = 7
    eval_count: int = 3

    def told(self) -> dict[str, Any]:
        durations = {"total_duration": 5_000_000, "load_duration": 1_000_000}
        durations |= {"prompt_eval_duration": 2_000_000, "eval_duration": 2_000_000}
        return {
            "done": True,
            "done_reason": self.reason,
            "prompt_eval_count": self.prompt_eval_count,
            "eval_count": self.eval_count,
            **durations,
        }


DONE = Done()
Step = str | bytes | dict[str, Any] | asyncio.Event | Done


class Then(Enum):
    """What follows the last step."""

    END = "the body ends as HTTP has it"
    CUT = "the connection ends inside the body"
    RESET = "the connection is reset"
    STALL = "nothing, for ever"


def play(*steps: Step, status: int = 200, content_type: bytes = b"", then: Then = Then.END) -> Script:
    """The script of these steps. With CUT, RESET or STALL a whole answer stops in its middle."""

    async def script(asked: Asked) -> None:
        response = asked.response
        response.start(status, b"content-type: %b\r\n" % (content_type or asked.content_type))
        async for data in _bytes_of(asked, steps, broken=then is not Then.END):
            response.write(data)
            await response.drain()
        if then is Then.END:
            response.end()
        elif then is Then.CUT and response.started:
            response.break_off()
        elif then is Then.STALL:
            await asyncio.Event().wait()
        # A request that is left without an end is reset by the server.

    return script


async def _bytes_of(asked: Asked, steps: tuple[Step, ...], broken: bool) -> AsyncIterator[bytes]:
    text, done, is_told = "", None, False
    for step in steps:
        match step:
            case asyncio.Event():
                await step.wait()
            case bytes():
                yield step
            case dict():
                yield asked.told(step)
                is_told = True
            case str() if asked.streams:
                yield asked.piece(step)
            case str():
                text += step
            case Done() if asked.streams:
                yield asked.end(step)
            case Done():
                done = step
    if not asked.streams and not is_told and (text or done):
        whole = asked.whole(text, done)
        yield whole[: len(whole) // 2] if broken else whole


def speak(*pieces: str) -> Script:
    return play(*pieces, DONE)


def fail(status: int, text: str) -> Script:
    """An error as Ollama tells it."""
    return answer(status, _json({"error": text}))


def answer(status: int, body: bytes, content_type: bytes = b"application/json", headers: bytes = b"") -> Script:
    """Any answer at all, whole."""

    async def script(asked: Asked) -> None:
        asked.response.send(status, b"content-type: %b\r\n" % content_type + headers, body)

    return script


def endless(piece: bytes) -> Script:
    """`piece`, again and again."""

    async def script(asked: Asked) -> None:
        asked.response.start(200, b"content-type: application/x-ndjson\r\n")
        while True:
            asked.response.write(piece)
            await asked.response.drain()
            await asyncio.sleep(0)

    return script


def talk(go: asyncio.Event) -> Script:
    """An answer that does not end, once `go` is set."""

    async def script(asked: Asked) -> None:
        asked.response.start(200, b"content-type: %b\r\n" % asked.content_type)
        while True:
            asked.response.write(asked.piece("Hel"))
            await asked.response.drain()
            await go.wait()
            await asyncio.sleep(0.002)

    return script


def model(name: str, **told: Any) -> dict[str, Any]:
    """An item of /api/tags."""
    details = {"family": "llama", "parameter_size": "1.0B", "quantization_level": "F32"}
    return {
        "name": name,
        "model": name,
        "modified_at": CREATED_AT,
        "size": 1_700_000,
        "digest": f"digest-of-{name}",
        "details": details,
        "capabilities": ["completion", "tools"],
        **told,
    }


def loaded(name: str, size: int = 2 << 30, size_vram: int = 1 << 30, context: int = 0) -> dict[str, Any]:
    """An item of /api/ps. Without a context nothing is to be said of it in requests."""
    return {
        "name": name,
        "model": name,
        "size": size,
        "size_vram": size_vram,
        "context_length": context,
        "expires_at": FOR_EVER,
    }


class FakeOllama:
    """An App for `hermes.http.server`. `scripts` are used up in turn; when none is left, `default` answers."""

    kind = "ollama"
    asking: type[Asked] = Asked

    def __init__(self, *models: str) -> None:
        self.models = [model(name) for name in models or ("gemma:latest",)]
        self.loaded = [loaded(item["name"]) for item in self.models]
        self.scripts: deque[Script] = deque()
        self.default: Script = speak("Hel", "lo")
        self.management: dict[str, Script] = {}  # by path, instead of the usual answer
        self.asked: list[Asked] = []  # requests for tokens
        self.managed: list[Asked] = []  # everything else
        self.running = 0
        self.most_running = 0
        self.port = 0
        self._server: Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def open_connections(self) -> int:
        return self._server.open_connections if self._server else 0

    async def listen(self, tls: ssl.SSLContext | None = None) -> None:
        """Begin to listen, again on the same port after `vanish`."""
        self._server = self._new_server()
        self.port = await self._server.listen("127.0.0.1", self.port, tls)

    async def listen_unix(self, path: str) -> None:
        self._server = self._new_server()
        await self._server.listen_unix(path)

    def _new_server(self) -> Server:
        loop = asyncio.get_running_loop()
        return Server(self, Limits(), Deadlines(loop, 0.05), loop)

    async def vanish(self) -> None:
        """As if the process had ended: connections are cut, new ones are refused."""
        if self._server is not None:
            await self._server.drain(0)
            await until(lambda: self.open_connections == 0)
            self._server = None

    async def request(self, number: int) -> Asked:
        """The request for tokens of this number, once it has arrived."""
        await until(lambda: len(self.asked) > number, f"request {number} did not reach the backend", 5.0)
        return self.asked[number]

    @property
    def orders(self) -> list[str]:
        """The loads and unloads it was asked for, in turn: `load gemma:latest`, `unload gemma:latest`."""
        return [
            f"{'load' if asked.body.get('keep_alive') != 0 else 'unload'} {asked.body['model']}"
            for asked in self.managed
            if asked.path in ("/api/generate", "/api/embed")
        ]

    # --- the App ----------------------------------------------------------------------------------------------------

    async def handle(self, request: Request, response: Response) -> None:
        asked = self.asking(request, response)
        try:
            if self._is_for_tokens(asked):
                await self._generate(asked)
            else:
                self.managed.append(asked)
                await self.management.get(asked.path, self._manage)(asked)
        except asyncio.CancelledError:
            asked.left.set()
            raise
        finally:
            asked.ended.set()

    def _is_for_tokens(self, asked: Asked) -> bool:
        is_load = asked.path == "/api/generate" and not asked.body.get("prompt")
        return asked.path in ("/api/chat", "/api/generate") and not is_load

    def refuse(self, error: GatewayError, response: Response) -> None:
        raise AssertionError(f"the gateway sent what is no HTTP: {error.message}")

    async def _generate(self, asked: Asked) -> None:
        self.asked.append(asked)
        script = self.scripts.popleft() if self.scripts else self.default
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        try:
            await script(asked)
        finally:
            self.running -= 1

    async def _manage(self, asked: Asked) -> None:
        if asked.path in ("/api/generate", "/api/embed"):
            self._load(asked.body["model"], asked.body.get("keep_alive") != 0)
        told: Any = {
            "/api/version": {"version": "0.33.0"},
            "/api/tags": {"models": self.models},
            "/api/ps": {"models": self.loaded},
            "/api/generate": {"model": "", "response": "", "done": True, "done_reason": "load"},
            "/api/embed": {"model": "", "embeddings": []},
        }.get(asked.path)
        if told is None:
            asked.response.send(404, b"content-type: text/plain\r\n", b"404 page not found")
        else:
            asked.response.send(200, b"content-type: application/json\r\n", _json(told))

    def _load(self, name: str, wanted: bool) -> None:
        there = [item for item in self.loaded if item["name"] == name]
        if wanted and not there:
            self.loaded.append(loaded(name))
        elif there and not wanted:
            self.loaded.remove(there[0])


@asynccontextmanager
async def ollama(*models: str) -> AsyncIterator[FakeOllama]:
    """A fake that listens."""
    async with listening(FakeOllama(*models)) as fake:
        yield fake


F = TypeVar("F", bound=FakeOllama)


@asynccontextmanager
async def listening(fake: F) -> AsyncIterator[F]:
    await fake.listen()
    try:
        yield fake
    finally:
        await fake.vanish()
