"""A simulated LLM server: Ollama's API with models that take time and memory, say plausible things, and fail on demand.

simulator = Simulator(SimulatorConfig(speed=10))
port = await simulator.start()
...
await simulator.stop()
"""

from hermes.simulator.app import Simulator
from hermes.simulator.faults import Fault, parse_fault, parse_share
from hermes.simulator.models import DEFAULT_MODELS, SimulatedModel, parse_memory, parse_model
from hermes.simulator.settings import SimulatorConfig
from hermes.simulator.stats import Abort, Stats

__all__ = [
    "DEFAULT_MODELS",
    "Abort",
    "Fault",
    "SimulatedModel",
    "Simulator",
    "SimulatorConfig",
    "Stats",
    "parse_fault",
    "parse_memory",
    "parse_model",
    "parse_share",
]
