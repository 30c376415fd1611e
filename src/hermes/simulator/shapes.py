"""The bytes of generate and chat answers: chunks, finals and whole answers, with Ollama's fields in Ollama's order."""

import random
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from hermes.simulator.clock import Clock, nanoseconds
from hermes.simulator.requests import Inference, ToolUse
from hermes.simulator.text import Script

_encode = msgspec.json.Encoder().encode
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_ANY_LETTERS = _LETTERS + "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Timing(Struct, frozen=True):
    """Where the time of one request went, in seconds, and its tokens."""

    load_s: float
    prefill_s: float
    decode_s: float
    total_s: float
    prompt_tokens: int
    tokens: int

    def fields(self) -> dict[str, int]:
        return {
            "total_duration": nanoseconds(self.total_s),
            "load_duration": nanoseconds(self.load_s),
            "prompt_eval_count": self.prompt_tokens,
            "prompt_eval_duration": nanoseconds(self.prefill_s),
            "eval_count": self.tokens,
            "eval_duration": nanoseconds(self.decode_s),
        }


class Shapes:
    """Renders one request's answer. The model is named as the client named it."""

    __slots__ = ("_clock", "_head", "_request", "_rng", "_text_key", "calls_early")

    def __init__(self, request: Inference, built_in_parser: bool, clock: Clock, rng: random.Random) -> None:
        self._request = request
        self._clock = clock
        self._rng = rng
        self.calls_early = built_in_parser
        self._head = b'{"model":%b,"created_at":"' % _encode(request.model)
        opening = b'","message":{"role":"assistant","content":' if request.kind == "chat" else b'","response":'
        self._text_key = opening

    def text(self, token: str) -> bytes:
        return self._chunk(_encode(token), token)

    def thought(self, token: str) -> bytes:
        """A model whose template Ollama does not parse thinks aloud in /api/generate (measured, 0.33)."""
        if self._request.kind == "generate" and not self.calls_early:
            return self.text(token)
        return self._chunk(b'"","thinking":' + _encode(token), token)

    def _chunk(self, text: bytes, token: str) -> bytes:
        closing = b'},"done":false' if self._request.kind == "chat" else b',"done":false'
        if self._request.logprobs:
            closing += b',"logprobs":' + _encode(self.logprobs((token,)))
        return b"".join((self._head, self._clock.rfc3339(), self._text_key, text, closing, b"}\n"))

    def calls(self, calls: Sequence[ToolUse]) -> bytes:
        """Tool calls in a middle chunk."""
        message = {"role": "assistant", "content": "", "tool_calls": self._calls(calls)}
        return b"%b%b%b" % (self._head, self._clock.rfc3339(), b'","message":%b,"done":false}\n' % _encode(message))

    def final(self, script: Script, timing: Timing) -> bytes:
        """The last line of a stream. Calls not sent before are in it."""
        return self._done({}, () if self.calls_early else script.calls, script, timing, None) + b"\n"

    def whole(self, script: Script, timing: Timing) -> bytes:
        content, thinking = "".join(script.content), "".join(script.thinking)
        if self._request.kind == "generate" and not self.calls_early:
            content, thinking = thinking + content, ""
        spoken = {"content": content} | ({"thinking": thinking} if thinking else {})
        tokens = (*script.thinking, *script.content) if self._request.logprobs else None
        return self._done(spoken, script.calls, script, timing, tokens)

    def loaded(self, reason: str) -> bytes:
        return _encode(self._base({}, ()) | {"done": True, "done_reason": reason})

    def _done(
        self,
        spoken: dict[str, str],
        calls: Sequence[ToolUse],
        script: Script,
        timing: Timing,
        tokens: Sequence[str] | None,
    ) -> bytes:
        answer = self._base(spoken, calls) | {"done": True, "done_reason": script.reason}
        if self._request.kind == "generate" and not self._request.raw:
            answer["context"] = [1 + at % 997 for at in range(min(timing.prompt_tokens + timing.tokens, 4096))]
        if tokens and self._request.kind == "chat":
            answer["logprobs"] = self.logprobs(tokens)
        answer |= timing.fields()
        if tokens and self._request.kind == "generate":
            answer["logprobs"] = self.logprobs(tokens)
        return _encode(answer)

    def _base(self, spoken: dict[str, str], calls: Sequence[ToolUse]) -> dict[str, Any]:
        answer: dict[str, Any] = {"model": self._request.model, "created_at": self._clock.rfc3339().decode("ascii")}
        if self._request.kind == "generate":
            answer["response"] = spoken.get("content", "")
            return answer | ({"thinking": spoken["thinking"]} if "thinking" in spoken else {})
        answer["message"] = {"role": "assistant", "content": ""} | spoken
        if calls:
            answer["message"]["tool_calls"] = self._calls(calls)
        return answer

    def _calls(self, calls: Sequence[ToolUse]) -> list[dict[str, Any]]:
        return [
            {"id": self._call_id(), "function": {"index": index, "name": call.name, "arguments": call.arguments}}
            for index, call in enumerate(calls)
        ]

    def _call_id(self) -> str:
        if self.calls_early:
            return "call_" + "".join(self._rng.choices(_LETTERS, k=8))
        return "".join(self._rng.choices(_ANY_LETTERS, k=32))

    def logprobs(self, tokens: Sequence[str]) -> list[dict[str, Any]]:
        """One item a token. The alternatives are its own letters, turned round: unlikely, and never the same."""
        found = []
        for token in tokens:
            item = _logprob(token, -self._rng.random() / 2)
            if self._request.top_logprobs:
                others = [
                    _logprob(f"{token[::-1]}{at or ''}", -1.0 - at) for at in range(self._request.top_logprobs - 1)
                ]
                item = item | {"top_logprobs": [dict(item), *others]}
            found.append(item)
        return found


def _logprob(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode())}
