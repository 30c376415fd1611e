"""llama-swap: its `models` to processes of Hermes's, which take the same commands, with the same ${PORT}.

Its groups say which models may be loaded together; here memory does, and what gains most.
"""

import re
from typing import Any

from hermes.config.foreign import Imported, Tree, listed, mapping, number, section
from hermes.config.kinds import ModelName
from hermes.config.notation import PORT
from hermes.config.schema import meta
from hermes.errors import ConfigError

_READ = {
    "cmd",
    "proxy",
    "ttl",
    "env",
    "aliases",
    "checkEndpoint",
    "useModelName",
    "unlisted",
    "name",
    "description",
} | {
    *("concurrencyLimit", "macros", "metadata", "cmdStop"),
}
# Of llama-swap itself, or what nothing depends on here.
_ITS_OWN = {
    "startPort",
    "logToStdout",
    "logTimeFormat",
    "metricsMaxInMemory",
    "captureBuffer",
    "includeAliasesInList",
} | {
    *("sendLoadingState", "healthCheckTimeout", "macros", "models", "hooks", "globalTTL", "logLevel"),
}
_GPUS = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
_MOST_CHARS = 1 << 17  # of what is put in; Linux takes no longer argument (MAX_ARG_STRLEN)
_is_model = re.compile(meta(ModelName).pattern or "").match


def read(tree: Any) -> Imported:
    """Raises ConfigError for what is no configuration of llama-swap's."""
    given = mapping(tree, "llama-swap")
    made = Imported()
    for name, entry in mapping(given.get("models", {}), "llama-swap").items():
        _process(made, given, str(name), entry)
    preload = listed(section(given, "hooks", "on_startup"), "preload")
    for backend in made.tree["backends"]:
        if backend["model"] in preload:
            backend["preload"] = True
    if (level := given.get("logLevel")) in ("debug", "info", "error"):
        made.tree["logging"] = {"level": level}
    if made.tree["backends"]:
        made.remarks.insert(
            0, "backends: say the `memory` that they share, at one of each name; else one runs at a time"
        )
    for name in ("groups", "matrix"):
        if name in given:
            made.leave((name,), "left out: memory, and what gains most, decide what is loaded together")
    made.leave_rest(given, _ITS_OWN | {"groups", "matrix"}, ())
    return made


def _process(made: Imported, given: Tree, name: str, entry: Any) -> None:
    path = ("models", name)
    if not _is_model(name):
        made.leave(path, "left out: it cannot be a name here")
        return
    if not isinstance(entry, dict) or not isinstance(entry.get("cmd"), str):
        made.leave(path, "left out: it has no cmd")
        return
    macros = {"MODEL_ID": name, **section(given, "macros"), **section(entry, "macros")}
    expand = _expander(macros)
    command, url = _ports(_one_line(expand(_uncommented(entry["cmd"]))), expand(str(entry.get("proxy") or "")))
    environ = dict(str(each).partition("=")[::2] for each in listed(entry, "env"))
    environ = {key: expand(value) for key, value in environ.items()}
    backend: Tree = {"model": name, "command": command}
    gpu = next((environ[each] for each in _GPUS if environ.get(each)), None)
    if gpu is not None:  # a memory of its own
        backend["name"] = "gpu" + re.sub(r"[^A-Za-z0-9]+", "-", gpu)
    if url:
        backend["url"] = url
    if environ:
        backend["env"] = environ
    _times(backend, given, entry)
    made.tree["backends"].append(backend)
    for alias in map(str, listed(entry, "aliases")):
        if _is_model(alias):
            made.tree["models"][alias] = {"backend_model": name}
        else:
            made.leave((*path, "aliases"), f"left out: {alias!r} cannot be a name here")
    if (most := number(entry.get("concurrencyLimit"))) and most > 0:
        made.tree["models"][name] = {"max_concurrency": int(most)}
    _tell(made, entry, command, path)


def _times(backend: Tree, given: Tree, entry: Tree) -> None:
    ttl = number(entry.get("ttl", given.get("globalTTL")))
    if ttl and ttl > 0:
        backend["idle_ttl"] = ttl
    if (patience := number(given.get("healthCheckTimeout"))) and patience > 0:
        backend["start_timeout_s"] = patience
    probe = entry.get("checkEndpoint")
    if isinstance(probe, str) and probe.startswith("/") and probe != "/health":
        backend["health"] = probe


def _tell(made: Imported, entry: Tree, command: str, path: tuple[str, ...]) -> None:
    if PORT not in command:
        made.leave((*path, "cmd"), f"it is not told where to listen: put {PORT} in it")
    if left := sorted(set(re.findall(r"\$\{(?!PORT\})[^}]*\}", command))):
        made.leave((*path, "cmd"), f"{', '.join(left)} means nothing here: write it out")
    if "cmdStop" in entry:
        made.leave((*path, "cmdStop"), "left out: all of its process group gets SIGTERM, which ends no container")
    if entry.get("checkEndpoint") == "none":
        made.leave(
            (*path, "checkEndpoint"), "it is asked what its kind is asked: set `health` to what answers once it serves"
        )
    made.leave_rest(entry, _READ, path)


def _expander(macros: Tree) -> Any:
    def expand(text: str) -> str:
        room = _MOST_CHARS

        def put_in(found: re.Match[str]) -> str:
            nonlocal room
            value = str(macros.get(found[1], found[0]))
            room -= len(value)
            if room < 0:
                raise ConfigError("llama-swap: with its macros put in, a command has no end")
            return value

        for _ in range(10):  # one may hold another
            text, before = re.sub(r"\$\{([\w-]+)\}", put_in, text), text
            if text == before:
                break
        return text

    return expand


def _uncommented(command: str) -> str:
    """Before macros are put in: one that is named in a comment may have several lines."""
    return "\n".join(line for line in command.splitlines() if not line.lstrip().startswith("#"))


def _one_line(command: str) -> str:
    lines = (line.strip().removesuffix("\\").strip() for line in _uncommented(command).splitlines())
    return " ".join(line for line in lines if line)


def _ports(command: str, proxy: str) -> tuple[str, str]:
    """With ${PORT} for a port that both name; and the url, where it is not the usual one."""
    if (found := re.search(r":(\d+)(?=/|$)", proxy)) and PORT not in command:
        words = re.sub(rf"(?<![\w.]){found[1]}(?![\w.])", PORT, command)
        if words != command:
            command, proxy = words, proxy.replace(f":{found[1]}", f":{PORT}", 1)
    usual = re.fullmatch(rf"http://(localhost|127\.0\.0\.1):{re.escape(PORT)}/?", proxy)
    return command, "" if usual or PORT not in proxy else proxy
