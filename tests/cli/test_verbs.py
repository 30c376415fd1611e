"""The verbs that ask a running Hermes, and those that need none: what they print, and with which code they exit."""

import asyncio
import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from hermes import __version__
from hermes.cli import cli
from hermes.config import files
from tests.fakes.backend import FakeOllama, Script, Then, answer, fail, loaded, ollama, play
from tests.fakes.gateway import Hermes, hermes, scenario, serving
from tests.fakes.gateway import config as configured

# What may be set where the tests run.
FOREIGN = ["PORT", "OLLAMA_URL", "OLLAMA_HOST", "OLLAMA_NUM_PARALLEL", "LLM_BACKEND", "LLM_BACKEND_URL"]
FOREIGN += ["MAX_CONCURRENT", "API_KEYS_JSON", "HERMES_CONFIG", "HERMES_URL", "HERMES_API_KEY"]

Run = Callable[..., Result]


@pytest.fixture
def verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command line in an empty folder."""
    monkeypatch.setattr(files, "SYSTEM_DIR", tmp_path / "etc")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, stdin: str = "", **environ: str) -> Result:
        own = {**dict.fromkeys(FOREIGN), "XDG_CONFIG_HOME": str(tmp_path), **environ}
        return CliRunner().invoke(cli, arguments, input=stdin, env=own)

    return run


async def ask(verb: Run, gateway: Hermes, *arguments: str, stdin: str = "", **environ: str) -> Result:
    """The same against a gateway of this process's own."""
    url = f"http://127.0.0.1:{gateway.port}"
    return await asyncio.to_thread(verb, *arguments, stdin=stdin, HERMES_URL=url, **environ)


VERBS = ["serve", "sim", "check", "status", "models", "pull", "ask", "version"]


@pytest.mark.parametrize("arguments", [[], *([name] for name in VERBS)])
def test_every_verb_has_help(verb: Run, arguments: list[str]) -> None:
    result = verb(*arguments, "--help")
    assert result.exit_code == 0
    assert result.output.startswith("Usage: ")
    assert "\b" not in result.output


def test_help_lists_the_verbs(verb: Run) -> None:
    output = verb("--help").output
    assert all(f"\n  {name} " in output for name in VERBS)


def test_a_wrong_command_line_is_2(verb: Run) -> None:
    assert verb("sreve").exit_code == verb("ask").exit_code == verb("status", "--jsn").exit_code == 2


def test_version(verb: Run) -> None:
    result = verb("version")
    assert (result.exit_code, result.output.split()[:2]) == (0, ["hermes", __version__])


# --- check --------------------------------------------------------------------------------------------------------


def test_check_prints_what_is_in_force_with_secrets_masked(verb: Run, tmp_path: Path) -> None:
    (tmp_path / "hermes.yaml").write_text("models: {gemma: {timeout_s: 30}}\n")
    result = verb("check", API_KEYS_JSON='{"sk-secret": {"user": "me"}}')
    assert result.exit_code == 0
    told = yaml.safe_load(result.output)
    assert told["models"]["gemma"]["timeout_s"] == 30
    assert told["keys"][0]["user"] == "me" and "sk-secret" not in result.output
    assert verb("check", "--quiet").output == ""


def test_check_tells_all_that_is_wrong_and_exits_with_2(verb: Run, tmp_path: Path) -> None:
    file = tmp_path / "other.yaml"
    file.write_text("server: {prot: 1}\nmodels: {gemma: {timeout: 3}}\n")
    result = verb("check", "--config", str(file))
    assert result.exit_code == 2
    assert "server.prot: unknown key, did you mean port?" in result.stderr
    assert "models.gemma.timeout: unknown key, did you mean timeout_s?" in result.stderr
    assert result.stdout == ""


def test_check_refuses_what_serve_would_refuse(verb: Run) -> None:
    """I24."""
    result = verb("check", HERMES_SERVER__HOST="0.0.0.0")
    assert (result.exit_code, "no keys are configured" in result.stderr) == (2, True)
    assert verb("check", HERMES_SERVER__HOST="0.0.0.0", HERMES_SERVER__INSECURE="true").exit_code == 0


