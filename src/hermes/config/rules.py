"""What the types cannot say: rules between keys, and the rule of the open door (I24)."""

from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from hermes.config import Backend, Config, Issuer, Model
from hermes.config.notation import PORT
from hermes.config.schema import nearest, spell
from hermes.errors import ConfigError

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address


def check(config: Config) -> None:
    """Raises ConfigError with one line for each rule that is broken."""
    problems = [*_backends(config), *_models(config), *_keys(config), *_issuers(config), *_server(config)]
    if problems:
        raise ConfigError("\n".join(problems))


def without_effect(config: Config) -> Iterator[str]:
    """What is no mistake and does nothing, one line each: probably something else was meant."""
    if config.defaults.pull == "on_demand" and not config.models:
        yield "defaults.pull: only listed models are pulled, and `models` lists none"
    policies = {config.defaults.options_policy, *(model.options_policy for model in config.models.values())}
    if config.defaults.max_num_ctx is not None and "max" not in policies:
        yield "defaults.max_num_ctx: only options_policy max heeds it"
    for name, model in config.models.items():
        if model.max_num_ctx not in (None, config.defaults.max_num_ctx) and model.options_policy != "max":
            where = spell(("models", name, "max_num_ctx"))
            yield f"{where}: its options_policy is {model.options_policy}, only max heeds it"
        if "ollama" not in _kinds(config, model):
            for key in ("options", "keep_alive"):
                if getattr(model, key) != getattr(_NOTHING_SAID, key):
                    yield f"{spell(('models', name, key))}: none of its backends is told, only those of kind ollama are"
    for index, issuer in enumerate(config.jwt):
        if "*" in (roles := list(issuer.roles)):
            for role in roles[roles.index("*") + 1 :]:
                yield f"{spell(('jwt', index, 'roles', role))}: the first role that a token has counts, and all have *"


_NOTHING_SAID = Model()


def _kinds(config: Config, model: Model) -> set[str]:
    """Of the backends that may serve it."""
    return {backend.kind for backend in config.backends if not model.backends or backend.name in model.backends}


def _backends(config: Config) -> Iterator[str]:
    for name, count in Counter(backend.name for backend in config.backends).items():
        if count > 1 and not all(backend.command for backend in config.backends if backend.name == name):
            yield f"backends: {count} are named {name!r}, a name stands for one, or for several commands"
    yield from _commands(config)
    for backend in config.backends:
        if backend.ca_file and not backend.url.startswith("https://"):
            yield f"{spell(('backends', backend.name, 'ca_file'))}: {backend.url} is not https, nothing is checked"
        plugin = spell(("backends", backend.name, "plugin"))
        if backend.kind == "custom" and backend.plugin is None:
            yield f"{plugin}: missing, a backend of kind custom needs the class that speaks to it: module:Class"
        if backend.kind != "custom" and backend.plugin is not None:
            yield f"{plugin}: only a backend of kind custom has one, this is of kind {backend.kind}"
        if backend.kind != "ollama" and not backend.command:
            for key in ("memory", "max_loaded"):
                if getattr(backend, key) is not None:
                    where = spell(("backends", backend.name, key))
                    yield f"{where}: a backend of kind {backend.kind} loads its models itself, whatever it has"


def _commands(config: Config) -> Iterator[str]:
    """Processes of ours. Those of one name share one memory, which has each model once."""
    for index, backend in enumerate(config.backends):
        for key, why in _of_command(backend) if backend.command else _without_command(backend):
            yield f"{spell(('backends', index, key))}: {why}"
    commands = [backend for backend in config.backends if backend.command]
    for (name, model), count in Counter((each.name, each.model) for each in commands if each.model).items():
        if count > 1:
            yield f"backends: {count} commands of {name!r} are of one model, {model!r}: give them names of their own"
    for key in ("memory", "max_loaded"):
        for name, count in Counter(each.name for each in commands if getattr(each, key)).items():
            if count > 1:
                yield f"backends: {count} commands of {name!r} say its {key}, which they share: let one say it"


def _of_command(backend: Backend) -> Iterator[tuple[str, str]]:
    if backend.kind == "ollama":
        yield "kind", "an Ollama loads its models itself: start it apart, and give its url"
    if backend.model is None:
        yield "model", "missing, and the command does not tell: say what its model is to be called"
    if PORT not in backend.url:
        yield "url", f"without {PORT} it is not where the command listens"
    if PORT not in (backend.command or "") and not any(PORT in value.reveal() for value in backend.env.values()):
        yield "command", f"without {PORT}, here or in env, it is not told where to listen"


def _without_command(backend: Backend) -> Iterator[tuple[str, str]]:
    usual = Backend("", "")
    for key in ("env", "model", "health", "start_timeout_s", "idle_ttl", "preload"):
        if getattr(backend, key) != getattr(usual, key):
            yield key, f"{backend.name} has no command that this could be of"
    if PORT in backend.url:
        yield "url", f"{backend.name} has no command that {PORT} could be of"


