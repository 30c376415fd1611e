"""Where connections go to and come from: addresses, TLS and Unix sockets, both ways."""

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from hermes.errors import BackendUnreachable
from hermes.http.client import PoolLimits
from hermes.http.limits import Limits
from hermes.http.origin import Origin
from hermes.http.pool import Pool
from hermes.http.request import Request
from hermes.http.response import Response
from hermes.http.server import Server
from hermes.http.wire import Deadlines
from tests.http.peers import HOST, TICK_S, App, Peer, Served, connect, serving
from tests.support import run, until

GET = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"


@pytest.mark.parametrize(
    ("url", "host", "port", "host_header", "prefix"),
    [
        ("http://box", "box", 80, b"box:80", ""),
        ("http://Box:11434/", "box", 11434, b"box:11434", ""),
        ("https://box/ollama/", "box", 443, b"box:443", "/ollama"),
        ("http://[::1]:8000", "::1", 8000, b"[::1]:8000", ""),
        ("http://127.0.0.1:1/a/b", "127.0.0.1", 1, b"127.0.0.1:1", "/a/b"),
    ],
)
def test_an_address_is_taken_apart(url: str, host: str, port: int, host_header: bytes, prefix: str) -> None:
    origin = Origin.parse(url)
    assert (origin.host, origin.port, origin.host_header, origin.prefix) == (host, port, host_header, prefix)
    assert (origin.tls is not None) == url.startswith("https")


def test_a_unix_address_names_a_socket() -> None:
    origin = Origin.parse("unix:///run/a%20b.sock")
    assert (origin.unix_path, origin.host_header) == ("/run/a b.sock", b"localhost")


@pytest.mark.parametrize(
    "url",
    [
        "box:11434",
        "ftp://box",
        "http://",
        "unix://",
        "http://box:99999",
        "http://box:x",
        "http://user:secret@box",
        "http://box/?a=1",
        "http://box/#a",
        "http://box/a b",
        "http://bücher",
        "http://[::1",
    ],
)
def test_an_address_that_cannot_be_used_is_refused_without_telling_its_secrets(url: str) -> None:
    """I26 for a password that somebody has put into an address."""
    with pytest.raises(ValueError) as caught:
        Origin.parse(url)
    assert "secret" not in str(caught.value)


class Authority:
    """A throw-away certificate authority and a server certificate for the `subjects`."""

    def __init__(self, folder: Path, name: str, subjects: str = "IP:127.0.0.1,DNS:localhost") -> None:
        self.ca_file = folder / f"{name}-ca.pem"
        key, self.cert_file, self.key_file = folder / f"{name}-ca.key", folder / f"{name}.pem", folder / f"{name}.key"
        request, extensions = folder / f"{name}.csr", folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={subjects}\n")
        new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        ca_usage = ["-addext", "keyUsage=critical,keyCertSign"]
        subject = ["-subj", f"/CN={name}"]
        _openssl("req", "-x509", *new_key, "-keyout", key, "-out", self.ca_file, *subject, "-days", "2", *ca_usage)
        _openssl("req", *new_key, "-keyout", self.key_file, "-out", request, *subject)
        sign = ["-CA", self.ca_file, "-CAkey", key, "-CAcreateserial", "-days", "2", "-extfile", extensions]
        _openssl("x509", "-req", "-in", request, "-out", self.cert_file, *sign)

    def server_context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.cert_file, self.key_file)
        return context


def _openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def authorities() -> Iterator[tuple[Authority, Authority, Authority]]:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    with TemporaryDirectory() as folder:
        good, other = Authority(Path(folder), "good"), Authority(Path(folder), "other")
        yield good, other, Authority(Path(folder), "elsewhere", "DNS:elsewhere.test")


Authorities = tuple[Authority, Authority, Authority]


@asynccontextmanager
async def _pool(url: str, ca_file: Path | None = None) -> AsyncIterator[Pool]:
    loop = asyncio.get_running_loop()
    origin = Origin.parse(url, str(ca_file) if ca_file else None)
    pool = Pool(origin, PoolLimits(), Deadlines(loop, TICK_S), loop)
    yield pool
    pool.close()
    await until(lambda: not pool.open_connections)


