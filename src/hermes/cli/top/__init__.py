"""`hermes top`: what goes on, on the terminal, as it happens."""

import json
import os
import sys
from urllib.parse import urlsplit

import click

from hermes.cli.feed import SILENCE_S, follow
from hermes.cli.options import fail, say
from hermes.cli.remote import events, json_lines_option, url_option


@click.command("top")
@click.option("--once", is_flag=True, help="Print how it is now, and end.")
@json_lines_option
@url_option
def command(once: bool, as_json: bool, url: str) -> None:
    """Watch models, memory, queue and tenants, and act on them by keys. With a key: what is yours, or all to operators.

    Needs a terminal, but for --once and --json: with that a line each second, as GET /v1/events has its `state`.

    \b
    hermes top
    hermes top --once
    hermes top --once --json | jq .queue.lines
    """
    if as_json:
        looks = events(url, "/v1/events", SILENCE_S, {}) if once else follow(url, {})
        for name, told in looks:
            if name == "state":
                say(json.dumps(told))
                if once:
                    return
            elif name == "lost":
                click.echo(f"hermes: {told}. Trying again", err=True)
        return
    if once:
        _print(url)
    elif sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown"):
        from hermes.cli.top.screen import Screen
        from hermes.cli.top.watch import Watch

        watch = Watch(url)
        watch.start()
        sys.exit(Screen(watch, _place(url)).show())
    else:
        fail("top draws on a terminal, and this is none: --once prints how it is now, --json what goes on", 2)


def _print(url: str) -> None:
    from rich.console import Console

    from hermes.cli.top.frame import frame
    from hermes.cli.top.view import View
    from hermes.cli.top.watch import look

    for line in frame(look(url), View(), max(80, Console().width), None, _place(url)):
        say(line.plain.rstrip())


def _place(url: str) -> str:
    parts = urlsplit(url)
    return parts.netloc or parts.path
