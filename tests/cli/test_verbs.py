"""The verbs that ask a running Hermes, and those that need none: what they print, and with which code they exit."""

import asyncio
import json
import os
import re
import shutil
import socket
import sys
from asyncio.subprocess import PIPE
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click import Context, Group
from click.testing import Result

from hermes import __version__
from hermes.cli import cli
from hermes.cli.options import gib
from hermes.config.commands import filled
from tests.cli.verbs import Run, ask
from tests.fakes.backend import Done, FakeOllama, Script, Then, answer, fail, loaded, model, ollama, play
from tests.fakes.gateway import CHAT, bearer, chat, hermes, hold_slot, key, scenario, serving
from tests.fakes.gateway import config as configured
from tests.fakes.process import COMMAND, SOURCES
from tests.http.peers import background
from tests.http.test_origin import Authority
from tests.support import until

ROOT = Path(__file__).parents[2]
VERBS = [
    "serve",
    "sim",
    "replay",
    "bench",
    "check",
    "config",
    "doctor",
    "import",
    "status",
    "queue",
    "top",
    "why",
    "logs",
    "usage",
    "models",
    "ps",
    "pull",
    "load",
    "unload",
    "cancel",
    "drain",
    "reload",
    "keys",
    "restart",
    "service",
    "ask",
    "version",
]


def options(name: str) -> set[str]:
    """What a verb takes, as it is typed."""
    command = cli.get_command(Context(cli), name)
    assert command is not None
    commands = [command, *command.commands.values()] if isinstance(command, Group) else [command]
    found = [option for each in commands for parameter in each.params for option in parameter.opts]
    return {"--help"} | {option for option in found if option.startswith("--")}


def test_the_verbs_are_these() -> None:
    assert cli.list_commands(Context(cli)) == VERBS


@pytest.mark.parametrize("arguments", [[], *([name] for name in VERBS)])
def test_every_verb_has_help(verb: Run, arguments: list[str]) -> None:
    result = verb(*arguments, "--help")
    assert result.exit_code == 0
    assert result.output.startswith("Usage: ")
    assert "\b" not in result.output


@pytest.mark.parametrize("name", VERBS)
def test_the_help_of_every_verb_has_an_example_that_could_be_typed(verb: Run, name: str) -> None:
    examples = re.findall(rf"^  (?:.*\| )?(hermes {name}(?: .*)?)$", verb(name, "--help").output, re.MULTILINE)
    assert examples
    for example in examples:
        assert set(re.findall(r"(?<=\s)--[a-z-]+", example)) <= options(name), example


# They run until they are stopped; what they write is a file of its own form.
OTHERS = {"serve", "sim", "config", "import", "service"}


@pytest.mark.parametrize("name", [name for name in VERBS if name not in OTHERS])
def test_every_verb_that_tells_something_can_tell_it_as_json(name: str) -> None:
    command = cli.get_command(Context(cli), name)
    commands = command.commands.values() if isinstance(command, Group) else [command]
    assert all(any("--json" in parameter.opts for parameter in each.params) for each in commands if each)


def test_help_lists_the_verbs(verb: Run) -> None:
    output = verb("--help").output
    assert all(f"\n  {name} " in output for name in VERBS)


PAGES = {path.name: path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}


def test_the_readme_lists_the_verbs() -> None:
    rows = [line.split("|")[1] for line in PAGES["README.md"].splitlines() if line.startswith("| `hermes ")]
    assert sorted(name for row in rows for name in re.findall(r"`hermes (\w+)", row)) == sorted(VERBS)


def test_the_page_of_the_command_line_has_a_section_with_an_example_for_each_verb() -> None:
    sections = re.split(r"^### `hermes (\w+)`\n", PAGES["cli.md"], flags=re.MULTILINE)[1:]
    assert sorted(sections[::2]) == sorted(VERBS)
    for name, text in zip(sections[::2], sections[1::2], strict=True):
        assert re.search(rf"^\$ (?:.*\| )?hermes {name}\b", text, re.MULTILINE), name


