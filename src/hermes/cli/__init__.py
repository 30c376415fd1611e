"""The command line: one short file per verb, imported when it is asked for.

Exit codes: 0 done, 1 the server said no or failed, 2 wrong usage or configuration, 3 no server answered, 130 Ctrl-C.
"""

import errno
import os
import sys
from importlib import import_module
from typing import Any

import click

_VERBS = (
    "serve",
    "sim",
    "replay",
    "bench",
    "check",
    "config",
    "doctor",
    "import",
    "status",
    "queue",
    "top",
    "why",
    "logs",
    "usage",
    "models",
    "ps",
    "pull",
    "load",
    "unload",
    "cancel",
    "drain",
    "reload",
    "keys",
    "restart",
    "service",
    "ask",
    "version",
)

_OLLAMAS = {"run": "ask", "list": "models", "ls": "models", "stop": "unload"}  # its words for these
_FILES = {"import": "importing"}  # a word of Python's


class _Verbs(click.Group):
    """Loads a verb's module only when it is used: `hermes serve` does not pay for progress bars."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        command = import_module(f"hermes.cli.{_FILES.get(cmd_name, cmd_name)}").command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from hermes.config.schema import nearest

            close = _OLLAMAS.get(args[0]) or nearest(args[0], _VERBS)
            raise click.UsageError(f"{error.message} Did you mean {close}?", ctx) if close else error from None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            sys.exit(130)  # 128 + SIGINT, as shells have it


def _version(ctx: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        ctx.invoke(import_module("hermes.cli.version").command)
        ctx.exit()


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="The same as hermes version."
)
def cli() -> None:
    """A small gateway in front of the LLM servers on your own hardware.

    \b
    hermes serve                        in front of the Ollama on this machine
    hermes serve --simulate             without any, with simulated models
    hermes ask gemma "Explain tides"    ask the running server
    """


def main() -> None:
    _open_what_is_closed()
    try:
        cli(prog_name="hermes")
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        from hermes.cli.options import nobody_reads

        nobody_reads()
        print(f"hermes: cannot write the answer: {error.strerror}", file=sys.stderr)
        sys.exit(1)
    sys.exit(0)


def _open_what_is_closed() -> None:
    """Where a standard stream was closed, what is opened next would be taken for it: a socket for the output."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(fd, "w" if fd else "r", closefd=False))
