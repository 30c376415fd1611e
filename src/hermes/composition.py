"""From settings to values: what a Config comes to in each of the rooms that `runtime` puts together."""

import asyncio
import contextlib
import os
import resource
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec.structs import asdict

from hermes import config as settings
from hermes.auth import Authenticator
from hermes.chat import Sampling
from hermes.errors import ConfigError
from hermes.fleet.ollama import NO_PINS, Ollama, Pins
from hermes.http.client import PoolLimits
from hermes.http.limits import Limits
from hermes.http.origin import Origin
from hermes.http.pool import Pool
from hermes.http.wire import Deadlines, render_headers
from hermes.policy.retry import RetryPolicy
from hermes.policy.routing import Catalog, Service
from hermes.policy.scheduler import Bounds, ModelBounds
from hermes.principal import Principal

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
    return Authenticator((bytes.fromhex(key.sha256), Principal(key.key_id, key.user, key.admin)) for key in config.keys)


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


def model_bounds(model: settings.Model | settings.Defaults) -> ModelBounds:
    return ModelBounds(model.max_concurrency, model.queue_limit)


def catalog(config: settings.Config) -> Catalog:
    listed = {name: _service(name, model) for name, model in config.models.items()}
    unlisted = config.model("") if config.serve_unlisted else None
    return Catalog(listed, _service("", unlisted) if unlisted else None)


def _service(name: str, model: settings.Model) -> Service:
    params = model.params
    return Service(
        model=name,
        backend_model=model.backend_model or name,
        backends=model.backends,
        timeout_s=model.timeout_s,
        stall_timeout_s=model.stall_timeout_s,
        max_stream_s=model.max_stream_s,
        sampling=Sampling(**{field: getattr(params, field) for field in params.__struct_fields__}),
        max_output_tokens=model.max_output_tokens,
    )


def pins(config: settings.Config, backend: settings.Backend) -> dict[str, Pins]:
    """What its models are loaded with, by its own names for them."""
    return {
        model.backend_model or name: Pins(_said(model.options), model.keep_alive)
        for name, model in config.models.items()
        if not model.backends or backend.name in model.backends
    }


def _said(options: settings.LoadOptions) -> dict[str, Any]:
    return {name: value for name, value in asdict(options).items() if value is not None}


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
) -> Ollama:
    """What speaks to a backend, with its key. Raises ConfigError as `origin` does."""
    headers = b""
    if backend.api_key is not None:
        headers = render_headers(((b"authorization", b"Bearer " + backend.api_key.reveal().encode("latin-1")),))
    pool = Pool(origin(backend), PoolLimits(connect_timeout_s=backend.connect_timeout_s), deadlines, loop, headers)
    return Ollama(pool, pins)


# --- before anything is started ---------------------------------------------------------------------------------------


def check_files(config: settings.Config) -> None:
    """The certificate, the authorities and the log, with nothing made or changed. Raises ConfigError for the first."""
    tls(config.server)
    for backend in config.backends:
        origin(backend)
    target = config.logging.access_log
    if target not in ("stderr", "off"):
        path = Path(target)
        if not os.access(path if os.access(path, os.F_OK) else path.parent, os.W_OK) or path.is_dir():
            raise ConfigError(f"logging.access_log: cannot write {target}")
