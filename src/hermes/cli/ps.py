"""`hermes ps`: which models are in memory."""

from datetime import UTC, datetime
from typing import Any

import click

from hermes.cli.options import columns, gib, say, say_json
from hermes.cli.remote import get, json_option, url_option
from hermes.cli.shapes import Status
from hermes.cli.status import changes
from hermes.lines import escaped

# Ollama writes "for ever" as a time centuries from now.
_FOR_EVER_S = 10 * 365 * 86_400


@click.command("ps")
@json_option
@url_option
def command(as_json: bool, url: str) -> None:
    """Show the models that are in memory: where, how much of it, how busy, and until when if nobody asks.

    \b
    hermes ps
    hermes ps --json | jq -r '.[].model'
    """
    status = get(url, "/v1/status", shape=Status)
    models = [
        {"model": model.pop("name"), "backend": backend["name"], **model}
        for backend in status["backends"]
        for model in backend["loaded"]
    ]
    if as_json:
        say_json(models)
        return
    now = datetime.now(UTC)
    rows = [("MODEL", "BACKEND", "MEMORY", "PROCESSOR", "SLOTS", "UNTIL"), *(_row(model, now) for model in models)]
    say("\n".join(columns(rows)))
    for backend in status["backends"]:
        for change in changes(backend):
            say(escaped(f"{backend['name']} is {change}"))


def _row(model: dict[str, Any], now: datetime) -> tuple[str, ...]:
    size_bytes = model["size_bytes"]
    slots = f"{model.get('running', 0)} of {model['slots']}" if "slots" in model else "-"
    memory, where = (gib(size_bytes), processor(model)) if size_bytes else ("-", "-")
    return model["model"], model["backend"], memory, where, slots, until(model, now)


def processor(model: dict[str, Any]) -> str:
    """How much of it is on the GPU, in the words of `ollama ps`."""
    on_gpu = round(100 * model["vram_bytes"] / model["size_bytes"])
    return f"{on_gpu}% GPU" if on_gpu == 100 else "100% CPU" if on_gpu == 0 else f"{100 - on_gpu}%/{on_gpu}% CPU/GPU"


def until(model: dict[str, Any], now: datetime) -> str:
    """When its backend lets it go. Of one that runs that is not known yet: it counts from its end."""
    if model.get("running"):
        return "in use"
    try:
        left_s = (datetime.fromisoformat(model["expires_at"]) - now).total_seconds()
    except (ValueError, TypeError):  # none, or without a zone
        return "-"
    if left_s > _FOR_EVER_S:
        return "for ever"
    return f"in {left_s / 60:.0f} min" if left_s >= 100 else f"in {max(0.0, left_s):.0f} s"
