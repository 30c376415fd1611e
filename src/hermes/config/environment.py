"""Variables to settings: HERMES_SECTION__KEY for every key, and the names that people already use.

A layer is a piece of configuration with the name of where it came from, as errors and `hermes check` tell it.
"""

import re
from collections.abc import Container, Iterator, Mapping
from typing import Any, get_args

import msgspec
from msgspec import Struct

from hermes.config import Secret
from hermes.config.kinds import BackendKind
from hermes.config.notation import ollama_url
from hermes.config.schema import is_container, nearest, optional, settings, variable
from hermes.errors import ConfigError

Tree = dict[str, Any]

# HERMES_CONFIG says which file; the other two tell the client commands where a Hermes is and with which key
OTHER_NAMES = ("HERMES_CONFIG", "HERMES_URL", "HERMES_API_KEY")
# Kubernetes sets these in every pod of a namespace that has a service called hermes
_KUBERNETES = re.compile(r"HERMES_(SERVICE_(HOST|PORT)(_.*)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)")
_KUBERNETES_PORT = re.compile(r"(tcp|udp|sctp)://")

KEYS_FORM = 'the right form is {"sk-...": {"user": "editor", "rate_limit": 60, "admin": true}}'
_FILE_NAME = re.compile(r"@?[\w~./-]*[./][\w~./-]+", re.ASCII)
BACKEND_KINDS = get_args(BackendKind)
# Of a backend: what is run here is named where only who may change the configuration can.
FILE_ONLY = ("plugin", "command")


class Layer(Struct, frozen=True):
    source: str
    tree: Tree

    def __repr__(self) -> str:
        return f"Layer({self.source})"  # the tree has the secrets still bare (I26)


def nested(path: tuple[str, ...], value: Any) -> Tree:
    for step in reversed(path):
        value = {step: value}
    return value  # type: ignore[no-any-return]


def from_text(name: str, kind: Any, text: str) -> Any:
    """A variable's text as the value that a file would hold. What does not fit stays text, to be refused there."""
    kind, _ = optional(kind)
    if is_container(kind):
        return _json(name, text)
    if kind is Secret:
        return text
    try:
        return msgspec.convert(text.strip(), kind, strict=False)
    except msgspec.ValidationError:
        return text


def _json(name: str, text: str) -> Any:
    """Strict JSON: no key twice, no NaN. The text is in no error: keys and secrets may be in it."""
    import json

    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        if not isinstance(error, json.JSONDecodeError):
            raise ConfigError(f"{name}: expected JSON without repeated names, NaN or endless nesting") from None
        hint = "; it takes the JSON itself, not the name of a file" if _FILE_NAME.fullmatch(text.strip()) else ""
        raise ConfigError(f"{name}: not valid JSON (line {error.lineno}, column {error.colno}){hint}") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > len(dict(pairs)):
        raise ValueError
    return dict(pairs)


def _no_constant(_: str) -> None:
    raise ValueError


# --- HERMES_* -------------------------------------------------------------------------------------------------------


def own_layers(environ: Mapping[str, str], suffix: str = "") -> Iterator[Layer | ConfigError]:
    """A layer for each HERMES_ variable that is set, or what is wrong with it. Empty is unset."""
    known = {variable(path): (path, field) for path, field in settings()}
    for name in sorted((name for name in environ if name.startswith("HERMES_")), key=lambda name: name.count("__")):
        if not environ[name] or _foreign(name, environ[name]):
            continue
        if name not in known:
            close = _of_server(name, known) or nearest(name, known)
            yield ConfigError(f"{name}{suffix}: unknown variable" + (f", did you mean {close}?" if close else ""))
            continue
        path, field = known[name]
        try:
            value = from_text(name + suffix, field.type, environ[name])
            if path == ("backends",):
                _check_backends(name + suffix, value)
            yield Layer(name + suffix, nested(path, value))
        except ConfigError as error:
            yield error


