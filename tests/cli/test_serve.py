"""`hermes serve`, as a process: what it says, where it listens, and how it refuses to start."""

import asyncio
import json
import logging
import os
import re
import socket
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hermes import __version__
from hermes.cli.log import tell
from tests.fakes.backend import Asked, answer, fail, loaded, ollama
from tests.fakes.gateway import PROMPT, prompt, scenario
from tests.fakes.process import COMMAND, SOURCES, serve
from tests.http.peers import connect
from tests.support import until


@scenario
async def test_it_tells_where_it_listens_and_what_to_try(tmp_path: Path) -> None:
    async with ollama() as backend, serve(tmp_path, backend=backend) as hermes:
        assert hermes.address == f"http://127.0.0.1:{hermes.port}"
        assert backend.url in await hermes.told("backend")
        assert f"curl {hermes.address}/v1/llm/" in await hermes.told("try:")
        assert (await (await hermes.open(PROMPT, prompt())).reply()).json["result"] == "Hello"


@scenario
async def test_what_to_try_is_a_model_that_is_loaded(tmp_path: Path) -> None:
    async with ollama("gemma", "phi:mini", "qwen") as backend:
        backend.loaded[:] = [loaded("phi:mini")]
        async with serve(tmp_path, backend=backend) as hermes:
            assert "/v1/llm/phi:mini -d" in await hermes.told("try:")
        backend.loaded.clear()
        async with serve(tmp_path, backend=backend) as hermes:
            assert "/v1/llm/gemma -d" in await hermes.told("try:")


@scenario
async def test_flags_win_over_variables_and_the_file(tmp_path: Path) -> None:
    async with ollama() as backend:
        (tmp_path / "hermes.yaml").write_text(
            f"backends: [{{name: gpu0, url: '{backend.url}'}}]\nserver: {{port: 1}}\n"
        )
        async with serve(tmp_path, "--port", "0", HERMES_SERVER__PORT="2") as hermes:
            status = (await (await hermes.open("/v1/status")).reply()).json
            assert status["backends"][0]["name"] == "gpu0"


@scenario
async def test_keys_from_the_environment_close_the_door(tmp_path: Path) -> None:
    keys = json.dumps({"sk-1": {"user": "editor"}})
    async with ollama() as backend, serve(tmp_path, backend=backend, API_KEYS_JSON=keys) as hermes:
        assert (await (await hermes.open(PROMPT, prompt())).reply()).status == 401
        call = await hermes.open(PROMPT, prompt(), {"authorization": "Bearer sk-1"})
        assert (await call.reply()).status == 200


def once(folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """A command that ends by itself."""
    command, env = [*COMMAND, *arguments], {**SOURCES, **environ}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=20)


@scenario
async def test_stored_keys_close_the_door_before_it_listens(tmp_path: Path) -> None:
    """I24, I32: beyond loopback too; and what cannot be read keeps it from starting."""
    environ = {"HERMES_SERVER__STATE_DIR": str(tmp_path / "state"), "HERMES_ADMIN__PORT": "0"}
    secret = once(tmp_path, "keys", "create", "editor", **environ).stdout.strip()
    async with ollama() as backend, serve(tmp_path, "--host", "0.0.0.0", backend=backend, **environ) as hermes:
        assert "http://127.0.0.1:" in await hermes.told("operators are listened to at")
        assert "Authorization: Bearer KEY" in await hermes.told("try:")
        assert (await (await hermes.open(PROMPT, prompt())).reply()).status == 401
        call = await hermes.open(PROMPT, prompt(), {"authorization": f"Bearer {secret}"})
        assert (await call.reply()).status == 200
    (tmp_path / "state" / "pepper").unlink()
    refused = once(tmp_path, "serve", **environ)
    assert refused.returncode == 2 and "pepper is missing" in refused.stderr


