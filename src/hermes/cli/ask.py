"""`hermes ask`: a prompt to a model, the answer to the terminal as it comes."""

import json
import sys
from typing import Any

import click

from hermes.cli.options import fail, say
from hermes.cli.remote import json_lines_option, lines, model_argument, model_path, url_option
from hermes.cli.shapes import Piece, Told


@click.command("ask")
@model_argument
@click.argument("prompt", nargs=-1, metavar="[PROMPT]")
@click.option("--system", help="What the model is told to be.")
@click.option("--max-tokens", type=int, help="The longest answer, in tokens.")
@click.option("--temperature", type=float, help="0 for always the same answer.")
@click.option("--stats", is_flag=True, help="Afterwards, tokens and times on standard error.")
@json_lines_option
@url_option
def command(
    model: str,
    prompt: tuple[str, ...],
    system: str | None,
    max_tokens: int | None,
    temperature: float | None,
    stats: bool,
    as_json: bool,
    url: str,
) -> None:
    """Ask MODEL and print its answer as it comes. Without PROMPT, or with -, it is read from standard input.

    \b
    hermes ask gemma "Explain relativity"
    git diff | hermes ask gemma - --system "Write a commit message for this diff"
    """
    if len(prompt) > 1:
        raise click.UsageError(f"the prompt is one argument: quote it, as in '{' '.join(prompt)}'")
    options = {"max_tokens": max_tokens, "temperature": temperature}
    text = _from_stdin() if prompt in ((), ("-",)) else prompt[0]
    asked: dict[str, Any] = {"prompt": text, "system": system, "stream": True}
    asked["options"] = {name: value for name, value in options.items() if value is not None}
    body = {name: value for name, value in asked.items() if value}
    events = lines(url, model_path(model), body, Piece, Told)
    if as_json:
        for event in events:
            say(json.dumps(event))
        return
    begun = has_text = False
    try:
        for event in events:
            begun = True
            if "delta" in event:
                has_text = True
                say(event["delta"], nl=False)
    finally:
        if begun:  # what else is told, such as an error, begins on a line of its own
            say()
    if not has_text:
        click.echo(f"hermes: the answer has no text ({event['reason']})", err=True)
    if stats:
        click.echo(_stats(event), err=True)


def _from_stdin() -> str:
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        fail(f"standard input is not UTF-8 at byte {error.start}", 2)


def _stats(event: dict[str, Any]) -> str:
    usage, timings = event["usage"], event["timings"]
    times = ", ".join(f"{name.removesuffix('_ms')} {value / 1000:.2f} s" for name, value in timings.items())
    return f"{usage['prompt_tokens']} tokens in, {usage['completion_tokens']} out; {times}"