async def _ask(pool: Pool, path: str = "/", body: bytes = b"", whole: bool = True) -> bytes:
    deadline = asyncio.get_running_loop().time() + 5.0
    async with pool.exchange("POST", path, body, whole=whole, deadline=deadline) as answer:
        return await answer.read_all(10_000_000, deadline)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_https_both_ways(authorities: Authorities, host: str, whole: bool) -> None:
    async def scenario() -> None:
        good, _, _ = authorities

        async def big(request: Request, response: Response) -> None:
            response.start(200, b"")
            for _ in range(100):
                response.write(b"x" * 10_000)
                if response.paused:
                    await response.drain()
            response.end(request.body)

        async with (
            serving(big, tls=good.server_context()) as served,
            _pool(f"https://{host}:{served.port}", good.ca_file) as pool,
        ):
            for _ in range(3):
                assert await _ask(pool, body=b"end", whole=whole) == b"x" * 1_000_000 + b"end"
            assert pool.opened == 1

    run(scenario())


@pytest.mark.parametrize("trusted", ["the system's", "another"])
def test_a_backend_that_cannot_prove_itself_is_not_talked_to(authorities: Authorities, trusted: str) -> None:
    async def scenario() -> None:
        good, other, _ = authorities
        async with serving(tls=good.server_context()) as served:
            ca_file = other.ca_file if trusted == "another" else None
            async with _pool(f"https://127.0.0.1:{served.port}", ca_file) as pool:
                with pytest.raises(BackendUnreachable) as caught:
                    await _ask(pool)
                assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
                assert pool.open_connections == 0
            assert not served.app.requests

    run(scenario())


def test_a_certificate_for_another_name_is_refused(authorities: Authorities) -> None:
    async def scenario() -> None:
        _, _, elsewhere = authorities
        async with (
            serving(tls=elsewhere.server_context()) as served,
            _pool(f"https://127.0.0.1:{served.port}", elsewhere.ca_file) as pool,
        ):
            with pytest.raises(BackendUnreachable) as caught:
                await _ask(pool)
            assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)

    run(scenario())


