"""The policies that can be replayed, by name. Each decides as one server does, and imports nothing of it."""

from collections.abc import Callable

from hermes.simulator.replay.box import Box
from hermes.simulator.replay.policies.fifo import Fifo
from hermes.simulator.replay.policies.grouped import Grouped
from hermes.simulator.replay.policies.hermes import Hermes
from hermes.simulator.replay.policies.ollama import Ollama
from hermes.simulator.replay.policies.protocol import Policy
from hermes.simulator.replay.policies.static import Static

POLICIES: dict[str, Callable[[Box], Policy]] = {
    "hermes": Hermes,
    "fifo": Fifo,
    "ollama": Ollama,
    "grouped": Grouped,
    "static": Static,
}

__all__ = ["POLICIES", "Policy"]
