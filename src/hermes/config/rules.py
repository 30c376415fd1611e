"""What the types cannot say: rules between keys, and the rule of the open door (I24)."""

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from hermes.config import Config
from hermes.config.schema import nearest, spell
from hermes.errors import ConfigError

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address


def check(config: Config) -> None:
    """Raises ConfigError with one line for each rule that is broken."""
    problems = [*_backends(config), *_models(config), *_keys(config), *_server(config)]
    if problems:
        raise ConfigError("\n".join(problems))


def _backends(config: Config) -> Iterator[str]:
    for name, count in Counter(backend.name for backend in config.backends).items():
        if count > 1:
            yield f"backends: {count} are named {name!r}, a name stands for one"


def _models(config: Config) -> Iterator[str]:
    names = [backend.name for backend in config.backends]
    for model, settings in config.models.items():
        for name in settings.backends:
            if name not in names:
                close = nearest(name, names)
                hint = f"did you mean {close}?" if close else f"there are: {', '.join(names)}"
                yield f"{spell(('models', model, 'backends'))}: {name!r} is not the name of a backend, {hint}"


def _keys(config: Config) -> Iterator[str]:
    if len({key.sha256 for key in config.keys}) < len(config.keys):
        yield "keys: the same key stands here twice"


def _server(config: Config) -> Iterator[str]:
    if ":" in config.server.host and _address(config.server.host) is None:
        yield f"server.host: {config.server.host!r} is not an address or a host name, a port goes into server.port"


def _address(host: str) -> "IPv4Address | IPv6Address | None":
    from ipaddress import ip_address  # 5 ms, and the usual 127.0.0.1 does without

    try:
        return ip_address(host)
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it. A name other than localhost may mean anything: no."""
    if host.lower() in ("127.0.0.1", "::1", "localhost"):
        return True
    address = _address(host)
    return address is not None and address.is_loopback


def check_bind(config: Config) -> None:
    """Refuse to serve other machines without keys, unless that is spelled out (I24). Raises ConfigError."""
    server = config.server
    if config.keys or server.insecure or server.unix_socket or is_loopback(server.host):
        return
    raise ConfigError(
        f"server.host: {server.host} can be reached from other machines and no keys are configured, so anyone could use"
        " the models. Configure keys (API_KEYS_JSON or `keys`), listen on 127.0.0.1, or start with --insecure"
        " (server.insecure: true) where the network is trusted"
    )
