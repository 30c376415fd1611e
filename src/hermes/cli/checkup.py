"""What `hermes doctor` looks at on this machine: configuration, state, limits, and what surrounds it.

Nothing here changes anything: files are looked at and not opened, addresses are read and not listened at.
"""

import os
import resource
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from ctypes import CDLL, create_string_buffer
from pathlib import Path
from typing import Literal

from msgspec import Struct

import hermes
from hermes import composition, machine
from hermes.cli.options import gib
from hermes.config import Config
from hermes.config.build import build
from hermes.config.load import DEFAULT_BACKEND, Loaded, resolve
from hermes.config.rules import check_bind, is_loopback, without_effect
from hermes.errors import ConfigError

State = Literal["ok", "note", "warning", "problem"]

# Each client may need a backend's connection as well; an ordinary burst has some hundred of both.
FEW_FILES = 1024
LITTLE_ROOM_BYTES = 64 << 20
# Hermes idles at 35 MiB; bodies and streams come on top.
LITTLE_MEMORY_BYTES = 128 << 20
# adjtimex(2): the kernel's clock is not steered by anybody.
_TIME_ERROR = 5


class Finding(Struct, frozen=True, omit_defaults=True):
    """`todo`: what to do about it, where there is something to do."""

    what: str
    state: State
    told: str
    todo: str = ""


def configuration(path: str | None, environ: Mapping[str, str]) -> tuple[Config, list[Finding]]:
    """What is in force and what is to be said of it; where it cannot be used, what would be without any."""
    try:
        loaded = resolve(path, environ, {}, Path.cwd())
    except ConfigError as error:
        broken = [Finding("configuration", "problem", line, _MEND) for line in str(error).splitlines()]
        return build({"backends": [DEFAULT_BACKEND]}), broken
    return loaded.config, list(_configuration(loaded, environ))


_MEND = "hermes serve would not start: mend that, then run hermes check"


def _configuration(loaded: Loaded, environ: Mapping[str, str]) -> Iterator[Finding]:
    config = loaded.config
    yield Finding("configuration", "ok", str(loaded.file) if loaded.file else "no file, so all is as it is by default")
    try:
        composition.check_files(config)
        check_bind(config, stored=composition.may_have_keys(config, environ))
    except ConfigError as error:
        yield from (Finding("configuration", "problem", line, _MEND) for line in str(error).splitlines())
    for remark in without_effect(config):
        yield Finding("configuration", "warning", f"without effect: {remark}", "take it out, or see what was meant")
    server = config.server
    if server.insecure and not server.unix_socket and not is_loopback(server.host):
        told = f"whoever reaches {server.host}:{server.port} may use the models: server.insecure is on"
        yield Finding("keys", "warning", told, "make keys (hermes keys create NAME), unless the network is trusted")
    if in_container() and not server.unix_socket and is_loopback(server.host):
        told = f"in this container nobody outside of it reaches {server.host}"
        yield Finding("address", "note", told, "to publish the port: HERMES_SERVER__HOST=0.0.0.0, and keys")


def surroundings(config: Config, environ: Mapping[str, str]) -> Iterator[Finding]:
    """All else that can be seen without asking anybody."""
    python = ".".join(map(str, sys.version_info[:3]))
    yield Finding("version", "ok", f"hermes {hermes.__version__} on Python {python}, {os.uname().sysname}")
    yield from _state(composition.state_dir(config.server, environ))
    yield _files()
    yield from _cgroup()
    yield from _clock(bool(config.jwt))
    yield from _proxies(environ)
    yield from _path(environ.get("PATH", ""))


def _state(folder: Path | None) -> Iterator[Finding]:
    if folder is None:
        told = "nothing is kept: no keys, no budgets, nothing of what was learned of models"
        yield Finding("state", "note", told, "set server.state_dir to a folder, or HOME")
        return
    # what may not be looked into is not there either: os.path says so, pathlib raises
    there = next(each for each in (folder, *folder.absolute().parents) if os.path.exists(each))  # noqa: PTH110
    if not os.access(there, os.W_OK | os.X_OK) or not there.is_dir():
        told = f"{folder} cannot be written by user {os.getuid()}"
        yield Finding("state", "problem", told, f"chown {os.getuid()} {there}, or set server.state_dir to another")
        return
    free_bytes = shutil.disk_usage(there).free
    if free_bytes < LITTLE_ROOM_BYTES:
        told = f"{folder} has {gib(free_bytes)} left: what is used cannot be recorded when it is full"
        yield Finding("state", "warning", told, "make room there, or set server.state_dir to another disk")
    else:
        yield Finding("state", "ok", f"{folder}, {gib(free_bytes)} free")


