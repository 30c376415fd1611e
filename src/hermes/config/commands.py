"""A backend's command: what it tells of the backend, where the backend itself says nothing.

Commands come from the configuration file only: who can set a variable, or reach an API, starts no program by it.
"""

import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import PurePath
from typing import Any

from hermes.config.kinds import BackendKind
from hermes.config.notation import PORT

NAME = "managed"
URL = f"http://127.0.0.1:{PORT}"

# How servers are told what to call their model; else which one it is.
_NAMES = ("--served-model-name", "--alias", "-a")
_MODELS = ("--model", "-m", "--model-path", "--model-id", "--hf-repo", "-hf", "-hfr")
# What else of theirs is in memory.
_FILES = ("--model", "-m", "--mmproj", "-mm", "--model-draft", "-md", "--lora")


def filled(tree: dict[str, Any]) -> dict[str, Any]:
    """The tree of a file, with what its commands tell."""
    backends = tree.get("backends")
    return tree | {"backends": [_filled(each) for each in backends]} if isinstance(backends, list) else tree


def _filled(backend: Any) -> Any:
    if not isinstance(backend, dict) or not isinstance(backend.get("command"), str):
        return backend
    told: dict[str, Any] = {"name": NAME, "url": URL}
    try:
        words = shlex.split(backend["command"])
    except ValueError:
        return told | backend  # refused where it is read
    told["kind"] = kind = backend.get("kind") or guess_kind(words)
    if model := guess_model(words, kind):
        told["model"] = model
    return told | backend


def guess_kind(words: list[str]) -> BackendKind:
    """By the server's program, wherever it stands: `nice -n 5 llama-server ...`, `python -m vllm.entrypoints...`."""
    for word in words:
        program = PurePath(word).name
        if program.startswith("llama-server"):
            return "llamacpp"
        if program == "text-generation-launcher":
            return "tgi"
        if program == "vllm" or program.startswith("vllm."):
            return "vllm"
    return "openai"


def guess_model(words: list[str], kind: str) -> str:
    """What to call its model: as the server is told to, else by the model's file or repository."""
    for name in (*_NAMES, *_MODELS):
        if name.startswith("--") or kind == "llamacpp":  # the short ones are its own: `python -m` names no model
            for value in _values(words, name):
                return value.split(",")[0] if name in _NAMES else _short(value)
    if kind == "vllm" and "serve" in words[:-1] and not (model := words[words.index("serve") + 1]).startswith("-"):
        return _short(model)
    return ""


def files(words: list[str]) -> Iterator[str]:
    """The files that it is told to load."""
    for name in _FILES:
        yield from _values(words, name)


def _values(words: list[str], option: str) -> Iterator[str]:
    for word, following in pairwise([*words, ""]):
        if word == option and following:
            yield following
        elif option.startswith("--") and word.startswith(f"{option}="):
            yield word.partition("=")[2]


def _short(model: str) -> str:
    """Of a path the file's or folder's name; a repository's is `owner/name`."""
    is_path = model.startswith(("/", ".", "~")) or model.endswith(".gguf") or model.count("/") > 1
    return PurePath(model).name.removesuffix(".gguf") if is_path else model
