"""LiteLLM's proxy: its `model_list` to backends and models.

Each entry is a deployment: a model at a server. Those of one `model_name` are one model with several backends, those
with one address are one backend. A provider that Hermes does not speak to is left out.
"""

import re
from copy import deepcopy
from itertools import count
from typing import Any
from urllib.parse import urlsplit

from hermes.config.foreign import Imported, Tree, listed, mapping, number, section
from hermes.config.kinds import ModelName
from hermes.config.schema import meta

_VARIABLE = "os.environ/"
_OPENAI = "https://api.openai.com/v1"
# By the word before the model's name: what it is, and where, if nothing is said.
_PROVIDERS = {
    "ollama": ("ollama", "http://127.0.0.1:11434"),
    "ollama_chat": ("ollama", "http://127.0.0.1:11434"),
    "hosted_vllm": ("vllm", ""),
    "openai": ("openai", _OPENAI),
    "openai_like": ("openai", ""),
    "text-completion-openai": ("openai", _OPENAI),
    "lm_studio": ("openai", ""),
    "llamafile": ("openai", "http://127.0.0.1:8080/v1"),
    "litellm_proxy": ("openai", ""),
}
_PARAMS = {
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "stop",
    "max_tokens",
    "presence_penalty",
    "frequency_penalty",
}
_READ = {
    "model",
    "api_base",
    "base_url",
    "api_key",
    "rpm",
    "tpm",
    "timeout",
    "request_timeout",
    "num_ctx",
    "keep_alive",
} | {
    "max_parallel_requests",
    "custom_llm_provider",
    *_PARAMS,
}
_is_model = re.compile(meta(ModelName).pattern or "").match


def read(tree: Any) -> Imported:
    """Raises ConfigError for what is no configuration of LiteLLM's."""
    given = mapping(tree, "LiteLLM")
    made = Imported()
    backends: dict[tuple[str, str, str], Tree] = {}
    for index, entry in enumerate(listed(given, "model_list")):
        _deployment(made, backends, entry, ("model_list", index))
    made.tree["backends"] = list(backends.values())
    _settings(made, given)
    made.leave_rest(given, {"model_list", "litellm_settings", "router_settings", "general_settings"}, ())
    return made


def _deployment(made: Imported, backends: dict[tuple[str, str, str], Tree], entry: Any, path: tuple[Any, ...]) -> None:
    params = entry.get("litellm_params") if isinstance(entry, dict) else None
    if not isinstance(params, dict) or not isinstance(params.get("model"), str):
        made.leave(path, "left out: it has no litellm_params.model")
        return
    name, asked = str(entry.get("model_name") or params["model"]), params["model"]
    if not _is_model(name):
        made.leave(path, f"left out: {name!r} cannot be a name here" + (" (others are served anyway)" * ("*" in name)))
        return
    provider, slash, model = asked.partition("/")
    base = params.get("api_base") or params.get("base_url") or ""
    if named := params.get("custom_llm_provider"):
        provider, model = str(named), asked.removeprefix(f"{named}/")
    elif not slash:
        provider, model = "openai", asked
    kind, url = _PROVIDERS.get(provider, ("", ""))
    url = str(base or url)
    if not kind or not _is_url(url):
        made.leave(path, f"left out: {_why_nowhere(asked, kind, url)}")
        return
    backend = _backend(made, backends, kind, url, str(params.get("api_key") or ""), path)
    known = made.tree["models"].setdefault(name, {"backend_model": model, "backends": []})
    if known["backend_model"] != model:
        made.leave(
            path, f"left out: {name!r} is {known['backend_model']!r} elsewhere; here all backends call it by one name"
        )
        return
    if backend["name"] not in known["backends"]:
        known["backends"].append(backend["name"])
    _model(made, known, params, path)
    made.leave_rest(params, _READ, (*path, "litellm_params"))
    made.leave_rest(entry, {"model_name", "litellm_params", "model_info"}, path)


