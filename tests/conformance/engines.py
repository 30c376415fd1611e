"""What Hermes has to stand in front of: the simulated Ollama, llama-server by itself, as a router or started by Hermes,
a real Ollama.

Each has the same four models: one that answers and calls tools, one that thinks, one that embeds, one that never ends.
"""

import hashlib
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from tests.conformance import environments
from tests.conformance.running import ask, free_port, running

# What make_tiny_gguf.py is told, for each of them.
GGUFS = {
    "chat": (),
    "thinker": ("--thinking",),
    "embedder": ("--embedding",),
    "endless": ("--endless", "--layers", "8", "--embd", "384", "--heads", "6", "--ff", "1024"),
}
MODELS = tuple(GGUFS)
# Enough for the first prompt of an agent.
CONTEXT = 32768
# Several wait for each other at every step: where the cores are busy that takes longer than the step.
_THREADS = ("-t", "1")
ONE_THREAD = {"num_thread": 1}
_MAKER = Path(__file__).parents[1] / "engines" / "make_tiny_gguf.py"
_MAKERS_PACKAGES = ("gguf==0.19.0", "numpy==2.4.6")


@dataclass(frozen=True, slots=True)
class Server:
    """How Hermes is told of it (by URL or command), and what it has: our name for a model to its own."""

    told: dict[str, Any]
    names: dict[str, str]


@dataclass(frozen=True, slots=True)
class Engine:
    """One column of the matrix."""

    title: str
    kind: str
    version: str
    servers: list[Server]
    # Whether the server of the endless model, whose URL it is given, is at work on it, as it says itself.
    busy: Callable[[str], bool]

    @property
    def models(self) -> set[str]:
        return {model for server in self.servers for model in server.names}


@contextmanager
def simulated() -> Iterator[Engine]:
    able = {
        "chat": "completion+tools",
        "thinker": "completion+tools+thinking",
        "seer": "completion+vision",
        "embedder": "embedding",
    }
    specs = [f"{name}=1GiB,load=0.1,prefill=100000,decode=1000,slots=4,can={can}" for name, can in able.items()]
    models = [argument for spec in (*specs, "endless=1GiB,load=0.1,decode=20") for argument in ("--model", spec)]
    port = free_port()
    url = f"http://127.0.0.1:{port}"

    def busy(_: str) -> bool:
        return any(model["running"] for model in ask(f"{url}/sim/stats")["models"].values())

    with running([sys.executable, "-m", "hermes", "sim", "--port", str(port), *models], f"{url}/api/version"):
        version = f"As Ollama {ask(f'{url}/api/version')['version']}"
        yield Engine("simulated Ollama", "ollama", version, [Server({"url": url}, _own((*MODELS, "seer")))], busy)


@contextmanager
def llama_servers(program: str) -> Iterator[Engine]:
    """One for each model, with two slots."""
    with ExitStack() as stack:
        urls = {model: stack.enter_context(_llama_server(program, *_alone(model))) for model in MODELS}
        servers = [Server({"url": url}, _own([model])) for model, url in urls.items()]
        yield _llama("llama-server", program, servers)


@contextmanager
def llama_processes(program: str) -> Iterator[Engine]:
    """The same, started by Hermes: each for the first who asks, but for the endless one, behind which is a wire."""
    servers = []
    for model in MODELS:
        command = shlex.join([program, *_alone(model), "--host", "127.0.0.1", "--jinja"]) + " --port ${PORT}"
        more = {"memory": "8GiB", "preload": True} if model == "endless" else {}
        servers.append(Server({"name": "managed", "command": command, **more}, _own([model])))
    yield _llama("llama-server, started by Hermes", program, servers)


def _alone(model: str) -> list[str]:
    """What a llama-server is told that has one model."""
    more = ["--embeddings"] if model == "embedder" else []
    return ["-m", str(ggufs()[model]), "--alias", model, "-np", "2", "-c", str(2 * CONTEXT), *_THREADS, *more]


@contextmanager
def llama_router(program: str) -> Iterator[Engine]:
    """One for all of them."""
    with NamedTemporaryFile("w", suffix=".ini") as presets:
        sections = "".join(f"[{model}]\nmodel = {gguf}\n" for model, gguf in ggufs().items())
        presets.write(sections.replace("[embedder]\n", "[embedder]\nembeddings = true\n"))
        presets.flush()
        with _llama_server(program, "--models-preset", presets.name, "-np", "1", "-c", str(CONTEXT), *_THREADS) as url:
            yield _llama("llama-server, router", program, [Server({"url": url}, _own(MODELS))], "?model=endless")


@contextmanager
def _llama_server(program: str, *arguments: str) -> Iterator[str]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with running([program, *arguments, "--host", "127.0.0.1", "--port", str(port), "--jinja"], f"{url}/health"):
        yield url


def _llama(title: str, program: str, servers: list[Server], which: str = "") -> Engine:
    def busy(url: str) -> bool:
        return any(slot["is_processing"] for slot in ask(f"{url}/slots{which}"))

    told = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    version = re.search(r"^version: (.*)$", told.stdout + told.stderr, re.MULTILINE)
    return Engine(title, "llamacpp", f"llama.cpp {version[1] if version else ''}", servers, busy)


@contextmanager
def real_ollama(url: str) -> Iterator[Engine]:
    """It is given the models, by names of their own, and they are taken away again."""
    names = {model: f"hermes-conformance-{model}" for model in MODELS}
    options = {"num_predict": 1, **ONE_THREAD}
    one_token = {"model": names["endless"], "prompt": "Hi", "raw": True, "stream": False, "options": options}

    def busy(url: str) -> bool:
        """It does not tell: whether it has no slot for a request of one token. It must have one slot for each model."""
        try:
            ask(f"{url}/api/generate", one_token, timeout_s=0.5)
        except TimeoutError:
            return True
        return False

    with ExitStack() as stack:
        for model, gguf in ggufs().items():
            content = gguf.read_bytes()
            digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
            with suppress(ConnectionError):  # it does not read what it has already
                ask(f"{url}/api/blobs/{digest}", content)
            ask(f"{url}/api/create", {"model": names[model], "files": {gguf.name: digest}, "stream": False})
            stack.callback(ask, f"{url}/api/delete", {"model": names[model]}, method="DELETE")
        yield Engine(
            "Ollama", "ollama", f"Ollama {ask(f'{url}/api/version')['version']}", [Server({"url": url}, names)], busy
        )


def _own(models: Iterable[str]) -> dict[str, str]:
    """Of a server that calls them as we do."""
    return {model: model for model in models}


def ggufs() -> dict[str, Path]:
    """The models, made once."""
    pinned = hashlib.sha256(_MAKER.read_bytes() + repr(GGUFS).encode()).hexdigest()[:12]
    folder = environments.models() / pinned
    folder.mkdir(parents=True, exist_ok=True)
    for model, arguments in GGUFS.items():
        if not (folder / f"{model}.gguf").exists():
            python = environments.python(_MAKERS_PACKAGES) / "bin" / "python"
            made = folder / f"{model}.part"
            subprocess.run([str(python), str(_MAKER), str(made), *arguments], check=True)
            made.rename(folder / f"{model}.gguf")
    return {model: folder / f"{model}.gguf" for model in GGUFS}
