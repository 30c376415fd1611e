"""`hermes bench`: load for a server, and what came of it."""

import asyncio
import resource
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from hermes.cli import bench_job
from hermes.cli import bench_options as options
from hermes.cli.amounts import Number
from hermes.cli.bench_options import Rate, Span
from hermes.cli.loop import run
from hermes.cli.options import fail, say
from hermes.cli.remote import url_option
from hermes.load.asking import APIS
from hermes.load.figures import Figures
from hermes.load.job import Job, carry_out
from hermes.load.page import page
from hermes.load.run import TurnedAway
from hermes.load.table import table
from hermes.load.tally import Tally

_LASTS = Span(zero=False)
_COUNT = click.IntRange(min=1)
_SHARE = Number(0, 1)
_RATE = Rate(min=0, min_open=True)
_READ = click.Path(exists=True, dir_okay=False, path_type=Path)
_WHAT_TO_DO = {
    401: "name a key that it knows: HERMES_API_KEY=..., or --keys FILE",
    403: "another key may be allowed to: HERMES_API_KEY=..., or --keys FILE",
    404: "is the model's name one that the server lists, and the path of --url right?",
}
_WRITTEN = click.Path(dir_okay=False, path_type=Path)


@click.command("bench")
@click.argument("models", nargs=-1, metavar="[MODEL[=SHARE]]...", callback=options.models)
@url_option
@click.option(
    "--api", type=click.Choice([*APIS, "plain"]), help="What it speaks.  [default: as the URL says, or openai]"
)
@click.option("--connections", "-c", type=_COUNT, metavar="N", help="At once.  [default: 8; with arrivals no bound]")
@click.option("--rate", "-r", type=_RATE, metavar="R", help="Requests a second, whatever becomes of them.")
@click.option("--arrivals", type=click.Choice(("poisson", "constant", "trace", "closed")), help="When they are sent.")
@click.option("--trace", type=_READ, callback=options.trace, metavar="FILE", help="As hermes replay reads them.")
@click.option("--duration", "-d", type=_LASTS, metavar="T", help="For how long requests are sent.  [default: 30s]")
@click.option("--requests", "-n", type=_COUNT, metavar="N", help="So many, instead or at most.")
@click.option("--warmup", type=Span(), default="0", metavar="T", help="Before, sent but not counted.")
@click.option("--think", type=Span(), default="0", metavar="T", help="Mean pause before a connection asks again.")
@click.option("--timeout", type=Span(zero=False), default="2m", show_default=True, metavar="T", help="For each answer.")
@click.option(
    "--prompt",
    metavar="TOKENS",
    callback=options.tokens,
    help="200, 50-400, or lognormal:200,900 (median, p95).  [default: 200]",
)
@click.option(
    "--output",
    metavar="TOKENS",
    callback=options.tokens,
    help="The longest answer, written the same way.  [default: 100]",
)
@click.option("--streamed", type=_SHARE, default=1.0, show_default=True, metavar="X", help="The share of streams.")
@click.option("--cancel", type=_SHARE, default=0.0, metavar="X", help="The share of clients that leave, in any phase.")
@click.option("--class", "classes", multiple=True, metavar="NAME[=X]", callback=options.shares, help="x-hermes-class.")
@click.option("--keys", type=_READ, callback=options.keys, metavar="FILE", help="Tenants: lines of KEY or NAME=KEY.")
@click.option("--header", "headers", multiple=True, metavar="LINE", callback=options.headers, help="'name: value'.")
@click.option("--extra", metavar="JSON", callback=options.extra, help="Laid over each body: '{\"temperature\": 0}'.")
@click.option("--alike", is_flag=True, help="Prompts that begin alike, so that a server need not read them again.")
@click.option("--body", metavar="TEXT", callback=options.content, help="With --api plain: to POST; @FILE: from there.")
@click.option(
    "--slo", metavar="LIMITS", callback=options.slo, help="What a good answer keeps: ttft=2s,tpot=90ms,e2e=30s."
)
@click.option("--seed", type=int, default=1, show_default=True, help="Of what is drawn.")
@click.option("--json", "as_json", is_flag=True, help="Print all figures as JSON.")
@click.option("--html", type=_WRITTEN, metavar="FILE", help="Write a report with plots.")
def command(as_json: bool, html: Path | None, **given: Any) -> None:
    """Send load to a server that speaks OpenAI's API, Ollama's or Hermes's own, and tell how it did.

    Without a rate it is a closed loop: a connection asks again when it is answered. With one it is open: requests
    are sent when they are due, and their times count from then.

    \b
    hermes bench gemma
    hermes bench gemma --rate 5 --duration 2m --slo ttft=2s,e2e=30s --html report.html
    hermes bench gemma=0.8 qwen3=0.2 --rate 3 --prompt lognormal:400,3000 --output 50-500 --cancel 0.05
    hermes bench --trace access.log --url http://127.0.0.1:8000/v1 --json
    hermes bench --api plain --url http://127.0.0.1:8080/index.html --connections 64 --duration 10s
    """
    job = bench_job.read(**given)
    _let_open_files()
    try:
        found = run(_shown(job))
    except TurnedAway as refusal:
        fail(f"stopped, the server says {refusal}\n{_WHAT_TO_DO[refusal.status]}", 1)
    if html:
        try:
            html.write_text(page(found), encoding="utf-8")
        except OSError as error:
            fail(f"cannot write {html}: {error.strerror}", 1)
    say(msgspec.json.encode(found).decode() if as_json else table(found))
    if not found.all.answered:
        sys.exit(1)


def _let_open_files() -> None:
    """A connection is a file: as many as we may have."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _shown(job: Job) -> Figures:
    """With a bar on the terminal, if there is one."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    await _knock(job)
    with Progress(*columns, console=Console(stderr=True), auto_refresh=False, transient=True) as progress:
        if not progress.console.is_terminal:
            return await carry_out(job)
        lasts_s = job.warmup_s + job.duration_s if job.duration_s else None
        bar = progress.add_task("", total=lasts_s or job.requests)

        def show(tally: Tally, passed_s: float) -> None:
            told = f"{tally.ended:,} over, {tally.failed:,} failed, {tally.in_flight:,} under way"
            progress.update(bar, description=told, completed=passed_s if lasts_s else tally.ended, refresh=True)

        return await carry_out(job, show)


class _Knock(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).abort()


async def _knock(job: Job) -> None:
    """Exits with a message where nobody is there at all: 30 seconds of refused connections tell no more."""
    try:
        await job.origin.connect(_Knock)
    except OSError as error:
        fail(f"no server answers at {job.origin.url}: {error.strerror or error}. Another one is named by --url", 3)
