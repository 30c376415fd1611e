"""The operators' own listener and the keys that are made there (I17, I20, I22, I24, I32)."""

import asyncio
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hermes.api import admin
from hermes.composition import ADMIN_SOCKET
from hermes.dialects.openai import OpenAI
from hermes.errors import ConfigError
from hermes.storage import pepper
from hermes.storage.schema import NAME
from tests.fakes.backend import FakeOllama, ollama
from tests.fakes.gateway import hermes, hold_slot, scenario
from tests.fakes.owner import KEYS, ask, at_admin_port, kept, knock, made, names, shown, status
from tests.support import run, until

# --- the listener -----------------------------------------------------------------------------------------------------


@scenario
async def test_at_an_address_it_takes_an_operators_key_and_at_first_none(tmp_path: Path) -> None:
    """I24, I22: never a cookie."""
    async with ollama() as backend, hermes(backend, **kept(tmp_path, admin={"port": 0})) as gateway:
        door = at_admin_port(gateway)
        assert (await door(KEYS)).status == 200  # loopback without any key: as at the other door
        first = (await door(KEYS, {"name": "ops", "admin": True})).json["key"]
        _, user = await made(tmp_path, "user", metrics=True)
        assert (await door(KEYS)).status == 401
        assert (await door(KEYS, None, shown(user))).error["code"] == "admin_only"
        assert (await door(KEYS, None, {"cookie": f"authorization={first}; api_key={first}"})).status == 401
        assert (await door(KEYS, None, shown(first))).status == 200
        assert (await door("/health")).status == (await door("/readyz")).status == 200
        assert (await door("/metrics", None, shown(first))).status == 404
        assert (await gateway.ask(KEYS, None, shown(first))).status == 404  # nor is one there at the other door


@scenario
async def test_web_pages_and_foreign_names_stay_outside_there_too(tmp_path: Path) -> None:
    """I22: on every listener."""
    async with ollama() as backend, hermes(backend, **kept(tmp_path, admin={"port": 0})) as gateway:
        door = at_admin_port(gateway)
        for headers, code in (
            ({"host": "evil.example.org"}, "host_not_allowed"),
            ({"origin": "https://evil.example.org"}, "origin_not_allowed"),
        ):
            for reply in (
                await door(KEYS, None, headers),
                await door(KEYS, {"name": "evil"}, {**headers, "content-type": "text/plain"}),
                await ask(tmp_path / ADMIN_SOCKET, KEYS, {"name": "evil"}, headers=headers),
            ):
                assert (reply.status, reply.error["code"]) == (403, code)
        assert (await door(KEYS)).json["data"] == []


@scenario
async def test_metrics_are_there_where_that_is_said(tmp_path: Path) -> None:
    """I24: with a key for them; no other route is such a key's."""
    sections = kept(tmp_path, admin={"port": 0, "metrics": True})
    async with ollama() as backend, hermes(backend, **sections) as gateway:
        door = at_admin_port(gateway)
        assert (await door("/metrics")).status == 200
        _, scraper = await made(tmp_path, "scraper", metrics=True)
        _, user = await made(tmp_path, "user")
        statuses = [(await door("/metrics", None, shown(secret))).status for secret in (scraper, user)]
        assert statuses == [200, 403] and (await door("/metrics")).status == 401
        assert (await ask(tmp_path / ADMIN_SOCKET, "/metrics")).status == 200


@scenario
async def test_its_socket_is_its_owners_alone_and_gone_when_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "state" / ADMIN_SOCKET
    async with ollama() as backend:
        async with hermes(backend, **kept(tmp_path / "state")):
            assert oct(path.stat().st_mode)[-3:] == "600" and oct(path.parent.stat().st_mode)[-3:] == "700"
        assert not path.exists()


@scenario
async def test_a_socket_left_by_a_dead_hermes_is_replaced_and_a_living_ones_is_not(tmp_path: Path) -> None:
    path = tmp_path / ADMIN_SOCKET
    async with ollama() as backend:
        async with hermes(backend, **kept(tmp_path)):
            path.rename(tmp_path / "left")
        (tmp_path / "left").rename(path)
        async with hermes(backend, **kept(tmp_path)):
            assert (await ask(path, KEYS)).status == 200
            asked_for = kept(tmp_path, admin={"unix_socket": str(path)})
            with pytest.raises(ConfigError, match=f"another Hermes listens on {path}"):
                async with hermes(backend, **asked_for):
                    pass
            assert (await ask(path, KEYS)).status == 200


