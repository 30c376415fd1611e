"""`hermes serve`: run the gateway."""

import asyncio
import json
import os
import sys
from pathlib import Path

import click

from hermes.activation import Activated, activated
from hermes.cli.greeting import advise, greet
from hermes.cli.log import log_to_stderr
from hermes.cli.loop import on_signals, run
from hermes.cli.options import config_option, fail, load_or_exit
from hermes.config import Config
from hermes.config.load import Source
from hermes.errors import ConfigError
from hermes.handover import VARIABLE
from hermes.notify import Notify
from hermes.runtime import Runtime


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
    said = {"server.host": host, "server.port": port, "server.insecure": insecure}
    channel, given = _given()
    source = Source(path, os.environ, {**said, **given.said}, Path.cwd())
    config = load_or_exit(source)
    log_to_stderr(config.logging.level, config.logging.format)
    try:
        clean = run(_serve(config, source, simulate, or_simulate, channel, given))
    except ConfigError as error:
        fail(str(error), 2)
    sys.exit(0 if clean else 1)


def _given() -> tuple[int | None, Activated]:
    """The channel to the process that has started us to go on in its place; what we are to listen on."""
    if (text := os.environ.pop(VARIABLE, None)) is None:
        try:
            return None, activated(os.environ)
        except ConfigError as error:
            fail(str(error), 2)
    channel, said = json.loads(text)
    return channel, Activated({}, said)


async def _serve(
    config: Config, source: Source, simulate: bool, or_simulate: bool, channel: int | None, given: Activated
) -> bool:
    loop = asyncio.get_running_loop()
    stop, now, reload, restart = asyncio.Event(), asyncio.Event(), asyncio.Event(), asyncio.Event()
    on_signals(loop, stop, now, reload, restart)
    before = None
    if channel is not None:
        from hermes.handover.taking import Taking

        before = Taking.meet(channel, stop)
    instead = None
    if simulate or or_simulate:
        from hermes.cli.stand_in import stand_in

        if (instead := await stand_in(config, only_if_needed=not simulate)) is not None:
            source.change = instead.instead
            config = instead.instead(config)
    runtime = Runtime(
        config,
        loop,
        source=source,
        reload_asked=reload,
        notify=Notify(os.environ),
        restart_asked=restart,
        given=given,
        before=before,
    )
    try:
        await runtime.start()
        greet(runtime, source.file, simulated=instead is not None)
        advice = loop.create_task(advise(runtime), name="advice")
        try:
            return await runtime.run(stop, now)
        finally:
            advice.cancel()
    finally:
        await runtime.stop()
        if instead is not None:
            await instead.simulator.stop()
