"""The operators of a gateway in this process: whoever may open its admin socket or comes to its admin address."""

import asyncio
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hermes.composition import ADMIN_SOCKET
from tests.fakes.gateway import Call, Hermes, Reply, request_bytes
from tests.http.peers import Peer

KEYS = "/admin/keys"


async def ask(
    path: Path, target: str, body: Any = None, method: str = "", headers: Mapping[str, str] | None = None
) -> Reply:
    """Send a request and read its whole answer."""
    peer = await knock(path)
    try:
        await peer.send(request_bytes(method or ("GET" if body is None else "POST"), target, body, headers or {}))
        return await Call(peer).reply()
    finally:
        peer.close()


async def knock(path: Path) -> Peer:
    """A connection."""
    sock = socket.socket(socket.AF_UNIX)
    sock.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(sock, str(path))
    except OSError:
        sock.close()
        raise
    return Peer(sock)


def kept(folder: Path, **sections: Any) -> dict[str, Any]:
    return {**sections, "server": {"state_dir": str(folder), **sections.get("server", {})}}


def shown(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


async def made(folder: Path, name: str = "editor", **said: Any) -> tuple[str, str]:
    """Id and secret of a new key."""
    reply = await ask(folder / ADMIN_SOCKET, KEYS, {"name": name, **said})
    assert reply.status == 201, reply.json
    return reply.json["id"], reply.json["key"]


def names(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir()]


async def status(gateway: Hermes, secret: str, path: str = "/v1/models") -> int:
    return (await gateway.ask(path, None, shown(secret))).status


def at_admin_port(gateway: Hermes) -> Callable[..., Any]:
    """Asks the admin address as `gateway.ask` does the other."""
    there = Hermes(gateway.runtime, gateway._clients, gateway.given)
    gateway.runtime.journal.sinks.pop()
    there.port = urlsplit(gateway.runtime.admin_address).port or 0
    return there.ask