def _models(config: Config) -> Iterator[str]:
    names = [backend.name for backend in config.backends]
    for model, settings in config.models.items():
        for name in settings.backends:
            if name not in names:
                close = nearest(name, names)
                hint = f"did you mean {close}?" if close else f"there are: {', '.join(names)}"
                yield f"{spell(('models', model, 'backends'))}: {name!r} is not the name of a backend, {hint}"
    for (name, one), (other, two) in combinations(config.models.items(), 2):
        if _same(name, one, other, two) and _loading(one) != _loading(two):
            yield (
                f"{spell(('models', other))}: the same model as {name!r}, which is loaded in one way:"
                f" give both the same {', '.join(_LOADING[:-1])} and {_LOADING[-1]}"
            )
    for model, settings in config.models.items():
        if settings.pull == "on_demand" and "ollama" not in _kinds(config, settings):
            yield f"{spell(('models', model, 'pull'))}: none of its backends can pull, only those of kind ollama do"
        most = settings.max_num_ctx
        if most is not None and most < (settings.options.num_ctx or 0):
            where = spell(("models", model, "options", "num_ctx"))
            yield f"{where}: {settings.options.num_ctx} is more than its max_num_ctx: {most}"
        for name in settings.fallback:
            if name == model or (name not in config.models and not config.serve_unlisted):
                where = spell(("models", model, "fallback"))
                yield f"{where}: {name!r} is not another model that is served"
        if settings.adaptive_concurrency and settings.max_concurrency is None:
            yield f"{spell(('models', model, 'adaptive_concurrency'))}: up to how many? Set its max_concurrency too"


_LOADING = ("options", "options_policy", "max_num_ctx", "keep_alive")


def _loading(model: Model) -> tuple[object, ...]:
    return tuple(getattr(model, key) for key in _LOADING)


def _same(name: str, one: Model, other: str, two: Model) -> bool:
    """Whether two public names can mean one model of one backend."""
    names = {(model.backend_model or public).removesuffix(":latest") for public, model in ((name, one), (other, two))}
    return len(names) == 1 and bool(not one.backends or not two.backends or {*one.backends} & {*two.backends})


def _keys(config: Config) -> Iterator[str]:
    if len({key.sha256 for key in config.keys}) < len(config.keys):
        yield "keys: the same key stands here twice"


def _issuers(config: Config) -> Iterator[str]:
    for key in ("name", "issuer"):
        for value, count in Counter(getattr(issuer, key) for issuer in config.jwt).items():
            if count > 1:
                yield f"jwt: {count} have the {key} {value!r}, by which they are told apart"
    for index, issuer in enumerate(config.jwt):
        for key, why in _issuer(issuer):
            yield f"{spell(('jwt', index, key))}: {why}"


def _issuer(issuer: Issuer) -> Iterator[tuple[str, str]]:
    url = urlsplit(issuer.jwks_url or "")
    if (issuer.jwks_url is None) == (issuer.jwks_file is None):
        yield "jwks_url", "where are the issuer's keys? Set one of jwks_url and jwks_file"
    if url.scheme == "http" and not is_loopback(url.hostname or ""):
        yield (
            "jwks_url",
            "over http anybody on the way could replace the keys, and with them who may come in: use https",
        )
    if issuer.ca_file and url.scheme != "https":
        yield "ca_file", "no keys are fetched over https, nothing is checked"
    for key in ("audience", "algorithms"):
        if not getattr(issuer, key):
            yield key, "empty, no token would do"
    if issuer.claims.roles is None and issuer.roles.keys() - {"*"}:
        yield "roles", "in which claim do tokens list their roles? Set claims.roles"


def _server(config: Config) -> Iterator[str]:
    server = config.server
    if ":" in server.host and _address(server.host) is None:
        yield f"server.host: {server.host!r} is not an address or a host name, a port goes into server.port"
    if server.cors.credentials and "*" in server.cors.origins:
        yield "server.cors: with credentials no page at all may ask, name the origins instead of '*'"
    if server.unix_socket and server.tls:
        yield "server.tls: no https is spoken over server.unix_socket, keep one of the two"
    if server.drain_grace_s > server.drain_timeout_s:
        yield (
            f"server.drain_grace_s: {server.drain_grace_s:g} s do not fit into server.drain_timeout_s:"
            f" {server.drain_timeout_s:g} s"
        )


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
    if config.keys or config.jwt or server.insecure:
        return
    if "*" in server.cors.origins:
        raise ConfigError(
            "server.cors.origins: '*' and no keys are configured, so any page that somebody here looks at could use the"
            " models, and manage them. Configure keys, or name the origins"
        )
    if server.unix_socket or is_loopback(server.host):
        return
    raise ConfigError(
        f"server.host: {server.host} can be reached from other machines and no keys are configured, so anyone could use"
        " the models. Configure keys (API_KEYS_JSON or `keys`) or issuers (`jwt`), listen on 127.0.0.1, or start with"
        " --insecure (server.insecure: true) where the network is trusted"
    )
