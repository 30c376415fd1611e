"""The composition root: a Config becomes a running gateway; start, drain, stop, in order."""

import asyncio
import contextlib
import logging
import os
import resource
import signal
import ssl

from hermes import config as settings
from hermes.access_log import AccessLog
from hermes.admission import Admission
from hermes.api.app import Api
from hermes.api.door import Door
from hermes.api.inference import Inference
from hermes.api.models import Models
from hermes.api.ops import Ops
from hermes.api.routes import RouteTable
from hermes.api.table import routes
from hermes.auth import Authenticator
from hermes.chat import Sampling
from hermes.dialects.openai import OpenAI
from hermes.dialects.prompt import Prompt
from hermes.errors import ConfigError
from hermes.exchange import Journal
from hermes.fleet.fleet import Backend, Fleet
from hermes.fleet.ollama import Ollama
from hermes.gateway import Gateway
from hermes.http.client import Pool, PoolLimits
from hermes.http.connection import Limits
from hermes.http.origin import Origin
from hermes.http.server import Server
from hermes.http.wire import Deadlines, render_headers
from hermes.metrics import Metrics
from hermes.policy.retry import RetryBudget, RetryPolicy
from hermes.policy.routing import Catalog, Service
from hermes.policy.scheduler import Bounds, ModelBounds, Scheduler
from hermes.principal import Principal

log = logging.getLogger(__name__)

# Files besides the clients' connections: backends, logs, the loop's own.
RESERVED_FILES = 64
# How long cut connections may take to be gone.
CUT_S = 1.0


