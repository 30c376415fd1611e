"""Another process accepts in a server's place: whoever has come before is answered here."""

import asyncio
import socket
import ssl
from pathlib import Path

from hermes.http.connection import ServerConnection
from hermes.http.request import Request
from hermes.http.response import Response
from hermes.http.server import Server
from tests.http.peers import HOST, Peer, serving
from tests.support import run, until

GET = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"


async def connect(path: Path) -> Peer:
    sock = socket.socket(socket.AF_UNIX)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, str(path))
    return Peer(sock)


def test_who_was_accepted_just_before_nobody_is_any_more_is_answered(tmp_path: Path) -> None:
    """The loop has accepted a connection a turn or more before it says so."""

    async def scenario() -> None:
        async with serving() as served:
            server, path = served.server, tmp_path / "hermes.sock"

            def accepted() -> ServerConnection:
                server.loop.call_soon(server.pause)
                return ServerConnection(server)

            server._connect = accepted  # type: ignore[method-assign]
            await server.listen_unix(str(path))
            peer = await connect(path)
            await until(lambda: not server.sockets())
            await peer.send(GET)
            assert (await peer.answer()).status == 200
            peer.close()
            server.let_go()

    run(scenario())


def test_what_is_passed_on_is_answered_by_one_that_has_a_successor_itself(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving() as served:
            relays = await served.server.listen_for_relays(str(tmp_path / "0"))
            served.server.pause()
            served.server.let_go()
            peer = await connect(tmp_path / "0")
            await peer.send(GET)
            assert (await peer.answer()).headers["connection"] == "close"
            peer.close()
            relays.close()

    run(scenario())


def test_a_handshake_that_fails_is_not_waited_for(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving() as served:
            server: Server = served.server
            server.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            server._greet(ours)
            await asyncio.sleep(0)
            theirs.close()
            async with asyncio.timeout(2.0):
                await server.empty()

    run(scenario())


def test_a_connection_whose_answer_spans_the_change_gets_one_more() -> None:
    """It could not be told before that there would be no other."""

    async def scenario() -> None:
        may_end = asyncio.Event()

        async def handler(request: Request, response: Response) -> None:
            response.start(200, b"")
            response.write(b"first")
            await may_end.wait()
            response.end(b"last")

        async with serving(handler) as served:
            peer = await served.connect()
            await peer.send(GET)
            await peer.until(b"first\r\n")
            served.server.pause()
            served.server.let_go()
            may_end.set()
            await peer.until(b"0\r\n\r\n")
            await peer.send(GET)
            answer = await peer.answer()
            assert (answer.body, answer.headers["connection"]) == (b"firstlast", "close")
            assert await peer.rest() == b""
            peer.close()

    run(scenario())
