"""The simulated server: its routes, and how it starts and stops.

It answers like Ollama; wherever an answer describes the server itself it says that it is simulated: in the `server`
header and in /api/version.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import msgspec

from hermes.errors import ConfigError, GatewayError
from hermes.http.limits import Limits
from hermes.http.request import Request
from hermes.http.response import Response
from hermes.http.server import Server
from hermes.http.wire import Deadlines
from hermes.simulator.embedding import embed
from hermes.simulator.gojson import Fields, Refusal, read_object
from hermes.simulator.guard import is_local, may_ask
from hermes.simulator.inference import infer
from hermes.simulator.machine import Machine
from hermes.simulator.pulling import pull
from hermes.simulator.reply import PLAIN, SERVER, Ended, Reply, RunnerCrashed
from hermes.simulator.requests import read_chat, read_embed, read_embeddings, read_generate
from hermes.simulator.settings import SimulatorConfig
from hermes.simulator.stats import Stats

log = logging.getLogger(__name__)

Endpoint = Callable[[Request, Response], Awaitable[None]]

_TEXT = b"content-type: text/plain; charset=utf-8\r\n" + SERVER
_HTML = b"content-type: text/html; charset=utf-8\r\n" + SERVER
# Ollama bounds no body; this is room for a few large images.
_LIMITS = Limits(body_bytes=64 * 1024 * 1024, body_min_bytes_per_s=1.0, keep_alive_s=600.0)


class Simulator:
    """A simulated Ollama on the running loop. An App: `stats` counts what it has seen, `machine` is what it simulates.

    A started simulator has to be stopped. A config that cannot be raises ConfigError: here, or on start.
    """

    machine: Machine

    def __init__(self, config: SimulatorConfig | None = None) -> None:
        self.config = config or SimulatorConfig()
        if not self.config.speed > 0 or not 0 <= self.config.jitter <= 1:
            raise ConfigError(f"speed {self.config.speed} must be above 0, jitter {self.config.jitter} from 0 to 1")
        self.stats = Stats()
        self._guarded = True
        self._server: Server | None = None
        self._scheduling: asyncio.Task[None] | None = None
        self._routes: dict[bytes, dict[str, Endpoint]] = {
            b"/": {"HEAD": self._root, "GET": self._root},
            b"/api/version": {"HEAD": self._version, "GET": self._version},
            b"/api/status": {"GET": self._status},
            b"/api/tags": {"HEAD": self._tags, "GET": self._tags},
            b"/api/ps": {"GET": self._ps},
            b"/api/show": {"POST": self._show},
            b"/api/generate": {"POST": self._generate},
            b"/api/chat": {"POST": self._chat},
            b"/api/embed": {"POST": self._embed},
            b"/api/embeddings": {"POST": self._embeddings},
            b"/api/pull": {"POST": self._pull},
            b"/api/delete": {"DELETE": self._delete},
            b"/api/copy": {"POST": self._copy},
            b"/sim/stats": {"GET": self._stats},
        }

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Listen on a TCP address. Returns the port, chosen by the kernel where 0 was asked. Raises OSError."""
        server = self._running()
        self._guarded = self._guarded and is_local(host)
        return await server.listen(host, port)

    async def start_unix(self, path: str) -> None:
        await self._running().listen_unix(path)

    async def stop(self, drain_s: float = 0.0) -> None:
        """Close the door; cut what is not answered within `drain_s`."""
        if self._server is None or self._scheduling is None:
            return
        await self._server.drain(drain_s)
        self._scheduling.cancel()
        await asyncio.gather(self._scheduling, return_exceptions=True)
        self.machine.scheduler.stop()
        self._server = self._scheduling = None

    def _running(self) -> Server:
        if self._server is None:
            loop = asyncio.get_running_loop()
            self.machine = Machine(self.config, self.stats, loop)
            self._scheduling = loop.create_task(self.machine.scheduler.run())
            self._server = Server(self, _LIMITS, Deadlines(loop), loop)
        return self._server

    # --- the HTTP server calls --------------------------------------------------------------------------------------

    async def handle(self, request: Request, response: Response) -> None:
        try:
            await self._route(request)(request, response)
        except Refusal as refusal:
            Reply(response).error(refusal.status, refusal.text)
        except Ended:
            pass
        except RunnerCrashed:
            Reply(response).crashed()
        except Exception:
            log.exception("a bug in the simulated server")
            if not response.ended:
                Reply(response).error(500, "a bug in the simulated server")
        if response.status:
            self.stats.statuses[response.status] += 1

    def refuse(self, error: GatewayError, response: Response) -> None:
        response.send(error.status, PLAIN, error.message.encode())

    def _route(self, request: Request) -> Endpoint:
        if not may_ask(request, self._guarded):
            return self._forbidden
        methods = self._routes.get(request.path)
        if methods is None:
            return self._moved if self._routes.get(request.path.rstrip(b"/")) else self._unknown
        return methods.get(request.method, self._wrong_method)

    async def _forbidden(self, request: Request, response: Response) -> None:
        response.send(403, SERVER, b"")

    async def _unknown(self, request: Request, response: Response) -> None:
        response.send(404, PLAIN, b"404 page not found")

    async def _wrong_method(self, request: Request, response: Response) -> None:
        allowed = ", ".join(self._routes[request.path]).encode()
        response.send(405, b"allow: %b\r\n" % allowed + PLAIN, b"405 method not allowed")

    async def _moved(self, request: Request, response: Response) -> None:
        """gin sends a path with a slash too many to the one without."""
        path = request.path.rstrip(b"/")
        status = 301 if request.method == "GET" else 307
        response.send(status, b"location: %b\r\n" % path + _HTML, b'<a href="%b">Moved Permanently</a>.\n\n' % path)

    async def _page(self, request: Request, response: Response, value: object) -> None:
        reply = self.machine.reply(response, False, self.machine.fault(_fault_header(request)))
        await reply.whole(msgspec.json.encode(value))

    # --- the server itself ------------------------------------------------------------------------------------------

    async def _root(self, request: Request, response: Response) -> None:
        response.send(200, _TEXT, b"Ollama is running")

    async def _version(self, request: Request, response: Response) -> None:
        await self._page(request, response, {"version": self.config.version, "simulated": True})

    async def _status(self, request: Request, response: Response) -> None:
        await self._page(request, response, {"cloud": {"disabled": True, "source": "env"}})

    async def _stats(self, request: Request, response: Response) -> None:
        loading = self.machine.scheduler.loading
        scheduler = {
            "pending": self.machine.scheduler.pending,
            "loading": loading.model.name if loading is not None else None,
        }
        await self._page(request, response, self.stats.render(self.machine.clock.now()) | scheduler)

    # --- models -----------------------------------------------------------------------------------------------------

    async def _tags(self, request: Request, response: Response) -> None:
        await self._page(request, response, self.machine.library.list_models())

    async def _ps(self, request: Request, response: Response) -> None:
        await self._page(request, response, self.machine.list_running())

    async def _show(self, request: Request, response: Response) -> None:
        await self._page(request, response, self.machine.library.show(_named(read_object(request.body, "ShowRequest"))))

    async def _delete(self, request: Request, response: Response) -> None:
        self.machine.library.delete(_named(read_object(request.body, "DeleteRequest")))
        response.send(200, SERVER, b"")

    async def _copy(self, request: Request, response: Response) -> None:
        fields = read_object(request.body, "CopyRequest")
        self.machine.library.copy(fields.text("source"), fields.text("destination"))
        response.send(200, SERVER, b"")

    async def _pull(self, request: Request, response: Response) -> None:
        fields = read_object(request.body, "PullRequest")
        streaming = fields.flag("stream") is not False
        await pull(self.machine, _named(fields), streaming, _fault_header(request), response)

    # --- inference --------------------------------------------------------------------------------------------------

    async def _generate(self, request: Request, response: Response) -> None:
        await infer(self.machine, read_generate(request.body), _fault_header(request), response)

    async def _chat(self, request: Request, response: Response) -> None:
        await infer(self.machine, read_chat(request.body), _fault_header(request), response)

    async def _embed(self, request: Request, response: Response) -> None:
        await embed(self.machine, read_embed(request.body), _fault_header(request), response, legacy=False)

    async def _embeddings(self, request: Request, response: Response) -> None:
        await embed(self.machine, read_embeddings(request.body), _fault_header(request), response, legacy=True)


def _named(fields: Fields) -> str:
    return fields.text("model") or fields.text("name")


def _fault_header(request: Request) -> str:
    return request.header(b"x-simulate-fault")
