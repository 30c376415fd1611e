"""Keys that are made while it runs: whom they let in, and what of them can be changed by whom (I17, I20, I35)."""

import re
from pathlib import Path
from threading import Event
from typing import Any
from unittest.mock import patch

import pytest

from hermes import journal
from hermes.auth import Authenticator
from hermes.composition import ADMIN_SOCKET
from hermes.errors import ConfigError, InvalidConfig
from hermes.journal import time as wall_clock
from hermes.keyring import OPERATOR, Keyring
from hermes.principal import Class
from hermes.storage import keys
from hermes.storage.store import Store
from tests.fakes.backend import ollama
from tests.fakes.gateway import PROMPT, bearer, hermes, key, prompt, request_bytes, scenario
from tests.fakes.owner import KEYS, ask, at_admin_port, kept, knock, made, names, shown, status
from tests.support import run, until

# --- keys -------------------------------------------------------------------------------------------------------------


@scenario
async def test_a_key_lets_in_from_when_it_is_made_until_it_is_revoked(tmp_path: Path) -> None:
    """I17: at once, both."""
    async with ollama() as backend, hermes(backend, **kept(tmp_path)) as gateway:
        assert (await gateway.ask("/v1/models")).status == 200  # so far everybody is the operator
        id, secret = await made(tmp_path)
        assert re.fullmatch(r"k_[a-z2-7]{12}", id) and re.fullmatch(r"sk-hermes-[0-9A-Za-z]{43}", secret)
        assert (await gateway.ask("/v1/models")).status == await status(gateway, secret + "x") == 401
        assert (await gateway.ask(PROMPT, prompt(), shown(secret))).status == 200
        assert (await gateway.record(-1)).key_id == id
        assert (await ask(tmp_path / ADMIN_SOCKET, f"{KEYS}/{id}", method="DELETE")).json["revoked_at"]
        assert await status(gateway, secret) == 401
        assert (await gateway.ask("/v1/models")).status == 401  # who had keys once is not open again


@scenario
async def test_keys_outlive_a_restart_and_so_does_the_closed_door(tmp_path: Path) -> None:
    async with ollama() as backend:
        async with hermes(backend, **kept(tmp_path)):
            _, secret = await made(tmp_path)
        async with hermes(backend, **kept(tmp_path)) as gateway:
            assert await status(gateway, secret) == 200
            assert (await gateway.ask("/v1/models")).status == 401
            await ask(tmp_path / ADMIN_SOCKET, f"{KEYS}/editor", method="DELETE")
        async with hermes(backend, **kept(tmp_path)) as gateway:
            assert (await gateway.ask("/v1/models")).status == await status(gateway, secret) == 401


@scenario
async def test_static_keys_and_stored_ones_are_known_side_by_side(tmp_path: Path) -> None:
    async with ollama() as backend, hermes(backend, **kept(tmp_path, keys=[key("static")])) as gateway:
        _, secret = await made(tmp_path)
        for headers in (bearer("static"), shown(secret)):
            assert (await gateway.ask("/v1/models", None, headers)).status == 200


