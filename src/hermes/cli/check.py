"""`hermes check`: is the configuration good, and what does it come to?"""

import os
from pathlib import Path

import click

from hermes.cli.options import config_option, fail, load_or_exit, say, say_json
from hermes.config.load import Source
from hermes.errors import ConfigError


@click.command("check")
@config_option
@click.option("--quiet", is_flag=True, help="Print nothing if all is well.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON instead of YAML.")
def command(path: str | None, quiet: bool, as_json: bool) -> None:
    """Validate the configuration and its files, print the effective one, secrets masked.

    Exits with 2 if it is not good. What is good and has no effect is told on the standard error.

    \b
    hermes check
    hermes check --config hermes.yaml --quiet
    """
    from hermes import composition
    from hermes.config.rules import check_bind, without_effect

    source = Source(path, os.environ, {}, Path.cwd())
    config = load_or_exit(source)
    try:
        composition.check_files(config)
        check_bind(config, stored=composition.may_have_keys(config, os.environ))
    except ConfigError as error:
        fail(str(error), 2)
    for remark in without_effect(config):
        click.echo(f"without effect: {remark}", err=True)
    if quiet:
        return
    click.echo(f"{source.file or 'without a file, the configuration'} is good, and comes to this:", err=True)
    from hermes.config.dump import dump

    if as_json:
        say_json(dump(config))
        return
    import yaml

    say(yaml.safe_dump(dump(config), sort_keys=False, allow_unicode=True), nl=False)
