"""`hermes models`: what can be asked."""

import json
from datetime import datetime

import click

from hermes.cli.remote import get, json_option, url_option


@click.command("models")
@json_option
@url_option
def command(as_json: bool, url: str) -> None:
    """List the models that the server offers.

    \b
    hermes models
    HERMES_API_KEY=sk-... hermes models --json
    """
    listing = get(url, "/v1/models")
    if as_json:
        click.echo(json.dumps(listing, indent=2))
        return
    rows = [("MODEL", "CREATED", "CAPABILITIES")]
    for model in listing["data"]:
        created = datetime.fromtimestamp(model["created"]).strftime("%Y-%m-%d") if model["created"] else "-"
        rows.append((model["id"], created, ", ".join(model["capabilities"]) or "-"))
    width = max(len(row[0]) for row in rows)
    for row in rows:
        click.echo(f"{row[0]:{width}}  {row[1]:10}  {row[2]}")
