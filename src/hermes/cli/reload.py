"""`hermes reload`: have the running server read its configuration anew."""

import click

from hermes.cli.options import say, say_json
from hermes.cli.remote import get, json_option, url_option
from hermes.cli.shapes import Reloaded
from hermes.lines import escaped


@click.command("reload")
@json_option
@url_option
def command(as_json: bool, url: str) -> None:
    """Put the configuration in force as its files are now.

    Where it cannot be used nothing changes, what is wrong is told, and this exits with 1.

    \b
    hermes reload
    """
    told = get(url, "/v1/reload", "POST", shape=Reloaded)
    if as_json:
        say_json(told)
        return
    say("the configuration was read anew")
    for key in told["needs_restart"]:
        say(escaped(f"needs a restart: {key}"))
