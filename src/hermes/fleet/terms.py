"""What requests may say of load-time options: the terms of each model on a server, and a dialect that keeps to them."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from hermes.chat import ChatRequest, EmbedRequest
from hermes.dialects.ollama import Ollama as Dialect
from hermes.policy.load_options import Pins, Terms

NO_PINS: Mapping[str, Pins] = MappingProxyType({})
UNPINNED = Pins()


class TermsOf(dict[str, Terms]):
    """By full name. What is configured stands under any of a model's names."""

    def __init__(self, pins: Mapping[str, Pins], unlisted: Pins) -> None:
        super().__init__()
        self._pins = pins
        self._unlisted = unlisted

    def __missing__(self, model: str) -> Terms:
        terms = self[model] = Terms(self._of(model))
        return terms

    def _of(self, model: str) -> Pins:
        return self._pins.get(model) or self._pins.get(model.removesuffix(":latest"), self._unlisted)

    def adopt(self, other: "TermsOf") -> None:
        self._pins, self._unlisted = other._pins, other._unlisted
        for model, terms in self.items():
            terms.adopt(self._of(model))


class Agreed(Dialect):
    """Requests say of load-time options what is agreed on for their model."""

    def __init__(self, terms: Callable[[str], Terms], thinks: Callable[[str], bool | None]) -> None:
        super().__init__(thinks=thinks)
        self._terms = terms

    def render_request(self, request: ChatRequest, model: str) -> tuple[str, bytes]:
        return self.render(request, model, *self._agree(request, model))

    def render_embed(self, request: EmbedRequest, model: str) -> tuple[str, bytes]:
        return self.embed(request, model, *self._agree(request, model))

    def _agree(self, request: ChatRequest | EmbedRequest, model: str) -> tuple[Mapping[str, Any], float]:
        terms = self._terms(model)
        terms.kept = True
        if request.load_options is None:
            return terms.options, terms.keep_alive_s
        return terms.agree(request.load_options)
