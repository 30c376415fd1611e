"""Who is let in before anybody asks for a key: Host, hops, compression (I12, I22)."""

import asyncio
import socket
from pathlib import Path

import pytest

from tests.fakes.backend import Asked, fail, ollama
from tests.fakes.gateway import CHAT, PROMPT, chat, hermes, prompt, scenario

HOSTS = {"allowed_hosts": ["gpu.lan", "Chat.Example.org"]}


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:4000", "127.0.0.1:4000", "[::1]:4000", "192.168.1.7", "gpu.lan:80", "chat.example.org."],
)
@scenario
async def test_a_known_host_is_served(host: str) -> None:
    async with ollama() as backend, hermes(backend, server=HOSTS) as gateway:
        assert (await gateway.ask("/v1/models", headers={"host": host})).status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "evil.example:4000", "localhost@evil.example", "xgpu.lan", ""]
)
@pytest.mark.parametrize("path", [PROMPT, "/health", "/metrics", "/nowhere"])
@scenario
async def test_an_unknown_host_is_refused_on_every_path(host: str, path: str) -> None:
    """I22: a page whose name was bound to this address must not get in."""
    async with ollama() as backend, hermes(backend, server=HOSTS) as gateway:
        reply = await gateway.ask(path, prompt() if path == PROMPT else None, {"host": host})
        assert (reply.status, reply.error["code"]) == (403, "host_not_allowed")
        assert reply.headers["x-request-id"]
        assert not backend.asked


@pytest.mark.parametrize(
    ("host", "told"),
    [("VM:4200", "the Host vm is not"), ("vm<script>", "this Host is not"), ("v" * 101, "this Host is not")],
)
@scenario
async def test_a_refused_host_is_named_if_it_is_a_plain_name_with_the_setting(host: str, told: str) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        message = (await gateway.ask("/health", headers={"host": host})).error["message"]
        assert message == f"{told} allowed; an operator can list it in server.allowed_hosts"


@scenario
async def test_the_host_is_checked_on_a_unix_socket_too(tmp_path: Path) -> None:
    """I22: on every listener."""
    path = str(tmp_path / "hermes.sock")
    async with ollama() as backend, hermes(backend, server={"unix_socket": path}):
        for host, status in (("localhost", 200), ("evil.example", 403)):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"GET /health HTTP/1.1\r\nconnection: close\r\nhost: %b\r\n\r\n" % host.encode())
            assert (await reader.read()).startswith(b"HTTP/1.1 %d " % status)
            writer.close()


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd", "deflate", "gzip, identity"])
@scenario
async def test_a_compressed_body_is_415(encoding: str) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        reply = await gateway.ask(CHAT, b"\x1f\x8b", {"content-encoding": encoding})
        assert (reply.status, reply.error["code"]) == (415, "unsupported_content_encoding")
        assert (await gateway.ask(CHAT, chat(), {"content-encoding": "identity"})).status == 200


@pytest.mark.parametrize(
    ("site", "dest", "status"),
    [
        ("cross-site", "image", 403),
        ("cross-site", "iframe", 403),
        ("cross-site", "empty", 403),
        ("same-site", "script", 403),  # another port of localhost's
        ("cross-site", "document", 200),
        ("same-origin", "empty", 200),
        ("none", "document", 200),
    ],
)
@scenario
async def test_no_other_page_has_in_itself_what_not_everybody_may_ask(site: str, dest: str, status: int) -> None:
    """I22: what it fetches so has no Origin."""
    of = {"sec-fetch-site": site, "sec-fetch-dest": dest, "sec-fetch-mode": "no-cors"}
    async with ollama() as backend, hermes(backend, server={"cors": {"origins": ["https://ok.example"]}}) as gateway:
        for path in ("/v1/models", "/v1/status", "/metrics"):
            reply = await gateway.ask(path, headers=of)
            assert reply.status == status
            assert status == 200 or reply.error["code"] == "origin_not_allowed"
        assert (await gateway.ask("/health", headers=of)).status == 200
        assert (await gateway.ask("/v1/models", headers={**of, "origin": "https://ok.example"})).status == 200


# --- hops ---------------------------------------------------------------------------------------------------------


@scenario
async def test_a_request_that_has_been_here_is_508() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        await gateway.ask(PROMPT, prompt())
        hop = backend.asked[0].headers["x-hermes-hop"]
        reply = await gateway.ask(PROMPT, prompt(), {"x-hermes-hop": hop})
        assert (reply.status, reply.error["code"]) == (508, "loop_detected")
        assert len(backend.asked) == 1


@scenario
async def test_hops_add_up_along_a_chain_and_a_long_chain_is_refused() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        await gateway.ask(PROMPT, prompt(), {"x-hermes-hop": "a, b"})
        assert backend.asked[0].headers["x-hermes-hop"].startswith("a, b, ")
        assert (await gateway.ask(PROMPT, prompt(), {"x-hermes-hop": "a,b,c,d,e"})).status == 508


@pytest.mark.parametrize(
    "hops",
    ["", " ", ",", "a,", ",a", "a,,b", "a b", "a\tb", 'a"b', "a;b", "a: b", "a/b", "a=b", "\xe4", "a" * 65, "a" * 2000],
)
@scenario
async def test_hops_that_are_no_short_names_are_refused_and_never_passed_on(hops: str) -> None:
    """I11: it is the one header of a client's that goes on to a backend."""
    async with ollama() as backend, hermes(backend) as gateway:
        reply = await gateway.ask(PROMPT, prompt(), {"x-hermes-hop": hops})
        assert (reply.status, reply.error["code"]) == (400, "malformed_hops")
        assert not backend.asked


@scenario
async def test_a_request_that_comes_around_is_stopped_the_second_time() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        seen: list[int] = []

        async def send_back(asked: Asked) -> None:
            again = await gateway.ask(PROMPT, prompt(), {"x-hermes-hop": asked.headers["x-hermes-hop"]})
            seen.append(again.status)
            await fail(400, "no")(asked)

        backend.default = send_back
        assert (await gateway.ask(PROMPT, prompt())).status == 400
        assert (seen, len(backend.asked)) == ([508], 1)


@pytest.mark.parametrize("kind", ["ollama", "vllm", "llamacpp", "openai"])
@scenario
async def test_a_hermes_in_front_of_itself_says_no_and_does_not_spin(kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    itself = {"name": "self", "kind": kind, "url": f"http://127.0.0.1:{port}"}
    async with hermes(backends=[itself], server={"port": port}) as gateway:
        reply = await gateway.ask(PROMPT, prompt())
        assert (reply.status, reply.error["code"]) == (503, "no_backend")
        status = (await gateway.ask("/v1/status")).json
        assert (status["status"], status["backends"][0]["state"]) == ("no_backend", "down")
        assert "points back here" in status["backends"][0]["error"]
        assert gateway.counted("hermes_requests_accepted_total")[()] < 10, "it asks itself for tokens"
