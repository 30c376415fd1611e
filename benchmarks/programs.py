"""What is started: the mock and the load generator, compiled on the spot, and the programs that are measured."""

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import machine
from interpreter import LOCK, best

SOURCE = Path(__file__).parent
# More than the streams and waiting requests that are held open at once.
MANY = 8192
# The queue of the model that is flooded.
CROWD = 1000

KEY = "sk-bench"
LIMITS = ("rpm", "tpm", "concurrency", "daily_tokens", "monthly_tokens")

# What may change how a measured program behaves stays outside.
ENVIRONMENT = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}


@dataclass(frozen=True)
class Subject:
    """A program to measure: how it is started, and how it is asked."""

    name: str
    version: str
    command: tuple[str, ...]
    port: int
    health: str  # answers 200 as soon as the program listens
    ready: str  # answers 200 as soon as it can serve
    path: str = "/v1/chat/completions"
    headers: tuple[str, ...] = ()
    whole_end: str = '"finish_reason":"stop"'
    stream_end: str = "[DONE]"
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Running:
    subject: Subject
    process: "subprocess.Popen[bytes]"
    health_ms: float  # from exec to the first answer
    ready_ms: float  # from exec to being able to serve

    @property
    def pids(self) -> list[int]:
        return machine.family(self.process.pid)


