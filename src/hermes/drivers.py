"""From configured backends to those of the fleet, each with what speaks to it: connections, key, kind and processes."""

import asyncio
import shlex
from collections.abc import Collection, Mapping

from msgspec.structs import asdict, replace

from hermes import config as settings
from hermes.config import commands
from hermes.config.files import signature
from hermes.config.notation import PORT
from hermes.errors import ConfigError, never_tell
from hermes.fleet import memory
from hermes.fleet.backend import Backend
from hermes.fleet.driver import Single
from hermes.fleet.inventory import full_name
from hermes.fleet.kind import ByItself, Kind
from hermes.fleet.managed import Managed
from hermes.fleet.ollama import Ollama
from hermes.fleet.openai import KINDS, OpenAIKind
from hermes.fleet.terms import NO_PINS, UNPINNED
from hermes.fleet.tgi import Tgi
from hermes.fleet.unit import Command
from hermes.http.client import PoolLimits
from hermes.http.origin import Origin
from hermes.http.pool import Pool
from hermes.http.wire import Deadlines, render_headers
from hermes.policy.load_options import Pins


def backends(
    config: settings.Config, deadlines: Deadlines, loop: asyncio.AbstractEventLoop, hop: bytes, cpus: Collection[int]
) -> tuple[Backend, ...]:
    """By name: commands of one are one backend, with one memory. `cpus`: those that processes may run on.

    Raises ConfigError for what cannot be used.
    """
    named: dict[str, list[settings.Backend]] = {}
    for each in config.backends:
        named.setdefault(each.name, []).append(each)
    return tuple(
        _of_ours(group, config, deadlines, loop, cpus)
        if group[0].command
        else _at_a_url(group[0], config, deadlines, loop, hop)
        for group in named.values()
    )


def _at_a_url(
    said: settings.Backend, config: settings.Config, deadlines: Deadlines, loop: asyncio.AbstractEventLoop, hop: bytes
) -> Backend:
    return Backend(
        said.name,
        said.kind,
        said.url,
        driver(said, deadlines, loop, pins(config, said), _unlisted_pins(config), hop),
        said.slots,
        said.probe_interval_s,
        said.simulated,
        said.memory,
        said.max_loaded,
        said.weight,
        identity(said),
    )


def _of_ours(
    group: list[settings.Backend],
    config: settings.Config,
    deadlines: Deadlines,
    loop: asyncio.AbstractEventLoop,
    cpus: Collection[int],
) -> Backend:
    """Processes, on one memory."""
    driver = Managed([_command(each, _called(each, config), deadlines, loop) for each in group], cpus)
    backend = Backend(
        group[0].name,
        "managed",
        "http://127.0.0.1",
        driver,
        None,
        min(each.probe_interval_s for each in group),
        memory_bytes=max((each.memory for each in group if each.memory), default=None),
        max_loaded=max((each.max_loaded for each in group if each.max_loaded), default=None),
        weight=max(each.weight for each in group),
        identity=Managed,
    )
    driver.changed = backend.suspect
    return backend


def preloaded(config: settings.Config) -> list[tuple[str, str]]:
    """Backend and model of each process that is started with us."""
    return [(backend.name, _called(backend, config)) for backend in config.backends if backend.preload]


# --- what models are loaded with --------------------------------------------------------------------------------------


def pins(config: settings.Config, backend: settings.Backend) -> dict[str, Pins]:
    """By the backend's own names for them."""
    return {
        model.backend_model or name: _pins(model)
        for name, model in config.models.items()
        if not model.backends or backend.name in model.backends
    }


def _unlisted_pins(config: settings.Config) -> Pins:
    return _pins(settings.with_defaults(settings.Model(), config.defaults, said=frozenset()))


def _pins(model: settings.Model) -> Pins:
    options = {name: value for name, value in asdict(model.options).items() if value is not None}
    return Pins(options, model.keep_alive, model.options_policy, model.max_num_ctx)


# --- what speaks to a backend -----------------------------------------------------------------------------------------