@pytest.mark.parametrize("page", PAGES)
def test_what_the_pages_say_to_type_exists(page: str) -> None:
    for name, rest in re.findall(r"(?:[`$ /]|^)hermes ([a-z]+)((?: [^`\n]*)?)[`\n]", PAGES[page], re.MULTILINE):
        if name in VERBS:
            assert set(re.findall(r"(?<=\s)--[a-z-]+", rest)) <= options(name), f"hermes {name}{rest}"
    for line in PAGES[page].splitlines():
        if row := re.match(r"\| `hermes (\w+)", line):
            assert set(re.findall(r"`(--[a-z-]+)", line)) <= options(row[1]), line


def test_a_wrong_command_line_is_2(verb: Run) -> None:
    assert verb("sreve").exit_code == verb("ask").exit_code == verb("status", "--jsn").exit_code == 2


def test_a_verb_that_is_misspelt_is_told_with_the_one_that_was_meant(verb: Run) -> None:
    assert "No such command 'statsu'. Did you mean status?" in verb("statsu").stderr
    assert "No such command 'run'. Did you mean ask?" in verb("run", "gemma").stderr
    assert "Did you mean" not in verb("nonsense-of-another-kind").stderr


def test_version(verb: Run) -> None:
    result = verb("version")
    assert (result.exit_code, result.output.split()[:2]) == (0, ["hermes", __version__])
    assert verb("--version").output == result.output


# --- check --------------------------------------------------------------------------------------------------------


def test_check_prints_what_is_in_force_with_secrets_masked(verb: Run, tmp_path: Path) -> None:
    (tmp_path / "hermes.yaml").write_text("models: {gemma: {timeout_s: 30}}\n")
    result = verb("check", API_KEYS_JSON='{"sk-secret": {"user": "me"}}')
    assert result.exit_code == 0
    told = yaml.safe_load(result.output)
    assert told["models"]["gemma"]["timeout_s"] == 30
    assert told["keys"][0]["user"] == "me" and "sk-secret" not in result.output
    assert verb("check", "--quiet").output == ""


def test_check_says_that_it_is_good_and_which_file_it_is(verb: Run, tmp_path: Path) -> None:
    assert verb("check").stderr == "without a file, the configuration is good, and comes to this:\n"
    (tmp_path / "hermes.yaml").write_text("server: {port: 4001}")
    told = verb("check")
    assert told.stderr == f"{tmp_path}/hermes.yaml is good, and comes to this:\n"
    assert yaml.safe_load(told.stdout)["server"]["port"] == 4001
    assert verb("check", "--quiet").stderr == ""


def test_check_tells_all_that_is_wrong_and_exits_with_2(verb: Run, tmp_path: Path) -> None:
    file = tmp_path / "other.yaml"
    file.write_text("server: {prot: 1}\nmodels: {gemma: {timeout: 3}}\n")
    result = verb("check", "--config", str(file))
    assert result.exit_code == 2
    assert "server.prot: unknown key, did you mean port?" in result.stderr
    assert "models.gemma.timeout: unknown key, did you mean timeout_s?" in result.stderr
    assert result.stdout == ""


def test_check_counts_stored_keys_as_keys(verb: Run, tmp_path: Path) -> None:
    environ = {"HERMES_SERVER__HOST": "0.0.0.0", "HERMES_SERVER__STATE_DIR": f"{tmp_path}/state"}
    assert verb("check", "--quiet", **environ).exit_code == 2
    verb("keys", "create", "editor", **environ)
    assert verb("check", "--quiet", **environ).exit_code == 0


def test_check_tells_what_has_no_effect_and_takes_it(verb: Run, tmp_path: Path) -> None:
    def told(**environ: str) -> list[str]:
        result = verb("check", "--quiet", **environ)
        assert (result.exit_code, result.stdout) == (0, "")
        return [line.split(":")[1].strip() for line in result.stderr.splitlines()]

    assert told(HERMES_DEFAULTS__PULL="on_demand", HERMES_DEFAULTS__MAX_NUM_CTX="9") == [
        "defaults.pull",
        "defaults.max_num_ctx",
    ]
    (tmp_path / "hermes.yaml").write_text(
        "backends: [{name: v, kind: vllm, url: 'http://v:1'}, {name: o, url: 'http://o:1'}]\n"
        "models: {a: {max_num_ctx: 99, options_policy: pin}, b: {options: {num_ctx: 5}, backends: [v]},"
        " c: {max_num_ctx: 99, options_policy: max, options: {num_ctx: 5}, backends: [o]}}\n"
    )
    assert told() == ["models.a.max_num_ctx", "models.b.options"]


