"""What several verbs share: finding the configuration, printing, and failing with one clear line."""

import errno
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

import click

from hermes.config import Config
from hermes.config.load import Source
from hermes.errors import ConfigError
from hermes.lines import escaped

config_option = click.option(
    "--config",
    "path",
    metavar="FILE",
    help="The configuration file. Default: hermes.yaml, where docs/configuration.md says.",
)


def load_or_exit(source: Source) -> Config:
    """The configuration in force; on a mistake says all that is wrong and exits with 2."""
    try:
        config = source.read()
    except ConfigError as error:
        fail(str(error), 2)
    return config


class Failed(click.ClickException):
    """Ends a verb: what it tells, and the code that it exits with."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.exit_code = code  # type: ignore[misc]

    def show(self, file: IO[Any] | None = None) -> None:
        for line in plain(self.message).splitlines():
            click.echo(f"hermes: {line}", file, err=True)


def fail(message: str, code: int) -> NoReturn:
    raise Failed(message, code)


def say(text: str = "", nl: bool = True) -> None:
    """Print to standard output. Where nobody takes it: a reader that has left is told nothing, a full disk is."""
    charset = sys.stdout.encoding or "utf-8"  # which may be ASCII, and nobody's has halves of characters
    text = text.encode(charset, "backslashreplace").decode(charset)
    try:
        click.echo(plain(text) if sys.stdout.isatty() else text, nl=nl)
    except OSError as error:
        nobody_reads()
        if isinstance(error, BrokenPipeError):
            sys.exit(1)
        fail(f"cannot write the answer: {error.strerror}", 1)


def nobody_reads() -> None:
    """What is left in the buffer has to go somewhere when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def say_json(told: Any) -> None:
    say(json.dumps(told, indent=2))


# Names, models' answers and backends' errors are others' words. What drives a terminal, or turns the line around:
# C0 and C1 but tab and newline, line separators, directions; and halves of characters, which cannot be printed.
_DRIVES = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def plain(text: str) -> str:
    """What may be shown on a terminal, whoever wrote it."""
    return _DRIVES.sub("\ufffd", text)


def columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of a table, each column as wide as what is in it. No name can pretend to be the next line."""
    shown = [[escaped(cell) for cell in row] for row in rows]
    widths = [max(map(len, cells)) for cells in zip(*shown, strict=True)]
    for row in shown:
        yield "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def seconds(ms: int) -> str:
    return f"{ms / 1000:.1f} s"


def gib(size_bytes: int) -> str:
    """What a model takes, a small one's in MiB."""
    return f"{size_bytes / 2**30:.2f} GiB" if size_bytes >= 2**30 else f"{size_bytes / 2**20:.0f} MiB"


def called() -> str:
    """The program, as it can be called again: by its name where PATH leads to it, else as it was."""
    program = Path(sys.argv[0])
    if program.name not in ("hermes", "hermes-sidecar"):  # python -m hermes
        return "hermes"
    from shutil import which

    found = which(program.name)
    return program.name if found and Path(found).resolve() == program.resolve() else str(program)


def is_taken(error: BaseException | None) -> bool:
    """Whether listening failed because somebody else listens there."""
    return isinstance(error, OSError) and error.errno == errno.EADDRINUSE
