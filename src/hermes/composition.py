"""From settings to values: what a Config comes to in each of the rooms that `runtime` puts together."""

import contextlib
import os
import resource
import ssl
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from msgspec.structs import asdict, replace

from hermes import config as settings
from hermes import drivers, grants
from hermes.chat import Sampling
from hermes.config.rules import is_loopback
from hermes.errors import ConfigError
from hermes.fleet.fleet import Fleet
from hermes.http.limits import Limits
from hermes.metrics import Metrics
from hermes.policy.limiter import USUAL_OUTPUT_TOKENS, Modes
from hermes.policy.pulse import Patience
from hermes.policy.retry import RetryPolicy
from hermes.policy.routing import Catalog, Service
from hermes.policy.ticket import Bounds, ClassRules, ModelBounds, Rules, Settings
from hermes.storage import pepper

if TYPE_CHECKING:
    from hermes.tracing import Tracing

# Files besides the clients' connections: backends, logs, the loop's own.
RESERVED_FILES = 64


# --- the door ---------------------------------------------------------------------------------------------------------


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


# --- what is told of requests -----------------------------------------------------------------------------------------


def tracing(config: settings.Config, instance: str, metrics: Metrics, fleet: Fleet) -> "Tracing | None":
    """What makes spans of requests; None: nobody wants any. Raises ConfigError as `check_tracing` does."""
    said = config.tracing
    if said.otlp_endpoint is None:
        return None
    check_tracing(said)
    from hermes.tracing import Terms, Tracing
    from hermes.tracing.export import Exporter

    def kind_of(backend: str) -> str:
        return fleet.backends[backend].kind if backend in fleet.backends else ""

    def captures(user: str) -> bool:
        return said.capture_content and (not said.capture_users or user in said.capture_users)

    parts = urlsplit(said.otlp_endpoint)
    url = said.otlp_endpoint if parts.path.strip("/") else f"{parts.scheme}://{parts.netloc}/v1/traces"
    exporter = Exporter(url, said.service_name, instance, metrics)
    scheme = "http" if config.server.tls is None else "https"
    return Tracing(Terms(exporter, kind_of, captures, scheme), said.sample_ratio, exporter.close)


def check_tracing(said: settings.Tracing) -> None:
    """The extra is installed, if it is needed. Raises ConfigError."""
    names = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http")
    try:
        if said.otlp_endpoint is not None and not all(map(find_spec, names)):
            raise ImportError
    except ImportError:
        raise ConfigError(
            "tracing: spans need more than is installed: pip install opentelemetry-sdk"
            " opentelemetry-exporter-otlp-proto-http (docs/tracing.md)"
        ) from None


# --- what is served ---------------------------------------------------------------------------------------------------


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


def modes(limits: settings.Limits) -> Modes:
    return Modes(**asdict(limits.modes))


def has_budgets(config: settings.Config) -> bool:
    """Whether the database is needed from the first request on."""
    said = [grants.allowance(each) for each in (*config.keys, *config.models.values())]
    said += [grants.allowance(each) for key in config.keys for each in key.per_model.values()]
    return any(each.daily_tokens or each.monthly_tokens for each in said)


def rules(scheduling: settings.Scheduling) -> Rules:
    """What cannot be set is as docs/scheduling.md has it. A model that is slow to load has the time to be loaded."""
    interactive, normal, batch = (
        ClassRules(each.weight, each.max_wait_s or inf)
        for each in (scheduling.interactive, scheduling.normal, scheduling.batch)
    )
    return Rules((interactive, normal, batch), floor=scheduling.model_floor, load_waits=2.0)


def patience(health: settings.Health) -> Patience:
    return Patience(health.silence_s, health.probe_timeout_s, health.pause_s)


def scheduled(config: settings.Config) -> Settings:
    """What the scheduler is told."""
    models = {name: model_bounds(model, config) for name, model in config.models.items()}
    return Settings(bounds(config), unlisted_bounds(config.defaults), rules(config.scheduling), models)


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
        highest=grants.urgency(model.max_class or "interactive"),
        pulled=model.pull == "on_demand",
        fallback=model.fallback,
        allowance=grants.allowance(model),
        reuse="forced" if model.cache == "forced" else "on" if model.cache is True else "off",
    )


def alone(config: settings.Config) -> frozenset[str] | None:
    """Names of models whose answers are never given again; None: no model's are."""
    listed = frozenset(name for name, model in config.models.items() if model.cache in (False, "off"))
    unlisted = config.model("") if config.serve_unlisted else None
    if len(listed) == len(config.models) and (unlisted is None or unlisted.cache in (False, "off")):
        return None
    return listed


# --- where we are -----------------------------------------------------------------------------------------------------


def state_dir(server: settings.Server, environ: Mapping[str, str]) -> Path | None:
    """Where what is to outlive us is kept, by the XDG base directory specification; None: nowhere."""
    if server.state_dir is not None:
        return None if server.state_dir == "off" else Path(server.state_dir)
    if (base := Path(environ.get("XDG_STATE_HOME", ""))).is_absolute():
        return base / "hermes"
    home = environ.get("HOME")
    return Path(home) / ".local/state/hermes" if home else None


ADMIN_SOCKET = "admin.sock"


def admin_socket(config: settings.Config, environ: Mapping[str, str]) -> Path | None:
    """Where operators on this machine reach us; None: they do not."""
    if config.admin.unix_socket is not None:
        return None if config.admin.unix_socket == "off" else Path(config.admin.unix_socket)
    folder = state_dir(config.server, environ)
    return None if folder is None else folder / ADMIN_SOCKET


def stay_on(cpus: tuple[int, ...]) -> None:
    """Keep the process on these processors; on any, if none is named. Raises ConfigError for one there is not."""
    if not cpus:
        return
    try:
        os.sched_setaffinity(0, cpus)
    except (OSError, AttributeError) as error:
        allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else "none"
        raise ConfigError(f"server.cpu_affinity: cannot run on {list(cpus)}; allowed here: {allowed}") from error


def shows_dashboard_to_clients(config: settings.Config) -> bool:
    """Only where nobody but this machine can come, and there is no place of the operators' own for it."""
    server, admin = config.server, config.admin
    return admin.dashboard and admin.port is None and (server.unix_socket is not None or is_loopback(server.host))


def is_simulated(config: settings.Config) -> bool:
    """Of simulated models nothing is kept."""
    return any(backend.simulated for backend in config.backends)


def watched(config: settings.Config) -> Iterable[str]:
    """Files besides the configuration's that are renewed while we run."""
    tls = config.server.tls
    named = (tls.cert_file, tls.key_file) if tls is not None else ()
    return filter(None, (*named, *(backend.ca_file for backend in config.backends)))


# --- before anything is started ---------------------------------------------------------------------------------------


def may_have_keys(config: settings.Config, environ: Mapping[str, str]) -> bool:
    """Whether keys were ever stored, as far as can be told without opening the file that they are in."""
    folder = state_dir(config.server, environ)
    return folder is not None and (folder / pepper.NAME).exists()


def check_files(config: settings.Config) -> None:
    """The certificate, the authorities, plugins and the log, with nothing changed. Raises ConfigError for the first."""
    tls(config.server)
    for issuer in config.jwt:
        grants.check_issuer(issuer)
    check_tracing(config.tracing)
    for backend in config.backends:
        drivers.check(backend)
    target = config.logging.access_log
    if target not in ("stderr", "off"):
        path = Path(target)
        if not os.access(path if os.access(path, os.F_OK) else path.parent, os.W_OK) or path.is_dir():
            raise ConfigError(f"logging.access_log: cannot write {target}")
