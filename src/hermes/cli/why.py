"""`hermes why`: why a request waited."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import click

from hermes.cli.ending import complete
from hermes.cli.options import say, say_json, seconds
from hermes.cli.queue import state
from hermes.cli.remote import Refused, get, json_option, url_option
from hermes.cli.shapes import One
from hermes.lines import escaped


@click.command("why")
@click.argument("request_id")
@json_option
@url_option
def command(request_id: str, as_json: bool, url: str) -> None:
    """Tell why a request waited: who was ahead, what ran, which models held the memory.

    REQUEST_ID is the x-request-id of its answer, which hermes queue and hermes logs list: one of the last 10,000.
    Of the last 1,000 its end is enough.

    \b
    hermes why 3f6c0a9d1b52e87f4a0c10000042
    hermes why 10000042
    """
    try:
        told = request(url, request_id)
    except Refused as refused:
        told = request(url, complete(url, request_id, refused))
    if as_json:
        say_json(told)
    else:
        say("\n".join(map(escaped, _lines(told))))


def request(url: str, id: str) -> Any:
    return get(url, f"/v1/requests/{quote(id, safe='')}", shape=One)


def _lines(told: dict[str, Any]) -> Iterator[str]:
    asked = f" instead of {told['asked']}" if "asked" in told else ""
    yield f"{told['request_id']}: {told['model']}{asked}, {told['class']}, {end(told)}"
    why = told.get("why")
    if why is None:
        refused = told["state"] == "done" and "queue_ms" not in told
        yield "it was refused as it came" if refused else "it did not wait: there was a free slot when it came"
        return
    eta = f"about {seconds(why['eta_ms'])}, in nine of ten cases at most {seconds(why['eta_high_ms'])}"
    waited = f"; it was {seconds(told['queue_ms'])}" if "queue_ms" in told else ""
    yield f"when it came it was number {why['position']} in its line, and the wait was predicted as {eta}{waited}"
    yield _MODEL_WAS.get(why["model_was"], f"its model was {why['model_was']}")
    if why["waiting"]:
        yield f"in its line waited: {', '.join(f'{count} {name}' for name, count in why['waiting'].items())}"
    for model in why["in_memory"]:
        settling = f", {model['settling']} still reading for clients that have left" if model["settling"] else ""
        busy = f"{model['running']} of {model['slots']} slots in use{settling}, {model['waiting']} waiting"
        yield f"in memory on {model['backend']}: {model['model']}, {busy}"
    for change in why["changes"]:
        verb = "was loading" if change["loading"] else "was about to load"
        room = f" in place of {', '.join(change['victims'])}" if change["victims"] else ""
        yield f"{change['backend']} {verb} {change['model']}{room}"
    for backend, reason in why["pressed"].items():
        yield f"loads on {backend} waited: {reason}"


_MODEL_WAS = {
    "hit": "its model was loaded, and none of its slots was free",
    "coming": "its model was not loaded yet, but on its way",
    "pulling": "its model was being pulled",
    "absent": "its model was not loaded, and others held the memory",
}


def end(told: dict[str, Any]) -> str:
    match told:
        case {"state": "done", "outcome": outcome, "duration_ms": duration_ms}:
            return f"{told.get('code') or outcome} after {seconds(duration_ms)}"
        case _:
            return state(told)
