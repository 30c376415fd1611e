"""`hermes pull`: have a backend download a model, with a progress bar."""

import json
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from hermes.cli.options import plain, say
from hermes.cli.remote import json_lines_option, lines, model_argument, model_path, url_option
from hermes.cli.shapes import Download


@click.command("pull")
@model_argument
@click.option("--no-load", is_flag=True, help="Only download; do not bring it into memory.")
@json_lines_option
@url_option
def command(model: str, no_load: bool, as_json: bool, url: str) -> None:
    """Have the backend download MODEL, then load it.

    \b
    hermes pull gemma3:12b
    hermes pull hf.co/owner/name:Q4_K_M --no-load
    """
    events = lines(url, model_path(model, "pull"), {"load": not no_load}, Download, dict)
    if as_json:
        for event in events:
            say(json.dumps(event))
        return
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console) as progress:
        bars: dict[str, TaskID] = {}
        for event in events:
            if not event.get("done"):
                _show(progress, bars, event)
    say(f"{model} is there" + ("" if no_load else " and loaded"))


def _show(progress: Progress, bars: dict[str, TaskID], event: dict[str, Any]) -> None:
    digest, status = event.get("digest", ""), plain(event.get("status", ""))
    if not digest:
        progress.console.print(status, markup=False, highlight=False)
    elif digest not in bars:
        bars[digest] = progress.add_task(escape(status), total=event.get("total"), completed=event.get("completed", 0))
    else:
        progress.update(bars[digest], completed=event.get("completed", 0))
