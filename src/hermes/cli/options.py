"""What several verbs share: finding the configuration, and failing with one clear line."""

import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from hermes.config import Config
from hermes.config.load import load
from hermes.config.rules import check_bind
from hermes.errors import ConfigError

config_option = click.option(
    "--config",
    "path",
    metavar="FILE",
    help="The configuration file. Default: hermes.yaml, where docs/configuration.md says.",
)


def load_or_exit(path: str | None, overrides: dict[str, Any]) -> Config:
    """The configuration in force; on a mistake says all that is wrong and exits with 2."""
    try:
        config = load(path, os.environ, overrides, Path.cwd())
        check_bind(config)
    except ConfigError as error:
        fail(str(error), 2)
    return config


def fail(message: str, code: int) -> NoReturn:
    for line in message.splitlines():
        click.echo(f"hermes: {line}", err=True)
    sys.exit(code)
