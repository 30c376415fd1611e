"""How a server is asked, by the API that it speaks: where, and in which words."""

from collections.abc import Callable, Mapping
from random import Random
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec
from msgspec import Struct

from hermes.load.plan import Asked

_json = msgspec.json.Encoder().encode

Words = Callable[[Asked, str], dict[str, Any]]

# Each word is one token to most vocabularies.
_WORDS = """
the of and to in is was for on that with as by at from his it an be this are were which not have or had but one all
they has been their more who will its would about two time there can other when up into out some them first most only
may over new after also between many years state world where city made part people number under water
"""
_BOOK = 1 << 14  # words


class Api(Struct, frozen=True):
    """`path`: `{}` stands for the model. `words`: the body of a request with that prompt."""

    path: str
    words: Words

    def target(self, model: str) -> str:
        return self.path.format(quote(model, safe=":@"))


def _chat(asked: Asked, prompt: str) -> dict[str, Any]:
    return {"model": asked.model, "messages": [{"role": "user", "content": prompt}], **_openai(asked)}


def _completion(asked: Asked, prompt: str) -> dict[str, Any]:
    return {"model": asked.model, "prompt": prompt, **_openai(asked)}


def _openai(asked: Asked) -> dict[str, Any]:
    usage = {"stream_options": {"include_usage": True}} if asked.streamed else {}
    return {"max_tokens": asked.tokens_out, "stream": asked.streamed, **usage}


def _ollama_chat(asked: Asked, prompt: str) -> dict[str, Any]:
    return {"model": asked.model, "messages": [{"role": "user", "content": prompt}], **_ollama(asked)}


def _generate(asked: Asked, prompt: str) -> dict[str, Any]:
    return {"model": asked.model, "prompt": prompt, **_ollama(asked)}


def _ollama(asked: Asked) -> dict[str, Any]:
    return {"stream": asked.streamed, "options": {"num_predict": asked.tokens_out}}


def _prompt(asked: Asked, prompt: str) -> dict[str, Any]:
    return {"prompt": prompt, "stream": asked.streamed, "options": {"max_tokens": asked.tokens_out}}


APIS: Mapping[str, Api] = {
    "openai": Api("/v1/chat/completions", _chat),
    "completions": Api("/v1/completions", _completion),
    "ollama": Api("/api/chat", _ollama_chat),
    "generate": Api("/api/generate", _generate),
    "prompt": Api("/v1/llm/{}", _prompt),
}


def found_in(url: str) -> tuple[str, str]:
    """A server's address without an API's path, and the API that it named; "" for none.

    So that what SDKs take (`http://box:8000/v1`) and what stands in a `curl` are both understood.
    """
    base = url.rstrip("/")
    path = urlsplit(base).path
    for name, api in APIS.items():
        if path.endswith(api.path):
            return base.removesuffix(api.path), name
    return base.removesuffix("/v1"), ""


class Prompts:
    """Texts of so many words. No two begin alike, so that no server has read one of them before; unless `alike`."""

    def __init__(self, seed: int, alike: bool = False) -> None:
        random = Random(f"prompts {seed}")
        self._book = random.choices(_WORDS.split(), k=2 * _BOOK)
        self._places = Random(f"places {seed}")
        self._seed = seed
        self._alike = alike

    def text(self, asked: Asked) -> str:
        """About `tokens_in` tokens of most vocabularies; what the server counts is told."""
        place = 0 if self._alike else self._places.randrange(_BOOK)
        words = self._words(place, asked.tokens_in)
        return " ".join(words if self._alike else [f"{self._seed}.{asked.number}", *words[:-1]])

    def _words(self, place: int, count: int) -> list[str]:
        words = self._book[place : place + min(count, _BOOK)]
        return words * (count // len(words)) + words[: count % len(words)] if words else []


def body(api: Api, asked: Asked, prompt: str, extra: Mapping[str, Any]) -> bytes:
    """`extra` is laid over what the API's words say; where both have an object, member by member."""
    said = api.words(asked, prompt)
    for name, value in extra.items():
        said[name] = {**said[name], **value} if isinstance(said.get(name), dict) and isinstance(value, dict) else value
    return _json(said)