def _files() -> Finding:
    """Hermes raises its own limit as far as it may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard >= FEW_FILES:
        return Finding("open files", "ok", "no limit" if hard == resource.RLIM_INFINITY else f"at most {hard}")
    clients = max(16, (hard - composition.RESERVED_FILES) // 2)
    told = f"at most {hard}: no more than {clients} clients at once"
    return Finding("open files", "warning", told, "raise it: ulimit -Hn, LimitNOFILE= in a unit, --ulimit in Docker")


def _cgroup() -> Iterator[Finding]:
    found = machine.cgroup()
    memory, cpus = found.get("memory_limit_bytes"), found.get("cpu_limit")
    told = [f"memory {gib(int(memory))}"] if memory else []
    told += [f"{cpus:g} processors"] if cpus else []
    if memory and memory < LITTLE_MEMORY_BYTES:
        todo = f"give it {gib(LITTLE_MEMORY_BYTES)}: it is killed where it needs more than its limit"
        yield Finding("cgroup", "warning", ", ".join(told), todo)
    elif cpus and cpus < 0.5:
        yield Finding("cgroup", "warning", ", ".join(told), "give it half a processor: streams falter where it is held")
    else:
        yield Finding("cgroup", "ok", ", ".join(told) or "no limits")
    if pressed := machine.pressure():
        yield Finding("memory", "warning", pressed, "models are not loaded while that is so: end what needs it")


def _clock(tokens: bool) -> Iterator[Finding]:
    now = time.time()  # noqa: TID251 - this is what is looked at
    installed = Path(hermes.__file__).stat().st_mtime
    if now < installed - 86_400:
        told = f"it is {time.strftime('%Y-%m-%d', time.gmtime(now))}, which is before this Hermes was installed"
        yield Finding("clock", "problem", told, "set the clock: keys, tokens and budgets go by it")
    elif _is_free_running():
        state: State = "warning" if tokens else "note"
        yield Finding(
            "clock", state, "nobody keeps it right", "run chrony or systemd-timesyncd: keys and budgets go by it"
        )
    else:
        yield Finding("clock", "ok", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now)))


def _is_free_running() -> bool:
    """Asked without setting anything: `modes`, the first field, is 0."""
    with suppress(OSError, AttributeError):  # not everywhere
        return bool(CDLL(None).adjtimex(create_string_buffer(512)) == _TIME_ERROR)
    return False


def _proxies(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Hermes heeds none of them; clients on this machine do, for requests to Hermes too."""
    names = [name for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY") if environ.get(name)]
    direct = f"{environ.get('no_proxy', '')},{environ.get('NO_PROXY', '')}".replace(" ", "").split(",")
    if names and not {"*", "localhost", "127.0.0.1"} & {*direct}:
        told = f"{names[0]} is set, and nothing exempts this machine: clients here would ask the proxy for Hermes"
        yield Finding("proxy", "warning", told, "export NO_PROXY=localhost,127.0.0.1 where clients run")


def _path(path: str) -> Iterator[Finding]:
    """Programs called hermes; React Native has one, and so have others."""
    folders = dict.fromkeys(filter(None, path.split(os.pathsep)))
    found = [file for folder in folders if os.access(file := Path(folder, "hermes"), os.X_OK) and file.is_file()]
    different = {file.resolve(): file for file in reversed(found)}
    if len(different) > 1:
        told = f"there are several on PATH, {found[0]} is the first: {', '.join(map(str, found))}"
        yield Finding("hermes", "warning", told, "hermes-sidecar is this one under another name")


def in_container() -> bool:
    return any(Path(mark).exists() for mark in ("/.dockerenv", "/run/.containerenv"))
