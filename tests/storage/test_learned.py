"""What was learned survives a restart; the file is never needed, and never harms."""

import asyncio
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from hermes import composition
from hermes.config import Server
from hermes.policy.estimates import Learned
from hermes.storage import learned
from hermes.storage.learned import NAME, Keeper, State, read, write
from tests.fakes.backend import loaded, ollama, play
from tests.fakes.gateway import PROMPT, hermes, prompt, scenario
from tests.support import until

STATE = State(
    {"gemma:latest": Learned(6.5, 2.25, 211.0), "phi:latest": Learned(load_s=3.0)}, {"b0": {"gemma": 5 << 30}}
)


# --- the file ---------------------------------------------------------------------------------------------------------


def test_what_is_written_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "hermes"
    write(folder, STATE)
    assert read(folder) == STATE
    assert [path.name for path in folder.iterdir()] == [NAME]
    assert folder.stat().st_mode & 0o077 == (folder / NAME).stat().st_mode & 0o077 == 0


def test_without_a_file_nothing_is_known_and_nothing_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read(tmp_path) == State()
    assert caplog.messages == []


GARBLED: list[bytes] = [
    b"",
    b"}{",
    b"[]",
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"version": 2}',
    b'{"models": {"a": {"load_s": -1}}}',
    b'{"models": {"a": {"load_s": 1e999}}}',
    b'{"models": {"a": {"load_s": "soon"}}}',
    b'{"sizes": {"b0": {"a": 1.5}}}',
    b'{"sizes": {"b0": {"a": -1}}}',
]


@pytest.mark.parametrize("content", GARBLED)
def test_a_garbled_file_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes) -> None:
    (tmp_path / NAME).write_bytes(content)
    assert read(tmp_path) == State()
    (said,) = caplog.messages
    assert str(tmp_path / NAME) in said


def test_a_file_that_cannot_be_read_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / NAME).mkdir()
    assert read(tmp_path) == State()
    assert len(caplog.messages) == 1


def test_a_file_cut_off_at_any_byte_is_read_as_nothing(tmp_path: Path) -> None:
    write(tmp_path, STATE)
    whole = (tmp_path / NAME).read_bytes()
    for end in range(len(whole)):
        (tmp_path / NAME).write_bytes(whole[:end])
        assert read(tmp_path) == State()


def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, STATE)

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path, State())
    assert read(tmp_path) == STATE
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


# --- when it is written -----------------------------------------------------------------------------------------------


@scenario
async def test_it_is_written_every_minute_if_it_has_changed_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learned, "WRITE_EVERY_S", 0.005)
    states, collected = [State(), STATE], 0

    def collect() -> State:
        nonlocal collected
        collected += 1
        return states[-1]

    keeper = Keeper(tmp_path, collect)
    keeper.start()
    await until(lambda: read(tmp_path) == STATE)
    (tmp_path / NAME).unlink()
    seen = collected
    await until(lambda: collected > seen + 3)
    assert not (tmp_path / NAME).exists()
    states.append(State({"phi:latest": Learned(4.0)}))
    await keeper.end()
    assert read(tmp_path) == states[-1]


@scenario
async def test_what_cannot_be_written_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(learned, "WRITE_EVERY_S", 0.005)
    (tmp_path / "file").touch()
    collected = 0

    def collect() -> State:
        nonlocal collected
        collected += 1
        return STATE

    caplog.set_level(logging.WARNING)
    keeper = Keeper(tmp_path / "file" / "hermes", collect)
    said = len(caplog.messages)  # it could not be read either
    keeper.start()
    await until(lambda: collected > 3)
    await keeper.end()
    assert len(caplog.messages) - said == 1


