"""Two gateways that are often used for the same job, installed outside this repository."""

import json
import subprocess

from interpreter import CACHE, best
from programs import Subject, Workshop, free_port

# As installed, Portkey 1.15 answers every streamed request with 500 on Node 20: it adds headers to those of fetch's
# answer, which are immutable once @hono/node-server has replaced the global Response. A copy of them may be changed.
MUTABLE_HEADERS = (
    "const plain = fetch, Plain = Response;"
    "globalThis.fetch = async (...all) => { const answer = await plain(...all); return new Plain(answer.body, answer) }"
)


def litellm(workshop: Workshop) -> Subject:
    """Does the same translation: OpenAI in, Ollama's /api/chat out."""
    programs = best().environment("litellm", "litellm[proxy]")
    ask = "from importlib.metadata import version; print(version('litellm'))"
    version = subprocess.run([str(programs / "python"), "-c", ask], capture_output=True, text=True, check=True)
    port = free_port()
    backend = {"model": "ollama_chat/bench", "api_base": f"http://127.0.0.1:{workshop.mock_port}"}
    config = {"model_list": [{"model_name": "bench", "litellm_params": backend}]}
    written = workshop.write("litellm.yaml", json.dumps(config))
    return Subject(
        "litellm",
        f"LiteLLM {version.stdout.strip()}",
        (str(programs / "litellm"), "--config", written, "--host", "127.0.0.1", "--port", str(port)),
        port,
        health="/health/liveliness",
        ready="/health/readiness",
        environment={
            "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",  # Hermes checks no key either
            "REPEATED_STREAMING_CHUNK_LIMIT": "1000000",  # the backend says the same token all the time
        },
    )


def portkey(workshop: Workshop) -> Subject:
    """Has less to do: its `ollama` provider asks Ollama's own OpenAI endpoint."""
    home = CACHE / "portkey"
    package = home / "node_modules" / "@portkey-ai" / "gateway"
    if not package.exists():
        print(f"installing @portkey-ai/gateway in {home} ...", flush=True)
        home.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "install", "--silent", "--prefix", str(home), "@portkey-ai/gateway"], check=True)
    version = json.loads((package / "package.json").read_text())["version"]
    port = free_port()
    program = (str(package / "build" / "start-server.js"), f"--port={port}", "--headless")
    return Subject(
        "portkey",
        f"Portkey {version}",
        ("node", "--import", f"data:text/javascript,{MUTABLE_HEADERS}", *program),
        port,
        health="/",
        ready="/",
        headers=("x-portkey-provider: ollama", f"x-portkey-custom-host: http://127.0.0.1:{workshop.mock_port}"),
    )
