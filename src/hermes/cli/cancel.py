"""`hermes cancel`: send a request away."""

from urllib.parse import quote

import click

from hermes.cli.ending import complete
from hermes.cli.options import fail, say, say_json
from hermes.cli.remote import Refused, get, json_option, url_option
from hermes.cli.shapes import Cancelled
from hermes.cli.why import end, request
from hermes.lines import escaped


@click.command("cancel")
@click.argument("request_id")
@json_option
@url_option
def command(request_id: str, as_json: bool, url: str) -> None:
    """Send a request away, whether it waits or runs. With a key: your own, or anybody's to operators.

    REQUEST_ID is what hermes queue shows, and the x-request-id of its answer; its end, as hermes top has it, is enough.

    \b
    hermes cancel 3f6c0a9d1b52e87f4a0c10000042
    hermes queue --json | jq -r '.data[] | select(.user == "batch").request_id' | xargs -n1 hermes cancel
    """
    try:
        told = _cancelled(url, request_id)
    except Refused as refused:
        id = complete(url, request_id, refused)
        if (past := request(url, id))["state"] == "done":
            fail(f"{id} is over already: {end(past)}", 1)
        told = _cancelled(url, id)
    if as_json:
        say_json(told)
    else:
        say(escaped(f"{told['request_id']} of {told['user']} for {told['model']} is cancelled"))


def _cancelled(url: str, id: str) -> Cancelled:
    told: Cancelled = get(url, f"/v1/queue/{quote(id, safe='')}", "DELETE", shape=Cancelled)
    return told
