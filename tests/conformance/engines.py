"""What Hermes has to stand in front of: the simulated Ollama, llama-server by itself or as a router, a real Ollama.

Each has the same four models: one that answers and calls tools, one that thinks, one that embeds, one that never ends.
"""

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile

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
_MAKER = Path(__file__).parents[1] / "engines" / "make_tiny_gguf.py"
_MAKERS_PACKAGES = ("gguf==0.19.0", "numpy==2.4.6")


class Engine:
    """One column of the matrix. `urls` are its servers: each has the models that it is listed with."""

    def __init__(
        self, title: str, kind: str, urls: dict[str, tuple[str, ...]], names: dict[str, str], sees: bool
    ) -> None:
        self.title = title
        self.kind = kind
        self.urls = urls
        self.names = names  # what it calls each of them itself
        self.sees = sees  # images

    @property
    def endless_url(self) -> str:
        return next(url for url, models in self.urls.items() if "endless" in models)

    def version(self) -> str:
        raise NotImplementedError

    def busy(self) -> bool:
        """Whether it is at work on the endless model, as it says itself."""
        raise NotImplementedError


class Simulated(Engine):
    def version(self) -> str:
        return f"As Ollama {ask(f'{self.endless_url}/api/version')['version']}"

    def busy(self) -> bool:
        stats = ask(f"{self.endless_url}/sim/stats")
        return any(model["running"] for model in stats["models"].values())


class LlamaServer(Engine):
    def version(self) -> str:
        return f"llama.cpp {ask(f'{self.endless_url}/props')['build_info']}"

    def busy(self) -> bool:
        router = "?model=endless" if len(self.urls) == 1 else ""
        return any(slot["is_processing"] for slot in ask(f"{self.endless_url}/slots{router}"))


class Ollama(Engine):
    def version(self) -> str:
        return f"Ollama {ask(f'{self.endless_url}/api/version')['version']}"

    def busy(self) -> bool:
        """It does not tell: whether it has no slot for a request of one token. It must have one slot for each model."""
        body = {
            "model": self.names["endless"],
            "prompt": "Hi",
            "raw": True,
            "stream": False,
            "options": {"num_predict": 1},
        }
        try:
            ask(f"{self.endless_url}/api/generate", body, timeout_s=0.5)
        except TimeoutError:
            return True
        return False


@contextmanager
def simulated() -> Iterator[Engine]:
    port = free_port()
    able = {
        "chat": "completion+tools",
        "thinker": "completion+tools+thinking",
        "seer": "completion+vision",
        "embedder": "embedding",
    }
    specs = [f"{name}=1GiB,load=0.1,prefill=100000,decode=1000,slots=4,can={can}" for name, can in able.items()]
    models = [argument for spec in (*specs, "endless=1GiB,load=0.1,decode=20") for argument in ("--model", spec)]
    url = f"http://127.0.0.1:{port}"
    with running([sys.executable, "-m", "hermes", "sim", "--port", str(port), *models], f"{url}/api/version"):
        yield Simulated(
            "simulated Ollama", "ollama", {url: (*MODELS, "seer")}, {name: name for name in (*MODELS, "seer")}, True
        )


@contextmanager
def llama_servers(program: str) -> Iterator[Engine]:
    """One for each model."""
    with ExitStack() as stack:
        urls = {}
        for model, gguf in ggufs().items():
            more = ("--embeddings",) if model == "embedder" else ()
            url = stack.enter_context(_llama_server(program, "-m", str(gguf), "--alias", model, *more))
            urls[url] = (model,)
        yield LlamaServer("llama-server", "llamacpp", urls, {name: name for name in MODELS}, False)


@contextmanager
def llama_router(program: str) -> Iterator[Engine]:
    """One for all of them."""
    with NamedTemporaryFile("w", suffix=".ini") as presets:
        sections = [f"[{model}]\nmodel = {gguf}\n" for model, gguf in ggufs().items()]
        presets.write("".join(sections).replace("[embedder]\n", "[embedder]\nembeddings = true\n"))
        presets.flush()
        with _llama_server(program, "--models-preset", presets.name) as url:
            yield LlamaServer("llama-server, router", "llamacpp", {url: MODELS}, {name: name for name in MODELS}, False)


@contextmanager
def _llama_server(program: str, *arguments: str) -> Iterator[str]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    context = ("-np", "2", "-c", "8192") if "--models-preset" not in arguments else ("-np", "1", "-c", "4096")
    command = [program, *arguments, "--host", "127.0.0.1", "--port", str(port), "--jinja", *context]
    with running(command, f"{url}/health"):
        yield url


@contextmanager
def real_ollama(url: str) -> Iterator[Engine]:
    """It is given the models, by names of their own, and they are taken away again."""
    names = {model: f"hermes-conformance-{model}" for model in MODELS}
    try:
        for model, gguf in ggufs().items():
            content = gguf.read_bytes()
            digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
            ask(f"{url}/api/blobs/{digest}", content)
            ask(f"{url}/api/create", {"model": names[model], "files": {gguf.name: digest}, "stream": False})
        yield Ollama("Ollama", "ollama", {url: MODELS}, names, False)
    finally:
        for name in names.values():
            ask(f"{url}/api/delete", {"model": name}, method="DELETE")


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
