"""A backend with a command: what the command tells of it, where it may stand, and what is refused of it."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from hermes.config.commands import files, guess_kind, guess_model
from hermes.config.dump import dump
from hermes.config.load import Loaded
from hermes.errors import ConfigError

Settle = Callable[..., Loaded]


@pytest.mark.parametrize(
    ("command", "kind", "model"),
    [
        ("llama-server -m models/qwen3-8b.gguf", "llamacpp", "qwen3-8b"),
        ("/opt/llama-server -m a.gguf --alias qwen,other", "llamacpp", "qwen"),
        ("nice -n 5 llama-server -hf ggml-org/gemma-3-4b-it-GGUF:Q8_0", "llamacpp", "ggml-org/gemma-3-4b-it-GGUF:Q8_0"),
        ("llama-server --model=/m/a.gguf -a b", "llamacpp", "b"),
        ("vllm serve Qwen/Qwen3-8B", "vllm", "Qwen/Qwen3-8B"),
        ("vllm serve /models/Qwen3-8B/", "vllm", "Qwen3-8B"),
        ("vllm serve Qwen/Qwen3-8B --served-model-name qwen other", "vllm", "qwen"),
        ("python -m vllm.entrypoints.openai.api_server --model a/b", "vllm", "a/b"),
        ("python -m sglang.launch_server --model-path a/b", "openai", "a/b"),
        ("vllm serve --config c.yaml", "vllm", ""),
        ("text-generation-launcher --model-id a/b", "tgi", "a/b"),
        ("python -m mlx_lm.server", "openai", ""),
        ("./serve.sh --alias", "openai", ""),
    ],
)
def test_the_command_tells_kind_and_model(command: str, kind: str, model: str) -> None:
    words = command.split()
    assert (guess_kind(words), guess_model(words, guess_kind(words))) == (kind, model)


def test_the_command_tells_what_will_be_in_memory() -> None:
    assert list(files(["llama-server", "-m", "a.gguf", "--mmproj=b.gguf", "--port", "1"])) == ["a.gguf", "b.gguf"]


def test_a_command_is_all_that_is_needed(settle: Settle) -> None:
    (backend,) = settle("backends: [{command: \"llama-server -m 'my models/a.gguf' --port ${PORT}\"}]").config.backends
    assert (backend.name, backend.kind, backend.model) == ("managed", "llamacpp", "a")
    assert backend.url == "http://127.0.0.1:${PORT}"


def test_what_is_said_goes_before_what_the_command_tells(settle: Settle) -> None:
    told = {
        "name": "b",
        "kind": "openai",
        "model": "m",
        "url": "http://localhost:${PORT}/api/v1",
        "command": "x ${PORT}",
    }
    (backend,) = settle(json.dumps({"backends": [told]})).config.backends
    assert told == {key: getattr(backend, key) for key in told}


COMMAND = {"command": "x ${PORT}", "model": "m"}


@pytest.mark.parametrize("told", [[COMMAND], [{"name": "a", "url": "http://a"}, {**COMMAND, "name": "b"}]])
@pytest.mark.parametrize("dotenv", [True, False])
def test_a_command_from_a_variable_is_refused(settle: Settle, told: list[Any], dotenv: bool) -> None:
    text = json.dumps(told)
    with pytest.raises(
        ConfigError, match=r"HERMES_BACKENDS( in .env)?: command can only be set in the configuration file"
    ):
        if dotenv:
            settle("", {}, f"HERMES_BACKENDS='{text}'")
        else:
            settle("", {"HERMES_BACKENDS": text})


def test_a_familiar_address_is_not_that_of_a_command(settle: Settle) -> None:
    yaml = json.dumps({"backends": [COMMAND]})
    environ = {"OLLAMA_HOST": "gpu", "OLLAMA_NUM_PARALLEL": "3", "LLM_BACKEND": "vllm"}
    (backend,) = settle(yaml, environ).config.backends
    assert (backend.url, backend.slots, backend.kind) == ("http://127.0.0.1:${PORT}", None, "openai")
    with pytest.raises(ConfigError, match="OLLAMA_URL: the one backend has a command"):
        settle(yaml, {"OLLAMA_URL": "http://gpu"})


@pytest.mark.parametrize(
    ("backends", "said"),
    [
        ([{"command": ""}], "backends[0].command: '' is not a command and its arguments"),
        ([{"command": "a 'b"}], 'backends[0].command: "a \'b" is not a command and its arguments'),
        ([{"command": ["a"]}], "backends[0].command: a list is not a command"),
        ([{"command": "a ${PORT}"}], "backends[0].model: missing, and the command does not tell"),
        (
            [{"command": "a", "model": "m"}],
            "backends[0].command: without ${PORT}, here or in env, it is not told where",
        ),
        ([{**COMMAND, "url": "http://a:1"}], "backends[0].url: without ${PORT} it is not where the command listens"),
        ([{**COMMAND, "kind": "ollama"}], "backends[0].kind: an Ollama loads its models itself"),
        ([{**COMMAND, "env": {"A=B": "c"}}], "backends[0].env: 'A=B' is not the name of a variable"),
        ([{**COMMAND, "env": {"A": ["c"]}}], "backends[0].env.A: *** is not a text"),
        ([{**COMMAND, "health": "x"}], "backends[0].health: 'x' is not a path such as /health"),
        ([COMMAND, COMMAND], "2 commands of 'managed' are of one model, 'm'"),
        (
            [{**COMMAND, "memory": 1}, {**COMMAND, "model": "n", "memory": 1}],
            "backends: 2 commands of 'managed' say its memory",
        ),
        ([COMMAND, {"name": "managed", "url": "http://a"}], "backends: 2 are named 'managed'"),
        (
            [{"name": "a", "url": "http://a", "preload": True}],
            "backends[0].preload: a has no command that this could be",
        ),
        ([{"name": "a", "url": "http://a:${PORT}"}], "backends[0].url: a has no command that ${PORT} could be of"),
        ([{"name": "a"}], "backends[0].url: missing"),
    ],
)
def test_a_mistake_is_told(settle: Settle, backends: list[Any], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        settle(json.dumps({"backends": backends}))
    assert said in str(refused.value)


def test_what_it_is_given_in_variables_is_not_shown(settle: Settle) -> None:
    config = settle(json.dumps({"backends": [{**COMMAND, "env": {"TOKEN": "t0ken", "GPU": 1}}]})).config
    assert dump(config)["backends"][0]["env"] == {"TOKEN": "***", "GPU": "***"}
    assert dump(config)["backends"][0]["command"] == "x ${PORT}"
    assert "t0ken" not in repr(config)
