"""`hermes queue`: what waits and what runs."""

from collections.abc import Iterator
from typing import Any

import click

from hermes.cli.options import say, say_json, seconds
from hermes.cli.remote import get, json_option, url_option
from hermes.cli.shapes import Queue
from hermes.lines import escaped


@click.command("queue")
@json_option
@url_option
def command(as_json: bool, url: str) -> None:
    """Show the requests that wait and run, in the order of arrival. With a key: your own, or everybody's to operators.

    \b
    hermes queue
    hermes queue --json | jq '.data[] | select(.state == "waiting")'
    """
    queue = get(url, "/v1/queue", shape=Queue)
    if as_json:
        say_json(queue)
    else:
        say("\n".join(_lines(queue)))


def _lines(queue: dict[str, Any]) -> Iterator[str]:
    yield f"{queue['running']} running, {queue['waiting']} waiting"
    for request in queue["data"]:
        who = f"{request['request_id']}  {request['model']}  {request['class']}  {request['user']}"
        yield escaped(f"{who}  {state(request)}, {seconds(request['age_ms'])} old")
    if queue["has_more"]:
        yield f"... and more: these are the first {len(queue['data'])}"


def state(request: dict[str, Any]) -> str:
    """What an open request is at."""
    match request:
        case {"state": "waiting", "position": position, "eta_ms": eta_ms}:
            percent = request.get("pulled_percent")
            pulled = "" if percent is None else f" (its model is being pulled, {percent} %)"
            return f"waiting as number {position}{pulled}, about {seconds(eta_ms)} to go"
        case {"state": "running", "backend": backend, "running_ms": running_ms}:
            return f"running on {backend} for {seconds(running_ms)}"
        case _:
            return str(request["state"])
