"""`hermes drain`: have nothing new start on a backend."""

from urllib.parse import quote

import click

from hermes.cli.options import say, say_json
from hermes.cli.remote import get, json_option, url_option
from hermes.cli.shapes import Turned
from hermes.lines import escaped


@click.command("drain")
@click.argument("backend")
@click.option("--resume", is_flag=True, help="Have it take work again.")
@json_option
@url_option
def command(backend: str, resume: bool, as_json: bool, url: str) -> None:
    """Start nothing new on BACKEND, one of the configured names; what runs there ends. Until --resume, or a restart.

    \b
    hermes drain gpu1
    hermes drain gpu1 --resume
    """
    verb = "resume" if resume else "drain"
    told = get(url, f"/v1/backends/{quote(backend, safe='')}/{verb}", "POST", shape=Turned)
    if as_json:
        say_json(told)
        return
    state = "drains" if told["draining"] else "takes work"
    say(escaped(f"backend {told['backend']} {state}, {told['active']} running"))
