"""From settings to values: what a Config comes to in each of the rooms that `runtime` puts together."""

import contextlib
import os
import resource
import ssl
from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import Any

from msgspec.structs import asdict, replace

from hermes import config as settings
from hermes import drivers
from hermes.auth import Authenticator
from hermes.chat import Sampling
from hermes.errors import ConfigError
from hermes.http.limits import Limits
from hermes.policy.load_options import Pins
from hermes.policy.pulse import Patience
from hermes.policy.retry import RetryPolicy
from hermes.policy.routing import Catalog, Service
from hermes.policy.ticket import Bounds, ClassRules, ModelBounds, Rules
from hermes.principal import ANONYMOUS, CLASS_NAMES, Class, Principal

# Of an answer, before any was seen: the mean of the conversations in the Azure LLM inference trace of 2023.
USUAL_OUTPUT_TOKENS = 211
# Files besides the clients' connections: backends, logs, the loop's own.
RESERVED_FILES = 64


# --- who is let in ----------------------------------------------------------------------------------------------------


def limits(server: settings.Server) -> Limits:
    return Limits(
        body_bytes=server.max_body_bytes,
        header_timeout_s=server.header_timeout_s,
        body_min_bytes_per_s=server.body_min_bytes_per_s,
        keep_alive_s=server.keep_alive_s,
        write_timeout_s=server.write_timeout_s,
        connections=server.max_connections or _connections_allowed(),
    )


def _connections_allowed() -> int:
    """From the limit on open files, raised as far as we may: each client may need a backend connection as well."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, 65536) if hard != resource.RLIM_INFINITY else 65536
    if soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return max(16, (soft - RESERVED_FILES) // 2)


def stay_on(cpus: tuple[int, ...]) -> None:
    """Keep the process on these processors; on any, if none is named. Raises ConfigError for one there is not."""
    if not cpus:
        return
    try:
        os.sched_setaffinity(0, cpus)
    except (OSError, AttributeError) as error:
        allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else "none"
        raise ConfigError(f"server.cpu_affinity: cannot run on {list(cpus)}; allowed here: {allowed}") from error


def tls(server: settings.Server) -> ssl.SSLContext | None:
    """What makes it https. Raises ConfigError for a certificate that cannot be used."""
    if server.tls is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(server.tls.cert_file, server.tls.key_file)
    except (OSError, ssl.SSLError) as error:
        why = "no private key in it; set server.tls.key_file" if _lacks_key(server.tls) else error
        raise ConfigError(f"server.tls: cannot use the certificate {server.tls.cert_file}: {why}") from error
    return context


def _lacks_key(tls: settings.Tls) -> bool:
    try:
        return tls.key_file is None and b"PRIVATE KEY-----" not in Path(tls.cert_file).read_bytes()
    except OSError:
        return False


def authenticator(config: settings.Config) -> Authenticator:
    anonymous = replace(ANONYMOUS, usual=urgency(config.scheduling.usual_class))
    return Authenticator(((bytes.fromhex(key.sha256), _principal(key, config)) for key in config.keys), anonymous)


def _principal(key: settings.Key, config: settings.Config) -> Principal:
    ceiling = urgency(key.max_class or "interactive")
    usual = urgency(key.usual_class or config.scheduling.usual_class)
    return Principal(key.key_id, key.user, key.admin, ceiling, max(usual, ceiling), key.weight, key.max_running)


def urgency(name: str) -> Class:
    return Class(CLASS_NAMES.index(name))


# --- what is served, and by whom --------------------------------------------------------------------------------------


def bounds(config: settings.Config) -> Bounds:
    limits = config.limits
    return Bounds(
        limits.max_concurrent,
        limits.queue_total,
        limits.queue_bytes,
        limits.per_tenant_queue,
        limits.queue_bytes,
    )


def retries(limits: settings.Limits) -> RetryPolicy:
    return RetryPolicy(limits.max_attempts, limits.retry_ratio)


def rules(scheduling: settings.Scheduling) -> Rules:
    """What cannot be set is as docs/scheduling.md has it. A model that is slow to load has the time to be loaded."""
    interactive, normal, batch = (
        ClassRules(each.weight, each.max_wait_s or inf)
        for each in (scheduling.interactive, scheduling.normal, scheduling.batch)
    )
    return Rules((interactive, normal, batch), floor=scheduling.model_floor, load_waits=2.0)


def patience(health: settings.Health) -> Patience:
    return Patience(health.silence_s, health.probe_timeout_s, health.pause_s)


def unlisted_bounds(defaults: settings.Defaults) -> ModelBounds:
    return ModelBounds(defaults.max_concurrency, defaults.queue_limit)


def model_bounds(model: settings.Model, config: settings.Config) -> ModelBounds:
    return ModelBounds(
        model.max_concurrency,
        model.queue_limit,
        model.pinned,
        model.load_time_s,
        USUAL_OUTPUT_TOKENS / model.decode_tps if model.decode_tps else None,
        _size_bytes(model, config),
        model.backend_model or "",
        model.adaptive_concurrency,
    )


# Of a backend's memory.
_PARTS = {"low": 1 / 8, "medium": 1 / 4, "high": 1 / 2}


def _size_bytes(model: settings.Model, config: settings.Config) -> int | None:
    """What a model is said to take; None: nothing that could be counted."""
    if not isinstance(model.memory_cost, str):
        return model.memory_cost
    allowed = [backend for backend in config.backends if not model.backends or backend.name in model.backends]
    memory = max((backend.memory or 0 for backend in allowed), default=0)
    return int(memory * _PARTS[model.memory_cost]) or None


def catalog(config: settings.Config) -> Catalog:
    usual_s = config.defaults.timeout_s
    listed = {name: _service(name, model, usual_s) for name, model in config.models.items()}
    unlisted = config.model("") if config.serve_unlisted else None
    # A name that nobody has listed never makes anybody download anything.
    return Catalog(listed, replace(_service("", unlisted, usual_s), pulled=False) if unlisted else None)


def _service(name: str, model: settings.Model, usual_timeout_s: float) -> Service:
    params = model.params
    return Service(
        model=name,
        backend_model=model.backend_model or name,
        backends=model.backends,
        timeout_s=model.timeout_s or usual_timeout_s,
        awaits_load=model.timeout_s is None,
        stall_timeout_s=model.stall_timeout_s,
        max_stream_s=model.max_stream_s,
        sampling=Sampling(**{field: getattr(params, field) for field in params.__struct_fields__}),
        max_output_tokens=model.max_output_tokens,
        highest=urgency(model.max_class or "interactive"),
        pulled=model.pull == "on_demand",
        fallback=model.fallback,
        reuse="forced" if model.cache == "forced" else "on" if model.cache is True else "off",
    )


def caches(config: settings.Config) -> bool:
    """Whether any model's answers may be given again."""
    models = (*config.models.values(), config.model("")) if config.serve_unlisted else config.models.values()
    return any(model is not None and model.cache not in (False, "off") for model in models)


