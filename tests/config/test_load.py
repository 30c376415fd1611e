"""Where settings come from, and which wins."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hermes.config import Config, Tracing
from hermes.config.dump import dump
from hermes.config.environment import own_layers
from hermes.config.files import find, read_env
from hermes.config.load import Loaded, load, merged
from hermes.config.schema import settings, variable
from hermes.errors import ConfigError

Settle = Callable[..., Loaded]

EXAMPLE = """
server: {host: 127.0.0.1, port: 4000}
backends:
  - {name: gpu0, kind: ollama, url: "http://127.0.0.1:11434", memory: 24GiB}
models:
  gemma:   {backend_model: "gemma3:12b", max_concurrency: 2, memory_cost: medium, timeout_s: 30, queue_limit: 64,
            params: {temperature: 0.7, max_tokens: 2048}, max_output_tokens: 8192}
  mistral: {max_concurrency: 1, memory_cost: 14GiB, timeout_s: 45, load_time_s: 12, decode_tps: 45}   # first estimates
  coder:   {options: {num_ctx: 16384}, options_policy: max, max_num_ctx: 65536}   # a longer context if asked
defaults: {queue_limit: 200, timeout_s: 120}
"""


def test_without_anything_there_is_one_ollama_on_loopback(settle: Settle) -> None:
    config = settle().config
    assert [(backend.name, backend.url) for backend in config.backends] == [("ollama", "http://127.0.0.1:11434")]
    assert (config.server.host, config.server.port) == ("127.0.0.1", 4000)


def test_the_example_means_what_it_says(settle: Settle) -> None:
    config = settle(EXAMPLE).config
    gemma, mistral = config.models["gemma"], config.models["mistral"]
    assert config.backends[0].memory == 24 * 2**30
    assert (gemma.backend_model, gemma.max_concurrency, gemma.memory_cost) == ("gemma3:12b", 2, "medium")
    assert (gemma.params.temperature, gemma.params.max_tokens, gemma.max_output_tokens) == (0.7, 2048, 8192)
    assert (mistral.memory_cost, mistral.load_time_s, mistral.decode_tps) == (14 * 2**30, 12, 45)
    coder = config.models["coder"]
    assert (coder.options.num_ctx, coder.options_policy, coder.max_num_ctx) == (16384, "max", 65536)


def test_a_model_takes_from_the_defaults_what_it_does_not_say(settle: Settle) -> None:
    config = settle(EXAMPLE + "  # and\n", overrides={"defaults.max_concurrency": 3}).config
    gemma, mistral = config.models["gemma"], config.models["mistral"]
    assert (gemma.queue_limit, mistral.queue_limit) == (64, 200)
    assert (gemma.max_concurrency, gemma.stall_timeout_s) == (2, config.defaults.stall_timeout_s)


def test_an_unlisted_model_is_served_by_the_defaults_unless_switched_off(settle: Settle) -> None:
    model = settle("defaults: {queue_limit: 7, max_concurrency: 3}").config.model("phi4")
    assert model is not None and (model.queue_limit, model.max_concurrency) == (7, 3)
    closed = settle("{serve_unlisted: false, models: {phi4: }}").config
    assert closed.model("gemma") is None and closed.model("phi4") is not None


SOURCES = [
    ("file", lambda port: {"yaml": f"server: {{port: {port}}}"}),
    (".env, familiar", lambda port: {"dotenv": f"PORT={port}"}),
    (".env, own", lambda port: {"dotenv": f"PORT=1\nexport HERMES_SERVER__PORT='{port}'"}),
    ("familiar", lambda port: {"environ": {"PORT": str(port)}}),
    ("own", lambda port: {"environ": {"PORT": "1", "HERMES_SERVER__PORT": str(port)}}),
    ("flag", lambda port: {"overrides": {"server.port": port}}),
]


@pytest.mark.parametrize("rank", range(len(SOURCES)))
def test_each_source_wins_over_all_below_it(settle: Settle, rank: int) -> None:
    arguments: dict[str, Any] = {}
    for port, (_, source) in enumerate(SOURCES[: rank + 1], 5000):
        arguments |= source(port)
    assert settle(**arguments).config.server.port == 5000 + rank


def test_a_setting_knows_where_it_came_from(settle: Settle) -> None:
    loaded = settle(EXAMPLE, {"OLLAMA_HOST": "gpu"}, "HERMES_LIMITS__MAX_ATTEMPTS=2", {"server.port": 1})
    assert loaded.source(("server", "port")) == "flag"
    assert loaded.source(("backends", 0, "url")) == "OLLAMA_HOST"
    assert loaded.source(("backends", 0, "memory")).endswith("hermes.yaml")
    assert loaded.source(("limits", "max_attempts")) == "HERMES_LIMITS__MAX_ATTEMPTS in .env"
    assert loaded.source(("server", "keep_alive_s")) == "default"


VALUES = {
    "host": "localhost", "port": 81, "unix_socket": "/run/h.sock", "tls": {"cert_file": "c.pem"}, "cert_file": "d.pem",
    "key_file": "k.pem", "allowed_hosts": ["gpu"], "insecure": True,
    "ollama_management": True, "headers": ["x-mine"], "credentials": True,
    "cors": {"origins": ["*"]}, "origins": ["https://chat.example.org"],
    "max_body_bytes": "3MiB", "drain_grace_s": 7, "queue_bytes": 4096, "backends": [{"name": "b", "url": "http://b"}],
    "models": {"gemma3:12b": {"timeout_s": 5}}, "serve_unlisted": False, "retry_ratio": 0.5, "max_attempts": 2,
    "keys": [{"user": "editor", "sha256": "0" * 64}], "level": "debug", "access_log": "off", "state_dir": "off",
    "format": "json",
    "interactive": {"weight": 3}, "normal": {"max_wait_s": 5}, "batch": {"weight": 2}, "usual_class": "batch",
    "model_floor": 0.25, "cpu_affinity": [0, 1], "options_policy": "max", "pull": "on_demand",
    "volatile_lines": ["Time:"], "jwt": [{"name": "a", "issuer": "https://a", "audience": ["h"], "jwks_file": "/k"}],
    "watch_config": False, "dashboard": False, "metrics": True, "modes": {"rpm": "off"}, "rpm": "shadow", "tpm": "off",
    "daily_tokens": "shadow", "monthly_tokens": "off", "concurrency": "reject", "cache": "forced", "scope": "all",
    "otlp_endpoint": "http://c:4318", "sample_ratio": 0.5, "service_name": "box", "capture_content": True,
    "capture_users": ["editor"],
}  # fmt: skip
SECTIONS = ("server", "admin", "defaults", "limits", "health", "logging", "scheduling", "cache", "tracing")
PATHS = [path for path, _ in settings() if path[0] not in SECTIONS or len(path) > 1]


@pytest.mark.parametrize("path", PATHS, ids=".".join)
def test_every_key_has_a_variable_that_means_the_same_as_the_file(settle: Settle, path: tuple[str, ...]) -> None:
    value = VALUES.get(path[-1], 77)
    tree: Any = value
    for step in reversed(path):
        tree = {step: tree}
    if path[-1] == "key_file":
        tree["server"]["tls"]["cert_file"] = "c.pem"
    by_file = settle(json.dumps(tree)).config
    text = value if isinstance(value, str) else json.dumps(value)
    other = {"HERMES_SERVER__TLS__CERT_FILE": "c.pem"} if path[-1] == "key_file" else {}
    assert settle("{}", {variable(path): text, **other}).config == by_file != Config()


def test_a_section_may_be_one_variable_and_its_keys_win(settle: Settle) -> None:
    server = settle(None, {"HERMES_SERVER__PORT": "2", "HERMES_SERVER": '{"port": 1, "host": "::1"}'}).config.server
    assert (server.host, server.port) == ("::1", 2)


def test_an_empty_variable_is_not_set(settle: Settle) -> None:
    names = (
        "PORT",
        "OLLAMA_HOST",
        "LLM_BACKEND",
        "API_KEYS_JSON",
        "HERMES_SERVER__PORT",
        "HERMES_CONFIG",
        "MAX_CONCURRENT",
    )
    assert settle(None, dict.fromkeys(names, "")).config == settle().config


def test_mappings_join_and_lists_are_replaced(settle: Settle) -> None:
    config = settle(
        EXAMPLE, {"HERMES_MODELS": '{"gemma": {"timeout_s": 5}}', "HERMES_BACKENDS": '[{"name":"a","url":"http://a"}]'}
    ).config
    assert (config.models["gemma"].timeout_s, config.models["gemma"].queue_limit) == (5, 64)
    assert set(config.models) == {"gemma", "mistral", "coder"}
    assert [backend.name for backend in config.backends] == ["a"]


def test_merging_leaves_its_parts_as_they_were() -> None:
    below, above = {"a": {"b": 1}, "l": [{"c": 1}]}, {"a": {"d": 2}, "l": {0: {"e": 3}}}
    assert merged(below, above) == {"a": {"b": 1, "d": 2}, "l": [{"c": 1, "e": 3}]}
    assert below == {"a": {"b": 1}, "l": [{"c": 1}]}


# --- familiar names -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({"OLLAMA_HOST": "0.0.0.0"}, "http://127.0.0.1:11434"),
        ({"OLLAMA_URL": "http://gpu:1", "OLLAMA_HOST": "other"}, "http://gpu:1"),
        ({"LLM_BACKEND": "ollama", "LLM_BACKEND_URL": "https://gpu", "OLLAMA_URL": "http://other"}, "https://gpu"),
    ],
)
def test_familiar_names_say_where_ollama_is(settle: Settle, environ: dict[str, str], url: str) -> None:
    assert [backend.url for backend in settle(None, environ).config.backends] == [url]
    only = settle(EXAMPLE, environ).config.backends
    assert [(backend.name, backend.url, backend.memory) for backend in only] == [("gpu0", url, 24 * 2**30)]


TWO = "backends: [{name: a, url: 'http://a'}, {name: b, url: 'http://b'}]"


def test_of_several_backends_ollama_host_changes_none_and_the_others_are_refused(settle: Settle) -> None:
    assert [backend.url for backend in settle(TWO, {"OLLAMA_HOST": "c"}).config.backends] == ["http://a", "http://b"]
    with pytest.raises(ConfigError, match="OLLAMA_URL: which of the 2 backends"):
        settle(TWO, {"OLLAMA_URL": "http://c"})
    with pytest.raises(ConfigError, match="LLM_BACKEND: which of the 2 backends"):
        settle(TWO, {"LLM_BACKEND": "vllm"})


@pytest.mark.parametrize(
    ("yaml", "text", "slots"),
    [
        ("", "4", 4),
        ("", "0", None),
        ("", "auto", None),
        (TWO, "4", None),
        ("backends: [{name: a, url: 'http://a', slots: 2}]", "4", 2),
        ("backends: [{name: a, url: 'http://a', kind: vllm}]", "4", None),
    ],
)
def test_ollamas_parallel_requests_are_a_hint_for_the_one_backend(
    settle: Settle, yaml: str, text: str, slots: int | None
) -> None:
    assert settle(yaml, {"OLLAMA_NUM_PARALLEL": text}).config.backends[0].slots == slots


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/"}, {"otlp_endpoint": "http://c:4318/v1/traces"}),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "https://c/otlp"}, {"otlp_endpoint": "https://c/otlp/v1/traces"}),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://d/in"},
            {"otlp_endpoint": "http://d/in"},
        ),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_SDK_DISABLED": "true"}, {}),
        (
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
                "OTEL_TRACES_EXPORTER": "none",
            },
            {},
        ),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, {}),
        (
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
            },
            {"otlp_endpoint": "http://c/v1/traces"},
        ),
        ({"OTEL_SERVICE_NAME": "gpu-box"}, {"service_name": "gpu-box"}),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, {"sample_ratio": 0}),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.25"}, {"sample_ratio": 0.25}),
        ({"OTEL_TRACES_SAMPLER": "jaeger_remote", "OTEL_TRACES_SAMPLER_ARG": "endpoint=a"}, {}),
        ({"OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "True"}, {"capture_content": True}),
        ({"OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "event_only"}, {}),
    ],
)
def test_opentelemetrys_names_say_where_spans_go(settle: Settle, environ: dict[str, str], said: dict[str, Any]) -> None:
    assert settle(None, environ).config.tracing == Tracing(**said)


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "OTEL_EXPORTER_OTLP_PROTOCOL: only http/protobuf is spoken",
        ),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "c:4318"},
            "tracing.otlp_endpoint: 'c:4318/v1/traces' is not http://host:port",
        ),
        (
            {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "2"},
            "tracing.sample_ratio: 2.0 is not a number from 0 to 1",
        ),
    ],
)
def test_what_of_them_cannot_be_is_refused(settle: Settle, environ: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        settle(None, environ)


CUSTOM = "backends: [{name: a, url: 'http://a', kind: %s, plugin: 'parrots:Parrots'}]"


def test_code_is_named_in_the_file_alone(settle: Settle) -> None:
    """Whoever can set a variable shall not be able to run anything by it."""
    backend = '{"name": "a", "url": "http://a", "kind": "custom", "plugin": "parrots:Parrots"}'
    with pytest.raises(ConfigError, match="HERMES_BACKENDS: plugin can only be set in the configuration file"):
        settle(None, {"HERMES_BACKENDS": f"[{backend}]"})
    with pytest.raises(ConfigError, match=r"backends\.custom\.plugin: missing"):
        settle(None, {"LLM_BACKEND": "custom", "LLM_BACKEND_URL": "http://gpu:8000"})
    moved = settle(CUSTOM % "openai", {"LLM_BACKEND": "custom", "LLM_BACKEND_URL": "http://gpu:8000"}).config.backends
    assert [(each.kind, each.url, each.plugin) for each in moved] == [("custom", "http://gpu:8000", "parrots:Parrots")]
    with pytest.raises(ConfigError, match="only a backend of kind custom has one, this is of kind vllm"):
        settle(CUSTOM % "custom", {"LLM_BACKEND": "vllm"})


@pytest.mark.parametrize("kind", ["vllm", "llamacpp", "openai"])
def test_a_familiar_name_says_of_which_kind_the_one_backend_is(settle: Settle, kind: str) -> None:
    elsewhere = {"OLLAMA_URL": "http://other:1", "OLLAMA_HOST": "other"}
    environ = {"LLM_BACKEND": kind, "LLM_BACKEND_URL": "http://gpu:8000/v1", **elsewhere}
    (alone,) = settle(None, environ).config.backends
    assert (alone.name, alone.kind, alone.url) == (kind, kind, "http://gpu:8000/v1")
    (only,) = settle("backends: [{name: a, url: 'http://a'}]", {"LLM_BACKEND": kind, **elsewhere}).config.backends
    assert (only.name, only.kind, only.url) == ("a", kind, "http://a")


def test_keys_may_come_as_the_keys_themselves(settle: Settle) -> None:
    entries = {"sk-one": {"user": "editor"}, "sk-two": {"user": "batch-job", "rate_limit": 60, "admin": True}}
    one, two = settle(None, {"API_KEYS_JSON": json.dumps(entries)}).config.keys
    assert (one.user, one.admin, one.rpm) == ("editor", False, None)
    assert (two.user, two.admin, two.rpm) == ("batch-job", True, 60)
    assert one.sha256 == "456f1612bd25c6c8455039437bf441f43aa3b7d1c0b0047c712d5036dfebef0d"


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2027-01-31", 1801353600),
        ("2027-01-31T00:00:00Z", 1801353600),
        ("2027-01-31t01:30:00+01:30", 1801353600),
        ("2027-01-31 00:00:00.25-00:00", 1801353600.25),
    ],
)
def test_a_key_expires_on_a_day_or_at_a_time(settle: Settle, text: str, at: float) -> None:
    for form in (text, f"'{text}'"):
        (key,) = settle(f"keys: [{{user: a, sha256: '{'ab' * 32}', expires: {form}}}]").config.keys
        assert key.expires == at


def test_when_a_key_expires_is_shown_as_it_can_be_written(settle: Settle) -> None:
    (key,) = settle(f"keys: [{{user: a, sha256: '{'ab' * 32}', expires: 2027-01-31T01:30:00.5+01:30}}]").config.keys
    assert dump(Config(keys=(key,)))["keys"][0]["expires"] == "2027-01-31T00:00:00.500000Z"


@pytest.mark.parametrize("text", ["2027-01-31T18:00:00", "2027-02-30", "31.1.2027", "tomorrow", "-1", "2027-01", "''"])
def test_what_is_no_time_is_refused(settle: Settle, text: str) -> None:
    with pytest.raises(ConfigError, match=r"keys\[0\].expires: \*\*\* is not a date such as"):
        settle(f"keys: [{{user: a, sha256: '{'ab' * 32}', expires: {text}}}]")


@pytest.mark.parametrize("value", ["2027-01-31", "2027-01-31T00:00:00Z", '"2027-01-31"'])
def test_toml_has_times_of_its_own(tmp_path: Path, value: str) -> None:
    (tmp_path / "hermes.toml").write_text(f'keys = [{{user = "a", sha256 = "{"ab" * 32}", expires = {value}}}]')
    (key,) = load(None, {}, {}, tmp_path).keys
    assert key.expires == 1801353600


def test_a_digest_may_be_written_in_capitals(settle: Settle) -> None:
    (key,) = settle(f"keys: [{{user: a, sha256: '{'AB' * 32}'}}]").config.keys
    assert key.sha256 == "ab" * 32


def test_kubernetes_service_variables_are_not_ours(settle: Settle) -> None:
    service = {
        "HERMES_SERVICE_HOST": "10.0.0.1", "HERMES_SERVICE_PORT": "80", "HERMES_SERVICE_PORT_HTTP": "80",
        "HERMES_PORT": "tcp://10.0.0.1:80", "HERMES_PORT_80_TCP": "tcp://10.0.0.1:80",
        "HERMES_PORT_80_TCP_ADDR": "10.0.0.1",
    }  # fmt: skip
    assert settle(None, service).config == settle().config
    with pytest.raises(ConfigError, match="did you mean HERMES_SERVER__PORT"):
        settle(None, {"HERMES_PORT": "80"})


# --- files ----------------------------------------------------------------------------------------------------------


def test_the_file_is_looked_for_nearest_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system, home, xdg, cwd = (tmp_path / name for name in ("etc", "home", "xdg", "cwd"))
    monkeypatch.setattr("hermes.config.files.SYSTEM_DIR", system)
    places = [
        (system, {}),
        (home / ".config/hermes", {"HOME": str(home)}),
        (xdg / "hermes", {"XDG_CONFIG_HOME": str(xdg)}),
    ]
    environ: dict[str, str] = {}
    assert find(None, environ, cwd) is None
    for folder, names in [*places, (cwd, {})]:
        environ |= names
        folder.mkdir(parents=True)
        (folder / "hermes.toml").write_text("")
        assert find(None, environ, cwd) == folder / "hermes.toml"


def test_a_relative_xdg_directory_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hermes.config.files.SYSTEM_DIR", tmp_path / "etc")
    (tmp_path / "hermes").mkdir()
    (tmp_path / "hermes" / "hermes.yaml").write_text("")
    monkeypatch.chdir(tmp_path)
    assert find(None, {"XDG_CONFIG_HOME": "."}, tmp_path) is None


def test_two_files_in_one_place_are_refused(settle: Settle, tmp_path: Path) -> None:
    (tmp_path / "hermes.toml").write_text("")
    with pytest.raises(ConfigError, match="keep one"):
        settle("")


def test_a_named_file_wins_and_must_exist(tmp_path: Path) -> None:
    (tmp_path / "hermes.yaml").write_text("server: {port: 1}")
    (tmp_path / "other.toml").write_text("[server]\nport = 2\n")
    (tmp_path / "third.yaml").write_text("server: {port: 3}")
    assert load(None, {"HERMES_CONFIG": "other.toml"}, {}, tmp_path).server.port == 2
    assert load("third.yaml", {"HERMES_CONFIG": "other.toml"}, {}, tmp_path).server.port == 3
    with pytest.raises(ConfigError, match=r"absent\.yaml: No such file"):
        load("absent.yaml", {}, {}, tmp_path)


def test_the_env_file_lies_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "hermes.yaml").write_text("")
    (tmp_path / "sub" / ".env").write_text("PORT=5")
    (tmp_path / ".env").write_text("PORT=6")
    assert load("sub/hermes.yaml", {}, {}, tmp_path).server.port == 5
    assert load(None, {"HOME": str(tmp_path)}, {}, tmp_path).server.port == 6


def test_the_env_file_cannot_name_the_file(settle: Settle) -> None:
    with pytest.raises(ConfigError, match=r"HERMES_CONFIG in \.env"):
        settle(None, dotenv="HERMES_CONFIG=x.yaml")


def test_env_files_are_read_as_shells_write_them(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(
        '# a comment\n\nA=1\nexport B = two words # said\nC=\'#x $A \\n\'\nD="a\\n\\"b\\" # c" # d\n'
        'E=\nF=a#b\nG= # none\nA=3\nH={"sk": {"user": "x"}}\n\ufeff'.removesuffix("\ufeff")
    )
    assert read_env(tmp_path / ".env") == {
        "A": "3", "B": "two words", "C": "#x $A \\n", "D": 'a\n"b" # c', "E": "", "F": "a#b", "G": "",
        "H": '{"sk": {"user": "x"}}',
    }  # fmt: skip


@pytest.mark.parametrize("line", ["just words", "A='open", 'A="open', "A='x' y", "=x", "A B=c"])
def test_a_line_that_is_no_assignment_is_refused_unseen(tmp_path: Path, line: str) -> None:
    (tmp_path / ".env").write_text(f"A=1\n{line}\n")
    with pytest.raises(ConfigError, match="line 2 is not KEY=VALUE") as refused:
        read_env(tmp_path / ".env")
    assert line not in str(refused.value)


def test_own_variables_are_those_of_the_schema() -> None:
    assert all(
        not isinstance(layer, ConfigError) for layer in own_layers({"HERMES_LOGGING__LEVEL": "info", "OTHER": "x"})
    )