def issuer(**more: str) -> str:
    return json.dumps([{"name": "sso", "issuer": "https://sso", "audience": ["hermes"], **more}])


def test_check_tells_what_tokens_need_that_is_not_installed(verb: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jwt", None)
    monkeypatch.delitem(sys.modules, "hermes.oidc.keys", raising=False)
    result = verb("check", HERMES_JWT=issuer(jwks_url="https://sso/keys"))
    assert (result.exit_code, result.stdout) == (2, "")
    assert "pip install 'PyJWT[crypto]'" in result.stderr


def test_check_tells_what_spans_need_that_is_not_installed(verb: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk", None)
    monkeypatch.delitem(sys.modules, "opentelemetry.sdk.trace", raising=False)
    result = verb("check", HERMES_TRACING__OTLP_ENDPOINT="http://collector:4318")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http" in result.stderr
    assert verb("check").exit_code == 0


def test_check_tells_roles_that_nobody_gets(verb: Run, tmp_path: Path) -> None:
    section = {"claims": {"roles": "groups"}, "roles": {"*": {}, "ops": {"admin": True}}}
    (told,) = json.loads(issuer(jwks_url="https://sso/keys"))
    (tmp_path / "hermes.yaml").write_text(json.dumps({"jwt": [{**told, **section}]}))
    result = verb("check")
    assert "without effect: jwt[0].roles.ops: the first role" in result.stderr
    assert yaml.safe_load(result.stdout)["jwt"][0]["roles"]["ops"]["admin"] is True


def test_check_refuses_what_serve_would_refuse(verb: Run) -> None:
    """I24."""
    result = verb("check", HERMES_SERVER__HOST="0.0.0.0")
    assert (result.exit_code, "no keys are configured" in result.stderr) == (2, True)
    assert verb("check", HERMES_SERVER__HOST="0.0.0.0", HERMES_SERVER__INSECURE="true").exit_code == 0


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"HERMES_SERVER__TLS": '{"cert_file": "/nowhere.pem"}'}, "/nowhere.pem"),
        ({"HERMES_SERVER__TLS": '{"cert_file": "cert.pem"}'}, "no private key in it; set server.tls.key_file"),
        ({"HERMES_BACKENDS": '[{"name":"b","url":"https://x","ca_file":"/nowhere.pem"}]'}, "backends.b: "),
        ({"HERMES_JWT": issuer(jwks_file="/nowhere.json")}, "jwt.sso: [Errno 2] No such file or directory"),
        ({"HERMES_JWT": issuer(jwks_file="long.json")}, "jwt.sso: long.json is longer than 262144 bytes"),
        ({"HERMES_JWT": issuer(jwks_file="cert.pem")}, "jwt.sso: what it gives is no key set"),
        ({"HERMES_JWT": issuer(jwks_url="https://sso/keys", ca_file="/nowhere.pem")}, "jwt.sso: [Errno 2] No such"),
        ({"HERMES_LOGGING__ACCESS_LOG": "/nowhere/access.log"}, "cannot write /nowhere/access.log"),
    ],
)
def test_check_looks_at_the_files_that_serve_would_open(
    verb: Run, tmp_path: Path, environ: dict[str, str], words: str
) -> None:
    (tmp_path / "cert.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    (tmp_path / "long.json").write_text(" " * 300_000)
    result = verb("check", **environ)
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr


def test_check_looks_for_the_program_that_a_command_would_start(verb: Run, tmp_path: Path) -> None:
    def check(env: str = "") -> Result:
        told = f"backends: [{{command: 'my-server --port ${{PORT}}', model: a{env}}}]"
        (tmp_path / "hermes.yaml").write_text(told)
        return verb("check", "--quiet")

    result = check()
    assert (result.exit_code, result.stdout) == (2, "")
    assert "backends.managed.command: there is no program 'my-server' here" in result.stderr
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "my-server").touch(0o755)
    assert check(f", env: {{PATH: {tmp_path}/bin}}").exit_code == 0


