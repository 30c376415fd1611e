"""How the verbs talk to a running Hermes: plain HTTP, one request, and one clear line when it fails.

The address is `--url`, else HERMES_URL, else http://127.0.0.1:4000; the key is HERMES_API_KEY.
"""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import quote, urlsplit

import click

from hermes.cli.options import fail

DEFAULT_URL = "http://127.0.0.1:4000"
_CONNECT_TIMEOUT_S = 5.0

url_option = click.option("--url", envvar="HERMES_URL", default=DEFAULT_URL, show_default=True, help="The server.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print the server's JSON as it is.")


def model_path(model: str, *after: str) -> str:
    return "/".join(("/v1/llm", quote(model, safe=":@"), *after))


def get(url: str, path: str) -> Any:
    """The JSON at a path. Exits with a message when that fails."""
    try:
        with _answer(url, "GET", path, None) as answer:
            return json.load(answer)
    except (OSError, HTTPException, ValueError) as error:
        fail(f"what answers at {url} is no Hermes: {error}", 1)


def lines(url: str, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """POST, then the answer's JSON lines as they come. Exits with a message on an error, mid-stream too."""
    try:
        with _answer(url, "POST", path, body) as answer:
            for line in answer:
                event = json.loads(line)
                if "error" in event:
                    fail(_told(event), 1)
                yield event
    except (OSError, HTTPException, ValueError) as error:
        fail(f"the answer broke off: {error}", 1)


@contextmanager
def _answer(url: str, method: str, path: str, body: dict[str, Any] | None) -> Iterator[HTTPResponse]:
    with ExitStack() as stack:
        try:
            connection = _connection(url)
            stack.callback(connection.close)
            connection.connect()
            connection.sock.settimeout(None)  # a model may take its time
            connection.request(method, path, None if body is None else json.dumps(body), _headers())
            response = stack.enter_context(connection.getresponse())
        except (OSError, HTTPException, ValueError) as error:
            fail(f"no Hermes answers at {url}: {error}. Start one with: hermes serve", 3)
        if response.status >= 400:
            fail(_refusal(response), 1)
        yield response


def _connection(url: str) -> HTTPConnection:
    parts = urlsplit(url if "://" in url else f"http://{url}")
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    return kind(parts.hostname or "127.0.0.1", parts.port, timeout=_CONNECT_TIMEOUT_S)


def _headers() -> dict[str, str]:
    key = os.environ.get("HERMES_API_KEY")
    return {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})


def _refusal(response: HTTPResponse) -> str:
    try:
        told = _told(json.load(response))
    except ValueError:
        told = response.reason
    hint = ". Set HERMES_API_KEY to a key that the server knows" if response.status == 401 else ""
    return f"{told} (HTTP {response.status}){hint}"


def _told(answer: Any) -> str:
    error = answer.get("error") if isinstance(answer, dict) else None
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)
