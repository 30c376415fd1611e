"""The simulated server inside `hermes serve`, for a first try without any LLM server."""

import asyncio
import logging

from msgspec.structs import replace

from hermes import drivers
from hermes.cli.log import tell
from hermes.config import Backend, Config
from hermes.errors import BackendError
from hermes.http.wire import Deadlines
from hermes.simulator import Simulator

# Long enough for a local server; a first start should not wait for an absent one.
_PATIENCE_S = 1.0


async def stand_in(config: Config, only_if_needed: bool) -> tuple[Config, Simulator | None]:
    """The configuration with a simulated server as its one backend, and that server, running.

    `only_if_needed`: the configuration as it is, and None, if one of its backends answers.
    """
    if only_if_needed and await _any_answers(config.backends):
        return config, None
    if only_if_needed:
        urls = ", ".join(backend.url for backend in config.backends)
        tell(f"No LLM server answers at {urls}: starting a simulated one.", logging.WARNING)
    simulator = Simulator()
    port = await simulator.start()
    slots = max(model.slots for model in simulator.config.models)
    backend = Backend("simulated", f"http://127.0.0.1:{port}", slots=slots, simulated=True)
    models = {name: replace(model, backends=(), backend_model=None) for name, model in config.models.items()}
    return replace(config, backends=(backend,), models=models), simulator


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
