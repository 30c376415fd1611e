"""From settings to values: what a Config comes to in each of the rooms that `runtime` puts together."""

import asyncio
import contextlib
import os
import resource
import ssl
import time
from collections.abc import Collection, Iterable, Mapping
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import asdict, replace

from hermes import config as settings
from hermes import drivers
from hermes.chat import Sampling
from hermes.config.rules import is_loopback
from hermes.errors import ConfigError
from hermes.fleet.backend import Backend
from hermes.fleet.managed import Managed
from hermes.http.limits import Limits
from hermes.http.wire import Deadlines
from hermes.keyring import Made
from hermes.metrics import Metrics
from hermes.oidc import source
from hermes.policy.limiter import Modes
from hermes.policy.load_options import Pins
from hermes.policy.pulse import Patience
from hermes.policy.retry import RetryPolicy
from hermes.policy.routing import Catalog, Service
from hermes.policy.ticket import Bounds, ClassRules, ModelBounds, Rules, Settings
from hermes.principal import ANONYMOUS, CLASS_NAMES, UNBOUNDED, Allowance, Class, Principal
from hermes.storage import pepper
from hermes.storage.keys import Fields as StoredFields
from hermes.storage.keys import Key as StoredKey

if TYPE_CHECKING:
    from hermes.oidc.issuers import Issuers

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


def anonymous(config: settings.Config) -> Principal:
    """Who asks without a key, where there are none."""
    return replace(ANONYMOUS, usual=urgency(config.scheduling.usual_class))


def static_keys(config: settings.Config) -> dict[bytes, Principal]:
    """Who has which key of the configuration, by its digest."""
    return {bytes.fromhex(key.sha256): _principal(key, config) for key in config.keys}


def _principal(key: settings.Key, config: settings.Config) -> Principal:
    ceiling, usual = _classes(key, config)
    return Principal(
        key.key_id,
        key.user,
        key.admin,
        ceiling,
        usual,
        key.weight,
        key.models,
        allowance(key),
        tuple((pattern, allowance(own)) for pattern, own in key.per_model.items()),
        metrics=key.metrics,
        expires_at=key.expires,
    )


def _classes(key: settings.Key | StoredFields, config: settings.Config) -> tuple[Class, Class]:
    ceiling = urgency(key.max_class or "interactive")
    return ceiling, max(ceiling, urgency(key.usual_class or config.scheduling.usual_class))


def stored(config: settings.Config) -> Made:
    """To whom a stored key comes; `until`: the end of the secret, beside the key's own."""

    def principal(key: StoredKey, until: int | None) -> Principal:
        said = key.fields
        ceiling, usual = _classes(said, config)
        return Principal(
            key.id,
            said.user,
            said.admin,
            ceiling,
            usual,
            said.weight,
            models=said.models,
            allowance=allowance(said),
            metrics=said.metrics,
            expires_at=min((end for end in (said.expires_at, until) if end is not None), default=None),
        )

    return principal


def issuers(
    config: settings.Config, deadlines: Deadlines, loop: asyncio.AbstractEventLoop, metrics: Metrics
) -> "Issuers | None":
    """Whose tokens are taken, with how their keys are fetched. Raises ConfigError as `check_issuer` does."""
    if not config.jwt:
        return None
    for each in config.jwt:
        check_issuer(each)
    from hermes.oidc.issuers import Issuers, Known
    from hermes.oidc.keys import KeySet

    def key_set(issuer: settings.Issuer) -> KeySet:
        def count(result: str) -> None:
            metrics.key_fetches.add((issuer.name, result))

        if issuer.jwks_url is not None:
            fetch = source.from_url(issuer.jwks_url, issuer.ca_file, deadlines, loop)
        else:
            fetch = source.from_file(issuer.jwks_file or "")
        return KeySet(issuer.name, fetch, issuer.algorithms, count)

    known = [Known(issuer, key_set(issuer)) for issuer in config.jwt]
    return Issuers(known, config.scheduling.usual_class, time.time)  # noqa: TID251 - when tokens end


def check_issuer(issuer: settings.Issuer) -> None:
    """The extra is installed, the authority can be used, the file has keys. Raises ConfigError."""
    where = f"jwt.{issuer.name}"
    try:
        from hermes.oidc.keys import read_set
    except ImportError:
        raise ConfigError(
            "jwt: tokens need more than is installed: pip install 'PyJWT[crypto]' (docs/jwt.md)"
        ) from None
    try:
        if issuer.jwks_url is not None:
            source.origin(issuer.jwks_url, issuer.ca_file)
        else:
            read_set(source.read(issuer.jwks_file or ""), issuer.algorithms)
    except (ValueError, OSError) as error:
        raise ConfigError(f"{where}: {error}") from error


def allowance(said: Struct) -> Allowance:
    """Of a key, a model, or a key with a model. A model's runs are bounded by its `max_concurrency`."""
    found = Allowance(**{name: getattr(said, name, None) for name in Allowance.__struct_fields__})
    return UNBOUNDED if found == UNBOUNDED else found


def modes(limits: settings.Limits) -> Modes:
    return Modes(**asdict(limits.modes))


def has_budgets(config: settings.Config) -> bool:
    """Whether the database is needed from the first request on."""
    said = [allowance(each) for each in (*config.keys, *config.models.values())]
    said += [allowance(each) for key in config.keys for each in key.per_model.values()]
    return any(each.daily_tokens or each.monthly_tokens for each in said)


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
        highest=urgency(model.max_class or "interactive"),
        pulled=model.pull == "on_demand",
        fallback=model.fallback,
        allowance=allowance(model),
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


def shows_dashboard_to_clients(config: settings.Config) -> bool:
    """Only where nobody but this machine can come, and there is no place of the operators' own for it."""
    server, admin = config.server, config.admin
    return admin.dashboard and admin.port is None and (server.unix_socket is not None or is_loopback(server.host))


def is_simulated(config: settings.Config) -> bool:
    """Of simulated models nothing is kept."""
    return any(backend.simulated for backend in config.backends)


def groups(config: settings.Config) -> list[list[settings.Backend]]:
    """Commands of one name are one backend, with one memory; all others are each their own."""
    named: dict[str, list[settings.Backend]] = {}
    for backend in config.backends:
        named.setdefault(backend.name, []).append(backend)
    return list(named.values())


def backend(
    group: list[settings.Backend],
    config: settings.Config,
    deadlines: Deadlines,
    loop: asyncio.AbstractEventLoop,
    hop: bytes,
    cpus: Collection[int],
) -> Backend:
    """What is asked by this name. `cpus`: those that processes may run on. Raises ConfigError as `drivers` does."""
    first = group[0]
    if first.command is not None:
        return _managed(group, drivers.managed(group, config, deadlines, loop, cpus))
    return Backend(
        first.name,
        first.kind,
        first.url,
        drivers.driver(first, deadlines, loop, pins(config, first), unlisted_pins(config), hop),
        first.slots,
        first.probe_interval_s,
        first.simulated,
        first.memory,
        first.max_loaded,
        first.weight,
        drivers.identity(first),
    )


def _managed(group: list[settings.Backend], driver: Managed) -> Backend:
    """Processes of ours, on one memory."""
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
    return [(backend.name, drivers.called(backend, config)) for backend in config.backends if backend.preload]


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
        check_issuer(issuer)
    for backend in config.backends:
        drivers.check(backend)
    target = config.logging.access_log
    if target not in ("stderr", "off"):
        path = Path(target)
        if not os.access(path if os.access(path, os.F_OK) else path.parent, os.W_OK) or path.is_dir():
            raise ConfigError(f"logging.access_log: cannot write {target}")
