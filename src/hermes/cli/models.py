"""`hermes models`: what can be asked."""

from datetime import datetime

import click

from hermes.cli.options import columns, say, say_json
from hermes.cli.remote import get, json_option, url_option
from hermes.cli.shapes import Listing


@click.command("models")
@json_option
@url_option
def command(as_json: bool, url: str) -> None:
    """List the models that the server offers.

    \b
    hermes models
    HERMES_API_KEY=sk-... hermes models --json
    """
    listing = get(url, "/v1/models", shape=Listing)
    if as_json:
        say_json(listing)
        return
    rows = [("MODEL", "CREATED", "CAPABILITIES")]
    by_name = {model["id"]: model for model in listing["data"]}
    for name, model in by_name.items():
        short = name.removesuffix(":latest")
        if short != name and model | {"id": short} == by_name.get(short):
            continue  # one model by the name that it was given here and by its backend's
        created = datetime.fromtimestamp(model["created"]).strftime("%Y-%m-%d") if model["created"] else "-"
        capabilities = model["capabilities"]
        told = ", ".join(capabilities) or "-"
        if capabilities and not {"completion", "embedding"}.intersection(capabilities):
            told += " (cannot be asked)"
        rows.append((name, created, told))
    say("\n".join(columns(rows)))
