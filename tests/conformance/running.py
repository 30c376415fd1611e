"""Processes and the wires between them: servers that run for a while, plain HTTP, a wire that breaks in the middle."""

import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_SOURCES = Path(__file__).parents[2] / "src"
_START_S = 60.0


def free_port() -> int:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def running(command: Sequence[str], ready_url: str, folder: Path | None = None, **environ: str) -> Iterator[None]:
    """A server, from when it is ready. Its output is shown where it ends before."""
    environ = {**os.environ, "PYTHONPATH": str(_SOURCES), **environ}
    with subprocess.Popen(
        command, cwd=folder, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            until(lambda: process.poll() is not None or _answers(ready_url), f"{command[0]} does not start", _START_S)
            if process.poll() is not None:
                raise RuntimeError(f"{' '.join(command)} has ended at once")
            yield
        finally:
            process.kill()


def until(holds: Any, otherwise: str, within_s: float = 10.0) -> float:
    """Look again and again until it holds. Returns how long it took; raises TimeoutError."""
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > within_s:
            raise TimeoutError(otherwise)
        time.sleep(0.01)
    return time.monotonic() - began


def _answers(url: str) -> bool:
    with suppress(OSError, RuntimeError):
        ask(url)
        return True
    return False


def ask(
    url: str, body: Any = None, *, method: str = "", headers: Mapping[str, str] | None = None, timeout_s: float = 60.0
) -> Any:
    """What a server answers, JSON or text. Raises RuntimeError if that is an error, TimeoutError if there is none."""
    parts = urlsplit(url)
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    with closing(HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)) as connection:
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        connection.request(method or ("GET" if body is None else "POST"), target, data, dict(headers or {}))
        answer = connection.getresponse()
        text = answer.read().decode()
        if answer.status >= 400:
            raise RuntimeError(f"{url}: {answer.status} {text}")
        return json.loads(text) if text.startswith(("{", "[")) else text


@contextmanager
def breaking_wire(url: Callable[[], str], after_bytes: int = 3000) -> Iterator[str]:
    """The same server, but its answers with tokens are cut off in the middle. `url`: OSError if there is none."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=_accept, args=(listening, url, after_bytes), daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)


def _accept(listening: socket.socket, url: Callable[[], str], after_bytes: int) -> None:
    with suppress(OSError):
        while True:
            client, _ = listening.accept()
            threading.Thread(target=_relay, args=(client, url, after_bytes), daemon=True).start()


def _relay(client: socket.socket, url: Callable[[], str], after_bytes: int) -> None:
    with client, suppress(OSError), _connected(url()) as server:
        armed = threading.Event()
        threading.Thread(target=_up, args=(client, server, armed), daemon=True).start()
        sent = 0
        with suppress(OSError):
            while data := server.recv(65536):
                sent += len(data) if armed.is_set() else 0
                if sent > after_bytes:
                    break
                client.sendall(data)
        for end in (client, server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def _connected(url: str) -> socket.socket:
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname, parts.port))


def _up(client: socket.socket, server: socket.socket, armed: threading.Event) -> None:
    with suppress(OSError):
        while data := client.recv(65536):
            if b"/chat" in data:
                armed.set()
            server.sendall(data)
        server.shutdown(socket.SHUT_WR)
