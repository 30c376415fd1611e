"""Everywhere that one gateway listens: opened one after the other, drained as one.

Clients have one address or Unix socket. Operators have a socket that only the process's own user may open, and, where
that is configured, an address for those with an operator's key.
"""

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

from hermes import config as settings
from hermes.api.app import Api
from hermes.errors import ConfigError
from hermes.http.connection import App
from hermes.http.limits import Limits
from hermes.http.server import Server
from hermes.http.wire import Deadlines

log = logging.getLogger(__name__)

_OWNER_ONLY = 0o600


class Listeners:
    def __init__(
        self,
        limits: Limits,
        tls: ssl.SSLContext | None,
        deadlines: Deadlines,
        loop: asyncio.AbstractEventLoop,
        bound: Mapping[str, list[socket.socket]],
        files: Sequence[str] = (),
        waits: bool = False,
    ) -> None:
        self._limits = limits
        self._tls = tls
        self._deadlines = deadlines
        self._loop = loop
        self._apis: list[Api] = []
        self._servers: list[Server] = []
        self._bound = dict(bound)  # sockets that we were given, by what the configuration has for where we listen
        self._files = files  # of these, ours to remove once they are ours
        self._waits = waits  # whoever comes waits in the kernel until `accept`
        self._places: dict[str, Server] = {}

    def server(self, api: Api) -> Server:
        """One more, which nobody can reach yet. The first is the clients'."""
        self._apis.append(api)
        self._servers.append(Server(api, self._limits, self._deadlines, self._loop))
        return self._servers[-1]

    def adopt(self, limits: Limits, tls: ssl.SSLContext | None) -> None:
        """These hold from now on, and nothing that was concluded from earlier heads."""
        self._limits, self._tls = limits, tls
        for server in self._servers:
            server.limits, server.tls = limits, tls
            server.forget()

    # --- opening ----------------------------------------------------------------------------------------------------

    async def open_for_clients(self, server: Server, said: settings.Server) -> str:
        """Returns the address. Raises ConfigError (in use)."""
        if said.unix_socket is None:
            return await self._open(server, said.host, said.port, "--port or PORT")
        await _bound(self._listen_unix(server, said.unix_socket, None), said.unix_socket, "server.unix_socket")
        return f"unix:{said.unix_socket}"

    async def open_for_operators(self, api: Api, host: str, port: int) -> str:
        """The same for an address of theirs."""
        return await self._open(self.server(api), host, port, "admin.port")

    async def open_for_owner(self, api: Api, path: Path, asked_for: bool) -> None:
        """A socket for whoever may open it. Where nobody has asked for it, one that cannot be is only a warning."""
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            await self._listen_unix(self.server(api), str(path), _OWNER_ONLY)
        except OSError as error:
            why = f"cannot listen on {path}: {error}; make its folder writable, or set server.state_dir to another"
            if error.errno == errno.EADDRINUSE:
                why = f"another Hermes listens on {path}: give this one a server.state_dir of its own"
            if asked_for:
                raise ConfigError(f"admin.unix_socket: {why}") from error
            log.warning("keys that are made while this Hermes runs do not hold here: %s", why)

    async def _open(self, server: Server, host: str, port: int, setting: str) -> str:
        place = f"{host}:{port}"
        self._places[place] = server
        if bound := self._bound.pop(place, None):
            taken = bound[0].getsockname()[1]
            server.hold(bound, self._tls)
        else:
            taken = await _bound(server.listen(host, port, self._tls), place, setting)
        await _bound(self._begin(server), place, setting)
        return f"{'https' if self._tls else 'http'}://{f'[{host}]' if ':' in host else host}:{taken}"

    async def _listen_unix(self, server: Server, path: str, mode: int | None) -> None:
        self._places[path] = server
        if bound := self._bound.pop(path, None):
            server.hold(bound)
        else:
            await server.listen_unix(path, mode)
        await self._begin(server)

    async def _begin(self, server: Server) -> None:
        if self._waits:
            server.pause()
        else:
            await server.resume()

    async def accept(self) -> None:
        """Nobody else does now. What we were given and do not listen at is nobody's any more."""
        self._own_files()
        for server in self._servers:
            await server.resume()
        while self._bound:
            for each in self._bound.popitem()[1]:
                each.close()

    def _own_files(self) -> None:
        for path in self._files:
            if (server := self._places.get(path)) is not None:
                server.files.append(path)
            else:
                with contextlib.suppress(OSError):
                    Path(path).unlink()

    async def open_for_relays(self, paths: Mapping[str, str]) -> list[asyncio.Server]:
        """By place, where the process before this one passes on what comes to it: the first is the clients', who may
        be elsewhere now. The caller closes them.
        """
        relays = []
        for number, (place, path) in enumerate(paths.items()):
            if (server := self._places.get(place) if number else self._servers[0]) is not None:
                relays.append(await server.listen_for_relays(path))
        return relays

    # --- handing over -----------------------------------------------------------------------------------------------

    def sockets(self) -> dict[str, list[int]]:
        """The descriptors, by place."""
        return {place: fds for place, server in self._places.items() if (fds := server.sockets())}

    def files(self) -> list[str]:
        return [file for server in self._servers for file in server.files]

    def hand_over(self, relay: Callable[[str, App], App]) -> None:
        """Another process accepts in our place. What still comes on connections that there are is for `relay`, made of
        the place and who answered before; each answer is its connection's last.
        """
        for place, server in self._places.items():
            server.app = relay(place, server.app)
        for server in self._servers:
            server.let_go()

    async def empty(self) -> None:
        """Wait until nobody is connected any more."""
        for server in self._servers:
            await server.empty()

    # --- closing ----------------------------------------------------------------------------------------------------

    def begin_closing(self) -> None:
        """Every answer is its connection's last, and nothing new is begun."""
        for api, server in zip(self._apis, self._servers, strict=True):
            api.draining = server.closing = server.hurries = True

    async def drain(self, timeout_s: float) -> bool:
        """One after the other: operators are answered until clients have been. True if nothing was cut (I33)."""
        until = self._loop.time() + timeout_s
        return all([await server.drain(max(0.0, until - self._loop.time())) for server in self._servers])

    def cut(self, running: bool) -> None:
        """Have every connection leave now. `running`: there are requests to be told why."""
        for api, server in zip(self._apis, self._servers, strict=True):
            api.cutting = running
            server.cut()

    def abort(self) -> None:
        for server in self._servers:
            server.abort()


async def _bound(listening: Coroutine[Any, Any, Any], where: str, setting: str) -> Any:
    """`setting`: by which it could be elsewhere."""
    try:
        return await listening
    except OSError as error:
        raise ConfigError(f"cannot listen on {where}: {_why(error, setting)}") from error


def _why(error: OSError, setting: str) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            taken = "it is in use" if setting == "server.unix_socket" else "the port is taken"
            return f"{taken}; use {setting}, or stop what listens there"
        case errno.EACCES | errno.EPERM:
            return f"{error.strerror}, ports below 1024 are the system's and folders their owners'; use {setting}"
        case errno.EADDRNOTAVAIL:
            return f"{error.strerror}: this machine has no such address; 127.0.0.1 and 0.0.0.0 are there always"
    return f"{error}; use {setting}"
