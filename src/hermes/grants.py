"""From keys and issuers, as configured or stored, to who they let in: what each may ask for, and use at most."""

import asyncio
import time
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from hermes import config as settings
from hermes.errors import ConfigError
from hermes.http.wire import Deadlines
from hermes.keyring import Made
from hermes.metrics import Metrics
from hermes.oidc import source
from hermes.principal import ANONYMOUS, CLASS_NAMES, UNBOUNDED, Allowance, Class, Principal
from hermes.storage.keys import Fields as StoredFields
from hermes.storage.keys import Key as StoredKey

if TYPE_CHECKING:
    from hermes.oidc.issuers import Issuers


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


def urgency(name: str) -> Class:
    return Class(CLASS_NAMES.index(name))
