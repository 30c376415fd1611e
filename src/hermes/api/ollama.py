"""Ollama's native routes, for clients that know nothing else: what they ask is answered from all backends together.

A request for nothing but the model (no messages, no prompt) loads it, for anybody, as a request for one token would:
by the same rules and limits, and of class `batch`. With `keep_alive: 0` it takes the model away from everybody, so that
is an operator's to ask.
"""

from collections.abc import Awaitable
from contextlib import aclosing
from functools import partial

import msgspec

from hermes.api.inference import Inference
from hermes.api.loading import Loading
from hermes.api.models import Models
from hermes.api.progress import Progress
from hermes.api.routes import Call
from hermes.chat import ChatRequest, Embeddings, EmbedRequest, Usage
from hermes.dialects import Meta
from hermes.dialects.ollama_client import OllamaClient, OllamaGenerate
from hermes.dialects.ollama_request import parse_model
from hermes.errors import Forbidden
from hermes.fleet.inventory import LoadedModel, ModelInfo
from hermes.policy.routing import check_model_name

_json = msgspec.json.Encoder().encode

# Whose API this is: clients compare it with what they need.
VERSION = "0.33.0"

# For what a backend does not tell. Clients parse both.
_UNKNOWN_TIME = "0001-01-01T00:00:00Z"
_FOR_EVER = "9999-12-31T23:59:59Z"


class Ollama:
    def __init__(self, inference: Inference, models: Models, loading: Loading) -> None:
        self.dialect = OllamaClient()
        self._generate = OllamaGenerate()
        self._inference = inference
        self._models = models
        self._loading = loading

    # --- asking a model ---------------------------------------------------------------------------------------------

    def chat(self, call: Call) -> Awaitable[None]:
        return self._inference.complete(call, self.dialect, None, partial(self._idle, self.dialect))

    def generate(self, call: Call) -> Awaitable[None]:
        return self._inference.complete(call, self._generate, None, partial(self._idle, self._generate))

    def embed(self, call: Call) -> Awaitable[None]:
        return self._inference.embed(call, self.dialect, partial(self._idle, self.dialect))

    def embeddings(self, call: Call) -> Awaitable[None]:
        return self._inference.embed(call, self._generate, partial(self._idle, self._generate))

    async def _idle(self, dialect: OllamaClient, call: Call, request: ChatRequest | EmbedRequest) -> None:
        name, asked, exchange = check_model_name(request.model), request.load_options, call.exchange
        if asked is not None and asked.keep_alive_s == 0:
            if not call.principal.admin:
                raise Forbidden("others may need this model: to unload it takes an operator's key")
            await self._loading.let_go(call, name)
            reason = "unload"
        else:
            service, found = await self._loading.known(call, name)
            self._inference.count(call, dialect, service)
            await self._loading.bring(service, found, call.principal)
            reason = "load"
        meta = Meta(exchange.request_id, request.model, int(exchange.created_at), exchange.timings)
        if isinstance(request, ChatRequest):
            call.reply(dialect.loaded(reason, meta))
        else:
            call.reply(dialect.render_embeddings(Embeddings([], Usage()), request, meta))

    # --- what there is ----------------------------------------------------------------------------------------------

    async def tags(self, call: Call) -> None:
        listed = [
            {
                **_named(name, info),
                "modified_at": info.modified_at or _UNKNOWN_TIME,
                "size": info.size_bytes,
                "details": _details(info),
                "capabilities": info.capabilities,
            }
            for name, info in self._models.served(call.principal).items()
        ]
        listed.sort(key=lambda item: str(item["modified_at"]), reverse=True)  # as Ollama does: the youngest first
        call.reply(_json({"models": listed}))

    async def ps(self, call: Call) -> None:
        await self._models.look()
        loaded = [_loaded(name, info, model) for name, info, model in self._models.loaded(call.principal)]
        loaded.sort(key=lambda item: str(item["expires_at"]), reverse=True)  # what stays longest comes first
        call.reply(_json({"models": loaded}))

    async def show(self, call: Call) -> None:
        name, _ = parse_model(call.request.body)
        info = self._models.info(call, name)
        told = {
            "modelfile": "",  # clients read it without asking whether it is there
            "parameters": info.parameters,
            "template": info.template,
            "details": _details(info),
            "model_info": info.metadata or _metadata(info),
            "capabilities": info.capabilities,
            "modified_at": info.modified_at or _UNKNOWN_TIME,
        }
        call.reply(_json(told))

    async def version(self, call: Call) -> None:
        call.reply(_json({"version": VERSION}))

    async def root(self, call: Call) -> None:
        call.reply(b"Ollama is running", content_type=b"text/plain; charset=utf-8")

    # --- pulling ----------------------------------------------------------------------------------------------------

    async def pull(self, call: Call) -> None:
        """Download a model. Nothing is loaded: who asks for the model will have it loaded."""
        name, streams = parse_model(call.request.body)
        success = {"status": "success"}
        async with aclosing(await self._loading.download(call, name)) as lines:
            if not streams:
                async for _ in lines:
                    pass
                call.reply(_json(success))
                return
            with Progress(call, self.dialect) as progress:
                async for line in lines:
                    if line.status != "success":  # it is told at the end, once it is sure
                        await progress.tell(line)
                progress.end(success)


def _named(name: str, info: ModelInfo) -> dict[str, object]:
    return {"name": name, "model": name, "digest": info.digest}


def _details(info: ModelInfo) -> dict[str, object]:
    told: dict[str, object] = {
        "parent_model": "",
        "format": info.format,
        "family": info.family,
        "families": [info.family] if info.family else [],
        "parameter_size": info.parameter_size,
        "quantization_level": info.quantization,
    }
    lengths = {"context_length": info.context_length, "embedding_length": info.embedding_length}
    return told | {key: length for key, length in lengths.items() if length}


def _metadata(info: ModelInfo) -> dict[str, object]:
    """What clients look for, by the names of GGUF, which begin with the architecture's."""
    family = info.family or "unknown"
    lengths = {"context_length": info.context_length, "embedding_length": info.embedding_length}
    told = {f"{family}.{key}": length for key, length in lengths.items() if length}
    return {"general.architecture": family, **told}


def _loaded(name: str, info: ModelInfo, model: LoadedModel) -> dict[str, object]:
    return {
        **_named(name, info),
        "size": model.size_bytes,
        "size_vram": model.vram_bytes,
        "context_length": model.context_length,
        "details": _details(info),
        "expires_at": model.expires_at or _FOR_EVER,
    }
