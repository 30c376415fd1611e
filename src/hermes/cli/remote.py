"""How the verbs talk to a running Hermes: plain HTTP, one request, and one clear line when it fails.

The address is `--url`, else HERMES_URL, else this machine's at the port where `hermes serve` would listen by its
variables; the key is HERMES_API_KEY.
"""

import json
import os
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import quote, urlsplit

import click
from msgspec import convert

from hermes.cli.options import Failed, fail
from hermes.config.notation import parse_url
from hermes.config.rules import is_loopback
from hermes.errors import BadRequest
from hermes.policy.routing import check_model_name

_CONNECT_TIMEOUT_S = 5.0


def _default_url() -> str:
    return f"http://127.0.0.1:{os.environ.get('HERMES_SERVER__PORT') or os.environ.get('PORT') or 4000}"


def _url(ctx: click.Context, parameter: click.Parameter, text: str) -> str:
    """In its one spelling; `gpu.lan:4000` is http."""
    try:
        return parse_url(f"http://{text}" if re.fullmatch(r"[^/@]+:\d+", text) else text)
    except ValueError:
        shown = "this" if "@" in text else text  # user:password@host
        raise click.BadParameter(f"{shown} is not an http(s) URL, nor unix:///path") from None


def _model(ctx: click.Context, parameter: click.Parameter, name: str) -> str:
    try:
        return check_model_name(name)
    except BadRequest as error:
        raise click.BadParameter(error.message) from None


url_option = click.option(
    "--url",
    envvar="HERMES_URL",
    show_envvar=True,
    default=_default_url,
    show_default="http://127.0.0.1:4000",
    callback=_url,
    help="The server; also unix:///path.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the server's JSON as it is.")
json_lines_option = click.option(
    "--json", "as_json", is_flag=True, help="Print the server's lines of JSON as they come."
)
model_argument = click.argument("model", callback=_model)


def model_path(model: str, *after: str) -> str:
    return "/".join(("/v1/llm", quote(model, safe=":@"), *after))


def get(
    url: str, path: str, method: str = "GET", body: dict[str, Any] | None = None, shape: type = dict[str, Any]
) -> Any:
    """The JSON at a path, as it is. Exits with a message when that fails, and where it has not this shape."""
    try:
        with _answer(url, method, path, body) as answer:
            told = _loads(answer.read())
    except _GARBAGE as error:
        fail(f"what answers at {url} is no Hermes: {error}. {_ELSEWHERE}", 1)
    return _shaped(url, told, shape)


def _shaped(url: str, told: Any, shape: type) -> Any:
    """As it is. Exits with a message where it has not this shape."""
    try:
        convert(told, shape)
    except ValueError as error:  # ValidationError, and what half a character raises
        raise NoHermes(
            f"what answers at {url} is no Hermes, or not of this version: {error}. {_ELSEWHERE}", 1
        ) from None
    return told


def lines(url: str, path: str, body: dict[str, Any], shape: type, last: type) -> Iterator[Any]:
    """POST, then the answer's JSON lines as they come, to the one that is `done`, which is of the shape `last`.

    Exits with a message on an error, mid-stream too, and where the end is missing.
    """
    try:
        with _answer(url, "POST", path, body) as answer:
            for line in answer:
                event = _shaped(url, _loads(line), dict[str, Any])
                if "error" in event:
                    fail(_told(event), 1)
                done = event.get("done") is True
                yield _shaped(url, event, last if done else shape)
                if done:
                    return
    except _GARBAGE as error:
        fail(f"the answer broke off: {error}. {_WHY}", 1)
    fail(f"the answer ended before it was complete. {_WHY}", 1)


# What is no answer, or no JSON: nested without end, or with numbers that JSON does not have.
_GARBAGE = (OSError, HTTPException, ValueError, RecursionError)


def _loads(text: bytes | str) -> Any:
    return json.loads(text, parse_constant=_no_number)


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number in JSON")


_WHY = "See why with: hermes logs"


