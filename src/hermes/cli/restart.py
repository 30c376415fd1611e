"""`hermes restart`: have another process go on, without anybody noticing."""

import os
from pathlib import Path

import click

from hermes import composition
from hermes.cli.options import config_option, fail, load_or_exit, say, say_json
from hermes.cli.reach import answers
from hermes.cli.remote import get, json_option
from hermes.cli.shapes import Restarted
from hermes.config.load import Source


@click.command("restart")
@json_option
@config_option
def command(as_json: bool, path: str | None) -> None:
    """Have the Hermes that runs on this machine replaced by one that starts now: of the same command, from the program
    and the files as they are now.

    The new one takes its sockets, what waits and what may still be used; the old one ends what it has begun. Where the
    new one cannot start everything stays as it is, and this exits with 1.

    \b
    hermes restart
    """
    socket = composition.admin_socket(load_or_exit(Source(path, os.environ, {}, Path.cwd())), os.environ)
    if socket is None:
        fail("it has no admin.unix_socket by which to ask for that; send it SIGUSR2", 2)
    if not answers(socket):
        fail(f"no Hermes answers at {socket}. Start one with: hermes serve; another --config may name another place", 3)
    told = get(f"unix://{socket}", "/admin/restart", "POST", shape=Restarted)
    if as_json:
        say_json(told)
    else:
        say(f"process {told['pid']} goes on, in the background: kill {told['pid']} stops it")