@scenario
async def test_of_a_rotated_key_the_old_secret_is_good_for_its_grace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I35: by the wall clock."""
    async with ollama() as backend, hermes(backend, **kept(tmp_path)) as gateway:
        id, first = await made(tmp_path)
        rotate = f"{KEYS}/{id}/rotate"
        second = (await ask(tmp_path / ADMIN_SOCKET, rotate, {"grace_s": 60})).json["key"]
        assert await status(gateway, first) == await status(gateway, second) == 200
        with monkeypatch.context() as later:
            later.setattr(journal, "time", lambda: wall_clock() + 61)
            assert (await status(gateway, first), await status(gateway, second)) == (401, 200)
        third = (await ask(tmp_path / ADMIN_SOCKET, rotate, {"grace_s": 0})).json["key"]
        assert [await status(gateway, secret) for secret in (first, second, third)] == [401, 401, 200]


@scenario
async def test_a_key_ends_when_it_was_said_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """I35"""
    async with ollama() as backend, hermes(backend, **kept(tmp_path)) as gateway:
        now = int(wall_clock())
        _, secret = await made(tmp_path, expires_at=now + 60)
        assert await status(gateway, secret) == 200
        monkeypatch.setattr(journal, "time", lambda: now + 60.0)
        reply = await gateway.ask("/v1/models", None, shown(secret))
        assert (reply.status, reply.error["code"]) == (401, "key_expired")


@scenario
async def test_what_is_changed_of_a_key_counts_at_once(tmp_path: Path) -> None:
    async with ollama() as backend, hermes(backend, **kept(tmp_path)) as gateway:
        id, secret = await made(tmp_path, rpm=7, max_class="batch")
        assert await status(gateway, secret, "/metrics") == 403
        changed = await ask(tmp_path / ADMIN_SOCKET, f"{KEYS}/editor", {"metrics": True, "rpm": None}, "PATCH")
        assert (changed.json["id"], changed.json["metrics"], changed.json["rpm"]) == (id, True, None)
        assert changed.json["max_class"] == "batch"
        assert await status(gateway, secret, "/metrics") == 200
        assert (await gateway.ask(PROMPT + "/unload", {}, shown(secret))).status == 403


@scenario
async def test_null_takes_back_what_was_said(tmp_path: Path) -> None:
    said = {
        "models": ["gemma*"],
        "rpm": 1,
        "weight": 2,
        "max_class": "batch",
        "expires_at": 4_000_000_000,
        "admin": True,
    }
    async with ollama() as backend, hermes(backend, **kept(tmp_path)):
        id, _ = await made(tmp_path, "editor")
        await made(tmp_path, "bounded", **said)
        plain, bounded = [(await ask(tmp_path / ADMIN_SOCKET, f"{KEYS}/{each}")).json for each in (id, "bounded")]
        assert all(bounded[name] == value for name, value in said.items())
        reply = await ask(tmp_path / ADMIN_SOCKET, f"{KEYS}/bounded", dict.fromkeys(said), method="PATCH")
        assert reply.status == 200 and {name: reply.json[name] for name in said} == {name: plain[name] for name in said}
        for name in ("name", "user"):
            reply = await ask(tmp_path / ADMIN_SOCKET, f"{KEYS}/bounded", {name: None}, method="PATCH")
            assert (reply.status, reply.error["code"]) == (400, "invalid_type")


@scenario
async def test_what_is_said_of_a_key_is_who_it_lets_in(tmp_path: Path) -> None:
    said = {
        "user": "team", "admin": True, "metrics": True, "models": ["gemma*"], "rpm": 1, "tpm": 2, "concurrency": 3,
        "daily_tokens": 4, "monthly_tokens": 5, "max_class": "normal", "usual_class": "batch", "weight": 2.5,
    }  # fmt: skip
    async with ollama() as backend, hermes(backend, **kept(tmp_path)) as gateway:
        id, secret = await made(tmp_path, **said)
        told = gateway.runtime.people.authenticate({b"x-api-key": secret.encode()}, 0.0)
        assert (told.key_id, told.tenant, told.admin, told.metrics, told.models) == (
            id,
            "team",
            True,
            True,
            ("gemma*",),
        )
        bounds = told.allowance
        assert (bounds.rpm, bounds.tpm, bounds.concurrency) == (1, 2, 3)
        assert (bounds.daily_tokens, bounds.monthly_tokens) == (4, 5)
        assert (told.ceiling, told.usual, told.weight, told.expires_at) == (1, 2, 2.5, None)
        listed = (await ask(tmp_path / ADMIN_SOCKET, KEYS)).json
        assert listed["object"] == "list" and said.items() <= listed["data"][0].items()


@scenario
async def test_a_secret_is_told_once_and_is_nowhere_else(tmp_path: Path) -> None:
    """I17: not in the file, nor in any answer but the first."""
    async with ollama() as backend, hermes(backend, **kept(tmp_path)) as gateway:
        id, secret = await made(tmp_path)
        path = tmp_path / ADMIN_SOCKET
        told = [(await ask(path, target)).body for target in (KEYS, f"{KEYS}/{id}")]
        told.append((await ask(path, f"{KEYS}/{id}", {"rpm": 3}, "PATCH")).body)
        told += [str(record).encode() for record in gateway.records]
    told += [(tmp_path / name).read_bytes() for name in names(tmp_path)]
    assert len(told) > 8 and not [text for text in told if secret[len("sk-hermes-") :].encode() in text]


REFUSED: list[tuple[str, str, Any, int, str]] = [
    ("POST", KEYS, {}, 400, "missing_required_parameter"),
    ("POST", KEYS, {"name": "k_aaaaaaaaaaaa"}, 400, "invalid_value"),
    ("POST", KEYS, {"name": "a b"}, 400, "invalid_value"),
    ("POST", KEYS, {"name": 3}, 400, "invalid_type"),
    ("POST", KEYS, {"name": "taken"}, 409, "name_taken"),
    ("POST", KEYS, {"name": "n", "id": "k_aaaaaaaaaaaa"}, 400, "unknown_parameter"),
    ("POST", KEYS, {"name": "n", "created_at": 1}, 400, "unknown_parameter"),
    ("POST", KEYS, {"name": "n", "grace_s": 1}, 400, "unknown_parameter"),
    ("POST", KEYS, {"name": "n", "rpm": 0}, 400, "invalid_value"),
    ("POST", KEYS, {"name": "n", "models": ["a b"]}, 400, "invalid_value"),
    ("POST", KEYS, {"name": "n", "expires_at": 1}, 400, "invalid_value"),
    ("POST", KEYS, {"name": "n", "max_class": "first"}, 400, "invalid_value"),
    ("POST", KEYS, b'{"name": "n", "name": "m"}', 400, "duplicate_key"),
    ("POST", KEYS, b'{"name": "n", "Admin": true}', 400, "ambiguous_key"),
    ("PATCH", f"{KEYS}/taken", {"revoked_at": None}, 400, "unknown_parameter"),
    ("PATCH", f"{KEYS}/other", {"name": "taken"}, 409, "name_taken"),
    ("PATCH", f"{KEYS}/nobody", {"rpm": 1}, 404, "key_not_found"),
    ("PATCH", f"{KEYS}/{{gone}}", {"rpm": 1}, 409, "key_revoked"),
    ("POST", f"{KEYS}/{{gone}}/rotate", {}, 409, "key_revoked"),
    ("POST", f"{KEYS}/taken/rotate", {"grace_s": -1}, 400, "invalid_value"),
    ("GET", f"{KEYS}/gone", None, 404, "key_not_found"),
    ("DELETE", f"{KEYS}/nobody", None, 404, "key_not_found"),
    ("PUT", f"{KEYS}/taken", {}, 405, "method_not_allowed"),
    ("GET", "/api/tags", None, 404, "not_found"),
]


@scenario
async def test_what_cannot_be_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    """I20: what can be written is listed."""
    path = tmp_path / ADMIN_SOCKET
    async with ollama() as backend, hermes(backend, **kept(tmp_path)) as gateway:
        for name in ("taken", "other"):
            await made(tmp_path, name)
        gone, _ = await made(tmp_path, "gone")
        await ask(path, f"{KEYS}/gone", method="DELETE")
        before = (await ask(path, KEYS)).json, gateway.runtime.people.table.principals
        for method, target, body, expected, code in REFUSED:
            reply = await ask(path, target.replace("{gone}", gone), body, method)
            assert (reply.status, reply.error["code"]) == (expected, code), (method, target, body)
        assert ((await ask(path, KEYS)).json, gateway.runtime.people.table.principals) == before


@scenario
async def test_to_ask_for_a_key_where_there_is_none_makes_no_database(tmp_path: Path) -> None:
    path = tmp_path / ADMIN_SOCKET
    async with ollama() as backend, hermes(backend, **kept(tmp_path)):
        assert (await ask(path, KEYS)).json["data"] == []
        for method, target in (("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/rotate")):
            assert (await ask(path, f"{KEYS}/nobody{target}", None, method)).status == 404
        assert names(tmp_path) == [ADMIN_SOCKET]


@scenario
async def test_who_leaves_before_the_answer_has_made_the_change_all_the_same(tmp_path: Path) -> None:
    """I17: a revocation counts once it is committed, whoever is still there to be told."""
    begun, goes_on = Event(), Event()

    def slowly(connection: Any, named: str, now: int) -> keys.Key:
        begun.set()
        goes_on.wait(5)
        return revoke(connection, named, now)

    revoke = keys.revoke
    async with ollama() as backend, hermes(backend, **kept(tmp_path)) as gateway:
        _, secret = await made(tmp_path)
        peer = await knock(tmp_path / ADMIN_SOCKET)
        with patch.object(keys, "revoke", slowly):
            await peer.send(request_bytes("DELETE", f"{KEYS}/editor", None, {}))
            await until(begun.is_set)
            peer.close()
            await until(lambda: gateway.runtime.journal.open == 0)
            assert await status(gateway, secret) == 200
            goes_on.set()
            await until(lambda: not gateway.runtime.people.table.principals)
        assert await status(gateway, secret) == 401


# --- rights -----------------------------------------------------------------------------------------------------------

OWN = {
    "models": ["gemma*", "qwen3:8b"], "rpm": 10, "tpm": 100, "concurrency": 2, "daily_tokens": 50,
    "monthly_tokens": 500, "max_class": "normal",
}  # fmt: skip
BEYOND = [
    {"models": []}, {"models": ["*"]}, {"models": ["gemma*", "phi"]}, {"models": ["qwen3:8?"]}, {"models": ["gemm?"]},
    {"rpm": None}, {"rpm": 11}, {"tpm": 101}, {"concurrency": None}, {"daily_tokens": 51}, {"monthly_tokens": None},
    {"max_class": None}, {"max_class": "interactive"}, {"expires_at": None}, {"expires_at": "later"},
]  # fmt: skip


@scenario
async def test_a_key_can_only_give_what_it_has_itself(tmp_path: Path) -> None:
    """I20: made, changed or rotated."""
    async with ollama() as backend, hermes(backend, **kept(tmp_path, admin={"port": 0})) as gateway:
        door = at_admin_port(gateway)
        ends = int(wall_clock()) + 1000
        _, secret = await made(tmp_path, "chief", admin=True, expires_at=ends, **OWN)
        same = {**OWN, "admin": True, "metrics": True, "models": ["gemma3:*", "gemma*"], "expires_at": ends}
        reply = await door(KEYS, {"name": "deputy", **same}, shown(secret))
        assert reply.status == 201
        deputy = reply.json["key"]
        await made(tmp_path, "free")  # more than the chief has
        assert (await door(f"{KEYS}/free/rotate", {}, shown(secret))).error["code"] == "beyond_own_rights"
        for number, more in enumerate(BEYOND):
            if more.get("expires_at") == "later":
                more = {"expires_at": ends + 1}
            for target, body, method in (
                (KEYS, {**same, **more, "name": f"n{number}"}, "POST"),
                (f"{KEYS}/deputy", more, "PATCH"),
            ):
                reply = await door(target, body, shown(deputy), method)
                assert (reply.status, reply.error["code"]) == (403, "beyond_own_rights"), body
        assert len((await door(KEYS, None, shown(deputy))).json["data"]) == 3
        assert (await door(f"{KEYS}/free", None, shown(deputy), "DELETE")).status == 200


@scenario
async def test_a_reload_changes_the_keys_of_the_configuration_and_no_others(tmp_path: Path) -> None:
    """I34: at once, also where the last of them has gone and only the stored ones keep the door closed."""
    async with ollama() as backend, hermes(backend, **kept(tmp_path)) as gateway:
        _, secret = await made(tmp_path)
        await gateway.reload(backend, **kept(tmp_path, keys=[key("ann")]))
        assert [await status(gateway, each) for each in (secret, "sk-ann", "sk-bob")] == [200, 200, 401]
        await gateway.reload(backend, **kept(tmp_path, keys=[key("bob")], scheduling={"usual_class": "batch"}))
        assert [await status(gateway, each) for each in (secret, "sk-ann", "sk-bob")] == [200, 401, 200]
        principal = gateway.runtime.people.authenticate({b"x-api-key": secret.encode()}, 0.0)
        assert principal is not None and principal.usual is Class.BATCH
        await gateway.reload(backend, **kept(tmp_path))
        assert [await status(gateway, each) for each in (secret, "sk-ann", "sk-bob")] == [200, 401, 401]
        assert (await ask(tmp_path / ADMIN_SOCKET, "/admin/reload", {})).json["result"] == "ok"


@scenario
async def test_a_reload_leaves_a_door_open_to_others_only_with_keys(tmp_path: Path) -> None:
    """I24: a key that is stored is one."""
    beyond = {"host": "0.0.0.0", "port": 0}
    async with ollama() as backend, hermes(backend, **kept(tmp_path, server=beyond, keys=[key("ann")])) as gateway:
        with pytest.raises(InvalidConfig, match="can be reached from other machines"):
            await gateway.reload(backend, **kept(tmp_path, server=beyond))
        assert await status(gateway, "sk-ann") == 200 and await status(gateway, "sk-bob") == 401
        _, secret = await made(tmp_path)
        await gateway.reload(backend, **kept(tmp_path, server=beyond))
        assert (await status(gateway, "sk-ann"), await status(gateway, secret)) == (401, 200)


@scenario
async def test_who_is_known_by_a_head_that_comes_again_is_known_no_longer_than_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I17, I35: on one connection, where the same bytes came and were let in before."""
    now = int(wall_clock())
    async with ollama() as backend, hermes(backend, **kept(tmp_path, keys=[key("ann")])) as gateway:
        id, revoked = await made(tmp_path)
        _, ending = await made(tmp_path, "short", expires_at=now + 60)
        peer = await gateway.connect()

        async def statuses(times: int = 1) -> list[int]:
            return [
                (await gateway.ask("/v1/models", None, shown(secret), on=peer)).status
                for _ in range(times)
                for secret in (revoked, ending, "sk-ann")
            ]

        assert await statuses(4) == [200] * 12
        assert (await ask(tmp_path / ADMIN_SOCKET, f"{KEYS}/{id}", None, "DELETE")).status == 200
        assert await statuses() == [401, 200, 200]
        await gateway.reload(backend, **kept(tmp_path))
        assert await statuses(3) == [401, 200, 401] * 3
        monkeypatch.setattr(journal, "time", lambda: now + 60.0)
        assert await statuses() == [401, 401, 401]