class TlsPeer:
    """A raw client over TLS, kept simple by asyncio's streams."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, served: Served, authority: Authority) -> "TlsPeer":
        context = ssl.create_default_context(cafile=authority.ca_file)
        return cls(*await asyncio.open_connection("127.0.0.1", served.port, ssl=context))

    async def close(self) -> None:
        self.writer.transport.abort()
        with suppress(ConnectionError):
            await self.writer.wait_closed()


@pytest.mark.parametrize("leave", ["close", "abort"])
def test_a_tls_client_that_leaves_is_noticed(authorities: Authorities, leave: str) -> None:
    """I9: also while it holds back the answer."""

    async def scenario() -> None:
        good, _, _ = authorities

        async def flood(request: Request, response: Response) -> None:
            response.start(200, b"")
            while True:
                response.write(b"x" * 65536)
                await response.drain()

        async with serving(flood, tls=good.server_context()) as served:
            peer = await TlsPeer.connect(served, good)
            peer.writer.write(GET)
            await until(lambda: any(c.resumed is not None for c in served.server._connections))
            if leave == "close":
                peer.writer.close()
            else:
                peer.writer.transport.abort()
            async with asyncio.timeout(1.0):
                await served.app.cancelled.wait()
            await served.settled()
            await peer.close()

    run(scenario())


def test_a_body_too_large_is_answered_over_tls_while_the_client_is_still_sending(authorities: Authorities) -> None:
    async def scenario() -> None:
        good, _, _ = authorities
        async with serving(limits=Limits(body_bytes=100_000), tls=good.server_context()) as served:
            peer = await TlsPeer.connect(served, good)
            peer.writer.write(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 400000\r\n\r\n")
            for _ in range(40):
                peer.writer.write(b"x" * 10_000)
                await asyncio.sleep(0)
            assert b" 413 " in await peer.reader.read()
            await peer.close()

    run(scenario())


def test_a_tls_reader_that_makes_no_progress_is_dropped(authorities: Authorities) -> None:
    """I13: though uvloop counts nothing as unsent once it is encrypted."""

    async def scenario() -> None:
        good, _, _ = authorities

        async def big(request: Request, response: Response) -> None:
            response.send(200, b"", b"x" * 20_000_000)

        async with serving(big, tls=good.server_context()) as served:
            peer = await TlsPeer.connect(served, good)
            peer.writer.write(GET)
            await until(lambda: bool(served.app.requests) and not served.working)
            await served.after(75.1)
            await served.after(2.1)
            assert served.server.open_connections == 1, "what is unsent is not thrown away after the linger time"
            for _ in range(2):
                await served.after(60.1)
            await served.settled()
            await peer.close()

    run(scenario())


def test_an_answer_over_tls_arrives_whole_though_its_reader_is_slow(authorities: Authorities) -> None:
    """The last word is said long before it can be heard: the linger time must not cut it."""

    async def scenario() -> None:
        good, _, _ = authorities

        async def big(request: Request, response: Response) -> None:
            response.send(200, b"", b"x" * 20_000_000)

        async with serving(big, tls=good.server_context()) as served:
            peer = await TlsPeer.connect(served, good)
            peer.writer.write(GET[:-2] + b"Connection: close\r\n\r\n")
            head = await peer.reader.readuntil(b"\r\n\r\n")
            assert b"content-length: 20000000" in head
            await served.after(2.1)
            received = 0
            for pause_at in (5_000_000, 10_000_000, 15_000_000, 20_000_000):
                while received < pause_at:
                    data = await peer.reader.read(1_000_000)
                    assert data, "cut short"
                    received += len(data)
                await served.after(50)
            assert received == 20_000_000
            assert await peer.reader.read() == b""
            await peer.close()

    run(scenario())


def test_a_handshake_that_does_not_come_is_not_waited_for(authorities: Authorities) -> None:
    """I10: it counts as a slow head."""

    async def scenario() -> None:
        good, _, _ = authorities
        async with serving(limits=Limits(header_timeout_s=0.05), tls=good.server_context()) as served:
            silent = await served.connect()
            await silent.send(b"\x16\x03\x01")
            await silent.gone()
            plain = await served.connect()
            await plain.send(GET)
            await plain.gone()
            assert not served.app.requests

    run(scenario())


def test_handshakes_count_among_the_connections(authorities: Authorities) -> None:
    """Each costs a file descriptor, and nobody has been let in yet."""

    async def scenario() -> None:
        good, _, _ = authorities
        async with serving(limits=Limits(connections=2), tls=good.server_context()) as served:
            silent = [await served.connect() for _ in range(2)]
            await until(lambda: served.server.open_connections == 2)
            for _ in range(3):
                async with asyncio.timeout(1.0):
                    await (await served.connect()).gone()
            assert (served.server.open_connections, served.server.refused_connections) == (2, 3)
            silent[0].close()
            await until(lambda: served.server.open_connections == 1)
            peer = await TlsPeer.connect(served, good)
            peer.writer.write(GET)
            assert b" 200 " in await peer.reader.readline()
            assert served.server.open_connections == 2
            await peer.close()

    run(scenario())


def test_a_drain_waits_for_no_handshake(authorities: Authorities) -> None:
    async def scenario() -> None:
        good, _, _ = authorities
        async with serving(tls=good.server_context()) as served:
            silent = await served.connect()
            await until(lambda: served.server.open_connections == 1)
            async with asyncio.timeout(1.0):
                assert await served.server.drain(5.0) is True
                await silent.gone()
            await served.settled()

    run(scenario())


def test_unix_sockets_both_ways() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        app = App()
        with TemporaryDirectory() as folder:
            path = f"{folder}/h.sock"
            for _ in range(2):  # a stale socket file is no obstacle
                server = Server(app, Limits(), Deadlines(loop, TICK_S), loop)
                await server.listen_unix(path)
                async with _pool(f"unix://{path}") as pool:
                    assert await _ask(pool, "/a", b"body") == b"POST /a body"
                    assert await _ask(pool, "/b", b"body", whole=False) == b"POST /b body"
                    assert pool.opened == 1
                    assert app.requests[0].headers[b"host"] == b"localhost"
                assert await server.drain(1.0)
                assert server.open_connections == 0
            async with _pool(f"unix://{folder}/none.sock") as pool:
                with pytest.raises(BackendUnreachable):
                    await _ask(pool)

    run(scenario())


def test_a_server_may_listen_in_several_places() -> None:
    async def scenario() -> None:
        async with serving() as served:
            other = await served.server.listen("127.0.0.1", 0)
            peer: Peer = await connect(other)
            await peer.send(GET)
            assert (await peer.answer()).status == 200
            peer.close()
            with pytest.raises(OSError, match="in use"):
                await served.server.listen("127.0.0.1", other)

    run(scenario())
