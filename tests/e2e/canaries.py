"""Words that occur nowhere else: what is put in, and what is looked through for them (I26, I27)."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any


class Canaries:
    """`secret`: nobody is ever shown it. `said`: only who said it may be, in answer to that."""

    def __init__(self) -> None:
        self.secrets: dict[str, str] = {}
        self.words: dict[str, str] = {}
        self.leaks: list[str] = []

    def secret(self, name: str) -> str:
        return self.secrets.setdefault(name, _word(name))

    def said(self, name: str) -> str:
        return self.words.setdefault(name, _word(name))

    def look(self, sink: str, text: str | bytes, asked: Any = "") -> None:
        """`asked`: what this was the answer to."""
        shown, own = _text(text), _text(asked)
        allowed = {name for name, word in self.words.items() if word in own}
        for name, word in (self.secrets | self.words).items():
            if word in shown and name not in allowed:
                at = shown.index(word)
                self.leaks.append(f"{name} in {sink}: ...{shown[max(0, at - 150) : at + 60]}")

    def met(self, texts: Iterable[Any]) -> set[str]:
        """Those that occur in these: what proves that they were put in at all."""
        there = " ".join(map(_text, texts))
        return {name for name, word in (self.secrets | self.words).items() if word in there}


def _word(name: str) -> str:
    return "canary" + hashlib.sha256(name.encode()).hexdigest()[:20]


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else json.dumps(value, default=str)


PLUGIN = '''
"""A plugin that names what it was given in all that it raises, and a bug of Hermes's own that does."""

from hermes.custom import Backend, Listing, ModelInfo
from hermes.gateway import Gateway

complete = Gateway.complete


async def buggy(self, exchange, principal, dialect, request, *more, **others):
    if request.model == "buggy":
        raise KeyError(str(request))
    await complete(self, exchange, principal, dialect, request, *more, **others)


Gateway.complete = buggy


class Tattler(Backend):
    asks = ("/parrots",)

    def listing(self, said):
        return Listing((ModelInfo("tattler"), ModelInfo("buggy")))

    def render_request(self, request, model):
        raise ValueError(f"cannot say {request}")

    def decoder(self, request, answer_id):
        raise AssertionError(request)
'''
