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

from tests.conformance.engines import Engine
from tests.conformance.running import ask, breaking_wire, free_port, running, until

KEY = "sk-conformance"
_AUTHORIZED = {"authorization": f"Bearer {KEY}"}
# Models for one kind of error each: `narrow` lets one run and one wait, `away` has nobody, what `broken` says is cut.
NARROW, AWAY, BROKEN = "narrow", "away", "broken"
STORY = "[[tokens:4000]] Tell me a story."


class Gateway:
    """A running Hermes."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._held = 0

    def asked(self) -> int:
        """How many chats it has been asked for, once they are over, without those that `full` holds."""
        until(lambda: sum(self._metric("hermes_requests_in_flight")) == self._held + 1, "requests do not end")
        return int(sum(self._metric(r'hermes_requests_total\{.*route="/(v1/chat/completions|v1/messages|api/chat)"\}')))

    def _metric(self, series: str) -> list[float]:
        found = re.finditer(rf"^{series} (?P<value>\S+)$", self.ask("/metrics"), re.MULTILINE)
        return [float(each["value"]) for each in found]

    def ask(self, path: str) -> Any:
        return ask(f"{self.url}{path}", headers=_AUTHORIZED)

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
    with tempfile.TemporaryDirectory() as folder, breaking_wire(engine.endless_url) as broken:
        (Path(folder) / "hermes.yaml").write_text(json.dumps(_config(engine, port, broken)))
        keys = json.dumps({KEY: {"user": "conformance", "admin": True}})
        url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "hermes", "serve"]
        with running(command, f"{url}/readyz", Path(folder), API_KEYS_JSON=keys):
            made = Gateway(url)
            until(lambda: _has(made, engine.models | {NARROW, BROKEN}), "Hermes does not find all models", 30.0)
            yield made


def _has(gateway: Gateway, names: set[str]) -> bool:
    return names <= {model["id"] for model in gateway.ask("/v1/models")["data"]}


def _config(engine: Engine, port: int, broken: str) -> dict[str, Any]:
    urls = {f"engine{number}": url for number, url in enumerate(engine.servers)}
    urls |= {"broken": broken, "away": f"http://127.0.0.1:{free_port()}"}
    served: dict[str, dict[str, Any]] = {
        model: {"backend_model": name, "backends": [backend], "params": {"temperature": 0}}
        for backend, names in zip(urls, engine.servers.values(), strict=False)
        for model, name in names.items()
    }
    endless = served["endless"]
    served |= {
        NARROW: {**endless, "queue_limit": 1, "max_concurrency": 1},
        BROKEN: {**endless, "backends": ["broken"]},
        AWAY: {**endless, "backends": ["away"]},
    }
    return {
        "server": {"port": port, "state_dir": "off"},
        "backends": [{"name": name, "kind": engine.kind, "url": url} for name, url in urls.items()],
        "models": served,
        "serve_unlisted": False,
        "logging": {"access_log": "off"},
    }
