"""`hermes unload`: have a model's memory back."""

import click

from hermes.cli.options import say, say_json
from hermes.cli.remote import get, json_option, model_argument, model_path, url_option
from hermes.cli.shapes import HasUnloaded


@click.command("unload")
@model_argument
@json_option
@url_option
def command(model: str, as_json: bool, url: str) -> None:
    """Have MODEL unloaded, wherever it is loaded. What runs on it ends first; whoever asks for it has it loaded again.

    \b
    hermes unload gemma3:12b
    """
    told = get(url, model_path(model, "unload"), "POST", shape=HasUnloaded)
    if as_json:
        say_json(told)
    elif not told["unloading"]:
        say(f"{told['model']} is not loaded")
    else:
        first = f", {told['active']} running on it end first" if told["active"] else ""
        say(f"{told['model']} is let go from {', '.join(told['unloading'])}{first}")