# --- asking a running one -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["status"], ["models"], ["ask", "gemma", "Hi"], ["pull", "gemma"]])
def test_without_a_server_each_says_how_to_start_one_and_exits_with_3(verb: Run, arguments: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"127.0.0.1:{free.getsockname()[1]}"
    result = verb(*arguments, "--url", url)
    assert result.exit_code == 3
    assert "hermes serve" in result.stderr


@pytest.mark.parametrize("told", [answer(200, b"<html>hello</html>", b"text/html"), answer(404, b"404 page not found")])
@scenario
async def test_what_is_no_hermes_is_told_so(verb: Run, told: Script) -> None:
    async with ollama() as backend:
        backend.management["/v1/models"] = told
        result = await asyncio.to_thread(verb, "models", "--url", backend.url)
        assert (result.exit_code, result.stdout) == (1, "")
        assert "no Hermes" in result.stderr or "HTTP 404" in result.stderr


@scenario
async def test_ask_prints_the_answer(verb: Run) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        result = await ask(verb, gateway, "ask", "gemma", "Hi", "--system", "Be brief", "--temperature", "0", "--stats")
        assert (result.exit_code, result.stdout) == (0, "Hello\n")
        assert "7 tokens in, 3 out" in result.stderr
        body = backend.asked[0].body
        assert (body["system"], body["options"]["temperature"]) == ("Be brief", 0)


@pytest.mark.parametrize("dash", [[], ["-"]])
@scenario
async def test_ask_reads_the_prompt_from_standard_input(verb: Run, dash: list[str]) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        result = await ask(verb, gateway, "ask", "gemma", *dash, stdin="from a pipe\n")
        assert result.stdout == "Hello\n"
        assert backend.asked[0].body["prompt"] == "from a pipe\n"


@scenario
async def test_ask_fails_with_1_when_the_server_says_no(verb: Run) -> None:
    async with ollama() as backend, hermes(backend, limits={"max_attempts": 1}) as gateway:
        unknown = await ask(verb, gateway, "ask", "nobody", "Hi")
        assert (unknown.exit_code, unknown.stdout) == (1, "")
        assert "no backend has the model 'nobody' (HTTP 404)" in unknown.stderr
        assert (await ask(verb, gateway, "ask", "gemma", "")).exit_code == 1
        backend.default = fail(500, "out of memory")
        assert "out of memory" in (await ask(verb, gateway, "ask", "gemma", "Hi")).stderr


@scenario
async def test_ask_fails_with_1_when_the_answer_breaks_off(verb: Run) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        go = asyncio.Event()
        backend.default = play("Hel", go, {"error": "out of memory"})
        asyncio.get_running_loop().call_later(0.05, go.set)
        result = await ask(verb, gateway, "ask", "gemma", "Hi")
        assert (result.exit_code, result.stdout) == (1, "Hel")
        assert "out of memory" in result.stderr


@scenario
async def test_a_model_with_slashes_can_be_asked(verb: Run) -> None:
    name = "hf.co/unsloth/gemma-3:Q4_K_M"
    async with ollama(name) as backend, hermes(backend) as gateway:
        assert (await ask(verb, gateway, "ask", name, "Hi")).exit_code == 0


@scenario
async def test_models_and_status_print_a_table_or_json(verb: Run) -> None:
    async with ollama("gemma:latest", "phi:latest") as backend:
        backend.loaded = [loaded("gemma:latest")]
        async with hermes(backend) as gateway:
            result = await ask(verb, gateway, "models")
            assert result.exit_code == 0
            lines = result.stdout.splitlines()
            assert lines[0].split() == ["MODEL", "CREATED", "CAPABILITIES"]
            assert lines[1].split() == ["gemma:latest", "2026-11-20", "completion,", "tools"]
            listing = json.loads((await ask(verb, gateway, "models", "--json")).stdout)
            assert [model["id"] for model in listing["data"]] == ["gemma:latest", "phi:latest"]
            status = (await ask(verb, gateway, "status")).stdout
            assert f"Hermes {__version__}: ok" in status
            assert "backend b0 (ollama 0.33.0): up" in status
            assert "loaded gemma:latest: 2.00 GiB" in status
            assert json.loads((await ask(verb, gateway, "status", "--json")).stdout)["status"] == "ok"


@scenario
async def test_status_shows_what_waits(verb: Run) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        backend.default = play(then=Then.STALL)
        calls = [await gateway.open("/v1/llm/gemma", {"prompt": "Hi"}) for _ in range(2)]
        await gateway.until_waiting(1)
        assert "model gemma:latest: 1 running, 1 of 256 waiting" in (await ask(verb, gateway, "status")).stdout
        for call in calls:
            call.leave()


@scenario
async def test_a_key_comes_from_the_environment(verb: Run, tmp_path: Path) -> None:
    from hashlib import sha256

    key = {"user": "me", "sha256": sha256(b"sk-1").hexdigest()}
    async with ollama() as backend, serving(configured(backend, keys=[key])) as gateway:
        refused = await ask(verb, gateway, "models")
        assert refused.exit_code == 1 and "HERMES_API_KEY" in refused.stderr
        assert (await ask(verb, gateway, "models", HERMES_API_KEY="sk-1")).exit_code == 0


# --- pull ---------------------------------------------------------------------------------------------------------

LAYER = {"status": "pulling 0123456789ab", "digest": "sha256:0123456789ab", "total": 1000}


def pulls(backend: FakeOllama, *lines: dict[str, object]) -> None:
    backend.management["/api/pull"] = play(*lines)


@scenario
async def test_pull_shows_its_progress_and_loads(verb: Run) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        pulls(backend, {"status": "pulling manifest"}, LAYER, {**LAYER, "completed": 1000}, {"status": "success"})
        result = await ask(verb, gateway, "pull", "phi")
        assert (result.exit_code, result.stdout) == (0, "phi is there and loaded\n")
        assert "pulling manifest" in result.stderr
        assert (await ask(verb, gateway, "pull", "phi", "--no-load")).stdout == "phi is there\n"


@scenario
async def test_pull_fails_with_1_at_once_or_later(verb: Run) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        backend.management["/api/pull"] = fail(500, "pull model manifest: file does not exist")
        result = await ask(verb, gateway, "pull", "phi")
        assert result.exit_code == 1 and "file does not exist" in result.stderr
        pulls(backend, LAYER, {"error": "digest mismatch"})
        result = await ask(verb, gateway, "pull", "phi")
        assert result.exit_code == 1 and "digest mismatch" in result.stderr