class Runtime:
    """One gateway on the running event loop."""

    def __init__(self, config: settings.Config, loop: asyncio.AbstractEventLoop) -> None:
        self.config = config
        self._loop = loop
        self.metrics = Metrics()
        self.journal = Journal(self.metrics)
        self._deadlines = Deadlines(loop)
        self.bounds = _bounds(config)
        self.scheduler = Scheduler(self.bounds, _model_bounds(config.defaults))
        for name, model in config.models.items():
            self.scheduler.configure(name, _model_bounds(model))
        self.admission = Admission(self.scheduler, loop)
        self.fleet = Fleet([self._backend(backend) for backend in config.backends], self._on_backend)
        self.catalog = _catalog(config)
        self.api = self._api()
        self.server = Server(self.api, _limits(config.server), self._deadlines, loop)
        self._access_log: AccessLog | None = None
        self._watching: asyncio.Task[None] | None = None
        self.address = ""
        self._observe()

    # --- composing --------------------------------------------------------------------------------------------------

    def _backend(self, backend: settings.Backend) -> Backend:
        try:
            origin = Origin.parse(backend.url, backend.ca_file)
        except (ValueError, OSError) as error:
            raise ConfigError(f"backends.{backend.name}: {error}") from error
        headers = b""
        if backend.api_key is not None:
            headers = render_headers(((b"authorization", b"Bearer " + backend.api_key.reveal().encode("latin-1")),))
        limits = PoolLimits(connect_timeout_s=backend.connect_timeout_s)
        pool = Pool(origin, limits, self._deadlines, self._loop, headers)
        return Backend(
            backend.name,
            backend.kind,
            backend.url,
            Ollama(pool),
            backend.slots,
            backend.probe_interval_s,
            backend.simulated,
        )

    def _on_backend(self, backend: Backend) -> None:
        self.admission.observe(backend.facts)

    def _api(self) -> Api:
        config, openai = self.config, OpenAI()
        retries = RetryBudget(RetryPolicy(config.limits.max_attempts, config.limits.retry_ratio))
        gateway = Gateway(self.catalog, self.fleet, self.admission, retries, self.metrics)
        ops = Ops(
            self.fleet,
            self.admission,
            self.catalog,
            self.metrics,
            self.bounds,
            clock=self._loop.time,
            draining=lambda: self.api.draining,
            connections=lambda: self.server.open_connections,
        )
        prompt = Prompt()
        models = Models(self.catalog, self.fleet, openai)
        table = RouteTable(routes(Inference(gateway, openai, prompt), models, ops, openai, prompt))
        door = Door(config.server.allowed_hosts, config.server.allowed_origins, instance=os.urandom(8).hex())
        return Api(table, door, _authenticator(config), self.journal, self.metrics, openai, self._loop.time)

    def _observe(self) -> None:
        """The gauges: what is, rather than what has happened."""
        gauge, scheduler = self.metrics.gauge, self.scheduler
        names = scheduler.models
        gauge("hermes_requests_active", "Requests that hold a slot.", ("model",), lambda: {
            (name,): float(scheduler.load(name).running) for name in names()
        })  # fmt: skip
        gauge("hermes_requests_queued", "Requests that wait for a slot.", ("model",), lambda: {
            (name,): float(scheduler.load(name).waiting) for name in names()
        })  # fmt: skip
        gauge("hermes_queued_bytes", "Bytes of request bodies that wait.", (), lambda: {
            (): float(scheduler.waiting_bytes)
        })  # fmt: skip
        gauge("hermes_requests_in_flight", "Requests taken in and not ended.", (), lambda: {
            (): float(self.journal.open)
        })  # fmt: skip
        gauge("hermes_client_connections", "Open client connections.", (), lambda: {
            (): float(self.server.open_connections)
        })  # fmt: skip
        gauge("hermes_backend_up", "1 while the backend answers.", ("backend",), lambda: {
            (name,): float(backend.state == "up") for name, backend in self.fleet.backends.items()
        })  # fmt: skip
        gauge("hermes_model_loaded_bytes", "Memory of the models a backend has loaded.", ("backend", "model"), lambda: {
            (name, model.name): float(model.size_bytes)
            for name, backend in self.fleet.backends.items() for model in backend.inventory.loaded
        })  # fmt: skip

    # --- running ----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen and begin to watch the backends. Raises ConfigError (address in use, unreadable certificate)."""
        server = self.config.server
        self._open_access_log()
        self._watching = self._loop.create_task(self.fleet.run(), name="fleet")
        try:
            if server.unix_socket:
                await self.server.listen_unix(server.unix_socket)
                self.address = f"unix:{server.unix_socket}"
            else:
                port = await self.server.listen(server.host, server.port, _tls(server.tls))
                shown = f"[{server.host}]" if ":" in server.host else server.host
                self.address = f"{'https' if server.tls else 'http'}://{shown}:{port}"
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {server.unix_socket or f'{server.host}:{server.port}'}: {error}"
            ) from error

    async def run(self, stop: asyncio.Event, now: asyncio.Event) -> bool:
        """Serve until `stop`, then drain; `now` ends the draining. True if no request was cut (invariant I33)."""
        await stop.wait()
        return await self.drain(now)

    async def drain(self, now: asyncio.Event) -> bool:
        """Readiness fails, the queue is sent away, running requests finish until the deadline or `now`."""
        self.api.draining = True
        self.admission.close()
        patience_s = self.config.server.drain_timeout_s
        deadline = self._loop.call_later(patience_s, now.set)
        hurry = self._loop.create_task(now.wait(), name="hurry")
        hurry.add_done_callback(lambda task: None if task.cancelled() else self._cut())
        try:
            return await self.server.drain(patience_s + CUT_S) and not now.is_set()
        finally:
            deadline.cancel()
            hurry.cancel()

    def _cut(self) -> None:
        self.api.cutting = True
        self.server.abort()

    async def stop(self) -> None:
        """Let go of everything."""
        self.api.cutting = True
        await self.server.drain(0)
        if self._watching is not None:
            self._watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watching
        if self._access_log is not None:
            self._access_log.close()

    def _open_access_log(self) -> None:
        target = self.config.logging.access_log
        if target == "off":
            return
        try:
            fd = 2 if target == "stderr" else os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        except OSError as error:
            raise ConfigError(f"logging.access_log: cannot write {target}: {error}") from error
        self._access_log = AccessLog(fd, self._loop, self.metrics)
        self.journal.sinks.append(self._access_log)


def on_signals(loop: asyncio.AbstractEventLoop, stop: asyncio.Event, now: asyncio.Event) -> None:
    """The first SIGTERM or SIGINT sets `stop`, the second `now`."""

    def received(name: str) -> None:
        log.info("%s: %s", name, "stopping now" if stop.is_set() else "draining; a second signal stops at once")
        (now if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, received, number.name)


# --- from settings to values ------------------------------------------------------------------------------------------


def _bounds(config: settings.Config) -> Bounds:
    limits = config.limits
    return Bounds(
        limits.max_concurrent,
        limits.queue_total,
        limits.queue_bytes,
        limits.per_tenant_queue,
        limits.queue_bytes,
    )


def _model_bounds(model: settings.Model | settings.Defaults) -> ModelBounds:
    return ModelBounds(model.max_concurrency, model.queue_limit)


def _catalog(config: settings.Config) -> Catalog:
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


def _limits(server: settings.Server) -> Limits:
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


def _authenticator(config: settings.Config) -> Authenticator:
    return Authenticator((bytes.fromhex(key.sha256), Principal(key.key_id, key.user, key.admin)) for key in config.keys)


def _tls(tls: settings.Tls | None) -> ssl.SSLContext | None:
    if tls is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(tls.cert_file, tls.key_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"server.tls: cannot use the certificate {tls.cert_file}: {error}") from error
    return context
