"""All that a configuration comes to, made before any of it is in force: what a reload puts in the place of the last."""

import asyncio
import ssl
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from hermes import composition, drivers, grants
from hermes import config as settings
from hermes.fleet.backend import Backend
from hermes.http.limits import Limits
from hermes.http.wire import Deadlines
from hermes.keyring import Made
from hermes.metrics import Metrics
from hermes.policy.limiter import Modes
from hermes.policy.pulse import Patience
from hermes.policy.retry import RetryPolicy
from hermes.policy.routing import Catalog
from hermes.policy.ticket import Settings
from hermes.principal import Principal

if TYPE_CHECKING:
    from hermes.oidc.issuers import Issuers

# Of `server`, what cannot change while it runs; nor can whether it speaks TLS.
FIXED = ("host", "port", "unix_socket", "state_dir", "cpu_affinity")
# And all of this.
SECTIONS = ("admin",)


class Snapshot(Struct, frozen=True):
    """`static_keys` and `stored_keys` are for the Keyring. `needs_restart`: what is said in vain, and is in `config` as
    it was before.
    """

    config: settings.Config
    needs_restart: tuple[str, ...]
    static_keys: dict[bytes, Principal]
    stored_keys: Made
    anonymous: Principal
    issuers: "Issuers | None"
    limits: Limits
    tls: ssl.SSLContext | None
    scheduled: Settings
    modes: Modes
    retries: RetryPolicy
    patience: Patience
    catalog: Catalog
    backends: tuple[Backend, ...]


def snapshot(
    config: settings.Config,
    before: settings.Config,
    deadlines: Deadlines,
    loop: asyncio.AbstractEventLoop,
    hop: bytes,
    cpus: Collection[int],
    metrics: Metrics,
) -> Snapshot:
    """Raises ConfigError for what cannot be used."""
    config, needs_restart = _kept(config, before)
    return Snapshot(
        config,
        needs_restart,
        grants.static_keys(config),
        grants.stored(config),
        grants.anonymous(config),
        grants.issuers(config, deadlines, loop, metrics),
        composition.limits(config.server),
        composition.tls(config.server),
        composition.scheduled(config),
        composition.modes(config.limits),
        composition.retries(config.limits),
        composition.patience(config.health),
        composition.catalog(config),
        drivers.backends(config, deadlines, loop, hop, cpus),
    )


def _kept(config: settings.Config, before: settings.Config) -> tuple[settings.Config, tuple[str, ...]]:
    """The configuration without what cannot change, and what that is."""
    new, old = config.server, before.server
    keys = [key for key in FIXED if getattr(new, key) != getattr(old, key)]
    if (new.tls is None) != (old.tls is None):
        keys.append("tls")
    server = replace(new, **{key: getattr(old, key) for key in keys})
    needs_restart = [f"server.{key}" for key in keys]
    for section in SECTIONS:
        said, was = getattr(config, section), getattr(before, section)
        needs_restart += [
            f"{section}.{key}" for key in was.__struct_fields__ if getattr(said, key) != getattr(was, key)
        ]
    logging = config.logging
    if logging.format != before.logging.format:
        logging = replace(logging, format=before.logging.format)
        needs_restart.append("logging.format")
    kept = {section: getattr(before, section) for section in SECTIONS}
    return replace(config, server=server, logging=logging, **kept), tuple(needs_restart)


def moved(before: Catalog, after: Catalog, names: Iterable[str]) -> frozenset[str]:
    """Those of the models that others serve now, or nobody."""
    return frozenset(name for name in names if _where(before, name) != _where(after, name))


def _where(catalog: Catalog, name: str) -> object:
    service = catalog.service(name)
    return service and (service.backend_model, service.backends)