def _why_nowhere(asked: str, kind: str, url: str) -> str:
    if not kind:
        return f"{asked!r} is of a provider that is not spoken to here"
    if url.startswith(_VARIABLE):
        variable = url.removeprefix(_VARIABLE)
        return f"where {asked!r} is stands in {variable}: write the URL there instead, and import it again"
    return f"where is {asked!r}?"


def _is_url(text: str) -> bool:
    try:
        return text.startswith(("http://", "https://")) and bool(urlsplit(text).netloc)
    except ValueError:  # [ without its ]
        return False


def _backend(
    made: Imported, backends: dict[tuple[str, str, str], Tree], kind: str, url: str, key: str, path: tuple[Any, ...]
) -> Tree:
    if (kind, url, key) not in backends:
        host = re.sub(r"[^A-Za-z0-9.-]", "-", urlsplit(url).hostname or kind)
        taken = {backend["name"] for backend in backends.values()}
        base = kind if host in ("localhost", "127.0.0.1") else f"{kind}-{host}"[:50]
        name = next(name for nth in count(1) if (name := f"{base}-{nth}" if nth > 1 else base) not in taken)
        backend = backends[kind, url, key] = {"name": name, "kind": kind, "url": url}
        if key.startswith(_VARIABLE):
            variable = key.removeprefix(_VARIABLE)
            made.leave((*path, "litellm_params", "api_key"), f"it is in {variable}: set api_key of the backend {name}")
        elif key and kind != "ollama":
            backend["api_key"] = key
    return backends[kind, url, key]


def _model(made: Imported, known: Tree, params: Tree, path: tuple[Any, ...]) -> None:
    for theirs, ours in (("rpm", "rpm"), ("tpm", "tpm"), ("max_parallel_requests", "max_concurrency")):
        if (value := number(params.get(theirs))) and value > 0:
            known[ours] = int(known.get(ours, 0) + value)  # of each deployment there
    if (timeout := number(params.get("timeout") or params.get("request_timeout"))) and timeout > 0:
        known["timeout_s"] = max(timeout, known.get("timeout_s", 0))
    for name in sorted(_PARAMS & params.keys()):
        known.setdefault("params", {})[name] = [params[name]] if isinstance(params[name], str) else params[name]
    if (length := number(params.get("num_ctx"))) and length > 0:
        known["options"] = {"num_ctx": int(length)}
    if "keep_alive" in params:
        known["keep_alive"] = params["keep_alive"]


def _settings(made: Imported, given: Tree) -> None:
    litellm, router = section(given, "litellm_settings"), section(given, "router_settings")
    models = made.tree["models"]
    for settings, at in ((litellm, "litellm_settings"), (router, "router_settings")):
        for fallback in listed(settings, "fallbacks"):
            for name in fallback if isinstance(fallback, dict) else ():
                there = [
                    other
                    for other in listed(fallback, name)
                    if isinstance(other, str) and other in models and other != name
                ]
                if name in models and there:
                    models[name]["fallback"] = there
                else:
                    made.leave((at, "fallbacks"), f"left out: {name!r}, or what should stand in for it, is not here")
    for alias, name in section(router, "model_group_alias").items():
        if isinstance(name, str) and name in models and _is_model(str(alias)):
            models[alias] = deepcopy(models[name])
        else:
            made.leave(("router_settings", "model_group_alias", str(alias)), "left out")
    retries = number(router.get("num_retries", litellm.get("num_retries")))
    if retries is not None and 0 <= retries <= 9:
        made.tree["limits"] = {"max_attempts": int(retries) + 1}
    timeout = number(litellm.get("request_timeout") or router.get("timeout"))
    if timeout and timeout > 0:
        made.tree["defaults"] = {"timeout_s": timeout}
    read = {"fallbacks", "model_group_alias", "num_retries", "timeout", "request_timeout"}
    made.leave_rest(litellm, read, ("litellm_settings",))
    made.leave_rest(router, read, ("router_settings",))
    general = section(given, "general_settings")
    if "master_key" in general:
        made.leave(("general_settings", "master_key"), "make an operator's key: hermes keys create NAME --admin")
    made.leave_rest(general, {"master_key"}, ("general_settings",))
