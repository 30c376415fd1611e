"""A loop whose clock jumps to the next timer, and a client of a simulator on a Unix socket.

Unix sockets deliver within the call that sends, so when nothing is readable nothing is on its way, and the clock may
jump: simulated minutes pass in microseconds, and every time that a test reads is exact.
"""

import asyncio
import selectors
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec

from hermes.http.client import PoolLimits
from hermes.http.origin import Origin
from hermes.http.pool import ClientExchange, Pool
from hermes.http.wire import Deadlines
from hermes.simulator import SimulatedModel, Simulator, SimulatorConfig

T = TypeVar("T")

# One token a tenth of a second, read at a thousand a second, loaded in five: easy to reckon with.
CHAT = SimulatedModel(
    "chat",
    load_s=5.0,
    prefill_tps=1000.0,
    decode_tps=10.0,
    slots=2,
    capabilities=("completion", "tools", "vision"),
)
THINKER = SimulatedModel(
    "thinker", load_s=1.0, capabilities=("completion", "tools", "thinking"), built_in_parser=True, decode_tps=10.0
)
PLAIN = SimulatedModel("plain", load_s=1.0, decode_tps=10.0)
EMBEDDER = SimulatedModel(
    "embedder", load_s=1.0, capabilities=("embedding",), embedding_length=64, context_length=256, prefill_tps=1000.0
)
MODELS = (CHAT, THINKER, PLAIN, EMBEDDER)


class _JumpingSelector(selectors.DefaultSelector):  # type: ignore[valid-type, misc]
    now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if not events and timeout:
            self.now += timeout
        assert events or timeout is not None, "nothing will ever happen"
        return events


class JumpingLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._clock = _JumpingSelector()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now


def run(main: Callable[[], Awaitable[T]]) -> T:
    async def whole() -> T:
        return await main()

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(whole())


def config(**settings: Any) -> SimulatorConfig:
    return SimulatorConfig(**{"models": MODELS, **settings})


class Answer:
    def __init__(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def lines(self) -> list[Any]:
        return [msgspec.json.decode(line) for line in self.body.splitlines()]

    @property
    def error(self) -> str:
        return str(self.json["error"])


class Client:
    """Asks one simulator. `simulator.stats` and `now()` tell what that did to it."""

    def __init__(self, simulator: Simulator, path: str) -> None:
        loop = asyncio.get_running_loop()
        self.simulator = simulator
        self.now = loop.time
        self.spawn = loop.create_task
        self._pool = Pool(Origin.parse(f"unix://{path}"), PoolLimits(), Deadlines(loop), loop)

    def open(self, path: str, body: Any, headers: bytes = b"", *, method: str = "POST") -> ClientExchange:
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        return self._pool.exchange(method, path, data, headers=headers, deadline=self.now() + 1e5)

    async def ask(self, method: str, path: str, body: Any = b"", headers: bytes = b"") -> Answer:
        async with self.open(path, body, headers, method=method) as exchange:
            return Answer(exchange.status, exchange.headers, await exchange.read_all(1 << 26, self.now() + 1e5))

    async def post(self, path: str, body: Any, headers: bytes = b"") -> Answer:
        return await self.ask("POST", path, body, headers)

    async def chat(self, prompt: str = "Explain relativity", **fields: Any) -> Answer:
        return await self.post("/api/chat", chat_body(prompt, **fields))

    async def get(self, path: str) -> Answer:
        return await self.ask("GET", path)

    def close(self) -> None:
        self._pool.close()


def chat_body(prompt: str = "Explain relativity", **fields: Any) -> dict[str, Any]:
    body = {"model": "chat", "messages": [{"role": "user", "content": prompt}], "stream": False}
    return body | fields


@asynccontextmanager
async def simulating(settings: SimulatorConfig | None = None) -> AsyncIterator[Client]:
    simulator = Simulator(settings or config())
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/socket"
        await simulator.start_unix(path)
        client = Client(simulator, path)
        try:
            yield client
        finally:
            client.close()
            await simulator.stop()


async def settle() -> None:
    """Let everything that is ready now run, without letting time pass."""
    for _ in range(20):
        await asyncio.sleep(0)
