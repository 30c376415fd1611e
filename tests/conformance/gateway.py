"""Hermes in front of one engine, set up so that every kind of error can be had."""

import json
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from tests.conformance.engines import CONTEXT, ONE_THREAD, Engine
from tests.conformance.running import ask, breaking_wire, free_port, running, until

KEY = "sk-conformance"
_AUTHORIZED = {"authorization": f"Bearer {KEY}"}
# Models for one kind of error each: `narrow` lets one run and one wait, `away` has nobody, what `broken` says is cut.
NARROW, AWAY, BROKEN = "narrow", "away", "broken"
STORY = "[[tokens:4000]] Tell me a story."


class Gateway:
    """A running Hermes."""

    def __init__(self, url: str, engine: Engine) -> None:
        self.url = url
        self._engine = engine
        self._held = 0

    def endless_url(self) -> str:
        """Of the server that has the endless model, where Hermes has started it as well. OSError: there is none."""
        told = next(server.told for server in self._engine.servers if "endless" in server.names)
        if "url" in told:
            return str(told["url"])
        processes = (each for backend in self.ask("/v1/status")["backends"] for each in backend.get("processes", ()))
        for process in processes:
            if process["model"] == "endless" and process["state"] == "running":
                return f"http://127.0.0.1:{process['port']}"
        raise ConnectionError("it does not run")

    def busy(self) -> bool:
        """Whether the engine is at work on the endless model."""
        return self._engine.busy(self.endless_url())

    def asked(self) -> int:
        """How many chats it has been asked for, once they are over, without those that `full` holds."""
        until(lambda: sum(self._metric("hermes_requests_in_flight")) == self._held + 1, "requests do not end")
        return int(
            sum(
                self._metric(
                    r'hermes_requests_total\{.*route="/(v1/chat/completions|v1/responses|v1/messages|api/chat)"\}'
                )
            )
        )

    def _metric(self, series: str) -> list[float]:
        found = re.finditer(rf"^{series} (?P<value>\S+)$", self.ask("/metrics"), re.MULTILINE)
        return [float(each["value"]) for each in found]

    def ask(self, path: str, method: str = "GET") -> Any:
        return ask(f"{self.url}{path}", method=method, headers=_AUTHORIZED)

    @contextmanager
    def drained(self, backend: str) -> Iterator[None]:
        self.ask(f"/v1/backends/{backend}/drain", "POST")
        yield
        self.ask(f"/v1/backends/{backend}/resume", "POST")

    @contextmanager
    def full(self) -> Iterator[None]:
        """While others have all of `narrow`: one runs, one waits."""
        host, story = self.url.removeprefix("http://"), json.dumps({"prompt": STORY, "stream": True})
        with ExitStack() as stack:
            stack.callback(setattr, self, "_held", 0)
            for state in ("running", "waiting"):
                connection = stack.enter_context(closing(HTTPConnection(host)))
                connection.request("POST", f"/v1/llm/{NARROW}", story, _AUTHORIZED)
                until(lambda state=state: self.ask("/v1/queue")[state], f"nothing is {state}")
                self._held += 1
            yield
        until(lambda: not self.ask("/v1/queue")["data"], "the held streams do not end")


@contextmanager
def gateway(engine: Engine) -> Iterator[Gateway]:
    port = free_port()
    made = Gateway(f"http://127.0.0.1:{port}", engine)
    with tempfile.TemporaryDirectory() as folder, breaking_wire(made.endless_url) as broken:
        (Path(folder) / "hermes.yaml").write_text(json.dumps(_config(engine, port, broken)))
        keys = json.dumps({KEY: {"user": "conformance", "admin": True}})
        command = [sys.executable, "-m", "hermes", "serve"]
        with running(command, f"{made.url}/readyz", Path(folder), API_KEYS_JSON=keys):
            until(lambda: _has(made, engine.models | {NARROW, BROKEN}), "Hermes does not find all models", 30.0)
            yield made


def _has(gateway: Gateway, names: set[str]) -> bool:
    return names <= {model["id"] for model in gateway.ask("/v1/models")["data"]}


def _config(engine: Engine, port: int, broken: str) -> dict[str, Any]:
    backends = [{"name": f"engine{number}", **server.told} for number, server in enumerate(engine.servers)]
    served: dict[str, dict[str, Any]] = {
        model: {"backend_model": name, "backends": [backend["name"]], "params": {"temperature": 0}}
        for backend, server in zip(backends, engine.servers, strict=True)
        for model, name in server.names.items()
    }
    backends += [{"name": "broken", "url": broken}, {"name": "away", "url": f"http://127.0.0.1:{free_port()}"}]
    if engine.kind == "ollama":
        served["chat"]["options"] = {"num_ctx": CONTEXT}
        served["endless"]["options"] = ONE_THREAD
    endless = served["endless"]
    served |= {
        NARROW: {**endless, "queue_limit": 1, "max_concurrency": 1},
        BROKEN: {**endless, "backends": ["broken"]},
        AWAY: {**endless, "backends": ["away"]},
    }
    return {
        "server": {"port": port, "state_dir": "off"},
        "backends": [{"kind": engine.kind, **backend} for backend in backends],
        "models": served,
        "serve_unlisted": False,
        # What `broken` says is cut each time: nobody is to wait until it is thought to be well again.
        "health": {"pause_s": 0.01},
        "logging": {"access_log": "off"},
    }