@scenario
async def test_the_log_is_lines_of_json_without_prompts_or_answers(tmp_path: Path) -> None:
    """I27, I28."""
    async with ollama() as backend, serve(tmp_path, backend=backend) as hermes:
        await hermes.told("try:")
        call = await hermes.open(PROMPT, prompt("my secret\nquestion"), {"x-request-id": "job-1"})
        await call.reply()
        await (await hermes.open("/v1/llm/%0Aevil", prompt())).reply()
        hermes.signal()
        _, log = await hermes.end()
        told = next(line for line in log if line.get("request_id") == "job-1")
        assert (told["route"], told["outcome"], told["status"]) == ("/v1/llm/{model}", "ok", 200)
        assert (told["tokens_in"], told["tokens_out"], told["backend"]) == (7, 3, "ollama")
        assert told["created_at"] > 1.7e9 and told["duration_ms"] >= 0
        assert "secret" not in str(log) and "Hello" not in str(log)


@scenario
async def test_a_line_of_the_log_says_when_in_utc_and_how_grave_it_is(tmp_path: Path) -> None:
    async with ollama() as backend, serve(tmp_path, backend=backend) as hermes:
        began_at = datetime.now(UTC) - timedelta(milliseconds=1)
        hermes.signal()
        _, log = await hermes.end()
        told = next(line for line in log if "draining" in line.get("message", ""))
        assert told.keys() == {"time", "level", "logger", "message"}
        assert (told["level"], told["logger"]) == ("info", "hermes.cli.loop")
        assert told["time"].endswith("Z")
        assert began_at <= datetime.fromisoformat(told["time"]) <= datetime.now(UTC)


