"""`hermes serve`: run the gateway."""

import asyncio
import sys

import click

from hermes import __version__
from hermes.cli.log import log_to_stderr, tell
from hermes.cli.loop import run
from hermes.cli.options import config_option, fail, load_or_exit
from hermes.config import Config
from hermes.errors import ConfigError
from hermes.runtime import Runtime, on_signals


@click.command("serve")
@config_option
@click.option("--host", help="The address to listen on. Anything but loopback needs keys, or --insecure.")
@click.option("--port", type=int, help="The port to listen on. Default: 4000.")
@click.option("--insecure", is_flag=True, default=None, help="Allow an address beyond loopback without keys.")
@click.option("--simulate", is_flag=True, help="Use the simulated server instead of the configured backends.")
@click.option("--or-simulate", is_flag=True, help="The same, but only if no configured backend answers now.")
def command(
    path: str | None, host: str | None, port: int | None, insecure: bool | None, simulate: bool, or_simulate: bool
) -> None:
    """Run the gateway until SIGTERM or SIGINT.

    \b
    hermes serve
    hermes serve --config hermes.yaml --port 8080
    API_KEYS_JSON='{"sk-local-1": {"user": "editor"}}' hermes serve --host 0.0.0.0
    """
    config = load_or_exit(path, {"server.host": host, "server.port": port, "server.insecure": insecure})
    log_to_stderr(config.logging.level)
    try:
        clean = run(_serve(config, simulate, or_simulate))
    except ConfigError as error:
        fail(str(error), 2)
    sys.exit(0 if clean else 1)


async def _serve(config: Config, simulate: bool, or_simulate: bool) -> bool:
    loop = asyncio.get_running_loop()
    stop, now = asyncio.Event(), asyncio.Event()
    on_signals(loop, stop, now)
    simulator = None
    if simulate or or_simulate:
        from hermes.cli.stand_in import stand_in

        config, simulator = await stand_in(config, only_if_needed=not simulate)
    runtime = Runtime(config, loop)
    try:
        await runtime.start()
        _greet(runtime, simulated=simulator is not None)
        return await runtime.run(stop, now)
    finally:
        await runtime.stop()
        if simulator is not None:
            await simulator.stop()


def _greet(runtime: Runtime, simulated: bool) -> None:
    tell(f"Hermes {__version__} listens on {runtime.address}")
    for backend in runtime.fleet.backends.values():
        tell(f"  backend {backend.name}: {backend.kind} at {backend.url}")
    if simulated:
        tell("  SIMULATED: these models make text up; start Ollama to talk to real ones")
    tell(f"""  try: curl {runtime.address}/v1/llm/MODEL -d '{{"prompt": "Explain relativity"}}'""")
