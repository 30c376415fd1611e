"""Whom `hermes doctor` asks: the configured backends, what serves models at its usual place on this machine, and who is
where Hermes would listen. All at once, each for a short time; nobody is asked for more than what he has.
"""

import asyncio
import os
from collections.abc import Awaitable, Iterator
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

from hermes import drivers, machine
from hermes.cli.checkup import Finding, in_container
from hermes.cli.options import gib
from hermes.config import Backend, Config, Secret
from hermes.config.kinds import BackendKind
from hermes.config.rules import is_loopback
from hermes.errors import BackendTimeout, BackendUnreachable, ConfigError, GatewayError
from hermes.fleet import memory
from hermes.fleet.inventory import Inventory
from hermes.http.wire import Deadlines

T = TypeVar("T")

PATIENCE_S = 2.0

# Where they listen on this machine unless told otherwise.
USUAL: tuple[tuple[str, int, BackendKind], ...] = (
    ("Ollama", 11434, "ollama"),
    ("vLLM", 8000, "vllm"),
    ("llama.cpp", 8080, "llamacpp"),
    ("LM Studio", 1234, "openai"),
    ("SGLang", 30000, "openai"),
    ("Jan", 1337, "openai"),
)


async def look(config: Config) -> list[Finding]:
    backends = [backend for backend in config.backends if backend.command is None]
    known = {_port(backend.url) for backend in config.backends if memory.is_here(backend.url)}
    strangers = [_stranger(*usual) for usual in USUAL if usual[1] not in (*known, config.server.port)]
    asked: list[Awaitable[list[Finding]]] = [_address(config), *map(_backend, backends), *strangers, _memory(config)]
    found = [finding for told in await asyncio.gather(*asked) for finding in told]
    if any(map(_is_away, found)) and (served := await _served(config)):
        return [_instead(finding, served) if _is_away(finding) else finding for finding in found]
    return found


# --- where Hermes would listen ----------------------------------------------------------------------------------------


async def _address(config: Config) -> list[Finding]:
    server = config.server
    if server.unix_socket:
        return []
    host = _host(config)
    try:
        async with asyncio.timeout(PATIENCE_S):
            _, writer = await asyncio.open_connection(host, server.port)
    except (OSError, TimeoutError):
        return [Finding("address", "ok", f"nobody listens on {server.host}:{server.port} yet")]
    writer.close()
    where = f"{server.host}:{server.port}"
    if await _is_hermes(_url(config)):
        return [Finding("address", "ok", f"a Hermes listens on {where}: hermes status tells how it is")]
    if server.tls:
        return [Finding("address", "note", f"somebody listens on {where} whose certificate is not known here")]
    todo = f"use another --port (PORT), or stop it: ss -ltnp 'sport = :{server.port}' tells who it is"
    return [Finding("address", "problem", f"another program listens on {where}", todo)]


def _host(config: Config) -> str:
    host = config.server.host
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - is found on loopback


def _url(config: Config) -> str:
    host, server = _host(config), config.server
    return f"{'https' if server.tls else 'http'}://{f'[{host}]' if ':' in host else host}:{server.port}"


class _Alive(msgspec.Struct):
    status: str
    ready: bool


class _Served(msgspec.Struct):
    """`url`: told to operators."""

    simulated: bool
    url: str | None = None


class _Status(msgspec.Struct):
    backends: list[_Served]


async def _is_hermes(url: str) -> bool:
    return await _told(Backend("doctor", url, "openai"), "/livez", _Alive) is not None


async def _served(config: Config) -> list[_Served]:
    """The backends of the Hermes that listens there, as far as it tells us."""
    key = os.environ.get("HERMES_API_KEY", "")
    secret = Secret(key) if key and key.isascii() and key.isprintable() else None
    backend = Backend("doctor", _url(config), "openai", api_key=secret)
    status = None if config.server.unix_socket else await _told(backend, "/v1/status", _Status)
    return [] if status is None else status.backends


async def _told(backend: Backend, path: str, what: type[T]) -> T | None:
    """What it answers, if it is that."""
    loop = asyncio.get_running_loop()
    driver = drivers.driver(backend, Deadlines(loop), loop)
    try:
        async with driver.pool.exchange("GET", path, whole=True, deadline=loop.time() + PATIENCE_S) as answer:
            return msgspec.json.decode(answer.take_body(), type=what)
    except (GatewayError, msgspec.DecodeError):
        return None
    finally:
        driver.pool.close()


# --- backends ---------------------------------------------------------------------------------------------------------


async def _backend(backend: Backend) -> list[Finding]:
    what, url = f"backend {backend.name}", backend.url
    try:
        has = await _inventory(backend)
    except (BackendUnreachable, BackendTimeout) as error:
        return [Finding(what, "problem", f"{backend.kind} at {url}: {error}", _what_to_start(backend))]
    except (GatewayError, ConfigError) as error:
        return [Finding(what, "problem", f"{backend.kind} at {url}: {error}", "mend its kind, url or api_key")]
    told = f"{f'{backend.kind} {has.version}'.rstrip()} at {url}: {_count(has)}"
    found = [Finding(what, "ok", told)]
    if not has.models:
        todo = "hermes pull gemma3" if backend.kind == "ollama" else "start it with a model"
        found = [Finding(what, "warning", f"{told}, so there is nothing to ask", todo)]
    return [*found, *_doubts(backend, has)]


