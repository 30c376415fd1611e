"""Configurations of LiteLLM and llama-swap: what has a place here is loaded, of the rest each thing is told."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from hermes.cli import cli
from hermes.config import Config, strictyaml
from hermes.config.foreign import Imported, litellm, llamaswap
from hermes.config.load import Loaded
from hermes.errors import ConfigError

Settle = Callable[..., Loaded]

LITELLM = """
model_list:
  - model_name: fast
    litellm_params: {model: ollama_chat/llama3.2, api_base: "http://gpu0:11434", rpm: 60, tpm: 1000, temperature: 0.2}
  - model_name: fast
    litellm_params: {model: ollama/llama3.2, api_base: "http://gpu1:11434", rpm: 40, tpm: 500, stop: END, num_ctx: 8192}
  - model_name: large
    litellm_params: {model: hosted_vllm/Qwen/Qwen3-32B, api_base: "http://gpu2:8000/v1", api_key: sk-in, timeout: 300}
  - model_name: gpt-4o
    litellm_params: {model: gpt-4o, api_key: os.environ/OPENAI_API_KEY, max_parallel_requests: 8}
  - model_name: claude
    litellm_params: {model: anthropic/claude-sonnet-4-5, api_base: "https://proxy.example.com"}
  - model_name: far
    litellm_params: {model: Org/their-name, custom_llm_provider: openai, api_base: "https://api.example.com/v1",
      stream_timeout: 60}
  - model_name: fast
    litellm_params: {model: ollama/another, api_base: "http://gpu0:11434"}
  - model_name: "openai/*"
    litellm_params: {model: "openai/*"}
litellm_settings: {num_retries: 2, request_timeout: 90, drop_params: true, fallbacks: [{fast: [large]}, {a: [far]}]}
router_settings: {routing_strategy: least-busy, model_group_alias: {gpt-4: large}}
general_settings: {master_key: sk-master, database_url: "postgresql://x"}
"""

LLAMASWAP = """
# yaml-language-server: $schema=whatever
healthCheckTimeout: 500
logLevel: info
globalTTL: 60
macros:
  flags: "-ngl 99"
  server: |
    # of last week
    llama-server --port ${PORT}
      ${flags}
models:
  qwen:
    cmd: |
      # the good one: ${server}
      ${server} \\
        --model models/qwen3-8b.gguf
    aliases: [gpt-4o-mini, "not a name"]
    ttl: 300
  coder:
    cmd: vllm serve Qwen/Qwen3-14B-AWQ --port ${PORT} --served-model-name ${MODEL_ID}
    proxy: "http://127.0.0.1:${PORT}"
    env: ["CUDA_VISIBLE_DEVICES=1", "HF_HUB_OFFLINE=1"]
    checkEndpoint: /v1/models
    concurrencyLimit: 4
  fixed:
    cmd: other-server --listen 127.0.0.1:9001
    proxy: "http://127.0.0.1:9001/prefix"
    checkEndpoint: none
  boxed:
    cmd: docker run --rm -p ${PORT}:8080 ghcr.io/ggml-org/llama.cpp:server ${unknown}
    cmdStop: docker stop boxed
    filters: {stripParams: temperature}
  nothing: {name: x}