def pins(config: settings.Config, backend: settings.Backend) -> dict[str, Pins]:
    """What its models are loaded with, by its own names for them."""
    return {
        model.backend_model or name: _pins(model)
        for name, model in config.models.items()
        if not model.backends or backend.name in model.backends
    }


def unlisted_pins(config: settings.Config) -> Pins:
    return _pins(settings.with_defaults(settings.Model(), config.defaults, said=frozenset()))


def _pins(model: settings.Model) -> Pins:
    return Pins(_said(model.options), model.keep_alive, model.options_policy, model.max_num_ctx)


def _said(options: settings.LoadOptions) -> dict[str, Any]:
    return {name: value for name, value in asdict(options).items() if value is not None}


def state_dir(server: settings.Server, environ: Mapping[str, str]) -> Path | None:
    """Where what was learned is kept, by the XDG base directory specification; None: nowhere."""
    if server.state_dir is not None:
        return None if server.state_dir == "off" else Path(server.state_dir)
    if (base := Path(environ.get("XDG_STATE_HOME", ""))).is_absolute():
        return base / "hermes"
    home = environ.get("HOME")
    return Path(home) / ".local/state/hermes" if home else None


def groups(config: settings.Config) -> list[list[settings.Backend]]:
    """Commands of one name are one backend, with one memory; all others are each their own."""
    named: dict[str, list[settings.Backend]] = {}
    for backend in config.backends:
        named.setdefault(backend.name, []).append(backend)
    return list(named.values())


def preloaded(config: settings.Config) -> list[tuple[str, str]]:
    """Backend and model of each process that is started with us."""
    return [(backend.name, drivers.called(backend, config)) for backend in config.backends if backend.preload]


# --- before anything is started ---------------------------------------------------------------------------------------


def check_files(config: settings.Config) -> None:
    """The certificate, the authorities, plugins and the log, with nothing changed. Raises ConfigError for the first."""
    tls(config.server)
    for backend in config.backends:
        drivers.check(backend)
    target = config.logging.access_log
    if target not in ("stderr", "off"):
        path = Path(target)
        if not os.access(path if os.access(path, os.F_OK) else path.parent, os.W_OK) or path.is_dir():
            raise ConfigError(f"logging.access_log: cannot write {target}")
