"""`hermes version`: which Hermes, on what."""

import os
import sys

import click

from hermes import __version__
from hermes.cli.options import say, say_json


@click.command("version")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def command(as_json: bool = False) -> None:
    """Print the version of Hermes and of Python.

    \b
    hermes version
    hermes version --json | jq -r .hermes
    """
    system, python = os.uname(), sys.version.split()[0]
    if as_json:
        say_json({"hermes": __version__, "python": python, "system": system.sysname, "machine": system.machine})
    else:
        say(f"hermes {__version__} (Python {python}, {system.sysname} {system.machine})")