@scenario
async def test_no_reload_lets_everybody_in(tmp_path: Path) -> None:
    """I24: a file that was emptied by a full disk is no decision."""
    async with ollama() as backend, hermes(backend, keys=[key("ann")]) as gateway:
        with pytest.raises(InvalidConfig, match="everybody would be let in"):
            await gateway.reload(backend)
        assert [await status(gateway, each) for each in ("sk-ann", "sk-bob")] == [200, 401]


def test_whose_folder_another_hermes_makes_a_key_in_lets_nobody_in_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """I17, I24: neither is refused at its start, since neither has keys."""
    monkeypatch.setattr("hermes.keyring.WATCH_EVERY_S", 0.02)

    async def go() -> None:
        async with (
            ollama() as backend,
            hermes(backend, **kept(tmp_path)) as first,
            hermes(backend, **kept(tmp_path)) as second,
        ):
            assert (await second.ask("/v1/models")).status == 200
            _, secret = await made(tmp_path)
            assert await status(first, secret) == 200
            await until(lambda: not second.runtime.people.open)
            assert (await second.ask("/v1/models")).status == await status(second, secret) == 401
            await until(lambda: "nobody is let in here" in caplog.text)

    run(go(), may_log_errors=True)


@scenario
async def test_a_key_that_is_made_in_the_file_meanwhile_closes_the_door_and_lets_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the command line makes it, where no admin socket answers."""
    monkeypatch.setattr("hermes.keyring.WATCH_EVERY_S", 0.05)
    async with ollama() as backend, hermes(backend, **kept(tmp_path)) as gateway:
        store = Store(tmp_path)
        keyring = Keyring(Authenticator({}), store)
        keyring.adopt({}, lambda key, until: OPERATOR)
        secret = (await keyring.create("", {"name": "editor"}, OPERATOR))["key"]
        store.close()
        await until(lambda: gateway.runtime.keyring.used)
        assert (await gateway.ask("/v1/models")).status == 401 and await status(gateway, secret) == 200


@pytest.mark.parametrize("closed", [{"keys": [key("ops", admin=True)]}, {}])
@scenario
async def test_the_first_key_is_told_to_close_the_door(
    tmp_path: Path, closed: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with ollama() as backend, hermes(backend, **kept(tmp_path, **closed)):
        first, second = [await ask(tmp_path / ADMIN_SOCKET, KEYS, {"name": name}) for name in ("one", "two")]
    assert (first.json.get("first"), second.json.get("first")) == (None if closed else True, None)
    assert ("from now on every request needs one" in caplog.text) == (not closed)


@scenario
async def test_a_database_that_was_emptied_does_not_open_the_door(tmp_path: Path) -> None:
    """I32"""
    async with ollama() as backend:
        async with hermes(backend, **kept(tmp_path)):
            await made(tmp_path)
        (tmp_path / "hermes.db").write_bytes(b"")
        with pytest.raises(ConfigError, match="their pepper"):
            async with hermes(backend, **kept(tmp_path)):
                pass


@scenario
async def test_who_is_bounded_for_a_model_makes_no_key_that_is_not(tmp_path: Path) -> None:
    """I20"""
    chief = key("chief", admin=True, per_model={"gemma*": {"rpm": 1}})
    async with ollama() as backend, hermes(backend, **kept(tmp_path, admin={"port": 0}, keys=[chief])) as gateway:
        reply = await at_admin_port(gateway)(KEYS, {"name": "deputy"}, shown("sk-chief"))
        assert (reply.status, reply.error["code"], reply.error["param"]) == (403, "beyond_own_rights", "per_model")
