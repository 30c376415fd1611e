"""The dashboard's page: where it is, what its head says, and who may ask from it (I22, I24)."""

import re
from pathlib import Path
from typing import Any

import pytest

from hermes.api import dashboard
from hermes.api.dashboard import ASKS, FILES
from tests.fakes.backend import ollama
from tests.fakes.gateway import CHAT, Hermes, Reply, bearer, chat, hermes, key, scenario
from tests.fakes.owner import at_admin_port

PAGE = "/dashboard"
KEYS = [key("ann"), key("ops", admin=True)]


async def shown(gateway: Hermes, *, there: bool = False) -> int:
    ask = at_admin_port(gateway) if there else gateway.ask
    reply: Reply = await ask(PAGE)
    return reply.status


# --- where it is ------------------------------------------------------------------------------------------------------


@scenario
async def test_it_is_where_clients_come_as_long_as_only_this_machine_can() -> None:
    async with ollama() as backend:
        async with hermes(backend) as gateway:
            assert await shown(gateway) == 200
        async with hermes(backend, keys=KEYS) as gateway:
            assert await shown(gateway) == 200  # open: what it asks is not
        async with hermes(backend, keys=KEYS, server={"host": "0.0.0.0"}) as gateway:
            assert await shown(gateway) == 404
        async with hermes(backend, admin={"dashboard": False}) as gateway:
            assert await shown(gateway) == 404


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@scenario
async def test_a_browser_at_the_root_is_led_to_it_and_everybody_else_finds_what_was_there(method: str) -> None:
    page = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
    async with ollama() as backend:
        async with hermes(backend, keys=KEYS) as gateway:
            led = await gateway.ask("/", headers=page, method=method)
            assert (led.status, led.headers["location"], led.headers["vary"]) == (302, "./dashboard", "accept")
            for accept in ({}, {"accept": "*/*"}, {"accept": "application/json"}):
                reply = await gateway.ask("/", headers=accept, method=method)
                assert (reply.status, reply.body) == (200, b"Ollama is running" if method == "GET" else b"")
        async with hermes(backend, keys=KEYS, admin={"port": 0}) as gateway:
            assert (await gateway.ask("/", headers=page, method=method)).status == 200
            assert (await at_admin_port(gateway)("/")).headers["location"] == "./dashboard"


@scenario
async def test_with_an_address_of_the_operators_it_is_there_alone() -> None:
    async with ollama() as backend:
        async with hermes(backend, keys=KEYS, admin={"port": 0}) as gateway:
            assert (await shown(gateway), await shown(gateway, there=True)) == (404, 200)
        async with hermes(backend, admin={"port": 0, "dashboard": False}) as gateway:
            assert (await shown(gateway), await shown(gateway, there=True)) == (404, 404)
            assert (await at_admin_port(gateway)("/v1/status")).status == 404


@scenario
async def test_what_it_asks_is_answered_there_to_whom_it_would_be_elsewhere() -> None:
    """I16"""
    async with ollama() as backend, hermes(backend, keys=KEYS, admin={"port": 0}) as gateway:
        door = at_admin_port(gateway)
        for path in ("/v1/status", "/v1/history", "/v1/queue", "/v1/requests", "/v1/usage", "/v1/models"):
            assert (await door(path)).status == 401
            assert (await door(path, None, bearer("ann"))).status == 200
        assert (await door("/v1/llm/gemma/unload", {}, bearer("ann"))).error["code"] == "admin_only"
        assert (await door(CHAT, chat(), bearer("ann"))).status == 200
        assert (await door("/v1/embeddings", {}, bearer("ann"))).status == 404


def test_what_its_scripts_ask_is_there() -> None:
    scripts = "\n".join(file.read_text() for file in FILES.glob("*.js"))
    asked = {re.sub(r"\$\{.*?\}", "{}", path.split("?")[0]) for path in re.findall(r"[\"`](v1/[^\"`]*)", scripts)}
    asked = {path.rstrip("/") for path in asked}
    asked.discard("v1/llm/{}/{}")  # any of these
    asked |= {f"v1/llm/{{}}/{verb}" for verb in ("pull", "load", "unload")}
    there = {re.sub(r"\{.*?\}", "{}", path) for path in ASKS}
    assert len(asked) > 8 and there - {f"/{path}" for path in asked} == {"/v1/status", "/v1/queue"}
    assert not {f"/{path}" for path in asked} - there