def events(url: str, path: str, silence_s: float, shapes: Mapping[str, type]) -> Iterator[tuple[str, Any]]:
    """Server-sent events as they come, name and JSON, until the stream ends. `shapes`: of those that are looked into.

    Exits with a message on an error, and where nothing comes for so long.
    """
    try:
        with _answer(url, "GET", path, None, silence_s) as answer:
            if answer.headers.get_content_type() != "text/event-stream":
                raise NoHermes(f"what answers at {url} is no Hermes: it tells no events. {_ELSEWHERE}", 1)
            name = ""
            for line in answer:
                field, _, value = line.decode().rstrip("\r\n").partition(": ")
                if field == "event":
                    name = value
                elif field == "data":
                    yield name, _shaped(url, _loads(value), shapes.get(name, object))
    except _GARBAGE as error:
        fail(f"the connection to {url} was lost: {error}", 3)


class NoHermes(Failed):
    """What was told is nothing that a Hermes of this version tells."""


class Refused(Failed):
    """The server said no, with this status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message, 1)
        self.status = status


@contextmanager
def _answer(
    url: str, method: str, path: str, body: dict[str, Any] | None, silence_s: float | None = None
) -> Iterator[HTTPResponse]:
    """`silence_s`: for how long nothing may come; None: a model may take its time."""
    headers = _headers()
    with ExitStack() as stack:
        try:
            connection = _connection(url)
            stack.callback(connection.close)
            connection.connect()
            connection.sock.settimeout(silence_s)
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = stack.enter_context(connection.getresponse())
        except ssl.SSLCertVerificationError as error:
            hint = "SSL_CERT_FILE=FILE names the authority that signed it"
            fail(f"the certificate of {url} is not to be trusted: {error.verify_message}. {hint}", 3)
        except (OSError, HTTPException, ValueError) as error:
            hint = (
                "Start one with: hermes serve; if it listens elsewhere, say so by --url"
                if _is_here(url)
                else _ELSEWHERE
            )
            fail(f"no Hermes answers at {url}: {error}. {hint}", 3)
        if response.status >= 400:
            raise Refused(_refusal(url, response), response.status)
        yield response


class _UnixConnection(HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_CONNECT_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _connection(url: str) -> HTTPConnection:
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return _UnixConnection(parts.path)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    return kind(parts.hostname or "", parts.port, timeout=_CONNECT_TIMEOUT_S)


def _is_here(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "unix" or is_loopback(parts.hostname or "")


def _headers() -> dict[str, str]:
    key = os.environ.get("HERMES_API_KEY", "").strip()  # a file's last line has an end
    if not (key.isascii() and key.isprintable()):  # http.client would quote it
        fail("HERMES_API_KEY is no key: it has characters that none has", 2)
    return {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})


_HINTS = {
    "invalid_api_key": ". Set HERMES_API_KEY to a key it knows; on its machine hermes keys create me --admin makes one",
    "key_expired": ". Set HERMES_API_KEY to one that is good; an operator makes it with: hermes keys rotate",
    "admin_only": ". Set HERMES_API_KEY to an operator's key; hermes keys create NAME --admin makes one",
    "request_not_found": ". See what runs with: hermes queue",
    "model_not_found": ". See what there is with: hermes models",
    "no_backend": ". See how they are with: hermes status",
    "invalid_config": ". What was in force still is",
    "load_failed": ". See why with: hermes status",
}


_ELSEWHERE = "Where Hermes is, say by --url or HERMES_URL"


def _refusal(url: str, response: HTTPResponse) -> str:
    try:
        answer = _loads(response.read())
    except _GARBAGE:
        return f"what answers at {url} is no Hermes: {response.reason} (HTTP {response.status}). {_ELSEWHERE}"
    return f"{_told(answer)} (HTTP {response.status}){_HINTS.get(str(_error(answer).get('code')), '')}"


def _told(answer: Any) -> str:
    error = _error(answer)
    return str(error.get("message", error or answer))


def _error(answer: Any) -> dict[Any, Any]:
    error = answer.get("error") if isinstance(answer, dict) else None
    return error if isinstance(error, dict) else {}
