"""Writes down what TGI answers by its source, and what we make of it: `python -m tests.corpus.specify`.

Nobody recorded these: they are what the imitation (`tests/fakes/tgi`) says, which TGI's own clients read. Read the
difference before it is committed: what stands in the `.json` files is what `test_tgi_corpus` holds us to.
"""

import asyncio
import json
import urllib.error
import urllib.request
from pathlib import Path

from hermes.chat import ChatRequest, JsonFormat, Message, MustCall, Sampling, Tool
from hermes.dialects.tgi import TgiBackend
from tests.corpus.record import error, event
from tests.fakes.backend import Asked, Script, listening, play
from tests.fakes.tgi import AskedTgi, FakeTgi, failed

HERE = Path(__file__).parent / "specified" / "tgi"
DIALECT = TgiBackend()

USER = (Message("user", "How are you?"),)
PLACE = {"type": "object", "properties": {"city": {"type": "string", "enum": ["Oslo"]}}, "required": ["city"]}
LOOK = (Tool("look", "Look", PLACE),)
SCHEMA = JsonFormat({"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]})

REQUESTS = {
    "text": ChatRequest("tgi", USER, stream=True),
    "cut-short": ChatRequest("tgi", USER, stream=True, sampling=Sampling(max_tokens=3)),
    "stopped-by-text": ChatRequest("tgi", USER, stream=True, sampling=Sampling(stop=("ere, you",))),
    "not-stopped-by-text": ChatRequest("tgi", USER, stream=True, sampling=Sampling(stop=("ere, y",))),
    "call": ChatRequest("tgi", USER, stream=True, tools=LOOK),
    "call-cut-short": ChatRequest("tgi", USER, stream=True, tools=LOOK, sampling=Sampling(max_tokens=20)),
    "call-cut-in-its-name": ChatRequest("tgi", USER, stream=True, tools=LOOK, sampling=Sampling(max_tokens=4)),
    "call-demanded": ChatRequest("tgi", USER, stream=True, tools=LOOK, tool_choice=MustCall("look")),
    "schema": ChatRequest("tgi", USER, stream=True, json_format=SCHEMA),
    "schema-and-tools": ChatRequest("tgi", USER, stream=True, json_format=SCHEMA, tools=LOOK),
    "logprobs": ChatRequest("tgi", USER, stream=True, logprobs=True, top_logprobs=2, sampling=Sampling(max_tokens=2)),
    "overlong": ChatRequest("tgi", (Message("user", "x " * 60),), stream=True),
    "overloaded": ChatRequest("tgi", USER, stream=True),
    "out-of-memory": ChatRequest("tgi", USER, stream=True),
}
for name in [name for name, request in REQUESTS.items() if not request.tools]:
    REQUESTS[f"raw-{name}"] = ChatRequest(
        **{**{field: getattr(REQUESTS[name], field) for field in ChatRequest.__struct_fields__}, "raw": True}
    )


def broken(error_type: str, text: str, *before: str) -> Script:
    async def script(asked: Asked) -> None:
        assert isinstance(asked, AskedTgi)
        await play(*before, failed(asked, error_type, text))(asked)

    return script


SCRIPTS = {
    "overloaded": broken("overloaded", "Model is overloaded"),
    "out-of-memory": broken("generation", "Request failed during generation: CUDA out of memory", "Hel"),
}


def ask(url: str, body: bytes) -> bytes:
    """The status and the body."""
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return b"%d\n" % answer.status + answer.read()
    except urllib.error.HTTPError as refused:
        with refused:
            return b"%d\n" % refused.code + refused.read()


async def says() -> dict[str, bytes]:
    """What the imitation answers, by name."""
    told = {}
    async with listening(FakeTgi()) as fake:
        for name, request in REQUESTS.items():
            fake.default = SCRIPTS.get(name.removeprefix("raw-"), fake.imitate)
            path, body = DIALECT.render_request(request, "gemma")
            told[name] = await asyncio.to_thread(ask, fake.url + path, body)
    return told


def meant(name: str, status: int, body: bytes) -> object:
    """What we make of it, as JSON."""
    if status != 200:
        return error(DIALECT.error(status, body))
    decoder = DIALECT.decoder(REQUESTS[name], "a1")
    return [event(each) for each in decoder.feed(body) + decoder.finish()]


def main() -> None:
    HERE.mkdir(parents=True, exist_ok=True)
    for name, told in asyncio.run(says()).items():
        (HERE / f"{name}.txt").write_bytes(told)
        status, _, body = told.partition(b"\n")
        golden = json.dumps(meant(name, int(status), body), indent=1, ensure_ascii=False)
        (HERE / f"{name}.json").write_text(golden + "\n")


if __name__ == "__main__":
    main()
