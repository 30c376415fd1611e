"""Sockets that a service manager has opened: they are what is listened on, and they stay when Hermes ends."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path

import pytest

from tests.fakes.backend import FakeOllama, ollama
from tests.fakes.gateway import PROMPT, Clients, key, prompt, request_bytes, scenario
from tests.fakes.process import COMMAND, SOURCES, Served, _line_with

# As a service manager does it: its own pid is the program's (LISTEN_PID), the sockets are the descriptors from 3 on.
MANAGER = """
import os, sys
fds, names, command = [int(fd) for fd in sys.argv[1].split(",")], sys.argv[2], sys.argv[3:]
high = [os.dup2(fd, 100 + n) for n, fd in enumerate(fds)]
for n, fd in enumerate(high):
    os.dup2(fd, 3 + n)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(fds)), "LISTEN_FDNAMES": names}
os.execv(command[0], command)
"""


@asynccontextmanager
async def activated(
    folder: Path, sockets: list[socket.socket], names: str, backend: FakeOllama, **environ: str
) -> AsyncIterator[Served]:
    fds = [each.fileno() for each in sockets]
    environ = {**SOURCES, "XDG_CONFIG_HOME": str(folder), "OLLAMA_URL": backend.url, **environ}
    manager = [sys.executable, "-c", MANAGER, ",".join(map(str, fds)), names, *COMMAND, "serve", "--port", "1"]
    process = await asyncio.create_subprocess_exec(*manager, stderr=PIPE, cwd=folder, env=environ, pass_fds=fds)
    clients = Clients()
    try:
        yield Served(process, await _line_with(process, "listens on"), clients)
    finally:
        clients.close()
        if process.returncode is None:
            process.kill()
            await process.communicate()


def tcp(host: str = "127.0.0.1") -> socket.socket:
    return socket.create_server((host, 0))


def unix(path: Path) -> socket.socket:
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(str(path))
    bound.listen()
    return bound


async def over_unix(path: Path, target: str) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(request_bytes("GET", target, None, {"connection": "close"}))
    answer = await reader.read()
    writer.close()
    return answer


@scenario
async def test_it_listens_there_and_nowhere_else_and_another_process_goes_on(tmp_path: Path) -> None:
    """The port is the socket's, not the flag's; who came before the start is served. So it is after a restart."""
    client, also, admin = tcp(), unix(tmp_path / "also.sock"), unix(tmp_path / "operators.sock")
    port = client.getsockname()[1]
    async with ollama() as backend:
        early = await Clients().connect(port)
        await early.send(request_bytes("POST", PROMPT, prompt(), {"connection": "close"}))
        async with activated(tmp_path, [client, also, admin], "hermes.socket:hermes.socket:admin", backend) as hermes:
            assert hermes.port == port
            assert json.loads((await early.answer()).body)["result"] == "Hello"
            early.close()
            os.kill(hermes._process.pid, signal.SIGUSR2)
            successor = int((await hermes.told("goes on; this one ends")).split()[1])
            try:
                await hermes.told("the process before this one is gone")
                for path, target in (("also.sock", "/v1/models"), ("operators.sock", "/admin/keys")):
                    assert (await over_unix(tmp_path / path, target)).startswith(b"HTTP/1.1 200")
                call = await hermes.open(PROMPT, prompt(), {"connection": "close"})
                assert (await call.reply()).json["result"] == "Hello"
                call.peer.close()
            finally:
                os.kill(successor, signal.SIGTERM)
            await hermes.end()
        assert {"also.sock", "operators.sock"} <= names(tmp_path), "they are the manager's"
    for each in (client, also, admin):
        each.close()


def names(folder: Path) -> set[str]:
    return {each.name for each in folder.iterdir()}


@pytest.mark.parametrize("keys", [False, True])
@scenario
async def test_one_that_others_can_reach_needs_keys(tmp_path: Path, keys: bool) -> None:
    """I24, whichever of several it is."""
    sockets = [tcp(), tcp("0.0.0.0")]
    environ = {"HERMES_KEYS": json.dumps([key("ann")])} if keys else {}
    async with ollama() as backend:
        listened = False
        with nullcontext() if keys else pytest.raises(AssertionError, match="never said"):
            async with activated(tmp_path, sockets, "", backend, **environ):
                listened = True
        assert listened is keys
    for each in sockets:
        each.close()


def test_what_does_not_listen_is_refused(tmp_path: Path) -> None:
    with socket.socket() as idle:
        idle.bind(("127.0.0.1", 0))
        manager = [sys.executable, "-c", MANAGER, str(idle.fileno()), "", *COMMAND, "serve"]
        ended = subprocess.run(manager, pass_fds=[idle.fileno()], env=SOURCES, cwd=tmp_path, capture_output=True)
    assert ended.returncode == 2 and b"no socket that listens" in ended.stderr


def test_an_abstract_socket_is_refused(tmp_path: Path) -> None:
    """It has no path by which it could be configured, or passed on."""
    with socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(f"\0hermes-{os.getpid()}")
        abstract.listen()
        manager = [sys.executable, "-c", MANAGER, str(abstract.fileno()), "", *COMMAND, "serve"]
        ended = subprocess.run(manager, pass_fds=[abstract.fileno()], env=SOURCES, cwd=tmp_path, capture_output=True)
    assert ended.returncode == 2 and b"abstract socket" in ended.stderr


def test_sockets_of_another_process_are_not_ours(tmp_path: Path) -> None:
    environ = {**SOURCES, "LISTEN_PID": "1", "LISTEN_FDS": "1", "HERMES_SERVER__PORT": "0", "HERMES_SERVER__NO": "1"}
    ended = subprocess.run([*COMMAND, "serve"], env=environ, cwd=tmp_path, capture_output=True)
    assert b"HERMES_SERVER__NO" in ended.stderr and b"LISTEN" not in ended.stderr
