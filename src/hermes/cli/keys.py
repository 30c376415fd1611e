"""`hermes keys`: who may call, and how much."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from hermes.cli.amounts import BUDGET, COUNT, DURATION, MOMENT, WEIGHT, is_over, shown
from hermes.cli.options import columns, config_option, fail, say, say_json
from hermes.cli.reach import ask, folder
from hermes.errors import StorageError
from hermes.principal import CLASS_NAMES

_CLASS = click.Choice([*CLASS_NAMES, "none"])

_json_option = click.option("--json", "as_json", is_flag=True, help="Print the answer's JSON as it is.")
_key_argument = click.argument("key")
_FIELDS = (
    click.option("--user", help="Whom it acts for: keys of one user share that user's place. Default: NAME."),
    click.option(
        "--models", multiple=True, metavar="GLOBS", help="What it may ask for: gemma*,qwen3:8b. Default: all."
    ),
    click.option("--rpm", type=COUNT, help="Requests in any minute."),
    click.option("--tpm", type=COUNT, help="Tokens in a minute: 20k."),
    click.option("--concurrency", type=COUNT, help="Requests that run at once."),
    click.option("--budget", type=BUDGET, multiple=True, help="Tokens in a day or month: 1M/day, 20M/month."),
    click.option("--class", "max_class", type=_CLASS, help="No request of it is of a higher class."),
    click.option("--usual-class", type=_CLASS, help="The class of requests that do not say."),
    click.option("--weight", type=WEIGHT, help="Its user's share beside other users. Default: 1."),
    click.option("--expires", type=MOMENT, help="When it ends: 30d, 2027-01-31, never."),
    click.option("--admin/--no-admin", default=None, help="An operator's key."),
    click.option("--metrics/--no-metrics", default=None, help="It may read /metrics."),
)


def _fields(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_FIELDS):
        command = option(command)
    return command


@click.group("keys")
def command() -> None:
    """Make, change and revoke keys: of the server that runs on this machine, or in its file while none does.

    \b
    hermes keys create editor
    hermes keys list
    """


@command.command("create")
@click.argument("name")
@_fields
@_json_option
@config_option
def create(name: str, as_json: bool, path: str | None, **said: Any) -> None:
    """Make a key and print it: the only time that it is seen.

    \b
    hermes keys create editor --models 'gemma*' --rpm 60 --budget 1M/day
    hermes keys create ops --admin --expires 90d
    """
    told = ask(path, "create", asked={"name": name, **_asked(said)})
    words = f"made {told['id']} ({told['name']}): this is shown only once"
    if told.get("first"):
        words += "\nthis is the first key: from now on every request needs one"
        if not told["admin"]:
            words += "\nyours, to see everything: hermes keys create me --admin"
    _hand_over(told, as_json, words)


@command.command("list")
@click.option("--all", "everything", is_flag=True, help="Those that were revoked too.")
@_json_option
@config_option
def list_(everything: bool, as_json: bool, path: str | None) -> None:
    """List the keys that are stored."""
    told = ask(path, "list")
    found = [key for key in told["data"] if everything or key["revoked_at"] is None]
    if as_json:
        say_json({**told, "data": found})
        return
    rows = [("ID", "NAME", "USER", "WHAT"), *((key["id"], key["name"], key["user"], _brief(key)) for key in found)]
    say("\n".join(columns(rows)))


@command.command("show")
@_key_argument
@_json_option
@config_option
def show(key: str, as_json: bool, path: str | None) -> None:
    """Show one key, by its id or its name."""
    _print(ask(path, "show", key), as_json)


@command.command("update")
@_key_argument
@click.option("--name", help="Its new name.")
@_fields
@_json_option
@config_option
def update(key: str, name: str | None, as_json: bool, path: str | None, **said: Any) -> None:
    """Change what is said of a key, from now on. `none` takes a bound away, of models `all` does.

    \b
    hermes keys update editor --rpm 120 --budget none
    """
    asked = _asked(said) | ({} if name is None else {"name": name})
    if not asked:
        raise click.UsageError("nothing to change: say what, for instance --rpm 60")
    _print(ask(path, "update", key, asked), as_json)


@command.command("rotate")
@_key_argument
@click.option(
    "--grace", type=DURATION, default="24h", show_default=True, help="How long the old one is good. 0: no more."
)
@_json_option
@config_option
def rotate(key: str, grace: tuple[int], as_json: bool, path: str | None) -> None:
    """Give a key another secret and print it; all else stays.

    \b
    hermes keys rotate editor --grace 1h
    """
    told = ask(path, "rotate", key, {"grace_s": grace[0]})
    until = told["old_until"]
    old = "the old one is void" if until is None else f"the old one is good until {shown(until)}"
    _hand_over(told, as_json, f"{told['id']} ({told['name']}): this is shown only once, {old}")


@command.command("revoke")
@_key_argument
@_json_option
@config_option
def revoke(key: str, as_json: bool, path: str | None) -> None:
    """Make a key void, at once and for ever."""
    told = ask(path, "revoke", key)
    if as_json:
        say_json(told)
    else:
        say(f"{told['id']} ({told['name']}) is revoked")
        if told.get("last"):
            words = "no key is left, and the door stays closed: nobody is let in by one until you make it"
            click.echo(f"{words}: hermes keys create me --admin", err=True)


@command.command("backup")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@_json_option
@config_option
def backup(file: Path, as_json: bool, path: str | None) -> None:
    """Copy the database to FILE, also while it is in use. The pepper is another file: keep a copy of that too.

    \b
    hermes keys backup /backups/hermes.db
    """
    from hermes.storage.backup import backup

    kept = folder(path)
    try:
        backup(kept, file)
    except StorageError as error:
        fail(str(error), 1)
    if as_json:
        say_json({"file": str(file), "state_dir": str(kept)})
    else:
        say(f"{file} is a copy of the database in {kept}")


# --- what was said ----------------------------------------------------------------------------------------------------


def _asked(said: dict[str, Any]) -> dict[str, Any]:
    """As the API has it: only what was said."""
    asked: dict[str, Any] = {}
    for name in ("user", "admin", "metrics"):
        if said[name] is not None:
            asked[name] = said[name]
    for name in ("max_class", "usual_class"):
        if said[name] is not None:
            asked[name] = None if said[name] == "none" else said[name]
    for name in ("rpm", "tpm", "concurrency", "weight"):
        if said[name] is not None:
            (asked[name],) = said[name]
    for (budget,) in said["budget"]:
        asked |= budget
    if said["expires"] is not None:
        (asked["expires_at"],) = said["expires"]
    if patterns := [each for text in said["models"] for each in text.split(",")]:
        if "none" in patterns:
            raise click.BadParameter("there is no key for no model; for every model say all", param_hint="--models")
        asked["models"] = [] if patterns in (["*"], ["all"]) else patterns
    return asked


# --- what is told -----------------------------------------------------------------------------------------------------


def _hand_over(told: dict[str, Any], as_json: bool, words: str) -> None:
    """The secret alone goes to the standard output, for whoever wants to catch it."""
    if as_json:
        say_json(told)
        return
    click.echo(words, err=True)
    say(told["key"])


def _print(told: dict[str, Any], as_json: bool) -> None:
    if as_json:
        say_json(told)
    else:
        say("\n".join(_lines(told)))


_TIMES = ("created_at", "expires_at", "revoked_at", "old_until")


def _lines(key: dict[str, Any]) -> Iterator[str]:
    for name, value in key.items():
        if name == "object" or (value is None and name in ("revoked_at", "old_until")):
            continue
        if name in _TIMES:
            value = shown(value) + (", which is over" if name == "expires_at" and is_over(value) else "")
        elif name == "models":
            value = ", ".join(value) or "all"
        yield f"{name.replace('_', ' '):15} {'yes' if value is True else 'no' if value is False else value or '-'}"


def _brief(key: dict[str, Any]) -> str:
    """What is not as it is by default."""
    parts = [name for name in ("admin", "metrics") if key[name]]
    if key["models"]:
        parts.append(",".join(key["models"]))
    bounds = ("rpm", "tpm", "concurrency", "daily_tokens", "monthly_tokens", "max_class", "usual_class")
    parts += [f"{name.replace('_', ' ')} {key[name]}" for name in bounds if key[name] is not None]
    if key["weight"] != 1:
        parts.append(f"weight {key['weight']:g}")
    if (ends := key["expires_at"]) is not None:
        parts.append(f"{'expired' if is_over(ends) else 'expires'} {shown(ends)}")
    if key["revoked_at"] is not None:
        parts.append(f"revoked {shown(key['revoked_at'])}")
    return "; ".join(parts)
