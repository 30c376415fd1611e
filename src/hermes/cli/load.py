"""`hermes load`: have a model in memory before anybody asks for it."""

import click

from hermes.cli.options import say, say_json
from hermes.cli.remote import get, json_option, model_argument, model_path, url_option
from hermes.cli.shapes import HasLoaded


@click.command("load")
@model_argument
@json_option
@url_option
def command(model: str, as_json: bool, url: str) -> None:
    """Have MODEL loaded; ends when it is. It makes room by the rules for requests: nothing that runs has to go for it.

    \b
    hermes load gemma3:12b
    """
    told = get(url, model_path(model, "load"), "POST", shape=HasLoaded)
    if as_json:
        say_json(told)
    else:
        say(f"{told['model']} is loaded on {', '.join(told['loaded'])}")
