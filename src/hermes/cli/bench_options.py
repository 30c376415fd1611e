"""What the options of `hermes bench` may say: each from text to its value."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from hermes.cli.amounts import Number, span_s
from hermes.cli.options import fail
from hermes.errors import BadRequest
from hermes.http.wire import render_headers
from hermes.load.lengths import parse
from hermes.load.plan import Recorded, Shares
from hermes.load.tally import MEASURES
from hermes.policy.routing import check_model_name
from hermes.simulator.replay import read_trace


class Span(click.ParamType):  # type: ignore[type-arg]
    name = "time"

    def __init__(self, zero: bool = True) -> None:
        self._zero = zero

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            found = span_s(value)
        except ValueError:
            self.fail(f"{value!r} is not a time such as 250ms, 1.5s or 2m", param, ctx)
        if not found and not self._zero:
            self.fail(f"{value!r} is no time at all", param, ctx)
        return found


class Rate(Number):
    """`5`, or as reports have it: `5/s`."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(value.removesuffix("/s") if isinstance(value, str) else value, param, ctx)


def tokens(ctx: click.Context, parameter: click.Parameter, text: str | None) -> str | None:
    """As it was written, which is how the report tells it."""
    try:
        if text is not None:
            parse(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    return text


def shares(ctx: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> Shares:
    """`gemma=0.8 qwen3=0.2`, or names alone, which share alike."""
    found: Shares = {}
    for text in given:
        name, _, share = text.partition("=")
        try:
            found[name] = float(share or 1)
        except ValueError:
            raise click.BadParameter(f"{text!r} is not a name and its share, such as {name}=0.2") from None
        if not 0 < found[name] < float("inf"):
            raise click.BadParameter(f"{text!r}: a share is more than nothing")
    return found


def models(ctx: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> Shares:
    found = shares(ctx, parameter, given)
    try:
        return {check_model_name(name): share for name, share in found.items()}
    except BadRequest as error:
        raise click.BadParameter(error.message) from None


def slo(ctx: click.Context, parameter: click.Parameter, text: str | None) -> dict[str, float]:
    """`ttft=2s,e2e=30s`: by measure."""
    limits: dict[str, float] = {}
    for part in text.split(",") if text else ():
        name, _, most = part.strip().partition("=")
        known = [measure for measure in MEASURES if measure != "itl"]  # no answer has one of these
        if name not in known:
            raise click.BadParameter(f"{part!r}: there is {', '.join(known)}, such as ttft=2s")
        limits[name] = Span().convert(most, parameter, ctx)
    return limits


def keys(ctx: click.Context, parameter: click.Parameter, path: Path | None) -> dict[str, str]:
    """By name. Without a file HERMES_API_KEY's, if there is one."""
    if path is None:
        return {"": os.environ.get("HERMES_API_KEY", "")}
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    found: dict[str, str] = {}
    for line in lines:
        if line and not line.startswith("#"):
            name, _, key = line.rpartition("=") if "=" in line.rstrip("=") else ("", "", line)
            found[name or f"key {len(found) + 1}"] = key
    return found or fail(f"--keys: there is no key in {path}", 2)


def headers(ctx: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> bytes:
    pairs = [text.partition(":") for text in given]
    return header_lines((name.strip(), value.strip()) for name, _, value in pairs)


def header_lines(pairs: Iterable[tuple[str, str]]) -> bytes:
    """Rendered. Exits with a message for what cannot stand in a header, without telling it: it may be a key."""
    try:
        return render_headers((name.lower().encode(), value.encode("latin-1")) for name, value in pairs)
    except ValueError:
        fail("a header is a name and one line of text, such as 'x-app: bench'; so is a key, and a class", 2)


def extra(ctx: click.Context, parameter: click.Parameter, text: str | None) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except ValueError as error:
        raise click.BadParameter(f"not JSON: {error}") from None
    if not isinstance(found, dict):
        raise click.BadParameter("it is an object, such as '{\"temperature\": 0}'")
    return found


def content(ctx: click.Context, parameter: click.Parameter, text: str | None) -> bytes:
    """`@FILE` is what is in it."""
    if text is None or not text.startswith("@"):
        return (text or "").encode()
    try:
        return Path(text[1:]).read_bytes()
    except OSError as error:
        raise click.BadParameter(f"cannot read {text[1:]}: {error.strerror}") from None


def trace(ctx: click.Context, parameter: click.Parameter, path: Path | None) -> list[tuple[float, Recorded]]:
    """When, and what."""
    if path is None:
        return []
    try:
        found = read_trace(path)
    except OSError as error:
        raise click.BadParameter(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    return [(one.at_s, Recorded(one.tokens_in, one.tokens_out, one.model, one.tenant, one.urgency)) for one in found]
