"""How a simulated server behaves as a whole: its models, its memory, its queue, its speed, its faults."""

from msgspec import Struct

from hermes.simulator.models import DEFAULT_MODELS, GIB, REGISTRY, SimulatedModel


class SimulatorConfig(Struct, frozen=True):
    """`speed` is that of the simulated hardware: 10 loads, reads, generates and downloads ten times as fast.

    Times that a client chooses or sees on a calendar (keep_alive, expires_at) are not scaled. `faults` maps a fault
    as `faults.py` reads it to its probability, drawn for each inference request from `seed`.
    """

    models: tuple[SimulatedModel, ...] = DEFAULT_MODELS
    registry: tuple[SimulatedModel, ...] = REGISTRY
    memory_bytes: int = 24 * GIB
    max_loaded_models: int = 3  # OLLAMA_MAX_LOADED_MODELS: by default three for each GPU
    max_queue: int = 512  # OLLAMA_MAX_QUEUE
    num_ctx: int = 4096  # OLLAMA_CONTEXT_LENGTH
    keep_alive_s: float = 300.0  # OLLAMA_KEEP_ALIVE
    pull_bytes_per_s: float = 400e6
    speed: float = 1.0
    jitter: float = 0.0  # of the time between two tokens, 0 to 1
    seed: int = 0
    faults: dict[str, float] = {}
    version: str = "0.33.0"
    # Ollama 0.33 lists a model in /api/ps only once it is loaded (measured); older schedulers did from its start.
    lists_loading: bool = False
