"""What the browser looks at: Hermes in front of simulated servers, one of which fails, and clients that never rest."""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

SRC = Path(__file__).parents[2] / "src"

# Three models on a server that holds two of them; another one that fails; a third that is not there.
MODELS = ("gemma=8GiB,load=3,prefill=1500,decode=45,slots=2", "qwen3=6GiB,load=2,prefill=2500,decode=60,slots=2")
SWAPPED = ("mistral=7GiB,load=2.5,prefill=2000,decode=55,slots=2",)
START_S = 30.0
FAULTS = ("error-line;after=2=0.3", "busy=0.2", "reset=0.1")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Stage:
    """Hermes, and those who ask it."""

    def __init__(self, port: int, config: Path) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._config = config
        self._running = contextlib.ExitStack()
        self.key = ""
        self._over = threading.Event()
        self._clients: list[threading.Thread] = []

    def start(self) -> None:
        folder = self._config.parent
        self._running.enter_context(program("serve", "--config", str(self._config), log=folder / "hermes.log"))
        _await(lambda: self.ask("/readyz") == {"status": "ok", "ready": True}, folder)

    def stop(self) -> None:
        self._running.close()

    def ask(self, path: str, body: Any = None, method: str = "", **headers: str) -> Any:
        """A request, whole; what is answered, or an error's status."""
        if self.key:
            headers["authorization"] = f"Bearer {self.key}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method or None)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            return error.code

    def load(self, models: Mapping[str, float], clients: int, seed: int = 7) -> None:
        """So many clients ask one after the other, for these models in these shares, until all is over."""
        for number in range(clients):
            chance = random.Random(seed + number)
            thread = threading.Thread(target=self._ask_on, args=(models, chance), daemon=True)
            thread.start()
            self._clients.append(thread)

    def _ask_on(self, models: Mapping[str, float], chance: random.Random) -> None:
        while not self._over.is_set():
            (model,) = chance.choices(list(models), list(models.values()))
            text = f"[[tokens:{chance.randint(20, 260)}]] Explain relativity. " + "word " * chance.randint(0, 400)
            urgency = chance.choices(("interactive", "normal", "batch"), (2, 5, 2))[0]
            body = {"model": model, "messages": [{"role": "user", "content": text}]}
            stream = chance.random() < 0.8
            with contextlib.suppress(OSError, ValueError):
                if stream:
                    self._stream({**body, "stream": True}, urgency)
                else:
                    self.ask("/v1/chat/completions", body, **{"x-hermes-class": urgency})
            self._over.wait(chance.expovariate(2.0))

    def _stream(self, body: Any, urgency: str) -> None:
        headers = {"x-hermes-class": urgency} | ({"authorization": f"Bearer {self.key}"} if self.key else {})
        request = urllib.request.Request(f"{self.url}/v1/chat/completions", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            for _ in answer:
                if self._over.is_set():
                    return

    def rest(self) -> None:
        self._over.set()
        for thread in self._clients:
            thread.join(10)
        self._clients.clear()
        self._over.clear()


@contextlib.contextmanager
def program(*arguments: str, log: Path) -> Iterator[None]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("HERMES_")}
    environ = {**ours, "PYTHONPATH": str(SRC)}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "hermes", *arguments], env=environ, stdout=out, stderr=subprocess.STDOUT
        )
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def stage(folder: Path, **sections: Any) -> Iterator[Stage]:
    """Hermes and its servers, each a process of its own."""
    well, ill, port = free_port(), free_port(), free_port()
    models = [part for model in (*MODELS, *SWAPPED) for part in ("--model", model)]
    faults = [part for fault in FAULTS for part in ("--fault", fault)]
    config = {
        "server": {"port": port, "state_dir": str(folder / "state")},
        "backends": [
            {"name": "gpu0", "url": f"http://127.0.0.1:{well}", "memory": "20GiB", "slots": 2},
            {"name": "gpu1", "url": f"http://127.0.0.1:{ill}", "memory": "8GiB", "slots": 2},
            {"name": "gpu2", "url": f"http://127.0.0.1:{free_port()}"},
        ],
        **sections,
    }
    file = folder / "hermes.json"
    file.write_text(json.dumps(config))
    with contextlib.ExitStack() as stack:
        run = stack.enter_context
        run(program("sim", "--port", str(well), "--memory", "20GiB", *models, log=folder / "gpu0.log"))
        llama = "llama3.2=4GiB,load=1,decode=80,slots=2"
        run(program("sim", "--port", str(ill), "--memory", "8GiB", "--model", llama, *faults, log=folder / "gpu1.log"))
        found = Stage(port, file)
        try:
            found.start()
            yield found
        finally:
            found.rest()
            found.stop()


def _await(condition: Any, folder: Path) -> None:
    until = time.monotonic() + START_S
    while True:
        with contextlib.suppress(OSError):
            if condition():
                return
        assert time.monotonic() < until, [log.read_text() for log in folder.glob("*.log")]
        time.sleep(0.05)
