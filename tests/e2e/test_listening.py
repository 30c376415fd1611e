"""Where Hermes listens and where it connects to: TCP, Unix sockets, TLS."""

import asyncio
import json
import shutil
import socket
import ssl
from pathlib import Path

import pytest

from hermes.errors import ConfigError
from tests.fakes.backend import FakeOllama, ollama
from tests.fakes.gateway import PROMPT, config, hermes, prompt, request_bytes, scenario, serving
from tests.http.peers import Peer
from tests.http.test_origin import Authority


async def over_unix(path: Path) -> Peer:
    sock = socket.socket(socket.AF_UNIX)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, str(path))
    return Peer(sock)


@scenario
async def test_a_unix_socket_is_served_and_one_left_behind_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "hermes.sock"
    async with ollama() as backend:
        for _ in range(2):
            async with hermes(backend, server={"unix_socket": str(path)}) as gateway:
                assert gateway.runtime.address == f"unix:{path}"
                peer = await over_unix(path)
                await peer.send(request_bytes("POST", PROMPT, prompt(), {}))
                assert json.loads((await peer.answer()).body)["result"] == "Hello"
                peer.close()


@scenario
async def test_a_unix_socket_that_is_served_is_not_taken_over(tmp_path: Path) -> None:
    server = {"unix_socket": str(tmp_path / "hermes.sock")}
    async with ollama() as backend, hermes(backend, server=server):
        with pytest.raises(ConfigError, match="in use"):
            async with hermes(backend, server=server):
                pass


@scenario
async def test_a_backend_may_be_behind_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "ollama.sock"
    backend = FakeOllama()
    await backend.listen_unix(str(path))
    try:
        async with hermes(backends=[{"name": "b0", "url": f"unix://{path}"}]) as gateway:
            assert (await gateway.ask(PROMPT, prompt(stream=True))).events[0] == {"delta": "Hel"}
            assert backend.asked[0].headers["host"] == "localhost"
    finally:
        await backend.vanish()


@scenario
async def test_ipv6_loopback_is_served() -> None:
    async with ollama() as backend:
        try:
            async with hermes(backend, server={"host": "::1"}) as gateway:
                assert gateway.runtime.address == f"http://[::1]:{gateway.port}"
                sock = socket.socket(socket.AF_INET6)
                sock.setblocking(False)
                await asyncio.get_running_loop().sock_connect(sock, ("::1", gateway.port))
                peer = Peer(sock)
                await peer.send(request_bytes("GET", "/health", None, {"host": f"[::1]:{gateway.port}"}))
                assert (await peer.answer()).status == 200
                peer.close()
        except ConfigError as error:
            pytest.skip(f"no IPv6 here: {error}")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[Authority, Path]:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    return Authority(folder, "good"), folder


@scenario
async def test_https_is_served_with_the_configured_certificate(authority: tuple[Authority, Path]) -> None:
    trusted, folder = authority
    tls = {"cert_file": str(folder / "good.pem"), "key_file": str(folder / "good.key")}
    async with ollama() as backend, hermes(backend, server={"tls": tls}) as gateway:
        assert gateway.runtime.address.startswith("https://")
        context = ssl.create_default_context(cafile=trusted.ca_file)
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, ssl=context)
        writer.write(request_bytes("POST", PROMPT, prompt(), {"connection": "close"}))
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 200") and b'"result":"Hello"' in answer
        writer.close()
        await writer.wait_closed()


@scenario
async def test_an_https_backend_is_believed_with_the_right_authority_only(authority: tuple[Authority, Path]) -> None:
    trusted, _ = authority
    backend = FakeOllama()
    await backend.listen(trusted.server_context())
    url = backend.url.replace("http:", "https:")
    try:
        async with hermes(backends=[{"name": "b0", "url": url, "ca_file": str(trusted.ca_file)}]) as gateway:
            assert (await gateway.ask(PROMPT, prompt())).status == 200
        async with hermes(backends=[{"name": "b0", "url": url}]) as gateway:
            assert (await gateway.ask(PROMPT, prompt())).error["code"] == "no_backend"
    finally:
        await backend.vanish()


BROKEN = [
    ({"tls": {"cert_file": "/nowhere.pem"}}, {}, "/nowhere.pem"),
    ({}, {"logging": {"access_log": "/nowhere/access.log"}}, "/nowhere/access.log"),
    ({"unix_socket": "/nowhere/hermes.sock"}, {}, "/nowhere/hermes.sock"),
    ({"host": "203.0.113.1"}, {}, "203.0.113.1"),
    ({}, {"backends": [{"name": "b0", "url": "https://127.0.0.1:1", "ca_file": "/nowhere.pem"}]}, "b0"),
]


@pytest.mark.parametrize(("server", "sections", "words"), BROKEN, ids=[words for _, _, words in BROKEN])
@scenario
async def test_what_cannot_be_used_is_told_at_start(
    server: dict[str, object], sections: dict[str, object], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        async with serving(
            config(server=server, **{"backends": [{"name": "b0", "url": "http://127.0.0.1:1"}], **sections})
        ):
            pass


@scenario
async def test_a_port_in_use_is_told_and_nothing_is_left() -> None:
    async with ollama() as backend:
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{backend.port}"):
            async with hermes(backend, server={"port": backend.port}):
                pass


@scenario
async def test_connections_beyond_the_limit_are_not_taken() -> None:
    async with ollama() as backend, hermes(backend, server={"max_connections": 1}) as gateway:
        first = await gateway.connect()
        assert (await gateway.ask("/health", on=first)).status == 200
        for _ in range(2):
            async with asyncio.timeout(1.0):  # at once, and not when its head is too late
                await (await gateway.connect()).gone()
        assert (await gateway.ask("/health", on=first)).status == 200
        assert gateway.counted("hermes_connections_refused_total") == {(): 2.0}
