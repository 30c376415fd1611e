"""`hermes pull`: have a backend download a model, with a progress bar."""

from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from hermes.cli.options import fail, say
from hermes.cli.remote import lines, model_argument, model_path, url_option


@click.command("pull")
@model_argument
@click.option("--no-load", is_flag=True, help="Only download; do not bring it into memory.")
@url_option
def command(model: str, no_load: bool, url: str) -> None:
    """Have the backend download MODEL, then load it.

    \b
    hermes pull gemma3:12b
    hermes pull hf.co/owner/name:Q4_K_M --no-load
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console) as progress:
        if not _follow(progress, url, model, load=not no_load):
            fail("the download ended before it was complete", 1)
    say(f"{model} is there" + ("" if no_load else " and loaded"))


def _follow(progress: Progress, url: str, model: str, load: bool) -> bool:
    bars: dict[str, TaskID] = {}
    for event in lines(url, model_path(model, "pull"), {"load": load}):
        if event.get("done"):
            return True
        _show(progress, bars, event)
    return False


def _show(progress: Progress, bars: dict[str, TaskID], event: dict[str, Any]) -> None:
    digest, status = event.get("digest", ""), event.get("status", "")
    if not digest:
        progress.console.print(status)
    elif digest not in bars:
        bars[digest] = progress.add_task(status, total=event.get("total"), completed=event.get("completed", 0))
    else:
        progress.update(bars[digest], completed=event.get("completed", 0))
