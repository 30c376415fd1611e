"""What every real server is asked for the corpus, and how we read it: the same values, in the dialect of each."""

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from hermes.chat import ChatRequest, EmbedRequest, Image, JsonFormat, Message, RichMessage, Sampling, Text, Tool
from hermes.dialects import BackendDialect
from hermes.dialects.ollama import Ollama
from hermes.dialects.openai_backend import LLAMACPP, OpenAIBackend

SERVERS: Mapping[str, BackendDialect] = {"llamacpp": OpenAIBackend(LLAMACPP), "ollama": Ollama()}

_SAMPLING = Sampling(temperature=0.0, max_tokens=60)
_PLACE = {"type": "object", "properties": {"city": {"type": "string", "enum": ["Oslo"]}}, "required": ["city"]}
_YES = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
_USER = Message("user", "hi")


def _chat(*messages: Message | RichMessage, model: str = "tiny", more: Mapping[str, Any] | None = None) -> ChatRequest:
    return replace(ChatRequest(model, messages or (_USER,), sampling=_SAMPLING), **(more or {}))


def _sampled(**more: Any) -> dict[str, Any]:
    return {"sampling": replace(_SAMPLING, **more)}


CHATS: dict[str, ChatRequest] = {
    "text": _chat(),
    "cut-short": _chat(more=_sampled(max_tokens=3)),
    "stopped-by-text": _chat(more=_sampled(stop=(" tiny",))),
    "call": _chat(more={"tools": (Tool("look", "Look", _PLACE),)}),
    "schema": _chat(more={"json_format": JsonFormat(_YES)}),
    "logprobs": _chat(more={"logprobs": True, "top_logprobs": 2} | _sampled(max_tokens=3)),
    "overlong": _chat(Message("user", "x" * 9000)),
    "bad-schema": _chat(more={"json_format": JsonFormat({"type": "nonsense"})}),
    "image": _chat(RichMessage("user", (Text("?"), Image("image/png", "iVBORw0KGgo=")))),
    "thoughts": _chat(model="thinker", more={"thinking": "on"}),
    "no-thoughts": _chat(model="thinker", more={"thinking": "off"}),
}
EMBEDS: dict[str, EmbedRequest] = {
    "vectors": EmbedRequest("embedder", ("hi", "there")),
    "overlong-text": EmbedRequest("embedder", ("x" * 9000,)),
    "not-made-for-vectors": EmbedRequest("tiny", ("hi",)),
}
# A llama-server with one model answers by it whatever it is asked for, and puts every prompt into its template.
OLLAMA_CHATS: dict[str, ChatRequest] = {
    "unknown-model": _chat(model="nobody"),
    "thoughts-of-who-cannot": _chat(more={"thinking": "on"}),
    "prompt": _chat(more={"completion": True, "thinking": "off"}),
    "raw-prompt": _chat(more={"completion": True, "raw": True}),
}
OLLAMA_EMBEDS: dict[str, EmbedRequest] = {
    "vector-as-made": EmbedRequest("embedder", ("hi",), normalised=False),
    "cut-text": EmbedRequest("embedder", ("x" * 9000,), truncate=True),
    "unknown-embedder": EmbedRequest("nobody", ("hi",)),
}


def asked(server: str) -> dict[str, ChatRequest | EmbedRequest]:
    """By the names of the recordings: a chat is asked for whole and as a stream."""
    only = server == "ollama"
    chats = CHATS | (OLLAMA_CHATS if only else {})
    questions: dict[str, ChatRequest | EmbedRequest] = {}
    for name, chat in chats.items():
        questions |= {f"{name}.whole": chat, f"{name}.stream": replace(chat, stream=True)}
    return questions | {f"{name}.embed": embed for name, embed in (EMBEDS | (OLLAMA_EMBEDS if only else {})).items()}