@scenario
async def test_on_a_terminal_people_are_greeted_and_the_log_is_for_reading(tmp_path: Path) -> None:
    ours, its = os.openpty()
    os.set_blocking(ours, False)
    said = bytearray()

    def says(words: str) -> bool:
        with suppress(BlockingIOError):
            said.extend(os.read(ours, 65536))
        return words.encode() in said

    environ = {**SOURCES, "PORT": "0", "XDG_CONFIG_HOME": str(tmp_path), "OLLAMA_URL": "http://127.0.0.1:1"}
    program = tmp_path / "hermes"  # that is not on PATH
    program.write_text("from hermes.cli import main\nmain()\n")
    command = (sys.executable, str(program), "serve")
    process = await asyncio.create_subprocess_exec(*command, stderr=its, cwd=tmp_path, env=environ)
    try:
        await until(lambda: says("try: curl"), limit_s=10)
        [port] = re.findall(rb"listens on http://127.0.0.1:(\d+)", said)
        peer = await connect(int(port))
        await peer.send(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await until(lambda: says("Z  ok  200  GET  /v1/models  "), limit_s=10)
        peer.close()
        process.terminate()
        await until(lambda: says("draining"), limit_s=10)
        async with asyncio.timeout(10):
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        os.close(ours)
        os.close(its)
    lines = said.decode().splitlines()
    at = next(at for at, line in enumerate(lines) if line.startswith(f"Hermes {__version__} listens on http://127."))
    address = lines[at].rpartition(" ")[2]
    assert lines[at + 1 : at + 7] == [
        f"  OpenAI's SDKs {address}/v1",
        f"  others        {address} (Ollama's and Anthropic's)",
        f"  dashboard     {address}/dashboard",
        "  configuration no file: as it is by default, and by variables and flags",
        f"  keys          none, all may ask. Make one: {program} keys create NAME",
        "  backend       ollama, ollama at http://127.0.0.1:1",
    ]
    (told,) = [line for line in lines if "draining" in line]
    assert re.fullmatch(r"2\d{3}-\d\d-\d\dT[\d:.]{12}Z INFO hermes.cli.loop: SIGTERM: draining; .*", told)


@scenario
async def test_it_serves_simulated_models_and_says_so(tmp_path: Path) -> None:
    async with serve(tmp_path, "--simulate") as hermes:
        assert "SIMULATED" in await hermes.told("SIMULATED")
        status = (await (await hermes.open("/v1/status")).reply()).json
        assert status["backends"][0]["simulated"] is True
        names = [model["id"] for model in (await (await hermes.open("/v1/models")).reply()).json["data"]]
        body = prompt(options={"max_tokens": 3})
        assert (await (await hermes.open(f"/v1/llm/{names[0]}", body)).reply()).json["result"]


def test_that_models_are_simulated_is_said_whatever_the_log_level(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="hermes"):
        tell("listens")
        tell("SIMULATED", logging.WARNING)
    assert caplog.messages == ["SIMULATED"]


@scenario
async def test_it_simulates_only_if_nobody_answers(tmp_path: Path) -> None:
    async with ollama() as backend:
        async with serve(tmp_path, "--or-simulate", backend=backend) as hermes:
            status = (await (await hermes.open("/v1/status")).reply()).json
            assert status["backends"][0]["simulated"] is False
        await backend.vanish()
        async with serve(tmp_path, "--or-simulate", backend=backend) as hermes:
            status = (await (await hermes.open("/v1/status")).reply()).json
            assert status["backends"][0]["simulated"] is True


@scenario
async def test_a_backend_that_wants_its_key_is_asked_with_it_before_another_is_simulated(tmp_path: Path) -> None:
    async def guarded(asked: Asked) -> None:
        known = asked.headers.get("authorization") == "Bearer s3cret"
        await (answer(200, b'{"version":"0.33.0"}') if known else fail(401, "no"))(asked)

    async with ollama() as backend:
        backend.management["/api/version"] = guarded
        backends = json.dumps([{"name": "gpu0", "url": backend.url, "api_key": "s3cret"}])
        async with serve(tmp_path, "--or-simulate", HERMES_BACKENDS=backends) as hermes:
            status = (await (await hermes.open("/v1/status")).reply()).json
            assert [(told["name"], told["state"]) for told in status["backends"]] == [("gpu0", "up")]


def hermes_serve(folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run it where it should not even start."""
    return subprocess.run(
        [*COMMAND, "serve", *arguments],
        cwd=folder,
        env={**SOURCES, "XDG_CONFIG_HOME": str(folder), **environ},
        capture_output=True,
        text=True,
        timeout=20,
    )


REFUSED: list[tuple[list[str], dict[str, str], str]] = [
    ([], {"PORT": "abc"}, "server.port: 'abc' is not a port from 0 to 65535 (PORT)"),
    ([], {"HERMES_SERVR__PORT": "1"}, "did you mean HERMES_SERVER__PORT?"),
    ([], {"LLM_BACKEND": "mlx"}, "is unknown; supported: ollama, vllm"),
    ([], {"API_KEYS_JSON": '["sk-secret"]'}, "the right form is"),
    ([], {"HERMES_LOGGING__ACCESS_LOG": "/nowhere/access.log"}, "cannot write /nowhere/access.log"),
    ([], {"HERMES_SERVER__TLS": '{"cert_file": "/nowhere.pem"}'}, "/nowhere.pem"),
    ([], {"HERMES_BACKENDS": '[{"name":"b","url":"https://127.0.0.1:1","ca_file":"/nowhere.pem"}]'}, "backends.b"),
    (
        ["--or-simulate"],
        {"HERMES_BACKENDS": '[{"name":"b","url":"https://127.0.0.1","ca_file":"/no.pem"}]'},
        "backends.b",
    ),
    (["--config", "nowhere.yaml"], {}, "nowhere.yaml"),
    (["--host", "0.0.0.0"], {}, "can be reached from other machines and no keys are configured"),
    (["--host", "::"], {"HERMES_SERVER__PORT": "0"}, "can be reached from other machines"),
    ([], {"HERMES_SERVER__HOST": "gpu.lan"}, "can be reached from other machines"),
    (["--port", "70000"], {}, "70000 is not a port"),
]


@pytest.mark.parametrize(("arguments", "environ", "words"), REFUSED)
def test_a_bad_configuration_is_refused_with_2_and_one_clear_line(
    arguments: list[str], environ: dict[str, str], words: str, tmp_path: Path
) -> None:
    done = hermes_serve(tmp_path, *arguments, **environ)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert all(line.startswith("hermes: ") for line in done.stderr.splitlines()), done.stderr
    assert "sk-secret" not in done.stderr


@scenario
async def test_other_machines_are_served_where_that_is_spelled_out(tmp_path: Path) -> None:
    async with ollama() as backend:
        async with serve(tmp_path, "--host", "0.0.0.0", "--insecure", backend=backend) as hermes:
            assert (await (await hermes.open("/health")).reply()).status == 200
        keys = json.dumps({"sk-1": {"user": "editor"}})
        async with serve(tmp_path, "--host", "0.0.0.0", backend=backend, API_KEYS_JSON=keys) as hermes:
            assert (await (await hermes.open("/v1/models")).reply()).status == 401


def test_a_port_in_use_is_refused_with_2(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = hermes_serve(tmp_path, "--port", str(port))
    assert done.returncode == 2
    told = (
        f"hermes: cannot listen on 127.0.0.1:{port}: the port is taken; use --port or PORT, or stop what listens there"
    )
    assert told in done.stderr.splitlines()


def test_an_admin_port_in_use_is_refused_by_its_own_name(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = hermes_serve(tmp_path, "--port", "0", HERMES_ADMIN__PORT=str(port))
    told = f"hermes: cannot listen on 127.0.0.1:{port}: the port is taken; use admin.port, or stop what listens there"
    assert (done.returncode, told in done.stderr.splitlines()) == (2, True)


def test_an_address_that_this_machine_has_not_is_told_with_those_that_it_has(tmp_path: Path) -> None:
    done = hermes_serve(tmp_path, "--host", "192.0.2.1", "--insecure")
    assert (done.returncode, "127.0.0.1 and 0.0.0.0 are there always" in done.stderr) == (2, True)


def test_two_ways_to_simulate_are_one_too_many(tmp_path: Path) -> None:
    done = hermes_serve(tmp_path, "--simulate", "--or-simulate")
    assert (done.returncode, "exclude each other" in done.stderr) == (2, True)


@scenario
async def test_what_it_tells_to_try_is_what_works(tmp_path: Path) -> None:
    keys = json.dumps({"sk-1": {"user": "editor"}})
    async with ollama() as backend:
        async with serve(tmp_path, "--host", "0.0.0.0", backend=backend, API_KEYS_JSON=keys) as hermes:
            told = await hermes.told("try:")
            assert f"curl http://127.0.0.1:{hermes.port}/v1/llm/gemma -H 'Authorization: Bearer KEY' -d" in told
        async with serve(tmp_path, backend=backend, HERMES_SERVER__UNIX_SOCKET="h.sock") as hermes:
            assert "curl --unix-socket h.sock http://localhost/v1/llm/gemma -d" in await hermes.told("try:")


@scenario
async def test_a_backend_that_is_not_there_is_a_warning_that_says_what_to_do(tmp_path: Path) -> None:
    async with serve(tmp_path, OLLAMA_URL="http://127.0.0.1:1") as hermes:
        told = await hermes.told('"warning"')
        assert told == "backend ollama does not answer at http://127.0.0.1:1: start Ollama, or use --simulate"
        assert "/v1/llm/MODEL" in await hermes.told("try:")
    own = '[{"name": "v", "kind": "vllm", "url": "http://127.0.0.1:1"}]'
    async with serve(tmp_path, HERMES_BACKENDS=own) as hermes:
        assert (await hermes.told('"warning"')).endswith("http://127.0.0.1:1: start it, or use --simulate")


def test_the_module_can_be_run(tmp_path: Path) -> None:
    done = subprocess.run([*COMMAND, "version"], cwd=tmp_path, env=SOURCES, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout.split()[0]) == (0, "hermes")