def _of_server(name: str, known: Container[str]) -> str | None:
    """What HERMES_PORT and the like probably mean."""
    meant = name.replace("HERMES_", "HERMES_SERVER__", 1)
    return meant if meant in known else None


def _check_backends(name: str, backends: Any) -> None:
    for key in FILE_ONLY:
        if isinstance(backends, list) and any(isinstance(backend, dict) and key in backend for backend in backends):
            raise ConfigError(f"{name}: {key} can only be set in the configuration file")


def _foreign(name: str, value: str) -> bool:
    if name == "HERMES_PORT":
        return _KUBERNETES_PORT.match(value) is not None
    return name in OTHER_NAMES or _KUBERNETES.fullmatch(name) is not None


# --- the familiar names ---------------------------------------------------------------------------------------------


def familiar_layers(environ: Mapping[str, str], below: Tree, suffix: str = "") -> Iterator[Layer | ConfigError]:
    """Layers for PORT, MAX_CONCURRENT, API_KEYS_JSON, where Ollama is, and OpenTelemetry's own names.

    `below`: what lower layers say.
    """
    for name, path in (("PORT", ("server", "port")), ("MAX_CONCURRENT", ("limits", "max_concurrent"))):
        if text := environ.get(name):
            yield Layer(name + suffix, nested(path, from_text(name, int, text)))
    for read in (_keys, _kind, _address, _tracing):
        try:
            yield from read(environ, below, suffix)
        except ConfigError as error:
            yield error


def _keys(environ: Mapping[str, str], below: Tree, suffix: str) -> Iterator[Layer]:
    source = "API_KEYS_JSON" + suffix
    if not (text := environ.get("API_KEYS_JSON")):
        return
    from hashlib import sha256

    try:
        entries = _json(source, text)
    except ConfigError as error:
        raise ConfigError(f"{error}; {KEYS_FORM}") from None
    if not isinstance(entries, dict):
        raise ConfigError(f"{source}: expected a JSON object; {KEYS_FORM}")
    keys = []
    for number, (key, entry) in enumerate(entries.items(), 1):
        if not isinstance(entry, dict) or "sha256" in entry or "user" not in entry:
            raise ConfigError(f"{source}: entry {number} is not an object with a user; {KEYS_FORM}")
        if re.fullmatch(r"[!-~]{1,512}", key) is None:
            raise ConfigError(f"{source}: key {number} has a character that no header may carry, or none; {KEYS_FORM}")
        if "rate_limit" in entry:
            if "rpm" in entry:
                raise ConfigError(f"{source}: entry {number} has a rate_limit and an rpm, which mean the same")
            entry["rpm"] = entry.pop("rate_limit")
        keys.append({**entry, "sha256": sha256(key.encode()).hexdigest()})
    yield Layer(source, {"keys": keys})


def _kind(environ: Mapping[str, str], below: Tree, suffix: str) -> Iterator[Layer]:
    """Of the one backend, where that is configured; else `_address` says it of the one that it names."""
    source = "LLM_BACKEND" + suffix
    if not (kind := environ.get("LLM_BACKEND")):
        return
    if kind not in BACKEND_KINDS:
        raise ConfigError(f"{source}: {kind!a} is unknown; supported: {', '.join(BACKEND_KINDS)}")
    configured = below.get("backends") or []
    if not isinstance(configured, list) or kind == "ollama" or _is_command(configured):
        return
    if len(configured) > 1:
        raise ConfigError(f"{source}: which of the {len(configured)} backends is meant? Set it in `backends`")
    if configured:
        yield Layer(source, {"backends": {0: {"kind": kind}}})
    elif not environ.get("LLM_BACKEND_URL"):
        raise ConfigError(f"{source}: where is it? Set LLM_BACKEND_URL")


