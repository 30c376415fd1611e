"""`hermes config schema`: what can be configured, for editors."""

import click

from hermes.cli.options import say


@click.group("config")
def command() -> None:
    """What can be configured. What is, hermes check tells.

    \b
    hermes config schema > hermes.schema.json
    """


@command.command("schema")
def schema() -> None:
    """Print the JSON Schema of hermes.yaml, by which editors complete, explain and check it.

    \b
    hermes config schema > hermes.schema.json
    Then as the first line of hermes.yaml:
      # yaml-language-server: $schema=hermes.schema.json
    """
    from hermes.config.jsonschema import text

    say(text())
