"""`hermes usage`: who has used what."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import click

from hermes.cli.options import say, say_json
from hermes.cli.remote import get, json_option, url_option
from hermes.cli.shapes import Usage
from hermes.lines import escaped


@click.command("usage")
@click.option("--key", help="Of this key alone, by its id or name.")
@click.option("--model", help="Of this model alone, with its tag or without.")
@click.option("--since", metavar="DAY", help="From this day on, as in 2026-11-22.  [default: the first of this month]")
@json_option
@url_option
def command(key: str | None, model: str | None, since: str | None, as_json: bool, url: str) -> None:
    """Show requests and tokens by day, key and model (UTC). With a key: your own, or everybody's to operators.

    \b
    hermes usage
    hermes usage --since 2026-11-01 --model gemma
    hermes usage --json | jq .total
    """
    asked = {name: value for name, value in (("key", key), ("model", model), ("since", since)) if value is not None}
    usage = get(url, "/v1/usage" + (f"?{urlencode(asked)}" if asked else ""), shape=Usage)
    if as_json:
        say_json(usage)
    else:
        named = " with ".join(f"{name} {asked[name]}" for name in ("key", "model") if name in asked)
        say("\n".join(map(escaped, _lines(usage, named))))


def _lines(usage: dict[str, Any], named: str) -> Iterator[str]:
    """`named`: what was asked for alone."""
    if not usage["data"] and named:
        yield f"since {usage['since']} nothing was used by {named}: is there anything of that name?"
        return
    if not usage["data"] and not usage["keys"]:
        yield "nothing is counted: use is counted by key, and there is none. To make one: hermes keys create NAME"
        return
    yield f"since {usage['since']}: {_told(usage['total'])}"
    if usage["has_more"]:
        yield f"... and more: these are the last {len(usage['data'])} rows"
    for row in usage["data"]:
        key = f"{row['key']} ({row['name']})" if row["name"] else row["key"]
        yield f"{row['day']}  {key}  {row['model']}  {_told(row)}"


def _told(use: dict[str, int]) -> str:
    tokens = f"{use['prompt_tokens']} + {use['completion_tokens']} = {use['total_tokens']} tokens"
    return f"{use['requests']} requests, {tokens}" + (f", {use['refused']} refused" if use["refused"] else "")