# --- what it is -------------------------------------------------------------------------------------------------------


@scenario
async def test_every_file_is_there_and_says_that_nothing_else_may_run() -> None:
    """I22"""
    types = {".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".svg": "image/svg+xml"}
    async with ollama() as backend, hermes(backend) as gateway:
        for file in (*FILES.iterdir(), None):
            reply = await gateway.ask(f"{PAGE}/{file.name}" if file else PAGE)
            assert reply.status == 200 and reply.body == (file or FILES / "index.html").read_bytes()
            assert reply.headers["content-type"].startswith(types[file.suffix if file else ".html"])
            policy = dict(part.split(" ", 1) for part in reply.headers["content-security-policy"].split("; "))
            assert policy["default-src"] == "'none'" and policy["script-src"] == policy["style-src"] == "'self'"
            assert policy["connect-src"] == "'self'" and policy["frame-ancestors"] == "'none'"
            assert reply.headers["x-content-type-options"] == "nosniff"
            assert reply.headers["cache-control"] == "no-cache"
        there = await gateway.ask(f"{PAGE}/")
        assert (there.status, there.headers["location"]) == (308, "../dashboard")
        for path in ("/dashboard/nothing.js", "/dashboard/../config.py", "/dashboard/%2e%2e/config.py"):
            assert (await gateway.ask(path)).status == 404


@scenario
async def test_what_the_browser_has_already_is_not_sent_again() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        peer = await gateway.connect()
        tag = (await gateway.ask(PAGE, on=peer)).headers["etag"]
        await gateway.open(PAGE, headers={"if-none-match": tag}, on=peer)
        head = await peer.until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 304 ") and b"content-length" not in head and tag.encode() in head
        assert (await gateway.ask(PAGE, headers={"if-none-match": '"another"'}, on=peer)).status == 200


def files(*suffixes: str) -> list[Path]:
    return [file for file in FILES.iterdir() if file.suffix in suffixes]


@pytest.mark.parametrize("file", files(".js", ".html", ".css", ".svg"), ids=lambda file: file.name)
def test_nothing_is_fetched_from_elsewhere_and_nothing_told_becomes_markup(file: Path) -> None:
    """I22: text nodes only, offline, small."""
    text = file.read_text()
    outside = set(re.findall(r"https?://[^\"'\s]*", text)) - {"http://www.w3.org/2000/svg"}
    assert not outside
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\b|new Function", text
    )
    assert len(text.splitlines()) < 300
    if file.suffix == ".html":
        assert not re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=", text)


def test_it_is_part_of_the_package() -> None:
    """flit takes along whatever lies in the package's folder."""
    assert Path(dashboard.__file__).parents[1] == FILES.parent


# --- who may ask from it ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:4000", 200),
        ("http://LOCALHOST:4000", 200),
        ("https://localhost:4000", 200),  # behind somebody's TLS
        ("http://localhost", 403),
        ("http://localhost:4001", 403),
        ("http://127.0.0.1:4000", 403),
        ("http://evil.example", 403),
        ("http://localhost:4000.evil.example", 403),
        ("http://evil.example@localhost:4000", 403),
        ("localhost:4000", 403),
        ("app://localhost:4000", 403),
        ("chrome-extension://localhost:4000", 403),
        ("null", 403),
        ("", 403),
    ],
)
@scenario
async def test_a_page_may_ask_where_it_comes_from_and_nowhere_else(origin: str, status: int) -> None:
    """I22: what begins something, too; on every path."""
    async with ollama() as backend, hermes(backend, admin={"port": 0}) as gateway:
        asked: dict[str, Any] = {"host": "localhost:4000", "origin": origin}
        for ask in (gateway.ask, at_admin_port(gateway)):
            assert (await ask(CHAT, chat(), asked)).status == status
            assert (await ask("/v1/status", None, asked)).status == status


@scenario
async def test_a_name_that_was_bound_to_us_does_not_get_in_as_its_own_origin() -> None:
    """I22: DNS rebinding. Its Origin is its Host, but its Host is none of ours."""
    async with ollama() as backend, hermes(backend) as gateway:
        for host in ("evil.example", "evil.example:4000", ""):
            reply = await gateway.ask(CHAT, chat(), {"host": host, "origin": f"http://{host}"})
            assert (reply.status, reply.error["code"]) == (403, "host_not_allowed")
