"""What the options of `hermes bench` come to together: whom to ask, for what, and when."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from random import Random
from typing import Any
from urllib.parse import urlsplit

from msgspec.structs import replace

from hermes import __version__
from hermes.cli.bench_options import header_lines
from hermes.cli.options import fail
from hermes.http.origin import Origin
from hermes.load import arrivals
from hermes.load.asking import APIS, Prompts, body, found_in
from hermes.load.job import Job
from hermes.load.lengths import Lengths, parse
from hermes.load.plan import Asked, Mix, Recorded, plan
from hermes.load.run import Render, Request

_CONNECTIONS = 8
_DURATION_S = 30.0
_PROMPT, _OUTPUT = "200", "100"

Given = Mapping[str, Any]


def read(**given: Any) -> Job:
    """Exits with a message where the options do not fit together."""
    base, named = found_in(given["url"])
    api = given["api"] or named or "openai"
    trace: Sequence[tuple[float, Recorded]] = given["trace"]
    how = given["arrivals"] or ("trace" if trace else "poisson" if given["rate"] else "closed")
    if how == "closed":
        given["connections"] = given["connections"] or _CONNECTIONS
    if given["duration"] is None and not (given["requests"] or how == "trace"):
        given["duration"] = _DURATION_S
    asked = plan(_mix(given, api), _arrivals(how, given), _lines(given, api), given["seed"])
    try:
        origin = Origin.parse(_without_path(given["url"]) if api == "plain" else base)
    except ValueError as error:
        fail(str(error), 2)
    return Job(
        origin,
        _plain(given) if api == "plain" else _render(api, given),
        islice(asked, given["requests"]),
        given["connections"],
        how == "closed",
        given["duration"],
        given["requests"],
        given["warmup"],
        given["think"],
        given["timeout"],
        given["slo"],
        list(given["keys"]),
        _setting(api, how, given),
    )


def _lines(given: Given, api: str) -> list[Recorded]:
    lines = [line for _, line in given["trace"]]
    if given["models"]:  # the command line says it, not the trace
        return [replace(line, model="") for line in lines]
    if api != "plain" and not (lines and all(line.model for line in lines)):
        fail("name a model to ask for, as in: hermes bench gemma", 2)
    return lines


def _mix(given: Given, api: str) -> Mix:
    def lengths(option: str, usual: str) -> Lengths | None:
        text = given[option] or (None if given["trace"] else usual)
        return parse(text) if text else None

    return Mix(
        given["models"] or {"": 1.0},
        given["classes"] or {"": 1.0},
        lengths("prompt", _PROMPT),
        lengths("output", _OUTPUT),
        len(given["keys"]),
        0.0 if api == "plain" else given["streamed"],
        given["cancel"],
    )


def _arrivals(how: str, given: Given) -> Iterator[float] | None:
    if how == "closed":
        return None
    if how == "trace":
        if not given["trace"]:
            fail("--arrivals trace: which? Name it by --trace", 2)
        return arrivals.recorded([at_s for at_s, _ in given["trace"]], given["rate"])
    if not given["rate"]:
        fail(f"--arrivals {how}: how many in a second? Say it by --rate", 2)
    if how == "constant":
        return arrivals.constant(given["rate"])
    return arrivals.poisson(given["rate"], Random(f"arrivals {given['seed']}"))  # noqa: S311


def _render(name: str, given: Given) -> Render:
    api, extra, own = APIS[name], given["extra"], given["headers"]
    prompts = Prompts(given["seed"], given["alike"])
    of_keys = [header_lines([("authorization", f"Bearer {key}")] if key else []) for key in given["keys"].values()]
    classes = {"", *given["classes"], *(line.urgency for _, line in given["trace"])}
    of_class = {name: header_lines([("x-hermes-class", name)] if name else []) for name in classes}

    def render(asked: Asked) -> Request:
        headers = own + of_keys[asked.tenant] + of_class[asked.urgency]
        content = body(api, asked, prompts.text(asked), extra)
        return Request("POST", api.target(asked.model), content, headers, asked.streamed)

    return render


def _plain(given: Given) -> Render:
    parts = urlsplit(given["url"])
    target = (parts.path if parts.scheme != "unix" else "") or "/"
    method = "POST" if given["body"] else "GET"
    request = Request(method, target, given["body"], given["headers"], read=False)
    return lambda asked: request


def _without_path(url: str) -> str:
    return url if url.startswith("unix:") else url.removesuffix(urlsplit(url).path)


def _setting(api: str, how: str, given: Given) -> dict[str, Any]:
    """As the report tells it; no key."""
    models = given["models"] or dict.fromkeys(line.model for _, line in given["trace"] if line.model)
    same = (
        "url",
        "rate",
        "connections",
        "requests",
        "prompt",
        "output",
        "classes",
        "streamed",
        "cancel",
        "alike",
        "seed",
    )
    return {
        "version": __version__,
        "at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "api": api,
        "models": list(models),
        "arrivals": how,
        "tenants": [name for name in given["keys"] if name],
        **{name: given[name] for name in same},
        **{f"{name}_s": given[name] for name in ("duration", "warmup", "think", "timeout")},
    }
