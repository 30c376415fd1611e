"""`hermes version`: which Hermes, on what."""

import os
import sys

import click

from hermes import __version__
from hermes.cli.options import say


@click.command("version")
def command() -> None:
    """Print the version of Hermes and of Python.

    \b
    hermes version
    """
    system = os.uname()
    say(f"hermes {__version__} (Python {sys.version.split()[0]}, {system.sysname} {system.machine})")
