"""`hermes version`: which Hermes, on what."""

import platform

import click

from hermes import __version__


@click.command("version")
def command() -> None:
    """Print the version of Hermes and of Python.

    \b
    hermes version
    """
    click.echo(f"hermes {__version__} (Python {platform.python_version()}, {platform.system()} {platform.machine()})")
