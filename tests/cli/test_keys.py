"""`hermes keys`: by the admin socket of what runs, else in the file; the same answers either way."""

import asyncio
import json
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hermes.cli import amounts, cli
from hermes.composition import ADMIN_SOCKET
from hermes.config import files
from hermes.storage.database import Database
from tests.fakes.backend import ollama
from tests.fakes.gateway import hermes, scenario
from tests.fakes.owner import kept, status

Run = Callable[..., Result]
SECRET = r"sk-hermes-[0-9A-Za-z]{43}"


def now() -> float:
    return datetime.now(UTC).timestamp()


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `hermes keys`, for the folder `state`."""
    monkeypatch.setattr(files, "SYSTEM_DIR", tmp_path / "etc")
    monkeypatch.chdir(tmp_path)
    own = {"XDG_CONFIG_HOME": str(tmp_path), "HERMES_SERVER__STATE_DIR": str(tmp_path / "state")}

    def run(*arguments: str, **environ: str) -> Result:
        return CliRunner().invoke(cli, ["keys", *arguments], env={**own, **environ})

    return run


@scenario
async def test_the_running_server_makes_and_revokes_them_at_once(keys: Run, tmp_path: Path) -> None:
    async with ollama() as backend, hermes(backend, **kept(tmp_path / "state")) as gateway:
        made = await asyncio.to_thread(keys, "create", "editor", "--models", "gemma*,phi", "--rpm", "60")
        assert made.exit_code == 0 and re.fullmatch(SECRET + "\n", made.stdout)
        assert "(editor): this is shown only once" in made.stderr and "no server" not in made.stderr
        assert "from now on every request needs one" in made.stderr
        secret = made.stdout.strip()
        assert await status(gateway, secret) == 200
        told = await asyncio.to_thread(keys, "rotate", "editor", "--grace", "0")
        assert "the old one is void" in told.stderr and re.fullmatch(SECRET + "\n", told.stdout)
        assert (await status(gateway, secret), await status(gateway, told.stdout.strip())) == (401, 200)
        refused = await asyncio.to_thread(keys, "create", "editor")
        assert (refused.exit_code, refused.stdout) == (
            1,
            "",
        ) and "there is a key named 'editor' already" in refused.stderr
        revoked = await asyncio.to_thread(keys, "revoke", "editor")
        assert "is revoked" in revoked.stdout and "the door stays closed: nobody is let in" in revoked.stderr
        assert await status(gateway, told.stdout.strip()) == 401


def test_who_makes_the_first_key_is_told_how_to_have_one_that_sees_everything(keys: Run) -> None:
    own = "yours, to see everything: hermes keys create me --admin"
    assert own in keys("create", "editor").stderr
    assert own not in keys("create", "second").stderr


def test_an_operators_first_key_sees_everything_itself(keys: Run) -> None:
    assert "yours" not in keys("create", "me", "--admin").stderr


def test_only_with_the_last_key_nobody_is_let_in(keys: Run) -> None:
    keys("create", "editor")
    keys("create", "me", "--admin")
    assert "closed" not in keys("revoke", "editor").stderr
    told = keys("revoke", "me", "--json")
    assert json.loads(told.stdout)["last"] is True


@scenario
async def test_without_a_server_the_file_is_changed_for_the_next_one(keys: Run, tmp_path: Path) -> None:
    made = await asyncio.to_thread(keys, "create", "editor", "--json")
    assert (
        json.loads(made.stdout)["first"]
        and "no server answers" in made.stderr
        and str(tmp_path / "state" / ADMIN_SOCKET) in made.stderr
    )
    async with ollama() as backend, hermes(backend, **kept(tmp_path / "state")) as gateway:
        assert await status(gateway, json.loads(made.stdout)["key"]) == 200
        assert await status(gateway, "other") == 401


def test_what_is_said_is_what_is_listed_and_shown(keys: Run) -> None:
    assert keys("list").stdout.split() == ["ID", "NAME", "USER", "WHAT"]
    said = (
        "--user",
        "team",
        "--models",
        "gemma*",
        "--models",
        "phi",
        "--rpm",
        "60",
        "--tpm",
        "1.5k",
        "--concurrency",
        "2",
    )
    said += ("--budget", "1M/day", "--budget", "20M/month", "--class", "normal", "--usual-class", "batch")
    said += ("--weight", "2.5", "--expires", "2100-01-31", "--admin", "--metrics")
    assert keys("create", "editor", *said).exit_code == 0
    told = json.loads(keys("show", "editor", "--json").stdout)
    id, created_at = told.pop("id"), told.pop("created_at")
    assert abs(created_at - now()) < 10
    assert told == {
        "object": "key", "name": "editor", "user": "team", "admin": True, "metrics": True, "models": ["gemma*", "phi"],
        "rpm": 60, "tpm": 1500, "concurrency": 2, "daily_tokens": 10**6, "monthly_tokens": 20 * 10**6,
        "max_class": "normal", "usual_class": "batch", "weight": 2.5, "expires_at": 4105036800, "revoked_at": None,
        "old_until": None,
    }  # fmt: skip
    assert keys("list").stdout.splitlines()[1].startswith(f"{id}  editor  team  admin; metrics; gemma*,phi; rpm 60; ")
    shown = keys("show", id).stdout
    assert "expires at      2100-01-31 00:00 UTC\n" in shown and "revoked" not in shown
    cleared = (
        "--models",
        "*",
        "--rpm",
        "none",
        "--budget",
        "none",
        "--class",
        "none",
        "--expires",
        "none",
        "--weight",
        "none",
        "--no-admin",
    )
    assert keys("update", "editor", "--name", "writer", *cleared).exit_code == 0
    told = json.loads(keys("show", "writer", "--json").stdout)
    assert not [
        told[name]
        for name in ("admin", "models", "rpm", "daily_tokens", "monthly_tokens", "max_class", "expires_at")
        if told[name]
    ]
    assert (told["tpm"], told["usual_class"], told["metrics"], told["weight"]) == (1500, "batch", True, 1.0)


def test_that_a_key_has_expired_is_seen(keys: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    keys("create", "editor", "--expires", "1h")
    assert "; " not in keys("list").stdout and "  expires 2" in keys("list").stdout
    assert "over" not in keys("show", "editor").stdout
    later = now() + 3601
    monkeypatch.setattr("hermes.cli.amounts.now_s", lambda: later)
    assert "  expired 2" in keys("list").stdout and "UTC, which is over" in keys("show", "editor").stdout


def test_those_that_were_revoked_are_listed_where_that_is_asked_for(keys: Run) -> None:
    keys("create", "editor")
    assert json.loads(keys("revoke", "editor", "--json").stdout)["revoked_at"]
    assert "editor" not in keys("list").stdout and json.loads(keys("list", "--json").stdout)["data"] == []
    assert "revoked 2" in keys("list", "--all").stdout
    assert len(json.loads(keys("list", "--all", "--json").stdout)["data"]) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["create", "a b"], 1, "`name` must be a name of letters"),
        (["create", ""], 1, "`name` must be a name of letters"),
        (["create", "a", "--weight", "much"], 2, "not a number such as 2"),
        (["create", "a", "--models", "a b"], 1, "model names"),
        (["create", "a", "--rpm", "many"], 2, "not a number such as"),
        (["create", "a", "--budget", "1M/week"], 2, "not a budget such as"),
        (["create", "a", "--expires", "soon"], 2, "not a time such as"),
        (["create", "a", "--expires", "2020-01-01"], 1, "is over already"),
        (["create", "a", "--class", "first"], 2, "'first' is not one of"),
        (["rotate", "a", "--grace", "long"], 2, "not a time such as"),
        (["update", "a"], 2, "nothing to change"),
        (["show", "nobody"], 1, "there is no key 'nobody'"),
        (["revoke", "nobody"], 1, "there is no key 'nobody'"),
        (["backup", "copy.db"], 1, "there is no database in"),
        (["destroy", "a"], 2, "No such command"),
    ],
)
def test_what_cannot_be_is_told_and_makes_nothing(
    keys: Run, tmp_path: Path, arguments: list[str], code: int, words: str
) -> None:
    result = keys(*arguments)
    assert result.exit_code == code and words in result.stderr
    assert not (tmp_path / "state").exists()


def test_a_name_cannot_be_taken_away(keys: Run) -> None:
    keys("create", "editor")
    result = keys("update", "editor", "--name", "", "--rpm", "5")
    assert result.exit_code == 1 and "`name` must be" in result.stderr


def test_where_nothing_is_stored_that_is_said(keys: Run) -> None:
    for arguments in (("create", "a"), ("backup", "copy.db")):
        result = keys(*arguments, HERMES_SERVER__STATE_DIR="off")
        assert result.exit_code in (1, 2) and "state_dir is off" in result.stderr
    assert keys("list", HERMES_SERVER__STATE_DIR="off").exit_code == 0


def test_a_file_that_somebody_has_who_does_not_answer_is_3(keys: Run, tmp_path: Path) -> None:
    database = Database(tmp_path / "state")
    try:
        result = keys("create", "a")
        assert result.exit_code == 3
        assert f"in use by another Hermes (process {os.getpid()}), which does not answer at" in result.stderr
        result = keys("create", "a", HERMES_ADMIN__UNIX_SOCKET="off")
        assert result.exit_code == 3 and "has no admin.unix_socket" in result.stderr
    finally:
        database.close()


def test_a_folder_too_deep_for_a_socket_has_keys_all_the_same(keys: Run, tmp_path: Path) -> None:
    deep = str(tmp_path / ("d" * 120))
    assert keys("create", "editor", HERMES_SERVER__STATE_DIR=deep).exit_code == 0
    assert "editor" in keys("list", HERMES_SERVER__STATE_DIR=deep).stdout


@scenario
async def test_a_copy_brings_the_keys_back(keys: Run, tmp_path: Path) -> None:
    """Made while they are in use, restored as docs/keys.md has it."""
    state = tmp_path / "state"
    async with ollama() as backend:
        async with hermes(backend, **kept(state)):
            secret = (await asyncio.to_thread(keys, "create", "editor")).stdout.strip()
            assert (await asyncio.to_thread(keys, "backup", "copy.db")).exit_code == 0
            lost = (await asyncio.to_thread(keys, "create", "later")).stdout.strip()
        (state / "hermes.db").write_bytes((tmp_path / "copy.db").read_bytes())
        async with hermes(backend, **kept(state)) as gateway:
            assert (await status(gateway, secret), await status(gateway, lost)) == (200, 401)


# --- amounts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pepper", "hermes.db", "hermes.lock", "other.db"])
def test_a_copy_is_not_made_among_the_files_that_are_in_use(keys: Run, tmp_path: Path, name: str) -> None:
    keys("create", "editor")
    before = {path.name: path.read_bytes() for path in (tmp_path / "state").iterdir()}
    told = keys("backup", str(tmp_path / "state" / name))
    assert told.exit_code == 1 and "name one elsewhere" in told.stderr
    assert {path.name: path.read_bytes() for path in (tmp_path / "state").iterdir()} == before


@pytest.mark.parametrize("name", ["hermes.db", "pepper"])
def test_no_key_is_made_where_others_were_lost(keys: Run, tmp_path: Path, name: str) -> None:
    keys("create", "editor")
    (tmp_path / "state" / name).unlink()
    told = keys("create", "second")
    assert told.exit_code == 1 and "from a backup" in told.stderr
    assert not (tmp_path / "state" / name).exists()


@pytest.mark.parametrize("verb", [("create", "b"), ("update", "editor")])
@pytest.mark.parametrize("said", ["none", "gemma,none"])
def test_no_models_does_not_mean_all_of_them(keys: Run, verb: tuple[str, str], said: str) -> None:
    keys("create", "editor", "--models", "gemma")
    refused = keys(*verb, "--models", said)
    assert refused.exit_code == 2 and "for every model say all" in refused.stderr
    assert [key["models"] for key in json.loads(keys("list", "--json").stdout)["data"]] == [["gemma"]]


@pytest.mark.parametrize("word", ["*", "all"])
def test_all_models_can_be_said(keys: Run, word: str) -> None:
    keys("create", "editor", "--models", "gemma")
    assert json.loads(keys("update", "editor", "--models", word, "--json").stdout)["models"] == []


@pytest.mark.parametrize(
    ("text", "number"),
    [("1", 1), ("20k", 20_000), ("1.5M", 1_500_000), ("2g", 2 * 10**9), ("0.25K", 250), ("none", None)],
)
def test_a_number_may_have_a_unit(text: str, number: int | None) -> None:
    assert amounts.count(text) == number


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "1 k", "k", "1kk", "1e3", "0.0001k", "1_000", "\u0661"])
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        amounts.count(text)


def test_a_time_is_from_now_and_a_date_as_it_begins() -> None:
    assert abs((amounts.moment("2h") or 0) - now() - 7200) < 10
    assert amounts.moment("2027-01-31") == amounts.moment("2027-01-31T01:00+01:00") == 1801353600
    assert amounts.moment("never") is None
    assert amounts.shown(1801353600) == "2027-01-31 00:00 UTC"