@scenario
async def test_a_disk_that_hangs_does_not_hold_up_the_loop_or_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learned, "LAST_WRITE_S", 0.05)
    loop, free = asyncio.get_running_loop(), asyncio.Event()

    def hang(folder: Path, state: State) -> None:
        asyncio.run_coroutine_threadsafe(free.wait(), loop).result()

    monkeypatch.setattr(learned, "write", hang)
    keeper = Keeper(tmp_path, lambda: STATE)
    keeper.start()
    await asyncio.sleep(0)
    async with asyncio.timeout(2.0):
        await keeper.end()
    free.set()


# --- where ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "environ", "folder"),
    [
        ("off", {"HOME": "/home/a"}, None),
        ("/var/lib/hermes", {"HOME": "/home/a"}, "/var/lib/hermes"),
        (None, {"HOME": "/home/a", "XDG_STATE_HOME": "/state"}, "/state/hermes"),
        (None, {"HOME": "/home/a", "XDG_STATE_HOME": "relative"}, "/home/a/.local/state/hermes"),
        (None, {"HOME": "/home/a"}, "/home/a/.local/state/hermes"),
        (None, {}, None),
    ],
)
def test_where_it_is_kept(said: str | None, environ: dict[str, str], folder: str | None) -> None:
    assert composition.state_dir(Server(state_dir=said), environ) == (Path(folder) if folder else None)


# --- in the gateway ---------------------------------------------------------------------------------------------------


def left_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def kept(tmp_path: Path) -> dict[str, Any]:
    return {"server": {"state_dir": str(tmp_path)}}


@scenario
async def test_the_next_hermes_knows_what_the_last_has_learned(tmp_path: Path) -> None:
    async with ollama() as backend:
        backend.loaded = []
        async with hermes(backend, **kept(tmp_path)) as gateway:
            assert (await gateway.ask(PROMPT, prompt())).status == 200
            await gateway.runtime.fleet.backends["b0"].look(20.0)
            learned_now = gateway.runtime.scheduler.learned()
        state = read(tmp_path)
        assert state.models == learned_now
        assert state.models["gemma:latest"].load_s is not None
        assert state.sizes == {"b0": {"gemma:latest": 1 << 30}}
        backend.loaded = []
        async with hermes(backend, **kept(tmp_path)) as gateway:
            assert gateway.runtime.scheduler.learned() == learned_now
            assert gateway.runtime.fleet.backends["b0"].facts.sizes == {"gemma:latest": 1 << 30}


@scenario
async def test_what_is_seen_now_counts_more_than_what_was(tmp_path: Path) -> None:
    write(tmp_path, State({}, {"b0": {"gemma:latest": 5 << 30}}))
    async with ollama() as backend, hermes(backend, **kept(tmp_path)) as gateway:
        backend.loaded = [loaded("gemma:latest", 3 << 30, 3 << 30)]
        await gateway.runtime.fleet.backends["b0"].look(20.0)
        assert gateway.runtime.fleet.backends["b0"].facts.sizes == {"gemma:latest": 3 << 30}


@scenario
async def test_a_garbled_or_unwritable_file_keeps_nobody_from_being_served(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("}{")
    for folder in (tmp_path, tmp_path / "file"):
        (tmp_path / NAME).write_text("}{")
        async with ollama() as backend, hermes(backend, **kept(folder)) as gateway:
            assert (await gateway.ask(PROMPT, prompt())).status == 200


@scenario
async def test_nothing_is_kept_of_simulated_models(tmp_path: Path) -> None:
    async with ollama() as backend:
        backend.management["/api/version"] = play({"version": "0.33.0", "simulated": True})
        async with hermes(backend, **kept(tmp_path)) as gateway:
            assert (await gateway.ask(PROMPT, prompt())).status == 200
    assert left_in(tmp_path) == []


@scenario
async def test_a_hermes_that_has_learned_nothing_writes_nothing(tmp_path: Path) -> None:
    async with ollama() as backend:
        backend.loaded = []
        async with hermes(backend, **kept(tmp_path / "state")):
            pass
    assert left_in(tmp_path / "state") == []
