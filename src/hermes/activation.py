"""Sockets that the service manager has opened for us: sd_listen_fds(3).

Where they are is where we listen, whatever the configuration says. That of the name `admin` (FileDescriptorName=) is
for operators, all others are for clients.
"""

import os
import socket
from collections.abc import MutableMapping
from typing import Any

from msgspec import Struct

from hermes.config.rules import is_loopback
from hermes.errors import ConfigError

# SD_LISTEN_FDS_START
_FIRST = 3
_ADMIN = "admin"


class Activated(Struct, frozen=True):
    """`sockets`: by what the configuration has for where each listens; `said`: what it is told, so that it has that."""

    sockets: dict[str, list[socket.socket]] = {}
    said: dict[str, Any] = {}


NOTHING = Activated()


def activated(environ: MutableMapping[str, str]) -> Activated:
    """The variables are taken out: they are not for our children. Raises ConfigError for what nobody can connect to."""
    pid, number, names = (environ.pop(f"LISTEN_{name}", "") for name in ("PID", "FDS", "FDNAMES"))
    if pid != str(os.getpid()) or not number.isdecimal():
        return NOTHING
    sockets: dict[bool, list[socket.socket]] = {False: [], True: []}
    for fd, name in zip(range(_FIRST, _FIRST + int(number)), names.split(":") + [""] * int(number), strict=False):
        sockets[name == _ADMIN].append(_socket(fd))
    found = Activated({}, {})
    for section, those in (("server", sockets[False]), ("admin", sockets[True])):
        if those:
            those.sort(key=_is_shut_in)  # one that others can reach decides whether there have to be keys (I24)
            said, place = _where(section, those[0])
            found.sockets[place] = those
            found.said.update(said)
    return found


def _socket(fd: int) -> socket.socket:
    try:
        given = socket.socket(fileno=fd)
        listens = given.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise ConfigError(f"LISTEN_FDS: descriptor {fd} is no socket: {error.strerror}") from error
    if not listens or given.type != socket.SOCK_STREAM:
        raise ConfigError(
            f"LISTEN_FDS: descriptor {fd} is no socket that listens: that takes ListenStream= and Accept=no"
        )
    if given.family == socket.AF_UNIX and isinstance(given.getsockname(), bytes):
        raise ConfigError(f"LISTEN_FDS: descriptor {fd} is an abstract socket: that takes a path")
    given.set_inheritable(False)
    return given


def _is_shut_in(given: socket.socket) -> int:
    if given.family == socket.AF_UNIX:
        return 2
    return int(is_loopback(given.getsockname()[0]))


def _where(section: str, given: socket.socket) -> tuple[dict[str, Any], str]:
    name = given.getsockname()
    if given.family == socket.AF_UNIX:
        return {f"{section}.unix_socket": name}, name
    return {f"{section}.host": name[0], f"{section}.port": name[1]}, f"{name[0]}:{name[1]}"
