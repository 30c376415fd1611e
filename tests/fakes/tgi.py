"""An imitation of Text Generation Inference 3.3, from its source: no server can be installed here.

By default it does what TGI does (`imitate`): it checks parameters, streams tokens, ends at stop texts, keeps to
grammars and calls tools. `tests/imitations` has TGI's own clients read it. It takes the same scripts as `backend`'s.
"""

from typing import Any

import msgspec

from tests.fakes.backend import Asked, Done, FakeOllama
from tests.fakes.tgi_says import EOS, Tokens, answer, pieces, schema_of, text_of, tool_of

_json = msgspec.json.Encoder().encode

EVENTS = b"text/event-stream"


class AskedTgi(Asked):
    content_type = EVENTS

    @property
    def is_chat(self) -> bool:
        return self.path == "/v1/chat/completions"

    @property
    def streams(self) -> bool:
        return self.path == "/generate_stream" or bool(self.body.get("stream"))

    def told(self, told: dict[str, Any]) -> bytes:
        return b"data: " + _json(told) + b"\n\n" if self.streams else _json(told)

    def piece(self, text: str) -> bytes:
        return self.told(self.chunk({"content": text}) if self.is_chat else self.token(1, text))

    def end(self, done: Done) -> bytes:
        reason = "eos_token" if done.reason == "stop" else done.reason
        if not self.is_chat:
            details = {"finish_reason": reason, "generated_tokens": done.eval_count, "seed": None}
            last = {"generated_text": "", "details": details | {"input_length": done.prompt_eval_count}}
            return self.told(self.token(9, EOS, special=True) | last)
        return self.told(self.chunk({"content": ""}, _openai(reason))) + self.ending(done)

    def ending(self, done: Done) -> bytes:
        """What the messages API says after the last chunk."""
        told = b"data: [DONE]\n\n"
        if (self.body.get("stream_options") or {}).get("include_usage"):
            told = self.told(self.chunk({}) | {"choices": [], "usage": _usage(done)}) + told
        return told

    def whole(self, text: str, done: Done | None) -> bytes:
        raise AssertionError("a whole answer is asked of it as a stream")

    def chunk(self, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": {"role": "assistant", **delta}, "logprobs": None, "finish_reason": finish}
        return {"object": "chat.completion.chunk", **self._head(), "choices": [choice], "usage": None}

    def token(self, index: int, text: str, special: bool = False) -> dict[str, Any]:
        token = {"id": 100 + index, "text": text, "logprob": -0.5, "special": special}
        told: dict[str, Any] = {"index": index, "token": token}
        if count := self.parameters.get("top_n_tokens"):
            told["top_tokens"] = [token, *({**token, "id": 7, "text": "?", "logprob": -2.0} for _ in range(count - 1))]
        return told | {"generated_text": None, "details": None}

    def _head(self) -> dict[str, Any]:
        named = self.body.get("model")
        model = "tiny/imitated" if named in (None, "tgi") else named
        return {"id": "", "created": 1_795_000_000, "model": model, "system_fingerprint": "3.3.6-native"}

    # --- what it understands of a request -----------------------------------------------------------------------------

    @property
    def parameters(self) -> dict[str, Any]:
        """Of `/generate`, as the messages API makes them too."""
        asked = self.body
        if not self.is_chat:
            return {name: value for name, value in (asked.get("parameters") or {}).items() if value is not None}
        same = ("temperature", "top_p", "frequency_penalty", "seed", "stop")
        made = {name: asked[name] for name in same if asked.get(name) is not None}
        if made.get("temperature") == 0:
            del made["temperature"]
        for name, ours in (("max_tokens", "max_new_tokens"), ("top_logprobs", "top_n_tokens")):
            if asked.get(name) is not None:
                made[ours] = asked[name]
        if asked.get("presence_penalty") is not None:
            made["repetition_penalty"] = asked["presence_penalty"] + 2.0
        if asked.get("response_format"):
            made["grammar"] = asked["response_format"]
        return made

    @property
    def prompt(self) -> str:
        if not self.is_chat:
            return str(self.body["inputs"])
        return " ".join(str(message.get("content") or message.get("tool_calls")) for message in self.body["messages"])


class FakeTgi(FakeOllama):
    """`info`: what it tells of itself, and keeps to."""

    kind = "tgi"
    asking = AskedTgi

    def __init__(self, model_id: str = "gemma:latest") -> None:
        super().__init__()
        self.loaded = []
        self.info: dict[str, Any] = {
            "model_id": model_id,
            "model_sha": None,
            "model_pipeline_tag": "text-generation",
            "max_concurrent_requests": 8,
            "max_best_of": 2,
            "max_stop_sequences": 4,
            "max_input_tokens": 50,
            "max_total_tokens": 80,
            "validation_workers": 2,
            "max_client_batch_size": 4,
            "router": "text-generation-router",
            "version": "3.3.6",
            "sha": None,
            "docker_label": None,
        }
        self.default = self.imitate

    def _is_for_tokens(self, asked: Asked) -> bool:
        return asked.method == "POST"

    async def _manage(self, asked: Asked) -> None:
        told = {"/health": b"", "/info": _json(self.info)}.get(asked.path)
        asked.response.send(404 if told is None else 200, b"content-type: application/json\r\n", told or b"")

    # --- what it does -------------------------------------------------------------------------------------------------

    async def imitate(self, asked: Asked) -> None:
        assert isinstance(asked, AskedTgi)
        refusal = self._refusal(asked)
        if refusal is not None:
            _refuse(asked, *refusal)
            return
        tool = tool_of(asked.body) if asked.is_chat else None
        tokens, reason = answer(asked.parameters, tool)
        done = Done(reason, len(asked.prompt.split()), len(tokens))
        if asked.streams:
            asked.response.start(200, b"content-type: text/event-stream\r\n")
            for data in _called(asked, tokens, done) if tool else _streamed(asked, tokens, done):
                asked.response.write(data)
                await asked.response.drain()
            asked.response.end()
        else:
            whole = _chat(asked, tool, tokens, done) if asked.is_chat else _generated(asked, tokens, done)
            asked.response.send(200, b"content-type: application/json\r\n", _json(whole))

    def _refusal(self, asked: AskedTgi) -> tuple[str, str] | None:
        """The `error_type` and the text."""
        given, info, length = asked.parameters, self.info, len(asked.prompt.split())
        more = min(given.get("max_new_tokens", 0), 1024)  # it goes on with the rest when these are made
        if self.running > info["max_concurrent_requests"]:
            return "overloaded", "Model is overloaded"
        if asked.is_chat and asked.body.get("tools") and asked.body.get("response_format"):
            return "tool_error", "Tool error: Grammar and tools are mutually exclusive"
        stops, schema = len(given.get("stop", ())), schema_of(given)
        total, most = info["max_total_tokens"], info["max_input_tokens"]
        wrong = {
            "`temperature` must be strictly positive": given.get("temperature", 1) <= 0,
            "`repetition_penalty` must be strictly positive": given.get("repetition_penalty", 1) <= 0,
            "`top_p` must be > 0.0 and < 1.0": not 0 < given.get("top_p", 0.5) < 1,
            "`max_new_tokens` must be strictly positive": given.get("max_new_tokens") == 0,
            f"`stop` supports up to 4 stop sequences. Given: {stops}": stops > 4,
            "`inputs` cannot be empty": not asked.prompt,
            f"`inputs` tokens + `max_new_tokens` must be <= {total}. Given: {length} `inputs` tokens and"
            f" {more} `max_new_tokens`": length + more > total,
            f"`inputs` must have less than {most} tokens. Given: {length}": length > most,
            "grammar is not valid: Grammar must have a 'properties' field": "properties"
            not in (schema or "properties"),
        }
        return next((("validation", f"Input validation error: {text}") for text, is_so in wrong.items() if is_so), None)


STATUSES = {"overloaded": 429, "validation": 422, "tool_error": 422, "generation": 424}


def _refuse(asked: AskedTgi, error_type: str, text: str) -> None:
    """The messages API makes its template before it begins to stream, everything else after it."""
    if asked.streams and error_type != "tool_error":
        asked.response.start(200, b"content-type: text/event-stream\r\n")
        asked.response.end(failed(asked, error_type, text))
    else:
        told = _json({"error": text, "error_type": error_type})
        asked.response.send(STATUSES[error_type], b"content-type: application/json\r\n", told)


def failed(asked: AskedTgi, error_type: str, text: str) -> bytes:
    """An error in a stream."""
    if asked.is_chat:
        return asked.told({"error": {"message": text, "http_status_code": 422}}) + b"data: [DONE]\n\n"
    return asked.told({"error": text, "error_type": error_type})


# --- how it tells it -------------------------------------------------------------------------------------------------


def _streamed(asked: AskedTgi, tokens: Tokens, done: Done) -> list[bytes]:
    told = []
    for index, (text, special) in enumerate(tokens, 1):
        token = asked.token(index, text, special)
        last = index == len(tokens)
        if asked.is_chat:
            chunk = asked.chunk({"content": "" if special else text}, _openai(done.reason) if last else None)
            if asked.body.get("logprobs"):
                chunk["choices"][0]["logprobs"] = {"content": [_logprob(token["token"], token.get("top_tokens", ()))]}
            told.append(asked.told(chunk))
            continue
        if last:
            token["generated_text"] = text_of(tokens)
            if asked.parameters.get("details"):
                token["details"] = _details(done) | {"input_length": done.prompt_eval_count}
        told.append(asked.told(token))
    return [*told, asked.ending(done)] if asked.is_chat else told


def _called(asked: AskedTgi, tokens: Tokens, done: Done) -> list[bytes]:
    told = []
    for index, piece in enumerate(pieces(tokens), 1):
        if piece is not None:
            call = {"name": piece[0], "arguments": piece[1]}
            delta = {"tool_calls": [{"index": 0, "id": "0", "type": "function", "function": call}]}
            told.append(asked.told(asked.chunk(delta, _openai(done.reason) if index == len(tokens) else None)))
    return [*told, asked.ending(done)]


def _chat(asked: AskedTgi, tool: dict[str, Any] | None, tokens: Tokens, done: Done) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text_of(tokens)}
    if tool is not None:
        arguments = msgspec.json.decode(text_of(tokens))["function"]
        name = arguments.pop("_name")
        function = {"description": None, "name": name, "arguments": _json(arguments).decode()}
        message = {"role": "assistant", "tool_calls": [{"id": "0", "type": "function", "function": function}]}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _openai(done.reason)}
    if asked.body.get("logprobs"):
        told = [asked.token(index, text, special) for index, (text, special) in enumerate(tokens, 1)]
        choice["logprobs"] = {"content": [_logprob(one["token"], one.get("top_tokens", ())) for one in told]}
    return {"object": "chat.completion", **asked._head(), "choices": [choice], "usage": _usage(done)}


def _generated(asked: AskedTgi, tokens: Tokens, done: Done) -> Any:
    told: dict[str, Any] = {"generated_text": text_of(tokens)}
    if asked.parameters.get("details"):
        each = [asked.token(index, text, special)["token"] for index, (text, special) in enumerate(tokens, 1)]
        told["details"] = _details(done) | {"prefill": [], "tokens": each}
    return [told] if asked.path == "/" else told


def _details(done: Done) -> dict[str, Any]:
    return {"finish_reason": done.reason, "generated_tokens": done.eval_count, "seed": None}


def _logprob(token: dict[str, Any], top: Any) -> dict[str, Any]:
    others = [{"token": one["text"], "logprob": one["logprob"]} for one in top]
    return {"token": token["text"], "logprob": token["logprob"], "top_logprobs": others}


def _openai(reason: str) -> str:
    return "stop" if reason == "eos_token" else reason


def _usage(done: Done) -> dict[str, int]:
    total = done.prompt_eval_count + done.eval_count
    return {"prompt_tokens": done.prompt_eval_count, "completion_tokens": done.eval_count, "total_tokens": total}