@scenario
async def test_of_two_with_one_folder_the_second_serves_too_but_never_past_stored_keys(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """I24"""
    async with ollama() as backend, hermes(backend, **kept(tmp_path)):
        async with hermes(backend, **kept(tmp_path)) as second:
            assert (await second.ask("/v1/models")).status == 200
            assert "another Hermes listens on" in caplog.text
            await made(tmp_path)
        with pytest.raises(ConfigError, match="in use by another Hermes"):
            async with hermes(backend, **kept(tmp_path)):
                pass


@scenario
async def test_a_file_that_is_no_socket_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    async with ollama() as backend:
        with pytest.raises(ConfigError, match=r"admin\.unix_socket: cannot listen"):
            async with hermes(backend, admin={"unix_socket": str(tmp_path / "precious")}):
                pass
    assert (tmp_path / "precious").read_text() == "precious"


@scenario
async def test_where_it_cannot_be_made_and_nobody_asked_for_it_clients_are_served(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A path that is too long for a socket, as a folder that cannot be written."""
    async with ollama() as backend, hermes(backend, **kept(tmp_path / ("d" * 120))) as gateway:
        assert (await gateway.ask("/v1/models")).status == 200
    assert "keys that are made while this Hermes runs do not hold here" in caplog.text


@scenario
async def test_both_can_be_off(tmp_path: Path) -> None:
    async with ollama() as backend, hermes(backend, **kept(tmp_path, admin={"unix_socket": "off"})) as gateway:
        assert not names(tmp_path) and not gateway.runtime.admin_address


@scenario
async def test_nobody_elses_machine_gets_in_without_keys(tmp_path: Path) -> None:
    """I24: at neither door; stored keys are keys too."""
    everywhere = [kept(tmp_path, server={"host": "0.0.0.0"}), kept(tmp_path, admin={"port": 0, "host": "0.0.0.0"})]
    async with ollama() as backend:
        for sections in everywhere:
            with pytest.raises(ConfigError, match="can be reached from other machines"):
                async with hermes(backend, **sections):
                    pass
        async with hermes(backend, **kept(tmp_path)):
            await made(tmp_path)
        for sections in everywhere:
            async with hermes(backend, **sections) as gateway:
                assert (await gateway.ask("/v1/models")).status == 401


@scenario
async def test_it_is_drained_with_the_other_one(tmp_path: Path) -> None:
    """I33: until what runs has ended, operators may look, and revoke."""
    path = tmp_path / ADMIN_SOCKET
    async with ollama() as backend, hermes(backend, **kept(tmp_path)) as gateway:
        free = asyncio.Event()
        call = await hold_slot(gateway, backend, free)
        draining = asyncio.get_running_loop().create_task(gateway.runtime.drain(asyncio.Event()))
        await until(lambda: gateway.runtime.api.draining)
        assert (await ask(path, "/readyz")).error["code"] == "draining"
        assert (await ask(path, KEYS, {"name": "late"})).error["code"] == "draining"
        assert (await ask(path, KEYS)).status == 200
        free.set()
        assert (await call.reply()).status == 200
        assert await draining
        with pytest.raises(OSError):
            await knock(path)


# --- what cannot be used ----------------------------------------------------------------------------------------------


async def with_a_key(folder: Path, backend: FakeOllama) -> None:
    async with hermes(backend, **kept(folder)):
        await made(folder)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda folder: (folder / pepper.NAME).unlink(), "pepper is missing"),
        (lambda folder: (folder / pepper.NAME).write_bytes(bytes(32)), "not the one"),
        (lambda folder: (folder / pepper.NAME).write_bytes(b"short"), "damaged"),
        (lambda folder: (folder / NAME).unlink(), "no keys in .* but their pepper"),
        (lambda folder: (folder / NAME).write_bytes(b"SQLite format 3\0" + os.urandom(8192)), "docs/keys.md"),
    ],
    ids=["no pepper", "another pepper", "half a pepper", "no database", "a damaged database"],
)
@scenario
async def test_keys_that_cannot_be_used_keep_it_from_starting(
    harm: Callable[[Path], None], words: str, tmp_path: Path
) -> None:
    """I32: it says what to do, and opens to nobody."""
    async with ollama() as backend:
        await with_a_key(tmp_path, backend)
        harm(tmp_path)
        with pytest.raises(ConfigError, match=f"{words}.*state_dir: off"):
            async with hermes(backend, **kept(tmp_path)):
                pass


@scenario
async def test_a_database_in_use_is_told_with_its_folder(tmp_path: Path) -> None:
    async with ollama() as backend:
        await with_a_key(tmp_path, backend)
        async with hermes(backend, **kept(tmp_path)):
            with pytest.raises(ConfigError, match=rf"{tmp_path} is in use by another Hermes .*\. Stop that one, or"):
                async with hermes(backend, **kept(tmp_path)):
                    pass


def test_a_disk_that_is_full_changes_nothing_and_says_so(tmp_path: Path) -> None:
    """I32: who has a key is served all the same."""
    run(_on_a_full_disk(tmp_path), may_log_errors=True)


async def _on_a_full_disk(tmp_path: Path) -> None:
    async with ollama() as backend, hermes(backend, **kept(tmp_path)) as gateway:
        _, secret = await made(tmp_path)
        database = gateway.runtime.store.database()
        database.submit(lambda connection: connection.execute("PRAGMA max_page_count = 1")).result(5)
        reply = await ask(tmp_path / ADMIN_SOCKET, KEYS, {"name": "x", "models": ["m" * 200] * 100})
        assert (reply.status, reply.error["code"]) == (503, "not_stored")
        assert await status(gateway, secret) == 200
        await made(tmp_path, "after")


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_has_every_route_and_no_other() -> None:
    page = (Path(__file__).parents[2] / "docs" / "keys.md").read_text()
    told = set(re.findall(r"`(GET|POST|PATCH|DELETE) (/[^`]*)`", page))
    table = admin.routes(*[_Anything()] * 2, OpenAI(), metrics=True, restart=_Anything())  # type: ignore[call-arg,arg-type]
    assert told == {(route.method, route.path) for route in table}


class _Anything:
    def __getattr__(self, name: str) -> Any:
        return name
