"""`hermes serve`, told by a signal, by a verb and by its files that its configuration is another."""

import asyncio
import os
import signal
from pathlib import Path

from tests.fakes.backend import FakeOllama, ollama
from tests.fakes.gateway import PROMPT, prompt, request_bytes, scenario
from tests.fakes.process import COMMAND, SOURCES, Served, serve


def write(folder: Path, total: int, more: str = "") -> None:
    (folder / "hermes.yaml").write_text(f"limits: {{queue_total: {total}}}\n{more}")


async def queue_total(hermes: Served) -> int:
    status = (await (await hermes.open("/v1/status")).reply()).json
    return int(status["requests"]["queue_total"])


@scenario
async def test_sighup_has_it_read_anew_and_the_connections_stay(tmp_path: Path) -> None:
    write(tmp_path, 7)
    async with ollama() as backend, serve(tmp_path, backend=backend, HERMES_SERVER__WATCH_CONFIG="false") as hermes:
        assert await queue_total(hermes) == 7
        idle = await hermes.open(PROMPT, prompt())
        assert (await idle.reply()).status == 200
        write(tmp_path, 8)
        hermes.signal(signal.SIGHUP)
        await hermes.told("read anew (SIGHUP)")
        assert await queue_total(hermes) == 8
        write(tmp_path, 9, "nonsense: 1\n")
        hermes.signal(signal.SIGHUP)
        assert "nonsense: unknown key" in await hermes.told("stays as it is (SIGHUP)")
        assert await queue_total(hermes) == 8
        await idle.peer.send(request_bytes("POST", PROMPT, prompt(), {}))
        assert (await idle.reply()).status == 200, "on the same connection"
        assert (await _ended(hermes))[0] == 0


@scenario
async def test_a_file_that_changes_is_noticed(tmp_path: Path) -> None:
    write(tmp_path, 7)
    async with ollama() as backend, serve(tmp_path, backend=backend) as hermes:
        assert await queue_total(hermes) == 7
        write(tmp_path, 88)
        await hermes.told("read anew (a file has changed)")
        assert await queue_total(hermes) == 88


@scenario
async def test_the_verb_tells_how_it_went(tmp_path: Path) -> None:
    write(tmp_path, 7)
    async with ollama() as backend, serve(tmp_path, backend=backend, HERMES_SERVER__WATCH_CONFIG="false") as hermes:
        write(tmp_path, 8, "server: {cpu_affinity: [0]}\n")
        code, said = await _reload(hermes)
        assert (code, said) == (0, "the configuration was read anew\nneeds a restart: server.cpu_affinity\n")
        write(tmp_path, 9, "limit: {}\n")
        code, said = await _reload(hermes)
        assert code == 1 and "limit: unknown key, did you mean limits?" in said
        assert await queue_total(hermes) == 8


@scenario
async def test_the_simulated_server_stays_in_the_place_of_the_backends(tmp_path: Path) -> None:
    write(tmp_path, 7)
    async with serve(tmp_path, "--simulate", HERMES_SERVER__WATCH_CONFIG="false") as hermes:
        write(tmp_path, 8, "backends: [{name: far, url: 'http://127.0.0.1:1'}]\n")
        hermes.signal(signal.SIGHUP)
        await hermes.told("read anew (SIGHUP)")
        status = (await (await hermes.open("/v1/status")).reply()).json
        assert [backend["name"] for backend in status["backends"]] == ["simulated"]
        assert status["requests"]["queue_total"] == 8


@scenario
async def test_a_log_that_was_rotated_is_opened_anew(tmp_path: Path) -> None:
    log, rotated = tmp_path / "access.log", tmp_path / "access.log.1"
    write(tmp_path, 7, f"logging: {{access_log: {log}}}\n")
    async with ollama() as backend, serve(tmp_path, backend=backend) as hermes:
        await _ask(hermes, backend, "first")
        log.rename(rotated)
        hermes.signal(signal.SIGHUP)
        await hermes.told("read anew (SIGHUP)")
        await _ask(hermes, backend, "second")
        assert (await _ended(hermes))[0] == 0
    assert len(rotated.read_text().splitlines()) == len(log.read_text().splitlines()) == 1


async def _ask(hermes: Served, backend: FakeOllama, text: str) -> None:
    call = await hermes.open(PROMPT, prompt(text))
    assert (await call.reply()).status == 200
    call.peer.close()


async def _ended(hermes: Served) -> tuple[int, object]:
    hermes.signal()
    return await hermes.end()


async def _reload(hermes: Served) -> tuple[int, str]:
    environ = {**SOURCES, "HERMES_URL": hermes.address, "PATH": os.environ["PATH"]}
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "reload", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env=environ
    )
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode()
