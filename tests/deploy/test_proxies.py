"""nginx and Caddy in front, with what `deploy/` has for them: streams arrive as they are made, who leaves is gone."""

import asyncio
import os
import re
import shutil
import socket
import ssl
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.fakes.backend import DONE, ollama, play
from tests.fakes.gateway import CHAT, chat, hermes, request_bytes, scenario
from tests.http.test_origin import Authority
from tests.support import until

DEPLOY = Path(__file__).parents[2] / "deploy"
NAME = "llm.example.org"


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def nginx(folder: Path, authority: Authority, port: int, to: int) -> list[str]:
    """The snippet as it is, but for where it listens, what it leads to, and the certificate."""
    text = (DEPLOY / "nginx.conf").read_text()
    for there, here in (
        ("listen 443", f"listen 127.0.0.1:{port}"),
        ("127.0.0.1:4000", f"127.0.0.1:{to}"),
        ("/etc/ssl/llm.example.org.pem", str(authority.cert_file)),
        ("/etc/ssl/llm.example.org.key", str(authority.key_file)),
    ):
        assert text.count(there) == 1
        text = text.replace(there, here)
    paths = "".join(f"{kind}_temp_path {folder};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    main = f"pid {folder}/pid; error_log stderr; events {{}} http {{ access_log off; {paths}\n{text}\n}}"
    (folder / "nginx.conf").write_text(main)
    return [str(found("nginx")), "-p", str(folder), "-c", str(folder / "nginx.conf"), "-g", "daemon off;"]


def caddy(folder: Path, authority: Authority, port: int, to: int) -> list[str]:
    text = (DEPLOY / "Caddyfile").read_text()
    tls = f"tls {authority.cert_file} {authority.key_file}"
    text = re.sub(rf"^{NAME} {{", f"{NAME}:{port} {{\n\tbind 127.0.0.1\n\t{tls}", text, count=1, flags=re.MULTILINE)
    (folder / "Caddyfile").write_text(
        "{\n\tadmin off\n\tauto_https disable_redirects\n}\n" + text.replace(":4000", f":{to}")
    )
    return [str(found("caddy")), "run", "--config", str(folder / "Caddyfile")]


def found(program: str) -> str | None:
    return os.environ.get(program.upper()) or shutil.which(program) or shutil.which(program, path="/usr/sbin")


Command = Callable[[Path, Authority, int, int], list[str]]


@asynccontextmanager
async def in_front(command: Command, folder: Path, authority: Authority, to: int) -> AsyncIterator[int]:
    port = free_port()
    environ = {**os.environ, "HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    arguments = command(folder, authority, port, to)
    process = await asyncio.create_subprocess_exec(*arguments, stdout=DEVNULL, stderr=DEVNULL, env=environ)
    try:
        while True:
            assert process.returncode is None, "it did not start"
            try:
                (await asyncio.open_connection("127.0.0.1", port))[1].close()
                break
            except OSError:
                await asyncio.sleep(0.01)
        yield port
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    return Authority(tmp_path_factory.mktemp("tls"), "proxy", f"DNS:{NAME}")


@pytest.mark.parametrize("command", [nginx, caddy])
@scenario
async def test_streams_pass_at_once_and_who_leaves_is_gone(
    command: Command, tmp_path: Path, authority: Authority
) -> None:
    """I9 through a proxy; the next piece is made only when the one before has arrived."""
    if not found(command.__name__):
        pytest.skip(f"{command.__name__} is not installed")
    context = ssl.create_default_context(cafile=authority.ca_file)
    async with ollama() as backend, hermes(backend, server={"allowed_hosts": [NAME]}) as gateway:
        gateway.runtime.journal.sinks.clear()
        async with in_front(command, tmp_path, authority, gateway.port) as port:
            steps = [asyncio.Event(), asyncio.Event()]
            backend.default = play("one", steps[0], "two", steps[1], "three", DONE)
            for leaves in (False, True):
                for step in steps:
                    step.clear()
                reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=NAME)
                writer.write(request_bytes("POST", CHAT, chat(stream=True), {"host": NAME}))
                async with asyncio.timeout(5.0):
                    assert b" 200 " in await reader.readuntil(b"\r\n")
                    await reader.readuntil(b'"one"')
                    steps[0].set()
                    await reader.readuntil(b'"two"')
                    if leaves:
                        writer.transport.abort()
                        await until(lambda: backend.asked[-1].left.is_set(), "the backend still works")
                    else:
                        steps[1].set()
                        await reader.readuntil(b"data: [DONE]\n\n\r\n0\r\n\r\n")
                        writer.close()
