"""`hermes status`: what the running server is doing."""

from collections.abc import Iterator, Mapping
from typing import Any

import click

from hermes.cli.options import gib, say, say_json, seconds
from hermes.cli.remote import get, json_option, url_option
from hermes.cli.shapes import Status
from hermes.lines import escaped


@click.command("status")
@json_option
@url_option
def command(as_json: bool, url: str) -> None:
    """Show backends, loaded models, what runs and what waits.

    \b
    hermes status
    hermes status --json --url https://gpu.example.org
    """
    status = get(url, "/v1/status", shape=Status)
    if as_json:
        say_json(status)
    else:
        say("\n".join(map(escaped, _lines(status))))


def _lines(status: dict[str, Any]) -> Iterator[str]:
    requests = status["requests"]
    yield f"Hermes {status['version']}: {status['status']}, up {status['uptime_s']:.0f} s"
    yield f"requests: {requests['active']} running, {requests['queued']} waiting"
    if (last := status.get("reload")) and last["result"] == "refused":
        yield f"the configuration that was read last was refused: {last.get('error') or 'the log says why'}"
    for backend in status["backends"]:
        simulated = ", SIMULATED" if backend["simulated"] else ""
        draining = ", draining" if backend.get("draining") else ""
        error = f": {backend['error']}" if backend.get("error") else ""
        kind = f"{backend['kind']} {backend['version']}".rstrip() + simulated
        yield f"backend {backend['name']} ({kind}): {backend['state']}{draining}{error}"
        for each in backend.get("health", ()):
            if each["state"] != "closed":
                why = f": {each['why']}" if each.get("why") else ""
                who = "every model" if each["model"] == "*" else each["model"]
                yield f"  {who} is {each['state'].replace('_', ' ')}{why}"
        for model in backend["loaded"]:
            yield f"  loaded {model['name']}: {gib(model['size_bytes'])}"
        for process in backend.get("processes", ()):
            where = f", process {process['pid']} on port {process['port']}" if process["pid"] else ""
            again = f", restarts: {process['restarts']}" if process["restarts"] else ""
            error = f": {process['error']}" if process.get("error") else ""
            yield f"  {process['model']} {process['state']}{where}{again}{error}"
            yield from (f"    {line}" for line in process.get("last_words", ()))
        yield from (f"  {each}" for each in changes(backend))
        for pull in backend.get("pulling", ()):
            yield f"  pulling {pull['model']}: {pull['percent']} %"
        if backend.get("hint"):
            yield f"  hint: {backend['hint']}"
    for name, model in status["models"].items():
        if model["active"] or model["queued"]:
            yield f"model {name}: {model['active']} running, {model['queued']} of {model['queue_limit']} waiting"


def changes(backend: Mapping[str, Any]) -> Iterator[str]:
    """What is on its way into a backend's memory, and what goes for it."""
    for change in backend.get("changes", ()):
        verb = "loading" if change["loading"] else "about to load"
        room = f" in place of {', '.join(change['victims'])}" if change["victims"] else ""
        since = f" for {seconds(change['for_ms'])}" if change["loading"] else ""
        yield f"{verb} {change['model']}{room}{since}"
