"""`hermes sim`: a simulated LLM server, to try an application against."""

import asyncio

import click

from hermes.cli.loop import on_signals, run
from hermes.cli.options import fail, is_taken
from hermes.errors import ConfigError
from hermes.simulator import DEFAULT_MODELS, Simulator, SimulatorConfig, parse_memory, parse_model


@click.command("sim")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", default=11434, show_default=True, help="The port to listen on: by default Ollama's own.")
@click.option("--model", "models", multiple=True, metavar="SPEC", help="A model; may be given several times.")
@click.option("--memory", default="24GiB", show_default=True, help="Room for loaded models.")
@click.option("--speed", default=1.0, show_default=True, help="10: ten times as fast as the hardware it plays.")
@click.option("--fault", "faults", multiple=True, metavar="FAULT=P", help="A fault and how probable it is.")
@click.option("--seed", default=0, show_default=True, help="Of what is drawn at random.")
def command(
    host: str, port: int, models: tuple[str, ...], memory: str, speed: float, faults: tuple[str, ...], seed: int
) -> None:
    """Run a simulated Ollama until SIGTERM or SIGINT. Its models make their text up.

    \b
    hermes sim
    hermes sim --model gemma=8GiB,load=6,decode=40,slots=4 --model mistral
    hermes sim --fault stall=0.05 --fault "cut;after=3=0.1" --seed 7
    """
    try:
        config = SimulatorConfig(
            models=tuple(map(parse_model, models)) or DEFAULT_MODELS,
            memory_bytes=_memory(memory),
            speed=speed,
            faults=dict(map(_fault, faults)),
            seed=seed,
        )
        if all(model.memory_bytes > config.memory_bytes for model in config.models):
            raise ConfigError(f"--memory {memory}: none of the models fits")
        run(_simulate(config, host, port))
    except (ConfigError, ValueError) as error:
        fail(str(error), 2)
    except OSError as error:
        why = (
            "the port is taken; use --port, or stop what listens there" if is_taken(error) else error.strerror or error
        )
        fail(f"cannot listen on {host}:{port}: {why}", 2)


async def _simulate(config: SimulatorConfig, host: str, port: int) -> None:
    stop, now = asyncio.Event(), asyncio.Event()
    on_signals(asyncio.get_running_loop(), stop, now)
    simulator = Simulator(config)
    port = await simulator.start(host, port)
    names = ", ".join(model.name for model in config.models)
    click.echo(f"A simulated Ollama listens on http://{host}:{port} with {names}", err=True)
    await stop.wait()
    await simulator.stop()


def _memory(text: str) -> int:
    try:
        return parse_memory(text)
    except ValueError as error:
        raise ConfigError(f"--memory {text}: {error}") from error


def _fault(given: str) -> tuple[str, float]:
    fault, _, probability = given.rpartition("=")
    try:
        return fault, float(probability)
    except ValueError as error:
        raise ConfigError(f"--fault {given}: write a fault and its probability, such as stall=0.05") from error
