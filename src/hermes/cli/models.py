"""`hermes models`: what can be asked."""

from datetime import datetime
from typing import Annotated, TypedDict

import click
from msgspec import Meta

from hermes.cli.options import columns, say, say_json
from hermes.cli.remote import get, json_option, url_option

# The end of the last year that a date has.
_Moment = Annotated[float, Meta(ge=0, lt=253_402_300_800)]


class _Model(TypedDict):
    id: str
    created: _Moment | None
    capabilities: list[str]


class _Listing(TypedDict):
    data: list[_Model]


@click.command("models")
@json_option
@url_option
def command(as_json: bool, url: str) -> None:
    """List the models that the server offers.

    \b
    hermes models
    HERMES_API_KEY=sk-... hermes models --json
    """
    listing = get(url, "/v1/models", shape=_Listing)
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