def origin(backend: settings.Backend) -> Origin:
    """Where it is. Raises ConfigError for an authority that cannot be used."""
    try:
        return Origin.parse(backend.url, backend.ca_file)
    except (ValueError, OSError) as error:
        raise ConfigError(f"backends.{backend.name}: {error}") from error


def driver(
    backend: settings.Backend,
    deadlines: Deadlines,
    loop: asyncio.AbstractEventLoop,
    pins: Mapping[str, Pins] = NO_PINS,
    unlisted: Pins = UNPINNED,
    hop: bytes = b"",
) -> Single:
    """What speaks to a backend, with its key. Raises ConfigError as `origin` does."""
    where, limits = origin(backend), PoolLimits(connect_timeout_s=backend.connect_timeout_s)
    if backend.kind != "ollama":
        where = replace(where, prefix=where.prefix.removesuffix("/v1"))  # its own clients are told it with that
    pool = Pool(where, limits, deadlines, loop, _authorization(backend.api_key))
    return Ollama(pool, pins, unlisted, hop) if backend.kind == "ollama" else ByItself(pool, _kind(backend), hop)


def _authorization(api_key: settings.Secret | None) -> bytes:
    """The header line with it."""
    if api_key is None:
        return b""
    never_tell(api_key.reveal())
    return render_headers(((b"authorization", b"Bearer " + api_key.reveal().encode("latin-1")),))


def identity(backend: settings.Backend) -> object:
    """All of a backend that cannot change while it is asked: where it is, how it is asked, and what its process is."""
    usual = settings.Backend("", "")
    free = ("slots", "weight", "memory", "max_loaded", "simulated", "probe_interval_s", "start_timeout_s", "idle_ttl")
    said = replace(backend, **{key: getattr(usual, key) for key in (*free, "preload")})
    return said, signature(backend.ca_file) if backend.ca_file else None


def _kind(backend: settings.Backend) -> Kind:
    assert backend.kind != "ollama"
    if backend.kind == "tgi":
        return Tgi()
    if backend.kind == "custom":
        return _plugin(backend)
    traits = KINDS[backend.kind]
    if backend.health is not None:
        traits = replace(traits, health=backend.health)
    return OpenAIKind(traits, backend.model or "")


def _plugin(backend: settings.Backend) -> Kind:
    # they take some 20 ms, and few need them
    from hermes.custom import found
    from hermes.custom.guard import Guarded

    try:
        return Guarded(found.made(backend.plugin or ""), backend.name)
    except ConfigError as error:
        raise ConfigError(f"backends.{backend.name}.plugin: {error}") from error


def _called(backend: settings.Backend, config: settings.Config) -> str:
    """A process's model: with a tag, as Ollama's have one, where there is an Ollama that may have it too."""
    assert backend.model is not None
    return full_name(backend.model) if any(each.kind == "ollama" for each in config.backends) else backend.model


def _command(backend: settings.Backend, model: str, deadlines: Deadlines, loop: asyncio.AbstractEventLoop) -> Command:
    assert backend.command is not None
    words = shlex.split(backend.command)
    return Command(
        model,
        tuple(words),
        backend.env,
        lambda port: driver(_at(backend, port), deadlines, loop),
        memory.of_files(commands.files(words)),
        backend.slots,
        backend.start_timeout_s,
        backend.idle_ttl,
        identity(backend),
    )


def _at(backend: settings.Backend, port: int) -> settings.Backend:
    return replace(backend, url=backend.url.replace(PORT, str(port)))


def check(backend: settings.Backend) -> None:
    """Its authority, its program and its class can be used, as far as can be seen without. Raises ConfigError."""
    origin(_at(backend, 1) if backend.command else backend)
    if backend.command is not None:
        from shutil import which  # 0.4 MiB

        program, path = shlex.split(backend.command)[0], backend.env.get("PATH")
        if which(program, path=path.reveal() if path else None) is None:
            raise ConfigError(f"backends.{backend.name}.command: there is no program {program!r} here")
    if backend.plugin is not None:
        _plugin(backend)
