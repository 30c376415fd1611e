"""The models on the simulated disk: listed, shown, copied, deleted, and pulled with progress."""

from collections.abc import AsyncIterator
from typing import Any

from msgspec import Struct

from hermes.errors import ConfigError
from hermes.simulator.clock import Clock
from hermes.simulator.gojson import Refusal
from hermes.simulator.models import SimulatedModel, model_key, short_name
from hermes.simulator.settings import SimulatorConfig

_TICK_S = 0.06  # between two progress lines (server/download.go)
_SMALL_LAYERS = (("license", 11_357), ("template", 1_482), ("config", 486))


class Installed(Struct, frozen=True):
    """A model under a name. A copy is the same model under another."""

    name: str
    model: SimulatedModel
    modified_at: str


class Library:
    def __init__(self, config: SimulatorConfig, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._installed: dict[str, Installed] = {}
        self._registry = {model_key(model.name): model for model in (*config.registry, *config.models)}
        self._downloaded: dict[str, float] = {}
        for model in config.models:
            self._install(model.name, model)

    def find(self, name: str) -> Installed | None:
        return self._installed.get(model_key(name) or "")

    def list_models(self) -> dict[str, Any]:
        """The answer of /api/tags: the youngest first."""
        return {"models": [_listed(installed) for installed in reversed(self._installed.values())]}

    def show(self, name: str) -> dict[str, Any]:
        if not name:
            raise Refusal(400, "model is required")
        if short_name(name) is None:
            raise Refusal(400, "invalid model name")
        installed = self.find(name)
        if installed is None:
            raise Refusal(404, f"model '{short_name(name)}' not found")
        return _shown(installed)

    def delete(self, name: str) -> None:
        if not name:
            raise Refusal(400, "model is required")
        if short_name(name) is None:
            raise Refusal(400, f'name "{name}" is invalid')
        if self._installed.pop(model_key(name) or "", None) is None:
            raise Refusal(404, f"model '{name}' not found")

    def copy(self, source: str, destination: str) -> None:
        for what, name in (("source", source), ("destination", destination)):
            if short_name(name) is None:
                raise Refusal(400, f'{what} "{name}" is invalid')
        installed = self.find(source)
        if installed is None:
            raise Refusal(404, f'model "{source}" not found')
        self._install(destination, installed.model)

    def pull(self, name: str) -> AsyncIterator[dict[str, Any]]:
        """The progress of a download, to be sent as it comes. A download that was left goes on where it was.

        Raises Refusal: at once for what is no name, and after the first progress for a model that does not exist.
        """
        if short_name(name) is None:
            raise Refusal(400, "invalid model name")
        return self._pull(name)

    async def _pull(self, name: str) -> AsyncIterator[dict[str, Any]]:
        yield {"status": "pulling manifest"}
        model = self._registry.get(model_key(name))
        if model is None:
            raise Refusal(500, "pull model manifest: file does not exist")
        layers = [(model.digest, model.file_bytes), *((_layer(model, kind), size) for kind, size in _SMALL_LAYERS)]
        for digest, size in layers:
            async for completed in self._download(digest, size):
                yield {
                    "status": f"pulling {digest[:12]}",
                    "digest": f"sha256:{digest}",
                    "total": size,
                    **({"completed": completed} if completed else {}),
                }
        yield {"status": "verifying sha256 digest"}
        yield {"status": "writing manifest"}
        self._install(name, model)
        yield {"status": "success"}

    async def _download(self, digest: str, size: int) -> AsyncIterator[int]:
        """How much is there, every tick until all is."""
        rate = self._config.pull_bytes_per_s * self._clock.speed
        begun = self._clock.now() - self._downloaded.get(digest, 0.0) / rate
        tick, end = self._clock.now(), begun + size / rate
        while tick < end:
            self._downloaded[digest] = (tick - begun) * rate
            yield int(self._downloaded[digest])
            tick = min(tick + _TICK_S, end)
            await self._clock.until(tick)
        self._downloaded[digest] = size
        yield size

    def _install(self, name: str, model: SimulatedModel) -> None:
        key, shown = model_key(name), short_name(name)
        if key is None or shown is None:
            raise ConfigError(f"{name!r} is no model name")
        self._installed.pop(key, None)
        self._installed[key] = Installed(shown, model, self._clock.rfc3339().decode("ascii"))
        self._downloaded[model.digest] = model.file_bytes


def _layer(model: SimulatedModel, kind: str) -> str:
    return SimulatedModel(f"{model.name} {kind}").digest


def details(model: SimulatedModel) -> dict[str, Any]:
    return {
        "parent_model": "",
        "format": "gguf",
        "family": model.family,
        "families": [model.family],
        "parameter_size": model.parameter_size,
        "quantization_level": "Q4_K_M",
    }


def _listed(installed: Installed) -> dict[str, Any]:
    model = installed.model
    lengths = {"context_length": model.context_length, "embedding_length": model.embedding_length}
    return {
        "name": installed.name,
        "model": installed.name,
        "modified_at": installed.modified_at,
        "size": model.file_bytes,
        "digest": model.digest,
        "details": details(model) | lengths,
        "capabilities": list(model.capabilities),
    }


def _shown(installed: Installed) -> dict[str, Any]:
    model = installed.model
    return {
        "license": "Simulated: there is no model here, only its timing.",
        "modelfile": f'# Modelfile generated by "ollama show"\nFROM {installed.name}\nTEMPLATE {{{{ .Prompt }}}}\n',
        "template": "{{ .Prompt }}",
        "details": details(model),
        "model_info": {
            "general.architecture": model.family,
            "general.file_type": 15,
            "general.quantization_version": 2,
            f"{model.family}.context_length": model.context_length,
            f"{model.family}.embedding_length": model.embedding_length,
            "tokenizer.ggml.model": "simulated",
            "tokenizer.ggml.tokens": None,
        },
        "capabilities": list(model.capabilities),
        "modified_at": installed.modified_at,
    }