def _is_away(finding: Finding) -> bool:
    return finding.what.startswith("backend ") and finding.state == "problem"


def _instead(finding: Finding, served: list[_Served]) -> Finding:
    """What the Hermes that listens does without it."""
    if all(each.simulated for each in served):
        told = f"{finding.told}; the Hermes that listens serves simulated models in its place"
        return Finding(finding.what, "note", told, "to serve real ones: start it, then Hermes anew")
    others = [each.url or "" for each in served]
    if not all(others) or any(f" at {url}: " in finding.told for url in others):
        return finding
    told = f"{finding.told}; the Hermes that listens asks {', '.join(others)} instead"
    return Finding(finding.what, finding.state, told, f"look with its --config and variables; else {finding.todo}")


def _doubts(backend: Backend, has: Inventory) -> Iterator[Finding]:
    what, parts = f"backend {backend.name}", urlsplit(backend.url)
    if backend.kind == "ollama" and not (backend.slots or has.slots):
        told = "how many requests it runs at once for each model is not known, so it gets one at a time"
        yield Finding(what, "warning", told, "say slots, or OLLAMA_NUM_PARALLEL here, as that Ollama has it")
    if memory.is_here(backend.url) and machine.listens_everywhere(_port(backend.url) or 0):
        told = f"it listens on every address at port {_port(backend.url)}: other machines can go past Hermes"
        yield Finding(
            what, "note", told, f"have it listen on 127.0.0.1{_OLLAMA_HOST.get(backend.kind, '')}, or close the port"
        )
    if backend.api_key and parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        yield Finding(what, "warning", f"its api_key is sent to {parts.hostname} unencrypted", "use https")


_OLLAMA_HOST = {"ollama": " (its OLLAMA_HOST)"}


def _what_to_start(backend: Backend) -> str:
    if not memory.is_here(backend.url):
        return "is it running, and does it listen on more than its own 127.0.0.1? Else mend its url"
    if in_container():
        return "start it; if it is not in this container, give the name of its service, or host.docker.internal"
    start = "ollama serve" if backend.kind == "ollama" else "start it"
    return f"{start}, mend its url, or try Hermes without: hermes serve --simulate"


async def _stranger(name: str, port: int, kind: BackendKind) -> list[Finding]:
    """What is not configured: told where it shows that it serves models."""
    url = f"http://127.0.0.1:{port}"
    is_hermes, has = await asyncio.gather(_is_hermes(url), _tried(Backend(name, url, kind)))
    if is_hermes or has is None:
        return []
    if kind != "ollama" and not has.version:  # whatever has taken its place
        name, kind = "an OpenAI-compatible server", "openai"
    told = f"{f'{name} {has.version}'.rstrip()} answers at {url} and is not configured: {_count(has)}"
    todo = f'to have it served: backends: [{{name: {kind}, kind: {kind}, url: "{url}"}}]'
    return [Finding(f"port {port}", "note", told, todo)]


async def _tried(backend: Backend) -> Inventory | None:
    """What it has, if it is what we take it for."""
    try:
        return await _inventory(backend)
    except GatewayError:
        return None


async def _inventory(backend: Backend) -> Inventory:
    """Raises GatewayError, or ConfigError."""
    loop = asyncio.get_running_loop()
    driver = drivers.driver(backend, Deadlines(loop), loop)
    try:
        return await driver.inventory(PATIENCE_S)
    finally:
        driver.pool.close()


def _count(has: Inventory) -> str:
    models = f"{len(has.models)} model{'' if len(has.models) == 1 else 's'}"
    return f"{models}, {len(has.loaded)} loaded" if has.loaded else models


def _port(url: str) -> int | None:
    parts = urlsplit(url)
    return parts.port or {"http": 80, "https": 443}.get(parts.scheme)


# --- memory for models ------------------------------------------------------------------------------------------------


async def _memory(config: Config) -> list[Finding]:
    try:
        async with asyncio.timeout(PATIENCE_S):
            room = await memory.find()
    except TimeoutError:
        return [
            Finding("GPU", "warning", "its driver does not answer: nvidia-smi or rocm-smi hangs", "look into dmesg")
        ]
    told = f"{gib(room.capacity_bytes or 0)} for models, by {room.source}"
    if room.kind == "ram":
        return [Finding("GPU", "note", f"none was found: {told}")]
    if room.kind != "unknown":
        return [Finding("GPU", "ok", told)]
    todo = "install nvidia-smi or rocm-smi here, or say backends[].memory"
    unsaid = any(memory.is_here(each.url) and not each.memory and each.kind == "ollama" for each in config.backends)
    return [Finding("GPU", "warning" if unsaid else "ok", "there is one, and nothing here tells its memory", todo)]
