"""`hermes import`: a configuration of Hermes's, made of another program's."""

from importlib import import_module
from pathlib import Path

import click

from hermes.cli.options import fail, say
from hermes.errors import ConfigError


@click.group("import")
def command() -> None:
    """Make a hermes.yaml of another program's configuration.

    What could not be taken over stands at its top, in comments.

    \b
    hermes import litellm config.yaml > hermes.yaml
    hermes import llama-swap config.yaml > hermes.yaml
    """


def _importer(name: str, module: str, what: str) -> None:
    @command.command(name, help=f"Make a hermes.yaml of {what}, and print it.\n\n\b\nhermes import {name} config.yaml")
    @click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
    def run(file: Path) -> None:
        from hermes.config.files import read_tree

        if not file.exists():
            fail(f"{file}: there is no such file", 2)
        try:
            made = import_module(f"hermes.config.foreign.{module}").read(read_tree(file))
            say(made.text(f"{what}, {file.name}"), nl=False)
            if not made.tree["backends"]:
                raise ConfigError(f"nothing in {file} could be taken over: is it {what}?")
            made.check()
        except ConfigError as error:
            fail(str(error), 2)


_importer("litellm", "litellm", "a LiteLLM configuration")
_importer("llama-swap", "llamaswap", "a llama-swap configuration")