@dataclass(frozen=True)
class Workshop:
    """A temporary directory with the two compiled helpers, and the mock's port."""

    directory: Path
    mock_port: int

    @classmethod
    def set_up(cls, directory: Path) -> "Workshop":
        if shutil.which("gcc") is None:
            raise SystemExit("gcc is not installed: the mock and the load generator are compiled by the run")
        for name in ("mock", "load"):
            source, target = SOURCE / f"{name}.c", directory / name
            subprocess.run(["gcc", "-O2", "-Wall", "-o", str(target), str(source)], check=True)
        return cls(directory, free_port())

    def path(self, name: str) -> str:
        return str(self.directory / name)

    def write(self, name: str, text: str) -> str:
        (self.directory / name).write_text(text)
        return self.path(name)

    @contextlib.contextmanager
    def mock(self) -> Iterator[int]:
        """The mock, running. Yields its pid."""
        command = [self.path("mock"), str(self.mock_port)]
        with subprocess.Popen(command, preexec_fn=lambda: machine.pin(machine.HELPERS_CORE)) as process:
            try:
                wait_for(process, self.mock_port, "/api/version", time.perf_counter(), timeout_s=5)
                yield process.pid
            finally:
                process.kill()

    def pace(self, *, chunks: int = 20, interval_ms: float = 50, hold: bool = False) -> None:
        """What the mock does from the next request on."""
        query = f"/set?chunks={chunks}&interval_us={interval_ms * 1000:.0f}&hold={int(hold)}"
        if get(self.mock_port, query) != 200:
            raise RuntimeError("the mock does not listen to us")

    @contextlib.contextmanager
    def running(self, subject: Subject, timeout_s: float = 120) -> Iterator[Running]:
        """The program, alone on its core, from its first answer on."""
        started = time.perf_counter()
        with (
            Path(self.path(f"{subject.name}.log")).open("ab") as log,
            subprocess.Popen(
                subject.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env=ENVIRONMENT | subject.environment,
                preexec_fn=lambda: machine.pin(machine.MEASURED_CORE),
            ) as process,
        ):
            try:
                health_ms = wait_for(process, subject.port, subject.health, started, timeout_s)
                ready_ms = wait_for(process, subject.port, subject.ready, started, timeout_s)
                yield Running(subject, process, health_ms, ready_ms)
            finally:
                process.kill()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def get(port: int, path: str) -> int:
    """The status of a GET; 0 where nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


def wait_for(process: "subprocess.Popen[bytes]", port: int, path: str, started: float, timeout_s: float) -> float:
    """Milliseconds from `started` until `path` is answered with 200."""
    while get(port, path) != 200:
        if process.poll() is not None or time.perf_counter() > started + timeout_s:
            raise RuntimeError(f"{process.args!r} does not answer {path}; its exit status is {process.poll()}")
        time.sleep(0.001)
    return (time.perf_counter() - started) * 1000


# --- the programs -----------------------------------------------------------------------------------------------------


def hermes(workshop: Workshop, metered: bool = False) -> Subject:
    """`metered`: with a key that has one of each limit, none of which is ever reached, and a ledger on the disk."""
    port = free_port()
    unbounded = {"backend_model": "bench:latest", "queue_limit": MANY, "timeout_s": "24h"}
    backend = {"name": "mock", "kind": "ollama", "url": f"http://127.0.0.1:{workshop.mock_port}", "slots": MANY}
    config: dict[str, Any] = {
        "server": {"host": "127.0.0.1", "port": port, "state_dir": "off"},
        "backends": [backend],
        "models": {
            "bench": unbounded | {"max_concurrency": MANY},
            "cached": unbounded | {"max_concurrency": MANY, "cache": True},
            "single": unbounded | {"max_concurrency": 1},
            "crowded": unbounded | {"max_concurrency": 1, "queue_limit": CROWD},
        },
        "scheduling": {"normal": {"max_wait_s": 0}},
        "limits": {"queue_total": MANY, "per_tenant_queue": MANY},
        "logging": {"access_log": workshop.path("hermes.access.log")},
    }
    if metered:
        config["keys"] = [{"user": "bench", "sha256": sha256(KEY.encode()).hexdigest(), **dict.fromkeys(LIMITS, 10**9)}]
        config["server"]["state_dir"] = workshop.path("state")
    written = workshop.write(f"hermes{'-metered' * metered}.yaml", json.dumps(config))  # JSON is YAML
    interpreter = best()
    python = (str(interpreter.environment("hermes", "--require-hashes", "-r", str(LOCK)) / "python"), "-m", "hermes")
    here = {"PYTHONPATH": str(SOURCE.parent / "src")}
    return Subject(
        "hermes",
        f"{machine.version_of(*python, 'version', environment=ENVIRONMENT | here)} on {interpreter.name}",
        (*python, "serve", "--config", written),
        port,
        health="/health",
        ready="/readyz",
        headers=(f"Authorization: Bearer {KEY}",) if metered else (),
        environment=here,
    )


def nginx(workshop: Workshop) -> Subject:
    """Passes on the same requests to the same backend: what it costs to move these bytes and nothing else."""
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if program is None:
        raise SystemExit("nginx is not installed (Debian: apt install nginx-light)")
    port = free_port()
    config = NGINX.format(directory=workshop.directory, port=port, mock_port=workshop.mock_port, many=MANY)
    return Subject(
        "nginx",
        machine.version_of(program, "-v"),
        (program, "-c", workshop.write("nginx.conf", config), "-e", workshop.path("nginx.error.log")),
        port,
        health="/health",
        ready="/health",
        whole_end='"done":true',
        stream_end='"done":true',
    )


NGINX = """
daemon off; master_process off; worker_processes 1; pid {directory}/nginx.pid;
worker_rlimit_nofile 65536;
events {{ worker_connections {many}; }}
http {{
  access_log {directory}/nginx.access.log combined;
  client_body_temp_path {directory}/nginx.body; proxy_temp_path {directory}/nginx.proxy;
  fastcgi_temp_path {directory}/nginx.f; uwsgi_temp_path {directory}/nginx.u; scgi_temp_path {directory}/nginx.s;
  keepalive_requests 100000000;
  upstream backend {{ server 127.0.0.1:{mock_port}; keepalive {many}; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location = /health {{ return 200; }}
    location = /v1/chat/completions {{
      proxy_pass http://backend/api/chat;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
      proxy_read_timeout 300s;
    }}
  }}
}}
"""


def directly(workshop: Workshop) -> Subject:
    """The mock itself: nothing in between."""
    done = '"done":true'
    return Subject("direct", "", (), workshop.mock_port, "/", "/", path="/api/chat", whole_end=done, stream_end=done)
