"""The simulated server inside `hermes serve`, for a first try without any LLM server."""

import asyncio
import logging

from msgspec import Struct
from msgspec.structs import replace

from hermes import drivers
from hermes.cli.log import tell
from hermes.config import Backend, Config
from hermes.errors import BackendError
from hermes.http.wire import Deadlines
from hermes.simulator import Simulator

# Long enough for a local server; a first start should not wait for an absent one.
_PATIENCE_S = 1.0


class StandIn(Struct, frozen=True):
    """A simulated server that runs, and how it is asked."""

    simulator: Simulator
    backend: Backend

    def instead(self, config: Config) -> Config:
        """The configuration with it as the one backend."""
        models = {name: replace(model, backends=(), backend_model=None) for name, model in config.models.items()}
        return replace(config, backends=(self.backend,), models=models)


async def stand_in(config: Config, only_if_needed: bool) -> StandIn | None:
    """`only_if_needed`: None, if one of the configured backends answers."""
    if only_if_needed and await _any_answers(config.backends):
        return None
    if only_if_needed:
        urls = ", ".join(backend.url for backend in config.backends)
        tell(f"No LLM server answers at {urls}: starting a simulated one.", logging.WARNING)
    simulator = Simulator()
    port = await simulator.start()
    slots = max(model.slots for model in simulator.config.models)
    return StandIn(simulator, Backend("simulated", f"http://127.0.0.1:{port}", slots=slots, simulated=True))


async def _any_answers(backends: tuple[Backend, ...]) -> bool:
    return any(await asyncio.gather(*map(_answers, backends)))


async def _answers(backend: Backend) -> bool:
    if backend.command is not None:  # it is started when it is asked
        return True
    loop = asyncio.get_running_loop()
    driver = drivers.driver(backend, Deadlines(loop), loop)
    try:
        await driver.inventory(_PATIENCE_S)
        return True
    except BackendError:
        return False
    finally:
        driver.pool.close()
