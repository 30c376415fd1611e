"""A scriptable server of OpenAI's API: vLLM, llama.cpp or whoever. It takes the same scripts as `backend`'s."""

from typing import Any

import msgspec

from tests.fakes.backend import Asked, Done, FakeOllama

_json = msgspec.json.Encoder().encode

EVENTS = b"text/event-stream"


class AskedOpenAI(Asked):
    content_type = EVENTS

    @property
    def streams(self) -> bool:
        return bool(self.body.get("stream"))

    def told(self, told: dict[str, Any]) -> bytes:
        return b"data: " + _json(told) + b"\n\n" if self.streams else _json(told)

    def piece(self, text: str) -> bytes:
        return self.told(self.chunk({"content": text}))

    def end(self, done: Done) -> bytes:
        last = self.chunk({}, done.reason) | {"choices": [], "usage": _usage(done)}
        return self.told(self.chunk({}, done.reason)) + self.told(last) + b"data: [DONE]\n\n"

    def whole(self, text: str, done: Done | None) -> bytes:
        said: dict[str, Any] = {"message": {"role": "assistant", "content": text}}
        if self.path == "/v1/completions":
            said = {"text": text}
        choice = {"index": 0, **said, "finish_reason": done.reason if done else None}
        told = {"object": "chat.completion", **self._head(), "choices": [choice]}
        return _json(told | {"usage": _usage(done) if done else None})

    def chunk(self, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        said: dict[str, Any] = {"delta": delta}
        if self.path == "/v1/completions":
            said = {"text": delta.get("content", "")}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": finish}
        return {"object": "chat.completion.chunk", **self._head(), "choices": [choice], "usage": None}

    def _head(self) -> dict[str, Any]:
        return {"id": "chatcmpl-1", "created": 1_795_000_000, "model": self.body["model"]}


def _usage(done: Done) -> dict[str, int]:
    total = done.prompt_eval_count + done.eval_count
    return {"prompt_tokens": done.prompt_eval_count, "completion_tokens": done.eval_count, "total_tokens": total}


class FakeOpenAI(FakeOllama):
    """`ids`: what it lists. `slots`: what a llama-server tells of itself."""

    asking = AskedOpenAI

    def __init__(self, kind: str, *ids: str, slots: int = 1) -> None:
        super().__init__()
        self.kind = kind
        about = {"object": "model", "created": 1_795_000_000, "owned_by": kind}
        self.models = [{"id": each, **about} for each in ids or ("gemma:latest",)]
        self.loaded = []
        self.slots = slots

    def _is_for_tokens(self, asked: Asked) -> bool:
        return asked.path in ("/v1/chat/completions", "/v1/completions")

    async def _manage(self, asked: Asked) -> None:
        told: Any = {
            "/health": {"status": "ok"},
            "/v1/models": {"object": "list", "data": self.models},
            "/version": {"version": "0.32.0"} if self.kind == "vllm" else None,
            "/props": {"total_slots": self.slots, "build_info": "b1-0c1e570"} if self.kind == "llamacpp" else None,
        }.get(asked.path)
        if told is None:
            asked.response.send(404, b"content-type: application/json\r\n", b'{"detail":"Not Found"}')
        else:
            asked.response.send(200, b"content-type: application/json\r\n", _json(told))
