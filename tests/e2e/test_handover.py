"""Another process goes on: nothing fails, no cap is exceeded, limits hold, and whoever may die when.

`make handover` restarts under 10,000 requests; HERMES_HANDOVER says how many, and with it the figures are printed.
"""

import asyncio
import json
import os
import shutil
import signal
import socket
import sqlite3
import ssl
import time
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from hermes.errors import StorageError
from hermes.storage.database import locked
from hermes.storage.schema import NAME
from tests.fakes.backend import DONE, Asked, FakeOllama, ollama, play, speak
from tests.fakes.gateway import CHAT, PROMPT, Call, Reply, bearer, chat, key, prompt, request_bytes, scenario
from tests.fakes.process import COMMAND, SOURCES, Served, serve
from tests.http.test_origin import Authority
from tests.support import until

REQUESTS = int(os.environ.get("HERMES_HANDOVER", "600"))
CLIENTS = 12
RESTARTS = 3


class Line(Served):
    """One process after the other, which log to the same place. `pid` is that of the last."""

    def __init__(self, first: Served) -> None:
        self.__dict__.update(first.__dict__)
        self.pid = self._process.pid
        self.pids = [self.pid]

    async def ask(self, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Reply:
        """On a connection that is closed after it."""
        call = await self.open(path, body, headers)
        reply = await call.reply()
        call.peer.close()
        return reply

    async def until_queued(self, number: int, user: str = "", headers: dict[str, str] | None = None) -> None:
        headers = headers or (bearer(user) if user else {})
        async with asyncio.timeout(5.0):
            while (await self.ask("/v1/status", None, headers)).json["requests"]["queued"] != number:  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    async def replace(self) -> None:
        os.kill(self.pid, signal.SIGUSR2)
        self.pid = int((await self.told("goes on; this one ends")).split()[1])
        self.pids.append(self.pid)

    async def alone(self) -> None:
        """Wait until the one before is gone."""
        await self.told("the process before this one is gone")

    async def finish(self) -> list[dict[str, Any]]:
        """Stop the last. Returns the rest of the log of all, which is over when all are gone."""
        os.kill(self.pid, signal.SIGTERM)
        code, log = await self.end()
        assert code == 0
        return log


def is_free(folder: Path) -> bool:
    try:
        os.close(locked(folder))
    except StorageError:
        return False
    return True


@asynccontextmanager
async def line(folder: Path, backend: FakeOllama, **environ: str) -> AsyncIterator[Line]:
    async with serve(folder, backend=backend, **environ) as first:
        processes = Line(first)
        try:
            yield processes
        finally:
            for pid in processes.pids[1:]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


CAP = {"HERMES_MODELS": '{"gemma": {"max_concurrency": 2}}', "OLLAMA_NUM_PARALLEL": "8"}
ONE = {**CAP, "HERMES_MODELS": '{"gemma": {"max_concurrency": 1}}'}


def slowly() -> Any:
    async def script(asked: Asked) -> None:
        await asyncio.sleep(0.002)
        await speak("Hel", "lo")(asked)

    return script


async def ask_for_ever(hermes: Line, left: "count[int]", failed: list[Any], until_refused: bool = False) -> None:
    """On one connection as long as that is kept, whole answers and streams in turn."""
    peer = None
    while (number := next(left)) < REQUESTS:
        try:
            if peer is None:
                peer = await hermes._clients.connect(hermes.port)
            path, body = (CHAT, chat(stream=True)) if number % 2 else (PROMPT, prompt())
            await peer.send(request_bytes("POST", path, body, {}))
            reply = await Call(peer).reply()
            if until_refused and reply.status == 503 and reply.error["code"] == "draining":
                break
            if reply.status != 200 or not reply.whole or (number % 2 and reply.events[-1] != "[DONE]"):
                failed.append((reply.status, reply.body))
            if reply.headers.get("connection") == "close":
                peer.close()
                peer = None
        except (EOFError, OSError) as error:
            if until_refused and not (peer and peer.unread):  # it had left before we asked, or nobody listens any more
                break
            failed.append(repr(error))
            peer = None
    if peer is not None:
        peer.close()


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.support._LIMIT_S", 20.0 + REQUESTS / 50)


@pytest.mark.usefixtures("unhurried")
@scenario
async def test_under_load_nothing_fails_and_no_more_run_than_may(tmp_path: Path) -> None:
    """I1 over both processes at once, I33."""
    environ = {**CAP, "HERMES_LOGGING__ACCESS_LOG": "off"}
    async with ollama() as backend, line(tmp_path, backend, **environ) as hermes:
        backend.default = slowly()
        failed: list[Any] = []
        left = count()
        loop = asyncio.get_running_loop()
        clients = [loop.create_task(ask_for_ever(hermes, left, failed)) for _ in range(CLIENTS)]
        began_at = time.monotonic()
        for number in range(1, RESTARTS + 1):
            await until(lambda: len(backend.asked) >= number * REQUESTS / (RESTARTS + 1), limit_s=60.0)  # noqa: B023
            await hermes.replace()
            await hermes.alone()
        await asyncio.gather(*clients)
        took_s = time.monotonic() - began_at
        log = await hermes.finish()
        assert failed == []
        assert len(backend.asked) == REQUESTS
        assert backend.most_running == 2
        assert not [line for line in log if line.get("level") in ("warning", "error")]
        if "HERMES_HANDOVER" in os.environ:
            print(f"\n{REQUESTS} requests in {took_s:.1f} s over {RESTARTS} restarts, {len(failed)} failed")


@pytest.mark.usefixtures("unhurried")
@scenario
async def test_a_drain_under_load_drops_nothing_that_it_was_asked(tmp_path: Path) -> None:
    """I33: who runs is answered, who waits or comes late is told, and nobody is left without a word."""
    environ = {**CAP, "HERMES_LOGGING__ACCESS_LOG": str(tmp_path / "access.log")}
    async with ollama() as backend, line(tmp_path, backend, **environ) as hermes:
        backend.default = slowly()
        failed: list[Any] = []
        left = count()
        loop = asyncio.get_running_loop()
        clients = [loop.create_task(ask_for_ever(hermes, left, failed, until_refused=True)) for _ in range(CLIENTS)]
        await until(lambda: len(backend.asked) >= REQUESTS / 2, limit_s=60.0)
        hermes.signal()
        await asyncio.gather(*clients)
        assert failed == []
        assert (await hermes.end())[0] == 0
        told = [json.loads(line)["outcome"] for line in (tmp_path / "access.log").read_text().splitlines()]
        assert set(told) == {"ok", "drained"}
        assert told.count("ok") == len(backend.asked) < REQUESTS


@scenario
async def test_a_backend_that_is_drained_stays_so(tmp_path: Path) -> None:
    async with ollama() as backend, line(tmp_path, backend) as hermes:
        await hermes.ask("/v1/backends/ollama/drain", {})
        await hermes.replace()
        assert (await hermes.ask(PROMPT, prompt())).error["code"] == "no_backend"
        await hermes.ask("/v1/backends/ollama/resume", {})
        assert (await hermes.ask(PROMPT, prompt())).status == 200
        await hermes.alone()
        await hermes.finish()


@scenario
async def test_what_runs_and_waits_stays_in_its_order_and_under_its_cap(tmp_path: Path) -> None:
    """I1, I33: who came first to the old one goes before who comes to the new one."""
    environ = {**ONE, "HERMES_LOGGING__ACCESS_LOG": str(tmp_path / "access.log")}
    async with ollama() as backend, line(tmp_path, backend, **environ) as hermes:
        free = asyncio.Event()
        backend.scripts.append(play("Hel", free, "lo", DONE))
        runs = await hermes.open(CHAT, chat("first", stream=True))
        assert await runs.head() == 200
        waits = []
        for number, text in enumerate(("second", "third"), 1):
            waits.append(await hermes.open(CHAT, chat(text)))
            await hermes.until_queued(number)
        await hermes.replace()
        waits.append(await hermes.open(CHAT, chat("fourth")))
        await hermes.until_queued(3)
        assert len(backend.asked) == 1
        waits.pop(1).leave()
        await hermes.until_queued(2)
        free.set()
        assert (await runs.events())[-1] == "[DONE]"
        for waiting in waits:
            assert (await waiting.reply()).status == 200
        assert [asked.body["messages"][-1]["content"] for asked in backend.asked] == ["first", "second", "fourth"]
        assert backend.most_running == 1
        for call in (runs, waits[0]):
            call.peer.close()
        await hermes.alone()
        await hermes.finish()
        told = [json.loads(line) for line in (tmp_path / "access.log").read_text().splitlines()]
        outcomes = sorted(line["outcome"] for line in told if line["route"] == CHAT)
        assert outcomes == ["client_gone", "ok", "ok", "ok"]


@scenario
async def test_an_idle_connection_gets_one_more_answer_from_who_goes_on(tmp_path: Path) -> None:
    """I22: what is passed on is passed on as it came, its Host included."""
    async with ollama() as backend, line(tmp_path, backend) as hermes:
        idle = [await hermes.open("/health") for _ in range(7)]
        for each in idle:
            assert "connection" not in (await each.reply()).headers
        await hermes.replace()
        await idle[0].peer.send(request_bytes("POST", PROMPT, prompt("late"), {"x-request-id": "mine"}))
        late = await idle[0].reply()
        assert (late.json["result"], late.headers["connection"], late.headers["x-request-id"]) == (
            "Hello",
            "close",
            "mine",
        )
        await idle[1].peer.send(request_bytes("POST", CHAT, chat(stream=True), {}))
        late = await idle[1].reply()
        assert late.whole and late.events[-1] == "[DONE]" and late.headers["connection"] == "close"
        await idle[2].peer.send(request_bytes("GET", "/v1/models?limit=1", None, {"host": "evil.example"}))
        assert (await idle[2].reply()).error["code"] == "host_not_allowed"
        await idle[3].peer.send(request_bytes("HEAD", "/health", None, {}))
        assert (await idle[3].peer.answer("HEAD")).headers["connection"] == "close"
        await idle[4].peer.send(request_bytes("POST", PROMPT, b"{}", {}))
        assert (await idle[4].reply()).status == 400
        await idle[5].peer.send(request_bytes("GET", "/v1/requests?limit=none", None, {}))
        assert (await idle[5].reply()).error["param"] == "limit"
        await idle[6].peer.send(request_bytes("GET", "/v1/events", None, {}))
        assert (await idle[6].reply()).whole, "it has no end of its own"
        for each in idle:
            await each.peer.gone()
        await hermes.alone()
        await hermes.finish()


KEYS = {"HERMES_KEYS": json.dumps([key("ann", rpm=4, tpm=9000, daily_tokens=9000, concurrency=1)])}


@scenario
async def test_limits_and_what_is_reserved_pass_over(tmp_path: Path) -> None:
    """I6, I31: what was used before counts after, and what ends after is settled with what it took."""
    environ = {
        **KEYS,
        "HERMES_SERVER__STATE_DIR": str(tmp_path / "state"),
        "HERMES_LIMITS__MODES": '{"concurrency": "reject"}',
    }
    async with ollama() as backend, line(tmp_path, backend, **environ) as hermes:
        assert (await hermes.ask(PROMPT, prompt(), bearer("ann"))).status == 200
        free = asyncio.Event()
        backend.scripts.append(play("Hel", free, "lo", DONE))
        runs = await hermes.open(CHAT, chat(stream=True, max_tokens=8), bearer("ann"))
        assert await runs.head() == 200
        await hermes.replace()
        refused = await hermes.ask(PROMPT, prompt(), bearer("ann"))
        assert refused.status == 429 and "requests at once" in refused.error["message"], "it runs in the old one"
        free.set()
        await runs.events()
        runs.peer.close()
        await hermes.alone()
        for left in (1, 0):
            reply = await hermes.ask(CHAT, chat(max_tokens=1), bearer("ann"))
            assert (reply.status, reply.headers["x-ratelimit-remaining-requests"]) == (200, str(left))
        refused = await hermes.ask(PROMPT, prompt(), bearer("ann"))
        assert refused.status == 429 and "requests per minute" in refused.error["message"]
        await hermes.finish()
        with closing(sqlite3.connect(tmp_path / "state" / NAME)) as database:
            # of each answer the backend says that it took seven tokens and three
            assert database.execute("SELECT sum(requests), sum(prompt_tokens) FROM usage").fetchone() == (4, 28)
            assert database.execute("SELECT tokens FROM budgets").fetchall() == [(40,)]


@scenario
async def test_what_runs_outlives_several_restarts_and_counts_through_all(tmp_path: Path) -> None:
    """I1, I6: what the first runs and has wait is passed on by the second to the third."""
    environ = {**ONE, **KEYS, "HERMES_LIMITS__MODES": '{"concurrency": "reject"}'}
    environ["HERMES_KEYS"] = json.dumps([key("ann", concurrency=1), key("ben")])
    async with ollama() as backend, line(tmp_path, backend, **environ) as hermes:
        free = asyncio.Event()
        backend.scripts.append(play("Hel", free, "lo", DONE))
        runs = await hermes.open(CHAT, chat(stream=True), bearer("ann"))
        assert await runs.head() == 200
        waits = []
        for number in range(2):
            waits.append(await hermes.open(CHAT, chat(str(number)), bearer("ben")))
            await hermes.until_queued(number + 1, "ben")
            for _ in range(2 - 2 * number):  # nobody is connected to the second, but what it passes on
                await hermes.replace()
        refused = await hermes.ask(PROMPT, prompt(), bearer("ann"))
        assert refused.status == 429 and "requests at once" in refused.error["message"]
        assert len(backend.asked) == 1
        free.set()
        assert (await runs.events())[-1] == "[DONE]"
        for waiting in waits:
            assert (await waiting.reply()).status == 200
            waiting.peer.close()
        runs.peer.close()
        for _ in range(2):
            await hermes.alone()
        assert [asked.body["messages"][-1]["content"] for asked in backend.asked] == ["Hi", "0", "1"]
        assert backend.most_running == 1
        assert (await hermes.ask(PROMPT, prompt(), bearer("ann"))).status == 200
        await hermes.finish()


@scenario
async def test_one_that_is_stopped_waits_for_what_the_one_before_still_runs(tmp_path: Path) -> None:
    """I33: a service manager that ends all with the last would cut it. Who waits there is told."""
    async with ollama() as backend, line(tmp_path, backend) as hermes:
        free = asyncio.Event()
        backend.scripts.append(play("Hel", free, "lo", DONE))
        runs = await hermes.open(CHAT, chat(stream=True))
        await runs.head()
        waits = await hermes.open(CHAT, chat())
        await hermes.until_queued(1)
        await hermes.replace()
        os.kill(hermes.pid, signal.SIGTERM)
        await hermes.told("draining")
        assert (await waits.reply()).error["code"] == "draining"
        waits.peer.close()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await hermes.told("which went on, is gone")
        free.set()
        assert (await runs.events())[-1] == "[DONE]"
        runs.peer.close()
        assert (await hermes.end())[0] == 0


@scenario
async def test_one_that_cannot_start_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "hermes.yaml"
    file.write_text("server: {watch_config: false}")
    async with ollama() as backend, line(tmp_path, backend) as hermes:
        file.write_text("server: {no: such}")
        hermes.signal(signal.SIGUSR2)
        assert "ended with 2 before it was ready" in await hermes.told("not restarted")
        assert (await hermes.ask(PROMPT, prompt())).json["result"] == "Hello"
        file.write_text("server: {watch_config: false}")
        await hermes.replace()
        await hermes.alone()
        assert (await hermes.ask(PROMPT, prompt())).json["result"] == "Hello"
        await hermes.finish()


@scenario
async def test_what_is_read_anew_while_another_one_starts_holds_there_too(tmp_path: Path) -> None:
    """I34: that one has read it before, and nobody asks it again."""
    file = tmp_path / "hermes.yaml"
    file.write_text("server: {watch_config: false}")
    async with ollama() as backend, line(tmp_path, backend) as hermes:
        await hermes.told("try: curl")
        assert (await hermes.ask(PROMPT, prompt())).status == 200
        old = backend.asked[0].headers["x-hermes-hop"]
        looked, gate = asyncio.Event(), asyncio.Event()

        async def look(asked: Asked) -> None:
            if asked.headers["x-hermes-hop"] != old:  # which may look again, at any time
                looked.set()
            await gate.wait()
            await backend._manage(asked)

        backend.management["/api/tags"] = look
        hermes.signal(signal.SIGUSR2)
        await looked.wait()
        file.write_text("server: {watch_config: false}\nmodels: {mine: {backend_model: gemma}}")
        hermes.signal(signal.SIGHUP)
        await hermes.told("the configuration was read anew")
        gate.set()
        is_read, goes_on = False, ""
        while not (is_read and goes_on):  # the one is the new one's word, the other the old one's
            said = await hermes.told('"message"')
            is_read = is_read or "the configuration was read anew" in said
            goes_on = said if "goes on; this one ends" in said else goes_on
        hermes.pid = int(goes_on.split()[1])
        hermes.pids.append(hermes.pid)
        assert (await hermes.ask(CHAT, chat(model="mine"))).status == 200
        await hermes.finish()


@scenario
async def test_one_whose_new_address_is_taken_is_passed_nothing(tmp_path: Path) -> None:
    """I1: where it can listen is settled before anything is handed over."""
    file = tmp_path / "hermes.yaml"
    file.write_text("server: {watch_config: false}")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        async with ollama() as backend, line(tmp_path, backend, **ONE) as hermes:
            free = asyncio.Event()
            backend.scripts.append(play("Hel", free, "lo", DONE))
            runs = await hermes.open(CHAT, chat(stream=True))
            await runs.head()
            waits = await hermes.open(CHAT, chat())
            await hermes.until_queued(1)
            file.write_text(f"server: {{watch_config: false}}\nadmin: {{port: {taken.getsockname()[1]}}}")
            hermes.signal(signal.SIGUSR2)
            assert "ended with 2 before it was ready" in await hermes.told("not restarted")
            free.set()
            assert (await runs.events())[-1] == "[DONE]"
            assert (await waits.reply()).status == 200
            for call in (runs, waits):
                call.peer.close()
            await hermes.finish()


@scenario
async def test_what_is_configured_otherwise_is_left_where_it_was(tmp_path: Path) -> None:
    """Nobody listens at the old address, whose connections get their answer all the same; the lock is of one folder."""
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
        ports = [each.getsockname()[1] for each in (first, second)]
    file, folders = tmp_path / "hermes.yaml", [tmp_path / name for name in ("a", "b")]
    said = [f"server: {{watch_config: false, port: {ports[each]}, state_dir: {folders[each]}}}" for each in range(2)]
    file.write_text(said[0])
    environ = {"HERMES_CONFIG": str(file), "HERMES_SERVER__PORT": "", "HERMES_SERVER__STATE_DIR": ""}
    async with ollama() as backend, line(tmp_path, backend, **environ) as hermes:
        assert hermes.port == ports[0]
        idle = await hermes.open("/health")
        await idle.reply()
        file.write_text(said[1])
        await hermes.replace()
        await idle.peer.send(request_bytes("POST", PROMPT, prompt(), {}))
        assert (await idle.reply()).json["result"] == "Hello"
        idle.peer.close()
        await hermes.alone()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", ports[0])).close()
        hermes.port = ports[1]
        assert (await hermes.ask(PROMPT, prompt())).status == 200
        await until(lambda: is_free(folders[0]), "its folder is still locked")  # which it lets go of last
        assert names(folders[0]) == ["hermes.lock"], "nobody listens there"
        await hermes.finish()


@scenario
async def test_what_the_old_one_ran_is_free_when_that_is_killed(tmp_path: Path) -> None:
    """I2: nobody is left to give the slot back, or to say what was used."""
    environ = {**ONE, "HERMES_LIMITS__MODES": '{"concurrency": "reject"}'}
    environ["HERMES_KEYS"] = json.dumps([key("ann", concurrency=1), key("ben")])
    async with ollama() as backend, line(tmp_path, backend, **environ) as hermes:
        backend.scripts.append(play("Hel", asyncio.Event(), DONE))
        runs = await hermes.open(CHAT, chat(stream=True), bearer("ann"))
        await runs.head()
        await hermes.replace()
        waits = await hermes.open(PROMPT, prompt(), bearer("ben"))
        await hermes.until_queued(1, "ben")
        assert (await hermes.ask(PROMPT, prompt(), bearer("ann"))).status == 429
        hermes.signal(signal.SIGKILL)
        assert (await waits.reply()).json["result"] == "Hello"
        assert (await hermes.ask(PROMPT, prompt(), bearer("ann"))).status == 200
        await hermes.alone()
        os.kill(hermes.pid, signal.SIGTERM)
        assert (await hermes.end())[0] == -signal.SIGKILL


@scenario
async def test_an_operator_is_told_how_it_went(tmp_path: Path) -> None:
    """I17: a key that is made by one is known to the next, and to the one after that."""
    environ = {"HERMES_SERVER__STATE_DIR": str(tmp_path / "state"), "HERMES_CONFIG": str(tmp_path / "hermes.yaml")}
    file = tmp_path / "hermes.yaml"
    file.write_text("server: {watch_config: false}")
    async with ollama() as backend, line(tmp_path, backend, **environ) as hermes:
        for number in range(2):
            made = await operator(tmp_path, environ, "keys", "create", f"key{number}")
            assert made[0] == 0
            secret = next(word for word in made[1].split() if word.startswith("sk-"))
            code, told = await operator(tmp_path, environ, "restart")
            assert code == 0, told
            hermes.pid = int(told.split()[1])
            assert f"kill {hermes.pid} stops it" in told
            hermes.pids.append(hermes.pid)
            asked = await hermes.ask(PROMPT, prompt(), {"authorization": f"Bearer {secret}"})
            assert asked.status == 200
            await hermes.alone()
        file.write_text("server: {no: such}")
        code, told = await operator(tmp_path, environ, "restart")
        assert code == 2
        await hermes.finish()


@scenario
async def test_who_waits_by_a_key_that_is_revoked_is_sent_away_wherever_he_waits(tmp_path: Path) -> None:
    """I17"""
    environ = {**ONE, "HERMES_SERVER__STATE_DIR": str(tmp_path / "state")}
    async with ollama() as backend, line(tmp_path, backend, **environ) as hermes:
        told = await operator(tmp_path, environ, "keys", "create", "ann")
        ann = {"authorization": f"Bearer {next(word for word in told[1].split() if word.startswith('sk-'))}"}
        free = asyncio.Event()
        backend.scripts.append(play("Hel", free, "lo", DONE))
        runs = await hermes.open(CHAT, chat(stream=True), ann)
        await runs.head()
        waits = await hermes.open(CHAT, chat(), ann)
        await hermes.until_queued(1, headers=ann)
        await hermes.replace()
        assert (await operator(tmp_path, environ, "keys", "revoke", "ann"))[0] == 0
        assert (await waits.reply()).status == 401
        free.set()
        assert (await runs.events())[-1] == "[DONE]"
        runs.peer.close()
        await hermes.alone()
        await hermes.finish()


async def operator(folder: Path, environ: dict[str, str], *arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *COMMAND, *arguments, stdout=PIPE, stderr=STDOUT, cwd=folder, env={**SOURCES, **environ}
    )
    told, _ = await process.communicate()
    return process.returncode or 0, told.decode()


@scenario
async def test_a_service_manager_is_told_who_goes_on_and_begins_to_watch_that_anew(tmp_path: Path) -> None:
    """What the new one says before is not the main process's word: its watchdog would be late."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "30000000"}
        async with ollama() as backend, line(tmp_path, backend, **environ) as hermes:
            await hermes.replace()
            await hermes.alone()
            await hermes.finish()
        told = []
        with suppress(BlockingIOError):
            while True:
                told.append(manager.recv(4096).decode())
        assert f"MAINPID={hermes.pid}\nWATCHDOG=1" in told


@scenario
async def test_https_and_unix_sockets_pass_over_too(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    authority = Authority(tmp_path, "good")
    tls = {"cert_file": str(authority.cert_file), "key_file": str(authority.key_file)}
    trusting = ssl.create_default_context(cafile=authority.ca_file)
    path = str(tmp_path / "hermes.sock")
    for where in ({"HERMES_SERVER__TLS": json.dumps(tls)}, {"HERMES_SERVER__UNIX_SOCKET": path}):
        environ = {**CAP, **where}
        async with ollama() as backend, line(tmp_path, backend, **environ) as hermes:

            async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
                if "HERMES_SERVER__TLS" in environ:  # noqa: B023
                    return await asyncio.open_connection("127.0.0.1", hermes.port, ssl=trusting)
                return await asyncio.open_unix_connection(path)

            free = asyncio.Event()
            backend.scripts.append(play("Hel", free, "lo", DONE))
            runs, idle = await connect(), await connect()
            runs[1].write(request_bytes("POST", CHAT, chat(stream=True), {}))
            await runs[0].readuntil(b'"Hel"')
            idle[1].write(request_bytes("GET", "/health", None, {}))
            await idle[0].readuntil(b"}")
            await hermes.replace()
            fresh = await connect()
            for reader, writer in (idle, fresh):
                writer.write(request_bytes("POST", PROMPT, prompt(), {"connection": "close"}))
                assert b'"result":"Hello"' in await reader.read()
                writer.close()
            free.set()
            assert b"[DONE]" in await runs[0].readuntil(b"0\r\n\r\n")
            runs[1].close()
            await hermes.alone()
            assert await hermes.finish()
    assert "hermes.sock" not in names(tmp_path), "who is last tidies up"


def names(folder: Path) -> list[str]:
    return [each.name for each in folder.iterdir()]
