"""`hermes logs`: the requests that are over, and each as it ends."""

import json
from collections import deque
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import click
from msgspec import convert

from hermes.cli.feed import LOST, follow
from hermes.cli.options import say
from hermes.cli.remote import get, json_lines_option, url_option
from hermes.cli.shapes import Ended, Missed, Past
from hermes.lines import escaped, line
from hermes.record import Record

# What the server lists at most.
_MOST = 1000


@click.command("logs")
@click.option(
    "-n", "--last", type=click.IntRange(0, _MOST), default=20, show_default=True, help="How many that are over."
)
@click.option("-f", "--follow", is_flag=True, help="Go on with each as it ends, until Ctrl-C.")
@click.option("--model", help="Of this model alone.")
@click.option("--user", help="Of this user alone.")
@click.option("--outcome", help="With this outcome alone: ok, queue_full, upstream_error ...")
@json_lines_option
@url_option
def command(
    last: int, follow: bool, model: str | None, user: str | None, outcome: str | None, as_json: bool, url: str
) -> None:
    """Show the last requests that are over, the newest one last. With a key: your own, or everybody's to operators.

    As lines to read, each with when it ended, or with --json as the access log has them. What is refused as it comes
    (no key, no such model) is not kept: --follow tells it, too.

    \b
    hermes logs --follow
    hermes logs --last 1000 --outcome upstream_error --json | jq -r .request_id
    """
    wanted = {name: said for name, said in (("model", model), ("user", user), ("outcome", outcome)) if said is not None}
    records = _follow(url, wanted, last) if follow else _last(url, wanted, last)
    for record in records:
        say(json.dumps(record) if as_json else _line(record))
    if last and not records:
        _warn("no request that is over is like that" if wanted else "no request is over yet")


def _last(url: str, wanted: dict[str, str], count: int) -> list[dict[str, Any]]:
    """The oldest first."""
    if not count:
        return []
    return list(reversed(get(url, f"/v1/requests?{urlencode({'limit': count, **wanted})}", shape=Past)["data"]))


def _follow(url: str, wanted: dict[str, str], count: int) -> Iterator[dict[str, Any]]:
    """The last ones, then each as it ends. After a lost connection first those that have ended meanwhile."""
    known: deque[dict[str, Any]] = deque(maxlen=2 * _MOST)
    most: int | None = count  # then all that are not known
    listed = False
    for name, told in follow(url, {"request": Ended, "missed": Missed}):
        if name == LOST:
            _warn(f"{told}. Trying again")
            listed = False
        elif not listed:  # from now on none is missed
            ended = [record for record in _last(url, wanted, _MOST) if record not in known]
            known.extend(ended)
            yield from ended if most is None else ended[len(ended) - min(most, len(ended)) :]
            listed, most = True, None
        elif name == "missed":
            _warn(f"{told['requests']} more have ended: too many at once to be told")
        elif name == "request" and _matters(told) and wanted.items() <= told.items() and told not in known:
            known.append(told)
            yield told


def _warn(words: str) -> None:
    click.echo(escaped(f"hermes: {words}"), err=True)


def _matters(record: dict[str, Any]) -> bool:
    """It has asked for tokens, or somebody was told no; not each look of an operator's."""
    return "class" in record or record["status"] >= 400


def _line(record: dict[str, Any]) -> str:
    """As the server's log has it for people; what a later version may tell, as it is."""
    try:
        return line(convert(record, Record))
    except ValueError:
        return json.dumps(record)