def _address(environ: Mapping[str, str], below: Tree, suffix: str) -> Iterator[Layer]:
    """The URL of the one backend. Ollama's own OLLAMA_HOST stands back where several are configured."""
    kind = environ.get("LLM_BACKEND") or "ollama"
    names = ("LLM_BACKEND_URL", "OLLAMA_URL", "OLLAMA_HOST") if kind == "ollama" else ("LLM_BACKEND_URL",)
    name = next((name for name in names if environ.get(name)), None)
    if name is None:
        return
    configured = below.get("backends") or []
    if not isinstance(configured, list):
        return  # refused where it stands
    if len(configured) > 1:
        if name != "OLLAMA_HOST":
            raise ConfigError(f"{name}{suffix}: which of the {len(configured)} backends is meant? Set it in `backends`")
        return
    url = environ[name].strip()
    if name == "OLLAMA_HOST":
        try:
            url = ollama_url(url)
        except ValueError:
            raise ConfigError(f"{name}{suffix}: expected host:port or http://host:port") from None
    if _is_command(configured):
        if name == "OLLAMA_HOST":
            return
        raise ConfigError(f"{name}{suffix}: the one backend has a command, and is where that is told to be")
    alone = {"name": kind, "kind": kind, "url": url}
    yield Layer(name + suffix, {"backends": {0: {"url": url}} if configured else [alone]})


def _is_command(configured: list[Any]) -> bool:
    """Whether the one backend is a process of ours, which tells by itself what and where it is."""
    return len(configured) == 1 and isinstance(configured[0], dict) and "command" in configured[0]


_TRACES, _SIGNALS = "OTEL_EXPORTER_OTLP_TRACES_", "OTEL_EXPORTER_OTLP_"
_OFF = (("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none"))
_SAMPLERS = {"always_on": 1.0, "always_off": 0.0}
_CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"


def _tracing(environ: Mapping[str, str], below: Tree, suffix: str) -> Iterator[Layer]:
    """What of https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables is ours to heed."""
    said = {name: value.strip() for name, value in environ.items() if name.startswith("OTEL_") and value.strip()}

    def layer(name: str, key: str, value: Any) -> Layer:
        return Layer(name + suffix, {"tracing": {key: value}})

    def named(what: str) -> str:
        """The variable that says it: of traces alone, or of all signals."""
        return next((name for name in (_TRACES + what, _SIGNALS + what) if name in said), "")

    if off := next((name for name, word in _OFF if said.get(name, "").lower() == word), None):
        yield layer(off, "otlp_endpoint", None)
    elif name := named("ENDPOINT"):
        if said.get(protocol := named("PROTOCOL")) == "grpc":
            raise ConfigError(f"{protocol}{suffix}: only http/protobuf is spoken, to a collector's port 4318")
        path = "" if name.startswith(_TRACES) else "/v1/traces"
        yield layer(name, "otlp_endpoint", said[name].rstrip("/") + path if path else said[name])
    if "OTEL_SERVICE_NAME" in said:
        yield layer("OTEL_SERVICE_NAME", "service_name", said["OTEL_SERVICE_NAME"])
    sampler = said.get("OTEL_TRACES_SAMPLER", "").removeprefix("parentbased_")
    if sampler in _SAMPLERS:
        yield layer("OTEL_TRACES_SAMPLER", "sample_ratio", _SAMPLERS[sampler])
    elif sampler == "traceidratio" and (share := said.get("OTEL_TRACES_SAMPLER_ARG")):
        yield layer("OTEL_TRACES_SAMPLER_ARG", "sample_ratio", from_text("", float, share))
    if _CAPTURE in said:  # the later values say where: as attributes of spans, or as events, which there are none of
        yield layer(_CAPTURE, "capture_content", said[_CAPTURE].lower() in ("true", "span_only", "span_and_event"))


def parallel_hint(environ: Mapping[str, str]) -> int | None:
    """OLLAMA_NUM_PARALLEL, where it is set to a number that means something (0: Ollama decides)."""
    text = environ.get("OLLAMA_NUM_PARALLEL", "").strip().strip("\"'")
    return int(text) if re.fullmatch(r"[1-9]\d{0,3}", text, re.ASCII) else None
