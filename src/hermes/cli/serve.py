"""`hermes serve`: run the gateway."""

import asyncio
import logging
import os
import sys
from pathlib import Path

import click

from hermes import __version__
from hermes.cli.log import log, log_to_stderr, tell
from hermes.cli.loop import run
from hermes.cli.options import config_option, fail, is_taken, load_or_exit
from hermes.config import Config, Server
from hermes.config.load import Source
from hermes.errors import ConfigError
from hermes.notify import Notify
from hermes.policy.routing import candidates
from hermes.runtime import Runtime, on_signals

# For a first look at the backends before it is told how to ask them; requests are served meanwhile.
_LOOK_S = 1.0


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
    if simulate and or_simulate:
        raise click.UsageError("--simulate and --or-simulate exclude each other")
    source = Source(
        path, os.environ, {"server.host": host, "server.port": port, "server.insecure": insecure}, Path.cwd()
    )
    config = load_or_exit(source)
    log_to_stderr(config.logging.level, config.logging.format)
    try:
        clean = run(_serve(config, source, simulate, or_simulate))
    except ConfigError as error:
        taken = is_taken(error.__cause__) and not config.server.unix_socket
        fail(_port_taken(config.server) if taken else str(error), 2)
    sys.exit(0 if clean else 1)


async def _serve(config: Config, source: Source, simulate: bool, or_simulate: bool) -> bool:
    loop = asyncio.get_running_loop()
    stop, now, reload = asyncio.Event(), asyncio.Event(), asyncio.Event()
    on_signals(loop, stop, now, reload)
    instead = None
    if simulate or or_simulate:
        from hermes.cli.stand_in import stand_in

        if (instead := await stand_in(config, only_if_needed=not simulate)) is not None:
            source.change = instead.instead
            config = instead.instead(config)
    runtime = Runtime(config, loop, source=source, reload_asked=reload, notify=Notify(os.environ))
    try:
        await runtime.start()
        _greet(runtime, simulated=instead is not None)
        advice = loop.create_task(_advise(runtime), name="advice")
        try:
            return await runtime.run(stop, now)
        finally:
            advice.cancel()
    finally:
        await runtime.stop()
        if instead is not None:
            await instead.simulator.stop()


def _port_taken(server: Server) -> str:
    return (
        f"cannot listen on {server.host}:{server.port}: the port is taken;"
        " use --port or PORT, or stop what listens there"
    )


def _greet(runtime: Runtime, simulated: bool) -> None:
    tell(f"Hermes {__version__} listens on {runtime.address}")
    if runtime.admin_address:
        tell(f"  operators are listened to at {runtime.admin_address}")
    for backend in runtime.config.backends:
        where = f"for {backend.model}, a process of ours" if backend.command else f"at {backend.url}"
        tell(f"  backend {backend.name}: {backend.kind} {where}")
    if simulated:
        tell("  SIMULATED: these models make text up; start Ollama to talk to real ones", logging.WARNING)


async def _advise(runtime: Runtime) -> None:
    """What to do next, once the backends have been looked at."""
    await runtime.fleet.refresh(_LOOK_S)
    for backend in runtime.fleet.backends.values():
        if backend.state != "up":
            it = "Ollama" if backend.kind == "ollama" else "it"
            log.warning("backend %s does not answer at %s: start %s, or use --simulate", backend.name, backend.url, it)
    tell(f"  try: {_example(runtime)}")


def _example(runtime: Runtime) -> str:
    """A command to copy: as far as is known, one that works."""
    server = runtime.config.server
    # who listens on every address is found on loopback
    address = runtime.address.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
    to = f"--unix-socket {server.unix_socket} http://localhost" if server.unix_socket else address
    key = " -H 'Authorization: Bearer KEY'" if not runtime.people.open else ""
    return f"""curl {to}/v1/llm/{_some_model(runtime)}{key} -d '{{"prompt": "Explain relativity"}}'"""


def _some_model(runtime: Runtime) -> str:
    """The name of one that can be asked now, those of the configuration first."""
    inventories = runtime.fleet.inventories()
    names = [name for name, service in runtime.router.catalog.listed.items() if candidates(service, inventories).names]
    if runtime.router.catalog.unlisted is not None:
        for backend in runtime.fleet.backends.values():
            models = sorted(backend.inventory.models.items())
            able = [name for name, info in models if not info.capabilities or "completion" in info.capabilities]
            names += [name.removesuffix(":latest") for name in able]
    return names[0] if names else "MODEL"
