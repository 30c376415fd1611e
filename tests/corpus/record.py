"""Records what real servers answer, and what we make of it: `make corpus` (docs/development.md).

A llama-server is started for each model, if LLAMA_SERVER names one; an Ollama that runs already is asked at OLLAMA_URL.
Without both, what was recorded is read anew.
Read the difference before it is committed: what stands in the `.json` files is what `test_corpus` holds us to.
"""

import asyncio
import json
import os
import urllib.error
import urllib.request
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec

from hermes.chat import ChatRequest, EmbedRequest, Failure, StreamEvent
from hermes.errors import GatewayError
from tests.corpus.questions import SERVERS, asked
from tests.real.llamacpp.engine import engine

HERE = Path(__file__).parent
# An answer's id, for the ids of calls that came without one.
ANSWER_ID = "a1"


def told(server: str, request: ChatRequest | EmbedRequest, status: int, body: bytes) -> Any:
    """What we make of it, as JSON."""
    dialect = SERVERS[server]
    if status != 200:
        return error(dialect.error(status, body))
    if isinstance(request, EmbedRequest):
        return plain(dialect.embeddings(body, request))
    if request.stream:
        decoder = dialect.decoder(request, ANSWER_ID)
        return [event(each) for each in decoder.feed(body) + decoder.finish()]
    answer = dialect.whole(body, request, ANSWER_ID)
    assert answer is not None and not isinstance(answer, Failure)
    return plain(answer)


def plain(value: object) -> dict[str, Any]:
    return dict(json.loads(msgspec.json.encode(value)))


def event(event: StreamEvent) -> dict[str, Any]:
    return {"event": type(event).__name__, **plain(event)}


def error(error: GatewayError) -> dict[str, Any]:
    return {"error": type(error).__name__, "status": error.status, "code": error.code, "message": error.message}


def record(server: str, urls: dict[str, str]) -> None:
    """`urls`: by model; "" is where all others are."""
    (HERE / server).mkdir(exist_ok=True)
    for name, request in asked(server).items():
        dialect = SERVERS[server]
        if isinstance(request, EmbedRequest):
            path, body = dialect.render_embed(request, request.model)
        else:
            path, body = dialect.render_request(request, request.model)
        status, answer = ask(urls.get(request.model, urls.get("", "")) + path, body)
        (HERE / server / f"{name}.txt").write_bytes(b"%d\n" % status + answer)


def recorded(server: str, name: str) -> tuple[int, bytes]:
    """The status and the body."""
    status, _, body = (HERE / server / f"{name}.txt").read_bytes().partition(b"\n")
    return int(status), body


def read(server: str) -> None:
    """Write down what we make of it."""
    for name, request in asked(server).items():
        golden = json.dumps(told(server, request, *recorded(server, name)), indent=1, ensure_ascii=False)
        (HERE / server / f"{name}.json").write_text(golden + "\n")


def ask(url: str, body: bytes) -> tuple[int, bytes]:
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read()


async def main() -> None:
    if os.environ.get("LLAMA_SERVER"):
        async with AsyncExitStack() as stack:
            urls = {}
            for model, variable in (("tiny", "GGUF"), ("thinker", "THINKER_GGUF"), ("embedder", "EMBEDDER_GGUF")):
                given = ["-m", os.environ[variable], "--alias", model, "-c", "2048"]  # for two slots
                more = ["--embeddings"] if model == "embedder" else []
                urls[model] = (await stack.enter_async_context(engine(*given, *more))).url
            await asyncio.to_thread(record, "llamacpp", urls)
    if url := os.environ.get("OLLAMA_URL"):
        await asyncio.to_thread(record, "ollama", {"": url})
    for server in SERVERS:
        read(server)


if __name__ == "__main__":
    asyncio.run(main())