groups: {all: {swap: false, members: [qwen, coder]}}
hooks: {on_startup: {preload: [qwen]}}
peers: {}
"""


def told(made: Imported) -> list[str]:
    """Where each thing stood that was left."""
    return [remark.split(": ")[0] for remark in made.remarks]


def test_a_model_list_becomes_backends_and_models(settle: Settle) -> None:
    made = litellm.read(strictyaml.parse(LITELLM))
    config: Config = settle(made.text("it")).config
    assert [(each.name, each.kind, each.url) for each in config.backends] == [
        ("ollama-gpu0", "ollama", "http://gpu0:11434"),
        ("ollama-gpu1", "ollama", "http://gpu1:11434"),
        ("vllm-gpu2", "vllm", "http://gpu2:8000/v1"),
        ("openai-api.openai.com", "openai", "https://api.openai.com/v1"),
        ("openai-api.example.com", "openai", "https://api.example.com/v1"),
    ]
    assert [each.api_key and each.api_key.reveal() for each in config.backends] == [None, None, "sk-in", None, None]
    fast, large = config.models["fast"], config.models["large"]
    assert (fast.backend_model, fast.backends, fast.rpm, fast.tpm) == (
        "llama3.2",
        ("ollama-gpu0", "ollama-gpu1"),
        100,
        1500,
    )
    assert (fast.params.temperature, fast.params.stop, fast.options.num_ctx) == (0.2, ("END",), 8192)
    assert (fast.fallback, large.backend_model, large.timeout_s) == (("large",), "Qwen/Qwen3-32B", 300)
    assert config.models["gpt-4"].backends == large.backends and config.models["gpt-4o"].max_concurrency == 8
    assert config.models["far"].backend_model == "Org/their-name"
    assert (config.limits.max_attempts, config.defaults.timeout_s) == (3, 90)


def test_what_a_model_list_has_beyond_is_told() -> None:
    assert told(litellm.read(strictyaml.parse(LITELLM))) == [
        "model_list[3].litellm_params.api_key",
        "model_list[4]",
        "model_list[5].litellm_params.stream_timeout",
        "model_list[6]",
        "model_list[7]",
        "litellm_settings.fallbacks",
        "litellm_settings.drop_params",
        "router_settings.routing_strategy",
        "general_settings.master_key",
        "general_settings.database_url",
    ]


def test_a_server_whose_address_is_in_a_variable_is_told_with_what_to_do() -> None:
    params = {"model": "openai/qwen3", "api_base": "os.environ/VLLM_BASE"}
    made = litellm.read({"model_list": [{"model_name": "qwen3", "litellm_params": params}]})
    assert "stands in VLLM_BASE: write the URL there" in made.remarks[0]


def test_commands_become_processes(settle: Settle) -> None:
    made = llamaswap.read(strictyaml.parse(LLAMASWAP))
    config: Config = settle(made.text("it")).config
    qwen, coder, fixed, boxed = config.backends
    assert qwen.command == "llama-server --port ${PORT} -ngl 99 --model models/qwen3-8b.gguf"
    assert (qwen.model, qwen.kind, qwen.idle_ttl, qwen.preload, qwen.name) == ("qwen", "llamacpp", 300, True, "managed")
    assert (coder.name, coder.kind, coder.idle_ttl, coder.health) == ("gpu1", "vllm", 60, "/v1/models")
    assert coder.command is not None and coder.command.endswith("--served-model-name coder")
    assert {name: value.reveal() for name, value in coder.env.items()} == {
        "CUDA_VISIBLE_DEVICES": "1",
        "HF_HUB_OFFLINE": "1",
    }
    assert (fixed.command, fixed.url) == ("other-server --listen 127.0.0.1:${PORT}", "http://127.0.0.1:${PORT}/prefix")
    assert boxed.start_timeout_s == 500
    assert config.models["gpt-4o-mini"].backend_model == "qwen" and config.models["coder"].max_concurrency == 4


def test_what_llama_swap_has_beyond_is_told() -> None:
    assert told(llamaswap.read(strictyaml.parse(LLAMASWAP))) == [
        "backends",
        "models.qwen.aliases",
        "models.fixed.checkEndpoint",
        "models.boxed.cmd",
        "models.boxed.cmdStop",
        "models.boxed.filters",
        "models.nothing",
        "groups",
        "peers",
    ]


def run(tmp_path: Path, kind: str, text: str) -> Result:
    (tmp_path / "theirs.yaml").write_text(text)
    return CliRunner().invoke(cli, ["import", kind, str(tmp_path / "theirs.yaml")])


@pytest.mark.parametrize(("kind", "text"), [("litellm", LITELLM), ("llama-swap", LLAMASWAP)])
def test_the_verb_prints_a_file_that_can_be_used(kind: str, text: str, settle: Settle, tmp_path: Path) -> None:
    done = run(tmp_path, kind, text)
    assert done.exit_code == 0 and done.stdout.startswith("# Made of a ") and "# - " in done.stdout
    assert settle(done.stdout).config.models


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "models: 5"])
def test_what_is_none_is_refused(text: str, tmp_path: Path) -> None:
    assert run(tmp_path, "llama-swap", text).exit_code == 2


@pytest.mark.parametrize("text", ["", "models: {a: {cmd: x}}", "backends: []"])
def test_a_file_in_which_nothing_is_found_is_probably_another_programs(text: str, tmp_path: Path) -> None:
    done = run(tmp_path, "litellm", text)
    assert done.exit_code == 2 and "is it a LiteLLM configuration?" in done.stderr


def test_no_file_is_told_as_that(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["import", "litellm", str(tmp_path / "absent.yaml")])
    assert (done.exit_code, done.stderr) == (2, f"hermes: {tmp_path}/absent.yaml: there is no such file\n")


def test_what_hermes_would_not_take_is_printed_all_the_same_and_said(tmp_path: Path) -> None:
    done = run(tmp_path, "llama-swap", "models: {a: {cmd: server --port 1}}")
    assert done.exit_code == 2 and "command: server --port 1" in done.stdout
    assert "without ${PORT}" in done.stderr


def test_macros_that_hold_each_other_without_end_are_refused() -> None:
    macros = {name: f"${{{following}}}" * 10 for name, following in zip("ABCDEFGH", "BCDEFGHI", strict=True)}
    with pytest.raises(ConfigError, match="no end"):
        llamaswap.read({"models": {"a": {"cmd": "run ${A}", "macros": macros | {"I": "i" * 1000}}}})


def deployments(*urls: str) -> dict[str, Any]:
    return {
        "model_list": [
            {"model_name": f"m{number}", "litellm_params": {"model": "ollama/x", "api_base": url, "stop": "END"}}
            for number, url in enumerate(urls)
        ]
    }


def test_what_is_no_address_is_left_out_and_told() -> None:
    made = litellm.read(deployments("http://[::1", "http://gpu:1"))
    assert [backend["url"] for backend in made.tree["backends"]] == ["http://gpu:1"]
    assert any("model_list[0]" in remark and "where is" in remark for remark in made.remarks)


def test_what_anchors_stand_for_is_written_out(tmp_path: Path) -> None:
    entry = "  - model_name: {}\n    litellm_params: {{{}, model: ollama/{}}}\n"
    text = "model_list:\n" + entry.format("a", "stop: &s [x]", "a") + entry.format("b", "stop: *s", "b")
    told = run(tmp_path, "litellm", text).stdout
    assert "&" not in told and "*" not in told
    assert strictyaml.parse(told)["models"]["b"]["params"] == {"stop": ["x"]}


LAUGHS = ["&z0 [x, x]", *(f"&z{nth} [*z{nth - 1}, *z{nth - 1}]" for nth in range(1, 40))]


@pytest.mark.parametrize("anchors", ["&s [*s]", "&s {a: *s}", f"[{', '.join(LAUGHS)}]"])
def test_anchors_without_end_are_refused(anchors: str, tmp_path: Path) -> None:
    text = f"model_list: [{{model_name: a, litellm_params: {{model: ollama/a, stop: {anchors}}}}}]"
    told = run(tmp_path, "litellm", text)
    assert (told.exit_code, told.stdout) == (2, "")
    assert "what its anchors stand for has no end" in told.stderr


def test_a_fallback_that_is_no_name_is_left_out_and_told() -> None:
    made = litellm.read(deployments("http://gpu:1") | {"litellm_settings": {"fallbacks": [{"m0": [{}]}]}})
    assert "fallback" not in made.tree["models"]["m0"] and any("fallbacks" in remark for remark in made.remarks)


def test_each_of_a_thousand_ports_of_a_host_is_a_backend_with_a_name() -> None:
    made = litellm.read(deployments(*(f"http://gpu:{port}" for port in range(1, 1002))))
    assert len({backend["name"] for backend in made.tree["backends"]}) == 1001


def test_an_alias_is_written_out() -> None:
    made = litellm.read(deployments("http://gpu:1") | {"router_settings": {"model_group_alias": {"other": "m0"}}})
    assert made.tree["models"]["other"] == made.tree["models"]["m0"]
    assert "*id" not in made.text("it")


NAMES = st.sampled_from(
    [
        "model_list",
        "litellm_params",
        "model",
        "model_name",
        "api_base",
        "fallbacks",
        "router_settings",
        "model_group_alias",
        "litellm_settings",
        "general_settings",
        "models",
        "cmd",
        "env",
        "aliases",
        "macros",
        "hooks",
        "on_startup",
        "preload",
        "groups",
        "ttl",
        "proxy",
        "openai/x",
        "rpm",
        "timeout",
    ]
)
TREES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | NAMES | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.text(max_size=3), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(tree=TREES)
@pytest.mark.parametrize("read", [litellm.read, llamaswap.read])
def test_whatever_the_file_holds_it_is_read_or_refused(read: Callable[[Any], Imported], tree: Any) -> None:
    try:
        made = read(tree)
    except ConfigError:
        return
    assert strictyaml.parse(made.text("it")) is None or isinstance(strictyaml.parse(made.text("it")), dict)
