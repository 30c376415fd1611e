"""Records what a llama-server answers, and what we make of it: `python -m tests.corpus.record URL THINKER_URL`.

Two servers started with `--alias tiny` and `--alias thinker` (docs/development.md tells of such models).
Read the difference before it is committed: what stands in the `.json` files is what `test_corpus` holds us to.
"""

import json
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import msgspec

from hermes.chat import ChatRequest, Failure, StreamEvent
from hermes.dialects.openai_backend import LLAMACPP, OpenAIBackend
from hermes.errors import GatewayError

HERE = Path(__file__).parent / "llamacpp"
REQUEST = ChatRequest("tiny", ())

USER = [{"role": "user", "content": "hi"}]
PLACE = {"type": "object", "properties": {"city": {"type": "string", "enum": ["Oslo"]}}, "required": ["city"]}
LOOK = {"type": "function", "function": {"name": "look", "description": "Look", "parameters": PLACE}}
SCHEMA = {"name": "answer", "schema": {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}}

ASKED: dict[str, dict[str, Any]] = {
    "text": {},
    "cut-short": {"max_tokens": 3},
    "stopped-by-text": {"stop": [" tiny"]},
    "call": {"tools": [LOOK]},
    "schema": {"response_format": {"type": "json_schema", "json_schema": SCHEMA}},
    "logprobs": {"logprobs": True, "top_logprobs": 2, "max_tokens": 3},
    "overlong": {"messages": [{"role": "user", "content": "x" * 9000}]},
    "bad-schema": {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "nonsense"}}}},
    "image": {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}],
            }
        ]
    },
    "thoughts": {"model": "thinker"},
    "no-thoughts": {"model": "thinker", "chat_template_kwargs": {"enable_thinking": False}},
}


def told(status: int, body: bytes, stream: bool) -> Any:
    """What we make of it, as JSON."""
    dialect = OpenAIBackend(LLAMACPP)
    if status != 200:
        return error(dialect.error(status, body))
    if stream:
        decoder = dialect.decoder(REQUEST, "a1")
        return [event(each) for each in decoder.feed(body) + decoder.finish()]
    answer = dialect.whole(body, REQUEST, "a1")
    assert answer is not None and not isinstance(answer, Failure)
    return plain(answer)


def plain(value: Any) -> Any:
    return json.loads(msgspec.json.encode(value))


def event(event: StreamEvent) -> dict[str, Any]:
    return {"event": type(event).__name__, **plain(event)}


def error(error: GatewayError) -> dict[str, Any]:
    return {"error": type(error).__name__, "status": error.status, "code": error.code, "message": error.message}


def main(url: str, thinker_url: str) -> None:
    HERE.mkdir(exist_ok=True)
    for name, more in ASKED.items():
        for stream in (True, False):
            asked = {"model": "tiny", "messages": USER, "temperature": 0, "max_tokens": 60, "stream": stream, **more}
            if stream:
                asked["stream_options"] = {"include_usage": True}
            where = thinker_url if asked["model"] == "thinker" else url
            status, body = ask(where + "/v1/chat/completions", asked)
            path = HERE / f"{name}.{'stream' if stream else 'whole'}"
            path.with_suffix(path.suffix + ".txt").write_bytes(b"%d\n" % status + body)
            golden = json.dumps(told(status, body, stream), indent=1, ensure_ascii=False)
            path.with_suffix(path.suffix + ".json").write_text(golden + "\n")


def ask(url: str, body: dict[str, Any]) -> tuple[int, bytes]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
