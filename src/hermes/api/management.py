"""Ollama's own management, passed on to the one Ollama there is, for operators: making, copying, deleting, publishing.

Off unless `server.ollama_management` is on. Names are that backend's own. What is passed on is what was parsed (I14).
"""

import asyncio
from collections.abc import Iterable
from typing import Any

import msgspec

from hermes.api.models import LOOK_TIMEOUT_S
from hermes.api.progress import Progress
from hermes.api.routes import Call, Route
from hermes.dialects import ClientDialect, strict
from hermes.dialects.ndjson import CONTENT_TYPE, Lines
from hermes.errors import BackendError, BadRequest
from hermes.fleet.backend import Backend
from hermes.fleet.download import STALL_S
from hermes.fleet.driver import Server
from hermes.fleet.fleet import Fleet
from hermes.http.client import ClientConnection
from hermes.http.pool import ClientExchange
from hermes.router import Router

MAX_ANSWER_BYTES = 1 << 20
# Of models: a key may use these, whatever is done to them.
_NAMES = ("model", "name", "from", "source", "destination")
_MORE = "stream insecure username password files adapters template license system parameters messages quantize"
_KNOWN = frozenset((*_NAMES, *_MORE.split()))
_encode = msgspec.json.Encoder().encode


class Management:
    def __init__(self, fleet: Fleet, router: Router, dialect: ClientDialect) -> None:
        self._fleet = fleet
        self._router = router
        self._dialect = dialect

    def routes(self) -> Iterable[Route]:
        return (
            Route("POST", "/api/create", "admin", self._dialect, self.change),
            Route("POST", "/api/copy", "admin", self._dialect, self.change),
            Route("DELETE", "/api/delete", "admin", self._dialect, self.change),
            Route("POST", "/api/push", "admin", self._dialect, self.change),
            Route("HEAD", "/api/blobs/{digest}", "admin", self._dialect, self.blob),
            Route("POST", "/api/blobs/{digest}", "admin", self._dialect, self.blob),
        )

    async def change(self, call: Call) -> None:
        """Pass on what is to be done, and what is told of it: line by line as it comes, or whole."""
        backend = self._ollama()
        tree = await asyncio.to_thread(strict.parse_object, call.request.body, _KNOWN)
        for key in _NAMES:
            if name := tree.get(key):
                if not isinstance(name, str):
                    raise BadRequest(f"`{key}` must be a string", code="invalid_type", param=key)
                self._router.check_allowed(call.principal, name)
        async with _asking(backend, call, _encode(tree)) as answer:
            await _succeeded(backend, answer)
            if answer.headers.get(b"content-type", b"").startswith(CONTENT_TYPE):
                await self._follow(backend, call, answer)
                return
            told = await answer.read_all(MAX_ANSWER_BYTES, _due())
        await backend.look(LOOK_TIMEOUT_S)
        call.reply(_encode(_line(told)) if told else b"")

    async def blob(self, call: Call) -> None:
        """Whether it has a file, or a file for it: which has come whole, within the bound of all bodies."""
        backend = self._ollama()
        async with _asking(backend, call, call.request.take_body()) as answer:
            if call.exchange.method != "HEAD" or answer.status != 404:
                await _succeeded(backend, answer)
            call.reply(b"", answer.status)

    def _ollama(self) -> Backend:
        """The one there is: the configuration sees to that."""
        return next(backend for backend in self._fleet.backends.values() if backend.kind == "ollama")

    async def _follow(self, backend: Backend, call: Call, answer: ClientConnection) -> None:
        """The last line is told once the change is seen here too."""
        lines = Lines()
        held: dict[str, Any] | None = None
        with Progress(call, self._dialect) as progress:
            while data := await answer.read(_due()):
                for line in filter(None, lines.feed(data)):
                    if held is not None:
                        await progress.tell(held)
                    held = _line(line)
                    if "error" in held:
                        raise _server(backend).dialect.error(500, line)
            if held is None or lines.finish():
                raise BackendError("the backend ended before it had said how it went")
            await backend.look(LOOK_TIMEOUT_S)
            progress.end(held)


def _server(backend: Backend) -> Server:
    return backend.driver.server_of("")  # an Ollama is one for all of its models


def _asking(backend: Backend, call: Call, body: bytes) -> ClientExchange:
    exchange = call.exchange
    path = exchange.route.replace("{digest}", call.named or "")
    return _server(backend).pool.exchange(exchange.method, path, body, headers=exchange.forwarded, deadline=_due())


def _due() -> float:
    """By when the next piece must come."""
    return asyncio.get_running_loop().time() + STALL_S


async def _succeeded(backend: Backend, answer: ClientConnection) -> None:
    """Raises what the backend says where it says no."""
    if answer.status not in (200, 201):
        raise _server(backend).dialect.error(answer.status, await answer.read_all(MAX_ANSWER_BYTES, _due()))


def _line(said: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(said, type=dict[str, Any])
    except strict.MALFORMED as error:
        raise BackendError(f"the backend's answer is not Ollama's: {error}") from error
