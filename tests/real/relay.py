"""A relay between Hermes and the Ollama, which counts what is there at once and sees who hangs up."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from hermes.errors import BackendError, GatewayError
from hermes.http.client import PoolLimits
from hermes.http.limits import Limits
from hermes.http.origin import Origin
from hermes.http.pool import Pool
from hermes.http.request import Request
from hermes.http.response import Response
from hermes.http.server import Server
from hermes.http.wire import Deadlines
from tests.real.house import OLLAMA_URL

_PATIENCE_S = 300.0
_INFERENCE = (b"/api/chat", b"/api/generate")


class Relay:
    """An App that passes everything on. `now` and `most` count requests for tokens; `left`: one was given up."""

    def __init__(self, pool: Pool) -> None:
        self.now = 0
        self.most = 0
        self.asked = 0
        self.left = asyncio.Event()
        self.url = ""
        self._pool = pool

    async def handle(self, request: Request, response: Response) -> None:
        if request.path not in _INFERENCE:
            await self._pass_on(request, response)
            return
        self.asked += 1
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await self._pass_on(request, response)
        except asyncio.CancelledError:
            self.left.set()
            raise
        finally:
            self.now -= 1

    def refuse(self, error: GatewayError, response: Response) -> None:
        raise AssertionError(f"Hermes sent what is no HTTP: {error.message}")

    async def _pass_on(self, request: Request, response: Response) -> None:
        deadline = asyncio.get_running_loop().time() + _PATIENCE_S
        try:
            async with self._pool.exchange(
                request.method, request.path.decode("ascii"), request.body, deadline=deadline
            ) as answer:
                response.start(answer.status, b"content-type: %b\r\n" % answer.headers.get(b"content-type", b""))
                while data := await answer.read(deadline):
                    response.write(data)
                response.end()
        except BackendError:
            response.break_off()


@asynccontextmanager
async def relay() -> AsyncIterator[Relay]:
    loop = asyncio.get_running_loop()
    deadlines = Deadlines(loop)
    pool = Pool(Origin.parse(OLLAMA_URL), PoolLimits(), deadlines, loop)
    app = Relay(pool)
    server = Server(app, Limits(), deadlines, loop)
    app.url = f"http://127.0.0.1:{await server.listen('127.0.0.1', 0)}"
    try:
        yield app
    finally:
        await server.drain(0)
        pool.close()