def test_check_makes_no_log(verb: Run, tmp_path: Path) -> None:
    assert verb("check", HERMES_LOGGING__ACCESS_LOG="./access.log").exit_code == 0
    assert not (tmp_path / "access.log").exists()


# --- asking a running one -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["ftp://x", "foo", "http://", "http://x:99999", "http://me:secret@x", "unix://", ""])
@pytest.mark.parametrize("arguments", [["status"], ["models"], ["ask", "gemma", "Hi"], ["pull", "gemma"]])
def test_what_is_no_url_is_refused_before_anybody_is_asked(verb: Run, url: str, arguments: list[str]) -> None:
    result = verb(*arguments, "--url", url)
    assert result.exit_code == 2
    assert "is not an http(s) URL" in result.stderr and "secret" not in result.stderr


def test_only_on_this_machine_it_helps_to_start_one(verb: Run) -> None:
    told = verb("status", "--url", "http://nowhere.invalid:4000")
    assert (told.exit_code, "hermes serve" in told.stderr) == (3, False)
    told = verb("status", "--url", "unix:///nowhere.sock")
    assert (told.exit_code, "hermes serve" in told.stderr) == (3, True)


@pytest.mark.parametrize(
    ("environ", "port"),
    [({}, "4000"), ({"PORT": "1"}, "1"), ({"PORT": "1", "HERMES_SERVER__PORT": "2"}, "2")],
)
def test_without_a_url_the_port_is_the_one_where_serve_would_listen(
    environ: dict[str, str], port: str, verb: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def get(url: str, path: str, shape: object) -> dict[str, list[None]]:
        asked.append(url)
        return {"data": []}

    monkeypatch.setattr("hermes.cli.models.get", get)
    assert verb("models", **environ).exit_code == 0
    assert asked == [f"http://127.0.0.1:{port}"]


def test_the_help_names_the_variable_of_the_url(verb: Run) -> None:
    assert "HERMES_URL" in verb("ask", "--help").output


@pytest.mark.parametrize("name", ["", " ", "a b", "../x"])
def test_a_name_that_is_none_is_refused_before_anybody_is_asked(verb: Run, name: str) -> None:
    for arguments in (["ask", name, "Hi"], ["pull", name]):
        result = verb(*arguments)
        assert result.exit_code == 2
        assert "is not a model name" in result.stderr


def test_a_prompt_of_several_words_has_to_be_quoted(verb: Run) -> None:
    result = verb("ask", "gemma", "two", "words")
    assert result.exit_code == 2
    assert "quote it, as in 'two words'" in result.stderr


def test_ask_reads_no_prompt_that_is_not_utf_8(verb: Run) -> None:
    result = verb("ask", "gemma", stdin=b"caf\xe9")
    assert (result.exit_code, result.stderr) == (2, "hermes: standard input is not UTF-8 at byte 3\n")


def test_ctrl_c_is_130(verb: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hermes.cli.models.get", interrupted)
    assert verb("models").exit_code == 130


def nobody_reads() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.parametrize(
    ("opened", "told"),
    [
        (lambda: os.open("/dev/full", os.O_WRONLY), "hermes: cannot write the answer: No space left on device\n"),
        (nobody_reads, ""),
    ],
)
@scenario
async def test_where_nobody_takes_the_answer_it_ends_with_1_and_no_traceback(
    opened: Callable[[], int], told: str
) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        command = [*COMMAND, "ask", "gemma", "Hi", "--url", f"http://127.0.0.1:{gateway.port}"]
        stdout = opened()
        try:
            asking = await asyncio.create_subprocess_exec(*command, stdout=stdout, stderr=PIPE, env=SOURCES)
        finally:
            os.close(stdout)
        _, said = await asking.communicate()
        assert (asking.returncode, said.decode()) == (1, told)


@scenario
async def test_a_unix_socket_can_be_asked(verb: Run, tmp_path: Path) -> None:
    path = tmp_path / "hermes.sock"
    async with ollama() as backend, serving(configured(backend, server={"unix_socket": str(path)})):
        result = await asyncio.to_thread(verb, "ask", "gemma", "Hi", "--url", f"unix://{path}")
        assert (result.exit_code, result.stdout) == (0, "Hello\n")


@scenario
async def test_a_certificate_that_is_not_trusted_is_told_with_what_would_help(verb: Run, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    authority = Authority(tmp_path, "good")
    tls = {"cert_file": str(tmp_path / "good.pem"), "key_file": str(tmp_path / "good.key")}
    async with ollama() as backend, serving(configured(backend, server={"tls": tls})) as gateway:
        url = f"https://127.0.0.1:{gateway.port}"
        refused = await asyncio.to_thread(verb, "models", "--url", url)
        assert refused.exit_code == 3
        assert "SSL_CERT_FILE" in refused.stderr and "hermes serve" not in refused.stderr
        ca_file = str(authority.ca_file)
        assert (await asyncio.to_thread(verb, "models", "--url", url, SSL_CERT_FILE=ca_file)).exit_code == 0


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


def test_restart_names_no_option_that_it_has_not(verb: Run, tmp_path: Path) -> None:
    result = verb("restart", HERMES_SERVER__STATE_DIR=str(tmp_path))
    assert result.exit_code == 3 and "Start one with: hermes serve" in result.stderr
    assert "--config" in result.stderr and "--url" not in result.stderr


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
async def test_ask_says_so_where_an_answer_has_no_text(verb: Run) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        backend.default = play({"response": "", "thinking": "Hmm", "done": False}, Done(reason="length"))
        result = await ask(verb, gateway, "ask", "gemma", "Hi")
        assert (result.exit_code, result.stderr) == (0, "hermes: the answer has no text (length)\n")


@scenario
async def test_ask_fails_with_1_when_the_server_says_no(verb: Run) -> None:
    async with ollama() as backend, hermes(backend, limits={"max_attempts": 1}) as gateway:
        unknown = await ask(verb, gateway, "ask", "nobody", "Hi")
        assert (unknown.exit_code, unknown.stdout) == (1, "")
        assert "no backend has the model 'nobody'; there are: gemma (HTTP 404)" in unknown.stderr
        assert "hermes models" in unknown.stderr
        assert (await ask(verb, gateway, "ask", "gemma", "")).exit_code == 1
        backend.default = fail(500, "out of memory")
        assert "out of memory" in (await ask(verb, gateway, "ask", "gemma", "Hi")).stderr


@scenario
async def test_ask_fails_with_1_when_the_answer_breaks_off(verb: Run) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        go = asyncio.Event()
        backend.default = play("Hel", go, {"error": "out of memory"})

        async def break_off_once_it_has_begun() -> None:
            connections = gateway.runtime.server._connections
            await until(lambda: any(each._task and each._response.started for each in connections), limit_s=10)
            go.set()

        async with background(break_off_once_it_has_begun()):
            result = await ask(verb, gateway, "ask", "gemma", "Hi")
        assert (result.exit_code, result.stdout) == (1, "Hel\n")  # the error begins on a line of its own
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
async def test_models_lists_one_model_once_and_another_under_its_name_too(verb: Run) -> None:
    async with ollama("gemma:latest", "phi:latest", "qwen:8b") as backend:
        backend.models[2]["capabilities"] = ["completion"]
        named = {"gemma": {}, "phi": {}, "phi:latest": {"backend_model": "qwen:8b"}}
        async with hermes(backend, models=named) as gateway:
            lines = (await ask(verb, gateway, "models")).stdout.splitlines()[1:]
            assert [line.split()[0] for line in lines] == ["gemma", "phi", "phi:latest", "qwen:8b"]


@scenario
async def test_models_marks_what_cannot_be_asked(verb: Run) -> None:
    async with ollama("embedder:latest", "gemma:latest", "painter:latest") as backend:
        backend.models[0]["capabilities"] = ["embedding"]
        backend.models[2]["capabilities"] = ["image"]
        async with hermes(backend) as gateway:
            lines = (await ask(verb, gateway, "models")).stdout.splitlines()
            assert [line.endswith("(cannot be asked)") for line in lines[1:]] == [False, False, True]


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
async def test_reload_and_status_show_what_was_wrong(verb: Run) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        done = await ask(verb, gateway, "reload", "--json")
        assert (done.exit_code, json.loads(done.stdout)["result"]) == (0, "ok")
        assert "refused" not in (await ask(verb, gateway, "status")).stdout
        gateway.given.problem = "limits.queue_total: nothing is not a whole number"
        refused = await ask(verb, gateway, "reload")
        assert refused.exit_code == 1
        assert f"{gateway.given.problem} (HTTP 422). What was in force still is" in refused.stderr
        assert f"was refused: {gateway.given.problem}\n" in (await ask(verb, gateway, "status")).stdout


@scenario
async def test_status_shows_processes_and_what_went_wrong(verb: Run) -> None:
    told = {"command": "sh -c 'echo out of memory; exit 3'", "env": {"AT": "${PORT}"}, "model": "a"}
    async with hermes(**filled({"backends": [told]})) as gateway:
        await gateway.ask("/v1/llm/a", {"prompt": "Hi"})
        status = (await ask(verb, gateway, "status")).stdout
        assert "backend managed (managed): up\n" in status
        assert "  a failed: ended before it was ready (exit status 3)\n    out of memory\n" in status
        assert "See why with: hermes status" in (await ask(verb, gateway, "ask", "a", "Hi")).stderr


@scenario
async def test_status_shows_which_model_gets_no_requests_and_why(verb: Run) -> None:
    async with ollama() as backend, hermes(backend, limits={"max_attempts": 1}) as gateway:
        backend.default = fail(500, "CUDA error")
        for _ in range(5):
            await gateway.ask("/v1/llm/gemma", {"prompt": "Hi"})
        assert "\n  gemma:latest is open: CUDA error\n" in (await ask(verb, gateway, "status")).stdout


@scenario
async def test_status_queue_and_why_show_how_far_a_model_is_that_is_waited_for(verb: Run) -> None:
    layer = {"status": "pulling", "digest": "sha256:0", "total": 1000, "completed": 430}
    async with ollama() as backend, hermes(backend, models={"phi": {"pull": "on_demand"}}) as gateway:
        backend.management["/api/pull"] = play(layer, then=Then.STALL)
        call = await gateway.open("/v1/llm/phi", {"prompt": "Hi"}, {"x-request-id": "mine"})
        pulling = gateway.runtime.fleet.backends["b0"].pulling
        await until(lambda: gateway.waiting == 1 and pulling["phi:latest"].percent == 43)
        assert "  pulling phi:latest: 43 %" in (await ask(verb, gateway, "status")).stdout
        assert "(its model is being pulled, 43 %)" in (await ask(verb, gateway, "queue")).stdout
        told = (await ask(verb, gateway, "why", "mine")).stdout
        assert "(its model is being pulled, 43 %)" in told and "its model was being pulled" in told
        call.leave()


@scenario
async def test_status_and_why_tell_what_is_loaded_in_whose_place(verb: Run) -> None:
    async with ollama("gemma:latest", "phi:latest") as backend:
        backend.loaded = [each for each in backend.loaded if each["name"] == "gemma:latest"]
        async with hermes(backends=[{"name": "b0", "url": backend.url, "max_loaded": 1}]) as gateway:
            free = asyncio.Event()
            runs = await hold_slot(gateway, backend, free)
            waits = await gateway.open("/v1/llm/phi", {"prompt": "Hi"}, {"x-request-id": "mine"})
            await gateway.until_waiting(1)
            told = (await ask(verb, gateway, "status")).stdout
            assert "  about to load phi:latest in place of gemma:latest\n" in told
            told = (await ask(verb, gateway, "why", "mine")).stdout.splitlines()
            assert told[0].startswith("mine: phi:latest, normal, waiting as number 1, about ")
            free.set()
            assert [(await call.reply()).status for call in (runs, waits)] == [200, 200]
            told = (await ask(verb, gateway, "why", "mine")).stdout.splitlines()
            assert told[0].startswith("mine: phi:latest, normal, ok after ")
            assert told[-1] == "b0 was about to load phi:latest in place of gemma:latest"


@scenario
async def test_queue_says_that_there_are_more_than_it_lists(verb: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hermes.api.queue.LISTED", 2)
    async with ollama() as backend, hermes(backend) as gateway:
        calls = [await hold_slot(gateway, backend)]
        calls += [await gateway.open("/v1/llm/gemma", {"prompt": "Hi"}) for _ in range(2)]
        await gateway.until_waiting(2)
        lines = (await ask(verb, gateway, "queue")).stdout.splitlines()
        assert (len(lines), lines[-1]) == (4, "... and more: these are the first 2")
        for call in calls:
            call.leave()


@scenario
async def test_why_tells_who_was_refused_from_who_had_no_need_to_wait(verb: Run) -> None:
    async with ollama() as backend, hermes(backend, defaults={"queue_limit": 0}) as gateway:
        runs = await hold_slot(gateway, backend, headers={"x-request-id": "runs"})
        refused = await gateway.ask("/v1/llm/gemma", {"prompt": "Hi"}, {"x-request-id": "refused"})
        assert refused.status == 429
        told = (await ask(verb, gateway, "why", "refused")).stdout
        assert "queue_full after " in told and "it was refused as it came" in told
        assert "it did not wait: there was a free slot when it came" in (await ask(verb, gateway, "why", "runs")).stdout
        runs.leave()


@scenario
async def test_why_tells_which_model_was_asked_for_where_another_answered(verb: Run) -> None:
    async with ollama() as backend, hermes(backend, models={"big": {"fallback": ["gemma"]}}) as gateway:
        assert (await gateway.ask("/v1/llm/big", {"prompt": "Hi"}, {"x-request-id": "mine"})).status == 200
        told = (await ask(verb, gateway, "why", "mine")).stdout
        assert told.startswith("mine: gemma:latest instead of big, normal, ok after ")


@pytest.mark.parametrize(("size_bytes", "told"), [(5 << 20, "5 MiB"), (1 << 30, "1.00 GiB"), (3 << 29, "1.50 GiB")])
def test_a_small_model_is_told_in_mib(size_bytes: int, told: str) -> None:
    assert gib(size_bytes) == told


@scenario
async def test_a_key_comes_from_the_environment(verb: Run, tmp_path: Path) -> None:
    from hashlib import sha256

    key = {"user": "me", "sha256": sha256(b"sk-1").hexdigest()}
    async with ollama() as backend, serving(configured(backend, keys=[key])) as gateway:
        refused = await ask(verb, gateway, "models")
        assert refused.exit_code == 1 and "HERMES_API_KEY" in refused.stderr
        assert "hermes keys create me --admin makes one" in refused.stderr
        assert (await ask(verb, gateway, "models", HERMES_API_KEY="sk-1")).exit_code == 0


# --- pull ---------------------------------------------------------------------------------------------------------

LAYER = {"status": "pulling 0123456789ab", "digest": "sha256:0123456789ab", "total": 1000}


def pulls(backend: FakeOllama, *lines: dict[str, object]) -> None:
    backend.management["/api/pull"] = play(*lines)


@scenario
async def test_pull_shows_its_progress_and_loads(verb: Run) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        pulls(backend, {"status": "pulling manifest"}, LAYER, {**LAYER, "completed": 1000}, {"status": "success"})
        backend.models.append(model("phi:latest"))
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


@scenario
async def test_pull_and_ask_print_the_lines_of_json_that_come(verb: Run) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        pulls(backend, LAYER, {"status": "success"})
        backend.models.append(model("phi:latest"))
        result = await ask(verb, gateway, "pull", "phi", "--no-load", "--json")
        told = [json.loads(line) for line in result.stdout.splitlines()]
        assert (result.exit_code, told[0], told[-1]) == (0, LAYER, {"done": True, "model": "phi", "loaded": False})
        result = await ask(verb, gateway, "ask", "gemma", "Hi", "--json")
        told = [json.loads(line) for line in result.stdout.splitlines()]
        assert ("".join(line.get("delta", "") for line in told), told[-1]["done"]) == ("Hello", True)
        pulls(backend, LAYER, {"error": "digest mismatch"})
        result = await ask(verb, gateway, "pull", "phi", "--json")
        assert (result.exit_code, len(result.stdout.splitlines())) == (1, 1)


# --- drain ------------------------------------------------------------------------------------------------------------


@scenario
async def test_where_no_backend_can_serve_a_model_status_is_named(verb: Run) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        await ask(verb, gateway, "drain", "b0")
        told = (await ask(verb, gateway, "ask", "gemma", "Hi")).stderr
        assert "now (HTTP 503). See how they are with: hermes status\n" in told


@scenario
async def test_drain_says_what_still_runs_and_status_shows_it_until_it_is_over(verb: Run) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        holding = await hold_slot(gateway, backend)
        result = await ask(verb, gateway, "drain", "b0")
        assert (result.exit_code, result.stdout) == (0, "backend b0 drains, 1 running\n")
        assert "up, draining\n" in (await ask(verb, gateway, "status")).stdout
        holding.leave()
        await until(lambda: gateway.running == 0)
        assert (await ask(verb, gateway, "drain", "b0", "--resume")).stdout == "backend b0 takes work, 0 running\n"
        assert "draining" not in (await ask(verb, gateway, "status")).stdout


@scenario
async def test_there_is_no_draining_a_backend_that_there_is_not(verb: Run) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        result = await ask(verb, gateway, "drain", "b/1")
        assert result.exit_code == 1 and "there is no backend 'b/1'; there are: b0" in result.stderr


# --- usage ------------------------------------------------------------------------------------------------------------


@scenario
async def test_usage_tells_that_nothing_is_counted_without_keys_and_what_nobody_has_used(verb: Run) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        assert (await gateway.ask(CHAT, chat())).status == 200
        assert "use is counted by key, and there is none" in (await ask(verb, gateway, "usage")).stdout
    async with ollama() as backend, hermes(backend, keys=[key("ops", admin=True)]) as gateway:
        told = await ask(verb, gateway, "usage", HERMES_API_KEY="sk-ops")
        assert ": 0 requests, " in told.stdout
        for asked, words in ((["--key", "nobdy"], "key nobdy"), (["--model", "gema"], "model gema")):
            told = await ask(verb, gateway, "usage", *asked, HERMES_API_KEY="sk-ops")
            assert f"nothing was used by {words}: is there anything of that name?" in told.stdout


@scenario
async def test_usage_shows_who_has_used_what(verb: Run) -> None:
    keys = [key("ann", rpm=1), key("ops", admin=True)]
    async with ollama() as backend, hermes(backend, keys=keys) as gateway:
        for _ in range(2):
            await gateway.ask(CHAT, chat(), bearer("ann"))
        shown = (await ask(verb, gateway, "usage", HERMES_API_KEY="sk-ops")).output
        first, row = shown.splitlines()
        assert re.fullmatch(r"since \d{4}-\d{2}-01: 1 requests, 7 \+ 3 = 10 tokens, 1 refused", first)
        assert row.split("  ")[1:] == [f"{key('ann')['sha256'][:12]} (ann)", "gemma:latest", first.partition(": ")[2]]
        told = await ask(verb, gateway, "usage", "--json", "--model", "gemma", "--key", "ann", HERMES_API_KEY="sk-ops")
        assert json.loads(told.output)["total"]["requests"] == 1
        wrong = await ask(verb, gateway, "usage", "--since", "today", HERMES_API_KEY="sk-ops")
        assert wrong.exit_code == 1 and "2026-11-22" in wrong.output
